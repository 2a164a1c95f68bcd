//! Coalescing in two stages: the kernel's GRO on the interface, then the switch's.

use jumbo_lab::ethtool::Offload;
use jumbo_lab::traffic::{BulkAmount, BulkSpec, bulk};
use jumbo_switch::switch::State;

use crate::rig::{Net, Outcome, USUAL, rest};

/// Largest super-packet that the first stage makes here, bytes: five segments.
const FIRST_STAGE_BYTES: u32 = 8000;

/// Segments per packet with data, as received from the first host and as sent to the second.
fn merged(gro: bool, flows: usize) -> Result<(f64, f64), jumbo_lab::TestError> {
    let net = Net::pair(USUAL)?;
    net.links()?.set_gro_max_size("w1", FIRST_STAGE_BYTES)?;
    net.links()?.set_offload("w1", Offload::Gro, gro)?;
    // The sender cuts its packets itself, so that there is something to merge.
    let sender = net.hosts[0].links()?;
    sender.set_offload("t0", Offload::Tso, false)?;
    sender.set_offload("t0", Offload::Gso, false)?;
    let spec = BulkSpec {
        amount: BulkAmount::BytesPerFlow(40_000_000 / flows as u64),
        flows,
        ..BulkSpec::default()
    };
    let report = bulk(&net.hosts[0], &net.hosts[1], &spec)?;
    assert_eq!(report.intact, Some(true));
    Ok(per_packet(&rest(&net.switch, &["ring_full"])))
}

fn per_packet(state: &State) -> (f64, f64) {
    let rx = state.ports[0].counters.rx.traffic;
    let tx = state.ports[1].counters.tx;
    let each = |segments: u64, packets: u64| segments as f64 / packets.max(1) as f64;
    (
        each(rx.data_segments, rx.data_packets),
        each(tx.data_segments, tx.data_packets),
    )
}

pub(crate) fn the_kernels_super_packets_are_merged_further() -> Outcome {
    let most = f64::from(FIRST_STAGE_BYTES) / 1448.0;
    for flows in [1, 16] {
        let (rx, tx) = merged(true, flows)?;
        println!(
            "{flows} flows: {rx:.1} segments a packet after the kernel, {tx:.1} after the switch"
        );
        assert!(rx > 1.5, "the first stage merges: {rx}");
        assert!(rx <= most, "no more than it may: {rx}");
        assert!(tx > 1.5 * rx, "the second merges what it made: {rx} {tx}");
        let (rx, tx) = merged(false, flows)?;
        println!("{flows} flows: {rx:.1} and {tx:.1} with the kernel's GRO off");
        assert!(rx < 1.01 && tx > 1.5, "one stage alone: {rx} {tx}");
    }
    Ok(())
}
