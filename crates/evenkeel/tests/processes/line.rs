//! The line between a process and the API server.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, BodyStream, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use kube::client::Body;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    sync::watch,
};

/// What is wrong with the line.
#[derive(Debug, Clone, Default)]
pub(crate) struct Fault {
    /// It takes everything and passes nothing on: on open connections, and on new ones.
    pub(crate) silent: bool,
    /// Writes below paths with this in them are forbidden.
    pub(crate) forbidden: Option<&'static str>,
    /// Watches with this in their path and query part end as soon as they have begun.
    pub(crate) no_watch: Option<&'static str>,
}

impl Fault {
    fn forbids(&self, request: &Request<Incoming>) -> bool {
        let is_write = request.method() != http::Method::GET;
        is_write && self.forbidden.is_some_and(|part| request.uri().path().contains(part))
    }

    fn ends(&self, target: &str) -> bool {
        let fits = |part| target.contains(part) && target.contains("watch=true");
        self.no_watch.is_some_and(fits)
    }
}

/// One request that came through.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) at: Instant,
    /// Path and query part.
    pub(crate) target: String,
}

impl Asked {
    /// Whether it is about a Lease, which come at their own pace, or a Secret, whose content is
    /// not kept: it is read at each look.
    pub(crate) fn is_apart(&self) -> bool {
        ["/leases/", "/secrets/"].iter().any(|part| self.target.contains(part))
    }
}

/// A TCP proxy, and an HTTP proxy behind it.
pub(crate) struct Line {
    pub(crate) addr: SocketAddr,
    fault: watch::Sender<Fault>,
    /// Connections made, and heads of requests sent, while it was silent.
    unanswered: Arc<AtomicUsize>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

impl Line {
    /// A line to the server that `client` speaks to.
    pub(crate) async fn start(client: kube::Client) -> Self {
        let (fault, told) = watch::channel(Fault::default());
        let (unanswered, asked) = (Arc::<AtomicUsize>::default(), Arc::default());
        let front = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let back = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (addr, behind) = (front.local_addr().unwrap(), back.local_addr().unwrap());
        tokio::spawn(pipes(front, behind, told.clone(), unanswered.clone()));
        let proxy = Proxy { client, fault: told, asked: Arc::clone(&asked) };
        tokio::spawn(serve(back, proxy));
        Self { addr, fault, unanswered, asked }
    }

    /// From now on this is wrong, and nothing else.
    pub(crate) fn set(&self, fault: Fault) {
        self.fault.send_replace(fault);
    }

    /// Connections and requests that it has taken while it was silent.
    pub(crate) fn unanswered(&self) -> usize {
        self.unanswered.load(Ordering::Relaxed)
    }

    /// What was asked since then, Leases and Secrets apart.
    pub(crate) fn asked_since(&self, begin: Instant) -> Vec<Asked> {
        let asked = self.asked.lock().unwrap();
        asked.iter().filter(|asked| asked.at >= begin && !asked.is_apart()).cloned().collect()
    }

    /// What was asked since then, Leases and Secrets apart: less than two requests a second.
    pub(crate) fn asked_at_leisure(&self, begin: Instant) -> Vec<Asked> {
        let took = begin.elapsed();
        let asked = self.asked_since(begin);
        let room = 2 * took.as_millis() / 1000;
        assert!(asked.len() as u128 <= room, "{} in {took:?}: {asked:#?}", asked.len());
        asked
    }
}

async fn pipes(
    front: TcpListener,
    behind: SocketAddr,
    fault: watch::Receiver<Fault>,
    unanswered: Arc<AtomicUsize>,
) {
    while let Ok((stream, _)) = front.accept().await {
        if fault.borrow().silent {
            unanswered.fetch_add(1, Ordering::Relaxed);
        }
        let (fault, unanswered) = (fault.clone(), unanswered.clone());
        tokio::spawn(async move {
            let Ok(server) = TcpStream::connect(behind).await else { return };
            let (from_client, to_client) = stream.into_split();
            let (from_server, to_server) = server.into_split();
            tokio::select! {
                () = pipe(from_client, to_server, fault.clone(), Some(&unanswered)) => {}
                () = pipe(from_server, to_client, fault, None) => {}
            }
        });
    }
}

/// Passes bytes on, the end included, while the line is not silent.
async fn pipe(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut fault: watch::Receiver<Fault>,
    unanswered: Option<&AtomicUsize>,
) {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await.unwrap_or_default();
        let bytes = buffer.get(..read).unwrap_or_default();
        let is_request = bytes.first().is_some_and(u8::is_ascii_uppercase);
        if let Some(count) = unanswered.filter(|_| is_request && fault.borrow().silent) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        let heard = fault.wait_for(|fault| !fault.silent).await.is_ok();
        if !heard || read == 0 || to.write_all(bytes).await.is_err() {
            return;
        }
    }
}

#[derive(Clone)]
struct Proxy {
    client: kube::Client,
    fault: watch::Receiver<Fault>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

async fn serve(listener: TcpListener, proxy: Proxy) {
    while let Ok((stream, _)) = listener.accept().await {
        let proxy = proxy.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let proxy = proxy.clone();
                async move { Ok::<_, Infallible>(proxy.answer(request).await) }
            });
            let served = http1::Builder::new().serve_connection(TokioIo::new(stream), service);
            // A client may go at any time.
            served.await.unwrap_or_default();
        });
    }
}

impl Proxy {
    async fn answer(mut self, request: Request<Incoming>) -> Response<Answer> {
        let target = request.uri().path_and_query().map(ToString::to_string).unwrap_or_default();
        let asked = Asked { at: Instant::now(), target: target.clone() };
        self.asked.lock().unwrap().push(asked);
        let fault = self.fault.borrow().clone();
        if fault.forbids(&request) {
            return forbidden(&request);
        }
        if fault.ends(&target) {
            return Response::new(StreamBody::new(stream::empty()).boxed_unsync());
        }
        let (head, body) = request.into_parts();
        let body = body.collect().await.map(http_body_util::Collected::to_bytes);
        let request = Request::from_parts(head, Body::from(body.unwrap_or_default().to_vec()));
        let Ok(answer) = self.client.send(request).await else {
            let mut answer = Response::new(Answer::default());
            *answer.status_mut() = StatusCode::BAD_GATEWAY;
            return answer;
        };
        // A watch that is open when the fault begins ends too.
        answer.map(|body| {
            let over =
                async move { self.fault.wait_for(|fault| fault.ends(&target)).await.is_ok() };
            StreamBody::new(BodyStream::new(body).take_until(over)).boxed_unsync()
        })
    }
}

type Answer = UnsyncBoxBody<Bytes, kube::Error>;

/// What Kubernetes answers when a role does not allow something. A proxy that is set up to help
/// with debugging says more than it should.
fn forbidden(request: &Request<Incoming>) -> Response<Answer> {
    let path: Vec<_> = request.uri().path().split('/').collect();
    let [_, _, group, _, _, ns, plural, name, ..] = path[..] else {
        panic!("not a path below a namespace: {path:?}")
    };
    let credentials = request.headers().get(header::AUTHORIZATION).unwrap().to_str().unwrap();
    let message = format!(
        "{plural}.{group} {name:?} is forbidden: User \"robot\" cannot patch resource {plural:?} \
         in API group {group:?} in the namespace {ns:?} (Authorization: {credentials})"
    );
    let status = json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": "Forbidden", "code": 403,
        "details": {"name": name, "group": group, "kind": plural}});
    let mut answer = Response::new(whole(status.to_string()));
    *answer.status_mut() = StatusCode::FORBIDDEN;
    let json = header::HeaderValue::from_static("application/json");
    answer.headers_mut().insert(header::CONTENT_TYPE, json);
    answer
}

fn whole(text: String) -> Answer {
    Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync()
}
