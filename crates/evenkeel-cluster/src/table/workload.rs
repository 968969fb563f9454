use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Layout, age_of, column, containers, labels, name_of, or_none};
use crate::{subresource::selector_text, value::number_at};

fn number(body: &Value, pointer: &str) -> i64 {
    number_at(body, pointer).unwrap_or_default()
}

fn selector(body: &Value) -> String {
    or_none(body.pointer("/spec/selector").map(selector_text).unwrap_or_default())
}

const TEMPLATE: &str = "/spec/template/spec/containers";

pub(super) const DEPLOYMENT: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Ready", "string", 0),
        column("Up-to-date", "integer", 0),
        column("Available", "integer", 0),
        column("Age", "string", 0),
        column("Containers", "string", 1),
        column("Images", "string", 1),
        column("Selector", "string", 1),
    ],
    cells: |body, now| {
        let ready = number(body, "/status/readyReplicas");
        let (names, images) = containers(body, TEMPLATE);
        vec![
            name_of(body),
            json!(format!("{ready}/{}", number(body, "/spec/replicas"))),
            json!(number(body, "/status/updatedReplicas")),
            json!(number(body, "/status/availableReplicas")),
            age_of(body, now),
            json!(names),
            json!(images),
            json!(selector(body)),
        ]
    },
};

pub(super) const REPLICA_SET: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Desired", "integer", 0),
        column("Current", "integer", 0),
        column("Ready", "integer", 0),
        column("Age", "string", 0),
        column("Containers", "string", 1),
        column("Images", "string", 1),
        column("Selector", "string", 1),
    ],
    cells: |body, now| {
        let (names, images) = containers(body, TEMPLATE);
        vec![
            name_of(body),
            json!(number(body, "/spec/replicas")),
            json!(number(body, "/status/replicas")),
            json!(number(body, "/status/readyReplicas")),
            age_of(body, now),
            json!(names),
            json!(images),
            json!(selector(body)),
        ]
    },
};

pub(super) const STATEFUL_SET: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Ready", "string", 0),
        column("Age", "string", 0),
        column("Containers", "string", 1),
        column("Images", "string", 1),
    ],
    cells: |body, now| {
        let ready = number(body, "/status/readyReplicas");
        let (names, images) = containers(body, TEMPLATE);
        vec![
            name_of(body),
            json!(format!("{ready}/{}", number(body, "/spec/replicas"))),
            age_of(body, now),
            json!(names),
            json!(images),
        ]
    },
};

pub(super) const DAEMON_SET: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Desired", "integer", 0),
        column("Current", "integer", 0),
        column("Ready", "integer", 0),
        column("Up-to-date", "integer", 0),
        column("Available", "integer", 0),
        column("Node Selector", "string", 0),
        column("Age", "string", 0),
    ],
    cells: |body, now| {
        vec![
            name_of(body),
            json!(number(body, "/status/desiredNumberScheduled")),
            json!(number(body, "/status/currentNumberScheduled")),
            json!(number(body, "/status/numberReady")),
            json!(number(body, "/status/updatedNumberScheduled")),
            json!(number(body, "/status/numberAvailable")),
            json!(labels(body.pointer("/spec/template/spec/nodeSelector"))),
            age_of(body, now),
        ]
    },
};

pub(super) const DISRUPTION_BUDGET: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Min Available", "string", 0),
        column("Max Unavailable", "string", 0),
        column("Allowed Disruptions", "integer", 0),
        column("Age", "string", 0),
    ],
    cells: budget,
};

fn budget(body: &Value, now: Timestamp) -> Vec<Value> {
    let amount = |name: &str| match body.pointer(&format!("/spec/{name}")) {
        None | Some(Value::Null) => json!("N/A"),
        Some(Value::String(text)) => json!(text),
        Some(other) => json!(other.to_string()),
    };
    vec![
        name_of(body),
        amount("minAvailable"),
        amount("maxUnavailable"),
        json!(number(body, "/status/disruptionsAllowed")),
        age_of(body, now),
    ]
}
