//! The slot.

mod pci001;

family!("pci": pci001);
