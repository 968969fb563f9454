//! HTTPS for `kubectl` and all other Kubernetes clients.

pub(crate) mod commands;
mod discovery;
mod exec;
pub(crate) mod logs;
mod objects;
mod openapi;
mod reply;
mod request;
mod review;
mod route;
mod tls;
mod watch;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
};
use tokio::{net::TcpStream, task::JoinSet, time::timeout};
use tokio_rustls::TlsAcceptor;

use crate::{ApiServer, ExecSource, LogSource, base64};

/// Connections served at once. Nine node agents and a few people need a few dozen; the rest of the
/// file descriptors is for other uses.
const CONNECTIONS_MAX: usize = 512;
/// Longest TLS handshake, so that a silent client does not hold a connection.
const HANDSHAKE_MAX: Duration = Duration::from_secs(10);

/// How to serve.
#[derive(Clone)]
pub struct HttpOptions {
    /// Where to listen; port 0 takes a free one.
    pub addr: SocketAddr,
    /// Token to user name. Other clients are anonymous and refused.
    pub tokens: BTreeMap<String, String>,
    /// Where `kubectl logs` reads.
    pub logs: Arc<dyn LogSource>,
    /// Where `kubectl exec` runs commands.
    pub exec: Arc<dyn ExecSource>,
    /// Folder in which the certificate authority is kept across restarts (made when absent);
    /// `None` makes a new one each time.
    pub tls_dir: Option<PathBuf>,
}

/// A server that is running; dropping it stops it and closes its connections.
#[derive(Debug)]
pub struct Serving {
    /// Where it listens.
    pub addr: SocketAddr,
    /// The certificate authority that clients must trust.
    pub ca_pem: String,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.task.abort();
    }
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
    serve_also(server, options, None).await
}

/// The same on a second listener, too, which was made in another network: that in which the node
/// agents of a cluster with a network of its own are.
pub async fn serve_also(
    server: Arc<ApiServer>,
    options: HttpOptions,
    further: Option<std::net::TcpListener>,
) -> Result<Serving, ServeError> {
    let listen = |source| ServeError::Listen { addr: options.addr, source };
    let listener = tokio::net::TcpListener::bind(options.addr).await.map_err(listen)?;
    let addr = listener.local_addr().map_err(listen)?;
    let further = further.map(|further| {
        further.set_nonblocking(true)?;
        Ok((further.local_addr()?.ip(), tokio::net::TcpListener::from_std(further)?))
    });
    let further = further.transpose().map_err(listen)?;
    let addresses: Vec<_> = further.iter().map(|(ip, _)| *ip).chain([addr.ip()]).collect();
    let (acceptor, ca_pem) = tls::acceptor(options.tls_dir.as_deref(), &addresses)?;
    let router = Arc::new(route::Router {
        server,
        tokens: options.tokens.into_iter().collect(),
        logs: options.logs,
        exec: options.exec,
    });
    let task = tokio::spawn(async move {
        match further {
            None => accept(listener, acceptor, router).await,
            Some((_, further)) => {
                let first = accept(listener, acceptor.clone(), router.clone());
                tokio::join!(first, accept(further, acceptor, router));
            }
        }
    });
    Ok(Serving { addr, ca_pem, task })
}

async fn accept(
    listener: tokio::net::TcpListener,
    acceptor: TlsAcceptor,
    router: Arc<route::Router>,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            biased;
            Some(_) = connections.join_next() => {}
            accepted = listener.accept(), if connections.len() < CONNECTIONS_MAX => {
                match accepted {
                    Ok((stream, _)) => {
                        connections.spawn(connection(stream, acceptor.clone(), router.clone()));
                    }
                    Err(error) => {
                        tracing::warn!(%error, "connection not accepted");
                        // Out of file descriptors: the others must end first.
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, acceptor: TlsAcceptor, router: Arc<route::Router>) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "TCP_NODELAY not set");
    }
    let stream = match timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => return tracing::debug!(%error, "TLS handshake"),
        Err(_) => return tracing::debug!("TLS handshake took too long"),
    };
    let service = hyper::service::service_fn(move |request| {
        let router = router.clone();
        async move { Ok::<_, std::convert::Infallible>(router.handle(request).await) }
    });
    let mut builder = Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(30));
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(256);
    if let Err(error) = builder.serve_connection_with_upgrades(TokioIo::new(stream), service).await
    {
        tracing::debug!(error = error.to_string(), "connection ended");
    }
}

/// A kubeconfig file for one user of the server. Contains the token: keep it readable for its
/// owner alone.
pub fn kubeconfig(serving: &Serving, token: &str) -> String {
    let mut addr = serving.addr;
    if addr.ip().is_unspecified() {
        addr.set_ip(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    kubeconfig_at(serving, addr, token)
}

/// The same for clients that reach the server at another address.
pub fn kubeconfig_at(serving: &Serving, addr: SocketAddr, token: &str) -> String {
    let ca = base64::encode(serving.ca_pem.as_bytes());
    format!(
        "apiVersion: v1\n\
         kind: Config\n\
         current-context: evenkeel\n\
         clusters:\n\
         - name: evenkeel\n\
         \x20 cluster:\n\
         \x20   server: https://{addr}\n\
         \x20   certificate-authority-data: {ca}\n\
         users:\n\
         - name: evenkeel\n\
         \x20 user:\n\
         \x20   token: {token:?}\n\
         contexts:\n\
         - name: evenkeel\n\
         \x20 context:\n\
         \x20   cluster: evenkeel\n\
         \x20   user: evenkeel\n\
         \x20   namespace: default\n"
    )
}
