use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Layout, age_of, column, joined, labels, name_of, or_none, since};
use crate::value::{list_at, number_at, text, text_at};

fn count(body: &Value, names: &[&str]) -> Value {
    let sizes = names.iter().filter_map(|name| body.get(*name)?.as_object());
    json!(sizes.map(serde_json::Map::len).sum::<usize>())
}

fn field(body: &Value, pointer: &str) -> Value {
    json!(or_none(text_at(body, pointer).to_owned()))
}

pub(super) const NAMESPACE: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Status", "string", 0),
        column("Age", "string", 0),
    ],
    cells: |body, now| {
        vec![name_of(body), json!(text_at(body, "/status/phase")), age_of(body, now)]
    },
};

pub(super) const CONFIG_MAP: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Data", "string", 0),
        column("Age", "string", 0),
    ],
    cells: |body, now| vec![name_of(body), count(body, &["data", "binaryData"]), age_of(body, now)],
};

pub(super) const SECRET: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Type", "string", 0),
        column("Data", "string", 0),
        column("Age", "string", 0),
    ],
    cells: |body, now| {
        vec![name_of(body), json!(text(body, "type")), count(body, &["data"]), age_of(body, now)]
    },
};

pub(super) const LEASE: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Holder", "string", 0),
        column("Age", "string", 0),
    ],
    cells: |body, now| {
        vec![name_of(body), json!(text_at(body, "/spec/holderIdentity")), age_of(body, now)]
    },
};

pub(super) const DEFINITION: Layout = Layout {
    columns: &[column("Name", "string", 0), column("Created At", "date", 0)],
    cells: |body, _| vec![name_of(body), json!(text_at(body, "/metadata/creationTimestamp"))],
};

pub(super) const SERVICE: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Type", "string", 0),
        column("Cluster-IP", "string", 0),
        column("External-IP", "string", 0),
        column("Port(s)", "string", 0),
        column("Age", "string", 0),
        column("Selector", "string", 1),
    ],
    cells: service,
};

fn service(body: &Value, now: Timestamp) -> Vec<Value> {
    let ports = list_at(body, "/spec/ports").iter().map(|port| {
        let number = number_at(port, "/port").unwrap_or_default();
        let protocol = text(port, "protocol");
        match number_at(port, "/nodePort").filter(|port| *port > 0) {
            Some(outside) => format!("{number}:{outside}/{protocol}"),
            None => format!("{number}/{protocol}"),
        }
    });
    let external = match text_at(body, "/spec/type") {
        "ExternalName" => text_at(body, "/spec/externalName").to_owned(),
        "LoadBalancer" => {
            let given = list_at(body, "/status/loadBalancer/ingress").iter();
            let given: Vec<&str> = given
                .map(|entry| match text(entry, "ip") {
                    "" => text(entry, "hostname"),
                    ip => ip,
                })
                .collect();
            if given.is_empty() { "<pending>".to_owned() } else { given.join(",") }
        }
        _ => joined(list_at(body, "/spec/externalIPs").iter().filter_map(Value::as_str)),
    };
    vec![
        name_of(body),
        json!(text_at(body, "/spec/type")),
        field(body, "/spec/clusterIP"),
        json!(external),
        json!(or_none(ports.collect::<Vec<_>>().join(","))),
        age_of(body, now),
        json!(labels(body.pointer("/spec/selector"))),
    ]
}

pub(super) const NODE: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Status", "string", 0),
        column("Roles", "string", 0),
        column("Age", "string", 0),
        column("Version", "string", 0),
        column("Internal-IP", "string", 1),
        column("External-IP", "string", 1),
        column("OS-Image", "string", 1),
        column("Kernel-Version", "string", 1),
        column("Container-Runtime", "string", 1),
    ],
    cells: node,
};

fn node(body: &Value, now: Timestamp) -> Vec<Value> {
    let ready = list_at(body, "/status/conditions")
        .iter()
        .find(|condition| text(condition, "type") == "Ready");
    let mut status = match ready.map(|condition| text(condition, "status")) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }
    .to_owned();
    if body.pointer("/spec/unschedulable") == Some(&Value::Bool(true)) {
        status.push_str(",SchedulingDisabled");
    }
    let labels = body.pointer("/metadata/labels").and_then(Value::as_object);
    let mut roles: Vec<&str> = labels
        .into_iter()
        .flatten()
        .filter_map(|(name, value)| {
            name.strip_prefix("node-role.kubernetes.io/")
                .or_else(|| (name == "kubernetes.io/role").then(|| value.as_str())?)
        })
        .collect();
    roles.sort_unstable();
    let address = |kind: &str| {
        let all = list_at(body, "/status/addresses").iter();
        let found = all.filter(|address| text(address, "type") == kind);
        or_none(found.map(|address| text(address, "address")).next().unwrap_or_default().to_owned())
    };
    let info = |name: &str| match text_at(body, &format!("/status/nodeInfo/{name}")) {
        "" => json!("<unknown>"),
        text => json!(text),
    };
    vec![
        name_of(body),
        json!(status),
        json!(joined(roles.into_iter())),
        age_of(body, now),
        json!(text_at(body, "/status/nodeInfo/kubeletVersion")),
        json!(address("InternalIP")),
        json!(address("ExternalIP")),
        info("osImage"),
        info("kernelVersion"),
        info("containerRuntimeVersion"),
    ]
}

pub(super) const EVENT: Layout = Layout {
    columns: &[
        column("Last Seen", "string", 0),
        column("Type", "string", 0),
        column("Reason", "string", 0),
        column("Object", "string", 0),
        column("Subobject", "string", 1),
        column("Source", "string", 1),
        column("Message", "string", 0),
        column("First Seen", "string", 1),
        column("Count", "string", 1),
        column("Name", "string", 1),
    ],
    cells: event,
};

fn event(body: &Value, now: Timestamp) -> Vec<Value> {
    let first_of = |names: &[&str]| {
        let found = names.iter().map(|name| text(body, name)).find(|text| !text.is_empty());
        found.unwrap_or_else(|| text_at(body, "/metadata/creationTimestamp")).to_owned()
    };
    let component = match text_at(body, "/source/component") {
        "" => text(body, "reportingComponent"),
        component => component,
    };
    let source = match text_at(body, "/source/host") {
        "" => component.to_owned(),
        host => format!("{component}, {host}"),
    };
    let kind = text_at(body, "/involvedObject/kind").to_lowercase();
    let object = format!("{kind}/{}", text_at(body, "/involvedObject/name"));
    vec![
        json!(since(&first_of(&["lastTimestamp", "eventTime", "firstTimestamp"]), now)),
        json!(text(body, "type")),
        json!(text(body, "reason")),
        json!(object),
        json!(text_at(body, "/involvedObject/fieldPath")),
        json!(source),
        json!(text(body, "message").trim()),
        json!(since(&first_of(&["firstTimestamp", "eventTime"]), now)),
        json!(number_at(body, "/count").unwrap_or(1)),
        name_of(body),
    ]
}

pub(super) const ENDPOINT_SLICE: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("AddressType", "string", 0),
        column("Ports", "string", 0),
        column("Endpoints", "string", 0),
        column("Age", "string", 0),
    ],
    cells: endpoint_slice,
};

/// Addresses shown before the rest is only counted.
const ADDRESSES_SHOWN: usize = 3;

fn endpoint_slice(body: &Value, now: Timestamp) -> Vec<Value> {
    let unset = |text: String| if text.is_empty() { "<unset>".to_owned() } else { text };
    let ports: Vec<String> = list_at(body, "/ports")
        .iter()
        .map(|port| number_at(port, "/port").map_or_else(|| "*".to_owned(), |n| n.to_string()))
        .collect();
    let all: Vec<&str> = list_at(body, "/endpoints")
        .iter()
        .flat_map(|endpoint| list_at(endpoint, "/addresses"))
        .filter_map(Value::as_str)
        .collect();
    let mut shown = all.iter().take(ADDRESSES_SHOWN).copied().collect::<Vec<_>>().join(",");
    if all.len() > ADDRESSES_SHOWN {
        shown = format!("{shown} + {} more...", all.len() - ADDRESSES_SHOWN);
    }
    vec![
        name_of(body),
        json!(text(body, "addressType")),
        json!(unset(ports.join(","))),
        json!(unset(shown)),
        age_of(body, now),
    ]
}
