use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_api::{
    Key, Obj, ObjError,
    canary::{Canary, CanaryStatus, MetricTemplate, RunStatus, TemplateRef},
    httproute::{HttpRoute, ParentRef},
    slo::Permission,
};
use evenkeel_control::{HookError, HookReply};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Settings,
    checks::Answer,
    rules::{Rules, SpecError},
    services::Names,
    workload::Workload,
};

/// Everything that deciding about one Canary may look at.
#[derive(Debug, Clone)]
pub struct CanaryView {
    pub(crate) now: Timestamp,
    pub(crate) settings: Settings,
    pub(crate) obj: Arc<Obj>,
    pub(crate) canary: Arc<Canary>,
    /// Its status, and the part of it that is ours.
    pub(crate) status: CanaryStatus,
    pub(crate) run: RunStatus,
    /// Its spec, checked.
    pub(crate) rules: Result<Rules, SpecError>,
    pub(crate) names: Names,
    /// Reference to it as an owner.
    pub(crate) owner: Value,
    /// An older Canary that has the same target.
    pub(crate) conflicting_canary: Option<String>,
    pub(crate) target: Option<Workload>,
    pub(crate) primary: Option<Workload>,
    /// Apex, primary and canary Service, by name.
    pub(crate) services: BTreeMap<String, Arc<Obj>>,
    pub(crate) route: Option<RouteSeen>,
    /// Ready pods behind each of the three Services.
    pub(crate) endpoints: BTreeMap<String, BTreeSet<String>>,
    /// Gateways that the spec names and that exist.
    pub(crate) gateways: Vec<ParentRef>,
    /// Those that do not exist.
    pub(crate) gateways_missing: Vec<String>,
    /// `ConfigMaps` and Secrets that the target uses.
    pub(crate) configs: BTreeMap<Key, Arc<Obj>>,
    /// Hash of each one's content, by `configmap/NAME` and `secret/NAME`.
    pub(crate) config_hashes: BTreeMap<String, String>,
    /// Copies of them.
    pub(crate) config_copies: BTreeMap<Key, Arc<Obj>>,
    pub(crate) templates: BTreeMap<TemplateRef, Arc<MetricTemplate>>,
    /// Answers to the queries that deciding asked for.
    pub(crate) answers: BTreeMap<String, Answer>,
    /// Replies of the webhooks that deciding asked about, by the call's identity; `None` when the
    /// call was not made.
    pub(crate) replies: BTreeMap<String, Option<Result<HookReply, HookError>>>,
}

/// A route as seen.
#[derive(Debug, Clone)]
pub(crate) struct RouteSeen {
    pub(crate) obj: Arc<Obj>,
    pub(crate) route: Arc<HttpRoute>,
}

impl CanaryView {
    /// A view of a Canary about which nothing else is known yet.
    ///
    /// **Errors**: the object is no Canary.
    pub(crate) fn new(obj: Arc<Obj>, settings: Settings, now: Timestamp) -> Result<Self, ObjError> {
        let canary = obj.get::<Canary>()?;
        let status = canary.status.clone().unwrap_or_default();
        let mut run = status.evenkeel.clone().unwrap_or_default();
        let untold = std::mem::take(&mut run.untold);
        run.pending_events.splice(0..0, untold);
        let mut rules = Rules::of(&canary);
        if let (Ok(rules), Some(budget)) = (&mut rules, &status.error_budget)
            && budget.permission == Permission::Slower
        {
            rules.interval = rules.interval.saturating_mul(2);
        }
        let names = Names::of(&canary.spec, obj.namespace());
        let owner = json!(obj.owner_reference());
        Ok(Self {
            now,
            settings,
            obj,
            canary,
            status,
            run,
            rules,
            names,
            owner,
            conflicting_canary: None,
            target: None,
            primary: None,
            services: BTreeMap::new(),
            route: None,
            endpoints: BTreeMap::new(),
            gateways: Vec::new(),
            gateways_missing: Vec::new(),
            configs: BTreeMap::new(),
            config_hashes: BTreeMap::new(),
            config_copies: BTreeMap::new(),
            templates: BTreeMap::new(),
            answers: BTreeMap::new(),
            replies: BTreeMap::new(),
        })
    }

    /// Ready pods behind a Service.
    pub(crate) fn ready_behind(&self, service: &str) -> usize {
        self.endpoints.get(service).map_or(0, BTreeSet::len)
    }
}

impl RouteSeen {
    pub(crate) fn of(obj: Arc<Obj>) -> Result<Self, ObjError> {
        let route = obj.get::<HttpRoute>()?;
        Ok(Self { obj, route })
    }
}
