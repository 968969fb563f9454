//! A receiver of webhooks and notifications.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, runtime::Handle};

/// What is noted of a request, and what is answered.
pub(crate) type Answer = fn(&Request<Bytes>) -> (String, Response<Full<Bytes>>);

/// The receiver, for as long as the runtime that it was started on.
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    noted: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub(crate) fn start(runtime: &Handle, answer: Answer) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (addr, noted) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let notes = noted.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let notes = notes.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| take(request, answer, notes.clone()));
                    let served =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    // A client may go at any time.
                    served.await.unwrap_or_default();
                });
            }
        });
        Self { addr, noted }
    }

    /// How often each was noted.
    pub(crate) fn told(&self) -> BTreeMap<String, usize> {
        let mut noted = BTreeMap::new();
        for note in &*self.noted.lock().unwrap() {
            *noted.entry(note.clone()).or_default() += 1;
        }
        noted
    }
}

async fn take(
    request: Request<Incoming>,
    answer: Answer,
    notes: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let (note, response) = answer(&Request::from_parts(head, body));
    notes.lock().unwrap().push(note);
    Ok(response)
}
