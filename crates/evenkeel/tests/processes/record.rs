//! The record lies in a database that is not there yet when a process starts.

use std::process::Command;

use evenkeel_guard::SigningKey;
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::{
    cluster::{Cluster, soon},
    database::{Database, PASSWORD},
};

/// What `evenkeel audit` says about the record in the database.
fn audit(database: &Database, words: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.arg("audit").args(words).args(["--record", &database.address()]);
    let answer = command.output().unwrap();
    assert!(answer.status.success(), "audit {words:?}: {answer:?}");
    String::from_utf8(answer.stdout).unwrap()
}

#[test]
#[ignore = "one of `all_at_once`"]
pub(crate) fn a_rollback_that_is_due_is_done_before_the_database_of_the_record_is_there() {
    let Some(mut database) = Database::stopped("run") else { return };
    let cluster = Cluster::start("record");
    for ns in ["bad", "good"] {
        cluster.namespace(ns);
        cluster.install(ns, "shop", 20);
    }
    let before = cluster.run("before", "15s");
    cluster.reach("bad", "shop", "Initialized");
    cluster.reach("good", "shop", "Initialized");
    cluster.release("bad", "shop", 2);
    cluster.reach_weight("bad", "shop", 10);
    before.signal(Signal::SIGTERM);
    soon(|| cluster.leader().is_empty());
    drop(before);

    cluster.prometheus.spoil("bad");
    cluster.release("good", "shop", 2);
    let key_file = database.dir.join("audit.key");
    let key = SigningKey::read_or_create(&key_file).unwrap().public().to_string();
    let run = cluster.run_recording("run", "15s", &database.address(), &key_file);
    cluster.reach_weight("bad", "shop", 0);
    // The step of the other one waits, and says for what.
    let name = "postgres://***@127.0.0.1:";
    let is_held = |flag: &[String; 3]| {
        let [kind, _, message] = flag;
        kind == "Held" && message.contains("cannot be written") && message.contains(name)
    };
    soon(|| cluster.flags("good", "shop").iter().any(is_held));
    assert_eq!(cluster.weights("good", "shop"), [0]);
    assert_eq!(cluster.weights("bad", "shop"), [0, 10, 0]);
    let unready = run.answer("readyz");
    assert!(unready.starts_with("HTTP/1.0 503"), "{unready}");
    assert!(unready.contains(name) && unready.contains(" is away since "), "{unready}");
    assert!(run.answer("healthz").starts_with("HTTP/1.0 200"));
    let metrics = run.metrics();
    let gauge = |line: &&str| line.starts_with("evenkeel_audit_record_away{record=\"postgres://");
    assert!(metrics.lines().find(gauge).unwrap().ends_with(" 1"), "{metrics}");
    assert!(run.stderr().contains("the audit record is away"), "{}", run.stderr());

    database.run();
    cluster.reach("good", "shop", "Succeeded");
    cluster.reach("bad", "shop", "Failed");
    soon(|| run.answer("readyz").starts_with("HTTP/1.0 200"));
    assert!(run.metrics().lines().find(gauge).unwrap().ends_with(" 0"));
    assert_eq!(cluster.weights("good", "shop"), [0, 10, 20, 0]);
    let log = run.end();
    assert!(!log.contains(PASSWORD), "its password is in the log");

    let sound = audit(&database, &["verify", "--key", &key]);
    assert!(sound.contains("intact") && sound.contains("the given key"), "{sound}");
    let list: Value = serde_json::from_str(&audit(&database, &["list", "-o", "json"])).unwrap();
    let lines = |object: &str, words: &str| {
        let is_it = |line: &&Value| {
            let text = |field: &str| line[field].as_str().unwrap_or_default();
            text("object") == object && text("action").contains(words) && text("outcome") == "done"
        };
        let found = list.as_array().unwrap().iter().filter(is_it);
        found.map(|line| line["late"] == true).collect::<Vec<_>>()
    };
    // Each change has its line; that of the rollback came late.
    assert_eq!(lines("Canary/bad/shop", "shop-primary=100 shop-canary=0"), [true], "{list}");
    assert_eq!(lines("Canary/good/shop", "shop-primary=90 shop-canary=10"), [false], "{list}");
    assert_eq!(lines("Canary/good/shop", "shop-primary=80 shop-canary=20"), [false], "{list}");
    cluster.has_kept_its_secret();
}
