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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Step, perform, undo};
    use crate::cpus::CpuSet;
    use std::fs;

    /// A host in files: an interrupt and a sysctl, which no namespace has of its own.
    #[test]
    fn interrupts_and_sysctls_are_changed_and_taken_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let proc = dir.path().join("proc");
        let put = |path: &str, text: &str| {
            let path = proc.join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("made");
            fs::write(path, text).expect("written");
        };
        let interrupts = "           CPU0       CPU1\n 40:        3          4   PCI-MSI 0-edge      eth0-TxRx-0\n";
        put("interrupts", interrupts);
        put("irq/40/smp_affinity_list", "0-1\n");
        put("irq/40/effective_affinity_list", "0\n");
        put("sys/net/core/netdev_budget", "300\n");
        let roots = Roots {
            proc: proc.clone(),
            sys: dir.path().join("sys"),
        };
        let cpus = |list: &str| Value::Cpus(list.parse::<CpuSet>().expect("processors"));
        let irq = Setting::IrqAffinity { irq: 40 };
        let budget = Setting::Sysctl {
            name: "net.core.netdev_budget".into(),
        };
        let steps = [
            Step::new(irq, cpus("0-1"), cpus("1"), "IRQ001"),
            Step::new(budget, Value::Number(300), Value::Number(600), "SFT002"),
        ];
        let mut live = Live { roots };
        assert_eq!(perform(&mut live, &steps), Ok(()));
        let text = |path: &str| fs::read_to_string(proc.join(path)).expect("there");
        assert_eq!(
            (
                text("irq/40/smp_affinity_list"),
                text("sys/net/core/netdev_budget")
            ),
            ("1".into(), "600".into())
        );
        assert!(undo(&mut live, &steps).whole());
        assert_eq!(
            (
                text("irq/40/smp_affinity_list"),
                text("sys/net/core/netdev_budget")
            ),
            ("0-1".into(), "300".into())
        );
        let gone = Setting::IrqAffinity { irq: 41 };
        assert!(live.write(&gone, &cpus("0")).is_err());
        assert!(!proc.join("irq/41").exists());
    }
}
