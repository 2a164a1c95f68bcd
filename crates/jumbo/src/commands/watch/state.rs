//! What two readings make: the view that is printed or drawn, and what is remembered of earlier ones.

use std::collections::VecDeque;

use jumbo_host::rates::Rates;
use jumbo_host::sample::Event;
use serde::Serialize;

use super::feed::{Counts, Frame, Port};

/// Events that stay on the screen.
const EVENTS_MAX: usize = 200;
/// Ratios that make the line of the last minutes.
const HISTORY_MAX: usize = 240;

/// What is shown; a line of `--batch`.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct View {
    #[serde(flatten)]
    pub(super) rates: Rates,
    /// Ports of the running switch; none when none is running.
    pub(super) ports: Vec<PortRates>,
}

/// A port; rx is into the switch.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub(super) struct PortRates {
    pub(super) name: String,
    pub(super) device: String,
    pub(super) rx_pps: f64,
    pub(super) rx_bps: f64,
    pub(super) tx_pps: f64,
    pub(super) tx_bps: f64,
    /// Share of the sent packets that are super-packets, 0 to 1.
    pub(super) tx_super: f64,
    pub(super) drops_per_s: f64,
}

/// The last reading and what came before it.
pub(super) struct State {
    devices: Vec<String>,
    last: Option<Frame>,
    pub(super) view: Option<View>,
    /// Events with the time they were seen at, in milliseconds, the oldest first.
    pub(super) events: VecDeque<(u64, Event)>,
    /// Coalescing of the namespace, in hundredths.
    pub(super) history: VecDeque<u64>,
}

impl State {
    pub(super) fn new(devices: Vec<String>) -> Self {
        Self {
            devices,
            last: None,
            view: None,
            events: VecDeque::new(),
            history: VecDeque::new(),
        }
    }

    /// Takes a reading; None until there are two.
    pub(super) fn take(&mut self, frame: Frame) -> Option<&View> {
        let now = frame.sample.at_ms;
        for event in &frame.sample.events {
            push(&mut self.events, (now, event.clone()), EVENTS_MAX);
        }
        let before = self.last.replace(frame);
        let (before, after) = (before?, self.last.as_ref()?);
        let mut rates = Rates::between(&before.sample, &after.sample)?;
        self.keep_asked(&mut rates);
        let ratio = rates.segments_per_packet.unwrap_or(0.0);
        push(&mut self.history, (ratio * 100.0) as u64, HISTORY_MAX);
        let ports = port_rates(&before, after, rates.interval_s);
        self.view = Some(View { rates, ports });
        self.view.as_ref()
    }

    fn keep_asked(&self, rates: &mut Rates) {
        if self.devices.is_empty() {
            return;
        }
        let asked = |name: &String| self.devices.contains(name);
        rates.devices.retain(|device| asked(&device.name));
        rates.queues.retain(|queue| asked(&queue.device));
    }
}

fn push<T>(list: &mut VecDeque<T>, one: T, most: usize) {
    if list.len() >= most {
        list.pop_front();
    }
    list.push_back(one);
}

fn port_rates(before: &Frame, now: &Frame, seconds: f64) -> Vec<PortRates> {
    let (Some(old), Some(new)) = (&before.ports, &now.ports) else {
        return Vec::new();
    };
    let same = |port: &Port| old.iter().find(|one| one.name == port.name).cloned();
    new.iter()
        .filter_map(|port| Some(one_port(&same(port)?, port, seconds)))
        .collect()
}

fn one_port(old: &Port, new: &Port, seconds: f64) -> PortRates {
    // A counter that went back began anew: the switch was started again.
    let grown = |of: fn(&Port) -> u64| of(new).checked_sub(of(old)).unwrap_or(of(new)) as f64;
    let rate = |of: fn(&Port) -> u64| grown(of) / seconds;
    let sent = grown(|port| port.tx.packets);
    PortRates {
        name: new.name.clone(),
        device: new.device.clone(),
        rx_pps: rate(|port| port.rx.packets),
        rx_bps: rate(|port| port.rx.bytes) * 8.0,
        tx_pps: rate(|port| port.tx.packets),
        tx_bps: rate(|port| port.tx.bytes) * 8.0,
        tx_super: if sent > 0.0 {
            grown(|port| port.tx.super_packets) / sent
        } else {
            0.0
        },
        drops_per_s: rate(|port| port.dropped),
    }
}

/// So that a record without ports reads the same.
impl Counts {
    #[cfg(test)]
    fn packets(packets: u64) -> Self {
        Self {
            packets,
            bytes: packets * 1000,
            super_packets: packets / 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jumbo_host::sample::{Link, Sample};

    fn frame(at_ms: u64, packets: u64) -> Frame {
        let mut link = Link {
            index: 1,
            name: "a".into(),
            ..Link::default()
        };
        link.stats.rx_packets = packets;
        Frame {
            sample: Sample {
                at_ms,
                links: vec![link],
                events: vec![Event {
                    device: "a".into(),
                    what: "carrier went".into(),
                }],
                ..Sample::default()
            },
            ports: Some(vec![Port {
                name: "p".into(),
                device: "t".into(),
                rx: Counts::packets(packets),
                tx: Counts::packets(packets),
                dropped: 0,
            }]),
        }
    }

    #[test]
    fn two_readings_make_a_view() {
        let mut state = State::new(Vec::new());
        assert!(state.take(frame(1000, 0)).is_none());
        let view = state.take(frame(2000, 100)).expect("two");
        assert_eq!(view.rates.devices[0].rx_pps, 100.0);
        let port = &view.ports[0];
        assert_eq!(
            (port.rx_pps, port.tx_bps, port.tx_super),
            (100.0, 800_000.0, 0.5)
        );
        assert_eq!(state.events.len(), 2);
    }

    #[test]
    fn only_the_devices_that_were_asked_for_are_shown_and_memory_is_bounded() {
        let mut state = State::new(vec!["b".into()]);
        for turn in 0..1000 {
            state.take(frame(turn * 1000, turn));
        }
        assert!(state.view.as_ref().expect("many").rates.devices.is_empty());
        assert_eq!(
            (state.events.len(), state.history.len()),
            (EVENTS_MAX, HISTORY_MAX)
        );
    }

    #[test]
    fn a_switch_that_began_anew_has_no_wild_rates() {
        let mut state = State::new(Vec::new());
        state.take(frame(1000, 500));
        let view = state.take(frame(2000, 10)).expect("two");
        assert_eq!(view.ports[0].rx_pps, 10.0);
    }
}
