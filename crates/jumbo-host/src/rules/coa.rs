//! Interrupt moderation: how long a card waits before it interrupts.

mod coa001;
mod coa002;
mod coa003;
mod coa004;

family!("coa": coa001 coa002 coa003 coa004);

use crate::change::{Moderation, Setting};
use crate::snapshot::Device;

pub(super) fn knob(device: &Device, knob: Moderation) -> Setting {
    Setting::Coalesce {
        device: device.name.clone(),
        knob,
    }
}
