use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_api::{
    Key, Obj, ObjError,
    canary::{Canary, CanaryStatus, MetricTemplate, TemplateRef},
    httproute::{HttpRoute, ParentRef},
};
use evenkeel_control::{HookError, HookReply};
use jiff::Timestamp;

use crate::{Settings, checks::Answer, services::Names, workload::Workload};

/// Everything that deciding about one Canary may look at.
#[derive(Debug, Clone)]
pub struct CanaryView {
    pub(crate) now: Timestamp,
    pub(crate) settings: Settings,
    pub(crate) obj: Arc<Obj>,
    pub(crate) canary: Arc<Canary>,
    pub(crate) names: Names,
    /// An older Canary that has the same target.
    pub(crate) elder: Option<String>,
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
        let names = Names::of(&canary.spec, obj.namespace());
        Ok(Self {
            now,
            settings,
            obj,
            canary,
            names,
            elder: None,
            target: None,
            primary: None,
            services: BTreeMap::new(),
            route: None,
            endpoints: BTreeMap::new(),
            gateways: Vec::new(),
            gateways_missing: Vec::new(),
            configs: BTreeMap::new(),
            config_copies: BTreeMap::new(),
            templates: BTreeMap::new(),
            answers: BTreeMap::new(),
            replies: BTreeMap::new(),
        })
    }

    pub(crate) fn status(&self) -> CanaryStatus {
        self.canary.status.clone().unwrap_or_default()
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
