//! What a process says about itself over HTTP: `/metrics`, `/why`, `/healthz`, `/readyz`.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use anyhow::Context as _;
use bytes::Bytes;
use evenkeel_control::Activity;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, sync::Semaphore, task::JoinSet};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 64;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);

/// The listener.
pub(crate) struct Diagnostics {
    listener: TcpListener,
    activity: Arc<Activity>,
    /// Further metrics in Prometheus' text format.
    more: Box<dyn Fn() -> String + Send + Sync>,
}

impl Diagnostics {
    /// Listens. There is no authentication and nothing secret in the answers.
    pub(crate) async fn bind(
        address: SocketAddr,
        activity: Arc<Activity>,
        more: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .with_context(|| format!("listen on {address} for diagnostics (--listen)"))?;
        Ok(Self { listener, activity, more: Box::new(more) })
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped.
    pub(crate) async fn run(self) {
        let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let shared = Arc::new((self.activity, self.more));
        let mut tasks = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let Ok((stream, _)) = self.listener.accept().await else {
                // Out of file descriptors, most likely: let connections end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            while tasks.try_join_next().is_some() {}
            let shared = shared.clone();
            tasks.spawn(async move {
                let service = service_fn(|request: Request<Incoming>| {
                    let (activity, more) = &*shared;
                    let answer = answer(&request, activity, &**more);
                    async { Ok::<_, Infallible>(answer) }
                });
                let served = http1::Builder::new()
                    .timer(TokioTimer::new())
                    .header_read_timeout(HEAD_TIMEOUT)
                    .keep_alive(false)
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
                if let Err(error) = served {
                    tracing::debug!(%error, "diagnostics connection");
                }
                drop(permit);
            });
        }
    }
}

fn answer(
    request: &Request<Incoming>,
    activity: &Activity,
    more: &(dyn Fn() -> String + Send + Sync),
) -> Response<Full<Bytes>> {
    let text = "text/plain; version=0.0.4; charset=utf-8";
    let (status, kind, body) = match request.uri().path() {
        "/healthz" | "/readyz" | "/livez" => (StatusCode::OK, text, "ok\n".to_owned()),
        "/metrics" => (StatusCode::OK, text, format!("{}{}", activity.metrics(), more())),
        "/why" => {
            let passes = match object(request.uri().query().unwrap_or_default()) {
                Some(object) => activity.why(&object),
                None => activity.troubles(),
            };
            let body = serde_json::to_string(&passes).unwrap_or_default();
            (StatusCode::OK, "application/json", body)
        }
        _ => {
            let known = "not found; try /metrics, /why?object=KIND/NAMESPACE/NAME, /healthz\n";
            (StatusCode::NOT_FOUND, text, known.to_owned())
        }
    };
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind));
    response
}

/// The object of a query; names of objects need no percent-encoding.
fn object(query: &str) -> Option<String> {
    let pair = query.split('&').find_map(|pair| pair.strip_prefix("object="))?;
    Some(pair.replace("%2F", "/").replace("%2f", "/"))
}
