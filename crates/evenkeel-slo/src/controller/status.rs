//! The status of a `PrometheusServiceLevel`: Sloth's fields and evenkeel's.

use std::collections::BTreeMap;

use evenkeel_api::slo::ErrorBudget;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize};

use crate::{
    budget::Coverage,
    model::Labels,
    policy::{Account, State},
};

/// The whole status. The first five fields are Sloth's.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SloStatusObject {
    /// The generation this was concluded from.
    pub observed_generation: i64,
    /// SLOs in the spec.
    #[serde(rename = "processedSLOs")]
    pub processed_slos: usize,
    /// SLOs that have rules.
    #[serde(rename = "promOpRulesGeneratedSLOs")]
    pub prom_op_rules_generated_slos: usize,
    /// Whether all have.
    pub prom_op_rules_generated: bool,
    /// When the rules last changed without an error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_prom_op_rules_successful_generated: Option<Time>,
    /// `Valid`, one per finding, `MetricsAvailable`.
    pub conditions: Vec<Condition>,
    /// How every budget stands.
    pub slos: Vec<SloState>,
    /// Changes that could have cost something, oldest first.
    pub changes: Vec<Change>,
    /// What each Canary may do.
    pub decisions: Vec<Decision>,
    /// Seconds of the Unix epoch when the numbers were last written.
    pub numbers_at: i64,
}

/// How one budget stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SloState {
    /// `<service>-<name>`.
    pub id: String,
    /// Empty unless the SLO is grouped.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub group: Labels,
    /// Objective. Unit: percent.
    pub objective: f64,
    /// Its policy; none is the built-in one, which only shows the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Its state.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// How well the window is known.
    pub coverage: Coverage,
    /// Budget left. Unit: percent of the window's; none when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_percent: Option<f64>,
    /// Events that failed in the window.
    pub bad: f64,
    /// All events in the window.
    pub total: f64,
    /// Burn rate per window.
    pub burn: BTreeMap<String, f64>,
    /// Where the failures went; sums to `bad`.
    pub ledger: Vec<LedgerShare>,
    /// Budget set aside for what is under way.
    pub account: Account,
}

/// The part of the failures that has one cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerShare {
    /// Id of the change, or `unexplained`.
    pub cause: String,
    /// How many failures.
    pub failures: f64,
    /// Unit: percent of the window's budget.
    pub budget_percent: f64,
}

/// Something that met users, as long as it is in the window.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Change {
    /// `Canary/NAMESPACE/NAME@REVISION`.
    pub id: String,
    /// When it first could have cost something.
    pub from: Timestamp,
    /// When it no longer could; none while it goes on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<Timestamp>,
}

/// What one Canary may do, as far as this object has a say.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Decision {
    /// Name of the Canary.
    pub canary: String,
    /// The answer.
    pub budget: ErrorBudget,
}

impl SloStatusObject {
    /// The same with the numbers that change all the time taken out: what is left is worth
    /// writing at once.
    pub(crate) fn without_noise(&self) -> Self {
        let mut quiet = self.clone();
        quiet.numbers_at = 0;
        for slo in &mut quiet.slos {
            (slo.total, slo.remaining_percent) = (0.0, None);
            slo.burn.clear();
            for share in &mut slo.ledger {
                share.budget_percent = 0.0;
            }
        }
        for decision in &mut quiet.decisions {
            still(&mut decision.budget);
        }
        quiet
    }
}

/// Takes out of an answer what changes all the time.
pub(crate) fn still(budget: &mut ErrorBudget) {
    budget.message.clear();
    budget.observed_at = 0;
    (budget.remaining_percent, budget.worst_case_percent) = (None, None);
    // Known or not known matters; how much moves with the traffic.
    budget.worst_case_requests = budget.worst_case_requests.map(|_| 0);
}
