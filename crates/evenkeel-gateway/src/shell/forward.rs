//! The way of one request: ask the engine, do the attempt, report, until there is an answer.

use std::cell::Cell;
use std::future::{Future as _, poll_fn};
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio::io::AsyncWriteExt as _;

use super::answer::{self, AnswerBody, Lease};
use super::exchange::{Exchange, NoAnswer, RequestBody};
use super::timers::Deadline;
use super::upstream::Upstream;
use super::wire::{self, Head, Outgoing};
use super::worker::Worker;
use crate::engine::{Attempt, Attempted, Connection, End, HeaderChange, Meta, Outcome, Step};

/// How long a client may take for the part of a body that is kept.
const BODY_TIMEOUT: Duration = Duration::from_mins(1);

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    /// The address that the configuration knows.
    pub(super) listener: SocketAddr,
    pub(super) peer: IpAddr,
    pub(super) deadline: Rc<Deadline>,
    /// Since when it waits for a request; `None` while one is under way.
    pub(super) idle_since: Cell<Option<Duration>>,
}

/// What an attempt gave.
enum Tried {
    Answered(Box<(Head, Exchange)>),
    Failed { outcome: Outcome, replayable: bool, body: RequestBody },
}

/// Answers one request.
pub(super) async fn forward(
    client: Rc<Client>,
    mut request: Request<Incoming>,
) -> Result<Response<AnswerBody>, hyper::Error> {
    client.idle_since.set(None);
    let upgrade = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
    let (mut parts, body) = request.into_parts();
    if parts.method == Method::CONNECT {
        return Ok(status(StatusCode::METHOD_NOT_ALLOWED));
    }
    let Some(body) = read_body(&client, &parts, body).await? else {
        let mut response = status(StatusCode::REQUEST_TIMEOUT);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        return Ok(response);
    };
    let mut response = answer(&client, &mut parts, body, upgrade).await;
    if client.worker.closing.get() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Reads a small body, or the beginning of a large one; `None` when the client takes too long.
async fn read_body(
    client: &Client,
    parts: &Parts,
    body: Incoming,
) -> Result<Option<RequestBody>, hyper::Error> {
    let mut reading = pin!(RequestBody::read(&parts.headers, body));
    let deadlines = &client.worker.deadlines;
    let mut armed = false;
    let body = poll_fn(|cx| {
        if let Poll::Ready(body) = reading.as_mut().poll(cx) {
            return Poll::Ready(body.map(Some));
        }
        if !armed {
            armed = true;
            deadlines.arm(&client.deadline, client.worker.now() + BODY_TIMEOUT);
        }
        if client.deadline.poll_passed(cx) { Poll::Ready(Ok(None)) } else { Poll::Pending }
    });
    let body = body.await;
    if armed {
        deadlines.disarm(&client.deadline);
    }
    body
}

async fn answer(
    client: &Rc<Client>,
    parts: &mut Parts,
    mut body: RequestBody,
    mut upgrade: Option<OnUpgrade>,
) -> Response<AnswerBody> {
    let worker = &client.worker;
    let (request, mut step) = {
        let host = parts.headers.get(HOST).and_then(|host| host.to_str().ok());
        let meta = Meta {
            method: &parts.method,
            path: parts.uri.path(),
            query: parts.uri.query(),
            host: host.or(parts.uri.host()),
            headers: &parts.headers,
        };
        worker.engine.borrow_mut().start(worker.now(), client.listener, &meta)
    };
    let mut lease = Lease::new(Rc::clone(client), request);
    loop {
        let attempt = match step {
            Step::Attempt(attempt) => attempt,
            Step::Answer(own) => return answer::own(&own),
            // Only after an answered attempt, which is handled below.
            Step::Respond => return status(StatusCode::BAD_GATEWAY),
        };
        match try_once(client, &lease, parts, body, attempt).await {
            Tried::Answered(answered) => {
                let (head, exchange) = *answered;
                let outcome = Outcome::Head { status: head.status.as_u16() };
                let replayable = exchange.replayable();
                step = lease.on_result(Attempted { outcome, replayable });
                if step == Step::Respond {
                    if head.status == StatusCode::SWITCHING_PROTOCOLS {
                        return tunnel(lease, exchange, head, upgrade.take());
                    }
                    return answer::relay(worker, lease, exchange, head);
                }
                body = exchange.into_body();
            }
            Tried::Failed { outcome, replayable, body: kept } => {
                tracing::debug!(endpoint = %attempt.endpoint, ?outcome, "attempt failed");
                step = lease.on_result(Attempted { outcome, replayable });
                body = kept;
            }
        }
    }
}

async fn try_once(
    client: &Client,
    lease: &Lease,
    parts: &mut Parts,
    body: RequestBody,
    attempt: Attempt,
) -> Tried {
    let worker = &client.worker;
    // A body that can be sent only once deserves a connection that is surely open, too.
    let need = if body.kept() { attempt.connection } else { Connection::Validated };
    let idle = worker.idle.borrow_mut().take(worker.now(), attempt.endpoint, need);
    let upstream = match idle {
        Some(upstream) => upstream,
        None => match Upstream::connect(attempt.endpoint).await {
            Ok(upstream) => upstream,
            Err(error) => {
                tracing::debug!(endpoint = %attempt.endpoint, %error, "no connection");
                return Tried::Failed { outcome: Outcome::Refused, replayable: true, body };
            }
        },
    };
    let mut exchange = prepare(client, lease, parts, body, (upstream, attempt.number));
    worker.deadlines.arm(&client.deadline, attempt.deadline);
    let head = poll_fn(|cx| {
        if let Poll::Ready(head) = exchange.poll_head(cx, &parts.method) {
            return Poll::Ready(Some(head));
        }
        if client.deadline.poll_passed(cx) { Poll::Ready(None) } else { Poll::Pending }
    });
    let head = head.await;
    worker.deadlines.disarm(&client.deadline);
    match head {
        Some(Ok(head)) => Tried::Answered(Box::new((head, exchange))),
        Some(Err(error)) => {
            tracing::debug!(endpoint = %attempt.endpoint, %error, "no answer");
            let NoAnswer { body, sent, replayable, reused } = exchange.no_answer();
            Tried::Failed { outcome: Outcome::Broken { sent, reused }, replayable, body }
        }
        None => {
            let NoAnswer { body, replayable, .. } = exchange.no_answer();
            Tried::Failed { outcome: Outcome::TimedOut, replayable, body }
        }
    }
}

fn prepare(
    client: &Client,
    lease: &Lease,
    parts: &mut Parts,
    body: RequestBody,
    (upstream, attempt): (Upstream, u8),
) -> Exchange {
    let rule = lease.request.rule();
    let backend = lease.request.backend();
    let unchanged = HeaderChange::default();
    let changes = [rule.map(|rule| &rule.filters), backend.map(|backend| &backend.filters)];
    let changed = changes.into_iter().flatten().any(|f| f.request_headers != unchanged);
    let changed = changed.then(|| {
        let mut headers = parts.headers.clone();
        changes
            .into_iter()
            .flatten()
            .for_each(|filters| filters.request_headers.apply(&mut headers));
        headers
    });
    let headers = changed.as_ref().unwrap_or(&parts.headers);
    let new_host = lease.request.rewritten_host();
    let rewritten = lease.request.rewritten_path(parts.uri.path());
    let rewritten = rewritten.map(|path| match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    });
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let host = new_host.map(str::as_bytes).or(headers.get(HOST).map(HeaderValue::as_bytes));
    let outgoing = Outgoing {
        method: &parts.method,
        path: rewritten.as_deref().unwrap_or(path),
        host: host.or(parts.uri.authority().map(|authority| authority.as_str().as_bytes())),
        headers,
        client: client.peer,
        body: body.framing(),
        upgrade: if upgrades(headers) { headers.get(UPGRADE) } else { None },
        attempt,
    };
    Exchange::new(upstream, &outgoing, body)
}

/// Whether the client wants to switch protocols. Not to HTTP/2 without TLS: that would be a way
/// around routing.
fn wants_upgrade(request: &Request<Incoming>) -> bool {
    upgrades(request.headers())
}

fn upgrades(headers: &http::HeaderMap) -> bool {
    let Some(protocol) = headers.get(UPGRADE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let named =
        |value: &HeaderValue| value.to_str().is_ok_and(|list| wire::has_token(list, "upgrade"));
    !protocol.to_ascii_lowercase().contains("h2c") && headers.get_all(CONNECTION).iter().any(named)
}

/// Joins the two connections after a 101, for as long as both live.
fn tunnel(
    mut lease: Lease,
    exchange: Exchange,
    head: Head,
    upgrade: Option<OnUpgrade>,
) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::empty());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if let Some(protocol) = head.upgrade {
        response.headers_mut().insert(UPGRADE, protocol);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    let Some(upgrade) = upgrade else {
        *response.status_mut() = StatusCode::BAD_GATEWAY;
        return response;
    };
    tokio::task::spawn_local(async move {
        let Upstream { mut stream, read, .. } = exchange.upstream;
        let end = match upgrade.await {
            Err(_) => End::ClientGone,
            Ok(client) => {
                let mut client = TokioIo::new(client);
                let early = client.write_all(&read).await;
                match early {
                    Err(_) => End::ClientGone,
                    // Either side may close at any time; that is how tunnels end.
                    Ok(()) => match tokio::io::copy_bidirectional(&mut client, &mut stream).await {
                        Ok(_) | Err(_) => End::Complete,
                    },
                }
            }
        };
        lease.finish(end);
    });
    response
}

fn status(status: StatusCode) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::Whole(Some(Bytes::from_static(b"\n"))));
    *response.status_mut() = status;
    response
}
