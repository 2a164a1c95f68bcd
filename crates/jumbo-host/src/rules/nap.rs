//! NAPI: polling, deferral, threads.

mod nap001;
mod nap002;
mod nap003;
mod nap004;
mod nap005;
mod nap006;

family!("nap": nap001 nap002 nap003 nap004 nap005 nap006);

use crate::change::{NapiKnob, Setting};
use crate::snapshot::Device;

fn default_of(device: &Device, knob: NapiKnob) -> Setting {
    Setting::NapiDefault {
        device: device.name.clone(),
        knob,
    }
}

fn of(device: &Device, id: u32, knob: NapiKnob) -> Setting {
    Setting::Napi {
        device: device.name.clone(),
        id,
        knob,
    }
}

fn sysctl(name: &str) -> Setting {
    Setting::Sysctl { name: name.into() }
}
