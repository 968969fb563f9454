use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{Obj, canary::Canary};
use jiff::Timestamp;
use serde_json::Value;

use super::status::SloStatusObject;
use crate::{
    budget::{Exclusions, History, SloKey},
    finding::Finding,
    model::Slo,
    policy::{BreakGlass, ErrorBudgetPolicy},
    render::RuleSet,
};

/// Everything that deciding about one `PrometheusServiceLevel` may look at.
#[derive(Debug, Clone)]
pub struct SloView {
    pub(crate) now: Timestamp,
    /// Time between two looks at the counters.
    pub(crate) every: Duration,
    pub(crate) obj: Arc<Obj>,
    /// What reading it had to say.
    pub(crate) findings: Vec<Finding>,
    /// Its rules; `None` after an error.
    pub(crate) rules: Option<RuleSet>,
    /// The rules as they stand.
    pub(crate) rules_have: RulesSeen,
    /// Its SLOs with one history per group.
    pub(crate) slos: Vec<SloSeen>,
    /// Why the newest counters are missing.
    pub(crate) metrics_problem: Option<String>,
    /// Whether the histories were only now counted from the metrics.
    pub(crate) recounted: bool,
    /// Policies of the namespace, by name; those that are not valid are left out.
    pub(crate) policies: BTreeMap<String, ErrorBudgetPolicy>,
    /// Names of the policies that are not valid: whom they were for is not known.
    pub(crate) invalid_policies: Vec<String>,
    /// Exceptions, by name, as written.
    pub(crate) glasses: BTreeMap<String, Value>,
    /// Canaries of the namespace that this object has a say about.
    pub(crate) canaries: Vec<CanarySeen>,
    /// The other objects of the kind in the namespace.
    pub(crate) peers: Vec<Arc<Obj>>,
    /// The status so far.
    pub(crate) status: SloStatusObject,
}

/// The `PrometheusRule` of the object's name.
#[derive(Debug, Clone)]
pub(crate) enum RulesSeen {
    /// As it stands.
    There(Arc<Obj>),
    /// Not there yet.
    Absent,
    /// The cluster does not know the kind.
    KindMissing,
}

/// One SLO and its histories.
#[derive(Debug, Clone)]
pub(crate) struct SloSeen {
    pub(crate) slo: Slo,
    pub(crate) histories: BTreeMap<SloKey, Arc<History>>,
    pub(crate) exclusions: Exclusions,
}

/// One Canary.
#[derive(Debug, Clone)]
pub(crate) struct CanarySeen {
    pub(crate) obj: Arc<Obj>,
    pub(crate) canary: Arc<Canary>,
}

impl SloView {
    /// The policy of an SLO: the first by name that selects it.
    pub(crate) fn policy(&self, slo: &Slo) -> Option<&ErrorBudgetPolicy> {
        self.policies.values().find(|policy| policy.selects(slo))
    }

    /// The exceptions that the policy accepts, and what is wrong with the others.
    pub(crate) fn glasses(&self, policy: &ErrorBudgetPolicy) -> (Vec<BreakGlass>, Vec<String>) {
        let (mut good, mut bad) = (Vec::new(), Vec::new());
        for (name, spec) in &self.glasses {
            match BreakGlass::from_spec(spec, policy) {
                Ok(glass) => good.push(glass),
                Err(error) => bad.push(format!("BreakGlass/{name} has no effect: {error}")),
            }
        }
        (good, bad)
    }
}
