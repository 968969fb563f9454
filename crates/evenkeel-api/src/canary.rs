//! `flagger.app/v1beta1` Canary and `MetricTemplate`: the part evenkeel acts on.
//!
//! **Source**: Flagger 1.44's CRDs. Fields we do not act on are kept as they are in `other`, so
//! that writing one back never loses anything. evenkeel's own bookkeeping lies in
//! [`CanaryStatus::evenkeel`], apart from Flagger's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::{
    apis::meta::v1::{Condition, ObjectMeta, Time},
    util::intstr::IntOrString,
};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::{Map, Value};

use crate::{
    httproute::{HttpRouteMatch, ParentRef},
    misfit::{self, Misfit},
    slo::ErrorBudget,
};

/// A workload whose new versions get traffic step by step.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Canary {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is wanted.
    pub spec: CanarySpec,
    /// How far it is, as far as it can be read: [`CanaryStatus::misfits`] names the rest.
    #[serde(default, deserialize_with = "status", skip_serializing_if = "Option::is_none")]
    pub status: Option<CanaryStatus>,
}

fn status<'de, D: Deserializer<'de>>(from: D) -> Result<Option<CanaryStatus>, D::Error> {
    Ok(CanaryStatus::read(&Value::deserialize(from)?))
}

crate::api_kind!(Canary, "flagger.app", "v1beta1", "Canary", "canaries", NamespaceResourceScope);

/// Spec of a [`Canary`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanarySpec {
    /// The provider that routes traffic, and so which metrics exist; empty means evenkeel's
    /// gateway.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider: Option<String>,
    /// Prometheus for the built-in metrics; empty means the host's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics_server: Option<String>,
    /// The workload to watch.
    pub target_ref: ObjectRef,
    /// Its autoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaler_ref: Option<Value>,
    /// Seconds a workload may stay unready before the run is given up; default 600.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress_deadline_seconds: Option<i32>,
    /// Promotes without checks.
    #[serde(default)]
    pub skip_analysis: bool,
    /// Puts the target back in charge when the Canary is deleted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert_on_deletion: Option<bool>,
    /// Stops all automation on this Canary.
    #[serde(default)]
    pub suspend: bool,
    /// The Services and the route to make.
    #[serde(default)]
    pub service: CanaryService,
    /// How a new version is judged.
    #[serde(default, alias = "canaryAnalysis")]
    pub analysis: CanaryAnalysis,
    /// Everything else (ingressRef, routeRef, upstreamRef ...).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Names an object in the Canary's namespace.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectRef {
    /// Group and version.
    #[serde(default)]
    pub api_version: String,
    /// Kind.
    pub kind: String,
    /// Name.
    pub name: String,
}

/// The Services and the route of a [`Canary`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryService {
    /// Name of the apex Service; default: the target's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Port of the Services.
    #[serde(default)]
    pub port: i32,
    /// Name of that port; default `http`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port_name: Option<String>,
    /// Container port; default: `port`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrString>,
    /// `appProtocol` of that port.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
    /// `trafficDistribution` of the Services.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traffic_distribution: Option<String>,
    /// Adds every other container port.
    #[serde(default)]
    pub port_discovery: bool,
    /// Services without `ClusterIP`.
    #[serde(default)]
    pub headless: bool,
    /// Longest answer time, such as `15s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Longest time of one attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backend_timeout: Option<String>,
    /// Names (`name` or `namespace/name`) of gateways, as Istio writes them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateways: Vec<String>,
    /// Gateway API parents.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub gateway_refs: Vec<ParentRef>,
    /// Host names of the route.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// Conditions of the route's rule, as Istio writes them.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Value>,
    /// Labels and annotations of the apex Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub apex: Option<ServiceMeta>,
    /// Labels and annotations of the primary's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary: Option<ServiceMeta>,
    /// Labels and annotations of the canary's Service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<ServiceMeta>,
    /// Everything else (trafficPolicy, rewrite, retries, headers, corsPolicy ...).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// Labels and annotations to put on a generated Service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceMeta {
    /// Labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// How a new version is judged.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryAnalysis {
    /// Time between checks, such as `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Failed checks, all steps together, before the version is rolled back.
    #[serde(default)]
    pub threshold: i32,
    /// Highest share of traffic in percent; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_weight: Option<i32>,
    /// Share added by each step.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_weight: Option<i32>,
    /// Shares of the steps one by one.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub step_weights: Vec<i32>,
    /// Share given back to the primary per tick of the promotion; absent or 0 is all at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub step_weight_promotion: Option<i32>,
    /// Number of checks of an A/B test or a blue/green release.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iterations: Option<i32>,
    /// Conditions of an A/B test.
    #[serde(default, rename = "match", skip_serializing_if = "Vec::is_empty")]
    pub matches: Vec<Value>,
    /// Copies requests to the new version.
    #[serde(default)]
    pub mirror: bool,
    /// Percent of the updated primary replicas that must be available; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub primary_ready_threshold: Option<i32>,
    /// Percent of the updated canary replicas that must be available; default 100.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary_ready_threshold: Option<i32>,
    /// What is measured.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<CanaryMetric>,
    /// Webhooks that are called.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub webhooks: Vec<CanaryWebhook>,
    /// Alerts that are sent.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub alerts: Vec<CanaryAlert>,
    /// Everything else (mirrorWeight, sessionAffinity ...).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// One measure of a new version.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryMetric {
    /// `request-success-rate`, `request-duration`, or any name with a query or template.
    pub name: String,
    /// Window looked at; default `1m`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub interval: Option<String>,
    /// Deprecated: a maximum (a minimum for the success rate).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Bounds, both included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub threshold_range: Option<ThresholdRange>,
    /// `PromQL` of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub query: Option<String>,
    /// A [`MetricTemplate`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub template_ref: Option<TemplateRef>,
    /// Values for the template's `{{ variables.x }}`.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub template_variables: BTreeMap<String, String>,
}

/// Bounds of a measured value, both included.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct ThresholdRange {
    /// Lowest good value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<f64>,
    /// Highest good value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<f64>,
}

/// Names a [`MetricTemplate`].
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct TemplateRef {
    /// Name.
    pub name: String,
    /// Namespace; default: the Canary's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
}

/// A webhook.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryWebhook {
    /// Its name.
    pub name: String,
    /// Where to.
    pub url: String,
    /// When it is asked; empty means `rollout`.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// Longest wait; default `10s`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timeout: Option<String>,
    /// Further attempts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retries: Option<u32>,
    /// Sent along.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub metadata: BTreeMap<String, String>,
    /// Everything else (disableTLS, muteAlert).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// An alert.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryAlert {
    /// Its name.
    #[serde(default)]
    pub name: String,
    /// `info` (default), `warn` or `error`: the lowest severity that is sent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// The `AlertProvider`.
    #[serde(default)]
    pub provider_ref: TemplateRef,
}

/// Status of a [`Canary`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CanaryStatus {
    /// How far it is.
    #[serde(default)]
    pub phase: Phase,
    /// Failed checks of this run.
    #[serde(default)]
    pub failed_checks: i32,
    /// Share of traffic of the new version in percent.
    #[serde(default)]
    pub canary_weight: i32,
    /// Checks done by an A/B test or blue/green release.
    #[serde(default)]
    pub iterations: i32,
    /// Revision of the target that the last run started from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_applied_spec: String,
    /// Revision of the target the primary runs.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub last_promoted_spec: String,
    /// `configmap/NAME` and `secret/NAME` the target uses, with the checksum of their content.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracked_configs: Option<BTreeMap<String, String>>,
    /// When the phase last changed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Time>,
    /// One condition, `Promoted`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// evenkeel's own bookkeeping.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evenkeel: Option<RunStatus>,
    /// What its SLOs say about a release; written by the SLO controller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_budget: Option<ErrorBudget>,
    /// Parts of the stored status that cannot be read; here they have their defaults.
    #[serde(skip)]
    pub misfits: Vec<Misfit>,
    /// Everything else (session affinity cookies).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl CanaryStatus {
    /// Reads a stored status as far as it can be read: it has several writers, and none of them
    /// hides what the others say. `None` for null.
    pub fn read(body: &Value) -> Option<Self> {
        let (status, misfits) = misfit::readable::<Self>(body);
        (!body.is_null()).then_some(Self { misfits, ..status })
    }

    /// Why a part of the stored status cannot be read; `None` when it can, or is not there.
    pub fn misfit(&self, part: &str) -> Option<&str> {
        let misfit = self.misfits.iter().find(|misfit| misfit.part == part);
        misfit.map(|misfit| misfit.problem.as_str())
    }
}

/// How far a Canary is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Phase {
    /// Not looked at yet.
    #[default]
    #[serde(rename = "")]
    New,
    /// The primary copy is being made.
    Initializing,
    /// The primary serves; no new version yet.
    Initialized,
    /// A new version waits for approval to start.
    Waiting,
    /// A new version is judged.
    Progressing,
    /// The new version is good; it waits for approval to be promoted.
    WaitingPromotion,
    /// The primary takes the new version over.
    Promoting,
    /// The primary has all traffic again; the canary is about to go.
    Finalising,
    /// The new version is everywhere.
    Succeeded,
    /// The new version is nowhere.
    Failed,
    /// The Canary is being deleted.
    Terminating,
    /// Nothing is left of it.
    Terminated,
}

impl Phase {
    /// As Flagger writes it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "",
            Self::Initializing => "Initializing",
            Self::Initialized => "Initialized",
            Self::Waiting => "Waiting",
            Self::Progressing => "Progressing",
            Self::WaitingPromotion => "WaitingPromotion",
            Self::Promoting => "Promoting",
            Self::Finalising => "Finalising",
            Self::Succeeded => "Succeeded",
            Self::Failed => "Failed",
            Self::Terminating => "Terminating",
            Self::Terminated => "Terminated",
        }
    }

    /// The phase that is written so; `None` when there is none.
    pub fn parse(text: &str) -> Option<Self> {
        serde_json::from_value(text.into()).ok()
    }

    /// A version is being judged: it has some of the traffic, and its checks count.
    pub fn is_judged(self) -> bool {
        matches!(self, Self::Progressing | Self::WaitingPromotion)
    }

    /// A release is under way, from its first look to its end: there are two versions, and somebody
    /// must see to it that one is left. One that waits for its start ([`Self::Waiting`]) is not.
    pub fn is_release(self) -> bool {
        self.is_judged() || matches!(self, Self::Promoting | Self::Finalising)
    }

    /// Something is done or waited for that ends by itself: a release, or the first copy is made.
    pub fn is_busy(self) -> bool {
        self.is_release() || self == Self::Initializing
    }

    /// Traffic is on its way from one workload to another, and would stay where it is without a
    /// controller: whatever is busy, and a deletion, which brings it back to the target.
    pub fn is_moving(self) -> bool {
        self.is_busy() || self == Self::Terminating
    }
}

/// What evenkeel must remember of a run to continue after a crash.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RunStatus {
    /// Number of the tick the run is at; part of every webhook call's identity.
    #[serde(default)]
    pub tick: u32,
    /// When the run started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<Timestamp>,
    /// When the last tick was done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ticked_at: Option<Timestamp>,
    /// When the gateway was seen to route by the present weight; the check window starts here.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_at: Option<Timestamp>,
    /// Generation of the route that was confirmed then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirmed_generation: Option<i64>,
    /// The state of a route that no data plane confirms, and since when it is stored.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub route_seen: Option<RouteSeen>,
    /// Failed checks since the present weight was set.
    #[serde(default)]
    pub step_failed_checks: i32,
    /// Since when an approval is pending.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub waiting_since: Option<Timestamp>,
    /// The rollback under way.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback: Option<RollbackStatus>,
    /// Whether webhooks of type `post-rollout` are still to be called.
    #[serde(default)]
    pub after_hooks_due: bool,
    /// Seconds the last rollback took, from the decision to the gateway's confirmation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rollback_seconds: Option<f64>,
    /// A person had handed the Canary over when this was written: when the annotation is gone, it
    /// is wanted back.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub handed_over: bool,
    /// What it waits for or what is wrong with it, as last reported.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
    /// Since when every request of the canary has been answered by the version that is judged (or
    /// will be judged next): no check looks further back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub clean_since: Option<Timestamp>,
    /// Since when a metric has no data.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data_missing_since: Option<Timestamp>,
    /// The last check of this run that failed, with value and threshold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failed_check: Option<String>,
    /// How the last run ended, for the condition `Promoted`; only set when it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<String>,
    /// Checksums of the configs that the primary runs with, named as in
    /// [`CanaryStatus::tracked_configs`].
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub promoted_configs: BTreeMap<String, String>,
    /// When people were alerted last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alerted_at: Option<Timestamp>,
    /// What of the objects around the target was set lately, so that what does not last is not
    /// set without end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub repairs: Vec<RepairStatus>,
    /// Events that have not been sent to event webhooks yet.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pending_events: Vec<PendingEvent>,
    /// The former name of `pendingEvents`. Still read, never written.
    #[serde(default, skip_serializing)]
    pub untold: Vec<PendingEvent>,
}

/// A state of a route, and when it was first seen in the API server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RouteSeen {
    /// Uid of the route: one that is made again counts anew.
    #[serde(default)]
    pub uid: String,
    /// Its generation.
    pub generation: i64,
    /// When that was seen first.
    pub at: Timestamp,
}

/// Why and since when a version is being rolled back.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RollbackStatus {
    /// For people.
    pub cause: String,
    /// When it was decided.
    pub since: Timestamp,
}

/// An attempt to bring an object back to what it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepairStatus {
    /// `Kind/namespace/name`.
    pub object: String,
    /// The fields that differed; empty when it was missing.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub fields: String,
    /// Attempts so far.
    pub attempts: u32,
    /// When the last one was.
    pub at: Timestamp,
    /// The Canary's `metadata.generation` at that time: under another one the fields should be
    /// something else, and an attempt at that is the first one.
    #[serde(default)]
    pub generation: i64,
}

/// An event on its way to event webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PendingEvent {
    /// `Normal` or `Warning`.
    pub kind: String,
    /// Its text.
    pub message: String,
    /// When it happened.
    pub at: Timestamp,
}

/// A measure that many Canaries share.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricTemplate {
    /// Standard metadata.
    #[serde(default)]
    pub metadata: ObjectMeta,
    /// What is measured.
    pub spec: MetricTemplateSpec,
}

crate::api_kind!(
    MetricTemplate,
    "flagger.app",
    "v1beta1",
    "MetricTemplate",
    "metrictemplates",
    NamespaceResourceScope
);

/// Spec of a [`MetricTemplate`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricTemplateSpec {
    /// The server to ask.
    #[serde(default)]
    pub provider: MetricProvider,
    /// Query with `{{ name }}`, `{{ target }}`, `{{ interval }}` ... in it.
    #[serde(default)]
    pub query: String,
}

/// The server that answers a [`MetricTemplate`].
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct MetricProvider {
    /// `prometheus`, or a hosted service.
    #[serde(default, rename = "type")]
    pub kind: String,
    /// Everything else (address, secretRef, region ...).
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// The route conditions of a match that Istio and the Gateway API write differently.
///
/// **Errors**: the name of a field that the Gateway API cannot express.
pub fn gateway_match(istio: &Value) -> Result<HttpRouteMatch, String> {
    let mut route = HttpRouteMatch::default();
    let value_match = |name: &str, value: &Value, prefix: Option<&str>| {
        let text = |field: &str| value.get(field).and_then(Value::as_str).map(str::to_owned);
        let (kind, value) = if let Some(text) = text("exact") {
            ("Exact", text)
        } else if let Some(text) = text("regex") {
            ("RegularExpression", text)
        } else if let (Some(kind), Some(text)) = (prefix, text("prefix")) {
            (kind, text)
        } else {
            return Err(name.to_owned());
        };
        Ok(crate::httproute::ValueMatch {
            kind: Some(kind.to_owned()),
            name: name.to_owned(),
            value,
        })
    };
    for (field, value) in istio.as_object().into_iter().flatten() {
        match field.as_str() {
            "uri" => {
                let mut path = value_match("uri", value, Some("PathPrefix"))?;
                path.name.clear();
                route.path = Some(path);
            }
            "method" => {
                let exact = value.get("exact").and_then(Value::as_str);
                route.method = Some(exact.ok_or_else(|| "method".to_owned())?.to_owned());
            }
            "headers" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    route.headers.push(value_match(name, value, None)?);
                }
            }
            "queryParams" => {
                for (name, value) in value.as_object().into_iter().flatten() {
                    route.query_params.push(value_match(name, value, None)?);
                }
            }
            "name" => {}
            other => return Err(other.to_owned()),
        }
    }
    Ok(route)
}

#[cfg(test)]
mod tests;
