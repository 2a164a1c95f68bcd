//! The control socket: how `status`, `path`, `add-port` and their like reach a running switch.
//!
//! One JSON value per line over a UNIX stream socket, an answer per request, any number of requests per connection:
//!
//! ```text
//! {"cmd":"status"}
//! {"ok":true,"data":{"version":"0.1.0","pid":4711,...}}
//! {"cmd":"dance"}
//! {"cmd":"remove_port","name":"web"}
//! {"ok":false,"error":"there is no port `web`; the ports are db","code":2}
//! ```
//!
//! [`socket`] decides where it is, [`server`] answers, [`client`] asks.

pub(crate) mod client;
pub(crate) mod server;
pub(crate) mod socket;

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::CliError;
use crate::switch_api::{PortStatus, Snapshot};

/// What can be asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "cmd", rename_all = "snake_case")]
pub(crate) enum Request {
    /// Answered by a [`Status`].
    Status,
    /// Answered by [`Ports`].
    Ports,
    /// Answered by a [`PathReport`](crate::switch_api::PathReport).
    Path { from: String, to: String },
    /// Answered by a [`Fdb`](crate::switch_api::Fdb).
    Fdb,
    /// As `--port` has it. Answered by the port's [`PortStatus`].
    AddPort { spec: String },
    /// Answered by the port's last [`PortStatus`].
    RemovePort { name: String },
}

/// One answer; `data` when `ok`, else `error` and `code` (the exit code of the client).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) ok: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) data: Option<Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) error: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) code: Option<u8>,
}

impl Response {
    /// The answer that carries either.
    pub(crate) fn of<T: Serialize>(result: Result<T, CliError>) -> Self {
        match result {
            Ok(data) => Self::data(&data),
            Err(error) => Self::error(&error),
        }
    }

    /// The answer that carries `data`.
    pub(crate) fn data(data: &impl Serialize) -> Self {
        match serde_json::to_value(data) {
            Ok(data) => Self {
                ok: true,
                data: Some(data),
                error: None,
                code: None,
            },
            Err(error) => Self::error(&CliError::internal(format!(
                "cannot write the answer: {error}"
            ))),
        }
    }

    /// The answer that carries an error.
    pub(crate) fn error(error: &CliError) -> Self {
        Self {
            ok: false,
            data: None,
            error: Some(error.to_string()),
            code: Some(error.code.number()),
        }
    }
}

/// What `jumbo status` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) uptime_s: u64,
    pub(crate) socket: String,
    #[serde(flatten)]
    pub(crate) switch: Snapshot,
}

/// What `jumbo ports` shows.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ports {
    pub(crate) ports: Vec<PortStatus>,
}
