//! What the controller stands on besides its store: time, metrics, webhooks, people, the door.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_base::Clock;
use evenkeel_control::{
    Action, AuditId, BoxFuture, Direction, Door, HookCall, HookError, HookReply, Hooks, Metrics,
    MetricsError, Notification, Notifier, Outcome, Petition, Prediction, Replies, Sample, Timer,
    Verdict,
};
use futures::{FutureExt as _, channel::oneshot};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// Virtual time.
#[derive(Default)]
pub(super) struct Time {
    pub(super) now: Mutex<Timestamp>,
    pub(super) alarms: Mutex<Vec<(Timestamp, oneshot::Sender<()>)>>,
}

impl Clock for Time {
    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }
}

impl Timer for Time {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let (to, from) = oneshot::channel();
        let at = self.now().checked_add(SignedDuration::try_from(wait).unwrap()).unwrap();
        self.alarms.lock().unwrap().push((at, to));
        from.map(drop).boxed()
    }
}

/// What the canary's requests look like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Traffic {
    /// Share of 5xx answers; `None` means no data at all.
    pub(crate) error_ratio: Option<f64>,
    /// 99th percentile.
    pub(crate) p99_ms: f64,
    /// The metrics server does not answer.
    pub(crate) down: bool,
}

#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) traffic: Arc<Mutex<Traffic>>,
    pub(crate) queries: Arc<Mutex<Vec<String>>>,
    /// Seconds between two scrapes; each is at a multiple of it.
    pub(crate) scrape_s: Arc<Mutex<i64>>,
}

impl Metrics for Asked {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        let traffic = *self.traffic.lock().unwrap();
        let scrape_s = *self.scrape_s.lock().unwrap();
        let is_time = expr.contains("timestamp(");
        if !is_time {
            self.queries.lock().unwrap().push(expr.to_owned());
        }
        if traffic.down {
            let problem = "Connection refused (os error 111)".to_owned();
            return Box::pin(async { Err(MetricsError::Unreachable { problem }) });
        }
        let value = traffic.error_ratio.map(|ratio| {
            if is_time {
                f64::from(u32::try_from(at.as_second() / scrape_s * scrape_s).unwrap())
            } else if expr.contains("_seconds_bucket") {
                traffic.p99_ms / 1000.0
            } else if expr.contains("bucket") {
                traffic.p99_ms
            } else if expr.contains("5.*") {
                ratio * 10.0
            } else {
                10.0
            }
        });
        let sample = |value| Sample { labels: BTreeMap::new(), value };
        Box::pin(async move { Ok(value.map(sample).into_iter().collect()) })
    }
}

/// Answers by the hook's name; a hook without an answer never answers.
pub(crate) type Answers = BTreeMap<&'static str, u16>;

pub(super) struct Called {
    pub(super) answers: Arc<Mutex<Answers>>,
    pub(super) log: Arc<Mutex<Vec<HookCall>>>,
    pub(super) messages: Messages,
    pub(super) replies: Mutex<BTreeMap<String, Result<HookReply, HookError>>>,
    pub(super) time: Arc<Time>,
}

impl Hooks for Called {
    fn call<'a>(&'a self, call: &'a HookCall) -> BoxFuture<'a, Result<HookReply, HookError>> {
        self.log.lock().unwrap().push(call.clone());
        self.messages.lock().unwrap().push(json!(call.body).to_string());
        let name = call.id.rsplit('/').next().unwrap_or_default().to_owned();
        let answer = self.answers.lock().unwrap().get(name.as_str()).copied();
        Box::pin(async move {
            let reply = if let Some(status) = answer {
                Ok(HookReply { status, body: String::new() })
            } else {
                self.time.sleep(call.timeout).await;
                let problem = format!("no answer within {:?}", call.timeout);
                Err(HookError { url: call.url.clone(), problem })
            };
            self.replies.lock().unwrap().insert(call.id.clone(), reply.clone());
            reply
        })
    }
}

impl Replies for Called {
    fn reply(&self, id: &str) -> Option<Result<HookReply, HookError>> {
        self.replies.lock().unwrap().get(id).cloned()
    }
}

/// What the door holds.
#[derive(Clone, Copy, Default, PartialEq)]
pub(super) enum Rule {
    #[default]
    Nothing,
    /// What brings more traffic to a canary, as a budget that is burning.
    Budget,
    /// What makes things riskier.
    Freeze,
    /// All but what makes things safer.
    Stop,
}

pub(super) struct Gate {
    pub(super) rule: Arc<Mutex<Rule>>,
    pub(super) messages: Messages,
}

/// What was sent to others, as text.
pub(crate) type Messages = Arc<Mutex<Vec<String>>>;

impl Door for Gate {
    fn foresee(&self, prediction: &Prediction<'_>) {
        self.messages.lock().unwrap().push(format!("foreseen: {}", prediction.text));
    }

    fn ask<'a>(&'a self, petition: &'a Petition<'a>) -> BoxFuture<'a, Verdict> {
        self.messages.lock().unwrap().push(format!("{petition:?}"));
        let riskier = petition.direction == Direction::Riskier;
        let held = match *self.rule.lock().unwrap() {
            Rule::Nothing => false,
            Rule::Budget => riskier && matches!(petition.action, Action::SetWeights { .. }),
            Rule::Freeze => riskier,
            Rule::Stop => petition.direction != Direction::Safer,
        };
        let verdict = if held {
            Verdict::Hold { until: None, objections: Vec::new() }
        } else {
            Verdict::Allow(AuditId(String::new()))
        };
        async { verdict }.boxed()
    }
    fn settle<'a>(&'a self, _: &'a AuditId, outcome: Outcome<'a>) -> BoxFuture<'a, ()> {
        self.messages.lock().unwrap().push(format!("{outcome:?}"));
        async {}.boxed()
    }
}

/// Accepts notifications, unless there is a problem.
pub(super) struct Mailbox {
    pub(super) problem: Arc<Mutex<Option<String>>>,
    pub(super) mail: Arc<Mutex<Vec<String>>>,
    pub(super) messages: Messages,
}

impl Notifier for Mailbox {
    fn deliver(&self, note: Notification) -> BoxFuture<'static, Result<(), String>> {
        self.mail.lock().unwrap().push(format!("{} {}", note.severity, note.message));
        self.messages.lock().unwrap().push(json!(note).to_string());
        let problem = self.problem.lock().unwrap().clone();
        async { problem.map_or(Ok(()), Err) }.boxed()
    }
}
