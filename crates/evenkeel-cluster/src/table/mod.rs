//! What `kubectl get` prints: columns and cells, computed by the server.
//!
//! **Source**: `pkg/printers/internalversion/printers.go`.

mod age;
mod batch;
mod cluster;
mod path;
mod pod;
mod storage;
mod workload;

use evenkeel_api::Obj;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    custom::PrinterColumn,
    resource::Resource,
    value::{list_at, text, text_at},
};

pub(crate) use age::since;
use path::JsonPath;

/// A column: name, type, and 1 when only `-o wide` shows it.
pub(crate) struct Column {
    name: &'static str,
    kind: &'static str,
    priority: u8,
}

/// Columns of a kind and how a row is made.
struct Layout {
    columns: &'static [Column],
    cells: fn(&Value, Timestamp) -> Vec<Value>,
}

pub(crate) const fn column(name: &'static str, kind: &'static str, priority: u8) -> Column {
    Column { name, kind, priority }
}

/// Which parts of an object go with its row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Include {
    /// Nothing.
    None,
    /// Its metadata.
    Metadata,
    /// All of it.
    Object,
}

fn layout(resource: &Resource) -> Option<Layout> {
    Some(match (resource.group(), &*resource.kind.id.kind) {
        ("", "Pod") => pod::LAYOUT,
        ("", "Service") => cluster::SERVICE,
        ("", "Node") => cluster::NODE,
        ("", "Event") => cluster::EVENT,
        ("", "Namespace") => cluster::NAMESPACE,
        ("", "ConfigMap") => cluster::CONFIG_MAP,
        ("", "Secret") => cluster::SECRET,
        ("", "PersistentVolumeClaim") => storage::CLAIM,
        ("", "PersistentVolume") => storage::VOLUME,
        ("storage.k8s.io", "StorageClass") => storage::CLASS,
        ("discovery.k8s.io", "EndpointSlice") => cluster::ENDPOINT_SLICE,
        ("coordination.k8s.io", "Lease") => cluster::LEASE,
        ("apiextensions.k8s.io", "CustomResourceDefinition") => cluster::DEFINITION,
        ("apps", "Deployment") => workload::DEPLOYMENT,
        ("apps", "ReplicaSet") => workload::REPLICA_SET,
        ("apps", "StatefulSet") => workload::STATEFUL_SET,
        ("apps", "DaemonSet") => workload::DAEMON_SET,
        ("apps", "ControllerRevision") => batch::REVISION,
        ("batch", "Job") => batch::JOB,
        ("batch", "CronJob") => batch::CRON_JOB,
        ("policy", "PodDisruptionBudget") => workload::DISRUPTION_BUDGET,
        _ => return None,
    })
}

/// The column definitions of a kind, in the given version.
pub(crate) fn columns(resource: &Resource, version: &str) -> Vec<Value> {
    let define = |name: &str, kind: &str, format: &str, about: &str, priority: i64| {
        json!({"name": name, "type": kind, "format": format, "description": about,
            "priority": priority})
    };
    let name = define("Name", "string", "name", "Name must be unique within a namespace.", 0);
    if let Some(layout) = layout(resource) {
        return layout
            .columns
            .iter()
            .map(|column| match column.name {
                "Name" => {
                    let mut name = name.clone();
                    name["priority"] = json!(column.priority);
                    name
                }
                _ => define(column.name, column.kind, "", "", column.priority.into()),
            })
            .collect();
    }
    let mut all = vec![name];
    match custom_columns(resource, version) {
        Some(custom) => all.extend(custom.iter().map(|column| {
            let (kind, format) = (&column.kind, &column.format);
            define(&column.name, kind, format, &column.description, column.priority)
        })),
        None => all.push(define("Age", "date", "", "", 0)),
    }
    all
}

fn custom_columns<'a>(resource: &'a Resource, version: &str) -> Option<&'a [PrinterColumn]> {
    let columns = &resource.custom()?.version(version)?.columns;
    (!columns.is_empty()).then_some(columns)
}

/// One row: cells, and what `include` says of the object.
pub(crate) fn row(
    resource: &Resource,
    version: &str,
    obj: &Obj,
    include: Include,
    now: Timestamp,
) -> Value {
    let body = obj.json();
    let cells = match (layout(resource), custom_columns(resource, version)) {
        (Some(layout), _) => (layout.cells)(body, now),
        (None, Some(columns)) => {
            let mut cells = vec![json!(obj.name())];
            cells.extend(columns.iter().map(|column| custom_cell(column, body, now)));
            cells
        }
        (None, None) => vec![json!(obj.name()), age_of(body, now)],
    };
    let mut row = json!({"cells": cells});
    match include {
        Include::None => {}
        Include::Metadata => row["object"] = partial(body),
        Include::Object => row["object"] = body.clone(),
    }
    row
}

/// An object's metadata as an object of its own.
pub(crate) fn partial(body: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": body.get("metadata")})
}

fn custom_cell(column: &PrinterColumn, body: &Value, now: Timestamp) -> Value {
    let found = JsonPath::parse(&column.json_path);
    let found = found.map(|path| path.find(body)).unwrap_or_default();
    let Some(first) = found.first().filter(|value| !value.is_null()) else { return Value::Null };
    match (column.kind.as_str(), first) {
        ("date", Value::String(at)) => json!(since(at, now)),
        ("integer" | "number" | "boolean", value) => (*value).clone(),
        (_, Value::String(text)) => json!(text),
        (_, value) => json!(value.to_string()),
    }
}

pub(crate) fn age_of(body: &Value, now: Timestamp) -> Value {
    json!(since(text_at(body, "/metadata/creationTimestamp"), now))
}

fn name_of(body: &Value) -> Value {
    json!(text_at(body, "/metadata/name"))
}

/// `<none>` for the empty text, as `kubectl` shows it.
fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

fn joined<'a>(items: impl Iterator<Item = &'a str>) -> String {
    or_none(items.collect::<Vec<_>>().join(","))
}

/// Names and images of a template's containers, each joined.
fn containers(body: &Value, pointer: &str) -> (String, String) {
    let all = list_at(body, pointer);
    let names = joined(all.iter().map(|container| text(container, "name")));
    (names, joined(all.iter().map(|container| text(container, "image"))))
}

/// Labels as `a=b,c=d`.
fn labels(labels: Option<&Value>) -> String {
    let mut pairs: Vec<String> = labels
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default()))
        .collect();
    pairs.sort();
    or_none(pairs.join(","))
}
