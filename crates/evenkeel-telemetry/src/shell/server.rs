use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use evenkeel_base::Clock;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper::{
    body::{Body as _, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    task::JoinSet,
};

use crate::{Telemetry, api};

/// Connections at once; more wait in the listener's queue.
const CONNECTIONS_MAX: usize = 256;
/// Queries evaluated at once, as upstream's `query.max-concurrency`.
const QUERIES_MAX: usize = 20;
/// How long a client may take to send the head of a request, or to send nothing at all.
const HEAD_TIMEOUT: Duration = Duration::from_mins(1);
/// How long a client may take to send a form.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// The Prometheus API on a socket.
pub struct Server {
    listener: TcpListener,
    telemetry: Telemetry,
    clock: Arc<dyn Clock>,
}

/// Why the API cannot be served.
#[derive(Debug, thiserror::Error)]
#[error("metrics API on {address} (is the port in use? choose another one)")]
pub struct ServerError {
    /// Where.
    pub address: SocketAddr,
    #[source]
    source: std::io::Error,
}

impl Server {
    /// Listens; there is no authentication, so `address` should be a loopback one.
    pub async fn bind(
        address: SocketAddr,
        telemetry: Telemetry,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, ServerError> {
        let listener =
            TcpListener::bind(address).await.map_err(|source| ServerError { address, source })?;
        Ok(Self { listener, telemetry, clock })
    }

    /// Where it listens.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped, and all its connections with it.
    pub async fn run(self) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let queries = Arc::new(Semaphore::new(QUERIES_MAX));
        let mut tasks = JoinSet::new();
        loop {
            let Ok(permit) = Arc::clone(&connections).acquire_owned().await else { return };
            let stream = match self.listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    // Out of file descriptors, most likely: let connections end first.
                    tracing::warn!(%error, "metrics API cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    continue;
                }
            };
            while tasks.try_join_next().is_some() {}
            let service = QueryService {
                telemetry: self.telemetry.clone(),
                clock: Arc::clone(&self.clock),
                queries: Arc::clone(&queries),
            };
            tasks.spawn(async move {
                serve(stream, service).await;
                drop(permit);
            });
        }
    }
}

async fn serve(stream: TcpStream, queries: QueryService) {
    let service = service_fn(move |request| queries.clone().answer(request));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "connection to the metrics API ended");
    }
}

/// Answers requests of one connection.
#[derive(Clone)]
struct QueryService {
    telemetry: Telemetry,
    clock: Arc<dyn Clock>,
    queries: Arc<Semaphore>,
}

impl QueryService {
    async fn answer(self, request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
        let (head, body) = request.into_parts();
        if body.size_hint().lower() > api::BODY_BYTES_MAX as u64 {
            return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large\n"));
        }
        let body = Limited::new(body, api::BODY_BYTES_MAX).collect();
        let body = match tokio::time::timeout(BODY_TIMEOUT, body).await {
            Ok(Ok(body)) => body.to_bytes(),
            Ok(Err(error)) if error.is::<LengthLimitError>() => {
                return Ok(refusal(StatusCode::PAYLOAD_TOO_LARGE, "the form is too large\n"));
            }
            Ok(Err(_)) => return Ok(refusal(StatusCode::BAD_REQUEST, "the form is cut off\n")),
            Err(_) => return Ok(refusal(StatusCode::REQUEST_TIMEOUT, "the form did not come\n")),
        };
        let request = Request::from_parts(head, body);
        let Ok(permit) = self.queries.acquire_owned().await else {
            return Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"));
        };
        let now = self.clock.now();
        // A query may take seconds of pure computation: not on the executor's threads.
        let answered = tokio::task::spawn_blocking(move || {
            let response = api::handle(&self.telemetry, &request, now);
            drop(permit);
            response
        });
        Ok(match answered.await {
            Ok(response) => response.map(Full::new),
            Err(_) => refusal(
                StatusCode::INTERNAL_SERVER_ERROR,
                "internal error while evaluating the query\n",
            ),
        })
    }
}

fn refusal(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}
