//! An API server that is killed, one of its extensions that is away, and a namespace that goes.

use std::time::Duration;

use evenkeel_api::{GroupKind, Key};
use serde_json::json;

use crate::{
    audit,
    bed::Bed,
    figure,
    objects::{APP, deployment_key},
    releases::Stage,
    servers::Killed,
    until,
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
    killed.compact();
    killed.start_again();
    let asked = audit::requests(bed, &stage.run.user).len();
    let healed = until("it writes again", || {
        let all = audit::requests(bed, &stage.run.user);
        let late = all.get(asked..).unwrap_or_default();
        late.iter().any(|request| request.resource == "canaries/status" && request.code == 200)
    });
    bed.reaches(ns, "Succeeded");
    assert_eq!(stage.gateways.weights(ns), [0, 10, 20, 30, 0]);
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
    assert_eq!(stage.gateways.weights(ns), [0, 10, 0]);
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
    let asked = audit::requests(bed, &stage.run.user).len();
    // Not to wait for something: in this time nothing shall be asked.
    std::thread::sleep(Duration::from_secs(5));
    let all = audit::requests(bed, &stage.run.user);
    let late: Vec<_> = all[asked..].iter().filter(|request| request.namespace == ns).collect();
    assert!(late.is_empty(), "{late:?}");

    // A namespace of the same name is a new one.
    stage.app_with(ns, &json!({"maxWeight": 10}));
    bed.release(ns, "web:3");
    bed.reaches(ns, "Succeeded");
}
