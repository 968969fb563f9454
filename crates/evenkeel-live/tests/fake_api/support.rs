//! An API server of a few lines, that can be as nasty as real ones and the networks before them.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use evenkeel_live::{KubeStore, LiveSettings};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

/// One request, as it came in.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) method: String,
    /// Path and query part.
    pub(crate) target: String,
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: Vec<u8>,
    /// Number of the connection it came through, from 1.
    pub(crate) connection: usize,
}

impl Request {
    pub(crate) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(crate) fn is_watch(&self) -> bool {
        self.target.contains("watch=true")
    }
}

/// What the server does with a request.
pub(crate) enum Reply {
    /// An answer.
    Json(u16, Value),
    /// An answer that is not JSON.
    Text(u16, &'static str),
    /// Nothing, for ever: the peer is gone, and nobody said so.
    Silence,
    /// The connection is closed without an answer.
    Close,
    /// The events of a watch, and how it ends.
    Watch(Vec<Value>, End),
}

/// How a watch ends.
pub(crate) enum End {
    /// Properly.
    Clean,
    /// The connection breaks.
    Broken,
    /// It does not: no byte comes any more.
    Silent,
    /// More events come through this channel; it ends properly when the channel closes.
    Feed(mpsc::UnboundedReceiver<Value>),
}

type Handler = dyn Fn(&Request) -> Reply + Send + Sync;

/// The server.
pub(crate) struct Server {
    address: SocketAddr,
    log: Arc<Mutex<Vec<Request>>>,
}

impl Server {
    /// Serves discovery by itself, and everything else by `handler`.
    pub(crate) async fn start(handler: impl Fn(&Request) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let log: Arc<Mutex<Vec<Request>>> = Arc::default();
        let (handler, seen): (Arc<Handler>, _) = (Arc::new(handler), log.clone());
        tokio::spawn(async move {
            let connections = AtomicUsize::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connections.fetch_add(1, Ordering::Relaxed) + 1;
                let (handler, seen) = (handler.clone(), seen.clone());
                tokio::spawn(serve(stream, connection, handler, seen));
            }
        });
        Self { address, log }
    }

    pub(crate) fn config(&self) -> kube::Config {
        let mut config = kube::Config::new(format!("http://{}", self.address).parse().unwrap());
        // Not what the environment of a developer says.
        config.proxy_url = None;
        config
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) fn store(&self, settings: LiveSettings) -> KubeStore {
        KubeStore::new(self.config(), settings).unwrap()
    }

    /// All requests so far that fit.
    pub(crate) fn requests(&self, fits: impl Fn(&Request) -> bool) -> Vec<Request> {
        self.log.lock().unwrap().iter().filter(|request| fits(request)).cloned().collect()
    }

    /// Waits until so many requests have come that fit.
    pub(crate) async fn reached(
        &self,
        count: usize,
        fits: impl Fn(&Request) -> bool,
    ) -> Vec<Request> {
        soon(async {
            loop {
                let found = self.requests(&fits);
                if found.len() >= count {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        })
        .await
    }
}

/// Limits of tests: everything in a fraction of a second.
pub(crate) fn quick() -> LiveSettings {
    LiveSettings {
        connect: Duration::from_millis(300),
        request: Duration::from_millis(300),
        doubt: Duration::from_millis(50),
        watch: Duration::from_millis(300),
        watch_grace: Duration::from_millis(50),
        settled: Duration::from_millis(200),
        pause_min: Duration::from_millis(10),
        pause_max: Duration::from_millis(80),
        pause_refused_max: Duration::from_millis(80),
        relist_interval: Duration::from_millis(10),
        discovery_min: Duration::from_millis(300),
        discovery_max: Duration::from_millis(600),
        ..LiveSettings::default()
    }
}

/// Waits for what must come soon.
pub(crate) async fn soon<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(10), what).await.expect("it did not come")
}

async fn serve(
    mut stream: TcpStream,
    connection: usize,
    handler: Arc<Handler>,
    log: Arc<Mutex<Vec<Request>>>,
) {
    let mut buffer = Vec::new();
    while let Some(request) = read(&mut stream, connection, &mut buffer).await {
        let is_discovery = matches!(request.path(), "/api" | "/apis");
        log.lock().unwrap().push(request.clone());
        let reply = handler(&request);
        let reply = match reply {
            Reply::Text(404, _) if is_discovery => Reply::Json(200, kinds(request.path())),
            other => other,
        };
        let goes_on = match reply {
            Reply::Json(code, body) => {
                write(&mut stream, code, "application/json", &body.to_string()).await
            }
            Reply::Text(code, body) => write(&mut stream, code, "text/plain", body).await,
            Reply::Silence => std::future::pending().await,
            Reply::Close => false,
            Reply::Watch(events, end) => watch(&mut stream, events, end).await,
        };
        if !goes_on {
            return;
        }
    }
}

async fn read(stream: &mut TcpStream, connection: usize, buffer: &mut Vec<u8>) -> Option<Request> {
    loop {
        if let Some(end) = buffer.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8(buffer[..end].to_vec()).unwrap();
            let mut lines = head.lines();
            let mut first = lines.next()?.split(' ');
            let (method, target) = (first.next()?.to_owned(), first.next()?.to_owned());
            let header = |line: &str| {
                let (name, value) = line.split_once(':')?;
                Some((name.to_ascii_lowercase(), value.trim().to_owned()))
            };
            let headers: BTreeMap<_, _> = lines.filter_map(header).collect();
            let length = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
            if buffer.len() >= end + 4 + length {
                let body = buffer[end + 4..end + 4 + length].to_vec();
                buffer.drain(..end + 4 + length);
                return Some(Request { method, target, headers, body, connection });
            }
        }
        let mut chunk = [0; 4096];
        match stream.read(&mut chunk).await {
            Ok(read) if read > 0 => buffer.extend_from_slice(&chunk[..read]),
            _ => return None,
        }
    }
}

async fn write(stream: &mut TcpStream, code: u16, kind: &str, body: &str) -> bool {
    let head = format!(
        "HTTP/1.1 {code} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    stream.write_all(format!("{head}{body}").as_bytes()).await.is_ok()
}

async fn watch(stream: &mut TcpStream, events: Vec<Value>, end: End) -> bool {
    let head =
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
    if stream.write_all(head.as_bytes()).await.is_err() {
        return false;
    }
    for event in events {
        if !chunk(stream, &event).await {
            return false;
        }
    }
    match end {
        End::Clean => {}
        End::Broken => return false,
        End::Silent => std::future::pending().await,
        End::Feed(mut feed) => {
            while let Some(event) = feed.recv().await {
                if !chunk(stream, &event).await {
                    return false;
                }
            }
        }
    }
    stream.write_all(b"0\r\n\r\n").await.is_ok()
}

async fn chunk(stream: &mut TcpStream, event: &Value) -> bool {
    let line = format!("{event}\n");
    stream.write_all(format!("{:x}\r\n{line}\r\n", line.len()).as_bytes()).await.is_ok()
}

/// The kinds that are there unless a handler says otherwise.
pub(crate) fn kinds(path: &str) -> Value {
    let resource = |plural: &str, kind: &str| {
        json!({"resource": plural, "scope": "Namespaced",
            "responseKind": {"group": "", "version": "v1", "kind": kind}})
    };
    let items = match path {
        "/api" => json!([{"metadata": {}, "versions": [{"version": "v1", "resources": [
            resource("configmaps", "ConfigMap"), resource("secrets", "Secret"),
            resource("events", "Event")]}]}]),
        _ => json!([{"metadata": {"name": "coordination.k8s.io"}, "versions": [
            {"version": "v1", "resources": [resource("leases", "Lease")]}]}]),
    };
    json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "items": items})
}

/// A ConfigMap in namespace `x`.
pub(crate) fn config_map(name: &str, revision: u64, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "data": {"k": value}, "metadata": {
        "name": name, "namespace": "x", "uid": format!("uid-{name}"),
        "resourceVersion": revision.to_string()}})
}

/// A list of objects.
pub(crate) fn list(revision: u64, items: &[Value]) -> Value {
    json!({"kind": "List", "apiVersion": "v1", "items": items,
        "metadata": {"resourceVersion": revision.to_string()}})
}

/// A watch event.
pub(crate) fn event(kind: &str, object: &Value) -> Value {
    json!({"type": kind, "object": object})
}

/// A refusal in Kubernetes' form.
pub(crate) fn status(code: u16, reason: &str, name: &str) -> Reply {
    Reply::Json(
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
            "reason": reason, "message": format!("{reason} {name}"),
            "details": {"name": name, "kind": "configmaps"}}),
    )
}
