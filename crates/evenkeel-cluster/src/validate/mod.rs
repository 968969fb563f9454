//! What Kubernetes refuses, in its words.
//!
//! **Source**: `pkg/apis/*/validation` and `apimachinery/pkg/api/validation`.

mod batch;
mod names;
mod other;
mod pod;
mod storage;
mod volumes;
mod workload;

use std::fmt::Display;

use serde_json::Value;

use crate::{
    error::{ApiError, Cause},
    resource::Resource,
    value::{list_at, text, text_at},
};

/// Bytes of all annotations of an object together.
const ANNOTATIONS_BYTES_MAX: usize = 256 * 1024;

/// Refuses a new object that Kubernetes would refuse.
pub(crate) fn created(resource: &Resource, body: &Value) -> Result<(), ApiError> {
    let mut check = Check::default();
    check_meta(resource, body, &mut check);
    check_body(resource, body, &mut check);
    if resource.is("batch", "CronJob") {
        batch::cron_job_created(body, &mut check);
    }
    check.finish(resource, body)
}

/// Refuses a change that Kubernetes would refuse.
pub(crate) fn updated(resource: &Resource, old: &Value, new: &Value) -> Result<(), ApiError> {
    let mut check = Check::default();
    check_meta(resource, new, &mut check);
    check_finalizers(old, new, &mut check);
    match (resource.group(), &*resource.kind.id.kind) {
        ("", "Pod") => pod::updated(old, new, &mut check),
        ("apps", "Deployment" | "ReplicaSet" | "DaemonSet") => {
            check_body(resource, new, &mut check);
            check.immutable(old, new, "/spec/selector", "spec.selector");
        }
        ("apps", "StatefulSet") => {
            check_body(resource, new, &mut check);
            workload::stateful_set_updated(old, new, &mut check);
        }
        ("apps", "ControllerRevision") => check.immutable(old, new, "/data", "data"),
        ("batch", "Job") => {
            check_body(resource, new, &mut check);
            batch::job_updated(old, new, &mut check);
        }
        ("", "Service") => {
            check_body(resource, new, &mut check);
            other::service_updated(old, new, &mut check);
        }
        ("", "PersistentVolumeClaim") => {
            check_body(resource, new, &mut check);
            storage::claim_updated(old, new, &mut check);
        }
        ("", "PersistentVolume") => {
            check_body(resource, new, &mut check);
            storage::volume_updated(old, new, &mut check);
        }
        ("storage.k8s.io", "StorageClass") => {
            check_body(resource, new, &mut check);
            storage::class_updated(old, new, &mut check);
        }
        ("", "ConfigMap" | "Secret") => {
            check_body(resource, new, &mut check);
            other::immutable_data(old, new, &mut check);
        }
        _ => check_body(resource, new, &mut check),
    }
    check.finish(resource, new)
}

fn check_body(resource: &Resource, body: &Value, check: &mut Check) {
    match (resource.group(), &*resource.kind.id.kind) {
        ("", "Pod") => pod::spec(body.get("spec").unwrap_or(&Value::Null), "spec", &[], check),
        ("", "Service") => other::service(body, check),
        ("", "ConfigMap" | "Secret") => other::data(body, check),
        ("", "PersistentVolumeClaim") => storage::claim(body, check),
        ("", "PersistentVolume") => storage::volume(body, check),
        ("storage.k8s.io", "StorageClass") => storage::class(body, check),
        ("apps", "Deployment") => workload::deployment(body, check),
        ("apps", "ReplicaSet") => workload::replicas(body, check),
        ("apps", "StatefulSet") => workload::stateful_set(body, check),
        ("apps", "DaemonSet") => workload::daemon_set(body, check),
        ("batch", "Job") => batch::job(body.get("spec").unwrap_or(&Value::Null), "spec", check),
        ("batch", "CronJob") => batch::cron_job(body, check),
        ("policy", "PodDisruptionBudget") => other::disruption_budget(body, check),
        ("discovery.k8s.io", "EndpointSlice") => other::endpoint_slice(body, check),
        ("apiextensions.k8s.io", "CustomResourceDefinition") => other::definition(body, check),
        _ => {}
    }
}

/// Whether a path goes up somewhere.
fn has_parent(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

/// Collects what is wrong.
#[derive(Debug, Default)]
pub(crate) struct Check {
    causes: Vec<Cause>,
}

impl Check {
    fn add(&mut self, reason: &'static str, field: &str, message: String) {
        self.causes.push(Cause { reason, field: field.to_owned(), message });
    }

    fn required(&mut self, field: &str, why: &str) {
        let message = if why.is_empty() {
            "Required value".to_owned()
        } else {
            format!("Required value: {why}")
        };
        self.add("FieldValueRequired", field, message);
    }

    /// A text that must be there.
    fn needs(&mut self, body: &Value, name: &str, path: &str) {
        if text(body, name).is_empty() {
            self.required(&format!("{path}.{name}"), "");
        }
    }

    fn invalid(&mut self, field: &str, value: &Value, why: impl Display) {
        self.add("FieldValueInvalid", field, format!("Invalid value: {value}: {why}"));
    }

    fn duplicate(&mut self, field: &str, value: &Value) {
        self.add("FieldValueDuplicate", field, format!("Duplicate value: {value}"));
    }

    fn forbidden(&mut self, field: &str, why: impl Display) {
        self.add("FieldValueForbidden", field, format!("Forbidden: {why}"));
    }

    fn not_found(&mut self, field: &str, value: &Value) {
        self.add("FieldValueNotFound", field, format!("Not found: {value}"));
    }

    /// One of a closed set; empty means "not said".
    fn one_of(&mut self, body: &Value, name: &str, path: &str, allowed: &[&str]) {
        let have = text(body, name);
        if !have.is_empty() && !allowed.contains(&have) {
            let quoted: Vec<String> = allowed.iter().map(|text| format!("{text:?}")).collect();
            self.add(
                "FieldValueNotSupported",
                &format!("{path}.{name}"),
                format!("Unsupported value: {have:?}: supported values: {}", quoted.join(", ")),
            );
        }
    }

    /// A number that must not be below `min`.
    fn at_least(&mut self, body: &Value, name: &str, path: &str, min: i64) {
        if let Some(have) = body.get(name).filter(|value| value.as_i64().is_some_and(|n| n < min)) {
            let why = format!("must be greater than or equal to {min}");
            self.invalid(&format!("{path}.{name}"), have, why);
        }
    }

    fn port(&mut self, value: &Value, field: &str) {
        if !value.as_i64().is_some_and(|port| (1..=65_535).contains(&port)) {
            self.invalid(field, value, "must be between 1 and 65535, inclusive");
        }
    }

    /// A port by number or by name.
    fn port_or_name(&mut self, value: &Value, field: &str) {
        match value {
            Value::String(name) => {
                if let Err(why) = names::port_name(name) {
                    self.invalid(field, value, why);
                }
            }
            number => self.port(number, field),
        }
    }

    fn immutable(&mut self, old: &Value, new: &Value, pointer: &str, field: &str) {
        let none = Value::Null;
        let (old, new) = (old.pointer(pointer), new.pointer(pointer));
        if old != new {
            self.invalid(field, new.unwrap_or(&none), "field is immutable");
        }
    }

    fn labels(&mut self, labels: Option<&Value>, field: &str) {
        for (name, value) in labels.and_then(Value::as_object).into_iter().flatten() {
            if let Err(why) = names::qualified(name) {
                self.invalid(field, &Value::String(name.clone()), why);
            }
            if let Err(why) = names::label_value(value.as_str().unwrap_or_default()) {
                self.invalid(field, value, why);
            }
        }
    }

    fn finish(self, resource: &Resource, body: &Value) -> Result<(), ApiError> {
        if self.causes.is_empty() {
            return Ok(());
        }
        let name = text_at(body, "/metadata/name");
        Err(ApiError::invalid(resource.group(), &resource.kind.id.kind, name, self.causes))
    }
}

fn check_meta(resource: &Resource, body: &Value, check: &mut Check) {
    let name = text_at(body, "/metadata/name");
    let verdict = match (resource.group(), &*resource.kind.id.kind) {
        ("", "Namespace") => names::label(name),
        ("", "Service") => names::service(name),
        _ => names::subdomain(name),
    };
    if let Err(why) = verdict {
        check.invalid("metadata.name", &Value::String(name.to_owned()), why);
    }
    check.labels(body.pointer("/metadata/labels"), "metadata.labels");
    let annotations = body.pointer("/metadata/annotations").and_then(Value::as_object);
    let mut bytes = 0;
    for (name, value) in annotations.into_iter().flatten() {
        bytes += name.len() + value.as_str().map_or(0, str::len);
        // Upper case is fine in annotation names, unlike in labels' prefixes.
        if let Err(why) = names::qualified(&name.to_lowercase()) {
            check.invalid("metadata.annotations", &Value::String(name.clone()), why);
        }
    }
    if bytes > ANNOTATIONS_BYTES_MAX {
        check.add(
            "FieldValueTooLong",
            "metadata.annotations",
            format!("Too long: may not be more than {ANNOTATIONS_BYTES_MAX} bytes"),
        );
    }
    let owners = list_at(body, "/metadata/ownerReferences");
    for (index, owner) in owners.iter().enumerate() {
        for name in ["apiVersion", "kind", "name", "uid"] {
            if text(owner, name).is_empty() {
                check.required(&format!("metadata.ownerReferences[{index}].{name}"), "");
            }
        }
    }
    let managing =
        owners.iter().filter(|owner| owner.get("controller") == Some(&Value::Bool(true)));
    if managing.count() > 1 {
        let why = "Only one reference can have Controller set to true";
        check.invalid("metadata.ownerReferences", &Value::Array(owners.to_vec()), why);
    }
}

fn check_finalizers(old: &Value, new: &Value, check: &mut Check) {
    if text_at(new, "/metadata/deletionTimestamp").is_empty() {
        return;
    }
    let had = list_at(old, "/metadata/finalizers");
    let added: Vec<String> = list_at(new, "/metadata/finalizers")
        .iter()
        .filter(|name| !had.contains(name))
        .map(Value::to_string)
        .collect();
    if !added.is_empty() {
        check.forbidden(
            "metadata.finalizers",
            format!(
                "no new finalizers can be added if the object is being deleted, found new \
                 finalizers [{}]",
                added.join(", ")
            ),
        );
    }
}
