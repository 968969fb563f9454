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
    has_every_family(&run.metrics());

    cluster.line.set(Fault::default());
    cluster.reach("prod", "shop", "Failed");
    assert_eq!(cluster.weights("prod", "shop"), [0, 10, 0]);
    soon(|| cluster.flags("prod", "shop").is_empty());
    cluster.has_kept_its_secret();
}

/// What a person needs who asks what a process does: each with at least one line of figures.
fn has_every_family(metrics: &str) {
    let families = [
        "evenkeel_passes_total{controller=\"delivery\"",
        "evenkeel_pass_seconds_total{controller=\"delivery\"",
        "evenkeel_plans_total{controller=\"delivery\"",
        "evenkeel_actions_total{controller=\"delivery\"",
        "evenkeel_verdicts_total{policy=\"\",verdict=\"allow\"",
        "evenkeel_queue_depth{controller=\"delivery\"",
        "evenkeel_leader{lease=",
        "evenkeel_api_requests_total{verb=\"get\"",
        "evenkeel_api_requests_total{verb=\"patch\"",
        "evenkeel_api_failures_total ",
        "evenkeel_api_silences_total ",
        "evenkeel_api_reconnects_total ",
        "evenkeel_api_watches_total ",
        "evenkeel_api_relists_total ",
        "evenkeel_cache_reads_total{from=\"cache\"",
        "evenkeel_cache_objects{query=",
        "evenkeel_cache_fresh{query=",
        // No watch of a controller has broken off.
        "# TYPE evenkeel_watch_restarts_total counter",
    ];
    for family in families {
        assert!(metrics.lines().any(|line| line.starts_with(family)), "{family}: {metrics}");
    }
}
