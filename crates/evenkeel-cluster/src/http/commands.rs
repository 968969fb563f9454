//! Where `kubectl exec` runs commands.

use std::pin::Pin;

use evenkeel_control::BoxFuture;
use serde::Deserialize;
use tokio::io::{AsyncRead, AsyncWrite};

/// A command in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecRequest {
    /// Uid of the pod.
    pub uid: String,
    /// The node it is on.
    pub node: String,
    /// The container.
    pub container: String,
    /// Program and arguments; never empty.
    pub command: Vec<String>,
    /// Whether it gets input.
    pub stdin: bool,
    /// Whether it gets a terminal, which joins both outputs.
    pub tty: bool,
}

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TerminalSize {
    /// Columns.
    pub width: u16,
    /// Rows.
    pub height: u16,
}

/// A command that runs. Dropping it ends the command.
pub struct ExecSession {
    /// What the command reads, if it was asked for.
    pub input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// What it writes, or the terminal shows.
    pub output: Pin<Box<dyn AsyncRead + Send>>,
    /// What it writes as errors; `None` with a terminal.
    pub errors: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Changes the terminal's size.
    pub resize: Option<Resize>,
    /// Ready with its exit code when it has ended.
    pub end: BoxFuture<'static, Result<i32, String>>,
}

/// Changes the size of a terminal.
pub type Resize = Box<dyn Fn(TerminalSize) + Send>;

/// Where commands run: on the nodes, which the host finds by their names.
pub trait ExecSource: Send + Sync {
    /// Starts a command. `Err` says why it cannot run.
    fn start(&self, request: ExecRequest) -> BoxFuture<'static, Result<ExecSession, String>>;
}

/// For clusters without processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoExec;

impl ExecSource for NoExec {
    fn start(&self, _: ExecRequest) -> BoxFuture<'static, Result<ExecSession, String>> {
        Box::pin(async { Err("the containers of this cluster are no processes".to_owned()) })
    }
}
