//! Connections to endpoints, and the pool that keeps them between requests.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::BytesMut;
use rustix::io::Errno;
use rustix::net::RecvFlags;
use tokio::io::{AsyncReadExt as _, AsyncWrite as _};
use tokio::net::TcpStream;

use crate::engine::Connection;

/// How long a connection attempt may take; endpoints are near.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// Idle connections per endpoint and worker; more than this many are seldom busy at once.
const IDLE_PER_ENDPOINT_MAX: usize = 256;
/// Shorter than what common servers allow (nginx 75 s, Node.js 5 s is caught by validation).
const IDLE_MAX: Duration = Duration::from_secs(30);
/// Bytes per read.
const READ_BYTES: usize = 16 << 10;

/// A connection to an endpoint.
#[derive(Debug)]
pub(super) struct Upstream {
    pub(super) endpoint: SocketAddr,
    pub(super) stream: TcpStream,
    /// Received and not used yet.
    pub(super) read: BytesMut,
    /// Scratch space for the head of a request.
    pub(super) head: Vec<u8>,
    /// Whether it has served requests before.
    pub(super) reused: bool,
}

impl Upstream {
    /// A new connection.
    pub(super) async fn connect(endpoint: SocketAddr) -> io::Result<Self> {
        let connecting = tokio::time::timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint));
        let stream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        stream.set_nodelay(true)?;
        let (read, head) = (BytesMut::new(), Vec::with_capacity(512));
        Ok(Self { endpoint, stream, read, head, reused: false })
    }

    /// Reads what there is; 0 is the end.
    pub(super) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        self.read.reserve(READ_BYTES);
        pin!(self.stream.read_buf(&mut self.read)).poll(cx)
    }

    /// Writes some of `bytes`.
    pub(super) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(match ready!(Pin::new(&mut self.stream).poll_write(cx, bytes)) {
            Ok(0) => Err(io::ErrorKind::WriteZero.into()),
            other => other,
        })
    }

    /// Whether it looks open. Without `ask_system` only what the reactor has already seen counts,
    /// which costs nothing.
    fn open(&self, ask_system: bool) -> bool {
        let mut byte = [0_u8; 1];
        if ask_system {
            let peeked =
                rustix::net::recv(&self.stream, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
            return matches!(peeked, Err(Errno::AGAIN));
        }
        matches!(self.stream.try_read(&mut byte), Err(e) if e.kind() == io::ErrorKind::WouldBlock)
    }
}

use std::future::Future as _;

/// Idle connections of one worker.
#[derive(Debug, Default)]
pub(super) struct Idle {
    by_endpoint: BTreeMap<SocketAddr, Vec<(Duration, Upstream)>>,
}

impl Idle {
    /// The connection to `endpoint` that was used last, if it is still good.
    pub(super) fn take(
        &mut self,
        now: Duration,
        endpoint: SocketAddr,
        need: Connection,
    ) -> Option<Upstream> {
        let idle = self.by_endpoint.get_mut(&endpoint)?;
        while let Some((since, upstream)) = idle.pop() {
            let fresh = now.saturating_sub(since) < IDLE_MAX;
            if fresh && upstream.open(need == Connection::Validated) {
                return Some(upstream);
            }
        }
        None
    }

    /// Keeps a connection for later.
    pub(super) fn keep(&mut self, now: Duration, mut upstream: Upstream) {
        upstream.reused = true;
        let idle = self.by_endpoint.entry(upstream.endpoint).or_default();
        if idle.len() < IDLE_PER_ENDPOINT_MAX {
            idle.push((now, upstream));
        }
    }

    /// Closes what is too old and what leads to endpoints that are not `used` any more.
    pub(super) fn prune(&mut self, now: Duration, used: impl Fn(SocketAddr) -> bool) {
        self.by_endpoint.retain(|endpoint, idle| {
            idle.retain(|(since, _)| now.saturating_sub(*since) < IDLE_MAX);
            used(*endpoint) && !idle.is_empty()
        });
    }
}
