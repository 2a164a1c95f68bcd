//! TCP in hardware.

mod toe001;

family!("toe": toe001);
