//! Descriptor rings.

mod rng001;

family!("rng": rng001);
