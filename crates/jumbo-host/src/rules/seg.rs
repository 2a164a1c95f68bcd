//! Segmentation offload, and what it falls with.

mod seg001;
mod seg002;
mod seg003;
mod seg004;
mod seg005;
mod seg007;

family!("seg": seg001 seg002 seg003 seg004 seg005 seg007);
