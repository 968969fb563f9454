//! Claims and volumes on all controllers together, and the tables of each decision.

use std::sync::Arc;

use evenkeel_api::{ApiObject, Key, Obj};
use evenkeel_control::{Action, DeleteOptions};
use insta::assert_snapshot;
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim, Pod};
use serde_json::{Value, json};

use super::*;
use crate::{
    reasons,
    testing::{Cluster, node},
};

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.world.apply(default_class().json().clone());
    for name in ["n1", "n2"] {
        cluster.world.apply(node(name, "a", ("4", "8Gi")));
    }
    cluster.settle();
    cluster
}

fn claim(name: &str, spec: &Value) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "PersistentVolumeClaim",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"accessModes": ["ReadWriteOnce"],
            "resources": {"requests": {"storage": "1Gi"}}}});
    evenkeel_api::json::merge(&mut body["spec"], spec);
    body
}

fn user(name: &str, claim: &str, spec: &Value) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"containers": [{"name": "main"}], "volumes": [
            {"name": "data", "persistentVolumeClaim": {"claimName": claim}}]}});
    evenkeel_api::json::merge(&mut body["spec"], spec);
    body
}

fn volume(name: &str, size: &str, spec: &Value) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "PersistentVolume",
        "metadata": {"name": name},
        "spec": {"capacity": {"storage": size}, "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": format!("/srv/{name}")}}});
    evenkeel_api::json::merge(&mut body["spec"], spec);
    body
}

fn text<'a>(object: &'a Obj, path: &str) -> &'a str {
    object.json().pointer(path).and_then(Value::as_str).unwrap_or("-")
}

/// Claims, volumes and pods in a line each; names of volumes that were made are shortened.
fn shown(cluster: &mut Cluster) -> String {
    cluster.settle();
    let mut lines = Vec::new();
    for claim in cluster.world.all("PersistentVolumeClaim") {
        let (phase, volume) = (text(&claim, "/status/phase"), text(&claim, "/spec/volumeName"));
        let size = text(&claim, "/status/capacity/storage");
        let going = if claim.is_deleting() { " deleting" } else { "" };
        lines.push(format!("claim {} {phase} {} {size}{going}", claim.name(), short(volume)));
    }
    for volume in cluster.world.all("PersistentVolume") {
        let of = text(&volume, "/spec/claimRef/name");
        let going = if volume.is_deleting() { " deleting" } else { "" };
        let phase = text(&volume, "/status/phase");
        lines.push(format!("volume {} {phase} for {of}{going}", short(volume.name())));
    }
    for pod in cluster.world.all("Pod") {
        lines.push(format!("pod {} on {}", pod.name(), text(&pod, "/spec/nodeName")));
    }
    lines.join("\n")
}

fn short(name: &str) -> &str {
    if name.starts_with("pvc-") { "pvc" } else { name }
}

/// Reasons and messages of all events so far about an object, without repetitions.
fn events(cluster: &Cluster, name: &str) -> String {
    let about = |event: &Arc<Obj>| text(event, "/involvedObject/name") == name;
    let mut lines: Vec<String> = Vec::new();
    for event in cluster.world.all("Event").iter().filter(|event| about(event)) {
        let line = format!("{}: {}", text(event, "/reason"), text(event, "/message"));
        let line = match line.find("pvc-") {
            Some(at) => line.chars().take(at + 3).collect(),
            None => line,
        };
        if !lines.contains(&line) {
            lines.push(line);
        }
    }
    lines.join("\n")
}

fn delete<T: ApiObject>(cluster: &mut Cluster, namespace: &str, name: &str) {
    cluster.world.delete(&Key::of::<T>(namespace, name), &DeleteOptions::default());
    cluster.settle();
}

#[test]
fn a_claim_waits_for_its_pod_and_is_a_folder_of_that_node() {
    let mut cluster = cluster();
    cluster.world.apply(claim("data", &json!({})));
    assert_snapshot!(shown(&mut cluster), @"claim data Pending - -");
    cluster.world.apply(user(
        "db",
        "data",
        &json!({"nodeSelector": {"kubernetes.io/hostname": "n2"}}),
    ));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound pvc 1Gi
    volume pvc Bound for data
    pod db on n2
    ");
    assert_snapshot!(events(&cluster, "data"), @r#"
    WaitForFirstConsumer: waiting for first consumer to be created before binding
    Provisioning: External provisioner is provisioning volume for claim "shop/data"
    ProvisioningSucceeded: Successfully provisioned volume pvc
    "#);
    let made = cluster.world.all("PersistentVolume").pop().unwrap();
    let spec = made.get::<PersistentVolume>().unwrap().spec.clone().unwrap();
    assert_eq!(local_volumes::node(&spec), Some("n2"));
    let claim = cluster.world.find(&Key::of::<PersistentVolumeClaim>("shop", "data")).unwrap();
    assert_eq!(local_volumes::folder(&spec), Some(format!("shop_data_{}", claim.uid())));
    // A later pod goes where the data are.
    cluster.world.apply(user("next", "data", &json!({})));
    cluster.world.apply(user(
        "else",
        "data",
        &json!({"nodeSelector": {"kubernetes.io/hostname": "n1"}}),
    ));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound pvc 1Gi
    volume pvc Bound for data
    pod db on n2
    pod else on -
    pod next on n2
    ");
    assert_snapshot!(events(&cluster, "else"), @"FailedScheduling: 0/2 nodes are available: 1 node(s) didn't match Pod's node affinity/selector, 1 node(s) had volume node affinity conflict.");
}

#[test]
fn a_claim_in_use_stays_until_its_last_pod_is_gone_and_its_folder_goes_with_the_volume() {
    let mut cluster = cluster();
    cluster.world.apply(claim("data", &json!({})));
    cluster.world.apply(user("db", "data", &json!({})));
    cluster.settle();
    delete::<PersistentVolumeClaim>(&mut cluster, "shop", "data");
    cluster.world.apply(user("late", "data", &json!({})));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound pvc 1Gi deleting
    volume pvc Bound for data
    pod db on n1
    pod late on -
    ");
    assert_snapshot!(events(&cluster, "late"), @r#"FailedScheduling: 0/2 nodes are available: persistentvolumeclaim "data" is being deleted."#);
    delete::<Pod>(&mut cluster, "shop", "late");
    let pod = cluster.world.find(&Key::of::<Pod>("shop", "db")).unwrap();
    cluster.world.delete(pod.key(), &DeleteOptions::default());
    let pod = cluster.world.find(pod.key()).unwrap();
    cluster.world.run_pod(&pod, false);
    // What is left waits for the node to remove the folder.
    assert_snapshot!(shown(&mut cluster), @"volume pvc Released for data deleting");
    let made = cluster.world.all("PersistentVolume").pop().unwrap();
    assert_eq!(made.meta().finalizers.as_deref(), Some(&[local_volumes::FINALIZER.to_owned()][..]));
}

#[test]
fn a_retained_volume_is_released_and_stays() {
    let mut cluster = cluster();
    let mut class = default_class().json().clone();
    class["metadata"]["name"] = "kept".into();
    class["reclaimPolicy"] = "Retain".into();
    cluster.world.apply(class);
    cluster.world.apply(claim("data", &json!({"storageClassName": "kept"})));
    cluster.world.apply(user("db", "data", &json!({})));
    cluster.settle();
    let pod = cluster.world.find(&Key::of::<Pod>("shop", "db")).unwrap();
    cluster.world.delete(pod.key(), &DeleteOptions::default());
    let pod = cluster.world.find(pod.key()).unwrap();
    cluster.world.run_pod(&pod, false);
    delete::<PersistentVolumeClaim>(&mut cluster, "shop", "data");
    assert_snapshot!(shown(&mut cluster), @"volume pvc Released for data");
    // A claim of the same name is another claim.
    cluster.world.apply(claim("data", &json!({"storageClassName": "kept"})));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Pending - -
    volume pvc Released for data
    ");
}

#[test]
fn the_smallest_volume_that_fits_is_taken() {
    let mut cluster = cluster();
    let none = json!({"storageClassName": ""});
    cluster.world.apply(volume("large", "10Gi", &json!({})));
    cluster.world.apply(volume("fits", "2Gi", &json!({})));
    cluster.world.apply(volume("small", "1Mi", &json!({})));
    cluster.world.apply(volume("other", "2Gi", &json!({"storageClassName": "fast"})));
    cluster.world.apply(volume(
        "taken",
        "1Gi",
        &json!({"claimRef":
        {"namespace": "shop", "name": "later"}}),
    ));
    cluster.world.apply(claim("data", &none));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound fits 2Gi
    volume fits Bound for data
    volume large Available for -
    volume other Available for -
    volume small Available for -
    volume taken Available for later
    ");
    // Volumes that are kept for a claim are its own, whatever else fits.
    cluster.world.apply(claim("later", &none));
    cluster
        .world
        .apply(claim("named", &json!({"storageClassName": "fast", "volumeName": "other"})));
    cluster.world.apply(claim("odd", &json!({"volumeName": "large"})));
    cluster
        .world
        .apply(claim("rwx", &json!({"storageClassName": "", "accessModes": ["ReadWriteMany"]})));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound fits 2Gi
    claim later Bound taken 1Gi
    claim named Bound other 2Gi
    claim odd Pending large -
    claim rwx Pending - -
    volume fits Bound for data
    volume large Available for -
    volume other Bound for named
    volume small Available for -
    volume taken Bound for later
    ");
    assert_snapshot!(events(&cluster, "odd"), @r#"VolumeMismatch: Cannot bind to requested volume "large": storageClassName does not match"#);
    assert_snapshot!(events(&cluster, "rwx"), @"FailedBinding: no persistent volumes available for this claim and no storage class is set");
}

#[test]
fn what_cannot_be_provided_is_said() {
    let mut cluster = cluster();
    cluster.world.apply(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "ebs"}, "provisioner": "ebs.csi.aws.com"}));
    cluster.world.apply(claim("many", &json!({"accessModes": ["ReadWriteMany"]})));
    cluster.world.apply(claim("cloud", &json!({"storageClassName": "ebs"})));
    cluster.world.apply(claim("typo", &json!({"storageClassName": "standrad"})));
    cluster.world.apply(user("a", "many", &json!({})));
    cluster.world.apply(user("b", "nowhere", &json!({})));
    cluster.world.apply(user("c", "typo", &json!({})));
    cluster.settle();
    let all = ["many", "cloud", "typo", "a", "b", "c"].map(|name| events(&cluster, name));
    assert_snapshot!(all.join("\n--\n"), @r#"
    ProvisioningFailed: failed to provision volume with StorageClass "standard": a folder of one node supports only ReadWriteOnce and ReadWriteOncePod access modes
    --
    ExternalProvisioning: Waiting for a volume to be created either by the external provisioner 'ebs.csi.aws.com' or manually by the system administrator. If volume creation is delayed, please verify that the provisioner is running and correctly registered.
    --
    ProvisioningFailed: storageclass.storage.k8s.io "standrad" not found
    --

    --
    FailedScheduling: 0/2 nodes are available: persistentvolumeclaim "nowhere" not found.
    --
    FailedScheduling: 0/2 nodes are available: pod has unbound immediate PersistentVolumeClaims.
    "#);
}

#[test]
fn a_bound_claim_may_ask_for_more() {
    let mut cluster = cluster();
    cluster.world.apply(claim("data", &json!({})));
    cluster.world.apply(user("db", "data", &json!({})));
    cluster.settle();
    let key = Key::of::<PersistentVolumeClaim>("shop", "data");
    cluster.world.patch(&key, &json!({"spec": {"resources": {"requests": {"storage": "3Gi"}}}}));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound pvc 3Gi
    volume pvc Bound for data
    pod db on n1
    ");
}

#[test]
fn a_volume_that_is_gone_is_lost_and_a_bound_one_is_not_deleted() {
    let mut cluster = cluster();
    cluster.world.apply(volume("v", "2Gi", &json!({})));
    cluster.world.apply(claim("data", &json!({"storageClassName": ""})));
    cluster.settle();
    delete::<PersistentVolume>(&mut cluster, "", "v");
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound v 2Gi
    volume v Bound for data deleting
    ");
    let key = Key::of::<PersistentVolume>("", "v");
    cluster.world.patch(&key, &json!({"metadata": {"finalizers": null}}));
    assert_snapshot!(shown(&mut cluster), @"claim data Lost v 2Gi");
    assert_snapshot!(events(&cluster, "data"), @"ClaimLost: Bound claim has lost its PersistentVolume. Data on the volume is lost!");
}

#[test]
fn a_volume_that_is_being_deleted_stays_until_its_claim_is_gone() {
    let mut cluster = cluster();
    cluster.world.apply(claim("data", &json!({})));
    cluster.world.apply(user("db", "data", &json!({})));
    cluster.settle();
    let made = cluster.world.all("PersistentVolume").pop().unwrap();
    delete::<PersistentVolume>(&mut cluster, "", made.name());
    // A pod still writes into it.
    delete::<PersistentVolumeClaim>(&mut cluster, "shop", "data");
    let is_held = |cluster: &Cluster| {
        has_finalizer(&cluster.world.find(made.key()).unwrap(), VOLUME_FINALIZER)
    };
    assert!(is_held(&cluster));
    let pod = cluster.world.find(&Key::of::<Pod>("shop", "db")).unwrap();
    cluster.world.delete(pod.key(), &DeleteOptions::default());
    let pod = cluster.world.find(pod.key()).unwrap();
    cluster.world.run_pod(&pod, false);
    cluster.settle();
    assert!(cluster.world.find(&Key::of::<PersistentVolumeClaim>("shop", "data")).is_none());
    assert!(!is_held(&cluster));
}

#[test]
fn a_bound_claim_takes_its_volume_again_unless_another_has_it() {
    let mut cluster = cluster();
    cluster.world.apply(volume("v", "2Gi", &json!({})));
    cluster.world.apply(claim("data", &json!({"storageClassName": ""})));
    cluster.settle();
    let key = Key::of::<PersistentVolume>("", "v");
    cluster.world.patch(&key, &json!({"spec": {"claimRef": null}}));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound v 2Gi
    volume v Bound for data
    ");
    cluster.world.patch(&key, &json!({"spec": {"claimRef": {"name": "other", "uid": "c2"}}}));
    let data = Key::of::<PersistentVolumeClaim>("shop", "data");
    cluster.world.patch(&data, &json!({"metadata": {"labels": {"looked": "again"}}}));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Lost v 2Gi
    volume v Released for other
    ");
    assert_snapshot!(events(&cluster, "data"), @"ClaimMisbound: Two claims are bound to the same volume, this one is bound incorrectly");
}

fn seen<T: ApiObject>(body: Value) -> Seen<T> {
    Seen::of(Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

#[test]
fn only_a_volume_that_was_made_for_a_claim_is_deleted_with_it() {
    let elsewhere = || {
        let mut body = claim("data", &json!({"volumeName": "w"}));
        body["metadata"]["uid"] = "c1".into();
        Some(seen::<PersistentVolumeClaim>(body))
    };
    let decided = |annotations: Value, uid: Option<&str>, claim| {
        let mut body = volume(
            "v",
            "1Gi",
            &json!({"persistentVolumeReclaimPolicy": "Delete", "hostPath": null,
            "csi": {"driver": local_volumes::PROVISIONER, "volumeHandle": "shop_data_c1"},
            "claimRef": {"namespace": "shop", "name": "data", "uid": uid}}),
        );
        body["metadata"]["uid"] = "v1".into();
        body["metadata"]["resourceVersion"] = "1".into();
        body["metadata"]["annotations"] = annotations;
        body["metadata"]["finalizers"] = json!([VOLUME_FINALIZER]);
        body["status"] = json!({"phase": "Released"});
        let plan = volumes::decide(&volumes::View { volume: seen(body), claim });
        let actions = plan.actions.iter().map(|action| match action {
            Action::Delete { .. } => " delete".to_owned(),
            Action::Patch { patch, .. } => format!(" {patch}"),
            _ => " something else".to_owned(),
        });
        format!("{}{}", plan.reason, actions.collect::<String>())
    };
    let made = || json!({PROVISIONED_BY: local_volumes::PROVISIONER});
    let found = || json!({BOUND_BY_CONTROLLER: "yes"});
    assert_eq!(decided(made(), Some("c1"), None), "Reclaiming delete");
    assert_eq!(decided(made(), Some("c1"), elsewhere()), "Reclaiming delete");
    // What somebody has made by hand has failed to be deleted, or is free again.
    assert_eq!(decided(json!({}), Some("c1"), None), reasons::STATUS_CHANGED);
    assert_snapshot!(decided(json!({}), Some("c1"), elsewhere()), @r#"Unbinding {"spec":{"claimRef":{"uid":null}}}"#);
    assert_snapshot!(decided(found(), Some("c1"), elsewhere()), @r#"Unbinding {"metadata":{"annotations":{"pv.kubernetes.io/bound-by-controller":null}},"spec":{"claimRef":null}}"#);
    // Only reserved: it was never the claim's.
    assert_eq!(decided(made(), None, elsewhere()), reasons::STATUS_CHANGED);
}

#[test]
fn a_pod_brings_its_own_claim() {
    let mut cluster = cluster();
    let mut pod = user("web", "unused", &json!({}));
    pod["spec"]["volumes"] = json!([{"name": "tmp", "ephemeral": {"volumeClaimTemplate": {
        "metadata": {"labels": {"of": "web"}},
        "spec": claim("x", &json!({}))["spec"]}}}]);
    cluster.world.apply(pod);
    assert_snapshot!(shown(&mut cluster), @r"
    claim web-tmp Bound pvc 1Gi
    volume pvc Bound for web-tmp
    pod web on n1
    ");
    let made = cluster.world.all("PersistentVolumeClaim").pop().unwrap();
    assert_eq!(
        (made.label("of"), made.controller().map(|owner| owner.kind.clone())),
        (Some("web"), Some("Pod".to_owned()))
    );
}

#[test]
fn a_node_that_is_gone_before_the_volume_is_made_is_chosen_anew() {
    let mut cluster = cluster();
    let mut body = claim("data", &json!({"storageClassName": "ebs"}));
    body["metadata"]["annotations"] = json!({local_volumes::SELECTED_NODE: "gone"});
    cluster.world.apply(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "ebs"}, "provisioner": "ebs.csi.aws.com",
        "volumeBindingMode": "WaitForFirstConsumer"}));
    cluster.world.apply(body);
    cluster.world.apply(user(
        "db",
        "data",
        &json!({"nodeSelector": {"kubernetes.io/hostname": "n1"}}),
    ));
    cluster.settle();
    let claim = cluster.world.find(&Key::of::<PersistentVolumeClaim>("shop", "data")).unwrap();
    assert_eq!(annotation(&claim, local_volumes::SELECTED_NODE), Some("n1"));
    assert!(events(&cluster, "data").contains("'ebs.csi.aws.com'"));
}

/// A local volume of a node, for claims of class `disks`, which wait for their pods.
fn disk(name: &str, size: &str, node: &str) -> Value {
    let terms = json!([{"matchExpressions": [
        {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
    let affinity = json!({"required": {"nodeSelectorTerms": terms}});
    volume(name, size, &json!({"storageClassName": "disks", "nodeAffinity": affinity}))
}

fn disks() -> Cluster {
    let cluster = cluster();
    cluster.world.apply(json!({"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass",
        "metadata": {"name": "disks"}, "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer"}));
    cluster
}

#[test]
fn a_node_whose_volume_another_claim_has_got_is_chosen_anew() {
    let mut cluster = disks();
    let mut body = claim("data", &json!({"storageClassName": "disks"}));
    body["metadata"]["annotations"] = json!({local_volumes::SELECTED_NODE: "n1"});
    cluster.world.apply(body);
    cluster.world.apply(disk("v", "1Gi", "n2"));
    cluster.world.apply(user("db", "data", &json!({})));
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound v 1Gi
    volume v Bound for data
    pod db on n2
    ");
}

#[test]
fn pods_that_are_placed_at_once_do_not_get_the_same_volume() {
    let mut cluster = disks();
    for (name, node) in [("v1", "n1"), ("v2", "n2")] {
        cluster.world.apply(disk(name, "1Gi", node));
    }
    for name in ["a", "b"] {
        cluster.world.apply(claim(name, &json!({"storageClassName": "disks"})));
        cluster.world.apply(user(name, name, &json!({})));
    }
    cluster.settle();
    for name in ["a", "b"] {
        let pod = cluster.world.find(&Key::of::<Pod>("shop", name)).unwrap();
        assert_ne!(text(&pod, "/spec/nodeName"), "-", "{name}");
    }
}

#[test]
fn a_pod_with_two_claims_goes_where_there_are_two_volumes() {
    let mut cluster = disks();
    for (name, size, node) in [("v1", "9Gi", "n1"), ("v2", "2Gi", "n2"), ("v3", "1Gi", "n2")] {
        cluster.world.apply(disk(name, size, node));
    }
    let class = json!({"storageClassName": "disks"});
    cluster.world.apply(claim("data", &class));
    let mut large = claim("log", &class);
    large["spec"]["resources"]["requests"]["storage"] = "2Gi".into();
    cluster.world.apply(large);
    let mut pod = user("db", "data", &json!({}));
    let second = json!({"name": "log", "persistentVolumeClaim": {"claimName": "log"}});
    pod["spec"]["volumes"].as_array_mut().unwrap().push(second);
    cluster.world.apply(pod);
    assert_snapshot!(shown(&mut cluster), @r"
    claim data Bound v3 1Gi
    claim log Bound v2 2Gi
    volume v1 Available for -
    volume v2 Bound for log
    volume v3 Bound for data
    pod db on n2
    ");
}
