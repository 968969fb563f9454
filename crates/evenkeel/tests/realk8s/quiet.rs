//! The requests of the controllers to the API server when nothing happens, and when something does.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use evenkeel_api::{Obj, canary::Canary, slo::PrometheusServiceLevel};
use serde_json::json;

use crate::{
    audit::{self, Request, Tally},
    bed::Bed,
    figure,
    objects::{canary, deployment, slo, slo_key},
    process::Evenkeel,
    releases::Stage,
    until,
};

/// Canaries, and SLOs, of the larger test.
const EACH: usize = 50;
/// How long requests are counted.
const WINDOW: Duration = Duration::from_secs(20);

/// Requests that come within a while.
fn within(bed: &Bed, run: &Evenkeel, window: Duration) -> Vec<Request> {
    let before = audit::requests(bed, &run.user).len();
    // Not to wait for something: this is the time over which is counted.
    std::thread::sleep(window);
    audit::requests(bed, &run.user).split_off(before)
}

fn per_second(requests: &[Request]) -> f64 {
    let count = u32::try_from(requests.len()).unwrap();
    f64::from(count) / WINDOW.as_secs_f64()
}

/// Waits until the controllers have written everything.
fn settled(bed: &Bed, run: &Evenkeel) {
    until("requests become few", || {
        let requests = within(bed, run, Duration::from_secs(3));
        requests.iter().filter(|request| request.resource != "leases").count() < 10
    });
}

/// What is asked while nothing happens.
fn at_rest(stage: &Stage, what: &str) -> Vec<Request> {
    settled(&stage.bed, &stage.run);
    let cpu = stage.run.cpu_seconds();
    let requests = within(&stage.bed, &stage.run, WINDOW);
    let cpu = (stage.run.cpu_seconds() - cpu) / WINDOW.as_secs_f64() * 100.0;
    let (rate, tally) = (per_second(&requests), Tally::of(&requests));
    figure(&format!("{what} at rest: {rate:.2} requests/s, {cpu:.1} % of a core;{tally}"));
    requests
}

#[test]
fn two_slos_and_one_canary_at_rest_cost_a_few_requests() {
    let Some(bed) = Bed::take_later() else { return };
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "quiet");
    stage.app(ns);
    for name in ["first", "second"] {
        bed.create(slo(ns, name));
        until("the SLO is looked at", || {
            bed.field(&slo_key(ns, name), "/status/slos/0") != json!(null)
        });
    }
    let requests = at_rest(&stage, "2 SLOs, 1 Canary");
    assert!(per_second(&requests) < 5.0, "{}", Tally::of(&requests));
    let agents: BTreeSet<_> = requests.iter().map(|request| &*request.agent).collect();
    assert_eq!(
        agents,
        BTreeSet::from([concat!("evenkeel/", env!("CARGO_PKG_VERSION"), " delivery,slo")])
    );
    a_release_at_work(&stage, ns);
}

fn a_release_at_work(stage: &Stage, ns: &str) {
    let bed = &stage.bed;
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let requests = within(bed, &stage.run, WINDOW);
    let gets =
        requests.iter().filter(|request| request.verb == "get" && request.resource != "leases");
    let gets = gets.count() * 60 / usize::try_from(WINDOW.as_secs()).unwrap();
    figure(&format!(
        "1 Canary in a release: {:.2} requests/s, {gets} GETs a minute;{}",
        per_second(&requests),
        Tally::of(&requests)
    ));
    assert!(per_second(&requests) < 10.0, "{}", Tally::of(&requests));
}

#[test]
fn fifty_canaries_and_fifty_slos_at_rest_cost_a_few_requests() {
    let Some(bed) = Bed::take() else { return };
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "many");
    all_begin(&stage, ns);
    let requests = at_rest(&stage, "50 Canaries, 50 SLOs");
    assert!(per_second(&requests) < 10.0, "{}", Tally::of(&requests));

    let window = Duration::from_secs(4);
    for name in ["first", "second"] {
        let before = stage.run.cpu_seconds();
        bed.create(json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": ns}, "data": {"a": "1"}}));
        let requests = within(bed, &stage.run, window);
        let cpu = stage.run.cpu_seconds() - before;
        let (count, tally) = (requests.len(), Tally::of(&requests));
        figure(&format!(
            "one ConfigMap written there: {count} requests in 4 s, {cpu:.2} s of a core;{tally}"
        ));
        assert!(count < 30, "{tally}");
    }
}

/// Creates all of them, and waits until each is initialised.
fn all_begin(stage: &Stage, ns: &str) {
    let bed = &stage.bed;
    bed.namespace(ns);
    for n in 0..EACH {
        let name = format!("app-{n}");
        bed.create(deployment(ns, &name, "web:1", 1));
        bed.create(canary(ns, &name, &json!({})));
        bed.create(slo(ns, &name));
    }
    let took = until("all are initialised", || {
        let all = bed.list::<Canary>(ns);
        all.iter().filter(|canary| canary.json()["status"]["phase"] == "Initialized").count()
            == EACH
    });
    let until_now = audit::requests(bed, &stage.run.user);
    figure(&format!(
        "50 Canaries and 50 SLOs made and initialised in {:.0} s;{}",
        took.as_secs_f64(),
        Tally::of(&until_now)
    ));
    let took = until("all budgets are known", || {
        let all = bed.list::<PrometheusServiceLevel>(ns);
        let known = |slo: &&Arc<Obj>| slo.json().pointer("/status/slos/0").is_some();
        all.iter().filter(known).count() == EACH
    });
    let until_now = audit::requests(bed, &stage.run.user);
    figure(&format!(
        "all 50 budgets known {:.0} s later;{}",
        took.as_secs_f64(),
        Tally::of(&until_now)
    ));
}
