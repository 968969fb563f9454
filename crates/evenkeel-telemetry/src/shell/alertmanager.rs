use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use evenkeel_control::redact;
use evenkeel_promql::{labels::Labels, rules::Notice};
use http::{Method, header};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::Notify;

use super::endpoint::{ClientError, Endpoint};
use crate::{AlertSink, AlertUpdate};

/// Alerts in one request, as Prometheus sends them.
const BATCH_MAX: usize = 256;
/// Alerts that wait. Beyond it the ones that end first are dropped and counted: rules send a firing
/// alert again every minute.
const WAITING_MAX: usize = 10_000;
/// Longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// First pause after a failure; it doubles.
const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause.
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// Sends alerts to an Alertmanager. Cheap to clone.
///
/// What could not be sent waits, one state per alert: an end is sent after the begin that it
/// replaced, never the other way round. **Source**: `notifier` of Prometheus 3, API v2 of
/// Alertmanager.
#[derive(Clone)]
pub struct Alertmanager(Arc<Shared>);

struct Shared {
    endpoint: Endpoint,
    /// Where a person can look up the rule's expression.
    generator: String,
    waiting: Mutex<BTreeMap<Labels, Notice>>,
    news: Notify,
    pause_min: Duration,
    sent: AtomicU64,
    failed: AtomicU64,
    refused: AtomicU64,
    dropped: AtomicU64,
}

/// Why alerts were not taken.
enum Failure {
    /// Trying again may help.
    Later(String),
    /// It will not help: something in the request is wrong.
    Refused(String),
}

impl Alertmanager {
    /// An Alertmanager at `url`; `generator` is the address of the evaluator of the rules.
    ///
    /// **Errors**: `url` cannot be used.
    pub fn new(url: &str, generator: &str) -> Result<Self, ClientError> {
        let endpoint = Endpoint::new(url, "/api/v2", "http://alertmanager:9093")?;
        Ok(Self(Arc::new(Shared {
            endpoint,
            generator: generator.trim_end_matches('/').to_owned(),
            waiting: Mutex::default(),
            news: Notify::new(),
            pause_min: PAUSE_MIN,
            sent: AtomicU64::default(),
            failed: AtomicU64::default(),
            refused: AtomicU64::default(),
            dropped: AtomicU64::default(),
        })))
    }

    /// With another first pause after a failure. Before it is shared.
    #[must_use]
    pub fn pausing(mut self, pause: Duration) -> Self {
        if let Some(shared) = Arc::get_mut(&mut self.0) {
            shared.pause_min = pause;
        }
        self
    }

    /// Sends until dropped.
    pub async fn run(self) {
        let mut pause = self.0.pause_min;
        loop {
            let batch = self.batch();
            if batch.is_empty() {
                self.0.news.notified().await;
                continue;
            }
            match self.deliver(&batch).await {
                Ok(()) => pause = self.0.pause_min,
                Err(error) => {
                    self.0.failed.fetch_add(count(&batch), Relaxed);
                    let url = self.0.endpoint.url();
                    tracing::warn!(url, error, alerts = batch.len(), "alerts not sent, will retry");
                    tokio::time::sleep(pause).await;
                    pause = pause.saturating_mul(2).min(PAUSE_MAX.max(self.0.pause_min));
                }
            }
        }
    }

    /// Sends a batch. If it is refused, each alert is sent by itself, so that one that the
    /// Alertmanager does not accept does not hold up the others; that one is dropped.
    async fn deliver(&self, batch: &[Notice]) -> Result<(), String> {
        match self.send(batch).await {
            Ok(()) => {
                self.0.settle(batch);
                self.0.sent.fetch_add(count(batch), Relaxed);
                Ok(())
            }
            Err(Failure::Later(error)) => Err(error),
            Err(Failure::Refused(error)) if batch.len() <= 1 => {
                let labels = batch.first().map(|notice| notice.labels.to_string());
                let url = self.0.endpoint.url();
                tracing::warn!(url, error, alert = labels.unwrap_or_default(), "alert refused");
                self.0.settle(batch);
                self.0.refused.fetch_add(count(batch), Relaxed);
                Ok(())
            }
            Err(Failure::Refused(_)) => {
                for notice in batch {
                    Box::pin(self.deliver(std::slice::from_ref(notice))).await?;
                }
                Ok(())
            }
        }
    }

    /// What was sent, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let mut out = String::new();
        for (name, help, value) in [
            ("sent", "Alerts that the Alertmanager has taken.", &self.0.sent),
            ("failed", "Alerts in attempts that failed.", &self.0.failed),
            ("refused", "Alerts that the Alertmanager does not take.", &self.0.refused),
            ("dropped", "Alerts that were dropped because too many waited.", &self.0.dropped),
        ] {
            let name = format!("evenkeel_alertmanager_alerts_{name}_total");
            let value = value.load(Relaxed);
            // Writing into a string cannot fail.
            writeln!(out, "# HELP {name} {help}\n# TYPE {name} counter\n{name} {value}")
                .unwrap_or_default();
        }
        out
    }

    fn batch(&self) -> Vec<Notice> {
        self.0.waiting().values().take(BATCH_MAX).cloned().collect()
    }

    async fn send(&self, batch: &[Notice]) -> Result<(), Failure> {
        let alerts: Vec<Value> = batch.iter().map(|notice| self.0.alert(notice)).collect();
        let request = self.0.endpoint.request(Method::POST, "alerts");
        let request = request.header(header::CONTENT_TYPE, "application/json");
        let sending = self.0.endpoint.send(request, Value::from(alerts).to_string());
        let (status, body) = tokio::time::timeout(ANSWER_MAX, sending)
            .await
            .map_err(|_| Failure::Later(format!("no answer within {ANSWER_MAX:?}")))?
            .map_err(Failure::Later)?;
        let words = || redact::text(String::from_utf8_lossy(&body).trim());
        match status {
            200..300 => Ok(()),
            400..500 if ![408, 429].contains(&status) => {
                Err(Failure::Refused(format!("HTTP {status}: {}", words())))
            }
            _ => Err(Failure::Later(format!("HTTP {status}: {}", words()))),
        }
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, BTreeMap<Labels, Notice>> {
        // Each change is one insertion or removal.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what was sent, unless there is a newer state of it.
    fn settle(&self, batch: &[Notice]) {
        let mut waiting = self.waiting();
        for notice in batch {
            if waiting.get(&notice.labels) == Some(notice) {
                waiting.remove(&notice.labels);
            }
        }
    }

    fn alert(&self, notice: &Notice) -> Value {
        let time = |ms| Timestamp::from_millisecond(ms).unwrap_or_default().to_string();
        json!({
            "labels": notice.labels.to_map(), "annotations": notice.annotations,
            "startsAt": time(notice.starts_ms), "endsAt": time(notice.ends_ms),
            "generatorURL": format!("{}/graph?g0.expr={}&g0.tab=1", self.generator,
                super::client::encode(&notice.expr)),
        })
    }
}

impl AlertSink for Alertmanager {
    fn send(&self, updates: &[AlertUpdate]) {
        let mut waiting = self.0.waiting();
        for AlertUpdate { notice, .. } in updates {
            waiting.insert(notice.labels.clone(), notice.clone());
        }
        while waiting.len() > WAITING_MAX {
            let first = waiting.values().min_by_key(|notice| notice.ends_ms);
            let Some(labels) = first.map(|notice| notice.labels.clone()) else { break };
            waiting.remove(&labels);
            self.0.dropped.fetch_add(1, Relaxed);
        }
        drop(waiting);
        self.0.news.notify_one();
    }
}

fn count(batch: &[Notice]) -> u64 {
    u64::try_from(batch.len()).unwrap_or(u64::MAX)
}
