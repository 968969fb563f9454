use std::{fmt::Write as _, time::Duration};

use evenkeel_api::{Key, Obj};
use insta::assert_snapshot;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use serde_json::{Value, json};

use super::*;
use crate::testing::{Cluster, deployment, node};

fn cluster() -> Cluster {
    let cluster = Cluster::new(1);
    for name in ["n1", "n2", "n3"] {
        cluster.world.apply(node(name, "a", ("32", "64Gi")));
    }
    cluster
}

fn key() -> Key {
    Key::of::<Deployment>("shop", "web")
}

fn number(obj: &Obj, path: &str) -> i64 {
    obj.json().pointer(path).and_then(Value::as_i64).unwrap_or_default()
}

fn image(set: &Obj) -> String {
    let path = "/spec/template/spec/containers/0/image";
    set.json().pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
}

/// `web:1 3/3/3` is wanted, present, available; then the Deployment's own numbers.
fn line(cluster: &Cluster) -> String {
    let mut sets = cluster.world.all("ReplicaSet");
    sets.sort_by_key(|set| image(set));
    let mut line = String::new();
    for set in sets {
        write!(
            line,
            "{} {}/{}/{}  ",
            image(&set),
            number(&set, "/spec/replicas"),
            number(&set, "/status/replicas"),
            number(&set, "/status/availableReplicas")
        )
        .unwrap();
    }
    let deployment = cluster.world.find(&key()).unwrap();
    let status = |field: &str| number(&deployment, &format!("/status/{field}"));
    write!(
        line,
        "| {} updated {} ready {} available {} unavailable {}",
        status("replicas"),
        status("updatedReplicas"),
        status("readyReplicas"),
        status("availableReplicas"),
        status("unavailableReplicas")
    )
    .unwrap();
    line
}

/// Settles pods one at a time and notes every state in between.
fn trace(cluster: &mut Cluster) -> String {
    let mut lines = Vec::new();
    for _ in 0..200 {
        cluster.pass(Duration::from_secs(1));
        let now = line(cluster);
        if lines.last() != Some(&now) {
            lines.push(now);
        }
        let Some(pod) = cluster.world.unsettled_pods().first().cloned() else {
            return lines.join("\n");
        };
        cluster.world.run_pod(&pod, true);
    }
    panic!("no end: {lines:#?}");
}

fn conditions(cluster: &Cluster) -> String {
    let deployment = cluster.world.find(&key()).unwrap();
    let all = deployment.json().pointer("/status/conditions").and_then(Value::as_array);
    let one = |condition: &Value| {
        let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
        let message = text("message");
        // Names end in a hash, which is cut off.
        let message = message.split('"').enumerate().map(|(nth, part)| {
            if nth % 2 == 1 { part.rsplit_once('-').map_or(part, |(name, _)| name) } else { part }
        });
        let message: String = message.collect();
        format!("{}={} {}: {message}", text("type"), text("status"), text("reason"))
    };
    all.into_iter().flatten().map(one).collect::<Vec<_>>().join("\n")
}

fn roll(replicas: i32, surge: &Value, unavailable: &Value) -> String {
    let mut cluster = cluster();
    let spec = json!({"replicas": replicas, "strategy": {"rollingUpdate":
        {"maxSurge": surge, "maxUnavailable": unavailable}}});
    cluster.world.apply(deployment("web", "web:1", &spec));
    cluster.bring_up();
    cluster.world.apply(deployment("web", "web:2", &spec));
    trace(&mut cluster)
}

#[test]
fn a_new_deployment_comes_up_and_says_so() {
    let mut cluster = cluster();
    cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 3})));
    assert_snapshot!(trace(&mut cluster), @r"
    web:1 3/3/0  | 3 updated 3 ready 0 available 0 unavailable 3
    web:1 3/3/1  | 3 updated 3 ready 1 available 1 unavailable 2
    web:1 3/3/2  | 3 updated 3 ready 2 available 2 unavailable 1
    web:1 3/3/3  | 3 updated 3 ready 3 available 3 unavailable 0
    ");
    assert_snapshot!(conditions(&cluster), @r"
    Available=True MinimumReplicasAvailable: Deployment has minimum availability.
    Progressing=True NewReplicaSetAvailable: ReplicaSet web has successfully progressed.
    ");
    let set = &cluster.world.all("ReplicaSet")[0];
    let notes = set.meta().annotations.clone().unwrap_or_default();
    assert_snapshot!(json!(notes), @r#"{"deployment.kubernetes.io/desired-replicas":"3","deployment.kubernetes.io/max-replicas":"4","deployment.kubernetes.io/revision":"1"}"#);
    assert_snapshot!(json!(set.labels()), @r#"{"app":"web","pod-template-hash":"6b6cc79dc4"}"#);
}

#[test]
fn one_more_and_none_less_rolls_one_by_one() {
    assert_snapshot!(roll(3, &json!(1), &json!(0)), @r"
    web:1 3/3/3  web:2 1/1/0  | 4 updated 1 ready 3 available 3 unavailable 1
    web:1 2/2/2  web:2 2/2/1  | 4 updated 2 ready 3 available 3 unavailable 1
    web:1 1/1/1  web:2 3/3/2  | 4 updated 3 ready 3 available 3 unavailable 1
    web:1 0/0/0  web:2 3/3/3  | 3 updated 3 ready 3 available 3 unavailable 0
    ");
}

#[test]
fn none_more_and_one_less_takes_one_away_first() {
    assert_snapshot!(roll(3, &json!(0), &json!(1)), @r"
    web:1 2/2/2  web:2 1/1/0  | 3 updated 1 ready 2 available 2 unavailable 1
    web:1 1/1/1  web:2 2/2/1  | 3 updated 2 ready 2 available 2 unavailable 1
    web:1 0/0/0  web:2 3/3/2  | 3 updated 3 ready 2 available 2 unavailable 1
    web:1 0/0/0  web:2 3/3/3  | 3 updated 3 ready 3 available 3 unavailable 0
    ");
}

#[test]
fn the_default_quarter_of_four_is_one_more_and_one_less() {
    assert_snapshot!(roll(4, &json!("25%"), &json!("25%")), @r"
    web:1 3/3/3  web:2 2/2/0  | 5 updated 2 ready 3 available 3 unavailable 2
    web:1 2/2/2  web:2 3/3/1  | 5 updated 3 ready 3 available 3 unavailable 2
    web:1 1/1/1  web:2 4/4/2  | 5 updated 4 ready 3 available 3 unavailable 2
    web:1 0/0/0  web:2 4/4/3  | 4 updated 4 ready 3 available 3 unavailable 1
    web:1 0/0/0  web:2 4/4/4  | 4 updated 4 ready 4 available 4 unavailable 0
    ");
}

#[test]
fn everything_at_once_doubles_and_then_halves() {
    assert_snapshot!(roll(2, &json!("100%"), &json!(0)), @r"
    web:1 2/2/2  web:2 2/2/0  | 4 updated 2 ready 2 available 2 unavailable 2
    web:1 1/1/1  web:2 2/2/1  | 3 updated 2 ready 2 available 2 unavailable 1
    web:1 0/0/0  web:2 2/2/2  | 2 updated 2 ready 2 available 2 unavailable 0
    ");
}

#[test]
fn recreate_waits_until_old_pods_are_gone() {
    let mut cluster = cluster();
    let spec = json!({"replicas": 2, "strategy": {"type": "Recreate"}});
    cluster.world.apply(deployment("web", "web:1", &spec));
    cluster.bring_up();
    cluster.world.apply(deployment("web", "web:2", &spec));
    assert_snapshot!(trace(&mut cluster), @r"
    web:1 0/0/0  | 0 updated 0 ready 0 available 0 unavailable 0
    web:1 0/0/0  web:2 2/2/0  | 2 updated 2 ready 0 available 0 unavailable 2
    web:1 0/0/0  web:2 2/2/1  | 2 updated 2 ready 1 available 1 unavailable 1
    web:1 0/0/0  web:2 2/2/2  | 2 updated 2 ready 2 available 2 unavailable 0
    ");
}

#[test]
fn a_rollback_uses_the_old_replica_set_again_and_counts_on() {
    let mut cluster = cluster();
    for image in ["web:1", "web:2", "web:1"] {
        cluster.world.apply(deployment("web", image, &json!({"replicas": 1})));
        cluster.bring_up();
    }
    let revisions: Vec<String> = cluster
        .world
        .all("ReplicaSet")
        .iter()
        .map(|set| {
            let note = |name: &str| set.annotation(name).unwrap_or("-").to_owned();
            format!("{} {} {}", image(set), note(sets::REVISION), note(sets::REVISION_HISTORY))
        })
        .collect();
    assert_snapshot!(revisions.join("\n"), @r"
    web:2 2 -
    web:1 3 1
    ");
    let deployment = cluster.world.find(&key()).unwrap();
    assert_eq!(deployment.annotation(sets::REVISION), Some("3"));
}

#[test]
fn old_replica_sets_beyond_the_limit_go_lowest_revision_first() {
    let mut cluster = cluster();
    for image in ["web:1", "web:2", "web:3", "web:4"] {
        let spec = json!({"replicas": 1, "revisionHistoryLimit": 1});
        cluster.world.apply(deployment("web", image, &spec));
        cluster.bring_up();
    }
    let left: Vec<String> = cluster.world.all("ReplicaSet").iter().map(|set| image(set)).collect();
    assert_eq!(left.len(), 2);
    assert!(left.contains(&"web:3".to_owned()) && left.contains(&"web:4".to_owned()), "{left:?}");
}

#[test]
fn scaling_in_the_middle_of_a_rollout_keeps_the_proportions() {
    let mut cluster = cluster();
    let spec = |replicas: i32| {
        json!({"replicas": replicas, "strategy": {"rollingUpdate":
            {"maxSurge": 3, "maxUnavailable": 2}}})
    };
    cluster.world.apply(deployment("web", "web:1", &spec(10)));
    cluster.bring_up();
    // The new version never gets ready.
    cluster.world.apply(deployment("web", "web:2", &spec(10)));
    for _ in 0..4 {
        cluster.pass(Duration::from_secs(1));
        for pod in cluster.world.unsettled_pods().iter().filter(|pod| pod.is_deleting()) {
            cluster.world.run_pod(pod, false);
        }
    }
    assert_snapshot!(line(&cluster), @"web:1 8/8/8  web:2 5/5/0  | 13 updated 5 ready 8 available 8 unavailable 5");
    cluster.world.apply(deployment("web", "web:2", &spec(15)));
    cluster.pass(Duration::from_secs(1));
    assert_snapshot!(line(&cluster), @"web:1 11/11/8  web:2 7/7/0  | 18 updated 7 ready 8 available 8 unavailable 10");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut cluster = cluster();
    cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 2})));
    cluster.bring_up();
    let paused = json!({"replicas": 3, "paused": true});
    cluster.world.apply(deployment("web", "web:2", &paused));
    assert_snapshot!(trace(&mut cluster), @r"
    web:1 3/3/2  | 3 updated 0 ready 2 available 2 unavailable 1
    web:1 3/3/3  | 3 updated 0 ready 3 available 3 unavailable 0
    ");
    assert_snapshot!(conditions(&cluster), @r"
    Progressing=Unknown DeploymentPaused: Deployment is paused
    Available=True MinimumReplicasAvailable: Deployment has minimum availability.
    ");
    cluster.world.apply(deployment("web", "web:2", &json!({"replicas": 3, "paused": false})));
    cluster.bring_up();
    assert_snapshot!(line(&cluster), @"web:1 0/0/0  web:2 3/3/3  | 3 updated 3 ready 3 available 3 unavailable 0");
    assert_snapshot!(conditions(&cluster), @r"
    Available=True MinimumReplicasAvailable: Deployment has minimum availability.
    Progressing=True NewReplicaSetAvailable: ReplicaSet web has successfully progressed.
    ");
}

#[test]
fn a_rollout_that_does_not_move_is_late_after_its_deadline_and_not_before() {
    let mut cluster = cluster();
    let spec = json!({"replicas": 1, "progressDeadlineSeconds": 60});
    cluster.world.apply(deployment("web", "web:1", &spec));
    cluster.bring_up();
    cluster.world.apply(deployment("web", "web:broken", &spec));
    cluster.pass(Duration::from_secs(55));
    assert_snapshot!(conditions(&cluster), @r"
    Available=True MinimumReplicasAvailable: Deployment has minimum availability.
    Progressing=True ReplicaSetUpdated: ReplicaSet web is progressing.
    ");
    cluster.pass(Duration::from_secs(10));
    assert_snapshot!(conditions(&cluster), @r"
    Available=True MinimumReplicasAvailable: Deployment has minimum availability.
    Progressing=False ProgressDeadlineExceeded: ReplicaSet web has timed out progressing.
    ");
    assert_snapshot!(line(&cluster), @"web:1 1/1/1  web:broken 1/1/0  | 2 updated 1 ready 1 available 1 unavailable 1");
}

#[test]
fn pods_count_as_available_only_after_min_ready_seconds() {
    let mut cluster = cluster();
    let spec = json!({"replicas": 1, "minReadySeconds": 30});
    cluster.world.apply(deployment("web", "web:1", &spec));
    cluster.bring_up();
    cluster.pass(Duration::from_secs(20));
    assert_snapshot!(line(&cluster), @"web:1 1/1/0  | 1 updated 1 ready 1 available 0 unavailable 1");
    cluster.pass(Duration::from_secs(11));
    assert_snapshot!(line(&cluster), @"web:1 1/1/1  | 1 updated 1 ready 1 available 1 unavailable 0");
}

#[test]
fn a_settled_deployment_costs_nothing() {
    let mut cluster = cluster();
    cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 3})));
    cluster.bring_up();
    cluster.pass(Duration::from_secs(5));
    let writes = cluster.world.writes();
    cluster.pass(Duration::from_hours(24));
    assert_eq!(cluster.world.writes(), writes);
}

#[test]
fn an_orphaned_replica_set_is_adopted_and_a_relabelled_one_released() {
    let mut cluster = cluster();
    cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 1})));
    cluster.bring_up();
    let set = Key::of::<ReplicaSet>("shop", cluster.world.all("ReplicaSet")[0].name());
    cluster.world.patch(&set, &json!({"metadata": {"ownerReferences": []}}));
    cluster.bring_up();
    assert!(cluster.world.find(&set).unwrap().controller().is_some());
    cluster.world.patch(&set, &json!({"metadata": {"labels": {"app": "other"}}}));
    cluster.bring_up();
    assert!(cluster.world.find(&set).unwrap().controller().is_none());
    // The pods of the released one stay its own; a new one takes its place.
    assert_eq!(cluster.world.all("ReplicaSet").len(), 2);
}

/// A `ReplicaSet` with the greatest numbers that the API takes, at this revision.
fn greatest_set(name: &str, desired: i32) -> Value {
    let (most, image) = (i32::MAX, format!("web:{name}"));
    json!({"apiVersion": "apps/v1", "kind": "ReplicaSet", "metadata": {
            "name": format!("web-{name}"), "namespace": "shop", "uid": name,
            "labels": {"app": "web"}, "annotations": {
                "deployment.kubernetes.io/desired-replicas": desired.to_string(),
                "deployment.kubernetes.io/max-replicas": i64::MAX.to_string()},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "Deployment", "name": "web",
                "uid": "d", "controller": true}]},
        "spec": {"replicas": most, "selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web", "pod-template-hash": name}},
            "spec": {"containers": [{"name": "main", "image": image}]}}},
        "status": {"replicas": most, "readyReplicas": most, "availableReplicas": most}})
}

#[test]
fn the_greatest_numbers_are_counted_and_not_wrapped() {
    let strategies = [
        json!({"type": "Recreate"}),
        json!({"rollingUpdate": {"maxSurge": "100%", "maxUnavailable": "100%"}}),
        json!({"rollingUpdate": {"maxSurge": i32::MAX, "maxUnavailable": 0}}),
    ];
    let cases = strategies.iter().flat_map(|strategy| {
        [(i32::MAX, false), (i32::MAX, true), (1, false), (0, true)]
            .map(|(desired, paused)| (strategy, desired, paused))
    });
    for (strategy, desired, paused) in cases {
        let mut body = deployment("web", "web:2", &json!({"replicas": i32::MAX}));
        body["metadata"]["uid"] = json!("d");
        body["spec"]["strategy"] = strategy.clone();
        body["spec"]["paused"] = json!(paused);
        let obj = |body: Value| std::sync::Arc::new(Obj::from_json(body).unwrap());
        let sets = ["1", "2", "3"].map(|name| greatest_set(name, desired));
        let view = View {
            now: crate::testing::at(100),
            deployment: Seen::of(obj(body)).unwrap(),
            sets: sets.map(|set| Seen::of(obj(set)).unwrap()).into(),
            names: BTreeSet::new(),
            pod_owners: Vec::new(),
        };
        let plan = decide(&view);
        let status = plan.status.first().map(|write| write.status["replicas"].clone());
        assert_eq!(status, Some(json!(i32::MAX)), "{strategy} {desired} {paused}: {plan:?}");
    }
}
