use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{Obj, canary::Canary};
use jiff::Timestamp;

use super::{
    manifest::{Manifest, RulesRead},
    status::SloStatusObject,
    tracker::Sight,
};
use crate::{
    budget::{Exclusions, History, SloKey},
    model::Slo,
    policy::ErrorBudgetPolicy,
};

/// What a look at one `PrometheusServiceLevel` found.
#[derive(Debug, Clone)]
pub enum SloSight {
    /// The object is there.
    There(Box<SloView>),
    /// It is gone, and its rules are still there.
    RulesLeft(Arc<Obj>),
}

/// Everything that deciding about one `PrometheusServiceLevel` may look at.
#[derive(Debug, Clone)]
pub struct SloView {
    pub(crate) now: Timestamp,
    /// Time between two looks at the counters.
    pub(crate) every: Duration,
    pub(crate) obj: Arc<Obj>,
    /// What is written in it.
    pub(crate) manifest: Arc<Manifest>,
    /// The rules as they stand.
    pub(crate) rules_have: RulesSeen,
    /// Its SLOs with one history per group.
    pub(crate) slos: Vec<SloSeen>,
    /// What is wrong with maintenances of the namespace, which are ignored for it.
    pub(crate) ignored: Vec<String>,
    /// Whether the histories were only now counted from the metrics.
    pub(crate) recounted: bool,
    /// Policies of the namespace, by name; those that are not valid are left out.
    pub(crate) policies: BTreeMap<String, ErrorBudgetPolicy>,
    /// Canaries with a run under way that this object has a say about.
    pub(crate) running: Vec<CanarySeen>,
    /// The status so far.
    pub(crate) status: Arc<SloStatusObject>,
}

/// The `PrometheusRule` of the object's name.
#[derive(Debug, Clone)]
pub(crate) enum RulesSeen {
    /// As it stands.
    There(Arc<RulesRead>),
    /// Not there yet.
    Absent,
    /// The cluster does not know the kind.
    KindMissing,
    /// It may be there, and may not be read; the server's words.
    Unread(String),
}

/// One SLO and its histories.
#[derive(Debug, Clone)]
pub(crate) struct SloSeen {
    pub(crate) slo: Slo,
    /// What the newest look found.
    pub(crate) sight: Sight,
    /// Why the newest counters are missing.
    pub(crate) problem: Option<String>,
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
    /// The policies of an SLO, by name.
    pub(crate) fn policies(&self, slo: &Slo) -> Vec<&ErrorBudgetPolicy> {
        self.policies.values().filter(|policy| policy.selects(slo)).collect()
    }

    /// Whether some of the window is still to be counted.
    pub(crate) fn is_counting(&self) -> bool {
        self.slos.iter().any(|seen| matches!(seen.sight, Sight::Counting(_)))
    }
}
