//! A Prometheus of a few lines: it knows how many answers were bad, and nothing else.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Collected, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::net::TcpListener;

/// The part of an encoded query that selects bad answers.
const BAD_ANSWERS: &str = "%225.%2A%22";

/// The server, for as long as its runtime.
pub(crate) struct Prometheus {
    pub(crate) addr: SocketAddr,
    bad: Arc<Mutex<Vec<String>>>,
}

impl Prometheus {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (addr, bad) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let known = bad.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let known = known.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(request, known.clone()));
                    let served =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    // A client may go at any time.
                    served.await.unwrap_or_default();
                });
            }
        });
        Self { addr, bad }
    }

    /// From now on half of the answers are bad in this namespace.
    pub(crate) fn spoil(&self, ns: &str) {
        self.bad.lock().unwrap().push(format!("namespace%3D%22{ns}%22"));
    }
}

async fn answer(
    request: Request<Incoming>,
    bad: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let query = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let query = String::from_utf8_lossy(&query);
    let is_bad = bad.lock().unwrap().iter().any(|place| query.contains(place));
    let value = match (query.contains(BAD_ANSWERS), is_bad) {
        (true, false) => "0",
        (true, true) => "5",
        (false, _) => "10",
    };
    let body = json!({"status": "success", "data": {"resultType": "vector",
        "result": [{"metric": {}, "value": [0, value]}]}});
    Ok(Response::new(Full::new(Bytes::from(body.to_string()))))
}
