//! The undo files: what was changed, written before it is changed.
//!
//! A folder has a file per apply, named by its time, and a lock that one apply holds at a time. A file appears whole or
//! not at all, and is on disk before the first setting changes, so a host that loses power half-way can be told what
//! was meant.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use super::Step;

/// Names the form of [`Record`].
const SCHEMA: &str = "jumbo-undo/1";
/// More than any plan needs: bounds what a damaged file can make us read.
const RECORD_MAX_LEN: u64 = 64 << 20;
const LOCK: &str = "lock";

/// How far an apply came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stage {
    /// Begun; if nothing runs any more, it was cut short.
    Begun,
    /// All steps hold, and somebody must confirm in time.
    Unconfirmed,
    /// All steps hold.
    Applied,
    /// All steps were taken back.
    Undone,
}

impl Stage {
    /// One word for people.
    pub fn word(self) -> &'static str {
        match self {
            Self::Begun => "begun",
            Self::Unconfirmed => "unconfirmed",
            Self::Applied => "applied",
            Self::Undone => "undone",
        }
    }
}

/// One apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// The form of this file.
    pub schema: String,
    /// Host name.
    pub host: String,
    /// The boot it was done in: settings do not outlive it.
    pub boot_id: String,
    /// The network namespace, as the kernel names it (`net:[4026531840]`).
    pub namespace: String,
    /// When, in seconds since 1970.
    pub at_unix_s: u64,
    /// How far it came.
    pub stage: Stage,
    /// When it would undo itself, in seconds since 1970.
    pub confirm_by_unix_s: Option<u64>,
    /// The steps, in the order they were done.
    pub steps: Vec<Step>,
}

impl Record {
    /// An apply that begins now.
    pub fn begin(
        host: &str,
        boot_id: &str,
        namespace: &str,
        at_unix_s: u64,
        steps: Vec<Step>,
    ) -> Self {
        Self {
            schema: SCHEMA.to_owned(),
            host: host.to_owned(),
            boot_id: boot_id.to_owned(),
            namespace: namespace.to_owned(),
            at_unix_s,
            stage: Stage::Begun,
            confirm_by_unix_s: None,
            steps,
        }
    }
}

/// A line of the list of undo files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// What `tune undo` takes.
    pub id: String,
    /// The file's content, or why it cannot be used.
    pub record: Result<Record, String>,
}

/// What is wrong with the folder or a file in it.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The folder or a file cannot be written: nothing was changed.
    #[error("cannot write the undo file below {}: {source}", path.display())]
    Write {
        /// The folder.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The folder or a file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is not one of ours, or damaged.
    #[error("{} is no undo file: {what}", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What does not fit.
        what: String,
    },
    /// Another apply or undo is at work.
    #[error("another jumbo tune is at work or waits for its confirmation")]
    Busy,
    /// There is none.
    #[error("there is no undo file {0}")]
    None(String),
}

/// The folder of undo files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Store {
    folder: PathBuf,
}

/// Held while settings change; given back when dropped.
#[derive(Debug)]
#[must_use]
pub struct Lock {
    _file: File,
}

impl Store {
    /// The undo files below `state`, which is made when the first is written.
    pub fn below(state: &Path) -> Self {
        Self {
            folder: state.join("undo"),
        }
    }

    /// Keeps others from changing settings at the same time.
    pub fn lock(&self) -> Result<Lock, StoreError> {
        let wrong = |source| self.unwritable(source);
        fs::create_dir_all(&self.folder).map_err(wrong)?;
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(self.folder.join(LOCK))
            .map_err(wrong)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Lock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::Busy),
            Err(error) => Err(self.unwritable(error.into())),
        }
    }

    /// Writes a new file, and is sure that it is on disk. Returns its id.
    pub fn add(&self, record: &Record) -> Result<String, StoreError> {
        let mut number = 0u32;
        let id = loop {
            let id = match number {
                0 => record.at_unix_s.to_string(),
                _ => format!("{}-{number}", record.at_unix_s),
            };
            if !self.path(&id).exists() {
                break id;
            }
            number += 1;
        };
        self.put(&id, record).map(|()| id)
    }

    /// Writes a file anew: whole or not at all.
    pub fn put(&self, id: &str, record: &Record) -> Result<(), StoreError> {
        let write = || -> io::Result<()> {
            let text = serde_json::to_vec_pretty(record).map_err(io::Error::other)?;
            fs::create_dir_all(&self.folder)?;
            let mut file = tempfile::NamedTempFile::new_in(&self.folder)?;
            file.write_all(&text)?;
            file.as_file().sync_all()?;
            file.persist(self.path(id)).map_err(|error| error.error)?;
            File::open(&self.folder)?.sync_all()
        };
        write().map_err(|source| self.unwritable(source))
    }

    fn unwritable(&self, source: io::Error) -> StoreError {
        StoreError::Write {
            path: self.folder.clone(),
            source,
        }
    }

    fn path(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.json"))
    }

    fn mark(&self, id: &str) -> PathBuf {
        self.folder.join(format!("{id}.confirmed"))
    }

    /// Says that an apply may stay.
    pub fn confirm(&self, id: &str) -> Result<(), StoreError> {
        File::create(self.mark(id))
            .map(|_| ())
            .map_err(|source| self.unwritable(source))
    }

    /// Whether somebody said so; forgets it.
    pub fn take_confirmation(&self, id: &str) -> bool {
        fs::remove_file(self.mark(id)).is_ok()
    }

    /// One file.
    pub fn get(&self, id: &str) -> Result<Record, StoreError> {
        if !is_id(id) {
            return Err(StoreError::None(id.to_owned()));
        }
        let path = self.path(id);
        let text = read(&path).map_err(|source| match source.kind() {
            io::ErrorKind::NotFound => StoreError::None(id.to_owned()),
            _ => StoreError::Read {
                path: path.clone(),
                source,
            },
        })?;
        parse(&text).map_err(|what| StoreError::Damaged { path, what })
    }

    /// All files, the oldest first.
    pub fn list(&self) -> Result<Vec<Summary>, StoreError> {
        let entries = match fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => {
                let path = self.folder.clone();
                return Err(StoreError::Read { path, source });
            }
        };
        let names = entries
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok());
        let mut ids: Vec<String> = names
            .filter_map(|name| name.strip_suffix(".json").map(str::to_owned))
            .filter(|id| is_id(id))
            .collect();
        ids.sort_by_key(|id| (id.split('-').next().map(str::len), id.clone()));
        let one = |id: String| Summary {
            record: self.get(&id).map_err(|error| error.to_string()),
            id,
        };
        Ok(ids.into_iter().map(one).collect())
    }
}

/// Digits and a dash: an id becomes a file name.
fn is_id(id: &str) -> bool {
    !id.is_empty() && id.chars().all(|c| c.is_ascii_digit() || c == '-')
}

fn read(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(
        &mut io::Read::take(File::open(path)?, RECORD_MAX_LEN),
        &mut text,
    )?;
    Ok(text)
}

fn parse(text: &str) -> Result<Record, String> {
    let record: Record = serde_json::from_str(text).map_err(|error| error.to_string())?;
    if record.schema != SCHEMA {
        return Err(format!(
            "it has form `{}`, this version reads `{SCHEMA}`",
            record.schema
        ));
    }
    for step in &record.steps {
        let fits = step
            .setting
            .fits(&step.old)
            .and_then(|()| step.setting.fits(&step.new));
        fits.map_err(|unfit| unfit.0)?;
    }
    Ok(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{Setting, Value};

    fn record(at_unix_s: u64) -> Record {
        let setting = Setting::Mtu {
            device: "eth0".into(),
        };
        let step = Step::new(setting, Value::Number(1500), Value::Number(9000), "MTU001");
        Record::begin("hv", "boot", "net:[1]", at_unix_s, vec![step])
    }

    #[test]
    fn files_come_back_in_the_order_of_their_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::below(dir.path());
        assert!(store.list().expect("empty").is_empty());
        for at in [100, 99, 100] {
            store.add(&record(at)).expect("written");
        }
        let list = store.list().expect("listed");
        let ids: Vec<_> = list.iter().map(|one| one.id.as_str()).collect();
        assert_eq!(ids, ["99", "100", "100-1"]);
        assert_eq!(store.get("99").expect("read"), record(99));
    }

    #[test]
    fn only_one_may_change_settings() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::below(dir.path());
        let lock = store.lock().expect("free");
        assert!(matches!(store.lock(), Err(StoreError::Busy)));
        drop(lock);
        assert!(store.lock().is_ok());
    }

    #[test]
    fn a_damaged_file_is_named_and_an_id_is_no_path() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::below(dir.path());
        let id = store.add(&record(5)).expect("written");
        let path = dir.path().join("undo/5.json");
        let text = fs::read_to_string(&path).expect("there");
        for (from, to) in [
            ("\"mtu\"", "\"mtuu\""),
            ("1500", "\"x\""),
            ("undo/1", "undo/9"),
            ("eth0", "../x"),
        ] {
            fs::write(&path, text.replace(from, to)).expect("written");
            assert!(
                matches!(store.get(&id), Err(StoreError::Damaged { .. })),
                "{from}"
            );
        }
        assert!(store.list().expect("listed")[0].record.is_err());
        assert!(matches!(
            store.get("../../etc/passwd"),
            Err(StoreError::None(_))
        ));
    }

    #[test]
    fn a_confirmation_counts_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let store = Store::below(dir.path());
        let id = store.add(&record(5)).expect("written");
        assert!(!store.take_confirmation(&id));
        store.confirm(&id).expect("written");
        assert!(store.take_confirmation(&id) && !store.take_confirmation(&id));
    }

    #[test]
    fn a_folder_that_cannot_be_written_is_an_error() {
        let store = Store::below(Path::new("/proc/nonexistent"));
        assert!(matches!(
            store.add(&record(5)),
            Err(StoreError::Write { .. })
        ));
    }
}
