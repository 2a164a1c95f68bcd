//! NUMA: machines and the cards they talk through.

mod num001;

family!("num": num001);
