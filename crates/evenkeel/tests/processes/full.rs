//! The disk with the record is full.

use crate::cluster::{Cluster, soon};

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn on_a_full_disk_nothing_acts_unrecorded_and_work_goes_on_once_there_is_room() {
    let cluster = Cluster::start("full");
    // Without a key nothing can be recorded, so nothing starts.
    let complaint = cluster.starved_run();
    let named = complaint.contains("audit key ") && complaint.contains("data/keys/audit.key");
    assert!(named && complaint.contains("File too large"), "{complaint}");

    cluster.install("default", "shop", 20);
    let run = cluster.run("run", "15s");
    cluster.reach("default", "shop", "Initialized");
    // Its log is on the same disk.
    run.fill_disk(true);
    cluster.release("default", "shop", 2);
    soon(|| !cluster.flags("default", "shop").is_empty());
    let [kind, _, message] = cluster.flags("default", "shop").pop().unwrap();
    let words = "the audit record cannot be written (File too large";
    assert!(kind == "Held" && message.contains(words), "{kind}: {message}");
    assert!(message.contains("free disk space or repair DATA-DIR/audit"), "{message}");
    let (text, _) = cluster.why("default", "shop", "table");
    assert!(text.contains(words), "{text}");
    assert!(!run.metrics().is_empty());
    assert_eq!(cluster.weights("default", "shop"), [0]);

    run.fill_disk(false);
    cluster.reach("default", "shop", "Succeeded");
    assert_eq!(cluster.weights("default", "shop"), [0, 10, 20, 0]);
    soon(|| cluster.flags("default", "shop").is_empty());
    assert!(!run.stderr().contains("panicked"), "{}", run.stderr());
    assert!(cluster.audit(&run.data(), &["verify"]).contains("intact"));
    // Every weight has its line, in full although nobody looks at it.
    let list = cluster.audit(&run.data(), &["list", "--object", "canaries/shop"]);
    let done = |weights: &str| {
        let row = |line: &&str| line.contains(weights) && line.contains(" done ");
        assert_eq!(list.lines().filter(row).count(), 1, "{weights}: {list}");
    };
    done("weights primary=90 canary=10");
    done("weights primary=80 canary=20");
    assert!(!list.contains('…'), "{list}");
    cluster.has_kept_its_secret();
}
