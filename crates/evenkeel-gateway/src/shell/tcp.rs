//! Connections to Services that are not HTTP: told apart by their first bytes, and carried as they
//! are.
//!
//! They have no deadline once they are made. Keepalive finds out when a side has gone without a
//! word.

use std::future::{pending, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use rustix::net::{RecvFlags, sockopt};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::client::{Client, Waits};
use super::pump::{Broken, Pump};
use super::upstream::CONNECT_TIMEOUT;
use crate::engine::{Carried, Dial, Direction, OPENING_BYTES, Opening, Protocol, opening};

/// Silence after which a side is asked whether it is still there.
const KEEPALIVE_IDLE: Duration = Duration::from_mins(1);
/// Between two such questions.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(15);
/// Questions without an answer; then the connection is given up: two minutes in all.
const KEEPALIVE_PROBES: u32 = 4;
/// How long what one side has sent is still passed on when it takes nothing any more.
const LINGER: Duration = Duration::from_secs(2);

/// Whether a connection is HTTP or bytes, and the connection. Reads nothing: the bytes stay where
/// they are. A client that is silent for `patience` waits for the server to speak.
pub(super) async fn protocol(
    declared: Protocol,
    stream: TcpStream,
    patience: Duration,
) -> io::Result<(Protocol, TcpStream)> {
    if declared != Protocol::Detect {
        return Ok((declared, stream));
    }
    let told = match timeout(patience, until_told(&stream)).await {
        Ok(told) => told?,
        Err(_) => match look(&stream) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Opening::Bytes,
            told => told?,
        },
    };
    Ok(match told {
        Opening::Http => (Protocol::Http, stream),
        Opening::Bytes => (Protocol::Bytes, stream),
        // The runtime takes what has been looked at for read: registered anew, the socket is
        // readable again.
        Opening::Unclear => (Protocol::Bytes, TcpStream::from_std(stream.into_std()?)?),
    })
}

/// Waits for enough of the first bytes.
async fn until_told(stream: &TcpStream) -> io::Result<Opening> {
    loop {
        let ready = stream.ready(Interest::READABLE).await?;
        let seen = stream.try_io(Interest::READABLE, || match look(stream)? {
            // Bytes that do not tell leave the socket readable, which is no reason to look again.
            Opening::Unclear => Err(io::ErrorKind::WouldBlock.into()),
            told => Ok(told),
        });
        match seen {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            seen => return seen,
        }
        // Nothing follows, and a socket whose other side has ended stays ready: to wait for more
        // would take the worker for ever.
        if ready.is_read_closed() {
            return Ok(Opening::Bytes);
        }
    }
}

/// Looks at the first bytes.
fn look(stream: &TcpStream) -> io::Result<Opening> {
    let mut bytes = [0; OPENING_BYTES];
    let flags = RecvFlags::PEEK | RecvFlags::DONTWAIT;
    match rustix::net::recv(stream, &mut bytes, flags) {
        // The client sends nothing at all; the server may still have something to say.
        Ok((_, 0)) => Ok(Opening::Bytes),
        Ok((_, count)) => Ok(opening(bytes.get(..count).unwrap_or(&bytes))),
        Err(errno) => Err(errno.into()),
    }
}

/// Carries a connection until both sides have ended it.
pub(super) async fn carry(client: Rc<Client>, stream: TcpStream) {
    let worker = &client.worker;
    client.wait_for(Waits::Busy);
    if let Err(error) = prepare(&stream) {
        tracing::debug!(peer = %client.peer, %error, "connection lost before it was served");
        return;
    }
    let (mut carried, mut dial) =
        worker.engine.borrow_mut().connect(worker.now(), client.listener, client.peer);
    let upstream = loop {
        let Dial::To(endpoint) = dial else {
            tracing::debug!(peer = %client.peer, service = %client.listener, "no endpoint: reset");
            reset(&stream);
            return;
        };
        match connect(endpoint).await {
            Ok(upstream) => break upstream,
            Err(error) => {
                tracing::debug!(%endpoint, %error, "connection not taken");
                dial = worker.engine.borrow_mut().refused(worker.now(), &mut carried);
            }
        }
    };
    worker.engine.borrow_mut().connected(worker.now(), &mut carried);
    if let Err(error) = join(&client, &carried, &stream, &upstream).await {
        tracing::debug!(peer = %client.peer, %error, "connection reset");
        // An end would make what has arrived look whole.
        reset(&stream);
        reset(&upstream);
    }
}

/// A connection to an endpoint.
async fn connect(endpoint: SocketAddr) -> io::Result<TcpStream> {
    let connecting = timeout(CONNECT_TIMEOUT, TcpStream::connect(endpoint));
    let upstream = connecting.await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    prepare(&upstream)?;
    Ok(upstream)
}

/// Sets what a side needs that carries bytes.
fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(stream, KEEPALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(stream, KEEPALIVE_PROBES)?;
    Ok(())
}

/// Passes bytes both ways; each direction ends on its own.
async fn join(
    client: &Client,
    carried: &Carried,
    stream: &TcpStream,
    upstream: &TcpStream,
) -> Result<(), Broken> {
    let (mut inward, mut outward) = (Pump::default(), Pump::default());
    let scratch = &client.worker.scratch;
    let mut client_lost = pin!(lost(stream));
    let mut endpoint_lost = pin!(silent(upstream));
    let ended = poll_fn(|cx| {
        let scratch = &mut scratch.borrow_mut();
        let passed = |bytes| carried.passed(Direction::In, bytes);
        let inward = inward.poll(cx, (stream, upstream), scratch, passed);
        let passed = |bytes| carried.passed(Direction::Out, bytes);
        let outward = outward.poll(cx, (upstream, stream), scratch, passed);
        match (inward, outward) {
            (Poll::Ready(Err(broken)), _) => Poll::Ready(Err((Direction::In, broken))),
            (_, Poll::Ready(Err(broken))) => Poll::Ready(Err((Direction::Out, broken))),
            (Poll::Ready(Ok(())), Poll::Ready(Ok(()))) => Poll::Ready(Ok(())),
            // Nobody reads any more from a side that has ended, and perhaps nobody writes to it for
            // a long time: that it has gone has to be asked for.
            (Poll::Ready(Ok(())), Poll::Pending) => {
                let lost = client_lost.as_mut().poll(cx);
                lost.map(|error| Err((Direction::Out, Broken::Writing(error))))
            }
            (Poll::Pending, Poll::Ready(Ok(()))) => {
                let lost = endpoint_lost.as_mut().poll(cx);
                lost.map(|error| Err((Direction::In, Broken::Writing(error))))
            }
            (Poll::Pending, Poll::Pending) => Poll::Pending,
        }
    });
    let Err((direction, broken)) = ended.await else { return Ok(()) };
    if matches!(broken, Broken::Writing(_)) {
        // The side that takes nothing any more may have sent something before.
        let (pump, sides) = match direction {
            Direction::In => (&mut outward, (upstream, stream)),
            Direction::Out => (&mut inward, (stream, upstream)),
        };
        let other = if direction == Direction::In { Direction::Out } else { Direction::In };
        let rest = poll_fn(|cx| {
            pump.poll(cx, sides, &mut scratch.borrow_mut(), |bytes| carried.passed(other, bytes))
        });
        // However that ends, the connection is broken.
        match timeout(LINGER, pin!(rest)).await {
            Ok(Ok(()) | Err(_)) | Err(_) => {}
        }
    }
    Err(broken)
}

/// Waits until a connection is broken: reset, or without an answer to keepalive.
async fn lost(stream: &TcpStream) -> io::Error {
    let told = stream.ready(Interest::ERROR).await.and_then(|_| stream.take_error());
    match told {
        Ok(Some(error)) | Err(error) => error,
        Ok(None) => io::ErrorKind::ConnectionReset.into(),
    }
}

/// Waits until a connection is without an answer to keepalive. A reset does not count: an endpoint
/// that has said all it had to may answer so to what the client still sends, and the client has
/// perhaps not read everything yet.
async fn silent(stream: &TcpStream) -> io::Error {
    let error = lost(stream).await;
    match error.kind() {
        io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe => pending().await,
        _ => error,
    }
}

/// Closes so that the other side sees a reset, not an end.
fn reset(stream: &TcpStream) {
    if let Err(error) = sockopt::set_socket_linger(stream, Some(Duration::ZERO)) {
        tracing::debug!(%error, "closed instead of reset");
    }
}
