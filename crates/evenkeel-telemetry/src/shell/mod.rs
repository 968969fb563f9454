//! The sockets and threads: scraping over HTTP, serving the API, asking another Prometheus, and
//! asking this one without holding up an executor.

mod alertmanager;
mod client;
mod endpoint;
mod fetch;
mod offloaded;
mod server;

pub use alertmanager::Alertmanager;
pub use client::PrometheusClient;
pub use endpoint::ClientError;
pub use fetch::HttpFetch;
pub use offloaded::Offloaded;
pub use server::{Server, ServerError};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
use std::time::Duration;

/// What we call ourselves, to targets and other metrics servers.
const AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));

/// An HTTP client that keeps its connections.
type HttpClient = Client<HttpConnector, Full<Bytes>>;

/// A client whose idle connections outlive the usual scrape intervals.
fn http_client(connect_timeout: Duration) -> HttpClient {
    builder().build(connector(connect_timeout))
}

fn builder() -> hyper_util::client::legacy::Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        .timer(TokioTimer::new())
        .pool_max_idle_per_host(1)
        .pool_idle_timeout(Duration::from_mins(5));
    builder
}

fn connector(connect_timeout: Duration) -> HttpConnector {
    let mut connector = HttpConnector::new();
    connector.set_nodelay(true);
    connector.set_connect_timeout(Some(connect_timeout));
    connector
}

/// An error with its causes in one line.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        text = format!("{text}: {cause}");
        next = cause.source();
    }
    text
}
