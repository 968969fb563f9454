use std::{borrow::Borrow, sync::Arc};

use evenkeel_api::Obj;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::testing::at;

fn seen<T: evenkeel_api::ApiObject>(body: Value) -> Seen<T> {
    Seen::of(Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

fn set(spec: &Value) -> Seen<DaemonSet> {
    let mut body = json!({"apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": {"name": "agent", "namespace": "shop", "uid": "ds", "resourceVersion": "9",
            "generation": 2},
        "spec": {"selector": {"matchLabels": {"app": "agent"}},
            "updateStrategy": {"type": "RollingUpdate",
                "rollingUpdate": {"maxUnavailable": 1, "maxSurge": 0}},
            "template": {"metadata": {"labels": {"app": "agent"}},
                "spec": {"containers": [{"name": "main", "image": "agent:1"}]}}}});
    evenkeel_api::json::merge(&mut body["spec"], spec);
    seen(body)
}

/// `name [TAINT:EFFECT]`.
fn node(row: &str) -> Seen<Node> {
    let (name, taint) = row.split_once(' ').unwrap_or((row, ""));
    let mut body = json!({"apiVersion": "v1", "kind": "Node",
        "metadata": {"name": name, "resourceVersion": "2", "labels": {"disk": name}}, "spec": {}});
    if let Some((key, effect)) = taint.split_once(':') {
        body["spec"]["taints"] = json!([{"key": key, "effect": effect}]);
    }
    seen(body)
}

/// `node state hash`; the state is `run`, `ready`, `Failed`, `Succeeded` or `going`; the hash is
/// `new` or anything else.
fn pod(row: &str, hash: &str) -> Seen<Pod> {
    let words: Vec<&str> = row.split_whitespace().collect();
    let (node, state, version) = (words[0], words[1], words.get(2).unwrap_or(&"new"));
    let name = format!("agent-{node}-{version}");
    let version = if *version == "new" { hash } else { version };
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "5",
            "labels": {"app": "agent", "controller-revision-hash": version},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "agent",
                "uid": "ds", "controller": true}]},
        "spec": {"containers": [{"name": "main"}], "nodeName": node},
        "status": {"phase": if state.len() > 5 { state } else { "Running" }}});
    if matches!(state, "ready" | "going") {
        pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True",
            "lastTransitionTime": at(0).to_string()}]);
    }
    if state == "going" {
        pod["metadata"]["deletionTimestamp"] = at(9).to_string().into();
    }
    seen(pod)
}

fn view(spec: &Value, nodes: &str, rows: &str) -> View {
    let set = set(spec);
    let hash = crate::deployment::template_hash(&set.spec.as_ref().unwrap().template, 0);
    let rows = rows.split(',').filter(|row| !row.is_empty());
    View {
        now: at(10),
        pods: rows.map(|row| pod(row, &hash)).collect(),
        nodes: nodes.split(',').map(node).collect(),
        set,
        revisions: vec![],
        paused: BTreeMap::new(),
    }
}

/// The nodes that get a pod, the pods that go, and the status.
fn plan(spec: impl Borrow<Value>, nodes: &str, rows: &str) -> String {
    words(&decide(&view(spec.borrow(), nodes, rows)))
}

fn words(plan: &Plan) -> String {
    let mut text = String::new();
    for action in plan.actions.iter().skip(1) {
        let step = match action {
            evenkeel_control::Action::Create(pod) => {
                let terms = "/spec/affinity/nodeAffinity/\
                    requiredDuringSchedulingIgnoredDuringExecution/nodeSelectorTerms";
                let node = format!("{terms}/0/matchFields/0/values/0");
                format!("+{} ", pod.json().pointer(&node).unwrap().as_str().unwrap())
            }
            other => format!("-{} ", other.target().unwrap().name),
        };
        text.push_str(&step);
    }
    let status = &plan.status[0].status;
    let number = |field: &str| status[field].as_i64().unwrap_or_default();
    let numbers = [
        "desiredNumberScheduled",
        "currentNumberScheduled",
        "numberReady",
        "updatedNumberScheduled",
        "numberMisscheduled",
    ];
    let numbers: Vec<String> = numbers.iter().map(|field| number(field).to_string()).collect();
    format!("{text}({})", numbers.join(" "))
}

#[test]
fn every_node_that_fits_gets_a_pod() {
    let plain = |nodes, rows| plan(json!({}), nodes, rows);
    assert_snapshot!(plain("a,b", ""), @"+a +b (2 0 0 0 0)");
    assert_snapshot!(plain("a,b", "a run"), @"+b (2 1 0 1 0)");
    assert_snapshot!(plain("a,b special:NoSchedule", ""), @"+a (1 0 0 0 0)");
    // What every such pod bears.
    assert_snapshot!(plain("a node.kubernetes.io/unschedulable:NoSchedule", ""), @"+a (1 0 0 0 0)");
    // A new taint keeps others away, but drives nobody off unless it says so.
    assert_snapshot!(plain("a special:NoSchedule", "a ready"), @"(0 0 0 0 1)");
    assert_snapshot!(plain("a special:NoExecute", "a ready"), @"-agent-a-new (0 0 0 0 1)");
    let selected = json!({"template": {"spec": {"nodeSelector": {"disk": "b"}}}});
    assert_snapshot!(plan(selected, "a,b", "a ready"), @"+b -agent-a-new (1 0 0 0 1)");
}

#[test]
fn pods_that_ended_or_are_too_many_go() {
    let plain = |nodes, rows| plan(json!({}), nodes, rows);
    assert_snapshot!(plain("a", "a Failed"), @"-agent-a-new (1 1 0 1 0)");
    assert_snapshot!(plain("a", "a Succeeded"), @"-agent-a-new (1 1 0 1 0)");
    assert_snapshot!(plain("a", "a going"), @"(1 1 1 1 0)");
    assert_snapshot!(plain("a", "a ready,a ready x"), @"-agent-a-x (1 1 1 1 0)");
}

#[test]
fn old_pods_go_within_max_unavailable() {
    let most = |unavailable: Value, rows| {
        let spec = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": unavailable}}});
        plan(spec, "a,b,c", rows)
    };
    assert_snapshot!(most(json!(1), "a ready x,b ready x,c ready x"), @"-agent-a-x (3 3 3 0 0)");
    assert_snapshot!(
        most(json!("50%"), "a ready x,b ready x,c ready x"),
        @"-agent-a-x -agent-b-x (3 3 3 0 0)"
    );
    assert_snapshot!(most(json!(1), "a run,b ready x,c ready x"), @"(3 3 2 1 0)");
    // An old pod that is of no use goes anyway.
    assert_snapshot!(most(json!(1), "a run,b run x,c ready x"), @"-agent-b-x (3 3 1 1 0)");
    assert_snapshot!(most(json!(1), "a going,b ready x,c ready x"), @"(3 3 3 1 0)");
    let on_delete = json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}});
    assert_snapshot!(plan(on_delete, "a", "a ready x"), @"(1 1 1 0 0)");
}

#[test]
fn with_a_surge_the_new_pod_comes_first() {
    let surge = |rows| {
        let spec = json!({"updateStrategy": {"rollingUpdate":
            {"maxUnavailable": 0, "maxSurge": 1}}});
        plan(spec, "a,b", rows)
    };
    assert_snapshot!(surge("a ready x,b ready x"), @"+a (2 2 2 0 0)");
    assert_snapshot!(surge("a ready x,a run,b ready x"), @"(2 2 1 1 0)");
    assert_snapshot!(surge("a ready x,a ready,b ready x"), @"-agent-a-x (2 2 2 1 0)");
    assert_snapshot!(surge("a run x,b ready x"), @"+a +b (2 2 1 0 0)");
}

#[test]
fn failed_pods_are_replaced_more_and_more_slowly() {
    let mut failures = Failures::default();
    let failed = [pod("a Failed", "x")];
    let mut look = |second| {
        let paused = failures.look(&failed, "ds", at(second));
        paused.get("a").map(Duration::as_secs)
    };
    assert_eq!(look(0), None);
    assert_eq!(look(0), Some(1));
    assert_eq!(look(1), None);
    assert_eq!(look(1), Some(2));
    assert_eq!(look(3), None);
    assert_eq!(look(3), Some(4));
    assert_eq!(look(4_000), None);
    assert_eq!(look(4_000), Some(1));
}

#[test]
fn failed_pods_of_one_node_go_together() {
    let mut failures = Failures::default();
    let failed = [pod("a Failed", "x"), pod("a Failed y", "x")];
    assert_eq!(failures.look(&failed, "ds", at(0)), BTreeMap::new());
    assert_eq!(failures.look(&failed, "ds", at(0)).len(), 1);
    assert_eq!(failures.look(&failed, "ds", at(1)), BTreeMap::new());
    assert_snapshot!(
        plan(json!({}), "a", "a Failed,a Failed y"),
        @"-agent-a-new -agent-a-y (1 1 0 1 0)"
    );
}

#[test]
fn a_failed_pod_that_has_to_stay_gets_no_other_beside_it() {
    let surge = json!({"updateStrategy": {"rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}});
    let mut view = view(&surge, "a", "a Failed");
    view.paused = BTreeMap::from([("a".to_owned(), Duration::from_secs(1))]);
    assert_snapshot!(words(&decide(&view)), @"(1 1 0 1 0)");
}
