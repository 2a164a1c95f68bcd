//! `jumbo replay`: the engine over a capture.
//!
//! [`admit`] takes captured packets into the engine, [`coalescing`] and [`segmenting`] are what is done with them,
//! [`books`] keeps account, [`report`] is the result as data, [`page`] as text, [`output`] as packets.

mod admit;
mod books;
mod compare;
mod coalescing;
mod conclusion;
mod output;
mod page;
mod progress;
mod report;
mod sample;
mod segmenting;

use std::io::{self, Cursor};
use std::path::Path;

use jumbo_engine::packet::{Link, Packet, Transport};
use jumbo_ports::capture::{
    CaptureError, CaptureReader, LinkReason, Normalised, Record, ip_or_ethernet,
};

use self::admit::Input;
use self::books::{Books, Came, FLOWS_LISTED, FlowId, Left, ORDINARY_L3_LEN, Own, Why};
use self::coalescing::{BurstRule, Coalescing};
use self::compare::Comparison;
use self::output::Output;
use self::progress::Progress;
use self::report::Report;
use self::segmenting::Segmenting;
use crate::args::{Format, Personalities, ReplayArgs};
use crate::error::{CliError, Outcome};
use crate::output as stdout;

/// Runs a capture through the engine.
pub(crate) fn run(args: ReplayArgs, format: Format) -> Result<Outcome, CliError> {
    if args.segment.is_none() && args.coalesce.0.len() > 1 {
        return compare(&args, format);
    }
    let reader = open(&args).map_err(cli_error)?;
    let to_stdout = args.output.as_deref() == Some(Path::new("-"));
    let output = match &args.output {
        Some(path) => Some(Output::create(path, args.input.as_deref()).map_err(cli_error)?),
        None => None,
    };
    let (books, damage) = match replay(&args, reader, output) {
        Ok(done) => done,
        Err(error) if is_gone(&error) => return Ok(Outcome::Fine),
        Err(error) => return Err(cli_error(error)),
    };
    let report = Report::new(&args, &books, damage.as_ref().map(ToString::to_string));
    if to_stdout {
        stdout::print_aside(format, &report, page::page)?;
    } else {
        stdout::print(format, &report, page::page)?;
    }
    match damage {
        None => Ok(Outcome::Fine),
        Some(error @ CaptureError::Read { .. }) => Err(cli_error(error)),
        Some(error) => {
            stdout::talk(format_args!("{error}; the result is of what was read"));
            Ok(Outcome::Findings)
        }
    }
}

/// The same capture once for each personality.
fn compare(args: &ReplayArgs, format: Format) -> Result<Outcome, CliError> {
    if args.output.is_some() {
        return Err(CliError::usage("a comparison has no one result to write")
            .at("--output")
            .way_out("give --coalesce one personality"));
    }
    if args.input.as_deref() == Some(Path::new("-")) {
        return Err(
            CliError::usage("a comparison reads the capture more than once")
                .at("-")
                .way_out("give a file, or --coalesce one personality"),
        );
    }
    let mut reports = Vec::new();
    let mut outcome = Outcome::Fine;
    for kind in &args.coalesce.0 {
        let args = ReplayArgs {
            coalesce: Personalities(vec![*kind]),
            ..args.clone()
        };
        let reader = open(&args).map_err(cli_error)?;
        let (books, damage) = replay(&args, reader, None).map_err(cli_error)?;
        if damage.is_some() {
            outcome = Outcome::Findings;
        }
        reports.push(Report::new(
            &args,
            &books,
            damage.map(|error| error.to_string()),
        ));
    }
    let comparison = Comparison {
        input: reports
            .first()
            .map_or_else(String::new, |r| r.input.clone()),
        personalities: reports,
    };
    stdout::print(format, &comparison, compare::page)?;
    Ok(outcome)
}

fn open(args: &ReplayArgs) -> Result<CaptureReader, CaptureError> {
    match &args.input {
        Some(path) => CaptureReader::open(path),
        None => CaptureReader::from_read("sample", Cursor::new(sample::capture()), None),
    }
}

/// What is done with each packet.
#[derive(Debug)]
enum Work {
    Coalesce(Box<Coalescing>),
    Segment(Box<Segmenting>),
}

impl Work {
    fn new(args: &ReplayArgs, output: Option<Output>) -> Self {
        let books = Books::new(FLOWS_LISTED);
        match args.segment {
            Some(size) => Self::Segment(Box::new(Segmenting::new(
                size,
                args.checksum,
                (args.tunnels, books),
                output,
            ))),
            None => {
                let rule = BurstRule::new(args.burst, args.gap_us);
                Self::Coalesce(Box::new(Coalescing::new(
                    args.coalesce.rules(),
                    rule,
                    args.checksum,
                    (args.tunnels, books),
                    output,
                )))
            }
        }
    }

    fn feed(&mut self, record: &Record<'_>) -> Result<(), CaptureError> {
        match self {
            Self::Coalesce(coalescing) => coalescing.feed(record),
            Self::Segment(segmenting) => segmenting.feed(record),
        }
    }

    fn finish(self) -> Result<(Books, Option<Output>), CaptureError> {
        match self {
            Self::Coalesce(coalescing) => coalescing.finish(),
            Self::Segment(segmenting) => Ok(segmenting.finish()),
        }
    }
}

/// Reads to the end or to where the capture is damaged, which is returned beside the books.
fn replay(
    args: &ReplayArgs,
    mut reader: CaptureReader,
    output: Option<Output>,
) -> Result<(Books, Option<CaptureError>), CaptureError> {
    let mut work = Work::new(args, output);
    let mut progress = Progress::new(&reader);
    let mut damage = None;
    let mut packets = 0;
    while let Some(record) = reader.next_record() {
        match record {
            Ok(record) => work.feed(&record)?,
            Err(error) => damage = Some(error),
        }
        packets += 1;
        progress.at(packets, &reader);
    }
    drop(progress);
    let (books, output) = work.finish()?;
    if let Some(output) = output {
        output.finish()?;
    }
    Ok((books, damage))
}

/// The packet of a record in the form the engine takes; `at` is the caller's to fill in.
fn input_of<'a>(record: &Record<'a>) -> Result<Input<'a>, Own> {
    let (link, bytes) = match ip_or_ethernet(record) {
        Normalised::Ethernet(bytes) => (Link::Ethernet, bytes),
        Normalised::Ip(bytes) => (Link::RawIp, bytes),
        Normalised::Unusable(reason) => return Err(own_reason(reason)),
    };
    Ok(Input {
        link,
        bytes,
        at: 0,
        missing_len: record.orig_len - record.data.len() as u32,
    })
}

fn own_reason(reason: LinkReason) -> Own {
    match reason {
        LinkReason::TruncatedLinkHeader { .. } => Own::LinkHeaderCut,
        LinkReason::CookedVlan => Own::CookedVlan,
        LinkReason::NotIp(_) => Own::CookedNotIp,
        _ => Own::UnsupportedLink,
    }
}

/// A packet that the engine cannot look at leaves as it came.
fn pass(
    books: &mut Books,
    output: Option<&mut Output>,
    record: &Record<'_>,
    why: Why,
) -> Result<(), CaptureError> {
    let came = Came {
        payload_bytes: 0,
        tcp_data: false,
    };
    let left = Left {
        left: 1,
        came: 1,
        payload_bytes: 0,
        tcp_data: false,
    };
    books.came(FlowId::NONE, came);
    books.left(FlowId::NONE, why, left);
    match output {
        Some(output) => output.pass(record),
        None => Ok(()),
    }
}

/// What the books say of a packet.
fn came(packet: &Packet) -> Came {
    let payload = u64::from(packet.payload_len());
    let transport = packet.layers().transport;
    Came {
        payload_bytes: match transport {
            Transport::None => 0,
            Transport::Tcp | Transport::Udp => payload,
        },
        tcp_data: transport == Transport::Tcp && payload > 0,
    }
}

/// Larger than an ordinary link carries: segmentation was left to the card, or the card had coalesced.
fn is_large(packet: &Packet) -> bool {
    packet.layers().l3_len > 0 && packet.l3_total_len() > ORDINARY_L3_LEN
}

/// The reader of our standard output left: nobody's mistake.
fn is_gone(error: &CaptureError) -> bool {
    matches!(error, CaptureError::Write { path, source }
        if path == "-" && source.kind() == io::ErrorKind::BrokenPipe)
}

/// What the machine refuses is 3, what was typed or named is 2.
fn cli_error(error: CaptureError) -> CliError {
    let text = error.to_string();
    match error {
        CaptureError::Permission { .. }
        | CaptureError::Read { .. }
        | CaptureError::Write { .. } => CliError::machine(text),
        _ => CliError::usage(text),
    }
}

#[cfg(test)]
mod tests;
