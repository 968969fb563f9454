//! Somebody who is told of every event of a release.

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
use serde_json::Value;
use tokio::net::TcpListener;

use crate::cluster::Cluster;

/// The receiver, for as long as its cluster.
pub(crate) struct Receiver {
    pub(crate) addr: SocketAddr,
    told: Arc<Mutex<Vec<String>>>,
}

impl Receiver {
    pub(crate) fn start(cluster: &Cluster) -> Self {
        let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
        listener.set_nonblocking(true).unwrap();
        let (addr, told) = (listener.local_addr().unwrap(), Arc::<Mutex<Vec<String>>>::default());
        let heard = told.clone();
        cluster.beside(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                let heard = heard.clone();
                tokio::spawn(async move {
                    let service = service_fn(move |request| answer(request, heard.clone()));
                    let served =
                        http1::Builder::new().serve_connection(TokioIo::new(stream), service);
                    // A client may go at any time.
                    served.await.unwrap_or_default();
                });
            }
        });
        Self { addr, told }
    }

    /// How often each message came.
    pub(crate) fn told(&self) -> BTreeMap<String, usize> {
        let mut told = BTreeMap::new();
        for message in &*self.told.lock().unwrap() {
            *told.entry(message.clone()).or_default() += 1;
        }
        told
    }
}

async fn answer(
    request: Request<Incoming>,
    heard: Arc<Mutex<Vec<String>>>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let body = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let body: Value = serde_json::from_slice(&body).unwrap_or_default();
    let message = body.pointer("/metadata/eventMessage").and_then(Value::as_str);
    heard.lock().unwrap().push(message.unwrap_or_default().to_owned());
    Ok(Response::new(Full::default()))
}
