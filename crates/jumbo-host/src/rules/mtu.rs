//! Sizes along the path.

mod mtu001;
mod mtu003;

family!("mtu": mtu001 mtu003);
