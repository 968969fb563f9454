//! The status of a `PrometheusServiceLevel`: Sloth's fields and evenkeel's.

use std::collections::BTreeMap;

use evenkeel_api::slo::is_never;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use serde::{Deserialize, Serialize, Serializer};

use crate::{
    budget::{Coverage, Forecast},
    model::{Labels, Slo},
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
    /// What each SLO counts.
    pub queries: Vec<SloQuery>,
    /// What was charged for SLOs that the object had before it was edited, the newest last.
    pub former: Vec<Former>,
    /// A person had handed the object over when this was written: when the annotation is gone, it is
    /// wanted back.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
    /// Seconds of the Unix epoch when the numbers were last written; 0, which is left out: never.
    #[serde(skip_serializing_if = "is_never")]
    pub numbers_at: i64,
}

/// What one SLO counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SloQuery {
    /// `<service>-<name>`.
    pub id: String,
    /// Its queries as they are written in the spec, with the labels that split it.
    pub query: String,
}

/// What was charged for an SLO that the object no longer has, or that counts by another query now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Former {
    /// `<service>-<name>`.
    pub id: String,
    /// Empty unless it was grouped.
    #[serde(default, skip_serializing_if = "Labels::is_empty")]
    pub group: Labels,
    /// What it counted.
    pub query: String,
    /// Where the failures went.
    #[serde(default)]
    pub ledger: Vec<LedgerShare>,
    /// What releases cost.
    #[serde(default)]
    pub account: Account,
    /// Seconds of the Unix epoch when that was last so.
    pub observed_at: i64,
}

/// A count of events as a whole number, which is what a count is. An SLO of rates or ratios
/// estimates, and has no exacter one either.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks for it")]
fn whole<S: Serializer>(events: &f64, to: S) -> Result<S::Ok, S::Error> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a count is not negative and far below 2^53"
    )]
    let count = events.round() as u64;
    to.serialize_u64(count)
}

/// How one budget stands: everything that an answer to a Canary needs.
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
    /// Its policy, of several the strictest about a release; none is the built-in one, which only
    /// shows the state.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Its state, by that policy.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
    /// Its state by the other policies that select it, the stricter ones first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub other_policies: Vec<PolicyState>,
    /// How well the window is known.
    pub coverage: Coverage,
    /// Why the budget is not known; none when it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unknown: Option<String>,
    /// How much of the window is counted so far; none when all of it is. Unit: percent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub counted_percent: Option<u32>,
    /// Budget left. Unit: percent of the window's; none when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_percent: Option<f64>,
    /// Events that failed in the window.
    #[serde(serialize_with = "whole")]
    pub bad: f64,
    /// All events in the window.
    #[serde(serialize_with = "whole")]
    pub total: f64,
    /// Failures that the whole window allows, at the traffic seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allowed: Option<f64>,
    /// Traffic of the last hour; none when not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests_per_second: Option<f64>,
    /// The newest event that was ever seen.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_traffic: Option<Timestamp>,
    /// Burn rate per window.
    pub burn: BTreeMap<String, f64>,
    /// When the budget will be gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forecast: Option<Forecast>,
    /// Where the failures went; sums to `bad`.
    pub ledger: Vec<LedgerShare>,
    /// Budget set aside for what is under way.
    pub account: Account,
    /// Seconds of the Unix epoch when the counters were last looked at; 0, which is left out:
    /// never.
    #[serde(default, skip_serializing_if = "is_never")]
    pub observed_at: i64,
}

/// The state of an SLO by one of its policies: each has its own thresholds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PolicyState {
    /// Name of the policy.
    pub policy: String,
    /// The state.
    pub state: State,
    /// Since when.
    pub since: Timestamp,
}

/// The part of the failures that has one cause.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LedgerShare {
    /// Id of the change, or `unexplained`.
    pub cause: String,
    /// How many failures; a whole number.
    #[serde(serialize_with = "whole")]
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

impl SloStatusObject {
    /// The id by which the status has what this SLO counts: another one after it was renamed.
    /// Otherwise its own. `now`: what the SLOs of the object count.
    pub(crate) fn id_of<'a>(&'a self, slo: &'a Slo, now: &[SloQuery]) -> &'a str {
        let counted = slo.counted();
        if self.query(&slo.id) == Some(&*counted) {
            return &slo.id;
        }
        let renamed = |old: &&SloQuery| old.query == counted && !now.contains(old);
        self.queries.iter().find(renamed).map_or(&*slo.id, |old| &*old.id)
    }

    /// Whether what the status has by this id counted the same as the SLO, and is not of an
    /// earlier one of that id.
    pub(crate) fn counts(&self, id: &str, slo: &Slo, generation: i64) -> bool {
        let same = self.observed_generation == generation;
        self.query(id).map_or(same, |query| *query == slo.counted())
    }

    /// What an SLO counts, as far as that is written down.
    pub(crate) fn query(&self, id: &str) -> Option<&str> {
        self.queries.iter().find(|of| of.id == id).map(|of| of.query.as_str())
    }

    /// The same with the numbers that change all the time taken out: what is left is worth
    /// writing at once, and is what an answer to a Canary depends on.
    pub(crate) fn without_noise(&self) -> Self {
        let mut quiet = self.clone();
        quiet.numbers_at = 0;
        for former in &mut quiet.former {
            former.account.forget_numbers();
        }
        for slo in &mut quiet.slos {
            (slo.bad, slo.total, slo.observed_at) = (0.0, 0.0, 0);
            (slo.remaining_percent, slo.forecast) = (None, None);
            // Known or not known matters; how much moves with the traffic.
            slo.allowed = slo.allowed.map(|_| 0.0);
            slo.requests_per_second = slo.requests_per_second.map(|_| 0.0);
            slo.last_traffic = slo.last_traffic.map(|_| Timestamp::UNIX_EPOCH);
            slo.burn.clear();
            slo.ledger.clear();
            slo.account.forget_numbers();
        }
        quiet
    }

    /// What an answer to a Canary depends on, as a text.
    pub(crate) fn digest(&self) -> String {
        let mut quiet = self.without_noise().slos;
        for (quiet, slo) in quiet.iter_mut().zip(&self.slos) {
            quiet.allowed = step(slo.allowed);
            quiet.requests_per_second = step(slo.requests_per_second);
            quiet.remaining_percent = slo.remaining_percent.map(f64::round);
        }
        serde_json::to_string(&quiet).unwrap_or_default()
    }

    /// Failures and what they are charged to.
    pub(crate) fn costs(&self) -> impl Iterator<Item = (&str, &Labels, &str, f64)> {
        self.slos.iter().flat_map(|slo| {
            let (id, group) = (slo.id.as_str(), &slo.group);
            slo.ledger.iter().map(move |share| (id, group, share.cause.as_str(), share.failures))
        })
    }
}

/// A change of a number by less than this share changes no decision that the next one would not.
const MOVE_MIN: f64 = 0.02;

/// Whether a number has moved by so much that a decision may change.
pub(crate) fn moved(old: Option<f64>, new: Option<f64>) -> bool {
    let (old, new) = (old.unwrap_or(0.0), new.unwrap_or(0.0));
    (new - old).abs() > MOVE_MIN * old.abs().max(new.abs())
}

/// The same for a percentage: by a point.
pub(crate) fn moved_points(old: Option<f64>, new: Option<f64>) -> bool {
    (new.unwrap_or(0.0) - old.unwrap_or(0.0)).abs() >= 1.0
}

/// A change of a number by less than this share is none for the answers to Canaries at once: they
/// are looked at every minute all the same, and each change is one for all Canaries of a namespace.
const STEP: f64 = 0.1;

/// A number so coarsely that only a move by a [`STEP`] changes it, give or take.
fn step(number: Option<f64>) -> Option<f64> {
    number.map(|number| (number.max(f64::MIN_POSITIVE).ln() / STEP).round())
}

impl SloState {
    /// Whether the numbers that costs are compared with have moved.
    pub(crate) fn has_moved(&self, old: &Self) -> bool {
        moved(old.allowed, self.allowed)
            || moved(old.requests_per_second, self.requests_per_second)
            || moved_points(old.remaining_percent, self.remaining_percent)
    }
}
