//! Watches that are useless.

use std::time::Instant;

use crate::{cluster::Cluster, line::Fault};

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn watches_that_end_in_a_loop_are_reopened_at_leisure_and_nothing_is_missed() {
    let cluster = Cluster::start("watches");
    cluster.install("default", "shop", 20);
    let run = cluster.run("run", "15s");
    cluster.reach("default", "shop", "Initialized");
    cluster.line.set(Fault { no_watch: Some("/deployments?"), ..Fault::default() });
    let began = Instant::now();
    cluster.release("default", "shop", 2);
    // Not even what nobody is told by a watch is missed: objects are listed instead.
    cluster.reach("default", "shop", "Succeeded");
    assert_eq!(cluster.weights("default", "shop"), [0, 10, 20, 0]);
    let asked = cluster.line.asked_at_leisure(began);
    let watches = asked.iter().filter(|asked| asked.target.contains("/deployments?"));
    assert!(watches.count() > 1, "{asked:#?}");
    // Said once, not at each attempt.
    let said = run.stderr();
    let told = said.lines().filter(|line| line.contains("the watch ended at once")).count();
    assert!((1..=5).contains(&told), "{told} times: {said}");

    cluster.line.set(Fault::default());
    cluster.release("default", "shop", 3);
    cluster.reach("default", "shop", "Progressing");
    cluster.has_kept_its_secret();
}

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn a_good_version_is_not_rolled_back_because_every_watch_ends_in_a_loop() {
    let cluster = Cluster::start("every_watch");
    cluster.install("default", "shop", 20);
    let _run = cluster.run("run", "15s");
    cluster.reach("default", "shop", "Initialized");
    cluster.line.set(Fault { no_watch: Some("/"), ..Fault::default() });
    let began = Instant::now();
    cluster.release("default", "shop", 2);
    // The checks come every 10 s, the lists of one kind every half minute or so: decisions are made
    // on what the server has.
    cluster.reach("default", "shop", "Succeeded");
    assert_eq!(cluster.weights("default", "shop"), [0, 10, 20, 0]);
    // There are many things to ask for: what they ask for together is still little.
    cluster.line.asked_at_leisure(began);
    cluster.has_kept_its_secret();
}
