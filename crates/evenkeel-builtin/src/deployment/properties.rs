use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{Key, Obj};
use k8s_openapi::{
    api::{apps::v1::Deployment, core::v1::Pod},
    apimachinery::pkg::util::intstr::IntOrString,
};
use proptest::prelude::*;
use serde_json::json;

use super::sets::Limits;
use crate::{
    pods,
    testing::{Cluster, deployment, node},
};

fn share() -> impl Strategy<Value = IntOrString> {
    prop_oneof![
        (0..4_i32).prop_map(IntOrString::Int),
        (0..=100_i32).prop_map(|percent| IntOrString::String(format!("{percent}%"))),
    ]
}

/// Never fewer available pods than allowed (unless pods fail by themselves), never more in all.
fn check(objects: &BTreeMap<Key, Arc<Obj>>, limits: Limits) {
    let pods: Vec<Arc<Pod>> = objects.values().filter_map(|obj| obj.get::<Pod>().ok()).collect();
    let active = pods.iter().filter(|pod| pods::is_active(pod));
    let available = active.clone().filter(|pod| pods::is_ready(pod)).count();
    let total = i64::try_from(active.count()).unwrap();
    let available = i64::try_from(available).unwrap();
    assert!(total <= limits.total_max(), "{total} pods of at most {}", limits.total_max());
    let least = limits.available_min();
    assert!(available >= least, "{available} pods available of at least {least}");
}

proptest! {
    // Each case is a whole rollout, or two: few of them, or this takes longer than a second.
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_rollout_stays_within_its_limits_at_every_write(
        replicas in 1..8_i32,
        surge in share(),
        unavailable in share(),
        order in prop::collection::vec((any::<prop::sample::Index>(), 0..10_u8), 1..40),
        versions in prop::collection::vec(0..40_usize, 1..3),
    ) {
        let mut cluster = Cluster::new(7);
        for name in ["n1", "n2"] {
            cluster.world.apply(node(name, "a", ("64", "64Gi")));
        }
        let spec = json!({"replicas": replicas, "strategy": {"type": "RollingUpdate",
            "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}}});
        cluster.world.apply(deployment("web", "web:0", &spec));
        cluster.bring_up();
        let key = Key::of::<Deployment>("shop", "web");
        let limits = Limits::of(&cluster.world.find(&key).unwrap().get::<Deployment>().unwrap());
        cluster.world.checking(move |objects| check(objects, limits));
        let mut version = 0;
        // Pods settle in any order; new versions arrive in between, some in the middle.
        for (step, (pick, ready_chance)) in order.iter().enumerate() {
            if step == 0 || versions.contains(&step) {
                version += 1;
                cluster.world.apply(deployment("web", &format!("web:{version}"), &spec));
            }
            cluster.pass(Duration::from_secs(1));
            let pods = cluster.world.unsettled_pods();
            if !pods.is_empty() {
                let pod = pick.get(&pods);
                cluster.world.run_pod(pod, *ready_chance > 1);
            }
        }
        cluster.bring_up();
        let ready = cluster.world.all("Pod").len();
        prop_assert_eq!(ready, usize::try_from(replicas).unwrap());
        let images: Vec<String> = cluster.world.all("Pod").iter().map(|pod| {
            pod.json().pointer("/spec/containers/0/image").unwrap().as_str().unwrap().to_owned()
        }).collect();
        let image = format!("web:{version}");
        prop_assert!(images.iter().all(|found| *found == image), "{:?}", images);
    }
}
