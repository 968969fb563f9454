//! A client's connection: what it waits for, and the socket as hyper sees it.

use std::cell::{Cell, RefCell};
use std::io::{self, IoSlice};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::answer::Lease;
use super::timers::Deadline;
use super::upstream::Upstream;
use super::worker::Worker;
use crate::engine::TIMEOUT_DEFAULT;

/// Long for a client that is about to ask: a request that comes later is not balanced. Short for
/// one that waits for the server's greeting, and only where no name says that it does.
const OPENING: Duration = Duration::from_millis(500);

/// How long a connection waits for what. Every wait ends: a connection that does nothing holds
/// memory, and an endpoint that is to be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Between requests. Generous: closing an idle connection may cross the client's next request.
    pub idle: Duration,
    /// From the first byte of a request's head to its last.
    pub head: Duration,
    /// For the next bytes of a request's body.
    pub body: Duration,
    /// For the head of an answer, when the route does not say. Starts again with every piece of a
    /// body that is too large to be kept.
    pub response: Duration,
    /// For the next bytes of an answer's body, from the endpoint.
    pub answer: Duration,
    /// For the client to take bytes of its answer.
    pub stall: Duration,
    /// For the first byte of a connection to a Service's port whose protocol is not declared. After
    /// that the server is taken to speak first, and the connection is carried as bytes.
    pub opening: Duration,
    /// For the client to take or to send anything, once the endpoint is being emptied.
    pub draining: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_mins(5),
            head: Duration::from_secs(30),
            body: Duration::from_mins(1),
            response: TIMEOUT_DEFAULT,
            answer: Duration::from_mins(5),
            stall: Duration::from_mins(1),
            opening: OPENING,
            draining: Duration::from_secs(10),
        }
    }
}

impl Limits {
    /// How often connections are looked through; no limit is kept more exactly than this.
    pub(super) fn tick(&self) -> Duration {
        let all = [self.idle, self.head, self.body, self.answer, self.stall, self.draining];
        let shortest = all.into_iter().min().unwrap_or_default();
        (shortest / 4).clamp(Duration::from_millis(20), Duration::from_secs(1))
    }
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Waits {
    /// The next request.
    Idle,
    /// The rest of a request's head.
    Head,
    /// The client, for more of a request's body.
    Body,
    /// The endpoint, for more of an answer's body.
    Answer,
    /// Nothing, or something that has a deadline of its own.
    Busy,
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub(super) worker: Rc<Worker>,
    /// The address that the configuration knows.
    pub(super) listener: SocketAddr,
    pub(super) peer: IpAddr,
    /// Of the attempt under way.
    pub(super) deadline: Rc<Deadline>,
    /// The endpoint that answers the request under way.
    pub(super) endpoint: Cell<Option<SocketAddr>>,
    waits: Cell<(Waits, Duration)>,
    /// Since when the client takes no bytes.
    stalled: Cell<Option<Duration>>,
    /// It has waited too long.
    late: Cell<bool>,
    waker: RefCell<Option<Waker>>,
    /// Interim answers, which hyper does not handle.
    interim: RefCell<Vec<u8>>,
    /// It was answered before all that it sent was read.
    pub(super) refused: Cell<bool>,
    /// Set by a 101: what the connection turns into.
    pub(super) tunnel: RefCell<Option<Tunnel>>,
}

/// The other end of a connection that has switched protocols.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) lease: Lease,
    pub(super) upstream: Upstream,
}

impl Client {
    pub(super) fn new(worker: Rc<Worker>, listener: SocketAddr, peer: IpAddr) -> Self {
        let deadline = worker.deadlines.add();
        let since = worker.coarse_now();
        Self {
            worker,
            listener,
            peer,
            deadline,
            endpoint: Cell::new(None),
            waits: Cell::new((Waits::Idle, since)),
            stalled: Cell::new(None),
            late: Cell::new(false),
            waker: RefCell::new(None),
            interim: RefCell::new(Vec::new()),
            refused: Cell::new(false),
            tunnel: RefCell::new(None),
        }
    }

    pub(super) fn waits(&self) -> Waits {
        self.waits.get().0
    }

    /// Sets what it waits for from now on; a wait for the same thing continues.
    pub(super) fn wait_for(&self, waits: Waits) {
        if self.waits() != waits {
            self.waits.set((waits, self.worker.coarse_now()));
        }
    }

    /// Whether it has waited too long. The task is woken when it has.
    pub(super) fn late(&self) -> bool {
        self.late.get()
    }

    /// Keeps the waker of the connection's task.
    pub(super) fn register(&self, cx: &Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Wakes its task if it has waited too long. `in_use` says whether an endpoint is not being
    /// emptied.
    pub(super) fn look(&self, now: Duration, limits: &Limits, in_use: impl Fn(SocketAddr) -> bool) {
        let (waits, since) = self.waits.get();
        let draining = self.endpoint.get().is_some_and(|endpoint| !in_use(endpoint));
        let of_client = |limit: Duration| if draining { limit.min(limits.draining) } else { limit };
        let limit = match waits {
            Waits::Idle => Some(limits.idle),
            Waits::Head => Some(limits.head),
            Waits::Body => Some(of_client(limits.body)),
            Waits::Answer => Some(limits.answer),
            Waits::Busy => None,
        };
        let passed = |since: Duration, limit| now.saturating_sub(since) >= limit;
        let stalled =
            self.stalled.get().is_some_and(|since| passed(since, of_client(limits.stall)));
        if stalled || limit.is_some_and(|limit| passed(since, limit)) {
            self.late.set(true);
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Whether the connection has to be given up, because it has waited too long for something that
    /// nothing else gives up.
    pub(super) fn gives_up(&self) -> bool {
        let only_here = matches!(self.waits(), Waits::Idle | Waits::Head) || self.stalls();
        // What came in the meantime lifts it.
        self.late.replace(false) && only_here
    }

    /// Whether the client takes no bytes.
    pub(super) fn stalls(&self) -> bool {
        self.stalled.get().is_some()
    }

    /// Sends an interim answer, and waits until it is on its way: nothing may overtake it.
    pub(super) async fn send_interim(&self, head: &[u8]) {
        self.interim.borrow_mut().extend_from_slice(head);
        std::future::poll_fn(|cx| {
            if self.interim.borrow().is_empty() {
                return Poll::Ready(());
            }
            self.register(cx);
            Poll::Pending
        })
        .await;
    }
}

/// The socket as hyper sees it: knows when a head begins and when the client does not take its answer,
/// and slips in interim answers.
#[derive(Debug)]
pub(super) struct Downstream {
    client: Rc<Client>,
    stream: TcpStream,
    /// Read before and not used yet.
    early: Bytes,
    /// The client has closed its side.
    pub(super) ended: bool,
    /// Something was written since the last bytes were read.
    answered: bool,
}

impl Downstream {
    pub(super) fn new(client: Rc<Client>, stream: TcpStream) -> Self {
        Self { client, stream, early: Bytes::new(), ended: false, answered: false }
    }

    /// Gives back bytes that were read.
    pub(super) fn unread(&mut self, bytes: Bytes) {
        self.early = bytes;
    }

    /// Whether something was written since the last bytes were read.
    pub(super) fn answered(&self) -> bool {
        self.answered
    }

    fn note_write<T>(&mut self, wrote: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match &wrote {
            Poll::Ready(_) => {
                self.answered = true;
                self.client.stalled.set(None);
            }
            Poll::Pending if self.client.stalled.get().is_none() => {
                self.client.stalled.set(Some(self.client.worker.coarse_now()));
            }
            Poll::Pending => {}
        }
        wrote
    }
}

impl AsyncRead for Downstream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if !self.early.is_empty() {
            let count = self.early.len().min(buf.remaining());
            buf.put_slice(&self.early.split_to(count));
            return Poll::Ready(Ok(()));
        }
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        if buf.filled().len() == before {
            self.ended = true;
            return Poll::Ready(Ok(()));
        }
        self.answered = false;
        if self.client.waits() == Waits::Idle {
            self.client.wait_for(Waits::Head);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Downstream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.note_write(wrote)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.note_write(wrote)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// hyper comes here when it has written all it had, so an interim answer fits in.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.client.interim.borrow().is_empty() {
            let client = Rc::clone(&self.client);
            let mut interim = client.interim.borrow_mut();
            let wrote = Pin::new(&mut self.stream).poll_write(cx, &interim);
            let wrote = ready!(self.note_write(wrote))?;
            interim.drain(..wrote);
            if interim.is_empty() {
                // The code that waits for it is in this task, and was polled before.
                cx.waker().wake_by_ref();
            }
        }
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
