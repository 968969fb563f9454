//! `kubectl logs` reads the files of the node that runs the pod.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use evenkeel_cluster::{LogError, LogRequest, LogSource};
use evenkeel_control::{BoxFuture, BoxStream};
use evenkeel_node::shell::{LogQuery, read_logs};
use jiff::{SignedDuration, Timestamp};

use super::agents::known_node_dir;

/// Container output from the nodes' folders on this machine.
pub(crate) struct NodeLogs {
    data_dir: PathBuf,
}

impl NodeLogs {
    /// Logs of the nodes below `data_dir`.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }
}

impl LogSource for NodeLogs {
    fn read(
        &self,
        request: LogRequest,
    ) -> BoxFuture<'static, Result<BoxStream<'static, Bytes>, LogError>> {
        let Some(root) = known_node_dir(&self.data_dir, &request.node) else {
            let problem = format!("there is no node {:?} in this cluster", request.node);
            return Box::pin(async { Err(LogError::NotFound(problem)) });
        };
        let options = request.options;
        let since = options.since_seconds.map(|seconds| {
            let back = SignedDuration::from_secs(seconds);
            Timestamp::now().checked_sub(back).unwrap_or(Timestamp::UNIX_EPOCH)
        });
        let query = LogQuery {
            root,
            uid: request.uid,
            container: request.container,
            follow: options.follow,
            tail_lines: options.tail_lines,
            previous: options.previous,
            since,
            timestamps: options.timestamps,
            limit_bytes: options.limit_bytes,
        };
        let read = read_logs(&query).map_err(|error| LogError::NotFound(error.to_string()));
        Box::pin(async { read })
    }
}
