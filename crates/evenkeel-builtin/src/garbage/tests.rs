use evenkeel_api::Key;
use evenkeel_control::{DeleteOptions, Propagation};
use k8s_openapi::api::{apps::v1::Deployment, core::v1::ConfigMap};
use serde_json::{Value, json};

use crate::testing::{Cluster, deployment, node};

fn cluster() -> Cluster {
    let mut cluster = Cluster::new(1);
    cluster.world.apply(node("n1", "a", ("8", "8Gi")));
    cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 2})));
    cluster.bring_up();
    cluster
}

fn kinds(cluster: &Cluster) -> (usize, usize, usize) {
    let count = |kind| cluster.world.all(kind).len();
    (count("Deployment"), count("ReplicaSet"), count("Pod"))
}

fn delete(cluster: &mut Cluster, propagation: Propagation) {
    let options = DeleteOptions { propagation, ..DeleteOptions::default() };
    cluster.world.delete(&Key::of::<Deployment>("shop", "web"), &options);
}

fn config_map(name: &str, owners: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "shop", "ownerReferences": owners}})
}

fn owner(name: &str, uid: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "name": name, "uid": uid})
}

#[test]
fn dependents_follow_their_owner_into_the_background() {
    let mut cluster = cluster();
    assert_eq!(kinds(&cluster), (1, 1, 2));
    delete(&mut cluster, Propagation::Background);
    assert_eq!(kinds(&cluster), (0, 1, 2));
    cluster.bring_up();
    assert_eq!(kinds(&cluster), (0, 0, 0));
}

#[test]
fn a_foreground_deletion_ends_with_the_owner() {
    let mut cluster = cluster();
    delete(&mut cluster, Propagation::Foreground);
    cluster.settle();
    assert_eq!(kinds(&cluster), (1, 1, 2));
    let pods = cluster.world.all("Pod");
    assert!(pods.iter().all(|pod| pod.is_deleting()));
    cluster.world.run_pod(&pods[0], true);
    cluster.settle();
    assert_eq!(kinds(&cluster), (1, 1, 1));
    cluster.bring_up();
    assert_eq!(kinds(&cluster), (0, 0, 0));
}

#[test]
fn orphans_stay_without_an_owner() {
    let mut cluster = cluster();
    delete(&mut cluster, Propagation::Orphan);
    cluster.bring_up();
    assert_eq!(kinds(&cluster), (0, 1, 2));
    assert!(cluster.world.all("ReplicaSet")[0].controller().is_none());
}

#[test]
fn a_dependent_that_comes_late_or_means_another_uid_goes() {
    let mut cluster = Cluster::new(1);
    cluster.world.apply(config_map("a", &[]));
    let uid = cluster.world.all("ConfigMap")[0].uid().to_owned();
    cluster.world.apply(config_map("right", &[owner("a", &uid)]));
    cluster.world.apply(config_map("wrong", &[owner("a", "other")]));
    cluster.world.apply(config_map("late", &[owner("never", "x")]));
    cluster.settle();
    let left: Vec<String> =
        cluster.world.all("ConfigMap").iter().map(|map| map.name().to_owned()).collect();
    assert_eq!(left, ["a", "right"]);
}

#[test]
fn an_object_with_one_owner_left_stays_and_forgets_the_other() {
    let mut cluster = Cluster::new(1);
    cluster.world.apply(config_map("a", &[]));
    let uid = cluster.world.all("ConfigMap")[0].uid().to_owned();
    cluster.world.apply(config_map("both", &[owner("a", &uid), owner("gone", "x")]));
    cluster.settle();
    let both = cluster.world.find(&Key::of::<ConfigMap>("shop", "both")).unwrap();
    assert_eq!(both.meta().owner_references.as_ref().map(Vec::len), Some(1));
}
