//! The life of a client's connection, from the first byte to the last.

use std::future::{Future as _, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jiff::Timestamp;
use jiff::fmt::rfc2822::DateTimePrinter;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::check::Refusal;
use super::client::{Client, Downstream, Tunnel, Waits};
use super::forward::forward;
use super::tcp;
use super::upstream::Upstream;
use crate::engine::{End, Protocol};

/// How long data that a client still sends is read after its last answer. Closing at once would
/// reset the connection, and with it the answer on its way.
const LINGER: Duration = Duration::from_secs(2);
/// How much of it.
const LINGER_BYTES_MAX: u64 = 1 << 20;

const HEAD_LATE: Refusal =
    Refusal(StatusCode::REQUEST_TIMEOUT, "the request's head did not arrive in time\n");

/// Serves a connection until it ends.
pub(super) async fn serve(client: Rc<Client>, stream: TcpStream) {
    let worker = Rc::clone(&client.worker);
    let declared = worker.engine.borrow().protocol(client.listener);
    match tcp::protocol(declared, stream, worker.limits().opening).await {
        Ok((Protocol::Bytes, stream)) => Box::pin(tcp::carry(client, stream)).await,
        Ok((Protocol::Http | Protocol::Detect, stream)) => serve_http(client, stream).await,
        Err(error) => {
            tracing::debug!(peer = %client.peer, %error, "connection lost before it was served");
        }
    }
}

/// Serves requests.
async fn serve_http(client: Rc<Client>, stream: TcpStream) {
    let peer = client.peer;
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost before it was served");
        return;
    }
    let downstream = Downstream::new(Rc::clone(&client), stream);
    let own = Rc::clone(&client);
    let service = service_fn(move |request| forward(Rc::clone(&own), request));
    let mut connection = http1::Builder::new()
        .half_close(true)
        .header_read_timeout(None)
        .serve_connection(TokioIo::new(downstream), service);
    let ended = poll_fn(|cx| {
        client.register(cx);
        if let Poll::Ready(result) = Pin::new(&mut connection).poll(cx) {
            return Poll::Ready(Some(result));
        }
        if client.gives_up() { Poll::Ready(None) } else { Poll::Pending }
    });
    let ended = ended.await;
    // Ends the request under way, if there is one.
    let parts = connection.into_parts();
    let mut downstream = parts.io.into_inner();
    if let Some(tunnel) = client.tunnel.take() {
        if let Some(Ok(())) = ended {
            join(&client, downstream, parts.read_buf, tunnel).await;
        }
        return;
    }
    let last_words = match ended {
        Some(Ok(())) if client.refused.get() => None,
        Some(Ok(())) => return,
        Some(Err(error)) => {
            tracing::debug!(%peer, %error, "client connection ended early");
            // hyper answers what it cannot read, except the beginning of HTTP/2.
            let unanswered = error.is_parse() && !downstream.answered();
            unanswered.then_some(Refusal(StatusCode::BAD_REQUEST, "only HTTP/1.1 is served here\n"))
        }
        None if client.stalls() || client.waits() != Waits::Head => return,
        None => Some(HEAD_LATE),
    };
    // A client that does not read is disconnected.
    tokio::time::timeout(LINGER, end(&mut downstream, last_words)).await.unwrap_or_default();
}

/// Ends a connection on whose other side something may still be on its way. `last_words` go past
/// hyper, which has written all it had.
async fn end(downstream: &mut Downstream, last_words: Option<Refusal>) {
    if let Some(Refusal(status, text)) = last_words {
        let date = DateTimePrinter::new().timestamp_to_rfc9110_string(&Timestamp::now());
        let answer = format!(
            "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\n\
             connection: close\r\ncontent-length: {}\r\ndate: {}\r\n\r\n{text}",
            text.len(),
            date.unwrap_or_default()
        );
        if downstream.write_all(answer.as_bytes()).await.is_err() {
            return;
        }
    }
    if downstream.shutdown().await.is_ok() && !downstream.ended {
        let mut rest = downstream.take(LINGER_BYTES_MAX);
        // How the other side ends makes no difference any more.
        tokio::io::copy(&mut rest, &mut tokio::io::sink()).await.unwrap_or_default();
    }
}

/// Joins two connections after a 101, for as long as both live.
async fn join(client: &Client, mut downstream: Downstream, early: Bytes, tunnel: Tunnel) {
    let Tunnel { mut lease, upstream } = tunnel;
    let Upstream { mut stream, read, .. } = upstream;
    downstream.unread(early);
    let end = {
        let copying = async {
            if downstream.write_all(&read).await.is_err() {
                return End::ClientGone;
            }
            // Either side may close at any time; that is how tunnels end.
            match tokio::io::copy_bidirectional(&mut downstream, &mut stream).await {
                Ok(_) | Err(_) => End::Complete,
            }
        };
        let mut copying = pin!(copying);
        poll_fn(|cx| {
            client.register(cx);
            let copied = copying.as_mut().poll(cx);
            if copied.is_pending() && client.gives_up() {
                Poll::Ready(End::ClientGone)
            } else {
                copied
            }
        })
        .await
    };
    lease.finish(end);
}
