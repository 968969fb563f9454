use std::{cell::RefCell, net::SocketAddr};

use bytes::Bytes;
use http_body_util::Full;
use hyper::{
    Request, Response,
    body::Incoming,
    client::conn::http1::{SendRequest, handshake},
};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// Idle connections kept; what comes back beyond it is closed.
const IDLE_MAX: usize = 256;

type Sender = SendRequest<Full<Bytes>>;

/// Keep-alive connections to one address; the one used last is taken first.
pub(crate) struct Pool {
    target: SocketAddr,
    idle: RefCell<Vec<Sender>>,
}

/// Why there is no answer.
pub(crate) enum PoolError {
    /// No connection.
    Connect(String),
    /// The connection broke after bytes of the request may have left.
    Broken(String),
}

impl Pool {
    pub(crate) fn new(target: SocketAddr) -> Self {
        Self { target, idle: RefCell::default() }
    }

    /// Sends a request once. A kept connection that the server closed before anything was written
    /// is dropped and another one taken: nothing was sent, so nothing is retried.
    pub(crate) async fn send(
        &self,
        mut request: Request<Full<Bytes>>,
    ) -> Result<(Response<Incoming>, Sender), PoolError> {
        while let Some(mut sender) = self.take() {
            match sender.try_send_request(request).await {
                Ok(response) => return Ok((response, sender)),
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(PoolError::Broken(words(error.error()))),
                },
            }
        }
        let mut sender =
            self.connect().await.map_err(|error| PoolError::Connect(words(&*error)))?;
        match sender.send_request(request).await {
            Ok(response) => Ok((response, sender)),
            Err(error) => Err(PoolError::Broken(words(&error))),
        }
    }

    /// Gives a connection back once its answer has been read.
    pub(crate) async fn keep(&self, mut sender: Sender) {
        if sender.ready().await.is_ok() && self.idle.borrow().len() < IDLE_MAX {
            self.idle.borrow_mut().push(sender);
        }
    }

    fn take(&self) -> Option<Sender> {
        let mut idle = self.idle.borrow_mut();
        idle.retain(|sender| !sender.is_closed());
        idle.pop()
    }

    async fn connect(&self) -> Result<Sender, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.target).await?;
        stream.set_nodelay(true)?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::task::spawn_local(async move {
            if let Err(error) = connection.await {
                tracing::debug!(%error, "connection ended badly");
            }
        });
        Ok(sender)
    }
}

/// An error with its causes in one line.
fn words(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
