//! Alerting rules: from pending over firing to resolved.

use super::group::Context;
use crate::ast::Query;
use crate::labels::{Labels, METRIC_NAME};
use crate::parser::{ParseError, parse};
use crate::result::VectorSample;
use crate::template::{QueryFn, Scope, Template, render};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How long a resolved alert is kept, so that its end is sent more than once.
const RESOLVED_KEPT_MS: i64 = 15 * 60_000;
/// Label of the alert's name.
const ALERT_NAME: &str = "alertname";

/// Where an alert stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AlertState {
    /// Its condition holds, not yet long enough.
    Pending,
    /// It is sent.
    Firing,
    /// Its condition no longer holds.
    Inactive,
}

impl AlertState {
    /// As in the `alertstate` label and the HTTP API.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Firing => "firing",
            Self::Inactive => "inactive",
        }
    }
}

/// One alert of a rule.
#[derive(Clone, Debug, PartialEq)]
pub struct ActiveAlert {
    /// Its labels, `alertname` included.
    pub labels: Labels,
    /// Its annotations, filled in.
    pub annotations: BTreeMap<String, String>,
    /// Where it stands.
    pub state: AlertState,
    /// The newest value of its expression.
    pub value: f64,
    /// Since when the condition holds, milliseconds.
    pub active_ms: i64,
    /// Since when it fires.
    pub fired_ms: Option<i64>,
    /// Since when the condition no longer holds.
    pub resolved_ms: Option<i64>,
    /// Since when it fires only because it has to keep firing.
    pub kept_since_ms: Option<i64>,
    /// When it was last handed out for sending.
    pub sent_ms: Option<i64>,
    /// Its two series in this state.
    series: Option<(AlertState, [Labels; 2])>,
}

/// An alert to be sent.
#[derive(Clone, Debug, PartialEq)]
pub struct Notice {
    /// Labels with the external ones laid under them.
    pub labels: Labels,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
    /// Begin, milliseconds.
    pub starts_ms: i64,
    /// End: in the past for resolved alerts, else when the receiver may forget it.
    pub ends_ms: i64,
    /// Whether it is over.
    pub resolved: bool,
    /// The rule's expression.
    pub expr: String,
}

/// An alerting rule with its alerts.
#[derive(Clone, Debug)]
pub struct AlertingRule {
    /// Its name.
    pub name: String,
    /// Its query.
    pub query: Query,
    /// How long alerts stay pending, milliseconds.
    pub hold_ms: i64,
    /// How long alerts keep firing, milliseconds.
    pub keep_firing_ms: i64,
    /// Label templates.
    pub labels: BTreeMap<String, String>,
    /// Annotation templates.
    pub annotations: BTreeMap<String, String>,
    /// Alerts by labels.
    active: BTreeMap<Labels, ActiveAlert>,
    /// Its query as it is printed, once it was needed.
    printed: Option<String>,
    /// Whether its templates read nothing but labels, once that was asked.
    stays: Option<bool>,
    /// Filled-in templates by the labels of the sample, as long as only labels matter.
    filled: BTreeMap<Labels, Arc<Filled>>,
}

/// Labels and annotations of an alert.
type Filled = (Labels, BTreeMap<String, String>);

/// Templates are filled in again when this many are remembered.
const FILLED_MAX: usize = 1_000;

impl AlertingRule {
    /// From its parts; `Err` when the expression is not a query.
    pub fn new(name: &str, expr: &str) -> Result<Self, ParseError> {
        Ok(Self {
            name: name.to_owned(),
            query: parse(expr)?,
            hold_ms: 0,
            keep_firing_ms: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            active: BTreeMap::new(),
            printed: None,
            stays: None,
            filled: BTreeMap::new(),
        })
    }

    /// All alerts, also inactive ones that are still kept.
    pub fn alerts(&self) -> impl Iterator<Item = &ActiveAlert> {
        self.active.values()
    }

    /// The worst state of its alerts.
    pub fn state(&self) -> AlertState {
        let any = |state| self.active.values().any(|a| a.state == state);
        if any(AlertState::Firing) {
            AlertState::Firing
        } else if any(AlertState::Pending) {
            AlertState::Pending
        } else {
            AlertState::Inactive
        }
    }

    /// Takes over when alerts became active, as `ALERTS_FOR_STATE` had it before a restart.
    pub fn restore(&mut self, labels: &Labels, active_ms: i64) {
        if let Some(alert) = self.active.get_mut(labels) {
            alert.active_ms = alert.active_ms.min(active_ms);
        }
    }

    /// Moves the alerts on; the samples of `ALERTS` and `ALERTS_FOR_STATE`.
    pub(super) fn advance(
        &mut self,
        found: &[VectorSample],
        now_ms: i64,
        (context, query, limit): (&Context<'_>, &QueryFn<'_>, usize),
    ) -> Result<Vec<(Labels, f64)>, String> {
        let mut fresh: BTreeMap<Labels, (f64, Arc<Filled>)> = BTreeMap::new();
        for sample in found {
            let value = sample.value.as_float().unwrap_or(f64::NAN);
            let filled = self.filled(sample, now_ms, (context, query));
            if fresh.insert(filled.0.clone(), (value, filled)).is_some() {
                return Err(
                    "vector contains metrics with the same labelset after applying alert labels"
                        .to_owned(),
                );
            }
        }
        for (labels, (value, filled)) in &fresh {
            let annotations = &filled.1;
            if let Some(alert) =
                self.active.get_mut(labels).filter(|a| a.state != AlertState::Inactive)
            {
                alert.value = *value;
                if alert.annotations != *annotations {
                    alert.annotations.clone_from(annotations);
                }
            } else {
                let alert = ActiveAlert {
                    labels: labels.clone(),
                    annotations: annotations.clone(),
                    state: AlertState::Pending,
                    value: *value,
                    active_ms: now_ms,
                    fired_ms: None,
                    resolved_ms: None,
                    kept_since_ms: None,
                    sent_ms: None,
                    series: None,
                };
                self.active.insert(labels.clone(), alert);
            }
        }
        let mut out = Vec::new();
        let mut count = 0;
        let (hold, keep) = (self.hold_ms, self.keep_firing_ms);
        self.active.retain(|labels, alert| {
            let (kept, counts) = step(alert, fresh.contains_key(labels), now_ms, (hold, keep));
            if counts {
                count += 1;
                out.extend(series_of(alert));
            }
            kept
        });
        if limit > 0 && count > limit {
            self.active.clear();
            return Err(format!("exceeded limit of {limit} with {count} alerts"));
        }
        Ok(out)
    }

    /// Whether any alert is remembered, also a resolved one.
    pub(super) fn is_busy(&self) -> bool {
        !self.active.is_empty()
    }

    /// Whether a template says a word; it may then depend on more than labels.
    pub(super) fn mentions(&self, word: &str) -> bool {
        self.labels.values().chain(self.annotations.values()).any(|text| text.contains(word))
    }

    fn filled(
        &mut self,
        sample: &VectorSample,
        now_ms: i64,
        (context, query): (&Context<'_>, &QueryFn<'_>),
    ) -> Arc<Filled> {
        if let Some(filled) = self.filled.get(&sample.labels) {
            return Arc::clone(filled);
        }
        let filled = Arc::new(self.expand(sample, now_ms, (context, query)));
        let stays = *self.stays.get_or_insert_with(|| {
            let mut texts = self.labels.values().chain(self.annotations.values());
            texts.all(|text| Template::parse(text).is_ok_and(|t| t.reads_only_labels()))
        });
        if stays {
            if self.filled.len() >= FILLED_MAX {
                self.filled.clear();
            }
            self.filled.insert(sample.labels.clone(), Arc::clone(&filled));
        }
        filled
    }

    fn expand(
        &self,
        sample: &VectorSample,
        now_ms: i64,
        (context, query): (&Context<'_>, &QueryFn<'_>),
    ) -> Filled {
        let (labels, value) = (&sample.labels, sample.value.as_float().unwrap_or(f64::NAN));
        let mut scope = Scope::alert(labels, context.external_labels, value, context.external_url);
        scope.query = Some(query);
        scope.now_ms = now_ms;
        let fill = |text: &String| {
            render(text, &scope).unwrap_or_else(|e| format!("<error expanding template: {e}>"))
        };
        let mut out = labels.drop(&[METRIC_NAME]);
        for (name, template) in &self.labels {
            out = out.with(name, &fill(template));
        }
        out = out.with(ALERT_NAME, &self.name);
        (out, self.annotations.iter().map(|(k, v)| (k.clone(), fill(v))).collect())
    }

    /// Alerts that are due for sending.
    pub(super) fn due(
        &mut self,
        now_ms: i64,
        interval_ms: i64,
        context: &Context<'_>,
    ) -> Vec<Notice> {
        let mut out = Vec::new();
        for alert in self.active.values_mut() {
            if alert.state == AlertState::Pending {
                continue;
            }
            let newly_resolved = match (alert.resolved_ms, alert.sent_ms) {
                (Some(resolved), Some(sent)) => resolved > sent,
                _ => false,
            };
            let resend =
                alert.sent_ms.is_none_or(|sent| sent.saturating_add(context.resend_ms) <= now_ms);
            if !newly_resolved && !resend {
                continue;
            }
            alert.sent_ms = Some(now_ms);
            let sends_ms = interval_ms.max(context.resend_ms);
            let valid_ms = now_ms.saturating_add(sends_ms.saturating_mul(4));
            out.push(Notice {
                labels: context.external_labels.merged(&alert.labels),
                annotations: alert.annotations.clone(),
                starts_ms: alert.fired_ms.unwrap_or(alert.active_ms),
                ends_ms: alert.resolved_ms.unwrap_or(valid_ms),
                resolved: alert.resolved_ms.is_some(),
                expr: self.printed.get_or_insert_with(|| self.query.expr.to_string()).clone(),
            });
        }
        out
    }
}

/// One step of an alert: whether it is kept, and whether it counts as active.
fn step(
    alert: &mut ActiveAlert,
    holds: bool,
    now_ms: i64,
    (hold_ms, keep_ms): (i64, i64),
) -> (bool, bool) {
    if holds {
        alert.kept_since_ms = None;
    } else {
        let mut keeps = false;
        if alert.state == AlertState::Firing && keep_ms > 0 {
            let since = *alert.kept_since_ms.get_or_insert(now_ms);
            keeps = now_ms - since < keep_ms;
        }
        let forgotten = alert.state == AlertState::Pending
            || alert.resolved_ms.is_some_and(|t| now_ms - t > RESOLVED_KEPT_MS);
        if alert.state != AlertState::Inactive && !keeps {
            alert.state = AlertState::Inactive;
            alert.resolved_ms = Some(now_ms);
        }
        if !keeps {
            return (!forgotten, false);
        }
    }
    if alert.state == AlertState::Pending && now_ms - alert.active_ms >= hold_ms {
        alert.state = AlertState::Firing;
        alert.fired_ms = Some(now_ms);
    }
    (true, true)
}

fn series_of(alert: &mut ActiveAlert) -> [(Labels, f64); 2] {
    let (labels, state) = (&alert.labels, alert.state);
    let [states, since] = match &alert.series {
        Some((before, series)) if *before == state => series.clone(),
        _ => [
            labels.with(METRIC_NAME, "ALERTS").with("alertstate", state.as_str()),
            labels.with(METRIC_NAME, "ALERTS_FOR_STATE"),
        ],
    };
    alert.series = Some((state, [states.clone(), since.clone()]));
    [(states, 1.0), (since, alert.active_ms.div_euclid(1000) as f64)]
}
