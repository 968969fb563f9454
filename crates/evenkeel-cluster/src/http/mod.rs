//! The server's face for `kubectl` and everything else that speaks Kubernetes over HTTPS.
pub(crate) mod logs;

use std::{collections::BTreeMap, net::SocketAddr, path::PathBuf, sync::Arc};

use crate::{ApiServer, LogSource};

/// How to serve.
#[derive(Clone)]
pub struct HttpOptions {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Token to user name. Everybody else is anonymous and refused.
    pub tokens: BTreeMap<String, String>,
    /// Where `kubectl logs` reads.
    pub logs: Arc<dyn LogSource>,
    /// Folder in which the certificate authority is kept across restarts (made when absent);
    /// `None` makes a new one each time.
    pub tls_dir: Option<PathBuf>,
}

/// A server that is running; dropping it stops it.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The certificate authority that clients must trust.
    pub ca_pem: String,
    task: tokio::task::JoinHandle<()>,
}

/// Why the server does not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not ours.
    #[error("cannot listen on {addr}")]
    Listen {
        /// The wanted address.
        addr: SocketAddr,
        /// Cause.
        #[source]
        source: std::io::Error,
    },
    /// Keys or certificates cannot be made or kept.
    #[error("cannot prepare TLS: {problem}")]
    Tls {
        /// What went wrong, with the file if it is one.
        problem: String,
    },
}

/// Listens with HTTPS and serves until the result is dropped.
pub async fn serve(server: Arc<ApiServer>, options: HttpOptions) -> Result<Serving, ServeError> {
    todo!()
}

/// A kubeconfig file for one user of the server.
pub fn kubeconfig(serving: &Serving, token: &str) -> String {
    todo!()
}
