use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Layout, age_of, column, name_of, or_none, since};
use crate::value::{list_at, number_at, text, text_at};

pub(super) const LAYOUT: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Ready", "string", 0),
        column("Status", "string", 0),
        column("Restarts", "string", 0),
        column("Age", "string", 0),
        column("IP", "string", 1),
        column("Node", "string", 1),
        column("Nominated Node", "string", 1),
        column("Readiness Gates", "string", 1),
    ],
    cells,
};

fn cells(pod: &Value, now: Timestamp) -> Vec<Value> {
    let seen = summary(pod, now);
    let field = |pointer: &str| json!(or_none(text_at(pod, pointer).to_owned()));
    let gates = list_at(pod, "/spec/readinessGates");
    let passed = gates.iter().filter(|gate| {
        list_at(pod, "/status/conditions").iter().any(|condition| {
            text(condition, "type") == text(gate, "conditionType")
                && text(condition, "status") == "True"
        })
    });
    let gates = match gates.len() {
        0 => "<none>".to_owned(),
        all => format!("{}/{all}", passed.count()),
    };
    vec![
        name_of(pod),
        json!(seen.ready),
        json!(seen.status),
        json!(seen.restarts),
        age_of(pod, now),
        field("/status/podIP"),
        field("/spec/nodeName"),
        field("/status/nominatedNodeName"),
        json!(gates),
    ]
}

struct Summary {
    ready: String,
    status: String,
    restarts: String,
}

/// The three columns that are not plain fields.
///
/// **Source**: `printPod`.
fn summary(pod: &Value, now: Timestamp) -> Summary {
    let phase = text_at(pod, "/status/phase");
    let mut status = match text_at(pod, "/status/reason") {
        "" => phase.to_owned(),
        reason => reason.to_owned(),
    };
    let gated = list_at(pod, "/status/conditions").iter().any(|condition| {
        text(condition, "type") == "PodScheduled" && text(condition, "reason") == "SchedulingGated"
    });
    if gated {
        "SchedulingGated".clone_into(&mut status);
    }
    let containers = list_at(pod, "/status/containerStatuses");
    let total = list_at(pod, "/spec/containers").len();
    let (mut ready, mut has_running) = (0, false);
    let initializing = init_status(pod);
    if let Some(initializing) = &initializing {
        status.clone_from(initializing);
    } else {
        for container in containers.iter().rev() {
            let waiting = text_at(container, "/state/waiting/reason");
            let is_ready = container.get("ready") == Some(&Value::Bool(true));
            if !waiting.is_empty() {
                waiting.clone_into(&mut status);
            } else if let Some(ended) = container.pointer("/state/terminated") {
                status = ended_status(ended);
            } else if is_ready && container.pointer("/state/running").is_some() {
                has_running = true;
                ready += 1;
            }
        }
        if status == "Completed" && has_running {
            let is_ready = list_at(pod, "/status/conditions").iter().any(|condition| {
                text(condition, "type") == "Ready" && text(condition, "status") == "True"
            });
            if is_ready { "Running" } else { "NotReady" }.clone_into(&mut status);
        }
    }
    let deleting = !text_at(pod, "/metadata/deletionTimestamp").is_empty();
    if deleting && text_at(pod, "/status/reason") == "NodeLost" {
        "Unknown".clone_into(&mut status);
    } else if deleting && !matches!(phase, "Succeeded" | "Failed") {
        "Terminating".clone_into(&mut status);
    }
    let counted = if initializing.is_some() {
        list_at(pod, "/status/initContainerStatuses")
    } else {
        containers
    };
    Summary { ready: format!("{ready}/{total}"), status, restarts: restarts(counted, now) }
}

fn ended_status(ended: &Value) -> String {
    let signal = number_at(ended, "/signal").unwrap_or_default();
    match (text(ended, "reason"), signal) {
        ("", 0) => format!("ExitCode:{}", number_at(ended, "/exitCode").unwrap_or_default()),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

/// `Init:...` while an init container is not through.
fn init_status(pod: &Value) -> Option<String> {
    let specs = list_at(pod, "/spec/initContainers");
    for (index, container) in list_at(pod, "/status/initContainerStatuses").iter().enumerate() {
        let is_sidecar = specs
            .iter()
            .find(|spec| text(spec, "name") == text(container, "name"))
            .is_some_and(|spec| text(spec, "restartPolicy") == "Always");
        if is_sidecar && container.get("started") == Some(&Value::Bool(true)) {
            continue;
        }
        if let Some(ended) = container.pointer("/state/terminated") {
            if number_at(ended, "/exitCode") == Some(0) {
                continue;
            }
            return Some(format!("Init:{}", ended_status(ended)));
        }
        let waiting = text_at(container, "/state/waiting/reason");
        if !waiting.is_empty() && waiting != "PodInitializing" {
            return Some(format!("Init:{waiting}"));
        }
        return Some(format!("Init:{index}/{}", specs.len()));
    }
    None
}

/// `3 (5m ago)`.
fn restarts(containers: &[Value], now: Timestamp) -> String {
    let count: i64 =
        containers.iter().filter_map(|container| number_at(container, "/restartCount")).sum();
    let last = containers
        .iter()
        .map(|container| text_at(container, "/lastState/terminated/finishedAt"))
        .max()
        .unwrap_or_default();
    if count > 0 && !last.is_empty() {
        format!("{count} ({} ago)", since(last, now))
    } else {
        count.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(status: &Value, deleting: bool) -> String {
        let mut pod = json!({"metadata": {"name": "a"}, "status": status,
            "spec": {"containers": [{"name": "a"}, {"name": "b"}],
                "initContainers": [{"name": "i"}]}});
        if deleting {
            pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        let now: Timestamp = "2026-01-01T00:01:00Z".parse().unwrap();
        let seen = summary(&pod, now);
        format!("{} {} {}", seen.ready, seen.status, seen.restarts)
    }

    #[test]
    fn the_status_column_says_what_kubectl_users_expect() {
        let running = json!({"ready": true, "state": {"running": {}}, "restartCount": 0});
        let crashed = json!({"ready": false, "restartCount": 2,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
            "lastState": {"terminated": {"finishedAt": "2026-01-01T00:00:10Z"}}});
        let both = |a: &Value, b: &Value| json!({"phase": "Running", "containerStatuses": [a, b]});
        assert_eq!(shown(&json!({"phase": "Pending"}), false), "0/2 Pending 0");
        assert_eq!(shown(&both(&running, &running), false), "2/2 Running 0");
        assert_eq!(shown(&both(&running, &running), true), "2/2 Terminating 0");
        assert_eq!(shown(&both(&running, &crashed), false), "1/2 CrashLoopBackOff 2 (50s ago)");
        let ended = json!({"state": {"terminated": {"exitCode": 3}}});
        assert_eq!(shown(&both(&running, &ended), false), "1/2 ExitCode:3 0");
        let init = json!({"phase": "Pending", "initContainerStatuses": [
            {"name": "i", "state": {"running": {}}}]});
        assert_eq!(shown(&init, false), "0/2 Init:0/1 0");
    }
}
