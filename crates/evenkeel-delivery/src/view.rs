use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_api::{
    Key, Obj,
    canary::{Canary, CanaryStatus, MetricTemplate, RunStatus, TemplateRef},
    httproute::ParentRef,
    slo::Permission,
};
use evenkeel_control::{HookError, HookReply, MetricsError, Standing};
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    Settings,
    checks::{self, Answer, Query},
    reasons,
    router::Router,
    rules::{MetricKind, Rules},
    services::Names,
    spec_error::SpecError,
    unread::Unread,
    workload::Workload,
};

/// Parts of a status that no release depends on.
const BESIDE: [&str; 2] = ["errorBudget", "conditions"];

/// Everything that deciding about one Canary may look at.
#[derive(Debug, Clone)]
pub struct CanaryView {
    pub(crate) now: Timestamp,
    pub(crate) settings: Settings,
    pub(crate) obj: Arc<Obj>,
    /// Whose it is.
    pub(crate) standing: Standing,
    pub(crate) canary: Arc<Canary>,
    /// Its status, and the part of it that is ours.
    pub(crate) status: CanaryStatus,
    pub(crate) run: RunStatus,
    /// Its spec, checked; defaults where it cannot be acted on.
    pub(crate) rules: Rules,
    /// Why the spec cannot be acted on.
    pub(crate) spec_error: Option<SpecError>,
    pub(crate) names: Names,
    /// Who splits the traffic.
    pub(crate) router: Router,
    /// Reference to it as an owner.
    pub(crate) owner: Value,
    /// An older Canary that has the same target.
    pub(crate) conflicting_canary: Option<String>,
    /// Objects that are there and cannot be read, with the reason.
    pub(crate) unreadable: Vec<String>,
    /// The server does not have the kind that would hold the weight; what to do.
    pub(crate) kind_missing: Option<String>,
    /// What of its own status cannot be read and a release depends on.
    pub(crate) status_misfits: Vec<String>,
    /// What may be there as it was, and could not be read this time.
    pub(crate) unread: Unread,
    pub(crate) target: Option<Workload>,
    /// The target may be there, but cannot be read.
    pub(crate) target_unreadable: bool,
    pub(crate) primary: Option<Workload>,
    /// Why pods of the target and its primary do not start, by the Deployment's name.
    pub(crate) stuck_pods: BTreeMap<String, String>,
    /// Apex, primary and canary Service, by name.
    pub(crate) services: BTreeMap<String, Arc<Obj>>,
    pub(crate) route: Option<Arc<Obj>>,
    /// What belongs to the route: Istio's `DestinationRule`s.
    pub(crate) route_parts: BTreeMap<Key, Arc<Obj>>,
    /// A route of an earlier name of the service, which still sends requests to the canary.
    pub(crate) stray_route: Option<StrayRoute>,
    /// Ready pods behind each of the three Services.
    pub(crate) endpoints: BTreeMap<String, BTreeSet<String>>,
    /// Pods of the canary that carry the label by which a plain Service shares requests.
    pub(crate) marked: BTreeSet<String>,
    /// Gateways that the spec names and that exist.
    pub(crate) gateways: Vec<ParentRef>,
    /// As they are.
    pub(crate) gateway_objs: Vec<(ParentRef, Arc<Obj>)>,
    /// Those that do not exist.
    pub(crate) gateways_missing: Vec<String>,
    /// `ConfigMaps` and Secrets that the target uses.
    pub(crate) configs: BTreeMap<Key, Arc<Obj>>,
    /// Hash of each one's content, by `configmap/NAME` and `secret/NAME`; of one that could not be
    /// read the recorded one.
    pub(crate) config_hashes: BTreeMap<String, String>,
    /// What their copies are called, by the same names.
    pub(crate) copy_names: BTreeMap<String, String>,
    /// Copies that the primary's pods use.
    pub(crate) used_copies: BTreeSet<Key>,
    /// Copies of them that exist.
    pub(crate) config_copies: BTreeMap<Key, Arc<Obj>>,
    pub(crate) templates: BTreeMap<TemplateRef, Arc<MetricTemplate>>,
    /// Templates that could not be read this time, with the error.
    pub(crate) templates_unread: BTreeMap<TemplateRef, String>,
    /// Whether people can be alerted.
    pub(crate) alerts: Alerts,
    /// Answers to the queries that deciding asked for.
    pub(crate) answers: BTreeMap<Query, Answer>,
    /// Replies of the webhooks that deciding asked about, by the call's identity; `None` when the
    /// call was not made.
    pub(crate) replies: BTreeMap<String, Option<Result<HookReply, HookError>>>,
}

/// Whether people can be alerted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Alerts {
    /// As far as is known.
    Fine,
    /// How the last alert ended is not known yet, or not any more.
    Unknown,
    Fail(AlertProblem),
}

/// Whether the metrics can be asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Metering {
    /// As far as is known.
    Fine,
    /// Nothing was asked.
    Unknown,
    /// A reason, and what to do.
    Fail(&'static str, String),
}

/// Why people cannot be alerted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct AlertProblem {
    pub(crate) reason: &'static str,
    pub(crate) message: String,
}

/// A route that nothing in the spec names any more.
#[derive(Debug, Clone)]
pub(crate) struct StrayRoute {
    pub(crate) obj: Arc<Obj>,
    /// Ready pods behind its primary.
    pub(crate) primary_ready: usize,
}

impl CanaryView {
    /// What is wrong with `spec.suspend` where evenkeel alone looks after a Canary and does not heed it.
    pub(crate) fn unheeded_suspend(&self) -> Option<(&'static str, String)> {
        let is_unheeded =
            self.standing == Standing::Ours && self.canary.spec.suspend && !self.obj.is_deleting();
        is_unheeded.then(|| {
            let message = "spec.suspend: true does not stop evenkeel while the annotation \
                           evenkeel.dev/managed: \"true\" is there: take the annotation away to stop it, \
                           or set spec.suspend: false";
            (reasons::HANDED_OVER, message.to_owned())
        })
    }

    /// Whether another controller acts on it, and this one only says what it would do.
    pub(crate) fn is_observed(&self) -> bool {
        matches!(self.standing, Standing::Observed { .. })
    }

    /// A view of a Canary about which nothing else is known yet. One whose spec cannot be read has
    /// at least its names, so that its traffic can be sent back.
    pub(crate) fn new(obj: Arc<Obj>, settings: &Settings, now: Timestamp) -> Self {
        let (canary, unfit) = match obj.get::<Canary>() {
            Ok(canary) => (canary, None),
            Err(error) => (Arc::new(skeleton(&obj)), Some(error)),
        };
        let status = canary.status.clone().unwrap_or_default();
        let mut run = status.evenkeel.clone().unwrap_or_default();
        let untold = std::mem::take(&mut run.untold);
        run.pending_events.splice(0..0, untold);
        let checked = unfit.map(SpecError::unfit).map_or_else(|| Rules::of(&canary), Err);
        let checked = checked.and_then(|rules| {
            let server = canary.spec.metrics_server.as_deref().filter(|url| !url.is_empty());
            match server.map(|url| settings.server(url)) {
                Some(Err(problem)) => Err(SpecError::new("spec.metricsServer", problem)),
                _ => Ok(rules),
            }
        });
        let (mut rules, spec_error) = match checked {
            Ok(rules) => (rules, None),
            Err(error) => (Rules::default(), Some(error)),
        };
        if status.error_budget.as_ref().is_some_and(|b| b.permission == Permission::Slower) {
            rules.interval = rules.interval.saturating_mul(2);
        }
        // The budget has another writer and holds a start by itself; conditions decide nothing.
        let ours = status.misfits.iter().filter(|m| !BESIDE.contains(&m.part.as_str()));
        let status_misfits = ours.map(|misfit| format!("status.{}", misfit.problem)).collect();
        let names = Names::from_spec(&canary.spec, obj.namespace());
        let router = Router::of(canary.spec.provider.as_deref());
        let owner = json!(obj.owner_reference());
        Self {
            now,
            settings: settings.clone(),
            obj,
            standing: Standing::default(),
            canary,
            status,
            run,
            rules,
            spec_error,
            names,
            router,
            owner,
            conflicting_canary: None,
            unreadable: Vec::new(),
            kind_missing: None,
            status_misfits,
            unread: Unread::default(),
            target: None,
            target_unreadable: false,
            primary: None,
            stuck_pods: BTreeMap::new(),
            services: BTreeMap::new(),
            route: None,
            route_parts: BTreeMap::new(),
            stray_route: None,
            endpoints: BTreeMap::new(),
            marked: BTreeSet::new(),
            gateways: Vec::new(),
            gateway_objs: Vec::new(),
            gateways_missing: Vec::new(),
            configs: BTreeMap::new(),
            config_hashes: BTreeMap::new(),
            copy_names: BTreeMap::new(),
            used_copies: BTreeSet::new(),
            config_copies: BTreeMap::new(),
            templates: BTreeMap::new(),
            templates_unread: BTreeMap::new(),
            alerts: Alerts::Unknown,
            answers: BTreeMap::new(),
            replies: BTreeMap::new(),
        }
    }

    /// Ready pods behind a Service.
    pub(crate) fn ready_behind(&self, service: &str) -> usize {
        self.endpoints.get(service).map_or(0, BTreeSet::len)
    }

    /// What is known of the metrics: templates that do not exist, then servers that do not answer.
    pub(crate) fn unmeasured(&self) -> Metering {
        if self.canary.spec.skip_analysis {
            return Metering::Fine;
        }
        for rule in &self.rules.metrics {
            let MetricKind::Template(reference, _) = &rule.kind else { continue };
            if let Err(message) = self.template(reference) {
                let unread = self.templates_unread.contains_key(reference);
                let reason = if unread { reasons::READ_FAILED } else { reasons::TEMPLATE_MISSING };
                return Metering::Fail(reason, message);
            }
        }
        for (query, answer) in self.answers.iter().filter(|(query, _)| !query.of_time) {
            let Err(error) = answer else { continue };
            let reason = match error {
                MetricsError::Invalid { .. } => reasons::QUERY_REFUSED,
                MetricsError::Unreachable { .. } => reasons::SERVER_UNREACHABLE,
            };
            let server = query.server.as_deref().or(self.settings.own_server());
            return Metering::Fail(reason, checks::unanswered(server, error));
        }
        let runs = self.status.phase.is_judged();
        if runs && self.answers.is_empty() { Metering::Unknown } else { Metering::Fine }
    }

    /// A template of the spec.
    ///
    /// **Errors**: why there is none, in words.
    pub(crate) fn template(&self, reference: &TemplateRef) -> Result<&MetricTemplate, String> {
        let unread = || self.templates_unread.get(reference).cloned();
        let absent = || checks::absent(reference, self.obj.namespace());
        let found = self.templates.get(reference).map(AsRef::as_ref);
        found.ok_or_else(|| unread().unwrap_or_else(absent))
    }

    /// Whether the primary can take the canary's traffic. Of one that cannot be read its endpoints
    /// tell.
    pub(crate) fn primary_serves(&self) -> bool {
        match &self.primary {
            Some(primary) => primary.available() > 0,
            None => self.unread.primary && self.ready_behind(&self.names.primary) > 0,
        }
    }

    /// What keeps the primary from taking the canary's traffic, where it does not serve.
    pub(crate) fn primary_lack(&self) -> String {
        let primary = &self.names.target_primary;
        if self.unread.primary {
            format!("{primary} cannot be read, and no ready pod of it is known")
        } else {
            format!("no replica of {primary} is available")
        }
    }

    /// Whether webhooks want to hear how a run ended.
    pub(crate) fn has_after_hooks(&self) -> bool {
        let hooks = &self.canary.spec.analysis.webhooks;
        hooks.iter().any(|hook| hook.kind.as_deref() == Some("post-rollout"))
    }
}

/// A Canary, as far as it can be read.
pub(crate) fn lenient(obj: &Obj) -> Arc<Canary> {
    obj.get::<Canary>().unwrap_or_else(|_| Arc::new(skeleton(obj)))
}

/// What is known of a Canary that does not fit its type.
fn skeleton(obj: &Obj) -> Canary {
    let text = |path: &str| obj.json().pointer(path).and_then(Value::as_str).map(str::to_owned);
    let mut canary = Canary { metadata: obj.meta().clone(), ..Canary::default() };
    canary.spec.target_ref.name = text("/spec/targetRef/name").unwrap_or_default();
    canary.spec.service.name = text("/spec/service/name");
    canary.spec.provider = text("/spec/provider");
    canary.spec.suspend = obj.json().pointer("/spec/suspend") == Some(&Value::Bool(true));
    canary.status = obj.json().get("status").and_then(CanaryStatus::read);
    canary
}
