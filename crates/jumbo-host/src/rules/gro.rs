//! Generic receive offload: coalescing that can be undone exactly.

mod gro001;
mod gro002;
mod gro003;
mod gro005;

family!("gro": gro001 gro002 gro003 gro005);
