//! Text from a program, as far as a mark.

use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use crate::error::{Doing, Error, Result};

/// A readable end and what came from it.
#[derive(Debug)]
pub(super) struct Console<F> {
    pub(super) end: F,
    /// Who speaks, for errors.
    name: String,
    pending: Vec<u8>,
}

/// How much of the text an error quotes.
const QUOTE_LEN: usize = 2000;

impl<F: AsFd> Console<F> {
    pub(super) fn new(end: F, name: &str) -> Self {
        Self {
            end,
            name: name.into(),
            pending: Vec::new(),
        }
    }

    /// Everything up to and with `mark`. An error quotes what came instead.
    pub(super) fn until(&mut self, mark: &str, limit: Duration) -> Result<String> {
        let end = Instant::now() + limit;
        let mark = mark.as_bytes();
        let mut from = 0;
        loop {
            let seen = &self.pending[from..];
            if let Some(at) = seen.windows(mark.len()).position(|part| part == mark) {
                let rest = self.pending.split_off(from + at + mark.len());
                let text = std::mem::replace(&mut self.pending, rest);
                return Ok(String::from_utf8_lossy(&text).into_owned());
            }
            from = self.pending.len().saturating_sub(mark.len() - 1);
            if !self.readable(end)? {
                return Err(self.gave_up(&format!("said nothing more for {limit:?}")));
            }
            if self.read()? == 0 {
                return Err(self.gave_up("ended"));
            }
        }
    }

    /// Takes what is there without waiting.
    pub(super) fn drain(&mut self) -> Result<String> {
        while self.readable(Instant::now())? {
            if self.read()? == 0 {
                break;
            }
        }
        let text = std::mem::take(&mut self.pending);
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn readable(&self, end: Instant) -> Result<bool> {
        let left = end.saturating_duration_since(Instant::now());
        let left = Timespec {
            tv_sec: left.as_secs() as i64,
            tv_nsec: left.subsec_nanos().into(),
        };
        let fd = self.end.as_fd();
        match poll(
            &mut [PollFd::from_borrowed_fd(fd, PollFlags::IN)],
            Some(&left),
        ) {
            Ok(count) => Ok(count > 0),
            Err(Errno::INTR) => Ok(true),
            Err(errno) => Err(errno).doing(|| format!("wait for {}", self.name)),
        }
    }

    /// Bytes read; none only at the end.
    fn read(&mut self) -> Result<usize> {
        let mut chunk = [0; 4096];
        let count = rustix::io::retry_on_intr(|| rustix::io::read(self.end.as_fd(), &mut chunk));
        let count = count.doing(|| format!("read from {}", self.name))?;
        self.pending.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    fn gave_up(&self, why: &str) -> Error {
        let start = self.pending.len().saturating_sub(QUOTE_LEN);
        let last = String::from_utf8_lossy(&self.pending[start..]);
        Error::Stalled(format!("{} {why}; last: {last:?}", self.name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::os::unix::net::UnixStream;

    #[test]
    fn text_ends_at_the_mark() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut console = Console::new(ours, "the other end");
        theirs.write_all(b"one> two>").expect("written");
        let soon = Duration::from_secs(5);
        assert_eq!(console.until("> ", soon).expect("there"), "one> ");
        theirs.write_all(b" three").expect("written");
        assert_eq!(console.until("> ", soon).expect("there"), "two> ");
        drop(theirs);
        let error = console.until("> ", soon).expect_err("no mark");
        assert!(
            error.to_string().contains("ended; last: \"three\""),
            "{error}"
        );
    }
}
