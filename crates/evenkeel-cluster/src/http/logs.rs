use bytes::Bytes;
use evenkeel_control::{BoxFuture, BoxStream};

/// Which container's output is wanted, and how much of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogRequest {
    /// Namespace of the pod.
    pub namespace: String,
    /// The pod.
    pub pod: String,
    /// Uid of the pod.
    pub uid: String,
    /// The node it is on; empty when it is on none yet.
    pub node: String,
    /// The container; never empty.
    pub container: String,
    /// What of it.
    pub options: LogOptions,
}

/// Options of `kubectl logs`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Continues until the container ends.
    pub follow: bool,
    /// Only this many lines from the end; `None` is all.
    pub tail_lines: Option<u64>,
    /// Of the previous run of the container.
    pub previous: bool,
    /// Only lines written in the last seconds, this many.
    pub since_seconds: Option<i64>,
    /// Each line starts with its time.
    pub timestamps: bool,
    /// Ends after this many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why there is no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// The container has not run (yet, or never before).
    #[error("{0}")]
    NotFound(String),
    /// The source of the logs does not answer.
    #[error("{0}")]
    Unreachable(String),
}

/// Where container output comes from: the node agents, which the host finds by node.
pub trait LogSource: Send + Sync {
    /// Opens the output of one container.
    fn read(
        &self,
        request: LogRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, LogError>>;
}

/// A source without logs, for clusters without processes.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoLogs;

impl LogSource for NoLogs {
    fn read(
        &self,
        request: LogRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, LogError>> {
        let problem = format!("no logs are kept for container {:?}", request.container);
        Box::pin(async { Err(LogError::NotFound(problem)) })
    }
}
