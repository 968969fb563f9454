use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use evenkeel_base::Clock;
use jiff::Timestamp;

use crate::{
    BoxFuture, Endings, HookCall, HostWrites, Notification, Read, Stewards, Store, Write, redact,
};

/// All that a controller may read through; it offers no writes. Cheap to clone.
#[derive(Clone)]
pub struct Ports {
    /// The Kubernetes API, to read.
    pub read: Arc<dyn Read>,
    /// What the services did, by PromQL.
    pub metrics: Arc<dyn Metrics>,
    /// Replies of webhooks.
    pub replies: Arc<dyn Replies>,
    /// How effects ended that outlived their plan.
    pub endings: Arc<Endings>,
    /// Who looks after which kinds.
    pub stewards: Arc<dyn Stewards>,
    /// Present time.
    pub clock: Arc<dyn Clock>,
}

/// The ports of a part of the host that reports about itself: a node agent, the gateway.
#[derive(Clone)]
pub struct HostPorts {
    /// The Kubernetes API, to read.
    pub read: Arc<dyn Read>,
    /// Reports, which bypass the door.
    pub writes: HostWrites,
    /// Present time.
    pub clock: Arc<dyn Clock>,
    /// Waiting.
    pub timer: Arc<dyn Timer>,
}

impl HostPorts {
    /// Both halves of `store`, in the host's time.
    pub fn new(store: &Arc<dyn Store>, clock: Arc<dyn Clock>, timer: Arc<dyn Timer>) -> Self {
        let (read, write): (Arc<dyn Read>, Arc<dyn Write>) = (store.clone(), store.clone());
        Self { read, writes: HostWrites::new(write), clock, timer }
    }
}

/// Waits in the host's time: tokio's, real or paused.
pub trait Timer: Send + Sync {
    /// Ready after `wait`.
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()>;
}

/// Evaluates PromQL.
pub trait Metrics: Send + Sync {
    /// Evaluates an instant query at `at`. An empty vector is not an error, it means: no data.
    fn query<'a>(
        &'a self,
        expr: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>>;

    /// Evaluates a query at every moment of `span`; series in order of their labels, points in
    /// order of time. A source that can answer in one go overrides this.
    fn query_range<'a>(
        &'a self,
        expr: &'a str,
        span: Span,
    ) -> BoxFuture<'a, Result<Vec<Series>, MetricsError>> {
        Box::pin(async move {
            let mut series: BTreeMap<BTreeMap<String, String>, Vec<(Timestamp, f64)>> =
                BTreeMap::new();
            for at in span.moments() {
                for sample in self.query(expr, at).await? {
                    series.entry(sample.labels).or_default().push((at, sample.value));
                }
            }
            Ok(series.into_iter().map(|(labels, points)| Series { labels, points }).collect())
        })
    }
}

/// Evenly spaced moments: `first`, then every `step` up to and including `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The first moment.
    pub first: Timestamp,
    /// No moment is later.
    pub last: Timestamp,
    /// Between two moments; at least a millisecond.
    pub step: Duration,
}

impl Span {
    /// The moments, in order.
    pub fn moments(self) -> impl Iterator<Item = Timestamp> {
        let step = i64::try_from(self.step.as_millis()).unwrap_or(i64::MAX).max(1);
        let (first, last) = (self.first.as_millisecond(), self.last.as_millisecond());
        std::iter::successors(Some(first), move |at| at.checked_add(step))
            .take_while(move |at| *at <= last)
            .filter_map(|at| Timestamp::from_millisecond(at).ok())
    }
}

/// The values of one series over a [`Span`]; moments without a value are left out.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Value at each moment that has one; may be NaN.
    pub points: Vec<(Timestamp, f64)>,
}

/// One element of an instant vector; a scalar has no labels.
#[derive(Debug, Clone, PartialEq)]
pub struct Sample {
    /// Its labels.
    pub labels: BTreeMap<String, String>,
    /// Its value; may be NaN.
    pub value: f64,
}

/// Why a query gave no answer. `Debug` and `Display` do not show credentials.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
pub enum MetricsError {
    /// The expression is wrong.
    #[error("query {expr:?}: {problem}")]
    Invalid {
        /// The expression.
        expr: String,
        /// The message of the parser or engine.
        problem: String,
    },
    /// No answer.
    #[error("metrics server: {}", redact::text(problem))]
    Unreachable {
        /// The message of the transport.
        problem: String,
    },
}

/// What webhooks answered, kept until an observation asks for it.
pub trait Replies: Send + Sync {
    /// The kept reply of a call; `None` when it was never made, or before a restart.
    fn reply(&self, id: &str) -> Option<Result<HookReply, HookError>>;
}

/// Calls webhooks. Only [`crate::Webhooks`], an effector, gets this.
pub trait Hooks: Replies {
    /// Makes the call (with its retries) and keeps the reply under its id. A call that is dropped
    /// before it has ended keeps a failure: the caller sees that there is no answer.
    fn call<'a>(&'a self, call: &'a HookCall) -> BoxFuture<'a, Result<HookReply, HookError>>;

    /// The longest that a call takes, with all its attempts and the pauses between them.
    fn longest(&self, call: &HookCall) -> Duration {
        call.timeout.saturating_mul(call.retries.saturating_add(1))
    }
}

/// Delivers notifications. Only [`crate::Notices`], an effector, gets this.
pub trait Notifier: Send + Sync {
    /// Ready when the provider has accepted it, or when it is given up.
    ///
    /// Implementations keep the order per provider, retry, bound what waits, and deliver one id
    /// once as far as they know.
    fn deliver(&self, notification: Notification) -> BoxFuture<'static, Result<(), String>>;
}

/// What a webhook answered. `Debug` does not show the body.
#[derive(Clone, PartialEq, Eq)]
pub struct HookReply {
    /// HTTP status.
    pub status: u16,
    /// Body, cut at 4 KiB.
    pub body: String,
}

/// Why a webhook gave no answer. `Debug` and `Display` do not show secrets in the URL.
#[derive(Clone, PartialEq, Eq, thiserror::Error)]
#[error("webhook {}: {}", redact::url(url), redact::Secrets::of_url(url).text(problem))]
pub struct HookError {
    /// The full URL.
    pub url: String,
    /// Timeout, unknown host, refused ...
    pub problem: String,
}

impl fmt::Debug for MetricsError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "MetricsError({self})")
    }
}

impl fmt::Debug for HookReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookReply({} with {} bytes)", self.status, self.body.len())
    }
}

impl fmt::Debug for HookError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookError({self})")
    }
}

/// A [`Metrics`] without data source: every query fails with an error that says this.
pub struct NoMetrics;

impl Metrics for NoMetrics {
    fn query<'a>(
        &'a self,
        _expr: &'a str,
        _at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        let problem = "no metrics server is configured".to_owned();
        Box::pin(async { Err(MetricsError::Unreachable { problem }) })
    }
}

/// A [`Hooks`] that makes no calls.
pub struct NoHooks;

impl Hooks for NoHooks {
    fn call<'a>(&'a self, call: &'a HookCall) -> BoxFuture<'a, Result<HookReply, HookError>> {
        let problem = "webhooks are switched off here".to_owned();
        Box::pin(async { Err(HookError { url: call.url.clone(), problem }) })
    }
}

impl Replies for NoHooks {
    fn reply(&self, _id: &str) -> Option<Result<HookReply, HookError>> {
        None
    }
}

/// A [`Notifier`] without any channel: every notification fails with an error that says this.
pub struct NoNotifier;

impl Notifier for NoNotifier {
    fn deliver(&self, _: Notification) -> BoxFuture<'static, Result<(), String>> {
        Box::pin(async { Err("this process delivers no notifications".to_owned()) })
    }
}
