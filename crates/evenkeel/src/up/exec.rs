//! `kubectl exec` runs commands beside the processes of a node.

use std::path::{Path, PathBuf};

use evenkeel_cluster::{ExecRequest, ExecSession, ExecSource, TerminalSize};
use evenkeel_control::BoxFuture;
use evenkeel_node::shell::{ExecQuery, execute};

use super::agents::{OWN, known_node_dir};

/// Commands in the containers of the nodes on this machine.
pub(crate) struct NodeExec {
    data_dir: PathBuf,
}

impl NodeExec {
    /// Commands on the nodes below `data_dir`.
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }
}

impl ExecSource for NodeExec {
    fn start(&self, request: ExecRequest) -> BoxFuture<'static, Result<ExecSession, String>> {
        let Some(root) = known_node_dir(&self.data_dir, &request.node) else {
            let problem = format!("there is no node {:?} in this cluster", request.node);
            return Box::pin(async { Err(problem) });
        };
        let query = ExecQuery {
            root,
            exe: OWN.into(),
            uid: request.uid,
            container: request.container,
            command: request.command,
            stdin: request.stdin,
            tty: request.tty,
        };
        Box::pin(async move {
            let started = execute(&query)?;
            let resize = started.resize.map(|resize| {
                let resize = move |size: TerminalSize| resize(size.width, size.height);
                Box::new(resize) as Box<dyn Fn(TerminalSize) + Send>
            });
            Ok(ExecSession {
                input: started.input,
                output: started.output,
                errors: started.errors,
                resize,
                end: started.end,
            })
        })
    }
}
