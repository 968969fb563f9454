use bytes::Bytes;
use evenkeel_control::{BoxFuture, redact};
use evenkeel_promql::exposition::Format;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Full, LengthLimitError, Limited};

use super::{AGENT, HttpClient, chain, http_client};
use crate::{Fetch, FetchError, Fetched, ScrapeSettings, Target};

const ACCEPT: &str = "text/plain;version=0.0.4;q=1,application/openmetrics-text;version=1.0.0;q=0.8,\
                      */*;q=0.1";

/// Scrapes over HTTP; one connection per target, kept.
#[derive(Clone)]
pub struct HttpFetch {
    client: HttpClient,
}

impl HttpFetch {
    /// A client that gives up on a connection after the scrape timeout.
    pub fn new(settings: &ScrapeSettings) -> Self {
        Self { client: http_client(settings.timeout) }
    }

    async fn get(&self, target: &Target, settings: &ScrapeSettings) -> Result<Fetched, FetchError> {
        let misconfigured = |error: http::Error| FetchError::Misconfigured {
            problem: format!("{:?} is not a URL: {error}", redact::url(&target.url)),
        };
        let request = Request::get(&target.url)
            .header(header::ACCEPT, ACCEPT)
            .header(header::USER_AGENT, AGENT)
            .header(
                "x-prometheus-scrape-timeout-seconds",
                settings.timeout.as_secs_f64().to_string(),
            )
            .body(Full::<Bytes>::default())
            .map_err(misconfigured)?;
        let response = self
            .client
            .request(request)
            .await
            .map_err(|error| FetchError::Unreachable { problem: chain(&error) })?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status { status: response.status().as_u16() });
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok());
        let format = Format::of_content_type(kind.unwrap_or_default());
        let limit = settings.body_bytes_max;
        let body = Limited::new(response.into_body(), limit).collect().await.map_err(|error| {
            if error.is::<LengthLimitError>() {
                FetchError::TooLarge { limit }
            } else {
                FetchError::Unreachable { problem: chain(&*error) }
            }
        })?;
        let text = String::from_utf8(body.to_bytes().into()).map_err(|_| FetchError::NotText)?;
        Ok(Fetched { text, format })
    }
}

impl Fetch for HttpFetch {
    fn fetch<'a>(
        &'a self,
        target: &'a Target,
        settings: &'a ScrapeSettings,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        Box::pin(self.get(target, settings))
    }
}
