use std::{borrow::Borrow, sync::Arc};

use evenkeel_api::Obj;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::testing::{at, words};

fn seen<T: evenkeel_api::ApiObject>(body: Value) -> Seen<T> {
    Seen::of(Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

fn template(version: &str) -> Value {
    json!({"metadata": {"labels": {"app": "db"}},
        "spec": {"containers": [{"name": "main", "image": format!("db:{version}")}]}})
}

fn body(spec: &Value, status: &Value) -> Value {
    let mut body = json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "shop", "uid": "sts", "resourceVersion": "9",
            "generation": 2},
        "spec": {"replicas": 3, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}}, "template": template("1"),
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}}}});
    evenkeel_api::json::merge(&mut body["spec"], spec);
    body["status"] = status.clone();
    body
}

/// A revision that is there already; its name is its version.
fn revision(number: i64, version: &str) -> Seen<ControllerRevision> {
    seen(json!({"apiVersion": "apps/v1", "kind": "ControllerRevision",
        "metadata": {"name": format!("db-v{version}"), "namespace": "shop", "uid": version,
            "resourceVersion": "3", "labels": {"app": "db"}, "ownerReferences": [{
                "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db", "uid": "sts",
                "controller": true}]},
        "data": crate::history::patch_of(&template(version)), "revision": number}))
}

/// `ordinal state version`; the state is `run`, `ready`, `ended` or `going`.
fn pod(row: &str) -> Seen<Pod> {
    let words: Vec<&str> = row.split_whitespace().collect();
    let (ordinal, state, version) = (words[0], words[1], words.get(2).unwrap_or(&"1"));
    let name = format!("db-{ordinal}");
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "5",
            "labels": {"app": "db", "controller-revision-hash": format!("db-v{version}"),
                "statefulset.kubernetes.io/pod-name": name},
            "ownerReferences": [{"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "db",
                "uid": "sts", "controller": true}]},
        "spec": {"containers": [{"name": "main"}], "nodeName": "n1"},
        "status": {"phase": "Running"}});
    match state {
        "run" => {}
        "ended" => pod["status"]["phase"] = "Succeeded".into(),
        _ => {
            pod["status"]["conditions"] = json!([{"type": "Ready", "status": "True",
                "lastTransitionTime": at(0).to_string()}]);
        }
    }
    if state == "going" {
        pod["metadata"]["deletionTimestamp"] = at(9).to_string().into();
    }
    seen(pod)
}

/// What is done for these pods: `+db-0` a pod made, `-db-0` one deleted, and the reason.
fn plan(spec: impl Borrow<Value>, rows: &str) -> String {
    let spec = spec.borrow();
    let status = json!({"replicas": 0, "currentRevision": "db-v1"});
    let mut revisions = vec![revision(1, "1")];
    if spec.pointer("/template/spec").is_some() {
        revisions.push(revision(2, "2"));
    }
    let view = View {
        now: at(10),
        set: seen(body(spec, &status)),
        pods: rows.split(',').filter(|row| !row.is_empty()).map(pod).collect(),
        claims: vec![],
        revisions,
    };
    let plan = decide(&view);
    let steps = plan.actions.iter().map(|action| {
        let sign = if action.verb() == "create" { "+" } else { "-" };
        format!(" {sign}{}", action.target().unwrap().name)
    });
    format!("{}{}", plan.reason, steps.collect::<String>())
}

const PARALLEL: &str = "Parallel";

#[test]
fn pods_are_made_in_order_each_when_the_one_before_is_ready() {
    let ordered = |rows| plan(json!({}), rows);
    assert_snapshot!(ordered(""), @"SuccessfulCreate +db-0");
    assert_snapshot!(ordered("0 run"), @"StatusChanged");
    assert_snapshot!(ordered("0 ready"), @"SuccessfulCreate +db-1");
    assert_snapshot!(ordered("0 ready,2 ready"), @"SuccessfulCreate +db-1");
    assert_snapshot!(ordered("0 going,1 ready"), @"StatusChanged");
    assert_snapshot!(ordered("0 ended,1 ready"), @"SuccessfulDelete -db-0");
    assert_snapshot!(plan(json!({"ordinals": {"start": 4}}), "4 ready"), @"SuccessfulCreate +db-5");
}

#[test]
fn parallel_pods_are_made_and_removed_at_once() {
    let parallel = |replicas: i32, rows| {
        plan(json!({"podManagementPolicy": PARALLEL, "replicas": replicas}), rows)
    };
    assert_snapshot!(parallel(3, ""), @"SuccessfulCreate +db-0 +db-1 +db-2");
    assert_snapshot!(parallel(3, "1 run"), @"SuccessfulCreate +db-0 +db-2");
    assert_snapshot!(parallel(3, "1 going"), @"SuccessfulCreate +db-0 +db-2");
    assert_snapshot!(parallel(0, "0 run,1 run,2 going"), @"SuccessfulDelete -db-1 -db-0");
}

#[test]
fn the_last_pod_goes_first_and_nobody_while_another_one_is_not_ready() {
    let to_one = |rows| plan(json!({"replicas": 1}), rows);
    assert_snapshot!(to_one("0 ready,1 ready,2 ready"), @"SuccessfulDelete -db-2");
    assert_snapshot!(to_one("0 ready,1 ready,2 going"), @"StatusChanged");
    assert_snapshot!(to_one("0 run,1 ready,2 ready"), @"StatusChanged");
    assert_snapshot!(to_one("0 ready,1 run,2 ready"), @"SuccessfulDelete -db-2");
    // The one that is not ready itself may go.
    assert_snapshot!(to_one("0 ready,1 ready,2 run"), @"SuccessfulDelete -db-2");
    assert_snapshot!(to_one("0 ready,1 run,2 run"), @"StatusChanged");
}

#[test]
fn a_new_template_replaces_from_the_last_pod_down_to_the_partition() {
    let update = |more: Value, rows| {
        let mut spec = json!({"template": template("2")});
        evenkeel_api::json::merge(&mut spec, &more);
        plan(spec, rows)
    };
    let all = |rows| update(json!({}), rows);
    assert_snapshot!(all("0 ready,1 ready,2 ready"), @"SuccessfulDelete -db-2");
    assert_snapshot!(all("0 ready,1 ready,2 ready 2"), @"SuccessfulDelete -db-1");
    assert_snapshot!(all("0 ready,1 ready,2 run 2"), @"StatusChanged");
    let from_two =
        |rows| update(json!({"updateStrategy": {"rollingUpdate": {"partition": 2}}}), rows);
    assert_snapshot!(from_two("0 ready,1 ready,2 ready 2"), @"StatusChanged");
    assert_snapshot!(from_two("0 ready,1 ready,2 ready"), @"SuccessfulDelete -db-2");
    let on_delete = json!({"updateStrategy": {"type": "OnDelete", "rollingUpdate": null}});
    assert_snapshot!(update(on_delete, "0 ready,1 ready,2 ready"), @"StatusChanged");
    // A broken pod of the old template blocks its own repair, as upstream.
    assert_snapshot!(all("0 run,1 ready,2 ready"), @"StatusChanged");
}

#[test]
fn a_missing_pod_below_the_partition_gets_the_template_that_the_others_have() {
    let spec = json!({"template": template("2"),
        "updateStrategy": {"rollingUpdate": {"partition": 2}}});
    let image = |rows: &str| {
        let view = View {
            now: at(10),
            set: seen(body(&spec, &json!({"replicas": 3, "currentRevision": "db-v1"}))),
            pods: rows.split(',').filter(|row| !row.is_empty()).map(pod).collect(),
            claims: vec![],
            revisions: vec![revision(1, "1"), revision(2, "2")],
        };
        let plan = decide(&view);
        let evenkeel_control::Action::Create(pod) = &plan.actions[0] else { panic!("{plan:?}") };
        let labels = pod.label("controller-revision-hash").unwrap().to_owned();
        let image = pod.json().pointer("/spec/containers/0/image").unwrap().clone();
        format!("{} {} {labels}", pod.name(), image.as_str().unwrap())
    };
    assert_snapshot!(image("1 ready,2 ready 2"), @"db-0 db:1 db-v1");
    assert_snapshot!(image("0 ready,1 ready"), @"db-2 db:2 db-v2");
}

#[test]
fn claims_come_first_and_replace_volumes_of_their_name() {
    let spec = json!({"template": {"spec": {"volumes": [
            {"name": "data", "emptyDir": {}}, {"name": "tmp", "emptyDir": {}}]}},
        "persistentVolumeClaimRetentionPolicy": {"whenDeleted": "Delete"},
        "volumeClaimTemplates": [{"metadata": {"name": "data"},
            "spec": {"accessModes": ["ReadWriteOnce"]}}]});
    let view = View {
        now: at(10),
        set: seen(body(&spec, &json!({"replicas": 0}))),
        pods: vec![],
        claims: vec![],
        revisions: vec![],
    };
    let plan = decide(&view);
    let bodies = plan.actions.iter().skip(1).map(|action| match action {
        evenkeel_control::Action::Create(obj) if obj.key().kind.kind.as_ref() == "Pod" => {
            obj.json().pointer("/spec/volumes").unwrap().to_string()
        }
        evenkeel_control::Action::Create(obj) => obj.json().to_string(),
        other => other.to_string(),
    });
    assert_snapshot!(bodies.collect::<Vec<_>>().join("\n"), @r#"
    {"apiVersion":"v1","kind":"PersistentVolumeClaim","metadata":{"name":"data-db-0","namespace":"shop","labels":{"app":"db"},"ownerReferences":[{"apiVersion":"apps/v1","blockOwnerDeletion":true,"controller":true,"kind":"StatefulSet","name":"db","uid":"sts"}]},"spec":{"accessModes":["ReadWriteOnce"]}}
    [{"name":"data","persistentVolumeClaim":{"claimName":"data-db-0"}},{"name":"tmp","emptyDir":{}}]
    "#);
    assert_snapshot!(words(&plan), @r#"
    SuccessfulCreate
    create ControllerRevision/shop/db-7b6f9d468d
    create PersistentVolumeClaim/shop/data-db-0
    create Pod/shop/db-0
    status StatefulSet/shop/db {"availableReplicas":0,"collisionCount":0,"currentRevision":"db-7b6f9d468d","observedGeneration":2,"updateRevision":"db-7b6f9d468d"}
    event StatefulSet/shop/db SuccessfulCreate: create Claim data-db-0 Pod db-0 in StatefulSet db success
    event StatefulSet/shop/db SuccessfulCreate: create Pod db-0 in StatefulSet db successful
    "#);
}

#[test]
fn a_claim_of_an_earlier_pod_is_waited_for() {
    let spec = json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]});
    let claim = |meta: Value| {
        let mut body = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": "data-db-0", "namespace": "shop", "uid": "c",
                "resourceVersion": "4"}, "spec": {}});
        evenkeel_api::json::merge(&mut body["metadata"], &meta);
        let view = View {
            now: at(10),
            set: seen(body_of(&spec)),
            pods: vec![],
            claims: vec![seen(body)],
            revisions: vec![revision(1, "1")],
        };
        words(&decide(&view)).lines().take(2).collect::<Vec<_>>().join(" | ")
    };
    assert_snapshot!(claim(json!({})), @"SuccessfulCreate | create Pod/shop/db-0");
    let old = json!({"ownerReferences": [{"apiVersion": "v1", "kind": "Pod", "name": "db-0",
        "uid": "earlier"}]});
    assert!(claim(old).starts_with("StatusChanged"));
    let leaving = json!({"deletionTimestamp": at(1).to_string()});
    assert!(claim(leaving).starts_with("StatusChanged"));
}

#[test]
fn a_set_of_very_many_pods_is_made_in_batches() {
    let spec = json!({"podManagementPolicy": PARALLEL, "replicas": 2_000_000_000});
    let made = plan(spec, "0 ready,700 ready");
    assert_eq!(made.matches('+').count(), 500);
    assert!(made.contains(" +db-1 ") && made.ends_with(" +db-500"), "{made}");
}

#[test]
fn a_set_that_is_being_deleted_gets_no_revision() {
    let mut body = body(&json!({}), &json!({"replicas": 0}));
    body["metadata"]["deletionTimestamp"] = at(5).to_string().into();
    let view =
        View { now: at(10), set: seen(body), pods: vec![], claims: vec![], revisions: vec![] };
    assert!(decide(&view).actions.is_empty());
}

fn body_of(spec: &Value) -> Value {
    body(spec, &json!({"replicas": 0, "currentRevision": "db-v1"}))
}
