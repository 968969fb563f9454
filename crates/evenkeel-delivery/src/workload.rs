//! The target Deployment and its primary copy: readiness, revisions, rewriting.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{
    Obj, ObjError,
    beside::{REVISION_PREFIX, is_our_revision},
    json,
    labels::SHARED_SERVICE,
};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::{Map, Value, json};

use crate::{configs, diff, time::elapsed};

/// Labels that may carry the workload's name, in Flagger's order.
const SELECTOR_LABELS: [&str; 3] = ["app", "name", "app.kubernetes.io/name"];
/// On the primary's pods: the target's revision they were copied from.
pub(crate) const REVISION_ANNOTATION: &str = "evenkeel.dev/revision";
/// On the primary's pods: the content of the configs they were copied with.
pub(crate) const CONFIGS_ANNOTATION: &str = "evenkeel.dev/configs";
/// Annotations with this in their name steer another tool and are not copied.
pub(crate) const TOOLKIT: &str = "toolkit.fluxcd.io";
/// Parts of the names of labels and annotations that are some tool's bookkeeping about this very
/// object, and would be wrong on a copy.
const BOOKKEEPING: [&str; 7] = [
    "kubectl.kubernetes.io/",
    "deployment.kubernetes.io/",
    "evenkeel.dev/",
    "argocd.argoproj.io/",
    // By this one Argo CD, too, finds what belongs to an application, and prunes what is not in Git.
    "app.kubernetes.io/instance",
    "meta.helm.sh/",
    TOOLKIT,
];
/// Flagger's mark on the primary's pods.
const FLAGGER_ID: &str = "flagger-id";

/// A Deployment as seen.
#[derive(Debug, Clone)]
pub(crate) struct Workload {
    pub(crate) obj: Arc<Obj>,
    /// Opaque name of the pod template; the same template has the same name everywhere.
    pub(crate) revision: String,
    deployment: Arc<Deployment>,
}

/// Whether a workload can serve.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Readiness {
    /// Enough updated replicas are available.
    Ready,
    /// Not yet; what is waited for.
    Pending(String),
    /// Not within its deadline; what was waited for.
    Stuck(String),
}

impl Readiness {
    /// With what keeps its pods from starting, if that is known.
    pub(crate) fn because(self, cause: Option<&String>) -> Self {
        let with = |text: String| match cause {
            Some(cause) => format!("{text}: {cause}"),
            None => text,
        };
        match self {
            Self::Ready => Self::Ready,
            Self::Pending(text) => Self::Pending(with(text)),
            Self::Stuck(text) => Self::Stuck(with(text)),
        }
    }
}

impl Workload {
    pub(crate) fn of(obj: Arc<Obj>) -> Result<Self, ObjError> {
        let deployment = obj.get::<Deployment>()?;
        let template = obj.json().pointer("/spec/template").unwrap_or(&Value::Null);
        let revision = format!("{REVISION_PREFIX}{}", diff::hash(template));
        Ok(Self { obj, revision, deployment })
    }

    pub(crate) fn replicas(&self) -> i32 {
        self.deployment.spec.as_ref().and_then(|spec| spec.replicas).unwrap_or(1)
    }

    /// Replicas that serve, of whatever version.
    pub(crate) fn available(&self) -> i32 {
        let status = self.deployment.status.as_ref();
        status.and_then(|status| status.available_replicas).unwrap_or_default()
    }

    /// Whether all its replicas are of its version and serve.
    pub(crate) fn is_complete(&self) -> bool {
        let status = self.deployment.status.as_ref();
        let updated = status.and_then(|status| status.updated_replicas).unwrap_or_default();
        self.available().min(updated) >= self.replicas()
    }

    pub(crate) fn template(&self) -> &Value {
        static NONE: Value = Value::Null;
        self.obj.json().pointer("/spec/template").unwrap_or(&NONE)
    }

    /// What selects its pods: all labels that the Deployment selects by, because one alone may be
    /// shared by several Deployments.
    pub(crate) fn selector_of_canary(&self) -> Value {
        json!(self.match_labels().cloned().unwrap_or_default())
    }

    /// The labels it selects its pods by.
    pub(crate) fn match_labels(&self) -> Option<&BTreeMap<String, String>> {
        self.deployment.spec.as_ref()?.selector.match_labels.as_ref()
    }

    /// The same for its primary copy, with another value of the label that carries the name.
    pub(crate) fn selector_of_primary(&self) -> Value {
        let mut labels = self.selector_of_canary();
        if let Some((label, value)) = self.selector() {
            labels[label] = format!("{value}-primary").into();
        }
        labels
    }

    /// Its labels or annotations, but for other tools' bookkeeping.
    fn metadata(&self, field: &str) -> Map<String, Value> {
        let all = self.obj.json().pointer(&format!("/metadata/{field}"));
        let all = all.and_then(Value::as_object).cloned().unwrap_or_default();
        let kept = |name: &str| !BOOKKEEPING.iter().any(|part| name.contains(part));
        all.into_iter().filter(|(name, _)| kept(name)).collect()
    }

    /// The label that carries the workload's name, and its value.
    pub(crate) fn selector(&self) -> Option<(&'static str, &str)> {
        let labels = self.match_labels()?;
        SELECTOR_LABELS.iter().find_map(|name| Some((*name, labels.get(*name)?.as_str())))
    }

    /// How many replicas must be available at `pct` percent.
    pub(crate) fn needed(&self, pct: i32) -> i32 {
        self.replicas() * pct / 100
    }

    /// Whether none of its replicas serves, other than in a rollout that may stop all of them; `None`
    /// while what it says is older than its spec.
    ///
    /// Fewer than wanted is no outage: a scale-up looks the same.
    pub(crate) fn is_out(&self) -> Option<bool> {
        let status = self.deployment.status.clone().unwrap_or_default();
        if status.observed_generation.unwrap_or_default() < self.obj.generation() {
            return None;
        }
        let find = |kind: &str| {
            status.conditions.iter().flatten().find(move |condition| condition.type_ == kind)
        };
        let minimum = find("Available").map(|condition| condition.status == "True");
        // A rollout that goes on. It may stop all pods first, if the strategy says so.
        let rolls = find("Progressing").is_some_and(|condition| {
            let ended = condition.reason.as_deref() == Some("NewReplicaSetAvailable");
            condition.status == "True" && !ended
        });
        let kind = self.obj.json().pointer("/spec/strategy/type").and_then(Value::as_str);
        if rolls && (kind == Some("Recreate") || minimum == Some(true)) {
            return Some(false);
        }
        Some(self.available() == 0)
    }

    /// Whether `pct` percent of the updated replicas are available.
    pub(crate) fn readiness(&self, pct: i32, deadline: Duration, now: Timestamp) -> Readiness {
        let status = self.deployment.status.clone().unwrap_or_default();
        let wanted = self.replicas();
        if status.observed_generation.unwrap_or_default() < self.obj.generation() {
            let text = "observed deployment generation less than desired generation";
            return Readiness::Pending(format!("rollout to finish: {text}"));
        }
        let find = |kind: &str| {
            status.conditions.iter().flatten().find(move |condition| condition.type_ == kind)
        };
        if find("Progressing")
            .is_some_and(|c| c.reason.as_deref() == Some("ProgressDeadlineExceeded"))
        {
            return Readiness::Stuck("deployment exceeded its progress deadline".to_owned());
        }
        let updated = status.updated_replicas.unwrap_or_default();
        let available = status.available_replicas.unwrap_or_default();
        let all = status.replicas.unwrap_or_default();
        let progress = if updated < wanted {
            format!("{updated} out of {wanted} new replicas have been updated")
        } else if all > updated {
            format!("{} old replicas are pending termination", all - updated)
        } else if available < self.needed(pct) {
            format!(
                "{available} of {updated} (readyThreshold {pct}%) updated replicas are available"
            )
        } else {
            return Readiness::Ready;
        };
        let text = format!("rollout to finish: {progress}");
        let short = find("Available").filter(|c| c.status == "False");
        let since = short.and_then(|c| c.last_transition_time.as_ref());
        if since.is_some_and(|since| elapsed(since.0, now) > deadline) {
            return Readiness::Stuck(text);
        }
        Readiness::Pending(text)
    }
}

/// Whether a revision in a status is one of ours.
pub(crate) fn is_ours(revision: &str) -> bool {
    is_our_revision(revision)
}

/// What rewriting a target into its primary needs.
pub(crate) struct Rewrite<'a> {
    /// Name of its primary copy.
    pub(crate) primary: &'a str,
    /// The label that distinguishes their pods.
    pub(crate) label: &'a str,
    /// Its value on the target.
    pub(crate) value: &'a str,
    /// Name of the target.
    pub(crate) target: &'a str,
    /// Its configs that have copies, with hashes of their content.
    pub(crate) configs: &'a BTreeMap<String, String>,
    /// What the copies are called.
    pub(crate) copies: &'a BTreeMap<String, String>,
    /// The plain Service that selects pods of both by a label.
    pub(crate) shared: Option<&'a str>,
}

impl Rewrite<'_> {
    /// Label value on the primary's pods.
    pub(crate) fn primary_value(&self) -> String {
        format!("{}-primary", self.value)
    }

    /// The primary's pod template: the target's, except for what distinguishes the two.
    pub(crate) fn template(&self, target: &Workload) -> Value {
        let mut template = target.template().clone();
        configs::rename(&mut template, self.copies);
        let primary = self.primary_value();
        set(&mut template, &["metadata", "labels", self.label], primary.clone().into());
        if let Some(service) = self.shared {
            set(&mut template, &["metadata", "labels", SHARED_SERVICE], service.into());
        }
        let revision = target.revision.as_str().into();
        set(&mut template, &["metadata", "annotations", REVISION_ANNOTATION], revision);
        if !self.configs.is_empty() {
            let hash = diff::hash(&json!(self.configs)).into();
            set(&mut template, &["metadata", "annotations", CONFIGS_ANNOTATION], hash);
        }
        let terms = [
            "/spec/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution",
            "/spec/affinity/podAffinity/requiredDuringSchedulingIgnoredDuringExecution",
            "/spec/topologySpreadConstraints",
        ];
        for term in terms {
            for term in list(&mut template, term) {
                self.rewrite_selector(term);
            }
        }
        let preferred = [
            "/spec/affinity/podAntiAffinity/preferredDuringSchedulingIgnoredDuringExecution",
            "/spec/affinity/podAffinity/preferredDuringSchedulingIgnoredDuringExecution",
        ];
        for term in preferred {
            for term in list(&mut template, term) {
                if let Some(term) = term.get_mut("podAffinityTerm") {
                    self.rewrite_selector(term);
                }
            }
        }
        template
    }

    /// A selector that means the target's pods means the primary's in the copy.
    fn rewrite_selector(&self, term: &mut Value) {
        let Some(selector) = term.get_mut("labelSelector") else { return };
        let primary = self.primary_value();
        if let Some(value) = selector.pointer_mut(&format!("/matchLabels/{}", escape(self.label)))
            && value == self.value
        {
            *value = primary.clone().into();
        }
        for expression in list(selector, "/matchExpressions") {
            if expression.get("key").and_then(Value::as_str) != Some(self.label) {
                continue;
            }
            for value in list(expression, "/values") {
                if value == self.value {
                    *value = primary.clone().into();
                }
            }
        }
    }

    /// The whole primary Deployment.
    pub(crate) fn deployment(&self, target: &Workload, namespace: &str, owner: &Value) -> Value {
        let mut spec = carried(target);
        let template = self.template(target);
        let match_labels = target.selector_of_primary();
        spec.insert("replicas".to_owned(), target.replicas().max(1).into());
        spec.insert("selector".to_owned(), json!({"matchLabels": match_labels}));
        spec.insert("template".to_owned(), template);
        json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": self.primary, "namespace": namespace,
                "labels": self.labels(target), "annotations": target.metadata("annotations"),
                "ownerReferences": [owner]},
            "spec": spec})
    }

    /// The primary's own labels: the target's, but for the one that carries the name.
    fn labels(&self, target: &Workload) -> Map<String, Value> {
        let mut labels = target.metadata("labels");
        labels.insert(self.label.to_owned(), self.primary_value().into());
        labels
    }

    /// The patch that brings the primary to the target's template; `None` when it is there.
    pub(crate) fn promotion(&self, target: &Workload, primary: &Workload) -> Option<Value> {
        let mut spec = Map::new();
        let mut want = self.template(target);
        // Another tool's mark is left alone.
        let id = ["metadata", "annotations", FLAGGER_ID];
        if let Some(mark) = primary.template().pointer("/metadata/annotations/flagger-id") {
            set(&mut want, &id, mark.clone());
        }
        if let Some(patch) = json::difference(primary.template(), &want) {
            spec.insert("template".to_owned(), patch);
        }
        for (name, value) in carried(target) {
            let have = primary.obj.json().pointer(&format!("/spec/{name}")).unwrap_or(&Value::Null);
            if let Some(patch) = json::difference(have, &value) {
                spec.insert(name, patch);
            }
        }
        if target.replicas() > 0 && target.replicas() != primary.replicas() {
            spec.insert("replicas".to_owned(), target.replicas().into());
        }
        let mut patch = json!({});
        if !spec.is_empty() {
            patch["spec"] = spec.into();
        }
        // What the target has is brought over; what others put on the primary stays.
        for (field, want) in
            [("labels", self.labels(target)), ("annotations", target.metadata("annotations"))]
        {
            let have = primary.obj.json().pointer(&format!("/metadata/{field}"));
            for (name, value) in want {
                if have.and_then(|have| have.get(&name)) != Some(&value) {
                    patch["metadata"][field][name] = value;
                }
            }
        }
        (patch != json!({})).then_some(patch)
    }

    /// Whether the primary runs what the target says, whoever copied it.
    pub(crate) fn same_version(&self, target: &Workload, primary: &Workload) -> bool {
        let plain = |mut template: Value| {
            configs::unname(&mut template, self.configs.keys(), self.target);
            for name in [REVISION_ANNOTATION, CONFIGS_ANNOTATION, FLAGGER_ID] {
                if let Some(all) = template.pointer_mut("/metadata/annotations") {
                    all.as_object_mut().map(|all| all.shift_remove(name));
                }
            }
            if let Some(all) = template.pointer_mut("/metadata/labels") {
                all.as_object_mut().map(|all| all.shift_remove(SHARED_SERVICE));
            }
            if template.pointer("/metadata/annotations") == Some(&json!({}))
                && let Some(meta) = template.get_mut("metadata").and_then(Value::as_object_mut)
            {
                meta.shift_remove("annotations");
            }
            json::canonical(&template)
        };
        plain(self.template(target)) == plain(primary.template().clone())
    }
}

/// What of the spec besides the template goes into the primary.
fn carried(target: &Workload) -> Map<String, Value> {
    ["progressDeadlineSeconds", "minReadySeconds", "revisionHistoryLimit", "strategy"]
        .into_iter()
        .filter_map(|name| {
            let value = target.obj.json().pointer(&format!("/spec/{name}"))?;
            Some((name.to_owned(), value.clone()))
        })
        .collect()
}

fn list<'a>(value: &'a mut Value, pointer: &str) -> impl Iterator<Item = &'a mut Value> {
    value.pointer_mut(pointer).and_then(Value::as_array_mut).into_iter().flatten()
}

fn escape(label: &str) -> String {
    label.replace('~', "~0").replace('/', "~1")
}

/// Sets a field, making the objects on the way.
fn set(value: &mut Value, path: &[&str], to: Value) {
    let mut at = value;
    for step in path {
        if !at.is_object() {
            *at = json!({});
        }
        at = &mut at[*step];
    }
    *at = to;
}
