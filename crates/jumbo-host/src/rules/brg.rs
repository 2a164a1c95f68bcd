//! Bridges.

mod brg001;

family!("brg": brg001);
