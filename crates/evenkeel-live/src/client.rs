use std::{
    net::IpAddr,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_control::redact;
use http::{
    HeaderValue, Request, Response, Uri,
    header::{AUTHORIZATION, USER_AGENT},
};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper_util::{
    client::legacy::Client as HttpClient,
    rt::{TokioExecutor, TokioTimer},
};
use kube::{
    Client, Config,
    client::{Body, ClientBuilder, ConfigExt as _},
};
use tokio::time::Instant;
use tower_service::Service;

use crate::{
    answer::Failure,
    counts::{Counts, Tally, Verb},
    identity::{Connector, Identity},
    pace::Pace,
    settings::{AGENT, LiveSettings},
    words::{describe, plugin},
};

/// Unused connections kept: as many as there are usually requests at once.
const IDLE_MAX: usize = 16;
/// How long an unused connection is kept: shorter than load balancers' usual minute.
const IDLE: Duration = Duration::from_secs(45);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// The HTTP client of one API server. Nothing it does waits forever: connecting and every
/// exchange have a limit, dead connections are closed by the kernel's probes, and when an exchange
/// runs into its limit all pooled connections are dropped, so that the next request does not meet
/// the same dead peer.
///
/// kube's own stack is not used as a whole, because it has no limit on answers and retries `POST`
/// after a 504 up to fifteen times with pauses of many minutes; the run loop has pauses of its own.
#[derive(Clone)]
pub(crate) struct ApiClient {
    client: Client,
    pool: Pool,
    pub(crate) settings: Arc<LiveSettings>,
    pub(crate) counts: Counts,
    /// Whose watches end at once, list again in these turns.
    pub(crate) relists: Arc<Pace>,
    /// The command that the credentials come from.
    plugin: Option<Arc<str>>,
}

/// Why there is no client of an API server.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// It would have to go through a proxy.
    #[error(
        "proxy {proxy} is configured, and proxies are not supported: remove proxy-url from the \
         kubeconfig, or unset HTTPS_PROXY and https_proxy"
    )]
    Proxy {
        /// Its address, without a password.
        proxy: String,
    },
    /// TLS or the credentials cannot be set up.
    #[error("{problem}")]
    Setup {
        /// The library's words, without what they quote.
        problem: String,
    },
}

impl ApiClient {
    pub(crate) fn new(mut config: Config, settings: LiveSettings) -> Result<Self, ClientError> {
        // HTTPS_PROXY is not about this machine, where `up` and its agents are.
        if let Some(proxy) = config.proxy_url.take()
            && !is_loopback(&config.cluster_url)
        {
            return Err(ClientError::Proxy { proxy: redact::url(&proxy.to_string()) });
        }
        let plugin = plugin(&config.auth_info);
        Self::with(config, settings, plugin.as_deref())
            .map_err(|error| ClientError::Setup { problem: describe(&error, plugin.as_deref()) })
    }

    fn with(
        mut config: Config,
        settings: LiveSettings,
        plugin: Option<&str>,
    ) -> Result<Self, kube::Error> {
        let agent = HeaderValue::from_str(&settings.agent());
        config.headers.push((USER_AGENT, agent.unwrap_or(HeaderValue::from_static(AGENT))));
        let counts = Counts::default();
        let identity = Arc::new(Identity::new(&mut config, &settings)?);
        let pool = Pool::new(identity, counts.clone());
        let namespace = config.default_namespace.clone();
        let stack =
            ClientBuilder::new(pool.clone(), namespace).with_layer(&config.extra_headers_layer()?);
        let client = match config.auth_layer()? {
            Some(auth) => {
                stack.with_layer(&auth).with_layer(&config.base_uri_layer()).build::<Incoming>()
            }
            None => stack.with_layer(&config.base_uri_layer()).build::<Incoming>(),
        };
        let plugin = plugin.map(Arc::from);
        let relists = Arc::new(Pace::new(settings.relist_interval, settings.stale_after / 2));
        Ok(Self { client, pool, settings: Arc::new(settings), counts, relists, plugin })
    }

    /// One exchange: the whole body of a good answer.
    pub(crate) async fn exchange(
        &self,
        verb: Verb,
        request: Request<Vec<u8>>,
    ) -> Result<Bytes, Failure> {
        let whole = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            let body = answer.into_body().collect().await?.to_bytes();
            if status.is_success() { Ok(body) } else { Err(Failure::status(status, &body)) }
        };
        self.within(verb, whole).await
    }

    /// Opens a stream: the body of a good answer, yet to come. Whoever reads it minds its silence
    /// and calls [`Self::reset`] with the number that comes along.
    pub(crate) async fn open(
        &self,
        verb: Verb,
        request: Request<Vec<u8>>,
    ) -> Result<(Body, Generation), Failure> {
        let generation = self.pool.generation();
        let head = async {
            let answer = self.send(request).await?;
            let status = answer.status();
            if status.is_success() {
                return Ok((answer.into_body(), generation));
            }
            let body = answer.into_body().collect().await?.to_bytes();
            Err(Failure::status(status, &body))
        };
        self.within(verb, head).await
    }

    async fn send(&self, mut request: Request<Vec<u8>>) -> Result<Response<Body>, Failure> {
        if let Some(bearer) = self.pool.identity.bearer().map_err(Failure::Broken)? {
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        let answer = self.client.send(request.map(Body::from)).await;
        answer.map_err(|error| Failure::broken(&error, self.plugin.as_deref()))
    }

    async fn within<T>(
        &self,
        verb: Verb,
        exchange: impl Future<Output = Result<T, Failure>>,
    ) -> Result<T, Failure> {
        self.counts.request(verb);
        let mut doubt = Doubt {
            client: self,
            generation: self.pool.generation(),
            since: Instant::now(),
            answered: false,
        };
        let limit = self.settings.request;
        let done = tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_| {
            self.reset(doubt.generation);
            Err(Failure::Silent(limit))
        });
        doubt.answered = true;
        if done.as_ref().is_err_and(Failure::is_trouble) {
            self.counts.tally(Tally::Failed);
        }
        done
    }

    /// Says that a connection of that pool was silent: its unused connections are dropped.
    pub(crate) fn reset(&self, generation: Generation) {
        self.counts.tally(Tally::Silent);
        self.pool.reset(generation);
    }
}

/// Counts a failure and drops the pool when a caller gives up on an exchange that was silent for a
/// while: whoever renews a Lease has less patience than we have, and must not meet one dead
/// connection after the other.
struct Doubt<'a> {
    client: &'a ApiClient,
    generation: Generation,
    since: Instant,
    answered: bool,
}

impl Drop for Doubt<'_> {
    fn drop(&mut self) {
        if !self.answered && self.since.elapsed() >= self.client.settings.doubt {
            self.client.counts.tally(Tally::Failed);
            self.client.reset(self.generation);
        }
    }
}

fn is_loopback(url: &Uri) -> bool {
    let host = url.host().unwrap_or_default().trim_matches(['[', ']']);
    host == "localhost" || host.parse().is_ok_and(|ip: IpAddr| ip.is_loopback())
}

/// Number of a pool of connections; a new one takes its place when a connection was silent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Generation(u64);

/// A pool of connections that can be replaced as a whole, under the layers that sign requests.
#[derive(Clone)]
struct Pool {
    identity: Arc<Identity>,
    current: Arc<Mutex<Connections>>,
    generation: Arc<AtomicU64>,
    counts: Counts,
}

type Connections = HttpClient<Connector, Body>;

impl Pool {
    fn new(identity: Arc<Identity>, counts: Counts) -> Self {
        let current = Arc::new(Mutex::new(connections(&identity.connector())));
        Self { identity, current, generation: Arc::default(), counts }
    }

    fn generation(&self) -> Generation {
        Generation(self.generation.load(Ordering::Acquire))
    }

    fn reset(&self, seen: Generation) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        // Many requests run into their limits together; the first one replaces the pool.
        if self.generation() == seen {
            *current = connections(&self.identity.connector());
            self.generation.fetch_add(1, Ordering::AcqRel);
            self.counts.tally(Tally::Pool);
        }
    }
}

fn connections(connector: &Connector) -> Connections {
    HttpClient::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(IDLE_MAX)
        .build(connector.clone())
}

impl Service<Request<Body>> for Pool {
    type Response = Response<Incoming>;
    type Error = BoxError;
    type Future = BoxFuture<Result<Response<Incoming>, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if self.identity.renew() {
            tracing::info!("another client certificate is in use");
            self.reset(self.generation());
        }
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = current.request(request);
        Box::pin(async { answer.await.map_err(Into::into) })
    }
}
