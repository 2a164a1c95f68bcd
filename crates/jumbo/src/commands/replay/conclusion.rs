//! One plain sentence: what most limits coalescing in this capture, and the way to learn more.

use jumbo_engine::coalesce::{Alone, End};

use super::books::{Books, Own, Tally, Why};

/// What the operator should take home.
pub(crate) fn conclusion(segment: Option<u16>, books: &Books) -> String {
    match segment {
        Some(size) => segmenting(size, books),
        None => coalescing(books),
    }
}

fn segmenting(size: u16, books: &Books) -> String {
    if books.super_packets == 0 {
        return format!(
            "Nothing to segment: no packet carries more than {size} bytes of payload that may be cut; \
             the table says why each was left as it is."
        );
    }
    format!(
        "{} of {} packets were super-packets and became {} packets of up to {size} bytes of payload; \
         `-o OUT.pcapng` writes them.",
        books.super_packets,
        books.packets_in,
        books.packets_out - (books.packets_in - books.super_packets),
    )
}

fn coalescing(books: &Books) -> String {
    let data = books.tcp_data;
    if books.packets_in == 0 {
        return "The capture holds no packets.".into();
    }
    if data.packets_in == 0 {
        return "Nothing to coalesce: no packet carries TCP payload; the table says what they are."
            .into();
    }
    let Some((why, count)) = limit(books) else {
        return "Nothing left with TCP payload.".into();
    };
    format!(
        "{count} of {} packets out with TCP payload ({:.0} %) left for `{}`: {}.",
        data.packets_out,
        100.0 * count as f64 / data.packets_out.max(1) as f64,
        why.name(),
        advice(why),
    )
}

/// The reason most packets with TCP payload left by, merged or not.
fn limit(books: &Books) -> Option<(Why, u64)> {
    let mut sums: Vec<(Why, u64)> = Vec::new();
    let seen = books.merged.seen().into_iter().chain(books.single.seen());
    for (why, Tally { left_tcp_data, .. }) in seen {
        match sums.iter_mut().find(|(known, _)| *known == why) {
            Some((_, sum)) => *sum += left_tcp_data,
            None => sums.push((why, left_tcp_data)),
        }
    }
    // The first of equals.
    let top = sums.into_iter().rev().max_by_key(|(_, sum)| *sum)?;
    (top.1 > 0).then_some(top)
}

/// What it means, and what to do next.
fn advice(why: Why) -> &'static str {
    match why {
        Why::End(End::BurstEnd) => {
            "nothing more came in time; `--burst all` shows what the rules alone would merge"
        }
        Why::End(End::SizeLimit) => {
            "super-packets are as large as IP allows, nothing else limits coalescing"
        }
        Why::End(End::Push) | Why::Alone(Alone::LastOfItsTrain) => {
            "the sender's writes end there (PSH), larger writes make larger super-packets; `--json` has the flows"
        }
        Why::End(End::WindowChanged | End::AckChanged) => {
            "both directions are busy, so window or acknowledgement change under way; `--json` has the flows"
        }
        Why::End(End::OptionsChanged | End::OptionsLengthChanged) => {
            "TCP options differ from packet to packet, most often timestamps at a low rate or SACK blocks; \
             `--json` has the flows"
        }
        Why::End(End::SequenceGap | End::SequenceOld) => {
            "packets are missing, repeated or out of order; `-o OUT.pcapng` marks the places"
        }
        Why::Alone(Alone::TcpChecksum) | Why::End(End::BadChecksum) => {
            "TCP checksums are wrong; on a sending host they are left to the card, \
             which `--checksum auto` recognises and `--checksum trust` ignores"
        }
        Why::Alone(Alone::IpChecksum) => {
            "IPv4 header checksums are wrong, as on a sending host that leaves them to the card; \
             capture on the receiving side"
        }
        Why::Own(Own::PayloadCut | Own::HeadersCut) => {
            "the capture has only the beginning of its packets; capture with `tcpdump -s 0`, \
             or believe the checksums with `--checksum trust`"
        }
        Why::End(End::TableFull) => {
            "more flows were held than there is room for; try a smaller `--burst`"
        }
        Why::End(End::IpIdIrregular) => {
            "the IPv4 ID neither counts up nor stays, so segmentation could not recreate it; `--json` has the flows"
        }
        _ => "the table says what that means, `--json` which flows it concerns",
    }
}
