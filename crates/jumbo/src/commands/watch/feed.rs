//! Where readings come from: the host, or a file that was recorded.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Read, Write};
use std::path::PathBuf;

use jumbo_host::collect::Roots;
use jumbo_host::sample::{Sample, Sampler};
use serde::{Deserialize, Serialize};

use crate::args::WatchArgs;
use crate::control::socket::Dirs;
use crate::control::{Ports, Request, client};
use crate::error::CliError;
use crate::switch_api::{PortStatus, Traffic};

/// Longest line of a record: a host of thousands of devices is below it.
const LINE_MAX_LEN: u64 = 64 << 20;

/// One reading; a record has one per line.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Frame {
    pub(super) sample: Sample,
    /// Ports of the running switch; None when none is running.
    pub(super) ports: Option<Vec<Port>>,
}

/// Counters of a port.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Port {
    pub(super) name: String,
    pub(super) device: String,
    pub(super) rx: Counts,
    pub(super) tx: Counts,
    pub(super) dropped: u64,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Counts {
    pub(super) packets: u64,
    pub(super) bytes: u64,
    pub(super) super_packets: u64,
}

impl From<&Traffic> for Counts {
    fn from(traffic: &Traffic) -> Self {
        Self {
            packets: traffic.packets,
            bytes: traffic.bytes,
            super_packets: traffic.super_packets,
        }
    }
}

impl From<PortStatus> for Port {
    fn from(port: PortStatus) -> Self {
        Self {
            rx: (&port.rx).into(),
            tx: (&port.tx).into(),
            name: port.name,
            device: port.device,
            dropped: port.dropped,
        }
    }
}

/// The source of frames.
pub(super) struct Feed {
    source: Source,
    record: Option<(PathBuf, BufWriter<File>)>,
}

enum Source {
    Live {
        sampler: Box<Sampler>,
        socket: Option<PathBuf>,
        /// No switch was there: it is looked for now and then, not every second.
        rest: u32,
    },
    Replay {
        path: PathBuf,
        lines: BufReader<File>,
        number: u64,
    },
}

/// Frames between two looks for a switch that was not there.
const LOOK_EVERY: u32 = 10;

impl Feed {
    pub(super) fn open(args: &WatchArgs) -> Result<Self, CliError> {
        let source = match &args.replay {
            Some(path) => {
                let file = File::open(path).map_err(|error| {
                    CliError::usage(format!("cannot read the record: {error}")).at(path.display())
                })?;
                Source::Replay {
                    path: path.clone(),
                    lines: BufReader::new(file),
                    number: 0,
                }
            }
            None => Source::Live {
                sampler: Box::new(Sampler::new(Roots::default())),
                socket: args.socket.clone(),
                rest: 0,
            },
        };
        let create = |path: &PathBuf| {
            let file = File::create(path).map_err(|error| {
                CliError::machine(format!("cannot write the record: {error}")).at(path.display())
            })?;
            Ok((path.clone(), BufWriter::new(file)))
        };
        Ok(Self {
            source,
            record: args.record.as_ref().map(create).transpose()?,
        })
    }

    pub(super) fn is_live(&self) -> bool {
        matches!(self.source, Source::Live { .. })
    }

    /// The next reading; None at the end of a record.
    pub(super) fn next(&mut self) -> Result<Option<Frame>, CliError> {
        let frame = match &mut self.source {
            Source::Live {
                sampler,
                socket,
                rest,
            } => {
                let sample = sampler.read().map_err(|error| {
                    CliError::machine(format!("cannot list the network devices: {error}"))
                })?;
                let ports = ports(socket.as_ref(), rest)?;
                Some(Frame { sample, ports })
            }
            Source::Replay {
                path,
                lines,
                number,
            } => {
                *number += 1;
                line(lines).map_err(|what| {
                    CliError::usage(what).at(format_args!("{}:{number}", path.display()))
                })?
            }
        };
        if let (Some((path, file)), Some(frame)) = (&mut self.record, &frame) {
            let write = serde_json::to_writer(&mut *file, frame).map_err(std::io::Error::from);
            write
                .and_then(|()| file.write_all(b"\n"))
                .map_err(|error| {
                    CliError::machine(format!("cannot write the record: {error}"))
                        .at(path.display())
                })?;
        }
        Ok(frame)
    }

    /// The record is whole, or it is an error.
    pub(super) fn finish(&mut self) -> Result<(), CliError> {
        match &mut self.record {
            Some((path, file)) => file.flush().map_err(|error| {
                CliError::machine(format!("cannot write the record: {error}")).at(path.display())
            }),
            None => Ok(()),
        }
    }
}

fn line(lines: &mut BufReader<File>) -> Result<Option<Frame>, String> {
    let mut text = String::new();
    let read = Read::take(lines, LINE_MAX_LEN).read_line(&mut text);
    match read {
        Ok(0) => Ok(None),
        Ok(_) => serde_json::from_str(&text)
            .map(Some)
            .map_err(|error| format!("this is no record of jumbo watch: {error}")),
        Err(error) => Err(format!("cannot read the record: {error}")),
    }
}

/// A switch that was named must be there; otherwise it is shown when there is exactly one.
fn ports(socket: Option<&PathBuf>, rest: &mut u32) -> Result<Option<Vec<Port>>, CliError> {
    if *rest > 0 {
        *rest -= 1;
        return Ok(None);
    }
    let dirs = Dirs::of_this_user();
    let answer = client::ask::<Ports>(socket.map(PathBuf::as_path), &dirs, Request::Ports);
    match (answer, socket) {
        (Ok(answer), _) => Ok(Some(answer.ports.into_iter().map(Port::from).collect())),
        (Err(error), Some(_)) => Err(error),
        (Err(_), None) => {
            *rest = LOOK_EVERY;
            Ok(None)
        }
    }
}
