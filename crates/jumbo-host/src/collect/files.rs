//! Files below the two roots, each as a datum whose source is the path a person would type.

use std::fmt::Display;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use super::Roots;
use crate::datum::Datum;

/// Reads below procfs and sysfs.
#[derive(Debug)]
pub(super) struct Files {
    roots: Roots,
    /// `/proc/net` belongs to the process; a thread that entered a namespace has its own.
    net: PathBuf,
}

impl Files {
    pub(super) fn new(roots: &Roots) -> Self {
        let of_thread = roots.proc.join("thread-self/net");
        let net = if of_thread.is_dir() {
            of_thread
        } else {
            roots.proc.join("net")
        };
        Self {
            roots: roots.clone(),
            net,
        }
    }

    /// A file below `/proc`, without the final newline.
    pub(super) fn proc(&self, path: &str) -> Datum<String> {
        let place = match path.strip_prefix("net/") {
            Some(inside) => self.net.join(inside),
            None => self.roots.proc.join(path),
        };
        read(&place, format!("/proc/{path}"))
    }

    /// A file below `/sys`.
    pub(super) fn sys(&self, path: &str) -> Datum<String> {
        read(&self.roots.sys.join(path), format!("/sys/{path}"))
    }

    /// What is missing is known to be none; what cannot be read otherwise stays unknown. Without procfs or sysfs
    /// everything is missing, and nothing is known.
    pub(super) fn optional<T>(&self, datum: Datum<T>, source: &str) -> Datum<Option<T>> {
        let mounted = match source.starts_with("/proc") {
            true => self.roots.proc.join("sys").is_dir(),
            false => self.roots.sys.join("class").is_dir(),
        };
        match datum {
            Datum::Unknown { unknown } if mounted && unknown.contains("(os error 2)") => {
                Datum::known(None, source)
            }
            other => other.map(Some),
        }
    }

    /// Names in a folder below `/proc`, sorted.
    pub(super) fn proc_names(&self, path: &str) -> Datum<Vec<String>> {
        Datum::from_result(names(&self.roots.proc.join(path)), format!("/proc/{path}"))
    }

    /// Names in a folder below `/sys`, sorted.
    pub(super) fn sys_names(&self, path: &str) -> Datum<Vec<String>> {
        Datum::from_result(names(&self.roots.sys.join(path)), format!("/sys/{path}"))
    }

    /// Where a link below `/proc` points.
    pub(super) fn proc_link(&self, path: &str) -> Datum<PathBuf> {
        Datum::from_result(
            fs::read_link(self.roots.proc.join(path)),
            format!("/proc/{path}"),
        )
    }

    /// The real folder behind a path below `/sys`, still below the root.
    pub(super) fn sys_real(&self, path: &str) -> Option<PathBuf> {
        let root = fs::canonicalize(&self.roots.sys).ok()?;
        let real = fs::canonicalize(self.roots.sys.join(path)).ok()?;
        real.strip_prefix(root).ok().map(Path::to_path_buf)
    }
}

fn read(place: &Path, source: String) -> Datum<String> {
    Datum::from_result(text(place), source)
}

/// Most files here are a line.
const TYPICAL_LEN: usize = 256;
/// More than any file of procfs or sysfs that is read here.
const LEN_MAX: u64 = 64 << 20;

/// Not `fs::read_to_string`: it asks for the length first, which these files do not have.
fn text(place: &Path) -> std::io::Result<String> {
    let mut bytes = Vec::with_capacity(TYPICAL_LEN);
    fs::File::open(place)?
        .take(LEN_MAX)
        .read_to_end(&mut bytes)?;
    let mut text = String::from_utf8(bytes)
        .map_err(|_| std::io::Error::new(std::io::ErrorKind::InvalidData, "this is no text"))?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

fn names(place: &Path) -> std::io::Result<Vec<String>> {
    let entries = fs::read_dir(place)?;
    let mut names: Vec<_> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .collect();
    names.sort_unstable();
    Ok(names)
}

/// The text as a number or another value that can be parsed.
pub(super) fn parsed<T: FromStr<Err: Display>>(text: Datum<String>) -> Datum<T> {
    parsed_by(text, |text| text.trim().parse())
}

/// The same with a parser of one's own.
pub(super) fn parsed_by<T, E: Display>(
    text: Datum<String>,
    parse: impl FnOnce(&str) -> Result<T, E>,
) -> Datum<T> {
    match text {
        Datum::Known { value, source } => match parse(&value) {
            Ok(value) => Datum::Known { value, source },
            Err(error) => Datum::unknown(format_args!("{source}: {error}")),
        },
        Datum::Unknown { unknown } => Datum::Unknown { unknown },
    }
}
