//! `kubectl exec`: a command beside the program of a container, with its input and output.

use std::{
    os::fd::AsFd as _,
    path::PathBuf,
    pin::Pin,
    process::{ExitStatus, Stdio},
};

use evenkeel_control::BoxFuture;
use rustix::{
    process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    process::{Child, Command},
};

use super::{
    command::Beside,
    files::{self, StateFile},
    process::{OWN_NAME, ended},
};

/// What is to be run, and where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExecQuery {
    /// Root of the node's files, as given to the runtime.
    pub root: PathBuf,
    /// Our own executable, and what makes it a shim.
    pub exe: PathBuf,
    /// Uid of the pod.
    pub uid: String,
    /// The container.
    pub container: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// Whether it gets input.
    pub stdin: bool,
    /// Whether it gets a terminal.
    pub tty: bool,
}

/// A command that runs.
pub struct Executed {
    /// What it reads, if it was asked for.
    pub input: Option<Pin<Box<dyn AsyncWrite + Send>>>,
    /// What it writes, or the terminal shows.
    pub output: Pin<Box<dyn AsyncRead + Send>>,
    /// What it writes as errors; `None` with a terminal.
    pub errors: Option<Pin<Box<dyn AsyncRead + Send>>>,
    /// Changes the terminal's size: columns and rows.
    pub resize: Option<Resize>,
    /// Its exit code, when it has ended. Dropping it ends the command with its process group.
    pub end: BoxFuture<'static, Result<i32, String>>,
}

/// Changes the size of a terminal to columns and rows.
pub type Resize = Box<dyn Fn(u16, u16) + Send>;

/// Starts a command in the last run of a container.
///
/// **Errors**: the container has not been started, its image does not list the command, or the
/// system starts no process. What is wrong with the command itself is in its output.
pub fn execute(query: &ExecQuery) -> Result<Executed, String> {
    let ExecQuery { container, uid, .. } = query;
    // A name from a URL must not lead out of the directory.
    if [uid, container].iter().any(|name| name.contains('/') || name.starts_with('.')) {
        return Err(format!("container {container:?} has not been started"));
    }
    let dir = files::pod_dir(&query.root, uid).join(container);
    let run = files::attempts(&dir).pop();
    let run = run.ok_or_else(|| format!("container {container:?} has not been started"))?;
    let dir = dir.join(run.to_string());
    let state: Option<StateFile> = files::read_json(&dir.join("state.json"));
    if !state.is_some_and(|state| state.main.lives()) {
        return Err(format!("container {container:?} does not run"));
    }
    let beside = Beside::of(&query.exe, &["shim".to_owned()], &dir, &query.command)?;
    if query.tty { on_a_terminal(&beside) } else { on_pipes(&beside, query.stdin) }
}

fn on_pipes(beside: &Beside, stdin: bool) -> Result<Executed, String> {
    let mut child = Command::new(&beside.program)
        .arg0(OWN_NAME)
        .args(&beside.args)
        .env_clear()
        .current_dir("/")
        .stdin(if stdin { Stdio::piped() } else { Stdio::null() })
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
        .map_err(|error| error.to_string())?;
    let output = child.stdout.take().ok_or("no output")?;
    let errors = child.stderr.take().ok_or("no output of errors")?;
    let input = child.stdin.take();
    Ok(Executed {
        input: input.map(|input| Box::pin(input) as Pin<Box<dyn AsyncWrite + Send>>),
        output: Box::pin(output),
        errors: Some(Box::pin(errors)),
        resize: None,
        end: end(child),
    })
}

fn on_a_terminal(beside: &Beside) -> Result<Executed, String> {
    let words = |error: pty_process::Error| error.to_string();
    let (terminal, for_child) = pty_process::open().map_err(words)?;
    let child = pty_process::Command::new(&beside.program)
        .arg0(OWN_NAME)
        .args(&beside.args)
        .env_clear()
        .current_dir("/")
        .spawn(for_child)
        .map_err(words)?;
    let screen = terminal.as_fd().try_clone_to_owned().map_err(|error| error.to_string())?;
    let (output, input) = terminal.into_split();
    let resize = move |columns, rows| {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        // A size that is not taken makes lines break at other places, no more.
        tcsetwinsize(&screen, size).unwrap_or_default();
    };
    Ok(Executed {
        input: Some(Box::pin(input)),
        output: Box::pin(output),
        errors: None,
        resize: Some(Box::new(resize)),
        end: end(child),
    })
}

fn end(child: Child) -> BoxFuture<'static, Result<i32, String>> {
    let mut group = Group(child);
    Box::pin(async move {
        // Before it is waited for, its number and its group cannot be another's.
        if let Some(pid) = group.pid() {
            let watched = pidfd_open(pid, PidfdFlags::empty());
            ended(watched.map_err(|error| error.to_string())?).await;
        }
        group.kill();
        let status = group.0.wait().await.map_err(|error| error.to_string())?;
        Ok(code(status))
    })
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt as _;
    status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(255)
}

/// A process with its group: what it has started, unless that has made groups of its own, as the
/// jobs of an interactive shell do. All of it ends when this is dropped.
struct Group(Child);

impl Group {
    /// `None` when it has been waited for.
    fn pid(&self) -> Option<Pid> {
        self.0.id().and_then(|id| Pid::from_raw(id.try_into().ok()?))
    }

    fn kill(&self) {
        if let Some(pid) = self.pid()
            && let Err(error) = kill_process_group(pid, Signal::KILL)
        {
            tracing::debug!(%error, "no command to kill");
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.kill();
    }
}
