//! Connections that are given up in time, and notice a dead peer.

use std::{
    io,
    net::{IpAddr, SocketAddr},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::{client::legacy::connect, rt::TokioIo};
use tokio::net::TcpStream;
use tower_service::Service;

use crate::settings::LiveSettings;

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// TCP connections that notice a dead peer.
pub(crate) fn tcp(settings: &LiveSettings) -> connect::HttpConnector {
    let mut tcp = connect::HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(settings.keepalive));
    tcp.set_keepalive_interval(Some(settings.keepalive / 3));
    tcp.set_keepalive_retries(Some(3));
    // Keepalive probes wait for data that is under way; this limits how long.
    #[cfg(target_os = "linux")]
    tcp.set_tcp_user_timeout(Some(settings.keepalive * 2));
    tcp
}

/// A network that the process is not in, but can make connections in.
pub trait OtherNetwork: Send + Sync {
    /// Whether an address is there.
    fn has(&self, address: IpAddr) -> bool;

    /// Connects; waits for it.
    fn connect(&self, to: SocketAddr) -> io::Result<std::net::TcpStream>;
}

/// TCP connections in the network of the process and, for the addresses there, in another one.
#[derive(Clone)]
pub(crate) struct Everywhere {
    pub(crate) here: connect::HttpConnector,
    pub(crate) there: Option<Arc<dyn OtherNetwork>>,
}

impl Service<Uri> for Everywhere {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.here.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let address = to.host().and_then(|host| host.parse::<IpAddr>().ok());
        let found = self.there.clone().zip(address).filter(|(there, ip)| there.has(*ip));
        let Some((there, ip)) = found else {
            let connecting = self.here.call(to);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let standard = if to.scheme_str() == Some("https") { 443 } else { 80 };
        let address = SocketAddr::new(ip, to.port_u16().unwrap_or(standard));
        Box::pin(async move {
            let connecting = tokio::task::spawn_blocking(move || there.connect(address));
            let stream = connecting.await??;
            stream.set_nonblocking(true)?;
            stream.set_nodelay(true)?;
            Ok(TokioIo::new(TcpStream::from_std(stream)?))
        })
    }
}

/// A connector with a limit on the whole of connecting, TLS included.
#[derive(Clone)]
pub(crate) struct Bounded<C> {
    pub(crate) connector: C,
    pub(crate) limit: Duration,
}

impl<C> Service<Uri> for Bounded<C>
where
    C: Service<Uri, Error = BoxError>,
    C::Response: 'static,
    C::Future: Send + 'static,
{
    type Response = C::Response;
    type Error = BoxError;
    type Future = BoxFuture<Result<C::Response, BoxError>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.connector.poll_ready(context)
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let limit = self.limit;
        let connecting = self.connector.call(to);
        Box::pin(async move {
            match tokio::time::timeout(limit, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(format!("no connection within {limit:?}").into()),
            }
        })
    }
}
