//! Inside a virtual machine: what its host gave it.

mod gst001;
mod gst002;

family!("gst": gst001 gst002);
