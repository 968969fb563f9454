//! SLOs, their policy and their rules as API kinds.
//!
//! Specs are kept as written: `evenkeel-slo` reads them (in every spelling that people use) and
//! says what is wrong with them; a schema that refused one field would lose the whole object.

use std::fmt;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Reason of an answer that no policy stands behind: such an answer never grows old.
pub const NO_POLICY: &str = "NoPolicy";

/// The budget of one Canary as its SLOs see it: `status.errorBudget` of a [`super::canary::Canary`],
/// written by the SLO controllers (and nothing else) and read before anything is changed.
///
/// The answer is that of the strictest SLO; `slos` lists all that were asked. It is written when
/// something changes that a reader decides by, and otherwise every few minutes, so that
/// `observedAt` proves that the counters are still looked at. A reader takes an answer older than
/// [`ErrorBudget::FRESH_SECONDS`] as none: see [`ErrorBudget::goes_ahead`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ErrorBudget {
    /// The SLO with the strictest answer, as `NAMESPACE/NAME/SLO`.
    pub slo: String,
    /// Its state: healthy, caution, slow, frozen, burning, unknown.
    pub state: String,
    /// What a new version may do: allow, slower, approve, deny.
    pub permission: Permission,
    /// Machine-readable reason.
    pub reason: String,
    /// The same for people: the value, the threshold it is compared with, the cost.
    pub message: String,
    /// Name of the `ErrorBudgetPolicy` that gave the answer; none when none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Budget that is left. Unit: percent of the window's; none when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_percent: Option<f64>,
    /// What a release costs at worst, every request it gets failing. Unit: percent of the window's
    /// budget; none when traffic or budget are not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_case_percent: Option<f64>,
    /// The same in requests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worst_case_requests: Option<u64>,
    /// Every SLO that was asked, the strictest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub slos: Vec<SloAnswer>,
    /// The [`BreakGlass`] without which one of them would not allow a release as it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub break_glass: Option<OpenGlass>,
    /// Seconds of the Unix epoch when this was last found to be so: the time of the oldest look at
    /// the counters among `slos`. Left out, and 0 here, while one of them was never looked at.
    #[serde(default, skip_serializing_if = "is_never")]
    pub observed_at: i64,
}

/// A [`BreakGlass`] that is in use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OpenGlass {
    /// Its name; its namespace is that of the Canary.
    pub name: String,
    /// Who granted it.
    pub author: String,
    /// Why.
    pub reason: String,
    /// Until when.
    pub expires: Timestamp,
    /// The SLO that would not allow a release without it, as `NAMESPACE/NAME/SLO`.
    pub slo: String,
}

impl fmt::Display for OpenGlass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, author, reason, expires, slo } = self;
        write!(f, "{slo}: BreakGlass/{name} by {author} until {expires:.0}: {reason}")
    }
}

/// What one SLO says about a release.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SloAnswer {
    /// The SLO, as `NAMESPACE/NAME/SLO`.
    pub slo: String,
    /// Its state.
    pub state: String,
    /// What a new version may do.
    pub permission: Permission,
    /// Machine-readable reason.
    pub reason: String,
    /// Name of the `ErrorBudgetPolicy` that gave the answer; none when none did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub policy: Option<String>,
    /// Budget that is left. Unit: percent of the window's; none when it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remaining_percent: Option<f64>,
}

/// Whether a time in seconds of the Unix epoch stands for no time at all: a text would say 1970.
pub fn is_never(seconds: &i64) -> bool {
    *seconds == 0
}

impl ErrorBudget {
    /// Age at which an answer no longer counts. It is rewritten every few minutes, so three
    /// rewrites must have failed.
    pub const FRESH_SECONDS: i64 = 600;

    /// Whether the answer is recent at `now_s` (seconds of the Unix epoch). An answer from the
    /// future is as little recent as an old one.
    pub fn is_fresh(&self, now_s: i64) -> bool {
        now_s.saturating_sub(self.observed_at).saturating_abs() <= Self::FRESH_SECONDS
    }

    /// Whether a step that adds risk may go ahead at `now_s` without asking: the permission allows
    /// it, and it is fresh or no policy is behind it. An unknown or old answer never allows it.
    pub fn goes_ahead(&self, now_s: i64) -> bool {
        self.permission.goes_ahead() && (self.reason == NO_POLICY || self.is_fresh(now_s))
    }
}

/// How much may happen without asking, from least to most.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Permission {
    /// Not at all.
    Deny,
    /// After a person agreed.
    Approve,
    /// With more time between the steps.
    Slower,
    /// Go.
    Allow,
}

impl Permission {
    /// Whether the step needs no approval.
    pub fn goes_ahead(self) -> bool {
        self >= Self::Slower
    }
}

macro_rules! kept_as_written {
    ($(#[$doc:meta])* $type:ident, $group:literal, $version:literal, $kind:literal, $plural:literal) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
        pub struct $type {
            /// Standard metadata.
            #[serde(default)]
            pub metadata: ObjectMeta,
            /// As written.
            #[serde(default)]
            pub spec: Value,
            /// What is known of it.
            #[serde(default, skip_serializing_if = "Value::is_null")]
            pub status: Value,
        }
        crate::api_kind!($type, $group, $version, $kind, $plural, NamespaceResourceScope);
    };
}

kept_as_written! {
    /// SLOs of one service, as Sloth defines them.
    PrometheusServiceLevel, "sloth.slok.dev", "v1", "PrometheusServiceLevel", "prometheusservicelevels"
}
kept_as_written! {
    /// What automation may do with the budget of some SLOs.
    ErrorBudgetPolicy, "evenkeel.dev", "v1alpha1", "ErrorBudgetPolicy", "errorbudgetpolicies"
}
kept_as_written! {
    /// Time that does not count, with a reason and a person responsible for it.
    SloMaintenance, "evenkeel.dev", "v1alpha1", "SloMaintenance", "slomaintenances"
}
kept_as_written! {
    /// Permission to go ahead against the policy, for a while.
    BreakGlass, "evenkeel.dev", "v1alpha1", "BreakGlass", "breakglasses"
}
kept_as_written! {
    /// Recording and alerting rules, as the Prometheus operator defines them.
    PrometheusRule, "monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn budget(permission: &str, reason: &str) -> ErrorBudget {
        serde_json::from_value(json!({"slo": "shop/api/x", "state": "healthy",
            "permission": permission, "reason": reason, "message": "", "observedAt": 10_000}))
        .expect("a status as it was written before `slos` was added")
    }

    #[test]
    fn what_was_never_observed_has_no_time_instead_of_1970() {
        let mut never = budget("approve", "BudgetUnknown");
        never.observed_at = 0;
        let text = serde_json::to_string(&never).unwrap();
        assert!(!text.contains("observedAt"), "{text}");
        let read: ErrorBudget = serde_json::from_str(&text).unwrap();
        assert_eq!(read, never);
        assert!(!read.is_fresh(10_000) && !read.goes_ahead(10_000));
    }

    #[test]
    fn an_old_answer_does_not_allow_a_step_and_one_without_policy_does_not_expire() {
        let allow = budget("allow", "BudgetHealthy");
        assert!(allow.goes_ahead(10_600));
        assert!(!allow.goes_ahead(10_601));
        assert!(!allow.goes_ahead(9_399), "the clock was set back");
        assert!(budget("allow", NO_POLICY).goes_ahead(99_999));
        assert!(budget("slower", "BudgetLow").goes_ahead(10_000));
        assert!(!budget("approve", NO_POLICY).goes_ahead(10_000));
        assert!(!budget("deny", "BudgetFrozen").goes_ahead(10_000));
        assert!(!serde_json::to_string(&allow).unwrap().contains("slos"));
    }
}
