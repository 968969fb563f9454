//! SLOs as they are after reading, whatever they were written in.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;

use crate::duration::PromDuration;

/// Label or annotation set, sorted by name.
pub type Labels = BTreeMap<String, String>;

/// The notation an SLO was written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum SpecKind {
    /// `sloth.slok.dev/v1 PrometheusServiceLevel`.
    Kubernetes,
    /// Sloth's file form, `version: prometheus/v1`.
    File,
    /// `openslo/v1alpha SLO`.
    OpenSloV1Alpha,
    /// `openslo/v1 SLO`, which Sloth does not read.
    OpenSloV1,
}

impl SpecKind {
    /// The value of the `sloth_spec` label.
    pub fn spec_label(self) -> &'static str {
        match self {
            Self::Kubernetes => "sloth.slok.dev/v1",
            Self::File => "prometheus/v1",
            Self::OpenSloV1Alpha => "openslo/v1alpha",
            Self::OpenSloV1 => "openslo/v1",
        }
    }
}

/// All SLOs of one document.
#[derive(Clone, Debug, PartialEq)]
pub struct SloGroup {
    /// `file.yaml#2`.
    pub source: String,
    /// `Kind/name`, for messages.
    pub object: String,
    /// How it was written.
    pub kind: SpecKind,
    /// Name, namespace, labels and annotations, for the Kubernetes kind.
    pub metadata: Metadata,
    /// The SLOs, in order.
    pub slos: Vec<Slo>,
}

/// What a generated `PrometheusRule` inherits from its source object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Metadata {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.namespace`, empty when not set.
    pub namespace: String,
    /// `metadata.uid`, empty when not set.
    pub uid: String,
    /// `metadata.labels`.
    pub labels: Labels,
    /// `metadata.annotations`.
    pub annotations: Labels,
}

/// One service level objective.
#[derive(Clone, Debug, PartialEq)]
pub struct Slo {
    /// `<service>-<name>`: the identity of every generated series.
    pub id: String,
    /// Name within its service.
    pub name: String,
    /// The service it is about.
    pub service: String,
    /// Free text.
    pub description: String,
    /// Share of good events. Unit: percent, above 0, at most 100.
    pub objective: f64,
    /// The period over which the budget is counted.
    pub window: PromDuration,
    /// True when the window was written at the SLO, which only evenkeel reads.
    pub own_window: bool,
    /// Labels of every recorded series.
    pub labels: Labels,
    /// What is counted.
    pub sli: Sli,
    /// `None`: disabled.
    pub page_alert: Option<Alert>,
    /// `None`: disabled.
    pub ticket_alert: Option<Alert>,
    /// Rule-generation plugins, group first.
    pub plugins: PluginChain,
    /// Labels that split the SLO into one budget each; empty for one budget in all.
    pub group_by: Vec<String>,
    /// Path of the SLO in its document, `spec.slos[0]`.
    pub path: String,
    /// Path of its indicator, `spec.slos[0].sli`.
    pub sli_path: String,
}

/// The indicator as written. Exactly one of both is there once it is checked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sli {
    /// Bad and all events.
    pub events: Option<Events>,
    /// A query that gives the error ratio itself.
    pub raw: Option<String>,
}

/// Its queries in one line, as they are written.
impl fmt::Display for Sli {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.events, &self.raw) {
            (Some(events), _) => {
                write!(f, "{} / {}", events.error_query.trim(), events.total_query.trim())
            }
            (None, Some(raw)) => f.write_str(raw.trim()),
            (None, None) => Ok(()),
        }
    }
}

/// Queries of an event-based indicator, both with the window left open.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Events {
    /// Bad events per second.
    pub error_query: String,
    /// All events per second.
    pub total_query: String,
}

/// An alert that is not disabled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Alert {
    /// Name of the alert rule; required.
    pub name: String,
    /// Labels of the alert.
    pub labels: Labels,
    /// Annotations of the alert.
    pub annotations: Labels,
}

/// Plugins declared at an SLO and its group.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct PluginChain {
    /// Drops the built-in chain and the application's plugins.
    pub override_previous: bool,
    /// In order of declaration.
    pub plugins: Vec<PluginRef>,
}

/// One use of a plugin.
#[derive(Clone, Debug, PartialEq)]
pub struct PluginRef {
    /// Which plugin.
    pub id: String,
    /// Its configuration, an object.
    pub config: Value,
    /// Below 0: before the built-in chain; lower runs earlier.
    pub priority: i64,
    /// Where it is declared, for messages.
    pub path: String,
}

impl Slo {
    /// The labels that identify the SLO on every series.
    pub fn id_labels(&self) -> Labels {
        Labels::from([
            ("sloth_id".to_owned(), self.id.clone()),
            ("sloth_service".to_owned(), self.service.clone()),
            ("sloth_slo".to_owned(), self.name.clone()),
        ])
    }

    /// What it counts in one line: its queries, and the labels that split it. Another name,
    /// objective or text is the same count.
    pub(crate) fn counted(&self) -> String {
        match &*self.group_by {
            [] => self.sli.to_string(),
            labels => format!("{} by ({})", self.sli, labels.join(", ")),
        }
    }

    /// The same as a `PromQL` label matcher.
    pub fn filter(&self) -> String {
        label_matcher(&self.id_labels())
    }

    /// Error budget as a ratio, computed as Sloth computes it for its alerts.
    pub fn budget_ratio(&self) -> f64 {
        (100.0 - self.objective) / 100.0
    }
}

/// `{a="b", c="d"}`.
pub(crate) fn label_matcher(labels: &Labels) -> String {
    let pairs: Vec<_> =
        labels.iter().map(|(k, v)| format!("{k}={}", crate::number::go_quote(v))).collect();
    format!("{{{}}}", pairs.join(", "))
}

/// Later sets win.
pub(crate) fn merge(sets: &[&Labels]) -> Labels {
    let mut out = Labels::new();
    for set in sets {
        out.extend(set.iter().map(|(k, v)| (k.clone(), v.clone())));
    }
    out
}
