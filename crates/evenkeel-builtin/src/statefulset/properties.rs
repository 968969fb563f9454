use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{Key, Obj};
use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::{
    pods,
    testing::{Cluster, node},
};

fn set(replicas: usize, version: usize) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "db", "namespace": "shop"},
        "spec": {"replicas": replicas, "serviceName": "db",
            "selector": {"matchLabels": {"app": "db"}},
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "template": {"metadata": {"labels": {"app": "db"}},
                "spec": {"containers": [{"name": "main", "image": format!("db:{version}")}]}}}})
}

/// Of ordered pods, no more than one is on its way at a time, up or down.
fn check(objects: &BTreeMap<Key, Arc<Obj>>) {
    let pods = objects.values().filter_map(|obj| obj.get::<Pod>().ok());
    let moving = pods.filter(|pod| !pods::is_ready(pod) || !pods::is_active(pod)).count();
    assert!(moving <= 1, "{moving} pods are on their way");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn one_pod_after_the_other_whatever_changes_meanwhile(
        sizes in prop::collection::vec((0..5_usize, 0..3_usize), 1..6),
        pauses in prop::collection::vec(0..6_usize, 6),
    ) {
        let mut cluster = Cluster::new(11);
        cluster.world.apply(node("n1", "a", ("64", "64Gi")));
        cluster.world.checking(check);
        for ((replicas, version), pause) in sizes.iter().zip(&pauses) {
            cluster.world.apply(set(*replicas, *version));
            for _ in 0..*pause {
                cluster.pass(Duration::from_secs(1));
                if let Some(pod) = cluster.world.unsettled_pods().first() {
                    cluster.world.run_pod(pod, true);
                }
            }
        }
        cluster.bring_up();
        let (replicas, version) = sizes.last().copied().unwrap();
        let image = format!("db:{version}");
        let names: Vec<String> =
            cluster.world.all("Pod").iter().map(|pod| pod.name().to_owned()).collect();
        let wanted: Vec<String> = (0..replicas).map(|ordinal| format!("db-{ordinal}")).collect();
        prop_assert_eq!(names, wanted);
        for pod in cluster.world.all("Pod") {
            prop_assert_eq!(pod.json().pointer("/spec/containers/0/image").unwrap(), &image);
        }
        let now = cluster.world.writes();
        cluster.pass(Duration::from_mins(10));
        prop_assert_eq!(cluster.world.writes(), now, "a settled set writes nothing");
    }
}
