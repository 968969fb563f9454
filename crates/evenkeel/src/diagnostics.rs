//! The diagnostics of a process over HTTP: `/metrics`, `/why`, `/healthz`, `/readyz`.

use std::{
    collections::VecDeque,
    convert::Infallible,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::Context as _;
use bytes::Bytes;
use evenkeel_control::Activity;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    task::{AbortHandle, JoinSet},
    time::timeout,
};

/// Connections at once. For a new one, one is closed: the oldest that has not sent a whole head if
/// there is one, or else the oldest: each serves one request, which takes milliseconds unless its
/// client is slow, and the health of this process must not wait for that.
const CONNECTIONS_MAX: usize = 256;
/// How long a client may take to send the head of a request.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a client may take for all of it, reading the answer included.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection that is served.
struct Connection {
    task: AbortHandle,
    /// Whether the head of its request was read whole.
    has_asked: Arc<AtomicBool>,
}

/// Further metrics in Prometheus' text format.
type More = Box<dyn Fn() -> String + Send + Sync>;

/// What this process cannot do now; `None` when it is ready.
type Unready = Box<dyn Fn() -> Option<String> + Send + Sync>;

/// The listener.
pub(crate) struct Diagnostics {
    listener: TcpListener,
    activity: Arc<Activity>,
    more: More,
    unready: Unready,
    head_timeout: Duration,
    connection_timeout: Duration,
}

impl Diagnostics {
    /// Listens. There is no authentication; the answers contain no secrets.
    pub(crate) async fn bind(
        address: SocketAddr,
        activity: Arc<Activity>,
        more: impl Fn() -> String + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let bound = match TcpListener::bind(address).await {
            // A machine without IPv6 has all its addresses here.
            Err(_) if address.ip() == Ipv6Addr::UNSPECIFIED => {
                TcpListener::bind((Ipv4Addr::UNSPECIFIED, address.port())).await
            }
            bound => bound,
        };
        let listener =
            bound.with_context(|| format!("listen on {address} for diagnostics (--listen)"))?;
        Ok(Self {
            listener,
            activity,
            more: Box::new(more),
            unready: Box::new(|| None),
            head_timeout: HEAD_TIMEOUT,
            connection_timeout: CONNECTION_TIMEOUT,
        })
    }

    /// `/readyz` says that it is not ready while this says why.
    #[must_use]
    pub(crate) fn unready_when(
        mut self,
        unready: impl Fn() -> Option<String> + Send + Sync + 'static,
    ) -> Self {
        self.unready = Box::new(unready);
        self
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> std::io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Serves until dropped.
    pub(crate) async fn run(self) {
        let diagnostics = Arc::new(self);
        let mut tasks = JoinSet::new();
        let mut connections = VecDeque::<Connection>::new();
        loop {
            let Ok((stream, _)) = diagnostics.listener.accept().await else {
                // Out of file descriptors, most likely: let connections end first.
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            };
            while tasks.try_join_next().is_some() {}
            connections.retain(|connection| !connection.task.is_finished());
            if connections.len() >= CONNECTIONS_MAX {
                let slow = |connection: &Connection| !connection.has_asked.load(Relaxed);
                let place = connections.iter().position(slow).unwrap_or_default();
                if let Some(connection) = connections.remove(place) {
                    connection.task.abort();
                }
            }
            let has_asked = Arc::<AtomicBool>::default();
            let task = tasks.spawn(diagnostics.clone().serve(stream, has_asked.clone()));
            connections.push_back(Connection { task, has_asked });
            // With many waiting to be accepted, those that were get a turn in between. Nothing
            // depends on it: a connection whose head is not read yet is only closed sooner.
            tokio::task::yield_now().await;
        }
    }

    async fn serve(self: Arc<Self>, stream: TcpStream, has_asked: Arc<AtomicBool>) {
        let service = service_fn(|request: Request<Incoming>| {
            has_asked.store(true, Relaxed);
            let answer = self.answer(&request);
            async { Ok::<_, Infallible>(answer) }
        });
        let serving = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_timeout)
            .keep_alive(false)
            .serve_connection(TokioIo::new(stream), service);
        match timeout(self.connection_timeout, serving).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "diagnostics connection"),
            Err(_) => tracing::debug!("diagnostics connection took too long"),
        }
    }
}

impl Diagnostics {
    fn answer(&self, request: &Request<Incoming>) -> Response<Full<Bytes>> {
        let text = "text/plain; version=0.0.4; charset=utf-8";
        let (status, kind, body) = match request.uri().path() {
            "/healthz" | "/livez" => (StatusCode::OK, text, "ok\n".to_owned()),
            "/readyz" => match (self.unready)() {
                None => (StatusCode::OK, text, "ok\n".to_owned()),
                Some(why) => (StatusCode::SERVICE_UNAVAILABLE, text, format!("{why}\n")),
            },
            "/metrics" => {
                (StatusCode::OK, text, format!("{}{}", self.activity.metrics(), (self.more)()))
            }
            "/why" => {
                let passes = match object(request.uri().query().unwrap_or_default()) {
                    Some(object) => self.activity.why(&object),
                    None => self.activity.troubles(),
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
        let kind = http::HeaderValue::from_static(kind);
        response.headers_mut().insert(http::header::CONTENT_TYPE, kind);
        response
    }
}

/// The object of a query; names of objects need no percent-encoding.
fn object(query: &str) -> Option<String> {
    let pair = query.split('&').find_map(|pair| pair.strip_prefix("object="))?;
    Some(pair.replace("%2F", "/").replace("%2f", "/"))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{Read as _, Write as _},
        net::TcpStream,
    };

    use super::*;
    use crate::thread::Thread;

    /// Pieces of 4 KiB that are written to a server that should not read them: far more than the
    /// system keeps on the way.
    const WRITES_MAX: usize = 1 << 16;

    /// A head without an end.
    const BEGUN: &str = "GET /metrics HTTP/1.1\r\nHost: x\r\nX-Slow: ";

    fn start(change: fn(&mut Diagnostics)) -> (SocketAddr, Thread) {
        let (sender, address) = std::sync::mpsc::channel();
        let serving = Thread::start("diagnostics", move || async move {
            let bound = Diagnostics::bind(([127, 0, 0, 1], 0).into(), Arc::default(), || {
                "m ".repeat(9 << 20)
            });
            let mut bound = bound.await.unwrap();
            change(&mut bound);
            sender.send(bound.address().unwrap()).unwrap();
            bound.run().await;
        });
        (address.recv().unwrap(), serving.unwrap())
    }

    /// Sends something over a connection of its own, which stays open.
    fn send(address: SocketAddr, text: &str) -> TcpStream {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.write_all(text.as_bytes()).unwrap();
        stream
    }

    /// The first bytes of what comes until the end; a connection that was cut off has none.
    fn status(mut stream: TcpStream) -> String {
        let mut answer = [0; 15];
        stream
            .read_exact(&mut answer)
            .map_or_else(|_| String::new(), |()| String::from_utf8_lossy(&answer).into_owned())
    }

    #[test]
    fn slow_clients_do_not_block_health_checks() {
        // The test limits only the number of slow clients, not their time.
        let (address, _serving) = start(|diagnostics| {
            diagnostics.head_timeout = Duration::from_mins(5);
            diagnostics.connection_timeout = Duration::from_mins(5);
        });
        let mut slow: Vec<_> = (0..CONNECTIONS_MAX + 20).map(|_| send(address, BEGUN)).collect();
        for _ in 0..3 {
            let health = send(address, "GET /healthz HTTP/1.0\r\n\r\n");
            assert_eq!(status(health), "HTTP/1.0 200 OK");
        }
        // The oldest was closed, and the newest may continue.
        assert_eq!(status(slow.remove(0)), "");
        let mut newest = slow.pop().unwrap();
        newest.write_all(b"x\r\n\r\n").unwrap();
        assert_eq!(status(newest), "HTTP/1.1 200 OK");
    }

    #[test]
    fn a_connection_that_sent_its_head_is_kept_before_those_that_did_not() {
        let (address, _serving) = start(|diagnostics| {
            diagnostics.head_timeout = Duration::from_mins(5);
            diagnostics.connection_timeout = Duration::from_mins(5);
        });
        // Its answer is larger than what the system keeps on the way: it is being served still.
        let mut asked = send(address, "GET /metrics HTTP/1.0\r\n\r\n");
        let mut begun = [0; 15];
        asked.read_exact(&mut begun).unwrap();
        let slow: Vec<_> = (0..CONNECTIONS_MAX + 20).map(|_| send(address, BEGUN)).collect();
        assert_eq!(status(send(address, "GET /healthz HTTP/1.0\r\n\r\n")), "HTTP/1.0 200 OK");
        let mut rest = Vec::new();
        asked.read_to_end(&mut rest).unwrap();
        assert!(rest.len() > 18 << 20, "{}", rest.len());
        drop(slow);
    }

    #[test]
    fn a_head_that_does_not_end_and_an_answer_that_is_not_read_have_a_limit() {
        let (address, _serving) = start(|diagnostics| {
            diagnostics.head_timeout = Duration::from_millis(100);
            diagnostics.connection_timeout = Duration::from_secs(1);
        });
        // Ends, with or without an answer.
        assert!(!status(send(address, BEGUN)).contains("200"));
        // The answer is larger than what the system keeps on the way. Writing stops there until the
        // other end is gone.
        let mut unread = send(address, "GET /metrics HTTP/1.0\r\n\r\n");
        unread.set_write_timeout(Some(Duration::from_mins(1))).unwrap();
        let written = (0..WRITES_MAX).take_while(|_| unread.write_all(&[b'x'; 4096]).is_ok());
        assert!(written.count() < WRITES_MAX, "the other end keeps reading");
        let mut begun = Vec::new();
        assert!(unread.read_to_end(&mut begun).is_err() || begun.len() < 18 << 20);
    }
}
