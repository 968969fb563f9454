//! The API server, or the network before it, takes everything and answers nothing.

use std::time::Duration;

use crate::{cluster::Cluster, line::Fault};

/// How long nothing is answered. Shorter, and no limit of a request would run out.
const SILENCE: Duration = Duration::from_mins(1);

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn a_black_holed_api_server_for_a_minute_costs_a_minute() {
    let cluster = Cluster::start("silence");
    cluster.install("default", "shop", 20);
    let run = cluster.run("run", "15s");
    cluster.reach("default", "shop", "Initialized");
    cluster.release("default", "shop", 2);
    cluster.reach_weight("default", "shop", 10);
    cluster.line.set(Fault { silent: true, ..Fault::default() });
    // Nothing is waited for here: a minute of silence is what is tested.
    std::thread::sleep(SILENCE);
    let asked = cluster.line.unanswered();
    // Two a second would be 120.
    assert!((1..120).contains(&asked), "{asked} connections and requests in {SILENCE:?}");
    // A pass may have been under way, or not; that nobody leads is so either way.
    let (text, _) = cluster.why("default", "shop", "table");
    assert!(text.contains("nobody acts until a process reaches the API server"), "{text}");
    assert!(run.stderr().contains("lease not renewed"), "{}", run.stderr());
    assert!(run.stderr().contains("leadership lost: this process acts no more"));
    let metrics = run.metrics();
    let leads = "evenkeel_leader{lease=\"Lease/default/evenkeel-delivery\"} 0";
    assert!(metrics.contains(leads), "{metrics}");
    // The renewals of two Leases, which gave up early, and the watches.
    let failed = metrics.lines().find_map(|line| line.strip_prefix("evenkeel_api_failures_total "));
    assert!(failed.unwrap().parse::<u32>().unwrap() > 10, "{metrics}");
    assert_eq!(cluster.weights("default", "shop"), [0, 10]);
    cluster.line.set(Fault::default());
    cluster.reach("default", "shop", "Succeeded");
    let (text, _) = cluster.why("default", "shop", "table");
    assert!(!text.contains("nobody acts"), "{text}");
    assert_eq!(cluster.weights("default", "shop"), [0, 10, 20, 0]);
    assert_eq!(cluster.flags("default", "shop"), [] as [[String; 3]; 0]);
    cluster.has_kept_its_secret();
}
