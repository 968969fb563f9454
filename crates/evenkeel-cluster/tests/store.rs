//! The store behind the `Store` port: what it keeps, refuses and sends to watches.
#![expect(clippy::unwrap_used, clippy::needless_pass_by_value, reason = "helpers of tests")]

use std::sync::Arc;

use evenkeel_api::{FieldSelector, GroupKind, Key, LabelSelector, Obj};
use evenkeel_base::{FixedClock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Propagation, Read as _, StoreError, Subresource, Watch,
    WatchEvent, Write as _, WriteOptions,
};
use futures::{FutureExt as _, StreamExt as _, executor::block_on};
use serde_json::{Value, json};

fn cluster() -> Arc<ApiServer> {
    let now = "2026-01-01T00:00:00Z".parse().unwrap();
    ApiServer::new(Arc::new(FixedClock(now)), Rng::new(7))
}

fn create(store: &ApiServer, body: Value) -> Result<Arc<Obj>, StoreError> {
    let obj = Obj::from_json(body)?;
    block_on(store.create(&obj, &WriteOptions::default()))
}

fn merge(store: &ApiServer, key: &Key, patch: Value) -> Result<Arc<Obj>, StoreError> {
    block_on(store.patch(key, &Patch::Merge(patch), &WriteOptions::default()))
}

fn status(store: &ApiServer, key: &Key, patch: Value) -> Result<Arc<Obj>, StoreError> {
    let options =
        WriteOptions { subresource: Some(Subresource::Status), ..WriteOptions::default() };
    block_on(store.patch(key, &Patch::Merge(json!({"status": patch})), &options))
}

fn get(store: &ApiServer, key: &Key) -> Option<Arc<Obj>> {
    block_on(store.get(key)).unwrap()
}

fn config(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"v": value}})
}

fn pod(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "default", "labels": {"app": name}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]}})
}

fn deployment() -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"selector": {"matchLabels": {"app": "web"}}, "template": {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "c", "image": "web:1"}]}}}})
}

fn key(group: &str, kind: &str, name: &str) -> Key {
    let is_cluster = matches!(kind, "Namespace" | "CustomResourceDefinition" | "Node");
    Key::new(GroupKind::new(group, kind), if is_cluster { "" } else { "default" }, name)
}

/// Everything the watch has to say by now, as `+name`, `-name` and `=`.
fn sent(watch: &mut Watch) -> String {
    let mut words = Vec::new();
    while let Some(Some(event)) = watch.next().now_or_never() {
        words.push(match event.unwrap() {
            WatchEvent::Applied(obj) => format!("+{}@{}", obj.name(), obj.revision()),
            WatchEvent::Deleted(obj) => format!("-{}@{}", obj.name(), obj.revision()),
            WatchEvent::Synced => "=".to_owned(),
        });
    }
    words.join(" ")
}

#[test]
fn a_new_object_is_filled_in_and_numbered() {
    let store = cluster();
    let obj = create(&store, deployment()).unwrap();
    assert_eq!(obj.generation(), 1);
    assert_eq!(obj.uid().len(), 36);
    assert_eq!(obj.json()["metadata"]["creationTimestamp"], "2026-01-01T00:00:00Z");
    insta::assert_snapshot!(obj.json()["spec"], @r#"{"selector":{"matchLabels":{"app":"web"}},"template":{"metadata":{"labels":{"app":"web"}},"spec":{"containers":[{"image":"web:1","name":"c","terminationMessagePath":"/dev/termination-log","terminationMessagePolicy":"File","imagePullPolicy":"IfNotPresent","resources":{}}],"dnsPolicy":"ClusterFirst","restartPolicy":"Always","schedulerName":"default-scheduler","terminationGracePeriodSeconds":30,"securityContext":{}}},"replicas":1,"revisionHistoryLimit":10,"progressDeadlineSeconds":600,"strategy":{"type":"RollingUpdate","rollingUpdate":{"maxUnavailable":"25%","maxSurge":"25%"}}}"#);
    assert!(matches!(create(&store, deployment()), Err(StoreError::Exists { .. })));
    // The same calls give the same names and uids in every process.
    assert_eq!(create(&cluster(), deployment()).unwrap().uid(), obj.uid());
}

#[test]
fn the_reader_and_the_watcher_hold_the_same_object() {
    let store = cluster();
    let kind = GroupKind::new("", "ConfigMap");
    let mut watch = store.watch(ListQuery::all(kind));
    let written = create(&store, config("a", "1")).unwrap();
    let read = get(&store, &key("", "ConfigMap", "a")).unwrap();
    assert!(Arc::ptr_eq(&written, &read));
    let Some(Ok(WatchEvent::Applied(seen))) = block_on(watch.next()) else { panic!("no event") };
    assert!(Arc::ptr_eq(&written, &seen));
}

#[test]
fn generation_counts_changes_of_the_desired_state_only() {
    let store = cluster();
    create(&store, deployment()).unwrap();
    let web = key("apps", "Deployment", "web");
    let labelled = merge(&store, &web, json!({"metadata": {"labels": {"a": "b"}}})).unwrap();
    assert_eq!(labelled.generation(), 1);
    let scaled = merge(&store, &web, json!({"spec": {"replicas": 3}, "status": {"replicas": 9}}));
    let scaled = scaled.unwrap();
    assert_eq!((scaled.generation(), scaled.json().get("status")), (2, None));
    let seen = status(&store, &web, json!({"observedGeneration": 2})).unwrap();
    assert_eq!((seen.generation(), &seen.json()["status"]["observedGeneration"]), (2, &json!(2)));
    let again = status(&store, &web, json!({"observedGeneration": 2})).unwrap();
    assert_eq!(again.revision(), seen.revision(), "a write that changes nothing is not stored");
}

#[test]
fn a_stale_write_is_a_conflict() {
    let store = cluster();
    let old = create(&store, config("a", "1")).unwrap();
    let a = key("", "ConfigMap", "a");
    merge(&store, &a, json!({"data": {"v": "2"}})).unwrap();
    let options = WriteOptions { expect: Some(old.revision()), ..WriteOptions::default() };
    let patch = Patch::Merge(json!({"data": {"v": "3"}}));
    let stale = block_on(store.patch(&a, &patch, &options));
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    let replace = Patch::Replace(old.json().clone());
    let stale = block_on(store.patch(&a, &replace, &WriteOptions::default()));
    assert!(matches!(stale, Err(StoreError::Conflict { .. })), "{stale:?}");
    let options = DeleteOptions { uid: Some("other".to_owned()), ..DeleteOptions::default() };
    let other = block_on(store.delete(&a, &options));
    assert!(matches!(other, Err(StoreError::Conflict { .. })), "{other:?}");
}

#[test]
fn watches_tell_what_is_there_then_every_change_of_what_they_select() {
    let store = cluster();
    create(&store, pod("a")).unwrap();
    let query = ListQuery::all(GroupKind::new("", "Pod"))
        .within("default")
        .with_labels(LabelSelector::parse("app=a").unwrap());
    let mut watch = store.watch(query);
    let mut placed = store.watch(
        ListQuery::all(GroupKind::new("", "Pod"))
            .with_fields(FieldSelector::equal("spec.nodeName", "n1")),
    );
    assert_eq!(sent(&mut watch), "+a@6 =");
    assert_eq!(sent(&mut placed), "=");
    create(&store, pod("b")).unwrap();
    let a = key("", "Pod", "a");
    merge(&store, &a, json!({"metadata": {"labels": {"x": "y"}}})).unwrap();
    let binding = json!({"target": {"name": "n1"}});
    block_on(store.post(&a, Subresource::Binding, &binding)).unwrap();
    assert_eq!(sent(&mut watch), "+a@8 +a@9");
    assert_eq!(sent(&mut placed), "+a@9");
    // Leaving the selection is a deletion for the watcher.
    merge(&store, &a, json!({"metadata": {"labels": {"app": "z"}}})).unwrap();
    assert_eq!((sent(&mut watch), sent(&mut placed)), ("-a@10".to_owned(), "+a@10".to_owned()));
}

#[test]
fn a_watcher_that_slept_too_long_gets_the_difference() {
    let store = cluster();
    for name in ["kept", "gone", "changed"] {
        create(&store, config(name, "1")).unwrap();
    }
    let mut watch = store.watch(ListQuery::all(GroupKind::new("", "ConfigMap")));
    assert_eq!(sent(&mut watch), "+changed@8 +gone@7 +kept@6 =");
    let gone = key("", "ConfigMap", "gone");
    block_on(store.delete(&gone, &DeleteOptions::default())).unwrap();
    for turn in 0..2_000 {
        let changed = key("", "ConfigMap", "changed");
        merge(&store, &changed, json!({"data": {"v": turn.to_string()}})).unwrap();
    }
    assert_eq!(sent(&mut watch), "-gone@7 +changed@2009");
}

#[test]
fn pods_go_gracefully_and_other_things_at_once() {
    let store = cluster();
    let options = DeleteOptions::default();
    create(&store, pod("unplaced")).unwrap();
    let unplaced = key("", "Pod", "unplaced");
    block_on(store.delete(&unplaced, &options)).unwrap();
    assert!(get(&store, &unplaced).is_none(), "a pod on no node has nothing to stop");
    create(&store, pod("placed")).unwrap();
    let placed = key("", "Pod", "placed");
    block_on(store.post(&placed, Subresource::Binding, &json!({"target": {"name": "n"}}))).unwrap();
    block_on(store.delete(&placed, &options)).unwrap();
    let meta = get(&store, &placed).unwrap().json()["metadata"].clone();
    assert_eq!(meta["deletionTimestamp"], "2026-01-01T00:00:30Z");
    assert_eq!(meta["deletionGracePeriodSeconds"], 30);
    let shorter = DeleteOptions { grace_seconds: Some(5), ..DeleteOptions::default() };
    block_on(store.delete(&placed, &shorter)).unwrap();
    let meta = get(&store, &placed).unwrap().json()["metadata"].clone();
    assert_eq!(meta["deletionTimestamp"], "2026-01-01T00:00:05Z");
    let now = DeleteOptions { grace_seconds: Some(0), ..DeleteOptions::default() };
    block_on(store.delete(&placed, &now)).unwrap();
    assert!(get(&store, &placed).is_none());
}

#[test]
fn finalizers_hold_and_propagation_leaves_its_mark() {
    let store = cluster();
    let mut body = config("held", "1");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    create(&store, body).unwrap();
    let held = key("", "ConfigMap", "held");
    block_on(store.delete(&held, &DeleteOptions::default())).unwrap();
    assert!(get(&store, &held).unwrap().is_deleting());
    let more = json!({"metadata": {"finalizers": ["example.com/hold", "example.com/more"]}});
    let refused = merge(&store, &held, more).unwrap_err().to_string();
    assert!(refused.contains("no new finalizers can be added"), "{refused}");
    merge(&store, &held, json!({"metadata": {"finalizers": null}})).unwrap();
    assert!(get(&store, &held).is_none());

    for (propagation, finalizer) in
        [(Propagation::Foreground, "foregroundDeletion"), (Propagation::Orphan, "orphan")]
    {
        create(&store, config("owner", "1")).unwrap();
        let owner = key("", "ConfigMap", "owner");
        let options = DeleteOptions { propagation, ..DeleteOptions::default() };
        block_on(store.delete(&owner, &options)).unwrap();
        let marked = get(&store, &owner).unwrap();
        assert_eq!(marked.json()["metadata"]["finalizers"], json!([finalizer]));
        merge(&store, &owner, json!({"metadata": {"finalizers": []}})).unwrap();
        assert!(get(&store, &owner).is_none());
    }
}

#[test]
fn a_namespace_takes_everything_with_it_and_only_then_goes() {
    let store = cluster();
    let shop = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}});
    let mut body = config("a", "1");
    body["metadata"]["namespace"] = json!("shop");
    let missing = create(&store, body.clone()).unwrap_err().to_string();
    assert!(missing.contains("namespaces \"shop\" not found"), "{missing}");
    create(&store, shop).unwrap();
    create(&store, body.clone()).unwrap();
    body["metadata"]["name"] = json!("held");
    body["metadata"]["finalizers"] = json!(["example.com/hold"]);
    create(&store, body.clone()).unwrap();
    let shop = key("", "Namespace", "shop");
    block_on(store.delete(&shop, &DeleteOptions::default())).unwrap();
    let dying = get(&store, &shop).unwrap();
    assert_eq!(dying.json()["status"]["phase"], "Terminating");
    body["metadata"]["name"] = json!("new");
    let refused = create(&store, body).unwrap_err().to_string();
    assert!(refused.contains("because it is being terminated"), "{refused}");
    let held = Key::new(GroupKind::new("", "ConfigMap"), "shop", "held");
    merge(&store, &held, json!({"metadata": {"finalizers": null}})).unwrap();
    assert!(get(&store, &shop).is_none() && get(&store, &held).is_none());
    let own = block_on(store.delete(&key("", "Namespace", "default"), &DeleteOptions::default()));
    assert!(matches!(own, Err(StoreError::Refused { .. })), "{own:?}");
}

#[test]
fn services_get_addresses_of_their_own() {
    let store = cluster();
    let service = |name: &str, spec: Value| {
        json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": name, "namespace": "default"}, "spec": spec})
    };
    let ports = json!([{"port": 80}]);
    let first = create(&store, service("a", json!({"ports": ports}))).unwrap();
    assert_eq!(first.json()["spec"]["clusterIP"], "127.192.0.1");
    assert_eq!(
        first.json()["spec"]["ports"],
        json!([{"port": 80, "protocol": "TCP",
        "targetPort": 80}])
    );
    let headless = service("b", json!({"ports": ports, "clusterIP": "None"}));
    assert_eq!(create(&store, headless).unwrap().json()["spec"]["clusterIP"], "None");
    let taken = service("c", json!({"ports": ports, "clusterIP": "127.192.0.1"}));
    let refused = create(&store, taken).unwrap_err().to_string();
    assert!(refused.contains("provided IP is already allocated"), "{refused}");
    let moved = json!({"spec": {"clusterIP": "127.192.0.9"}});
    let refused = merge(&store, &key("", "Service", "a"), moved).unwrap_err().to_string();
    assert!(refused.contains("may not change once set"), "{refused}");
    block_on(store.delete(&key("", "Service", "a"), &DeleteOptions::default())).unwrap();
    let again = service("d", json!({"ports": ports, "clusterIP": "127.192.0.1"}));
    create(&store, again).unwrap();
}

#[test]
fn what_is_invalid_is_refused_with_its_field() {
    let store = cluster();
    let web = |pointer: &str, value: Value| {
        let mut body = deployment();
        let (parent, name) = pointer.rsplit_once('/').unwrap();
        body.pointer_mut(parent).unwrap()[name] = value;
        create(&store, body).unwrap_err().to_string()
    };
    let container = "/spec/template/spec/containers/0";
    for (pointer, value, said) in [
        ("/spec/replicas".to_owned(), json!(-1), "spec.replicas: Invalid value: -1: must be"),
        ("/spec/selector".to_owned(), json!({}), "spec.selector: Required value"),
        (
            "/spec/template/metadata/labels".to_owned(),
            json!({"app": "other"}),
            "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does",
        ),
        (
            "/spec/template/spec/containers".to_owned(),
            json!([]),
            "spec.template.spec.containers: Required value",
        ),
        (format!("{container}/image"), json!(""), "containers[0].image: Required value"),
        (format!("{container}/name"), json!("A"), "containers[0].name: Invalid value: \"A\""),
        (
            format!("{container}/ports"),
            json!([{"containerPort": 70_000}]),
            "containers[0].ports[0].containerPort: Invalid value: 70000: must be between 1 and",
        ),
        (
            format!("{container}/readinessProbe"),
            json!({"httpGet": {"port": 80}, "periodSeconds": -1}),
            "readinessProbe.periodSeconds: Invalid value: -1",
        ),
        (
            format!("{container}/livenessProbe"),
            json!({"periodSeconds": 5}),
            "livenessProbe: Required value: must specify a handler type",
        ),
        (
            format!("{container}/imagePulPolicy"),
            json!("Always"),
            "strict decoding error: unknown field \
             \"spec.template.spec.containers[0].imagePulPolicy\"",
        ),
        (
            format!("{container}/resources"),
            json!({"limits": {"cpu": "1"}, "requests": {"cpu": "2"}}),
            "must be less than or equal to cpu limit of 1",
        ),
        ("/spec/replicas".to_owned(), json!("two"), "cannot be handled as a Deployment"),
        ("/metadata/name".to_owned(), json!("Web"), "a lowercase RFC 1123 subdomain must"),
        (
            "/spec/strategy".to_owned(),
            json!({"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 0}}),
            "may not be 0 when `maxSurge` is 0",
        ),
    ] {
        let refused = web(&pointer, value);
        assert!(refused.contains(said), "{pointer}: {refused}");
    }
}

#[test]
fn what_may_not_change_is_refused_with_its_field() {
    let store = cluster();
    create(&store, deployment()).unwrap();
    let other = json!({"spec": {"selector": {"matchLabels": {"app": "x"}},
        "template": {"metadata": {"labels": {"app": "x"}}}}});
    let refused = merge(&store, &key("apps", "Deployment", "web"), other).unwrap_err().to_string();
    assert!(refused.contains("field is immutable"), "{refused}");
    let renamed = json!({"metadata": {"name": "green"}});
    let refused = merge(&store, &key("apps", "Deployment", "web"), renamed).unwrap_err();
    assert!(refused.to_string().contains("metadata.name: Invalid value"), "{refused}");
    let policy = json!({"apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": "a", "namespace": "default"}});
    let refused = create(&store, policy).unwrap_err().to_string();
    assert!(refused.contains("does not enforce NetworkPolicy"), "{refused}");
}

fn definition() -> Value {
    json!({"apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {"name": "boats.example.com"},
        "spec": {"group": "example.com", "scope": "Namespaced",
            "names": {"plural": "boats", "kind": "Boat", "shortNames": ["bt"]},
            "versions": [{"name": "v1", "served": true, "storage": true,
                "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.crew",
                    "statusReplicasPath": ".status.crew"}},
                "schema": {"openAPIV3Schema": {"type": "object", "properties": {
                    "spec": {"type": "object", "required": ["keel"], "properties": {
                        "keel": {"type": "string"}, "crew": {"type": "integer", "default": 2}}},
                    "status": {"type": "object",
                        "x-kubernetes-preserve-unknown-fields": true}}}}}]}})
}

#[test]
fn a_definition_makes_a_kind_and_takes_its_objects_along() {
    let store = cluster();
    let boat = |spec: Value| {
        json!({"apiVersion": "example.com/v1", "kind": "Boat",
            "metadata": {"name": "a", "namespace": "default"}, "spec": spec})
    };
    let unknown = create(&store, boat(json!({"keel": "even"}))).unwrap_err().to_string();
    assert!(unknown.contains("has no kind Boat.example.com"), "{unknown}");
    let mut watch = store.watch(ListQuery::all(GroupKind::new("example.com", "Boat")));
    assert_eq!(sent(&mut watch), "=");
    let defined = create(&store, definition()).unwrap();
    let conditions = &defined.json()["status"]["conditions"];
    assert_eq!(conditions[1]["type"], "Established");
    let refused = create(&store, boat(json!({"crew": 1}))).unwrap_err().to_string();
    assert!(refused.contains("spec.keel: Required value"), "{refused}");
    let made = create(&store, boat(json!({"keel": "even"}))).unwrap();
    assert_eq!(made.json()["spec"], json!({"keel": "even", "crew": 2}));
    let a = key("example.com", "Boat", "a");
    let scale = WriteOptions { subresource: Some(Subresource::Scale), ..WriteOptions::default() };
    let patch = Patch::Merge(json!({"spec": {"replicas": 5}}));
    let scaled = block_on(store.patch(&a, &patch, &scale)).unwrap();
    assert_eq!((&scaled.json()["spec"]["crew"], scaled.generation()), (&json!(5), 2));
    let crd = key("apiextensions.k8s.io", "CustomResourceDefinition", "boats.example.com");
    block_on(store.delete(&crd, &DeleteOptions::default())).unwrap();
    assert!(get(&store, &crd).is_none());
    let words = sent(&mut watch);
    assert!(words.starts_with("+a") && words.contains("-a"), "{words}");
    assert!(create(&store, boat(json!({"keel": "even"}))).is_err());
}

#[test]
fn an_eviction_asks_the_disruption_budget() {
    let store = cluster();
    for name in ["a", "b"] {
        let mut body = pod(name);
        body["metadata"]["labels"] = json!({"app": "web"});
        create(&store, body).unwrap();
        let ready = json!({"phase": "Running", "conditions": [
            {"type": "Ready", "status": "True"}]});
        status(&store, &key("", "Pod", name), ready).unwrap();
    }
    create(
        &store,
        json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}}}),
    )
    .unwrap();
    let evict =
        |name: &str| block_on(store.post(&key("", "Pod", name), Subresource::Eviction, &json!({})));
    evict("a").unwrap();
    let refused = evict("b");
    assert!(matches!(refused, Err(StoreError::Busy { .. })), "{refused:?}");
}

/// A pod of a `ReplicaSet`, with all that makes it count.
fn ready_pod_of(store: &ApiServer, set: &str, name: &str) {
    let mut body = pod(name);
    body["metadata"]["labels"] = json!({"app": "web"});
    body["metadata"]["ownerReferences"] = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet",
        "name": set, "uid": set, "controller": true}]);
    create(store, body).unwrap();
    let ready = json!({"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]});
    status(store, &key("", "Pod", name), ready).unwrap();
}

#[test]
fn an_eviction_counts_what_the_deployment_wants() {
    let store = cluster();
    // The middle of a rollout: two ReplicaSets of 2, a Deployment of 3.
    let mut web = deployment();
    web["spec"]["replicas"] = json!(3);
    create(&store, web).unwrap();
    for set in ["old", "new"] {
        let mut body = deployment();
        body["kind"] = json!("ReplicaSet");
        body["metadata"] = json!({"name": set, "namespace": "default", "ownerReferences": [{
            "apiVersion": "apps/v1", "kind": "Deployment", "name": "web", "uid": "web",
            "controller": true}]});
        body["spec"]["replicas"] = json!(2);
        create(&store, body).unwrap();
    }
    for (set, name) in [("old", "a"), ("old", "b"), ("new", "c")] {
        ready_pod_of(&store, set, name);
    }
    let budget = json!({"apiVersion": "policy/v1", "kind": "PodDisruptionBudget",
        "metadata": {"name": "web", "namespace": "default"},
        "spec": {"maxUnavailable": 1, "selector": {"matchLabels": {"app": "web"}}}});
    create(&store, budget).unwrap();
    let evict =
        |name: &str| block_on(store.post(&key("", "Pod", name), Subresource::Eviction, &json!({})));
    evict("a").unwrap();
    let refused = evict("b");
    assert!(matches!(refused, Err(StoreError::Busy { .. })), "{refused:?}");
}

#[test]
fn a_stateful_set_mounts_what_its_claim_templates_name() {
    let store = cluster();
    let set = |mount: &str| {
        json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "default"},
        "spec": {"serviceName": "db", "selector": {"matchLabels": {"app": "db"}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
            "template": {"metadata": {"labels": {"app": "db"}}, "spec": {"containers": [{
                "name": "db", "image": "postgres:16",
                "volumeMounts": [{"name": mount, "mountPath": "/data"}]}]}}}})
    };
    let refused = create(&store, set("other"));
    assert!(matches!(refused, Err(StoreError::Invalid { .. })), "{refused:?}");
    create(&store, set("data")).unwrap();
}

#[test]
fn a_job_selects_its_own_pods_and_no_others() {
    let store = cluster();
    let job = |name: &str| {
        json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"template": {"metadata": {"labels": {"app": "web"}}, "spec": {
            "restartPolicy": "Never", "containers": [{"name": "c", "image": "web:1"}]}}}})
    };
    let made = create(&store, job("once")).unwrap();
    let uid = made.uid();
    assert_eq!(
        made.json()["spec"]["selector"],
        json!({"matchLabels": {"batch.kubernetes.io/controller-uid": uid}})
    );
    let labels = json!({"app": "web", "controller-uid": uid, "job-name": "once",
        "batch.kubernetes.io/controller-uid": uid, "batch.kubernetes.io/job-name": "once"});
    assert_eq!(made.json()["spec"]["template"]["metadata"]["labels"], labels);
    let mut manual = job("manual");
    manual["spec"]["manualSelector"] = json!(true);
    manual["spec"]["selector"] = json!({"matchLabels": {"app": "web"}});
    let made = create(&store, manual).unwrap();
    assert_eq!(made.json()["spec"]["selector"], json!({"matchLabels": {"app": "web"}}));
}

#[test]
fn old_events_are_forgotten() {
    let store = cluster();
    for (index, at) in ["2025-12-31T22:00:00Z", "2025-12-31T23:30:00Z"].iter().enumerate() {
        for number in 0..64 {
            create(
                &store,
                json!({"apiVersion": "v1", "kind": "Event",
                "metadata": {"name": format!("e{index}.{number}"), "namespace": "default"},
                "involvedObject": {"kind": "Pod", "name": "a"}, "lastTimestamp": at}),
            )
            .unwrap();
        }
    }
    let events = ListQuery::all(GroupKind::new("", "Event"));
    let left = block_on(store.list(&events)).unwrap().items;
    assert!(left.len() < 100 && left.iter().all(|event| event.name().starts_with("e1")));
}
