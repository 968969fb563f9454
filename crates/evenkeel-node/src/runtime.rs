//! The port to whatever runs containers: processes on this machine, or the simulator's models.

use std::{collections::BTreeMap, net::IpAddr, path::PathBuf};

use evenkeel_control::BoxFuture;
use jiff::Timestamp;

use crate::{
    probe::Outcome,
    sandbox::{Sandbox, User},
};

/// Runs containers. Every method may be called again for the same container.
///
/// Futures may be dropped before they end (a timeout of a probe): the work behind them stops.
pub trait Runtime: Send + Sync {
    /// What an earlier agent of this node left behind.
    fn adopt(&self) -> BoxFuture<'_, Vec<Adopted>>;

    /// Starts a container and says when it runs.
    fn start<'a>(&'a self, order: &'a StartOrder) -> BoxFuture<'a, Result<Started, StartError>>;

    /// Ready when the container has ended; at once if it has.
    fn wait<'a>(&'a self, container: &'a ContainerRef) -> BoxFuture<'a, Exit>;

    /// Signals a container; one that has ended is left alone.
    fn signal<'a>(&'a self, container: &'a ContainerRef, signal: Signal) -> BoxFuture<'a, ()>;

    /// Runs a command beside a container, in its environment.
    fn exec<'a>(
        &'a self,
        container: &'a ContainerRef,
        command: &'a [String],
    ) -> BoxFuture<'a, Result<ExecOutput, RuntimeError>>;

    /// Probes a container once. The caller bounds the time.
    fn probe<'a>(
        &'a self,
        container: &'a ContainerRef,
        check: &'a Check,
    ) -> BoxFuture<'a, ProbeReply>;

    /// Forgets a pod: kills what still runs of it, removes its files.
    fn remove<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, ()>;
}

/// One run of one container.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerRef {
    /// Uid of its pod.
    pub pod_uid: String,
    /// Its name in the pod.
    pub container: String,
    /// Which run of it, from 0: its restart count.
    pub attempt: u32,
}

/// Everything needed to start a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StartOrder {
    /// Which one.
    pub container: ContainerRef,
    /// Namespace of its pod.
    pub namespace: String,
    /// Name of its pod.
    pub pod: String,
    /// Address of its pod.
    pub ip: IpAddr,
    /// The image as the manifest names it.
    pub image: String,
    /// `command` of the manifest.
    pub command: Vec<String>,
    /// `args` of the manifest; `None` leaves the image's own.
    pub args: Option<Vec<String>>,
    /// Environment by name, complete but for what the image adds.
    pub env: BTreeMap<String, String>,
    /// `workingDir` of the manifest.
    pub working_dir: Option<String>,
    /// What of its pod's volumes it sees, and where; outer targets come before inner ones.
    pub mounts: Vec<Mount>,
    /// What it shares with its pod; `None` when pods share the network of the host.
    pub sandbox: Option<Sandbox>,
    /// Who it runs as; `None` leaves the agent's own user. Only in a sandbox.
    pub user: Option<User>,
}

/// A folder or file of this machine that a container sees at a path of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, serde::Deserialize)]
pub struct Mount {
    /// Where it lies on this machine: a real path, without symlinks. A container may have put one
    /// there since, so what mounts it must follow none (`openat2` with `RESOLVE_NO_SYMLINKS`).
    pub source: PathBuf,
    /// `mountPath`: absolute, as the container sees it.
    pub target: PathBuf,
    /// Whether the container may not change it.
    pub read_only: bool,
}

/// A container that runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Started {
    /// For `containerID`: different for every run.
    pub id: String,
    /// Since when.
    pub at: Timestamp,
}

/// How a container ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exit {
    /// Exit code; 128 + signal when a signal ended it.
    pub code: i32,
    /// When.
    pub at: Timestamp,
    /// `Some` when the end was not seen: why the code is a guess.
    pub unseen: Option<String>,
}

/// A container that an earlier agent started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Adopted {
    /// Which one; only the last run of each container is reported.
    pub container: ContainerRef,
    /// Its id and start.
    pub started: Started,
    /// How it ended, if it has.
    pub exit: Option<Exit>,
}

/// Signals a container gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM to its first process.
    Term,
    /// SIGKILL to all of its processes.
    Kill,
}

/// What a probe or a hook looks at, with its port resolved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Check {
    /// GET, 200 to 399 is success.
    Http {
        /// `HTTP` or `HTTPS`.
        scheme: String,
        /// Where to.
        host: String,
        /// Port.
        port: u16,
        /// Path with query.
        path: String,
        /// Extra headers.
        headers: Vec<(String, String)>,
    },
    /// A connection that can be made.
    Tcp {
        /// Where to.
        host: String,
        /// Port.
        port: u16,
    },
    /// A command that exits 0.
    Exec {
        /// Program and arguments.
        command: Vec<String>,
    },
    /// The gRPC health service answers `SERVING`.
    Grpc {
        /// Port on the pod.
        port: u16,
        /// Service name to ask for.
        service: String,
    },
}

/// The answer to one probe.
pub struct ProbeReply {
    /// What it found.
    pub outcome: Outcome,
    /// When the runtime knows that the outcome stays the same until something happens: a future
    /// that is ready when it does. The agent does not probe before that. Real processes cannot
    /// know; for the simulator it is what makes a steady cluster cost nothing.
    pub steady_until: Option<BoxFuture<'static, ()>>,
}

/// What a command printed, and how it ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecOutput {
    /// Exit code.
    pub code: i32,
    /// Both streams, cut at 10 KiB.
    pub output: String,
}

/// Why a container did not start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    /// The image map does not name the image: looked at again with back-off.
    #[error("{0}")]
    Image(String),
    /// The manifest asks for what cannot be: looked at again with back-off.
    #[error("{0}")]
    Config(String),
    /// The system refused.
    #[error("{0}")]
    Run(String),
}

/// Why the runtime could not do something.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{container}: {problem}")]
pub struct RuntimeError {
    /// Name of the container.
    pub container: String,
    /// What went wrong.
    pub problem: String,
}
