use std::time::Duration;

use bytes::Bytes;
use evenkeel_control::redact;
use http::{Method, Request, Uri, header, request};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder, builderstates::WantsSchemes};
use hyper_util::client::legacy::{Client, connect::HttpConnector};

use super::{AGENT, HttpClient, builder, chain, connector, http_client};

/// How long a connection may take to be made.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// Bytes an answer may have: what we ask for is small.
const ANSWER_BYTES_MAX: usize = 16 << 20;

/// Another server that is asked over HTTP: its address and the connections to it.
#[derive(Clone)]
pub(super) struct Endpoint {
    client: Transport,
    url: String,
}

/// Certificates are read only where they are needed: an image may have none.
#[derive(Clone)]
enum Transport {
    Plain(HttpClient),
    Tls(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
}

/// Why an address cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{url:?} is not an address that can be asked: {problem} (write it like {example})")]
pub struct ClientError {
    /// As given.
    pub url: String,
    /// What is wrong with it.
    pub problem: String,
    /// An address of the kind that is wanted.
    pub example: &'static str,
}

impl Endpoint {
    /// The server at `url`, a prefix path included, below which `api` is asked. With `https://`
    /// its certificate must be signed by one that the platform trusts; `SSL_CERT_FILE` may name
    /// others.
    pub(super) fn new(url: &str, api: &str, example: &'static str) -> Result<Self, ClientError> {
        // The address is shown in errors and logs.
        let shown = redact::url(url);
        let bad = |problem: String| ClientError { url: shown.clone(), problem, example };
        let uri: Uri =
            url.parse().map_err(|error: http::uri::InvalidUri| bad(error.to_string()))?;
        if uri.query().is_some() {
            return Err(bad("it must not have a query".to_owned()));
        }
        if uri.authority().is_some_and(|authority| authority.as_str().contains('@')) {
            return Err(bad("it must not have a user and password".to_owned()));
        }
        let client = match uri.scheme_str() {
            Some("http") => Transport::Plain(http_client(CONNECT_MAX)),
            Some("https") => {
                let trust = HttpsConnectorBuilder::new().with_native_roots();
                Transport::Tls(tls(trust.map_err(|error| bad(error.to_string()))?))
            }
            Some(other) => return Err(bad(format!("{other} is not supported, only http(s) is"))),
            None => return Err(bad("the http:// in front is missing".to_owned())),
        };
        Ok(Self { client, url: format!("{}{api}", url.trim_end_matches('/')) })
    }

    /// Trusts what this configuration trusts.
    #[cfg(test)]
    pub(super) fn trust(&mut self, config: tokio_rustls::rustls::ClientConfig) {
        self.client = Transport::Tls(tls(HttpsConnectorBuilder::new().with_tls_config(config)));
    }

    /// Where it is.
    pub(super) fn url(&self) -> &str {
        &self.url
    }

    /// The head of a request.
    pub(super) fn request(&self, method: Method, path: &str) -> request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("{}/{path}", self.url))
            .header(header::USER_AGENT, AGENT)
    }

    /// Status and body of the answer; an error is why there is none.
    pub(super) async fn send(
        &self,
        request: request::Builder,
        body: String,
    ) -> Result<(u16, Bytes), String> {
        let request = request
            .body(Full::from(body))
            .map_err(|error| format!("cannot ask {}: {error}", self.url))?;
        let response = match &self.client {
            Transport::Plain(client) => client.request(request).await,
            Transport::Tls(client) => client.request(request).await,
        };
        let response = response.map_err(|error| chain(&error))?;
        let status = response.status().as_u16();
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| {
            if error.is::<LengthLimitError>() {
                format!("the answer has more than {} MiB", ANSWER_BYTES_MAX >> 20)
            } else {
                chain(&*error)
            }
        })?;
        Ok((status, body.to_bytes()))
    }
}

fn tls(
    trust: HttpsConnectorBuilder<WantsSchemes>,
) -> Client<HttpsConnector<HttpConnector>, Full<Bytes>> {
    let mut tcp = connector(CONNECT_MAX);
    tcp.enforce_http(false);
    builder().build(trust.https_only().enable_http1().wrap_connector(tcp))
}
