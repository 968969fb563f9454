//! Alerts of `PrometheusRule` objects as Events on them, so that they are seen without an
//! Alertmanager.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use evenkeel_api::{Key, slo::PrometheusRule};
use evenkeel_control::{HostPorts, StoreError, create_event};
use evenkeel_promql::{labels::Labels, rules::Notice};
use futures::{StreamExt as _, channel::mpsc};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::json;

use crate::{AlertSink, AlertUpdate};

/// Events that wait to be written; beyond it they are counted in the log only.
const WAITING_MAX: usize = 1_000;
/// Firing alerts that are remembered, so that each is reported once.
const FIRING_MAX: usize = 10_000;
/// Reason of the Event when an alert begins.
const FIRING: &str = "AlertFiring";
/// Reason of the Event when it ends.
const RESOLVED: &str = "AlertResolved";
/// The writer of the Events.
const COMPONENT: &str = "evenkeel-rules";

/// Records each begin and each end of an alert once.
pub struct AlertEvents {
    state: Mutex<State>,
}

struct State {
    queue: mpsc::Sender<AlertUpdate>,
    firing: BTreeMap<Labels, i64>,
}

impl AlertEvents {
    /// The sink, and what writes its Events until dropped.
    pub fn new(ports: HostPorts) -> (Self, impl Future<Output = ()> + Send) {
        let (queue, mut updates) = mpsc::channel(WAITING_MAX);
        let writing = async move {
            while let Some(update) = updates.next().await {
                if let Err(error) = write(&ports, &update).await {
                    tracing::warn!(object = update.source, %error, "alert not written as an Event");
                }
            }
        };
        (Self { state: Mutex::new(State { queue, firing: BTreeMap::new() }) }, writing)
    }
}

impl AlertSink for AlertEvents {
    fn send(&self, updates: &[AlertUpdate]) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        for update in updates {
            if !state.is_news(&update.notice) {
                continue;
            }
            if state.queue.try_send(update.clone()).is_ok() {
                state.note(&update.notice);
            } else {
                // Rules repeat it soon; it stays new until then.
                tracing::warn!(object = update.source, "too many alerts for Events");
            }
        }
    }
}

impl State {
    /// Whether an alert began or ended; rules repeat it again and again.
    fn is_news(&self, notice: &Notice) -> bool {
        match self.firing.get(&notice.labels) {
            known if notice.resolved => known.is_some(),
            known => known != Some(&notice.starts_ms),
        }
    }

    fn note(&mut self, notice: &Notice) {
        if notice.resolved {
            self.firing.remove(&notice.labels);
            return;
        }
        if self.firing.len() >= FIRING_MAX && !self.firing.contains_key(&notice.labels) {
            self.firing.pop_first();
        }
        self.firing.insert(notice.labels.clone(), notice.starts_ms);
    }
}

async fn write(ports: &HostPorts, update: &AlertUpdate) -> Result<(), StoreError> {
    let Some(key) = rule_object(&update.source) else { return Ok(()) };
    let Some(rule) = ports.read.get(&key).await? else { return Ok(()) };
    let now = ports.clock.now();
    let notice = &update.notice;
    let (reason, kind) = if notice.resolved { (RESOLVED, "Normal") } else { (FIRING, "Warning") };
    let mut event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": "", "namespace": rule.namespace()},
        "involvedObject": {"apiVersion": rule.json().get("apiVersion"),
            "kind": &*key.kind.kind, "name": rule.name(), "namespace": rule.namespace(),
            "uid": rule.uid(), "resourceVersion": rule.revision().to_string()},
        "reason": reason, "message": message(notice), "type": kind,
        "source": {"component": COMPONENT}, "reportingComponent": COMPONENT,
        "reportingInstance": "", "count": 1,
        "firstTimestamp": Time(now), "lastTimestamp": Time(now),
    });
    create_event(&*ports.writes, &mut event, rule.name(), now, COMPONENT).await.map(drop)
}

/// The object of a source such as `PrometheusRule/shop/api`; `None` for files.
fn rule_object(source: &str) -> Option<Key> {
    let (namespace, name) = source.strip_prefix("PrometheusRule/")?.split_once('/')?;
    Some(Key::of::<PrometheusRule>(namespace, name))
}

fn message(notice: &Notice) -> String {
    let name = notice.labels.get("alertname");
    let labels = notice.labels.iter().filter(|label| *label.name != *"alertname");
    let labels = labels.map(|label| format!("{}={}", label.name, label.value));
    let labels = labels.collect::<Vec<_>>().join(", ");
    let said = ["summary", "message", "description", "title"];
    let said = said.iter().find_map(|field| notice.annotations.get(*field));
    let words = said.map_or_else(String::new, |words| format!(": {words}"));
    format!("{name} ({labels}){words}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notice(job: &str, starts_ms: i64, resolved: bool) -> Notice {
        Notice {
            labels: Labels::from_pairs([("alertname", "Down"), ("job", job)]),
            annotations: BTreeMap::from([("summary".to_owned(), "it is down".to_owned())]),
            starts_ms,
            ends_ms: 0,
            resolved,
            expr: "up == 0".to_owned(),
        }
    }

    #[test]
    fn each_begin_and_each_end_is_new_once() {
        let mut state = State { queue: mpsc::channel(1).0, firing: BTreeMap::new() };
        let mut news = |job, starts, resolved| {
            let notice = notice(job, starts, resolved);
            let news = state.is_news(&notice);
            // An alert that could not be queued stays new.
            assert_eq!(news, state.is_news(&notice));
            state.note(&notice);
            news
        };
        assert!(news("a", 1, false) && !news("a", 1, false) && news("b", 1, false));
        assert!(news("a", 1, true) && !news("a", 1, true));
        assert!(news("a", 9, false));
    }

    #[test]
    fn an_event_says_which_alert_of_what() {
        assert_eq!(message(&notice("api", 1, false)), "Down (job=api): it is down");
        assert_eq!(rule_object("rules.yaml"), None);
        let key = rule_object("PrometheusRule/shop/api").unwrap();
        assert_eq!(key.to_string(), "PrometheusRule/shop/api");
    }
}
