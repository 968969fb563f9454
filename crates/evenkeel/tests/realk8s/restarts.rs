//! An API server that is killed, upgraded, or forgets; one of its extensions that is away, and a
//! namespace that goes.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_api::{GroupKind, Key};
use serde_json::json;

use crate::{
    audit,
    bed::Bed,
    figure,
    gateways::Gateways,
    install::kubectl,
    objects::{APP, deployment_key},
    peers,
    process::{Evenkeel, Start, port_of},
    prometheus::Prometheus,
    releases::Stage,
    servers::{Killed, Replaced, compact},
    until,
    wire::Wire,
};

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(30);

#[test]
fn an_api_server_killed_for_30_s_and_a_history_it_has_forgotten_lose_no_step() {
    let Some(bed) = Bed::take() else { return };
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "killed");
    // The gateway hears of the server's return when it likes, and until then confirms nothing.
    stage.app_with(ns, &json!({"maxWeight": 30, "threshold": 12}));
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let killed = Killed::server_of(bed);
    // Not to wait for something: this is how long the fault lasts.
    std::thread::sleep(AWAY);
    compact();
    killed.start_again();
    let asked = audit::requests(bed, &stage.run.user).len();
    let healed = until("it writes again", || {
        let all = audit::requests(bed, &stage.run.user);
        let late = all.get(asked..).unwrap_or_default();
        late.iter().any(|request| request.resource == "canaries/status" && request.code == 200)
    });
    bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 20, 30, 0]);
    let expired = audit::requests(bed, &stage.run.user);
    let expired = expired.iter().filter(|request| request.code == 410).count();
    let listed = stage.run.metric("evenkeel_api_relists_total");
    figure(&format!(
        "API server killed for 30 s: next status written {:.1} s after it was ready again, \
         {expired} requests answered with 410, {listed} kinds listed again",
        healed.as_secs_f64()
    ));
    assert!(listed >= 1.0, "the server remembered all: this test tests nothing");
}

/// As `tests/realk8s/build --newer` calls it.
const NEWER: &str = "kube-apiserver-newer";

#[test]
fn an_api_server_upgraded_in_a_release_loses_no_step() {
    let Some(bed) = Bed::take() else { return };
    let Some(newer) = peers::file(NEWER) else { return };
    let version = || kubectl(&bed, &["get", "--raw", "/version"], b"");
    let before = version();
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let ns = "upgraded";
    let run = Evenkeel::start(&bed, &Start::with(&prometheus.url));
    // The gateway hears of the server's return when it likes, and until then confirms nothing.
    bed.app(ns, &json!({"maxWeight": 30, "threshold": 12}));
    bed.reaches(ns, "Initialized");
    gateways.forget_before(ns);
    bed.release(ns, "web:2");
    until("it has begun", || gateways.weights(ns).contains(&10));
    let asked = audit::requests(&bed, &run.user).len();
    let newer = newer.to_str().unwrap().to_owned();
    let replaced = Replaced::with(&bed, |words| {
        let program = words.iter_mut().find(|word| word.ends_with("/kube-apiserver")).unwrap();
        *program = newer;
    });
    let healed = until("it writes again", || {
        let all = audit::requests(&bed, &run.user);
        let late = all.get(asked..).unwrap_or_default();
        late.iter().any(|request| request.resource == "canaries/status" && request.code == 200)
    });
    let after = version();
    assert_ne!(before, after);
    bed.reaches(ns, "Succeeded");
    gateways.saw(ns, &[0, 10, 20, 30, 0]);
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    let minor = |version: &str| {
        let version: serde_json::Value = serde_json::from_str(version).unwrap();
        version["gitVersion"].as_str().unwrap().to_owned()
    };
    figure(&format!(
        "API server upgraded in a release from {} to {}: next status written {:.1} s after it was \
         ready",
        minor(&before),
        minor(&after),
        healed.as_secs_f64()
    ));
    // And back, with what the newer one has stored.
    drop(replaced);
    assert_eq!(version(), before);
    bed.release(ns, "web:3");
    bed.reaches(ns, "Progressing");
    bed.reaches(ns, "Succeeded");
    assert_eq!(bed.image(ns, "web-primary"), "web:3");
}

/// Lists of one kind, after all watches have found their history forgotten.
const LISTS_MAX: usize = 2;

#[test]
fn a_history_that_etcd_has_compacted_is_listed_again_once_and_nothing_is_lost() {
    let Some(bed) = Bed::take() else { return };
    // Without its cache the server asks etcd for what was.
    let _replaced = Replaced::with(&bed, |words| words.push("--watch-cache=false".to_owned()));
    let wire = Wire::to(&bed, port_of(&std::fs::read_to_string(bed.file("kubeconfig")).unwrap()));
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let ns = "compacted";
    let start = Start { through: Some(wire.port), ..Start::with(&prometheus.url) };
    let run = Evenkeel::start(&bed, &start);
    bed.app(ns, &json!({"maxWeight": 10}));
    bed.reaches(ns, "Initialized");
    gateways.forget_before(ns);
    wire.take_down();
    bed.release(ns, "web:2");
    compact();
    let asked = audit::requests(&bed, &run.user).len();
    let before = run.metric("evenkeel_api_relists_total");
    wire.bring_up();
    bed.reaches(ns, "Succeeded");
    gateways.saw(ns, &[0, 10, 0]);
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    let listed = run.metric("evenkeel_api_relists_total") - before;
    let mut lists = BTreeMap::<String, usize>::new();
    for request in audit::requests(&bed, &run.user).split_off(asked) {
        if request.verb == "list" {
            *lists.entry(request.resource).or_default() += 1;
        }
    }
    figure(&format!(
        "etcd compacted while watches were cut: {listed} kinds listed again: {lists:?}"
    ));
    assert!(listed >= 1.0, "the server remembered all: this test tests nothing");
    assert!(lists.values().all(|count| *count <= LISTS_MAX), "{lists:?}");
}

#[test]
fn an_extension_of_the_api_without_a_server_disturbs_no_release() {
    let Some(bed) = Bed::take_later() else { return };
    let service = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
        "metadata": {"name": "v1.away.example.com"},
        "spec": {"group": "away.example.com", "version": "v1", "groupPriorityMinimum": 1000,
            "versionPriority": 10, "insecureSkipTLSVerify": true,
            "service": {"name": "away", "namespace": "default"}}});
    let service = bed.put(&service);
    until("it is found to be away", || bed.condition(&service, "Available")["status"] == "False");
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "extension");
    stage.app_with(ns, &json!({"maxWeight": 10}));
    bed.release(ns, "web:2");
    bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 0]);
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    bed.delete(&service);
}

#[test]
fn a_namespace_deleted_in_a_release_goes_and_others_go_on() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "doomed");
    stage.app(ns);
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let namespace = Key::new(GroupKind::new("", "Namespace"), "", ns);
    bed.delete(&namespace);
    let took = until("the namespace is gone", || bed.get(&namespace).is_none());
    figure(&format!("a namespace deleted in a release was gone after {:.0} s", took.as_secs_f64()));
    assert!(bed.get(&deployment_key(ns, APP)).is_none());
    // What was under way may still come; then nothing is asked any more.
    until("nothing is asked there any more", || {
        let asked = audit::requests(bed, &stage.run.user).len();
        // Not to wait for something: in this time nothing shall be asked.
        std::thread::sleep(Duration::from_secs(5));
        let all = audit::requests(bed, &stage.run.user);
        !all[asked..].iter().any(|request| request.namespace == ns)
    });

    // A namespace of the same name is a new one.
    stage.app_with(ns, &json!({"maxWeight": 10}));
    bed.release(ns, "web:3");
    bed.reaches(ns, "Succeeded");
}
