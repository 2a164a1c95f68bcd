//! `jumbo path A B`: what the switch explains about two ports as they are now, in the operator's words.

use jumbo_switch::explain::{Row, Side, Source, explain};
use jumbo_switch::switch::PortState;
use jumbo_switch::topology::{Policy, TunnelMode};

use super::{capability, state};
use crate::switch_api::{PathEnd, PathReport, PathRow};

/// What happens to packets from one port, given with its name, to the other.
pub(super) fn report(
    from: (&str, &PortState),
    to: (&str, &PortState),
    tunnels: TunnelMode,
) -> PathReport {
    let source = Source {
        hands: from.1.info.hands,
        mtu: from.1.info.mtu,
    };
    // What is left after refusals, not what was negotiated.
    let policy = Policy {
        coalesce: to.1.coalesce,
        takes: to.1.takes,
        mtu: to.1.info.mtu,
    };
    let rows = explain(source, &policy, tunnels);
    PathReport {
        from: end(from),
        to: end(to),
        rows: rows.iter().map(|row| path_row(row, from, to)).collect(),
    }
}

fn end((name, port): (&str, &PortState)) -> PathEnd {
    let (state, why) = state(port);
    PathEnd {
        port: name.to_owned(),
        kind: port.info.kind.to_owned(),
        state,
        why,
        mtu: port.info.mtu as u64,
    }
}

fn path_row(row: &Row, from: (&str, &PortState), to: (&str, &PortState)) -> PathRow {
    let because = row.missing().and_then(|(side, name)| match side {
        Side::From => why_not(from.1, &name),
        Side::To => why_not(to.1, &name),
    });
    PathRow {
        packets: row.kind.name().to_owned(),
        decision: row.decision.name().to_owned(),
        segments: row.segments.name().to_owned(),
        checksums: row.checksums.name().to_owned(),
        coalesces: row.coalesces.name().to_owned(),
        reason: row.reason(from.0, to.0, because.as_deref()),
    }
}

/// Why the port does not use a capability, as `jumbo status` has it.
fn why_not(port: &PortState, name: &str) -> Option<String> {
    let capabilities = port.info.capabilities.iter();
    let mut named = capabilities.filter(|capability| capability.name == name);
    named.find_map(|found| capability(found, port).why)
}
