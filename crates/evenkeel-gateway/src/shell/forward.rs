//! One request on its way: ask the engine, do the attempt, report, until there is an answer.

use std::convert::Infallible;
use std::future::{Future as _, poll_fn};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use http::header::{CONNECTION, HOST, UPGRADE};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version};
use hyper::body::Incoming;

use super::answer::{self, AnswerBody, Lease};
use super::check::{Refusal, check};
use super::client::{Client, Tunnel, Waits};
use super::exchange::{Exchange, NoAnswer, NoHead, RequestBody};
use super::upstream::Upstream;
use super::wire::{self, Head, Malformed, Outgoing};
use crate::engine::{
    Answer, Attempt, Attempted, Connection, End, HeaderChange, Meta, Outcome, Rule, Step,
};

/// What an attempt gave.
enum Tried {
    Answered(Box<(Head, Exchange)>),
    Failed {
        outcome: Outcome,
        replayable: bool,
        body: RequestBody,
        why: Option<Malformed>,
    },
    /// The client did not send its body; that says nothing about the endpoint.
    NoBody(Refusal),
}

const BODY_LATE: Refusal =
    Refusal(StatusCode::REQUEST_TIMEOUT, "the request's body did not arrive in time\n");
const BODY_MALFORMED: Refusal =
    Refusal(StatusCode::BAD_REQUEST, "the request's body broke off or is malformed\n");

/// Answers one request.
pub(super) async fn forward(
    client: Rc<Client>,
    request: Request<Incoming>,
) -> Result<Response<AnswerBody>, Infallible> {
    client.wait_for(Waits::Busy);
    let (mut parts, body) = request.into_parts();
    let body = match check(&mut parts) {
        Ok(()) => read_body(&client, &parts, body).await,
        Err(refusal) => Err(refusal),
    };
    let mut response = match body {
        Ok(body) => answer(&client, &mut parts, body).await,
        Err(refusal) => answer::refuse(&client, refusal),
    };
    if client.worker.closing.get() {
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

/// Reads a small body, or the beginning of a large one.
async fn read_body(client: &Client, parts: &Parts, body: Incoming) -> Result<RequestBody, Refusal> {
    let mut reading = pin!(RequestBody::read(&parts.headers, body));
    let worker = &client.worker;
    let mut armed = false;
    let body = poll_fn(|cx| {
        if let Poll::Ready(body) = reading.as_mut().poll(cx) {
            return Poll::Ready(body.map_err(|error| {
                tracing::debug!(peer = %client.peer, %error, "the request's body broke off");
                BODY_MALFORMED
            }));
        }
        if !armed {
            armed = true;
            worker.deadlines.arm(&client.deadline, worker.now() + worker.limits().body);
        }
        if client.deadline.poll_passed(cx) { Poll::Ready(Err(BODY_LATE)) } else { Poll::Pending }
    });
    let body = body.await;
    if armed {
        worker.deadlines.disarm(&client.deadline);
    }
    body
}

async fn answer(
    client: &Rc<Client>,
    parts: &mut Parts,
    mut body: RequestBody,
) -> Response<AnswerBody> {
    let worker = &client.worker;
    let (request, mut step) = {
        let meta = Meta {
            method: &parts.method,
            path: parts.uri.path(),
            query: parts.uri.query(),
            host: parts.headers.get(HOST).and_then(|host| host.to_str().ok()),
            headers: &parts.headers,
        };
        worker.engine.borrow_mut().start(worker.now(), client.listener, &meta)
    };
    let mut lease = Lease::new(Rc::clone(client), request);
    let mut last_why = None;
    loop {
        let attempt = match step {
            Step::Attempt(attempt) => attempt,
            Step::Answer(own) => {
                client.refused.set(!body.kept());
                return answer::own(&own, last_why);
            }
            // Only after an answered attempt, which is handled below.
            Step::Respond => return answer::own(&Answer::Broken, None),
        };
        client.endpoint.set(Some(attempt.endpoint));
        match try_once(client, &lease, parts, body, attempt).await {
            Tried::Answered(answered) => {
                let (head, exchange) = *answered;
                let outcome = Outcome::Head { status: head.status.as_u16() };
                let replayable = exchange.replayable();
                step = lease.on_result(Attempted { outcome, replayable });
                if step == Step::Respond {
                    if head.status == StatusCode::SWITCHING_PROTOCOLS {
                        return tunnel(client, lease, exchange, head);
                    }
                    return answer::relay(worker, lease, exchange, head);
                }
                body = exchange.into_body();
            }
            Tried::Failed { outcome, replayable, body: kept, why } => {
                tracing::debug!(endpoint = %attempt.endpoint, ?outcome, "attempt failed");
                step = lease.on_result(Attempted { outcome, replayable });
                (body, last_why) = (kept, why);
            }
            Tried::NoBody(refusal) => {
                lease.finish(End::ClientGone);
                return answer::refuse(client, refusal);
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
                let outcome = Outcome::Refused;
                return Tried::Failed { outcome, replayable: true, body, why: None };
            }
        },
    };
    // How long a large body takes is up to its size, not to the endpoint.
    let limited = |one: &Rule| one.timeout.or(one.attempt_timeout).is_some();
    let renew = !body.kept() && !lease.request.rule().is_some_and(limited);
    let mut exchange = prepare(client, lease, parts, body, (upstream, attempt.number));
    worker.deadlines.arm(&client.deadline, attempt.deadline);
    let head = loop {
        let head = poll_fn(|cx| poll_head(client, &mut exchange, &parts.method, renew, cx)).await;
        match head {
            Heard::Head(Ok(head)) if is_interim(head.status) => {
                pass_interim(client, parts.version, &head).await;
            }
            other => break other,
        }
    };
    worker.deadlines.disarm(&client.deadline);
    let error = match head {
        Heard::Head(Ok(head)) => return Tried::Answered(Box::new((head, exchange))),
        Heard::Head(Err(NoHead::Client)) => return Tried::NoBody(BODY_MALFORMED),
        Heard::NoBody => return Tried::NoBody(BODY_LATE),
        Heard::Head(Err(error)) => Some(error),
        Heard::Nothing => None,
    };
    let NoAnswer { body, sent, replayable, reused } = exchange.no_answer();
    let Some(error) = error else {
        return Tried::Failed { outcome: Outcome::TimedOut, replayable, body, why: None };
    };
    tracing::debug!(endpoint = %attempt.endpoint, %error, "no answer");
    let why = if let NoHead::Malformed(why) = error { Some(why) } else { None };
    Tried::Failed { outcome: Outcome::Broken { sent, reused }, replayable, body, why }
}

/// The result of waiting for a head.
enum Heard {
    Head(Result<Head, NoHead>),
    /// Nothing in time.
    Nothing,
    /// Nothing from the client, so that there is nothing to answer.
    NoBody,
}

fn poll_head(
    client: &Client,
    exchange: &mut Exchange,
    method: &Method,
    renew: bool,
    cx: &mut Context<'_>,
) -> Poll<Heard> {
    if let Poll::Ready(head) = exchange.poll_head(cx, method) {
        client.wait_for(Waits::Busy);
        return Poll::Ready(Heard::Head(head));
    }
    let (starved, fed) = (exchange.starved(), exchange.take_fed());
    if !starved || fed {
        client.wait_for(Waits::Busy);
    }
    if renew && fed {
        let worker = &client.worker;
        worker.deadlines.arm(&client.deadline, worker.now() + worker.limits().response);
    }
    if starved {
        client.wait_for(Waits::Body);
        if client.late() {
            return Poll::Ready(Heard::NoBody);
        }
    }
    match client.deadline.poll_passed(cx) {
        true if starved => Poll::Ready(Heard::NoBody),
        true => Poll::Ready(Heard::Nothing),
        false => Poll::Pending,
    }
}

fn is_interim(status: StatusCode) -> bool {
    status.is_informational() && status != StatusCode::SWITCHING_PROTOCOLS
}

/// Passes on interim answers of an endpoint (RFC 9110, 15.2): not to HTTP/1.0, which does not have
/// them, and not 100, which the client got from us when it asked for it.
async fn pass_interim(client: &Client, version: Version, head: &Head) {
    if version == Version::HTTP_11 && head.status != StatusCode::CONTINUE {
        let mut bytes = Vec::new();
        wire::write_interim(&mut bytes, head);
        client.send_interim(&bytes).await;
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
    let rewrites = changes.into_iter().flatten().any(|filters| filters.rewrite.is_some());
    let request = Some(&lease.request).filter(|_| rewrites);
    let new_host = request.and_then(|request| request.rewritten_host());
    let rewritten = request.and_then(|request| request.rewritten_path(parts.uri.path()));
    let rewritten = rewritten.map(|path| match parts.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    });
    let path = parts.uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let host = new_host.map(str::as_bytes).or(headers.get(HOST).map(HeaderValue::as_bytes));
    // A body under way and another protocol do not go together.
    let upgrades = parts.version == Version::HTTP_11 && body.kept() && upgrades(headers);
    let outgoing = Outgoing {
        method: &parts.method,
        path: rewritten.as_deref().unwrap_or(path),
        host,
        listener: client.listener,
        headers,
        client: client.peer,
        body: body.framing(),
        upgrade: if upgrades { headers.get(UPGRADE) } else { None },
        attempt,
    };
    Exchange::new(upstream, &outgoing, body)
}

/// Whether the client wants to switch protocols. Not to HTTP/2 without TLS: that would be a way
/// around routing.
fn upgrades(headers: &http::HeaderMap) -> bool {
    let Some(protocol) = headers.get(UPGRADE).and_then(|value| value.to_str().ok()) else {
        return false;
    };
    let named =
        |value: &HeaderValue| value.to_str().is_ok_and(|list| wire::has_token(list, "upgrade"));
    !protocol.to_ascii_lowercase().contains("h2c") && headers.get_all(CONNECTION).iter().any(named)
}

/// Answers with a 101; the connection's task joins the two connections once that is written.
fn tunnel(client: &Client, lease: Lease, exchange: Exchange, head: Head) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::empty());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    if let Some(protocol) = head.upgrade {
        response.headers_mut().insert(UPGRADE, protocol);
        response.headers_mut().insert(CONNECTION, HeaderValue::from_static("upgrade"));
    }
    client.tunnel.replace(Some(Tunnel { lease, upstream: exchange.upstream }));
    response
}
