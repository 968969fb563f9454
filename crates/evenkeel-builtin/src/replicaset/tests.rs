use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::testing::{at, words};

fn seen<T: evenkeel_api::ApiObject>(body: Value) -> Seen<T> {
    Seen::of(std::sync::Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

fn set(replicas: i32, status: Value) -> Seen<ReplicaSet> {
    let mut body = json!({"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "metadata": {"name": "web-1", "namespace": "shop", "uid": "rs", "resourceVersion": "9",
            "generation": 2},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "template": {"metadata": {"labels": {"app": "web", "pod-template-hash": "1"}},
                "spec": {"containers": [{"name": "main", "image": "web:1"}]}}}});
    body["status"] = status;
    seen(body)
}

/// `name node phase ready-since restarts cost created`, with `-` for what is not there.
fn pod(row: &str) -> Seen<Pod> {
    let mut words = row.split_whitespace();
    let mut next = || words.next().filter(|word| *word != "-");
    let name = next().unwrap();
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "5",
            "labels": {"app": "web", "pod-template-hash": "1"},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "web-1",
                "uid": "rs", "controller": true}]},
        "spec": {"containers": [{"name": "main"}]}, "status": {}});
    if let Some(node) = next() {
        pod["spec"]["nodeName"] = node.into();
    }
    if let Some(phase) = next() {
        pod["status"]["phase"] = phase.into();
    }
    let second = |text: &str| at(text.parse().unwrap()).to_string();
    if let Some(since) = next() {
        pod["status"]["conditions"] = json!([
            {"type": "Ready", "status": "True", "lastTransitionTime": second(since)}]);
    }
    if let Some(restarts) = next() {
        let restarts: i32 = restarts.parse().unwrap();
        pod["status"]["containerStatuses"] = json!([{"name": "main", "image": "", "imageID": "",
            "ready": true, "restartCount": restarts}]);
    }
    if let Some(cost) = next() {
        pod["metadata"]["annotations"] =
            json!({"controller.kubernetes.io/pod-deletion-cost": cost});
    }
    if let Some(created) = next() {
        pod["metadata"]["creationTimestamp"] = second(created).into();
    }
    seen(pod)
}

/// Names in the order of deletion at second 100,000.
fn order(rows: &str) -> String {
    let pods: Vec<Seen<Pod>> = rows.split(',').map(pod).collect();
    let mine: Vec<&Seen<Pod>> = pods.iter().collect();
    let ordered = rank::first_to_go(&mine, &pods, at(100_000));
    ordered.iter().map(|pod| pod.name()).collect::<Vec<_>>().join(" ")
}

fn plan(replicas: i32, status: Value, pods: Vec<Seen<Pod>>) -> String {
    let set = set(replicas, status);
    words(&decide(&View { now: at(100), set, related: pods.clone(), pods }))
}

#[test]
fn pods_without_a_node_go_first() {
    assert_eq!(order("a n1 Running 10,b - Pending,c n1 Pending"), "b c a");
}

#[test]
fn pending_goes_before_unknown_before_running_before_ready() {
    assert_eq!(order("r n1 Running 10,n n1 Running,u n1 Unknown,p n1 Pending"), "p u n r");
}

#[test]
fn lower_deletion_cost_goes_first_but_not_before_unready_pods() {
    let rows = "dear n1 Running 10 - 5,free n2 Running 10 - -5,plain n3 Running 10,late n4 Running";
    assert_eq!(order(rows), "late free plain dear");
}

#[test]
fn crowded_nodes_give_first() {
    assert_eq!(order("a n1 Running 10,b n2 Running 10,c n2 Running 10"), "b c a");
}

#[test]
fn later_ready_goes_first_by_powers_of_two_of_age() {
    assert_eq!(order("old n1 Running 10,new n2 Running 99990"), "new old");
    // Ages of 100,000 and 90,000 s are of one power of two (in ns): the uid decides.
    assert_eq!(order("b n1 Running 0,a n2 Running 10000"), "a b");
}

#[test]
fn more_restarts_go_first_then_the_newer_pod() {
    assert_eq!(order("a n1 Running 10 0,b n2 Running 10 3,c n3 Running 10 1"), "b c a");
    assert_eq!(order("a n1 Running 10 0 - 20,b n2 Running 10 0 - 99000"), "b a");
}

#[test]
fn missing_pods_are_created_with_the_templates_labels_and_an_owner() {
    let view =
        View { now: at(0), set: set(2, json!({"replicas": 0})), pods: vec![], related: vec![] };
    let plan = decide(&view);
    let Action::Create(pod) = &plan.actions[0] else { panic!("{plan:?}") };
    assert_snapshot!(serde_json::to_string_pretty(pod.json()).unwrap(), @r#"
    {
      "apiVersion": "v1",
      "kind": "Pod",
      "metadata": {
        "name": "web-1-4f54b",
        "generateName": "web-1-",
        "namespace": "shop",
        "ownerReferences": [
          {
            "apiVersion": "apps/v1",
            "blockOwnerDeletion": true,
            "controller": true,
            "kind": "ReplicaSet",
            "name": "web-1",
            "uid": "rs"
          }
        ],
        "labels": {
          "app": "web",
          "pod-template-hash": "1"
        }
      },
      "spec": {
        "containers": [
          {
            "name": "main",
            "image": "web:1"
          }
        ]
      }
    }
    "#);
    assert_snapshot!(words(&plan), @r#"
    SuccessfulCreate
    create Pod/shop/web-1-4f54b
    create Pod/shop/web-1-plfkf
    status ReplicaSet/shop/web-1 {"observedGeneration":2}
    event ReplicaSet/shop/web-1 SuccessfulCreate: Created pod: web-1-4f54b
    event ReplicaSet/shop/web-1 SuccessfulCreate: Created pod: web-1-plfkf
    "#);
}

#[test]
fn the_same_stale_view_gives_the_same_names_and_any_newer_one_others() {
    let names = |pods: Vec<Seen<Pod>>| -> Vec<String> {
        let set = set(3, json!({"replicas": 0}));
        let plan = decide(&View { now: at(0), set, related: vec![], pods });
        plan.actions.iter().map(|action| action.target().unwrap().name.to_string()).collect()
    };
    assert_eq!(names(vec![]), names(vec![]));
    let later = names(vec![pod("web-1-abcde n1 Running 10")]);
    assert_eq!(later.len(), 2);
    assert!(later.iter().all(|name| !names(vec![]).contains(name)));
}

#[test]
fn surplus_pods_go_and_the_status_shows_what_was_seen() {
    let pods = vec![pod("a n1 Running 10"), pod("b n2 Running"), pod("c n3 Running 90")];
    assert_snapshot!(plan(1, json!({"replicas": 0}), pods), @r#"
    SuccessfulDelete
    delete Pod/shop/b
    delete Pod/shop/c
    status ReplicaSet/shop/web-1 {"availableReplicas":2,"fullyLabeledReplicas":3,"observedGeneration":2,"readyReplicas":2,"replicas":3}
    event ReplicaSet/shop/web-1 SuccessfulDelete: Deleted pod: b
    event ReplicaSet/shop/web-1 SuccessfulDelete: Deleted pod: c
    "#);
}

#[test]
fn terminating_and_ended_pods_count_as_gone() {
    let mut leaving = pod("a n1 Running 10").obj.json().clone();
    leaving["metadata"]["deletionTimestamp"] = at(50).to_string().into();
    let pods = vec![seen(leaving), pod("b n1 Failed"), pod("c n1 Running 10")];
    let status = json!({"replicas": 1, "fullyLabeledReplicas": 1, "readyReplicas": 1,
        "availableReplicas": 1, "observedGeneration": 2});
    assert_snapshot!(plan(1, status, pods), @"Settled");
}

#[test]
fn a_pod_that_matches_is_adopted_and_one_that_does_not_is_released() {
    let mut orphan = pod("orphan n1 Running 10").obj.json().clone();
    orphan["metadata"].as_object_mut().unwrap().remove("ownerReferences");
    let mut stray = pod("stray n1 Running 10").obj.json().clone();
    stray["metadata"]["labels"] = json!({"app": "debug"});
    let mut foreign = pod("foreign n1 Running 10").obj.json().clone();
    foreign["metadata"]["ownerReferences"][0]["uid"] = "other".into();
    let pods = vec![seen(orphan), seen(stray), seen(foreign)];
    assert_snapshot!(plan(1, json!({"replicas": 0}), pods), @r#"
    Claiming
    patch Pod/shop/orphan {"metadata":{"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"ReplicaSet","name":"web-1","uid":"rs"}]}}
    patch Pod/shop/stray {"metadata":{"ownerReferences":[]}}
    "#);
}

#[test]
fn a_ready_pod_is_looked_at_again_when_it_will_be_available() {
    let mut set = set(1, json!({"replicas": 0})).obj.json().clone();
    set["spec"]["minReadySeconds"] = 30.into();
    let pods = vec![pod("a n1 Running 90")];
    let view = View { now: at(100), set: seen(set), related: vec![], pods };
    assert_snapshot!(words(&decide(&view)), @r#"
    StatusChanged
    status ReplicaSet/shop/web-1 {"fullyLabeledReplicas":1,"observedGeneration":2,"readyReplicas":1,"replicas":1}
    wake after 20s
    "#);
}
