//! SLOs, their policy and their rules as API kinds.
//!
//! Specs are kept as written: `evenkeel-slo` reads them (in every spelling that people use) and
//! says what is wrong with them; a schema that refused one field would lose the whole object.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The budget of one Canary as its SLOs see it: `status.errorBudget` of a [`super::canary::Canary`],
/// written by the SLO controller and read by whoever would change something.
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
    /// The same for people: state, budget left, cost.
    pub message: String,
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
    /// Seconds of the Unix epoch when this was last found to be so.
    pub observed_at: i64,
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
    /// Whether nobody needs to be asked.
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
    /// Time that does not count, with a reason and somebody who answers for it.
    SloMaintenance, "evenkeel.dev", "v1alpha1", "SloMaintenance", "slomaintenances"
}
kept_as_written! {
    /// Leave to go ahead against the policy, for a while.
    BreakGlass, "evenkeel.dev", "v1alpha1", "BreakGlass", "breakglasses"
}
kept_as_written! {
    /// Recording and alerting rules, as the Prometheus operator defines them.
    PrometheusRule, "monitoring.coreos.com", "v1", "PrometheusRule", "prometheusrules"
}
