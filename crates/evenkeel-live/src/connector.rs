//! Connections that are given up in time, and notice a dead peer.

use std::{
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use http::Uri;
use hyper_util::client::legacy::connect;
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
