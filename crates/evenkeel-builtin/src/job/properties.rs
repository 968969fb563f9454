use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{Key, Obj};
use evenkeel_control::DeleteOptions;
use k8s_openapi::api::batch::v1::Job;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::testing::{Cluster, node};

fn job(completions: i64, parallelism: i64) -> Value {
    json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "work", "namespace": "shop"},
        "spec": {"completions": completions, "parallelism": parallelism, "backoffLimit": 5,
            "selector": {"matchLabels": {"job": "work"}},
            "template": {"metadata": {"labels": {"job": "work"}},
                "spec": {"restartPolicy": "Never",
                    "containers": [{"name": "main", "image": "work:1"}]}}}})
}

fn key() -> Key {
    Key::of::<Job>("shop", "work")
}

fn number(job: &Obj, field: &str) -> i64 {
    job.json().pointer(&format!("/status/{field}")).and_then(Value::as_i64).unwrap_or_default()
}

fn is_active(pod: &Obj) -> bool {
    let phase = pod.json().pointer("/status/phase").and_then(Value::as_str);
    !pod.is_deleting() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Never more pods than allowed, never more counted than wanted.
fn check(objects: &BTreeMap<Key, Arc<Obj>>, (completions, parallelism): (i64, i64)) {
    let pods = objects.values().filter(|obj| &*obj.key().kind.kind == "Pod");
    let active = i64::try_from(pods.filter(|pod| is_active(pod)).count()).unwrap();
    assert!(active <= parallelism, "{active} pods of {parallelism}");
    if let Some(job) = objects.get(&key()) {
        assert!(number(job, "succeeded") <= completions, "counted too often");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn every_pod_is_counted_once_however_it_ends(
        completions in 1..6_i64,
        parallelism in 1..4_i64,
        fates in prop::collection::vec((any::<prop::sample::Index>(), 0..10_u8), 1..60),
    ) {
        let mut cluster = Cluster::new(5);
        cluster.world.apply(node("n1", "a", ("64", "64Gi")));
        cluster.world.checking(move |objects| check(objects, (completions, parallelism)));
        cluster.world.apply(job(completions, parallelism));
        let (mut succeeded, mut failed) = (0, 0);
        // Afterwards all pods succeed.
        let fates = fates.into_iter().map(|(pick, fate)| (Some(pick), fate));
        for (pick, fate) in fates.chain((0..100).map(|_| (None, 9))) {
            cluster.pass(Duration::from_secs(100));
            for pod in cluster.world.all("Pod").iter().filter(|pod| pod.is_deleting()) {
                cluster.world.run_pod(pod, false);
            }
            cluster.pass(Duration::from_secs(1));
            let active: Vec<_> =
                cluster.world.all("Pod").into_iter().filter(|pod| is_active(pod)).collect();
            if active.is_empty() {
                continue;
            }
            let pod = pick.map_or(&active[0], |pick| pick.get(&active));
            match fate {
                0 => {
                    failed += 1;
                    cluster.world.delete(pod.key(), &DeleteOptions::default());
                }
                1 => {
                    failed += 1;
                    cluster.world.set_status(pod.key(), &json!({"phase": "Failed"}));
                }
                2 => cluster.world.run_pod(pod, true),
                _ => {
                    succeeded += 1;
                    cluster.world.set_status(pod.key(), &json!({"phase": "Succeeded"}));
                }
            }
        }
        cluster.pass(Duration::from_mins(10));
        let job = cluster.world.find(&key()).unwrap();
        let conditions = job.json().pointer("/status/conditions").unwrap().to_string();
        if failed > 5 {
            prop_assert!(conditions.contains("\"Failed\""), "{}", conditions);
        } else {
            prop_assert!(conditions.contains("\"Complete\""), "{}", conditions);
            prop_assert_eq!(number(&job, "succeeded"), completions);
            prop_assert_eq!(number(&job, "succeeded"), succeeded);
            prop_assert_eq!(number(&job, "failed"), failed);
        }
        let held = cluster.world.all("Pod").into_iter().filter(|pod| {
            pod.meta().finalizers.iter().flatten().next().is_some()
        });
        prop_assert_eq!(held.count(), 0, "no pod keeps its finalizer");
    }
}
