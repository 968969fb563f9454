//! One request on its way: what it asked for, what was tried, what comes next.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Method};

use super::endpoints::SlotId;
use super::matching::{PathMatch, without_port};
use super::retry;
use super::snapshot::{Backend, Listener, PathChange, Redirect, Rewrite, Rule, Snapshot};

/// The parts of a request that routing needs.
#[derive(Debug, Clone, Copy)]
pub struct Meta<'a> {
    /// Method.
    pub method: &'a Method,
    /// Path without the query.
    pub path: &'a str,
    /// Query without the question mark.
    pub query: Option<&'a str>,
    /// `Host`, with or without a port.
    pub host: Option<&'a str>,
    /// Headers.
    pub headers: &'a HeaderMap,
}

/// What the caller does next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Send the request to an endpoint, then report the result.
    Attempt(Attempt),
    /// Pass on the answer whose head arrived, then report how it ended.
    Respond,
    /// Answer so; the request is over.
    Answer(Answer),
}

/// One try on one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// Where to send it.
    pub endpoint: SocketAddr,
    /// 1 for the first.
    pub number: u8,
    /// What kind of connection will do.
    pub connection: Connection,
    /// When to give up waiting for the head of the answer.
    pub deadline: Duration,
}

/// What kind of connection an attempt may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Connection {
    /// Any that looks open.
    Any,
    /// A new one, or one that was just seen to be open: what goes wrong may not be repeatable.
    Validated,
}

/// How an attempt went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// No connection: nothing was sent.
    Refused,
    /// The connection broke before the head of an answer.
    Broken {
        /// Whether any byte of the request had been written.
        sent: bool,
        /// Whether the connection had served requests before.
        reused: bool,
    },
    /// No head of an answer before the attempt's deadline.
    TimedOut,
    /// The head of an answer.
    Head {
        /// Its status.
        status: u16,
    },
}

/// The result of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempted {
    /// How it went.
    pub outcome: Outcome,
    /// Whether the request's body can be sent again from the start.
    pub replayable: bool,
}

/// How a request ended for the client, after `Step::Respond`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// The whole answer was passed on.
    Complete,
    /// The endpoint broke off within the answer.
    Truncated,
    /// The client went away, at any time.
    ClientGone,
}

/// Answers of the gateway itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// No rule matches.
    NotFound,
    /// The rule's backend does not exist.
    InvalidBackend,
    /// No endpoint that could be asked, or every one refused.
    NoEndpoint,
    /// The connection broke and the request may not be repeated.
    Broken,
    /// No answer in time.
    TimedOut,
    /// The rule redirects.
    Redirect {
        /// 3xx.
        status: u16,
        /// Where to.
        location: String,
    },
}

impl Answer {
    /// Status code.
    pub fn status(&self) -> u16 {
        match self {
            Self::NotFound => 404,
            Self::InvalidBackend => 500,
            Self::NoEndpoint => 503,
            Self::Broken => 502,
            Self::TimedOut => 504,
            Self::Redirect { status, .. } => *status,
        }
    }

    /// One line for the client; empty for redirects.
    pub fn text(&self) -> &'static str {
        match self {
            Self::NotFound => "no route matches this request\n",
            Self::InvalidBackend => "the route's backend does not exist\n",
            Self::NoEndpoint => "no endpoint is available\n",
            Self::Broken => "the endpoint closed the connection before it answered\n",
            Self::TimedOut => "the endpoint did not answer in time\n",
            Self::Redirect { .. } => "",
        }
    }
}

/// Where a request stands; made by `Engine::start`, updated with results until it is over.
#[derive(Debug)]
pub struct Request {
    pub(super) snapshot: Arc<Snapshot>,
    pub(super) listener: SocketAddr,
    pub(super) rule: usize,
    pub(super) matched: usize,
    pub(super) backend: usize,
    pub(super) started: Duration,
    /// May be processed twice.
    pub(super) safe: bool,
    pub(super) status: u16,
    /// Where client-level results go; `None` once they are recorded.
    pub(super) recorder: Option<usize>,
    pub(super) open: Option<Open>,
    tried: [Option<SlotId>; Self::ATTEMPTS_MAX],
}

/// The attempt under way.
#[derive(Debug, Clone, Copy)]
pub(super) struct Open {
    pub(super) slot: SlotId,
    pub(super) pool: usize,
    pub(super) recorder: usize,
    pub(super) started: Duration,
}

impl Request {
    pub(super) const ATTEMPTS_MAX: usize = retry::RETRIES_MAX as usize + 1;

    pub(super) fn new(snapshot: Arc<Snapshot>, listener: SocketAddr, started: Duration) -> Self {
        Self {
            snapshot,
            listener,
            rule: 0,
            matched: 0,
            backend: 0,
            started,
            safe: false,
            status: 0,
            recorder: None,
            open: None,
            tried: [None; Self::ATTEMPTS_MAX],
        }
    }

    /// The rule that it takes.
    pub fn rule(&self) -> Option<&Rule> {
        self.listener()?.rules().get(self.rule)
    }

    /// The backend of the current attempt.
    pub fn backend(&self) -> Option<&Backend> {
        self.rule()?.backends.get(self.backend)
    }

    /// How many endpoints were tried.
    pub fn attempts(&self) -> usize {
        self.tried.iter().flatten().count()
    }

    /// The path for the backend when the rule or the backend rewrites it.
    pub fn rewritten_path(&self, path: &str) -> Option<String> {
        let change = self.rewrites().find_map(|rewrite| rewrite.path.as_ref())?;
        Some(change.apply(path, self.matched_prefix()))
    }

    /// The host name for the backend when the rule or the backend rewrites it.
    pub fn rewritten_host(&self) -> Option<&str> {
        self.rewrites().find_map(|rewrite| rewrite.hostname.as_deref())
    }

    /// Those of the backend come last, so they are what counts.
    fn rewrites(&self) -> impl Iterator<Item = &Rewrite> {
        let of_backend = self.backend().map(|backend| &backend.filters);
        let of_rule = self.rule().map(|rule| &rule.filters);
        of_backend.into_iter().chain(of_rule).filter_map(|filters| filters.rewrite.as_ref())
    }

    pub(super) fn listener(&self) -> Option<&Listener> {
        self.snapshot.listeners.get(&self.listener)
    }

    pub(super) fn tried(&self) -> impl Iterator<Item = SlotId> {
        self.tried.iter().flatten().copied()
    }

    pub(super) fn note_try(&mut self, slot: SlotId) {
        if let Some(free) = self.tried.iter_mut().find(|place| place.is_none()) {
            *free = Some(slot);
        }
    }

    pub(super) fn retries_max(&self) -> usize {
        let own = self.rule().and_then(|rule| rule.retry.as_ref()?.attempts);
        usize::from(own.unwrap_or(retry::RETRIES_MAX).min(retry::RETRIES_MAX))
    }

    fn matched_prefix(&self) -> &str {
        let one = self.rule().and_then(|rule| rule.matches.get(self.matched));
        one.and_then(|one| one.path.as_ref()).map_or("/", PathMatch::prefix)
    }

    pub(super) fn redirect(&self, redirect: &Redirect, meta: &Meta<'_>) -> Answer {
        let host = redirect.hostname.as_deref().or(meta.host.map(without_port)).unwrap_or_default();
        let scheme = redirect.scheme.as_deref().unwrap_or("http");
        // Without an explicit port: the new scheme's own one, else the port the client used.
        let port =
            redirect.port.or_else(|| redirect.scheme.is_none().then(|| self.listener.port()));
        let port = match (scheme, port) {
            (_, None) | ("http", Some(80)) | ("https", Some(443)) => String::new(),
            (_, Some(port)) => format!(":{port}"),
        };
        let path = redirect
            .path
            .as_ref()
            .map(|path: &PathChange| path.apply(meta.path, self.matched_prefix()));
        let path = path.as_deref().unwrap_or(meta.path);
        let query = meta.query.map(|query| format!("?{query}")).unwrap_or_default();
        Answer::Redirect {
            status: redirect.status,
            location: format!("{scheme}://{host}{port}{path}{query}"),
        }
    }
}
