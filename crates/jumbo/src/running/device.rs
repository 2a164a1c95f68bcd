//! What the kernel drops at a port's device, which the switch never sees.
//!
//! A TAP's queue that is full drops what the host sends (Linux `drivers/net/tun.c` `tun_net_xmit`: the device's TX
//! drops); what we write may be dropped too (`tun_get_user`: RX drops).

use std::collections::HashMap;

use jumbo_ports::queue::PortInfo;

use crate::switch_api::DeviceDropped;

/// Every device of this thread's network namespace (proc_pid_net(5)).
const SOURCE: &str = "/proc/thread-self/net/dev";

/// Columns behind the device's name: `drop` of Receive and of Transmit (Linux `net/core/net-procfs.c`
/// `dev_seq_printf_stats`).
const RX_DROP: usize = 3;
const TX_DROP: usize = 11;

/// The kernel's counters at one moment.
#[derive(Debug, Default)]
pub(super) struct Drops(HashMap<String, Counters>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Counters {
    rx: u64,
    tx: u64,
}

/// Reads them. What cannot be read is not shown.
pub(super) fn drops() -> Drops {
    parse(&std::fs::read_to_string(SOURCE).unwrap_or_default())
}

/// Two lines of headings, then a line for each device.
fn parse(text: &str) -> Drops {
    let line = |line: &str| {
        let (name, numbers) = line.split_once(':')?;
        let numbers: Vec<_> = numbers.split_ascii_whitespace().collect();
        let number = |column: usize| numbers.get(column)?.parse().ok();
        let counters = Counters {
            rx: number(RX_DROP)?,
            tx: number(TX_DROP)?,
        };
        Some((name.trim().to_owned(), counters))
    };
    Drops(text.lines().skip(2).filter_map(line).collect())
}

impl Drops {
    /// Those of a TAP port. None where its device is in another namespace, or gone. The kernel's TX is our rx.
    pub(super) fn of(&self, port: &PortInfo) -> Option<DeviceDropped> {
        let counters = self.0.get(&port.device).filter(|_| port.kind == "tap")?;
        Some(DeviceDropped {
            rx: counters.tx,
            tx: counters.rx,
            source: format!(
                "/proc/net/dev, {}: rx is its transmit drop, tx its receive drop",
                port.device
            ),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_of_the_kernel_are_found() {
        let text = "\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:     1       2    0    0    0     0          0         0        1       2    0    0    0     0       0          0
   vm1:  5000      50    0    7    0     0          0         0     9000      90    0   11    0     0       0          0
  odd: 1 2
";
        let Drops(drops) = parse(text);
        assert_eq!(drops.len(), 2);
        assert_eq!(drops["vm1"], Counters { rx: 7, tx: 11 });
        assert!(parse("").0.is_empty());
    }

    #[test]
    fn this_kernel_has_a_loopback_device() {
        assert!(drops().0.contains_key("lo"));
    }
}
