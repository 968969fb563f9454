//! The controllers of SLOs: rules, budget, state, and what releases may do.
//!
//! ```text
//! metrics --Tracker--> History --+
//! PrometheusServiceLevel, ErrorBudgetPolicy, SloMaintenance, Canary
//!                                +--> SloView --decide--> PrometheusRule, status of the SLO
//!                                                                              |
//! ErrorBudgetPolicy, BreakGlass, Canary --> AnswerView --decide--> status.errorBudget
//! ```
//!
//! The histories are memory only: after a restart they are counted again from the metrics. What
//! a restart must not lose (since when a state lasts, changes under way, reservations) lies in
//! the status.
//!
//! At rest an SLO costs one look per `every` and a write every four minutes, a Canary a look every
//! minute and a write every four. Neither grows with the number of the other.

mod answers;
mod ask;
mod changes;
mod chunk;
mod decide;
mod fit;
mod former;
mod hand_back;
mod manifest;
mod observe;
mod policies;
mod probe;
mod status;
mod strict;
mod tracker;
mod view;

use std::{sync::Arc, time::Duration};

use evenkeel_api::{
    GroupKind, Key, Obj,
    canary::Canary,
    slo::{ErrorBudgetPolicy, PrometheusRule, PrometheusServiceLevel, SloMaintenance},
};
use evenkeel_control::{
    Controller, Interest, Judged, ListQuery, ObserveError, Plan, Ports, RunLoop, Wakes, bookkeeping,
};

pub use answers::{AnswerController, AnswerView};
pub use ask::LookError;
pub use changes::change_id;
pub use decide::UNEXPLAINED;
pub use policies::PolicyController;
pub use status::{Change, Former, LedgerShare, PolicyState, SloQuery, SloState, SloStatusObject};
pub use tracker::{Sight, Tracker};
pub use view::{SloSight, SloView};

use observe::Memory;

/// Annotation of a Canary: comma-separated names of the `PrometheusServiceLevel`s (of its
/// namespace) that a release of it can hurt. Without it, all of the namespace.
pub const SLOS_ANNOTATION: &str = "evenkeel.dev/slos";

/// Objects whose counters are read at a time.
const CONCURRENCY: usize = 4;

/// What the host decides.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// Time between two looks at the counters. Not much shorter than the scrape interval.
    pub every: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self { every: Duration::from_secs(15) }
    }
}

/// The controller of [`PrometheusServiceLevel`] objects.
#[derive(Default)]
pub struct SloController {
    settings: Settings,
    known: Arc<Memory>,
}

impl SloController {
    /// A controller that has counted nothing yet.
    pub fn new(settings: Settings) -> Self {
        Self { settings, known: Arc::default() }
    }
}

/// Adds the controllers of SLOs and their policies to a loop.
#[must_use]
pub fn install(run: RunLoop, settings: Settings) -> RunLoop {
    run.with(SloController::new(settings))
        .with(AnswerController::default())
        .with(PolicyController)
        .map_host(|host| {
            host.with_judge(GroupKind::of::<PrometheusRule>(), Judged(bookkeeping))
                .with_judge(GroupKind::of::<PrometheusServiceLevel>(), Judged(bookkeeping))
                .with_judge(GroupKind::of::<Canary>(), Judged(bookkeeping))
        })
}

impl Controller for SloController {
    type View = SloSight;

    fn name(&self) -> &'static str {
        "slo"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<PrometheusServiceLevel>()
    }

    fn also(&self) -> Vec<Interest> {
        let neighbours = |obj: &Obj| Wakes::Namespace(obj.namespace().to_owned());
        vec![
            // Without the Prometheus operator there are none.
            Interest::owned_by::<PrometheusRule, PrometheusServiceLevel>().where_served(),
            Interest::mapped::<ErrorBudgetPolicy>(neighbours),
            Interest::mapped::<SloMaintenance>(neighbours),
            // A release that begins or ends; how far it is, the next look finds.
            Interest::mapped::<Canary>(neighbours).minding(changes::stage),
        ]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<SloSight>, ObserveError> {
        observe::observe(key, ports, self.settings, &self.known).await
    }

    fn decide(&self, view: &SloSight) -> Plan {
        let plan = decide::decide(view);
        match view {
            SloSight::There(seen) => made_for(plan, &seen.obj),
            SloSight::RulesLeft(_) => plan,
        }
    }

    async fn hand_back(&self, key: &Key, ports: &Ports) -> Result<Option<Plan>, ObserveError> {
        let Some(obj) = ports.read.get(key).await? else { return Ok(None) };
        Ok(hand_back::level(&obj))
    }

    /// What was counted can be counted again.
    fn resigned(&self) {
        self.known.clear();
    }

    /// Looks wait for the metrics server; those of one object, whose memory they take, never run
    /// side by side.
    fn concurrency(&self) -> usize {
        CONCURRENCY
    }
}

/// A plan whose writes to this object bounce off when it is another one by now: a process that leads
/// no more, and does not know it yet, must not undo what the next leader has written.
fn made_for(plan: Plan, obj: &Obj) -> Plan {
    if plan.status.is_empty() { plan } else { plan.assuming(obj.key().clone(), obj.revision()) }
}
