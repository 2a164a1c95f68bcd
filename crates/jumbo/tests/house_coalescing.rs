//! The page that compares the personalities is generated from the engine's tables, and fresh.

use std::fmt::Write as _;
use std::path::Path;

use jumbo_engine::coalesce::{
    CwrRule, End, Field, GRO, IpIdRule, LRO, MarksRefused, Moving, Push, RSC, RSC_QEMU, Rules,
    Sizes, TcpOptions, Ttl,
};
use jumbo_engine::reason::Reason;

const TABLES: [&Rules; 4] = [&GRO, &LRO, &RSC, &RSC_QEMU];

/// One line: a question, and each table's answer.
fn line(page: &mut String, question: &str, answer: impl Fn(&Rules) -> String) {
    let _ = write!(page, "| {question} |");
    for rules in TABLES {
        let _ = write!(page, " {} |", answer(rules));
    }
    page.push('\n');
}

fn table(page: &mut String, title: &str, about: &str) {
    let _ = write!(page, "\n## {title}\n\n{about}\n\n|  |");
    for rules in TABLES {
        let _ = write!(page, " `{}` |", rules.name);
    }
    page.push_str("\n|---|---|---|---|---|\n");
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// What a difference in a field does: another flow, an end and its name, or nothing.
fn difference(rules: &Rules, field: Field) -> String {
    if rules.key.contains(&field) {
        return "another flow".to_owned();
    }
    if field == Field::Cwr && rules.flags_refused & 0x80 != 0 {
        return "stays alone".to_owned();
    }
    if field == Field::Options && rules.moving == Moving::LastWins {
        return "merged; timestamps must not go back (`timestamp_old`)".to_owned();
    }
    match rules.equal.iter().find(|(known, _)| *known == field) {
        Some((_, end)) => format!("ends (`{}`)", end.name()),
        None => "merged".to_owned(),
    }
}

fn flags(bits: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set = (0..8)
        .filter(|bit| bits & 1 << bit != 0)
        .map(|bit| names[bit]);
    let set: Vec<_> = set.collect();
    match set.is_empty() {
        true => "none".to_owned(),
        false => set.join(", "),
    }
}

fn merged(page: &mut String) {
    table(
        page,
        "What is compared",
        "What a packet does whose field differs from what is held. *Merged*: the difference is not looked at.",
    );
    let fields = [
        ("MAC addresses, EtherType (and VLAN tags)", Field::Link),
        ("addresses, protocol, extension headers", Field::NetworkKey),
        ("IPv6 flow label", Field::FlowLabel),
        ("ports", Field::Ports),
        ("DSCP", Field::Dscp),
        ("ECN field", Field::Ecn),
        ("TTL, hop limit", Field::Ttl),
        ("IPv4 flags (DF)", Field::IpFlags),
        ("TCP header length", Field::DataOffset),
        ("ECE and reserved bits", Field::Flags),
        ("CWR", Field::Cwr),
        ("acknowledgement", Field::Ack),
        ("window", Field::Window),
        ("option bytes", Field::Options),
        ("urgent pointer", Field::UrgentPointer),
    ];
    for (name, field) in fields {
        line(page, name, |rules| difference(rules, field));
    }
    line(page, "IPv4 ID", |rules| {
        match rules.ip_id {
            IpIdRule::FixedOrIncrementing => "counts up or stays, else ends (`ip_id_irregular`)",
            IpIdRule::Free => "merged",
        }
        .to_owned()
    });
    line(page, "payload size", |rules| {
        match rules.sizes {
            Sizes::Equal => "equal; larger ends (`larger_segment`)",
            Sizes::Free => "merged",
        }
        .to_owned()
    });
}

fn kept_alone(page: &mut String) {
    table(
        page,
        "What stays alone",
        "Such a packet ends what is held of its flow, goes behind it, and begins nothing. \
         In every table: IPv4 options, fragments, wrong checksums, SYN, RST, URG.",
    );
    line(page, "TCP flags", |rules| flags(rules.flags_refused));
    line(page, "TCP flags that must be set", |rules| {
        flags(rules.flags_required)
    });
    line(page, "TCP options", |rules| {
        match rules.options {
            TcpOptions::Any => "none",
            TcpOptions::Timestamps => "all but NOP, NOP, timestamps",
            TcpOptions::None => "all",
        }
        .to_owned()
    });
    line(page, "IPv6 extension headers", |rules| {
        yes(!rules.ipv6_extensions)
    });
    line(page, "congestion marks", |rules| {
        match rules.marks_refused {
            MarksRefused::None => "none",
            MarksRefused::Ce => "CE",
            MarksRefused::All => "ECT and CE",
        }
        .to_owned()
    });
    line(page, "DF clear", |rules| yes(rules.df_required));
    line(page, "what did not fit", |rules| yes(!rules.restarts));
}

fn ended(page: &mut String) {
    table(
        page,
        "What ends an aggregate after joining it",
        "Beside the end of the burst and the largest length.",
    );
    line(page, "PSH", |rules| yes(rules.ends_after.push));
    line(page, "FIN", |rules| yes(rules.ends_after.fin));
    line(page, "a shorter segment", |rules| {
        yes(rules.ends_after.shorter)
    });
    line(page, "largest IP packet, bytes", |rules| {
        rules.l3_total_max.to_string()
    });
}

fn destroyed(page: &mut String) {
    table(
        page,
        "What leaves, and what is lost",
        "The aggregate has the first packet's header with these exceptions.",
    );
    line(page, "can be taken apart into what came", |rules| {
        yes(rules.lossless)
    });
    line(page, "acknowledgement, window, timestamps", |rules| {
        match rules.moving {
            Moving::Nothing => "the same in all",
            Moving::LastWins => "the last ones; the history is lost",
        }
        .to_owned()
    });
    line(page, "PSH", |rules| {
        match rules.push {
            Push::Or => "set if any had it",
            Push::First => "the first one's",
            Push::Last => "the last one's, with all flags",
        }
        .to_owned()
    });
    line(page, "TTL", |rules| {
        match (rules.ttl, rules.lossless) {
            (_, true) => "the same in all",
            (Ttl::First, _) => "the first one's",
            (Ttl::Minimum, _) => "the least",
        }
        .to_owned()
    });
    line(page, "CWR", |rules| {
        match rules.cwr {
            CwrRule::Equal if rules.lossless => "on all segments or on none",
            CwrRule::Equal if rules.flags_refused & 0x80 != 0 => "never merged",
            CwrRule::Equal if rules.equal.iter().any(|(f, _)| *f == Field::Cwr) => {
                "the same in all"
            }
            CwrRule::Equal => "the last one's",
            CwrRule::FirstOnly => "on the first segment",
            CwrRule::Never => "never merged",
        }
        .to_owned()
    });
    line(page, "segment size it says", |rules| {
        match rules.sizes {
            Sizes::Equal => "that of all but the last",
            Sizes::Free => "the largest; boundaries are lost",
        }
        .to_owned()
    });
    line(page, "count of segments (`RSC_INFO`)", |rules| {
        yes(!rules.lossless)
    });
    line(page, "super-packets of the host's own stack", |rules| {
        if rules.two_stage {
            "merged further"
        } else {
            "alone"
        }
        .to_owned()
    });
}

fn udp(page: &mut String) {
    table(
        page,
        "UDP",
        "Towards ports that take UDP super-packets; sizes are equal, a shorter datagram ends.",
    );
    line(page, "merged", |rules| yes(rules.udp.is_some()));
    line(page, "compared", |rules| match &rules.udp {
        None => "-".to_owned(),
        Some(udp) => {
            let ends = udp
                .equal
                .iter()
                .map(|(_, end): &(Field, End)| format!("`{}`", end.name()));
            ends.collect::<Vec<_>>().join(", ")
        }
    });
    line(page, "without checksum", |rules| {
        rules
            .udp
            .map_or("-".to_owned(), |udp| yes(udp.without_checksum))
    });
    line(page, "datagrams at most", |rules| {
        rules
            .udp
            .map_or("-".to_owned(), |udp| udp.datagrams_max.to_string())
    });
}

/// What no table says.
const SAFE: &str = "
## When each is safe, and what it costs

| | safe on a port whose peer | latency | CPU |
|---|---|---|---|
| `gro` | does anything: it may forward, bridge or route | none added: what is held leaves when nothing more is ready, or when the port's `hold` time is over | one masked comparison of the header per packet; the checksum is read only where nobody vouched for it |
| `lro` | ends its TCP connections; configured with `peer = \"terminates\"` | the same; a sender sees fewer ACKs, and grows its window more slowly | fewer, longer aggregates where acknowledgements or windows move; a head that is rewritten with each packet |
| `rsc` | ends its TCP connections, such as a Windows host; `peer = \"terminates\"` | none added, and `hold` is refused; duplicate and advancing ACKs are passed on one by one | as `lro` |
| `rsc-qemu` | is being examined, and nothing else | the same; QEMU itself adds up to 300 us, which is not reproduced | as `lro` |

A pure ACK ends what is held under `gro` and goes behind it. Under `lro` one that advances, or that has a larger window,
is folded in; under `rsc` a window update is, and nothing else; under `rsc-qemu` every one that follows data is.

`lro` and `rsc` must not be used towards a peer that forwards: it would have to cut the aggregate again and could not
know where, with which acknowledgements, windows, IDs and TTLs. Such a port is refused when it is configured. Should a
port refuse a lossy aggregate at run time, it is cut at its largest segment and counted (`lossy_segmented`).
";

fn page() -> String {
    let mut page = String::from(
        "# Coalescing: the personalities compared\n\n\
         `coalesce` is a setting of the port that packets leave by ([run.md](run.md)). Each personality is one table of the\n\
         engine's rule set; this page is generated from the tables:\n\
         `UPDATE_DOCS=1 cargo test -p jumbo --test house_coalescing`.\n\n\
         | | model | lossless |\n|---|---|---|\n",
    );
    for rules in TABLES {
        let (name, model) = (rules.name, rules.model);
        let _ = writeln!(page, "| `{name}` | {model} | {} |", yes(rules.lossless));
    }
    page.push_str(SAFE);
    merged(&mut page);
    kept_alone(&mut page);
    ended(&mut page);
    destroyed(&mut page);
    udp(&mut page);
    page
}

#[test]
fn the_page_is_fresh() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/coalescing.md");
    let page = page();
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/ can be written");
    }
    let there = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        there == page,
        "docs/coalescing.md is stale: UPDATE_DOCS=1 cargo test -p jumbo --test house_coalescing"
    );
}
