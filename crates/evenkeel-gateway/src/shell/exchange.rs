//! One attempt on the wire: the request going out while the answer may already come in.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::CONTENT_LENGTH;
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use hyper::body::{Body as _, Incoming};

use super::body::{self, Framing};
use super::upstream::Upstream;
use super::wire::{self, Head, Malformed, Outgoing};

/// Bodies up to this size are kept, so that the request can be repeated.
const REPLAY_BYTES_MAX: usize = 64 << 10;

/// The body of a request on its way to endpoints.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// None; `true` when the client said `Content-Length: 0`.
    Empty {
        /// Send `Content-Length: 0` to the endpoint too.
        stated: bool,
    },
    /// Complete, can be sent any number of times.
    Whole(Bytes),
    /// Too large to keep, or still arriving: can be sent once.
    Stream {
        /// What was read while looking whether it is small.
        prefix: Bytes,
        /// The rest.
        rest: Incoming,
        /// Of the whole, when the client stated it.
        length: Option<u64>,
    },
}

impl RequestBody {
    /// Reads a small body completely, and the beginning of a large one.
    pub(super) async fn read(
        headers: &HeaderMap,
        mut body: Incoming,
    ) -> Result<Self, hyper::Error> {
        if body.is_end_stream() {
            return Ok(Self::Empty { stated: headers.contains_key(CONTENT_LENGTH) });
        }
        let length = body.size_hint().exact();
        if length.is_some_and(|length| length > REPLAY_BYTES_MAX as u64) {
            return Ok(Self::Stream { prefix: Bytes::new(), rest: body, length });
        }
        let mut whole = Bytes::new();
        let mut more = BytesMut::new();
        loop {
            let frame = std::future::poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await;
            let Some(frame) = frame.transpose()? else { break };
            let Ok(data) = frame.into_data() else { continue };
            if whole.is_empty() && more.is_empty() {
                whole = data;
            } else {
                if more.is_empty() {
                    more.extend_from_slice(&std::mem::take(&mut whole));
                }
                more.extend_from_slice(&data);
            }
            if whole.len() + more.len() > REPLAY_BYTES_MAX {
                let prefix = if more.is_empty() { whole } else { more.freeze() };
                return Ok(Self::Stream { prefix, rest: body, length });
            }
        }
        Ok(Self::Whole(if more.is_empty() { whole } else { more.freeze() }))
    }

    /// How the endpoint finds the end of the body.
    pub(super) fn framing(&self) -> Framing {
        match self {
            Self::Empty { stated: false } => Framing::Empty,
            Self::Empty { stated: true } => Framing::Length(0),
            Self::Whole(bytes) => Framing::Length(bytes.len() as u64),
            Self::Stream { length: Some(length), .. } => Framing::Length(*length),
            Self::Stream { length: None, .. } => Framing::Chunked,
        }
    }

    /// Whether it can be sent any number of times.
    pub(super) fn kept(&self) -> bool {
        !matches!(self, Self::Stream { .. })
    }
}

/// How far the sending of a request is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sending {
    /// Head or body are left.
    On,
    /// The end of a chunked body is among what is being written.
    LastChunk,
    /// Everything was sent.
    Done,
    /// Writing failed; the endpoint may still have answered before.
    CutOff,
    /// The client's body broke off or makes no sense; the endpoint will never get the rest.
    ClientBroken,
}

/// Why there is no head of an answer.
#[derive(Debug, thiserror::Error)]
pub(super) enum NoHead {
    /// The connection broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// What came is not an answer.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// The client broke off.
    #[error("the request's body broke off or is malformed")]
    Client,
}

/// A request being sent to an endpoint, and the connection it uses.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) upstream: Upstream,
    body: RequestBody,
    /// How much of `upstream.head` is written.
    written: usize,
    /// Whether any byte was written.
    sent: bool,
    sending: Sending,
    /// Protocols that the client wants to switch to.
    upgrade: Option<HeaderValue>,
    /// Sending waits for the client's body.
    starved: bool,
    /// Some of it came since `take_fed`.
    fed: bool,
}

/// An attempt that got no answer.
#[derive(Debug)]
pub(super) struct NoAnswer {
    /// The body, to be sent elsewhere if `replayable`.
    pub(super) body: RequestBody,
    /// Whether any byte had been written.
    pub(super) sent: bool,
    /// Whether the body is still complete.
    pub(super) replayable: bool,
    /// Whether the connection had served requests before.
    pub(super) reused: bool,
}

impl Exchange {
    /// Prepares to send `request` and `body` over `upstream`.
    pub(super) fn new(mut upstream: Upstream, request: &Outgoing<'_>, body: RequestBody) -> Self {
        upstream.head.clear();
        wire::write_head(&mut upstream.head, request);
        // One write for head and body.
        if let RequestBody::Whole(bytes) = &body {
            upstream.head.extend_from_slice(bytes);
        }
        Self {
            upstream,
            body,
            written: 0,
            sent: false,
            sending: Sending::On,
            upgrade: request.upgrade.cloned(),
            starved: false,
            fed: false,
        }
    }

    /// Gives up.
    pub(super) fn no_answer(self) -> NoAnswer {
        let replayable = self.replayable();
        NoAnswer { body: self.body, sent: self.sent, replayable, reused: self.upstream.reused }
    }

    /// Gives up after an answer that is not wanted; its body can be sent elsewhere if `replayable`.
    pub(super) fn into_body(self) -> RequestBody {
        self.body
    }

    /// Whether the whole request can be sent again.
    pub(super) fn replayable(&self) -> bool {
        self.body.kept() || !self.sent
    }

    /// Whether the whole request was sent.
    pub(super) fn sent_all(&self) -> bool {
        self.sending == Sending::Done
    }

    /// Whether the connection is clean for the next request, once the answer is read.
    pub(super) fn reusable(&self) -> bool {
        self.sending == Sending::Done && self.upstream.read.is_empty()
    }

    /// Whether sending waits for the client's body.
    pub(super) fn starved(&self) -> bool {
        self.starved
    }

    /// Whether some of the body was passed on since this was last asked.
    pub(super) fn take_fed(&mut self) -> bool {
        std::mem::take(&mut self.fed)
    }

    /// Whether the client's body broke off or makes no sense.
    pub(super) fn client_broken(&self) -> bool {
        self.sending == Sending::ClientBroken
    }

    /// The next head of the answer, which may be an interim one.
    pub(super) fn poll_head(
        &mut self,
        cx: &mut Context<'_>,
        asked: &Method,
    ) -> Poll<Result<Head, NoHead>> {
        loop {
            self.poll_rest(cx);
            if self.client_broken() {
                return Poll::Ready(Err(NoHead::Client));
            }
            if let Some(head) = wire::take_head(&mut self.upstream.read, asked)? {
                let switches = head.status == StatusCode::SWITCHING_PROTOCOLS;
                if switches && !head.switches_to(self.upgrade.as_ref()) {
                    let why = "it switches to a protocol that nobody asked for";
                    return Poll::Ready(Err(Malformed(why).into()));
                }
                return Poll::Ready(Ok(head));
            }
            if ready!(self.upstream.poll_read(cx))? == 0 {
                return Poll::Ready(Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()));
            }
        }
    }

    /// Sends what is left, as far as possible now.
    pub(super) fn poll_rest(&mut self, cx: &mut Context<'_>) {
        if self.sending == Sending::On || self.sending == Sending::LastChunk {
            match self.poll_send(cx) {
                Poll::Pending => {}
                Poll::Ready(Ok(sending)) => self.sending = sending,
                Poll::Ready(Err(error)) => {
                    tracing::trace!(endpoint = %self.upstream.endpoint, %error, "request cut off");
                    self.sending = Sending::CutOff;
                }
            }
        }
    }

    /// Ends with the result of sending; `Err` when the endpoint takes no more bytes.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<Sending>> {
        self.starved = false;
        loop {
            while self.written < self.upstream.head.len() {
                let out = std::mem::take(&mut self.upstream.head);
                let rest = out.get(self.written..).unwrap_or_default();
                let wrote = self.upstream.poll_write(cx, rest);
                self.upstream.head = out;
                self.written += ready!(wrote)?;
                self.sent = true;
            }
            let RequestBody::Stream { prefix, rest, length } = &mut self.body else {
                return Poll::Ready(Ok(Sending::Done));
            };
            if self.sending == Sending::LastChunk {
                return Poll::Ready(Ok(Sending::Done));
            }
            let data = if prefix.is_empty() {
                if rest.is_end_stream() && length.is_some() {
                    return Poll::Ready(Ok(Sending::Done));
                }
                let frame = Pin::new(rest).poll_frame(cx);
                self.starved = frame.is_pending();
                match ready!(frame) {
                    None => Bytes::new(),
                    Some(Err(error)) => {
                        tracing::debug!(%error, "the request's body broke off");
                        return Poll::Ready(Ok(Sending::ClientBroken));
                    }
                    Some(Ok(frame)) => match frame.into_data() {
                        Ok(data) if !data.is_empty() => data,
                        _ => continue,
                    },
                }
            } else {
                std::mem::take(prefix)
            };
            self.fed = true;
            self.upstream.head.clear();
            self.written = 0;
            let over = data.is_empty();
            match (length, over) {
                (Some(_), true) => return Poll::Ready(Ok(Sending::ClientBroken)),
                (Some(_), false) => self.upstream.head.extend_from_slice(&data),
                (None, _) => body::write_chunk(&mut self.upstream.head, &data),
            }
            if over {
                self.sending = Sending::LastChunk;
            }
        }
    }
}
