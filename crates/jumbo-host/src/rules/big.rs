//! BIG TCP: super-packets beyond 64 KB.

mod big001;
mod big002;

family!("big": big001 big002);

use crate::change::Setting;
use crate::snapshot::Device;

fn size_of(device: &Device) -> Setting {
    Setting::GroMaxSize {
        device: device.name.clone(),
    }
}
