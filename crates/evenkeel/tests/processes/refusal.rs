//! The API server forbids some writes.

use std::time::Instant;

use crate::{
    cluster::{Cluster, soon},
    line::Fault,
};

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn a_write_that_is_forbidden_is_said_and_tried_again_while_others_go_on() {
    let cluster = Cluster::start("refusal");
    cluster.namespace("prod");
    cluster.install("prod", "shop", 20);
    cluster.install("default", "other", 20);
    cluster.prometheus.spoil("prod");
    let run = cluster.run("run", "15s");
    cluster.reach("prod", "shop", "Initialized");
    cluster.reach("default", "other", "Initialized");
    cluster.release("prod", "shop", 2);
    cluster.release("default", "other", 2);
    cluster.reach_weight("prod", "shop", 10);
    // A rollback is due, and a role in its namespace does not allow it.
    let forbidden = Some("/namespaces/prod/httproutes/");
    cluster.line.set(Fault { forbidden, ..Fault::default() });
    let began = Instant::now();
    soon(|| !cluster.flags("prod", "shop").is_empty());
    cluster.reach("default", "other", "Succeeded");
    let asked = cluster.line.asked_at_leisure(began);
    let refused =
        asked.iter().filter(|asked| asked.target.contains("/namespaces/prod/httproutes/"));
    assert!(refused.count() > 1, "not tried again: {asked:#?}");

    assert_eq!(cluster.weights("prod", "shop").last(), Some(&10));
    assert_eq!(cluster.weights("default", "other"), [0, 10, 20, 0]);
    let [kind, reason, message] = cluster.flags("prod", "shop").pop().unwrap();
    assert_eq!((&*kind, &*reason), ("Stalled", "Refused"));
    let words = "cannot patch resource \"httproutes\" in API group \
        \"gateway.networking.k8s.io\" in the namespace \"prod\"";
    assert!(message.contains(words), "{message}");
    let (text, _) = cluster.why("prod", "shop", "table");
    assert!(text.contains(words), "{text}");
    assert!(run.metrics().contains("result=\"refused\""), "{}", run.metrics());

    cluster.line.set(Fault::default());
    cluster.reach("prod", "shop", "Failed");
    assert_eq!(cluster.weights("prod", "shop"), [0, 10, 0]);
    soon(|| cluster.flags("prod", "shop").is_empty());
    cluster.has_kept_its_secret();
}
