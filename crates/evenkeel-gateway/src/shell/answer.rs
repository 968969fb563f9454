//! Answers on their way to clients.

use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::header::{CONNECTION, CONTENT_TYPE, LOCATION, RETRY_AFTER};
use http::{HeaderValue, Response, StatusCode};
use hyper::body::{Body, Frame, SizeHint};

use super::body::{Decoded, Decoder};
use super::check::Refusal;
use super::client::{Client, Waits};
use super::exchange::Exchange;
use super::wire::{Head, Malformed};
use super::worker::Worker;
use crate::engine::{self, Answer, Attempted, End, Step};

/// A request under way. If it is dropped early, the client went away.
#[derive(Debug)]
pub(super) struct Lease {
    client: Rc<Client>,
    pub(super) request: engine::Request,
    over: bool,
}

impl Lease {
    pub(super) fn new(client: Rc<Client>, request: engine::Request) -> Self {
        Self { client, request, over: false }
    }

    /// Reports an attempt and returns what comes next.
    pub(super) fn on_result(&mut self, result: Attempted) -> Step {
        let worker = &self.client.worker;
        let step = worker.engine.borrow_mut().on_result(worker.now(), &mut self.request, result);
        worker.report_emptied();
        step
    }

    /// The request is over.
    pub(super) fn finish(&mut self, end: End) {
        if !self.over {
            self.over = true;
            let worker = &self.client.worker;
            let now = worker.now();
            worker.engine.borrow_mut().finish(now, &mut self.request, end);
            worker.report_emptied();
            self.client.endpoint.set(None);
            self.client.wait_for(Waits::Idle);
        }
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.finish(End::ClientGone);
    }
}

/// The endpoint broke off within the answer; the client's connection is closed to signal it.
#[derive(Debug, thiserror::Error)]
#[error("the endpoint broke off within its answer")]
pub(super) struct BrokenOff;

/// The body of an answer.
#[derive(Debug)]
pub(super) enum AnswerBody {
    /// Known as a whole; `None` once it is taken.
    Whole(Option<Bytes>),
    /// Relayed as it arrives.
    Relay(Box<Relay>),
}

/// An answer being relayed.
#[derive(Debug)]
pub(super) struct Relay {
    exchange: Option<Exchange>,
    decoder: Decoder,
    keep_alive: bool,
    lease: Lease,
}

impl AnswerBody {
    /// No body.
    pub(super) fn empty() -> Self {
        Self::Whole(None)
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = BrokenOff;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        match self.get_mut() {
            Self::Whole(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Self::Relay(relay) => relay.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(bytes) => bytes.is_none(),
            Self::Relay(relay) => relay.exchange.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Whole(bytes) => {
                SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
            }
            Self::Relay(relay) => {
                relay.decoder.remaining().map_or_else(SizeHint::default, SizeHint::with_exact)
            }
        }
    }
}

impl Relay {
    fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BrokenOff>>> {
        loop {
            let Some(exchange) = &mut self.exchange else { return Poll::Ready(None) };
            exchange.poll_rest(cx);
            if exchange.client_broken() {
                return Poll::Ready(Some(Err(self.break_off(End::ClientGone))));
            }
            match self.decoder.decode(&mut exchange.upstream.read) {
                Ok(Decoded::Data(data)) => {
                    if self.decoder.done() {
                        self.complete();
                    }
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Ok(Decoded::End) => {
                    self.complete();
                    return Poll::Ready(None);
                }
                Ok(Decoded::More) => match ready!(poll_more(exchange, &self.lease.client, cx)) {
                    Some(0) if self.decoder.ends_with_connection() => {
                        self.complete();
                        return Poll::Ready(None);
                    }
                    Some(more) if more > 0 => {}
                    _ => return Poll::Ready(Some(Err(self.break_off(End::Truncated)))),
                },
                Err(error) => {
                    let endpoint = exchange.upstream.endpoint;
                    tracing::debug!(%endpoint, %error, "answer cut off");
                    return Poll::Ready(Some(Err(self.break_off(End::Truncated))));
                }
            }
        }
    }

    fn complete(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            give_back(&self.lease.client.worker, exchange, self.keep_alive);
        }
        self.lease.finish(End::Complete);
    }

    fn break_off(&mut self, end: End) -> BrokenOff {
        self.exchange = None;
        self.lease.finish(end);
        BrokenOff
    }
}

/// Reads more of an answer; `None` when the connection broke or has been silent for too long.
fn poll_more(
    exchange: &mut Exchange,
    client: &Client,
    cx: &mut Context<'_>,
) -> Poll<Option<usize>> {
    let read = exchange.upstream.poll_read(cx);
    if read.is_ready() {
        client.wait_for(Waits::Busy);
        return read.map(Result::ok);
    }
    if client.waits() == Waits::Answer && client.late() {
        tracing::debug!(endpoint = %exchange.upstream.endpoint, "answer went silent");
        return Poll::Ready(None);
    }
    client.wait_for(Waits::Answer);
    Poll::Pending
}

/// Keeps the connection of a finished exchange if it can serve another.
pub(super) fn give_back(worker: &Worker, exchange: Exchange, keep_alive: bool) {
    let endpoint = exchange.upstream.endpoint;
    if keep_alive && exchange.reusable() && worker.engine.borrow().in_use(endpoint) {
        worker.idle.borrow_mut().keep(worker.now(), exchange.upstream);
    }
}

/// Makes the client's answer from the endpoint's.
pub(super) fn relay(
    worker: &Rc<Worker>,
    mut lease: Lease,
    mut exchange: Exchange,
    head: Head,
) -> Response<AnswerBody> {
    let mut decoder = Decoder::new(head.framing);
    let whole = if decoder.done() {
        Some(None)
    } else if decoder.remaining().is_some_and(|left| left <= exchange.upstream.read.len() as u64) {
        match decoder.decode(&mut exchange.upstream.read) {
            Ok(Decoded::Data(data)) => Some(Some(data)),
            _ => None,
        }
    } else {
        None
    };
    if !exchange.sent_all() {
        lease.client.refused.set(true);
    }
    let mut response = Response::new(AnswerBody::empty());
    *response.status_mut() = head.status;
    *response.headers_mut() = head.headers;
    for filters in
        [lease.request.backend().map(|b| &b.filters), lease.request.rule().map(|r| &r.filters)]
            .into_iter()
            .flatten()
    {
        filters.response_headers.apply(response.headers_mut());
    }
    *response.body_mut() = if let Some(body) = whole {
        give_back(worker, exchange, head.keep_alive);
        lease.finish(End::Complete);
        AnswerBody::Whole(body)
    } else {
        let keep_alive = head.keep_alive;
        let exchange = Some(exchange);
        AnswerBody::Relay(Box::new(Relay { exchange, decoder, keep_alive, lease }))
    };
    response
}

/// An answer of the gateway itself. `why` is what was wrong with the last endpoint's answer.
pub(super) fn own(answer: &Answer, why: Option<Malformed>) -> Response<AnswerBody> {
    let text = match (answer, why) {
        (Answer::Broken, Some(why)) => Bytes::from(format!("{why}\n")),
        _ => Bytes::from_static(answer.text().as_bytes()),
    };
    let status = StatusCode::from_u16(answer.status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = plain(status, text);
    let headers = response.headers_mut();
    match answer {
        Answer::Redirect { location, .. } => {
            if let Ok(location) = HeaderValue::from_str(location) {
                headers.insert(LOCATION, location);
            }
        }
        Answer::NoEndpoint => {
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        _ => {}
    }
    response
}

/// The answer to a request that is not dealt with. What of it was not read yet is not trusted to be
/// a request, so the connection ends.
pub(super) fn refuse(client: &Client, Refusal(status, text): Refusal) -> Response<AnswerBody> {
    client.wait_for(Waits::Idle);
    client.refused.set(true);
    let mut response = plain(status, Bytes::from_static(text.as_bytes()));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

fn plain(status: StatusCode, text: Bytes) -> Response<AnswerBody> {
    let mut response = Response::new(AnswerBody::empty());
    *response.status_mut() = status;
    if !text.is_empty() {
        *response.body_mut() = AnswerBody::Whole(Some(text));
        let kind = HeaderValue::from_static("text/plain; charset=utf-8");
        response.headers_mut().insert(CONTENT_TYPE, kind);
    }
    response
}
