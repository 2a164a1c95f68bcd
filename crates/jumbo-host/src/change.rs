//! Settings of a host that can be changed and changed back.
//!
//! A [`Setting`] is a typed name for one thing the kernel lets an operator set; a [`Value`] is what it can be. A setting
//! can be read from a snapshot ([`Setting::read`]), tried on one ([`Setting::simulate`]), written as the command an
//! operator would type ([`Setting::command`]), and, by a [`Machine`], read from and written to the kernel. Nothing else
//! in this crate changes anything.

mod here;
mod machine;
mod operator;
mod perform;
mod setting;
mod simulate;
mod undo;
mod value;
mod write;

pub use here::Here;
pub use machine::{Live, Machine};
pub(crate) use operator::address;
pub use operator::operators_devices;
pub use perform::{Failure, State, Undone, perform, states, undo};
pub(crate) use setting::file_text;
pub use setting::{Moderation, NapiKnob, Setting, Side, Unfit};
pub use undo::{Lock, Record, Stage, Store, StoreError, Summary};
pub use value::Value;

use serde::{Deserialize, Serialize};

/// A setting a rule would have otherwise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub setting: Setting,
    /// What it should be.
    pub value: Value,
    /// It costs something else (a firewall's view, say): only when the operator names the rule.
    pub only_if_asked: bool,
}

/// One change of a plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Which setting.
    pub setting: Setting,
    /// What it is.
    pub old: Value,
    /// What it is to be.
    pub new: Value,
    /// Rules that ask for it.
    pub rules: Vec<String>,
    /// It may take the link down for a moment or make queues anew.
    pub resets: bool,
    /// What an operator would type.
    pub command: String,
    /// What an operator would type to go back.
    pub undo_command: String,
}

impl Step {
    /// Whether it may take the link down or make queues anew; not what a file says of it.
    pub fn may_reset(&self) -> bool {
        self.setting.resets() && !self.new.works_like(&self.old)
    }

    /// A change of one setting, asked for by a rule.
    pub fn new(setting: Setting, old: Value, new: Value, rule: &str) -> Self {
        Self {
            // What was held off anyway goes away without anybody's notice.
            resets: setting.resets() && !new.works_like(&old),
            command: setting.command(&new),
            undo_command: setting.command(&old),
            rules: vec![rule.to_owned()],
            setting,
            old,
            new,
        }
    }
}
