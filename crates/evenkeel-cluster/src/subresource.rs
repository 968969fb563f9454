use std::sync::Arc;

use evenkeel_api::{
    GroupKind, Key, LabelSelector, Obj,
    disruption::{Disruption, is_healthy, wanted_pods},
};
use evenkeel_control::{Patch, Subresource};
use k8s_openapi::{
    api::policy::v1::PodDisruptionBudget, apimachinery::pkg::apis::meta::v1 as meta,
    serde::Deserialize as _,
};
use serde_json::{Value, json};

use crate::{
    error::{ApiError, Cause},
    patch,
    request::{DeleteRequest, Write, WriteContext, Written},
    resource::Resource,
    state::State,
    value::{list_at, number_at, object_in, stamp, text, text_at},
};

/// The `autoscaling/v1` Scale of an object.
pub(crate) fn scale_of(resource: &Resource, obj: &Obj) -> Value {
    let body = obj.json();
    let paths = resource
        .custom()
        .and_then(|custom| custom.version(&resource.kind.version))
        .and_then(|version| version.scale.clone());
    let (wanted, found, selector) = match &paths {
        Some(paths) => (
            number_at(body, &pointer(&paths.spec)),
            number_at(body, &pointer(&paths.status)),
            paths.selector.as_ref().map(|path| text_at(body, &pointer(path)).to_owned()),
        ),
        None => (
            number_at(body, "/spec/replicas"),
            number_at(body, "/status/replicas"),
            body.pointer("/spec/selector").map(selector_text),
        ),
    };
    let meta = |name: &str| body.pointer("/metadata").and_then(|meta| meta.get(name)).cloned();
    let mut scale = json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": {
            "name": meta("name"), "namespace": meta("namespace"), "uid": meta("uid"),
            "resourceVersion": meta("resourceVersion"),
            "creationTimestamp": meta("creationTimestamp")},
        "spec": {"replicas": wanted.unwrap_or_default()},
        "status": {"replicas": found.unwrap_or_default()}});
    if let Some(selector) = selector.filter(|text| !text.is_empty()) {
        scale["status"]["selector"] = json!(selector);
    }
    scale
}

/// `.spec.replicas` as `/spec/replicas`.
fn pointer(path: &str) -> String {
    path.replace('.', "/")
}

/// A label selector object as `kubectl` writes selectors.
pub(crate) fn selector_text(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let mut parts: Vec<String> = labels
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    parts.sort();
    for expression in list_at(selector, "/matchExpressions") {
        let key = text(expression, "key");
        let values: Vec<&str> =
            list_at(expression, "/values").iter().filter_map(Value::as_str).collect();
        parts.push(match text(expression, "operator") {
            "In" => format!("{key} in ({})", values.join(",")),
            "NotIn" => format!("{key} notin ({})", values.join(",")),
            "DoesNotExist" => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

impl State {
    pub(crate) fn patch_scale(
        &mut self,
        write: Write<'_>,
        old: &Arc<Obj>,
        change: &Patch,
    ) -> Result<Written, ApiError> {
        let resource = write.resource;
        if !resource.kind.has_scale {
            return Err(ApiError::no_resource());
        }
        let scale = patch::apply(resource, &scale_of(resource, old), change)?;
        let invalid = |message: &str| {
            let cause = Cause {
                reason: "FieldValueInvalid",
                field: "spec.replicas".to_owned(),
                message: message.to_owned(),
            };
            ApiError::invalid("autoscaling", "Scale", old.name(), vec![cause])
        };
        let replicas = match scale.pointer("/spec/replicas") {
            None => 0,
            Some(value) => value.as_i64().ok_or_else(|| {
                invalid(&format!("Invalid value: {value}: must be a whole number"))
            })?,
        };
        if !(0..=i64::from(i32::MAX)).contains(&replicas) {
            return Err(invalid(&format!(
                "Invalid value: {replicas}: must be greater than or equal to 0"
            )));
        }
        let path = resource
            .custom()
            .and_then(|custom| custom.version(&resource.kind.version)?.scale.clone())
            .map_or_else(|| "/spec/replicas".to_owned(), |paths| pointer(&paths.spec));
        let mut new = old.json().clone();
        set_at(&mut new, &path, json!(replicas));
        if let Some(seen) = scale.pointer("/metadata/resourceVersion").cloned() {
            new["metadata"]["resourceVersion"] = seen;
        }
        let context = WriteContext { subresource: None, ..write.context.clone() };
        self.update(Write { context: &context, ..write }, old, new)
    }

    pub(crate) fn post(
        &mut self,
        write: Write<'_>,
        key: &Key,
        subresource: Subresource,
        body: &Value,
    ) -> Result<(), ApiError> {
        let resource = write.resource;
        let old = self.found(resource, key)?;
        match subresource {
            Subresource::Binding if resource.is("", "Pod") => self.bind(write, &old, body),
            Subresource::Eviction if resource.is("", "Pod") => self.evict(write, &old, body),
            _ => Err(ApiError::method_not_allowed(format!(
                "{} has no subresource {} that can be posted to",
                resource.kind.id,
                subresource.segment()
            ))),
        }
    }

    fn bind(&mut self, write: Write<'_>, old: &Arc<Obj>, body: &Value) -> Result<(), ApiError> {
        let conflict =
            |problem: &str| Err(ApiError::conflict("", "pods/binding", old.name(), problem));
        let node = text_at(body, "/target/name");
        if node.is_empty() {
            let cause = Cause {
                reason: "FieldValueRequired",
                field: "target.name".to_owned(),
                message: "Required value".to_owned(),
            };
            return Err(ApiError::invalid("", "Binding", old.name(), vec![cause]));
        }
        let uid = text_at(body, "/metadata/uid");
        if !uid.is_empty() && uid != old.uid() {
            return conflict("the pod is another one of the same name");
        }
        if old.is_deleting() {
            return conflict(&format!("pod {} is being deleted, cannot be assigned", old.name()));
        }
        let placed = text_at(old.json(), "/spec/nodeName");
        if !placed.is_empty() {
            return conflict(&format!("pod {} is already assigned to node {placed:?}", old.name()));
        }
        if write.context.dry_run {
            return Ok(());
        }
        let mut new = old.json().clone();
        object_in(&mut new, "spec").insert("nodeName".to_owned(), json!(node));
        let mut conditions = list_at(&new, "/status/conditions").to_vec();
        conditions.retain(|condition| text(condition, "type") != "PodScheduled");
        conditions.push(json!({"type": "PodScheduled", "status": "True",
            "lastProbeTime": null, "lastTransitionTime": stamp(write.now)}));
        object_in(&mut new, "status").insert("conditions".to_owned(), Value::Array(conditions));
        self.commit(new, write.now).map(drop)
    }

    fn evict(&mut self, write: Write<'_>, pod: &Arc<Obj>, body: &Value) -> Result<(), ApiError> {
        let options = body.get("deleteOptions").cloned().unwrap_or_default();
        let request = DeleteRequest {
            uid: options.pointer("/preconditions/uid").and_then(Value::as_str).map(str::to_owned),
            revision: None,
            grace_seconds: options.get("gracePeriodSeconds").and_then(Value::as_i64),
            propagation: None,
            dry_run: write.context.dry_run || !list_at(&options, "/dryRun").is_empty(),
        };
        let phase = text_at(pod.json(), "/status/phase");
        let counts = !matches!(phase, "Pending" | "Succeeded" | "Failed") && !pod.is_deleting();
        if counts {
            self.check_budget(pod)?;
        }
        self.delete(write.now, write.resource, pod.key(), &request).map(drop)
    }

    /// Whether the pod's disruption budget lets it go. Counted from the pods themselves: the state
    /// is under one lock, so no other eviction can slip in between.
    fn check_budget(&self, pod: &Obj) -> Result<(), ApiError> {
        let kind = GroupKind::new("policy", "PodDisruptionBudget");
        let budgets: Vec<&Arc<Obj>> = self
            .objects(&kind, Some(pod.namespace()))
            .filter(|budget| selects(budget, pod))
            .collect();
        let budget = match budgets.as_slice() {
            [] => return Ok(()),
            [budget] => *budget,
            _ => {
                let message = "This pod has more than one PodDisruptionBudget, which the \
                    eviction subresource does not support.";
                return Err(ApiError::new(500, "InternalError", message));
            }
        };
        let Some(spec) = budget.get::<PodDisruptionBudget>().ok().and_then(|b| b.spec.clone())
        else {
            return Ok(());
        };
        let pods = self.objects(&GroupKind::new("", "Pod"), Some(pod.namespace()));
        let pods: Vec<&Obj> = pods.filter(|pod| selects(budget, pod)).map(|pod| &**pod).collect();
        let wanted = wanted_pods(pods.iter().copied(), |key| self.find(key).cloned());
        let Disruption { healthy, needed, .. } = Disruption::of(&spec, &pods, wanted);
        // A pod that is not healthy already does not count: taking it loses nothing, as long as
        // the healthy ones suffice.
        let left = if is_healthy(pod) { healthy - 1 } else { healthy };
        let always = spec.unhealthy_pod_eviction_policy.as_deref() == Some("AlwaysAllow");
        if left >= needed || (always && !is_healthy(pod)) {
            return Ok(());
        }
        let message = "Cannot evict pod as it would violate the pod's disruption budget.";
        let mut error = ApiError::new(429, "TooManyRequests", message);
        error.causes.push(Cause {
            reason: "DisruptionBudget",
            field: String::new(),
            message: format!(
                "The disruption budget {} needs {needed} healthy pods and has {healthy} currently",
                budget.name()
            ),
        });
        // Without a time to try again: clients would wait it out silently instead of reporting the
        // error.
        Err(error)
    }
}

fn selects(budget: &Obj, pod: &Obj) -> bool {
    let selector = budget.json().pointer("/spec/selector");
    let selector = selector.and_then(|value| meta::LabelSelector::deserialize(value).ok());
    selector
        .and_then(|selector| LabelSelector::from_object(&selector).ok())
        .is_some_and(|selector| selector.matches(pod.labels()))
}

fn set_at(body: &mut Value, pointer: &str, value: Value) {
    let mut place = body;
    for step in pointer.split('/').skip(1) {
        if !place.is_object() {
            *place = json!({});
        }
        place = &mut place[step];
    }
    *place = value;
}
