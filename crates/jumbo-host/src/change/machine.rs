//! The one thing that reads and writes settings of a running kernel.

use std::io;

use super::{Setting, Value, write};
use crate::collect::{self, Roots};

/// What settings are read from and written to: the kernel, or a test's idea of it.
pub trait Machine {
    /// The value now; the error says in one clause why there is none.
    fn read(&mut self, setting: &Setting) -> io::Result<Value>;
    /// Writes a value. Whether it took is for [`Machine::read`] to say.
    fn write(&mut self, setting: &Setting, value: &Value) -> io::Result<()>;
}

/// The running kernel, in the calling thread's network namespace.
#[derive(Debug, Clone, Default)]
pub struct Live {
    /// Where procfs and sysfs are.
    pub roots: Roots,
}

impl Machine for Live {
    fn read(&mut self, setting: &Setting) -> io::Result<Value> {
        let host = collect::look(&self.roots, setting)?;
        setting
            .read(&host)
            .map_err(|unknown| io::Error::other(unknown.0))
    }

    fn write(&mut self, setting: &Setting, value: &Value) -> io::Result<()> {
        // What cannot be read is not written either: a sysfs of another namespace has other devices of the same name.
        self.read(setting)?;
        let index = setting.device().map(collect::index_of).transpose()?;
        write::write(&self.roots, setting, index, value)
    }
}
