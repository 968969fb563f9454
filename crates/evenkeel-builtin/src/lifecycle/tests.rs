use evenkeel_api::Obj;
use insta::assert_snapshot;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use serde_json::Value;

use super::*;
use crate::testing::{Cluster, at, deployment, node};

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(1);
    for name in ["n1", "n2"] {
        let mut body = node(name, "a", ("8", "8Gi"));
        body["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
        cluster.world.apply(body);
        // The Lease comes after the Node has been looked at.
        cluster.settle();
        renew(&cluster, name);
    }
    cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 2})));
    cluster.bring_up();
    cluster
}

fn renew(cluster: &Cluster, name: &str) {
    use evenkeel_base::Clock as _;
    cluster.world.apply(json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": name, "namespace": LEASES},
        "spec": {"renewTime": MicroTime(cluster.world.now())}}));
}

/// Lets time pass while these nodes renew their Leases every 10 s.
fn pass(cluster: &mut Cluster, seconds: u64, alive: &[&str]) {
    for _ in 0..seconds / 10 {
        for name in alive {
            renew(cluster, name);
        }
        cluster.pass(Duration::from_secs(10));
    }
}

/// `n1 Unknown taints`, then each pod: node, ready or not, leaving or not.
fn show(cluster: &Cluster) -> String {
    let mut lines = Vec::new();
    for node in cluster.world.all("Node") {
        let typed = node.get::<Node>().unwrap();
        let taints = typed.spec.as_ref().and_then(|spec| spec.taints.clone()).unwrap_or_default();
        let taints: Vec<String> =
            taints.iter().map(|taint| format!("{}:{}", taint.key, taint.effect)).collect();
        let ready = ready_status(&typed).unwrap_or_default();
        lines.push(format!("{} {ready} {}", node.name(), taints.join(" ")).trim_end().to_owned());
    }
    let pod = |pod: &Obj| {
        let on = pod.json().pointer("/spec/nodeName").and_then(Value::as_str).unwrap_or("-");
        let ready = if pods::is_ready(&pod.get::<Pod>().unwrap()) { "ready" } else { "unready" };
        let leaving = if pod.is_deleting() { " leaving" } else { "" };
        format!("pod on {on} {ready}{leaving}")
    };
    let mut all: Vec<String> = cluster.world.all("Pod").iter().map(|found| pod(found)).collect();
    all.sort();
    lines.extend(all);
    lines.join("\n")
}

#[test]
fn a_node_that_falls_silent_is_unknown_after_50_s_and_its_pods_move_after_300_s() {
    let mut cluster = cluster();
    pass(&mut cluster, 300, &["n1", "n2"]);
    assert_snapshot!(show(&cluster), @r"
    n1 True
    n2 True
    pod on n1 ready
    pod on n2 ready
    ");
    pass(&mut cluster, 30, &["n1"]);
    assert_snapshot!(show(&cluster), @r"
    n1 True
    n2 True
    pod on n1 ready
    pod on n2 ready
    ");
    pass(&mut cluster, 20, &["n1"]);
    assert_snapshot!(show(&cluster), @r"
    n1 True
    n2 Unknown node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute
    pod on n1 ready
    pod on n2 unready
    ");
    pass(&mut cluster, 310, &["n1"]);
    assert_snapshot!(show(&cluster), @r"
    n1 True
    n2 Unknown node.kubernetes.io/unreachable:NoSchedule node.kubernetes.io/unreachable:NoExecute
    pod on n1 ready
    pod on n1 unready
    pod on n2 unready leaving
    ");
}

#[test]
fn a_node_that_speaks_again_loses_its_taints() {
    let mut cluster = cluster();
    pass(&mut cluster, 60, &["n1"]);
    renew(&cluster, "n2");
    let mut body = node("n2", "a", ("8", "8Gi"));
    body["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    cluster.world.set_status(&Key::of::<Node>("", "n2"), &body["status"]);
    cluster.settle();
    let nodes: Vec<String> = show(&cluster).lines().take(2).map(str::to_owned).collect();
    assert_eq!(nodes, ["n1 True", "n2 True"]);
}

#[test]
fn with_every_node_silent_nothing_is_evicted() {
    let mut cluster = cluster();
    pass(&mut cluster, 700, &[]);
    let pods = cluster.world.all("Pod");
    assert!(pods.len() == 2 && pods.iter().all(|pod| !pod.is_deleting()), "{}", show(&cluster));
}

#[test]
fn a_cordoned_node_carries_the_taint_and_a_plain_no_execute_taint_evicts_at_once() {
    let mut cluster = cluster();
    let key = Key::of::<Node>("", "n2");
    cluster.world.patch(&key, &json!({"spec": {"unschedulable": true}}));
    cluster.settle();
    assert_snapshot!(show(&cluster).lines().nth(1).unwrap(), @"n2 True node.kubernetes.io/unschedulable:NoSchedule");
    cluster.world.patch(&key, &json!({"spec": {"unschedulable": null}}));
    cluster.settle();
    let taint = json!({"spec": {"taints": [{"key": "broken", "effect": "NoExecute"}]}});
    cluster.world.patch(&key, &taint);
    cluster.bring_up();
    assert_snapshot!(show(&cluster), @r"
    n1 True
    n2 True broken:NoExecute
    pod on n1 ready
    pod on n1 ready
    ");
}

#[test]
fn a_look_that_is_too_late_decides_nothing() {
    let heard = Heard::update(None, at(-500), at(0));
    assert_eq!((heard.since, heard.look_at), (at(0), Some(at(50))));
    let in_time = Heard::update(Some(heard), at(-500), at(51));
    assert_eq!((in_time.since, in_time.look_at), (at(0), None));
    let too_late = Heard::update(Some(heard), at(-500), at(3_600));
    assert_eq!((too_late.since, too_late.look_at), (at(3_600), Some(at(3_650))));
    let renewed = Heard::update(Some(heard), at(45), at(50));
    assert_eq!((renewed.since, renewed.look_at), (at(45), Some(at(95))));
    let long_silent = Heard::update(Some(in_time), at(-500), at(400));
    assert_eq!((long_silent.since, long_silent.look_at), (at(0), None));
}
