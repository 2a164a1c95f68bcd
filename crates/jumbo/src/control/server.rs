//! Answers the control socket on a thread of its own.
//!
//! One loop over `poll`, no thread per client: whatever a client does, it costs one slot of [`Limits::clients_max`],
//! [`Limits::request_len_max`] bytes and [`Limits::client_timeout`]. While an answer waits to be read, nothing more is
//! read from that client. Without clients the thread sleeps.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::{Request, Response};
use crate::error::CliError;

/// What clients may cost.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// Connections at once; one more is told so and closed.
    pub(crate) clients_max: usize,
    /// Bytes of a request, without its newline.
    pub(crate) request_len_max: usize,
    /// From one answer read (or the connection) to the next.
    pub(crate) client_timeout: Duration,
}

impl Default for Limits {
    /// A dozen terminals; requests are tens of bytes; a person at a terminal never is this slow, as clients ask at once.
    fn default() -> Self {
        Self {
            clients_max: 16,
            request_len_max: 4096,
            client_timeout: Duration::from_secs(10),
        }
    }
}

/// What is done with a connection once its last answer was read.
pub(crate) type Takeover = Box<dyn FnOnce(UnixStream) + Send>;

/// What a request is answered with.
pub(crate) struct Answer {
    pub(crate) response: Response,
    /// The connection is handed over afterwards; it no longer counts as a client.
    pub(crate) then: Option<Takeover>,
}

impl From<Response> for Answer {
    fn from(response: Response) -> Self {
        Self {
            response,
            then: None,
        }
    }
}

/// How long `accept` rests after an error that would come again at once, as too many open files.
const ACCEPT_REST: Duration = Duration::from_millis(200);

/// A running server. It stops, and its thread is joined, when this is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    stop: Arc<OwnedFd>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Server {
    fn drop(&mut self) {
        // An eventfd refuses a write only when its counter is full, and then it is readable anyway.
        let _ = rustix::io::write(&self.stop, &1u64.to_ne_bytes());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Serves `listener` until the returned value is dropped.
///
/// # Errors
/// When the machine refuses a thread or an eventfd.
pub(crate) fn serve<A: Into<Answer> + 'static>(
    listener: UnixListener,
    limits: Limits,
    handler: impl Fn(Request) -> A + Send + 'static,
) -> io::Result<Server> {
    listener.set_nonblocking(true)?;
    let stop = Arc::new(eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?);
    let mut control = Loop {
        listener,
        stop: Arc::clone(&stop),
        limits,
        handler: move |request| handler(request).into(),
        clients: Vec::new(),
        rest_until: None,
    };
    let thread = std::thread::Builder::new()
        .name("control".into())
        .spawn(move || control.run())?;
    Ok(Server {
        stop,
        thread: Some(thread),
    })
}

struct Loop<H> {
    listener: UnixListener,
    stop: Arc<OwnedFd>,
    limits: Limits,
    handler: H,
    clients: Vec<Client>,
    rest_until: Option<Instant>,
}

/// What `poll` found.
struct Ready {
    stop: bool,
    listener: bool,
    /// In the order of the clients.
    clients: Vec<bool>,
}

impl<H: Fn(Request) -> Answer> Loop<H> {
    fn run(&mut self) {
        while let Ok(ready) = self.wait() {
            if ready.stop {
                return;
            }
            self.serve_clients(&ready.clients);
            self.expire(Instant::now());
            if ready.listener {
                self.accept();
            }
        }
    }

    fn wait(&self) -> io::Result<Ready> {
        let mut fds = vec![PollFd::new(&*self.stop, PollFlags::IN)];
        fds.extend(
            self.clients
                .iter()
                .map(|client| PollFd::new(&client.stream, client.waits_for())),
        );
        if self.rest_until.is_none() {
            fds.push(PollFd::new(&self.listener, PollFlags::IN));
        }
        match poll(&mut fds, self.timeout(Instant::now()).as_ref()) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = fds.iter().map(|fd| !fd.revents().is_empty());
        let stop = ready.next().unwrap_or(false);
        let clients = ready.by_ref().take(self.clients.len()).collect();
        Ok(Ready {
            stop,
            clients,
            listener: ready.next().unwrap_or(false),
        })
    }

    /// Until the first client's time is up or `accept` may try again; None sleeps for ever.
    fn timeout(&self, now: Instant) -> Option<Timespec> {
        let deadlines = self.clients.iter().map(|client| client.deadline);
        let first = deadlines.chain(self.rest_until).min()?;
        // A whole millisecond more, so that it has passed on waking.
        let left = first.saturating_duration_since(now) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    fn serve_clients(&mut self, ready: &[bool]) {
        let mut ready = ready.iter();
        let Self {
            clients,
            limits,
            handler,
            ..
        } = self;
        clients.retain_mut(|client| {
            !ready.next().is_some_and(|&ready| ready) || client.step(limits, handler).is_ok()
        });
    }

    /// Closes whoever is late, with a word if it can be had without waiting.
    fn expire(&mut self, now: Instant) {
        let limit_s = self.limits.client_timeout.as_secs_f32();
        self.clients.retain_mut(|client| {
            let late = client.deadline <= now;
            if late && client.output.is_empty() {
                client.last_word(&CliError::usage(format!(
                    "no whole request within {limit_s} s"
                )));
            }
            !late
        });
        self.rest_until = self.rest_until.filter(|&until| until > now);
    }

    fn accept(&mut self) {
        match self.listener.accept() {
            Ok((stream, _)) => self.admit(stream),
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
            Err(_) => self.rest_until = Some(Instant::now() + ACCEPT_REST),
        }
    }

    fn admit(&mut self, stream: UnixStream) {
        if stream.set_nonblocking(true).is_err() {
            return;
        }
        let mut client = Client::new(stream, Instant::now() + self.limits.client_timeout);
        if self.clients.len() < self.limits.clients_max {
            self.clients.push(client);
        } else {
            let max = self.limits.clients_max;
            client.last_word(
                &CliError::machine(format!("{max} clients are connected already"))
                    .way_out("try again"),
            );
        }
    }
}

/// The client is to be closed.
struct Close;

struct Client {
    stream: UnixStream,
    /// Read and not yet answered.
    input: Vec<u8>,
    /// Answered and not yet taken.
    output: Vec<u8>,
    deadline: Instant,
    /// Close once `output` is taken.
    closing: bool,
    /// Hand over once `output` is taken.
    takeover: Option<Takeover>,
}

impl Client {
    fn new(stream: UnixStream, deadline: Instant) -> Self {
        Self {
            stream,
            input: Vec::new(),
            output: Vec::new(),
            deadline,
            closing: false,
            takeover: None,
        }
    }

    fn waits_for(&self) -> PollFlags {
        if self.output.is_empty() {
            PollFlags::IN
        } else {
            PollFlags::OUT
        }
    }

    /// One read at most, then answers as far as the client takes them. Bounded by what `input` can hold.
    fn step(&mut self, limits: &Limits, handler: &impl Fn(Request) -> Answer) -> Result<(), Close> {
        if self.output.is_empty() {
            self.read()?;
        }
        loop {
            if !self.output.is_empty() && !self.write(limits)? {
                return Ok(());
            }
            if let Some(takeover) = self.takeover.take() {
                if let Ok(stream) = self.stream.try_clone() {
                    takeover(stream);
                }
                return Err(Close);
            }
            match self.take_line(limits) {
                Some(Ok(line)) => {
                    let Answer { response, then } = answer(&line, handler);
                    self.say(&response);
                    self.takeover = then;
                }
                Some(Err(error)) => {
                    self.say(&Response::error(&error));
                    self.closing = true;
                }
                None => return Ok(()),
            }
        }
    }

    fn read(&mut self) -> Result<(), Close> {
        let mut chunk = [0; 4096];
        match self.stream.read(&mut chunk) {
            Ok(0) => Err(Close),
            Ok(len) => {
                self.input.extend(chunk.iter().take(len));
                Ok(())
            }
            Err(error)
                if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) =>
            {
                Ok(())
            }
            Err(_) => Err(Close),
        }
    }

    /// True when all is taken.
    fn write(&mut self, limits: &Limits) -> Result<bool, Close> {
        while !self.output.is_empty() {
            match self.stream.write(&self.output) {
                Ok(0) => return Err(Close),
                Ok(len) => drop(self.output.drain(..len)),
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
                Err(_) => return Err(Close),
            }
        }
        self.deadline = Instant::now() + limits.client_timeout;
        if self.closing { Err(Close) } else { Ok(true) }
    }

    fn take_line(&mut self, limits: &Limits) -> Option<Result<Vec<u8>, CliError>> {
        let end = self.input.iter().position(|&byte| byte == b'\n');
        if end.unwrap_or(self.input.len()) > limits.request_len_max {
            let max = limits.request_len_max;
            return Some(Err(CliError::usage(format!(
                "the request is longer than {max} bytes"
            ))));
        }
        end.map(|end| Ok(self.input.drain(..=end).collect()))
    }

    fn say(&mut self, response: &Response) {
        match serde_json::to_vec(response) {
            Ok(line) => self.output = line,
            Err(_) => self.closing = true,
        }
        self.output.push(b'\n');
    }

    /// Says why it is closed, if that can be had without waiting.
    fn last_word(&mut self, error: &CliError) {
        self.say(&Response::error(error));
        let _ = self.stream.write(&self.output);
    }
}

fn answer(line: &[u8], handler: &impl Fn(Request) -> Answer) -> Answer {
    match serde_json::from_slice(line) {
        Ok(request) => handler(request),
        Err(error) => Response::error(&CliError::usage(format!(
            "cannot understand the request: {error}"
        )))
        .into(),
    }
}

#[cfg(test)]
mod tests;
