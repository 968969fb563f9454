//! Beside Flagger and Sloth: evenkeel watches and predicts, takes one Canary over, releases, and
//! gives it back, and no pod notices.

use evenkeel_api::{Key, beside, canary::Canary, slo::PrometheusRule};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use serde_json::{Value, json};

use crate::{
    audit::requests,
    bed::Bed,
    figure,
    gateways::Gateways,
    objects::{APP, canary_key, deployment_key, route_key, slo, slo_key, weight},
    peers::{Definitions, OF_SLOTH, Peer},
    process::{Evenkeel, Start, why},
    prometheus::Prometheus,
    until,
};

/// All that a change of hands must leave as it is: what runs, and where traffic goes.
fn footprint(bed: &Bed, ns: &str) -> Value {
    let pods = bed.list::<Pod>(ns);
    let pods: Vec<Value> = pods.iter().map(|pod| json!([pod.name(), pod.uid()])).collect();
    let deployments = bed.list::<Deployment>(ns);
    let deployments = deployments.iter().map(|deployment| {
        let body = deployment.json();
        json!([
            deployment.name(),
            body["metadata"]["generation"],
            body["spec"]["template"],
            body["metadata"]["annotations"],
            body["metadata"]["labels"]
        ])
    });
    let services = bed.list::<Service>(ns);
    let services = services.iter().map(|one| json!([one.name(), one.json()["spec"]]));
    let route = bed.get(&route_key(ns, APP)).map(|route| weight(route.json()));
    json!({"pods": pods, "deployments": deployments.collect::<Vec<_>>(),
        "services": services.collect::<Vec<_>>(), "weight": route})
}

/// All that a client has written but its Leases.
fn written(bed: &Bed, run: &Evenkeel) -> Vec<String> {
    let all = requests(bed, &run.user).into_iter();
    let writes = all.filter(|request| !["get", "list", "watch"].contains(&&*request.verb));
    let writes = writes.filter(|request| request.resource != "leases");
    writes.map(|request| format!("{} {}", request.verb, request.resource)).collect()
}

fn says(bed: &Bed, canary: &Key, words: &str) -> bool {
    bed.condition(canary, "Accepted")["message"].as_str().is_some_and(|text| text.contains(words))
}

fn mark(value: Option<&str>, suspend: bool) -> Value {
    json!({"metadata": {"annotations": {beside::MANAGED: value}}, "spec": {"suspend": suspend}})
}

fn kept(bed: &Bed, key: &Key) -> bool {
    let obj = bed.get(key).unwrap();
    beside::annotation(obj.json(), beside::STATUS).is_some()
}

/// A cluster that is Flagger's, with an application that it has initialized.
struct Theirs<'a> {
    bed: &'a Bed,
    ns: &'static str,
    canary: Key,
    run: Evenkeel,
    gateways: Gateways,
}

impl Theirs<'_> {
    /// Nothing is written, and what would be is shown.
    fn is_only_observed(&self) {
        let (bed, ns) = (self.bed, self.ns);
        let before = footprint(bed, ns);
        bed.create(slo(ns, APP));
        // The Canary by two controllers, and the SLO.
        // An object counts as observed before the first prediction about it is made.
        until("all are predicted", || self.run.metric("evenkeel_predictions_total") >= 3.0);
        assert!(self.run.metric("evenkeel_observed_objects") >= 3.0);
        let said = why(bed, &format!("canary/{APP}"), ns);
        assert!(said.contains("only observed") && said.contains("would RevisionAdopted"), "{said}");
        figure(&format!("what `evenkeel why` says of a Canary of Flagger:\n{said}"));
        let said = why(bed, &format!("slo/{APP}"), ns);
        assert!(said.contains("would RulesChanged"), "{said}");
        assert_eq!(written(bed, &self.run), [] as [&str; 0]);
        assert_eq!(footprint(bed, ns), before);
        assert!(bed.field(&canary_key(ns, APP), "/metadata/annotations").is_null());
    }

    /// A Canary that Flagger has not been told to leave alone is not touched.
    fn is_refused_in_both_hands(&self) {
        let (bed, ns) = (self.bed, self.ns);
        let before = footprint(bed, ns);
        bed.patch(&self.canary, mark(Some("true"), false));
        until("it is refused", || says(bed, &self.canary, "set spec.suspend: true"));
        assert_eq!(footprint(bed, ns), before);
    }

    fn is_handed_over(&self) {
        let (bed, ns) = (self.bed, self.ns);
        let before = footprint(bed, ns);
        bed.patch(&self.canary, mark(Some("true"), true));
        let ours = || bed.field(&self.canary, "/status/lastPromotedSpec");
        let took = until("it is taken over", || {
            ours().as_str().is_some_and(|revision| revision.starts_with("ek1-"))
                && bed.condition(&self.canary, "Accepted").is_null()
        });
        figure(&format!("taking a Canary over took {:.1} s", took.as_secs_f64()));
        let said = || why(bed, &format!("canary/{APP}"), ns);
        until("there is nothing to do", || said().contains("delivery: NothingNew"));
        assert!(kept(bed, &self.canary), "the bookkeeping is in the annotation");
        assert_eq!(footprint(bed, ns), before);
    }

    fn is_released_by_us(&self) {
        let (bed, ns) = (self.bed, self.ns);
        self.gateways.forget_before(ns);
        let seen = requests(bed, &self.run.user).len();
        bed.release(ns, "web:2");
        bed.reaches(ns, "Progressing");
        bed.reaches(ns, "Succeeded");
        self.gateways.saw(ns, &[0, 10, 20, 30, 40, 50, 0]);
        assert_eq!(bed.image(ns, "web-primary"), "web:2");
        let made = requests(bed, &self.run.user).split_off(seen);
        let made = made.iter().filter(|one| !["leases"].contains(&&*one.resource)).count();
        figure(&format!("a release of five steps under Flagger's definition: {made} requests"));
    }

    fn is_handed_back(&self) {
        let (bed, ns) = (self.bed, self.ns);
        // The target was scaled to zero at the end of the release.
        until("its pods are gone", || bed.list::<Pod>(ns).len() == 1);
        let before = footprint(bed, ns);
        bed.patch(&self.canary, mark(None, false));
        let took = until("Flagger has it back", || {
            let status = bed.field(&self.canary, "/status");
            let theirs = status["lastAppliedSpec"]
                .as_str()
                .is_some_and(|revision| !revision.is_empty() && !revision.starts_with("ek1-"));
            theirs && status["phase"] == "Initialized" && !kept(bed, &self.canary)
        });
        figure(&format!("handing it back took {:.1} s", took.as_secs_f64()));
        assert_eq!(footprint(bed, ns), before);
        let canary = bed.get(&self.canary).unwrap();
        let left = canary.json().to_string();
        assert!(!left.contains("evenkeel"), "{left}");
        // Flagger goes on.
        bed.patch(&self.canary, json!({"spec": {"skipAnalysis": true}}));
        bed.release(ns, "web:3");
        until("Flagger releases", || bed.image(ns, "web-primary") == "web:3");
    }
}

#[test]
fn a_canary_of_flagger_is_watched_taken_over_released_and_given_back() {
    let Some(bed) = Bed::take_later() else { return };
    let Some(_definitions) = Definitions::install(&bed) else { return };
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let Some(_flagger) = Peer::flagger(&bed, &prometheus.url) else { return };
    let ns = "beside";
    let canary = bed.app(ns, &json!({}));
    bed.reaches(ns, "Initialized");
    until("the target has no pod", || {
        bed.field(&deployment_key(ns, APP), "/status/replicas").as_u64().unwrap_or_default() == 0
    });
    until("its pods are gone", || bed.list::<Pod>(ns).len() == 1);
    let run = Evenkeel::start(&bed, &Start::with(&prometheus.url));
    let theirs = Theirs { bed: &bed, ns, canary, run, gateways };
    theirs.is_only_observed();
    theirs.is_refused_in_both_hands();
    theirs.is_handed_over();
    theirs.is_released_by_us();
    theirs.is_handed_back();
}

#[test]
fn an_slo_under_sloths_definition_is_handed_over_and_back() {
    let Some(bed) = Bed::take_later() else { return };
    let Some(_definitions) = Definitions::install(&bed) else { return };
    let prometheus = Prometheus::start();
    let ns = "sloth";
    bed.namespace(ns);
    let level = bed.create(slo(ns, APP));
    let run = Evenkeel::start(&bed, &Start::with(&prometheus.url));
    until("it is observed", || run.metric("evenkeel_observed_objects") >= 1.0);
    let rules = Key::of::<PrometheusRule>(ns, APP);
    assert!(bed.get(&rules).is_none());
    let marked =
        |value: Option<&str>| json!({"metadata": {"annotations": {beside::MANAGED: value}}});
    bed.patch(&level, marked(Some("true")));
    until("it has rules", || bed.get(&rules).is_some());
    until("it has conditions, in the annotation", || {
        !bed.condition(&level, "RulesInstalled").is_null() && kept(&bed, &level)
    });
    assert_eq!(bed.field(&slo_key(ns, APP), "/status/processedSLOs"), 1);
    bed.patch(&level, marked(None));
    until("it is given back", || !kept(&bed, &level));
    let left = bed.get(&level).unwrap().json().to_string();
    assert!(!left.contains("evenkeel"), "{left}");
    assert!(bed.list::<Canary>(ns).is_empty());
}

/// Takes an SLO from Sloth or gives it back, and hands it over to evenkeel or takes it back.
fn hand(sloth: bool, evenkeel: bool) -> Value {
    json!({"metadata": {"labels": {OF_SLOTH: sloth.then_some("true")},
        "annotations": {beside::MANAGED: evenkeel.then_some("true")}}})
}

#[test]
fn an_slo_of_sloth_is_watched_taken_over_and_given_back() {
    let Some(bed) = Bed::take_later() else { return };
    let Some(_definitions) = Definitions::install(&bed) else { return };
    let Some(_sloth) = Peer::sloth(&bed) else { return };
    let (prometheus, ns) = (Prometheus::start(), "of-sloth");
    bed.namespace(ns);
    let level = bed.create(slo(ns, APP));
    bed.patch(&level, hand(true, false));
    let rules = Key::of::<PrometheusRule>(ns, APP);
    until("Sloth has made its rules", || bed.get(&rules).is_some());
    until("and said so", || bed.field(&level, "/status/promOpRulesGenerated") == true);
    let groups = || bed.field(&rules, "/spec/groups");
    let theirs = (groups(), bed.field(&level, "/status"));

    let run = Evenkeel::start(&bed, &Start::with(&prometheus.url));
    until("it is predicted", || run.metric("evenkeel_predictions_total") >= 1.0);
    let said = why(&bed, &format!("slo/{APP}"), ns);
    assert!(said.contains("only observed") && said.contains("would RulesChanged"), "{said}");
    figure(&format!("what `evenkeel why` says of an SLO of Sloth:\n{said}"));
    assert_eq!(written(&bed, &run), [] as [&str; 0]);
    assert_eq!((groups(), bed.field(&level, "/status")), theirs);

    bed.patch(&level, hand(false, true));
    let version = format!("\"sloth_version\":\"{}\"", env!("CARGO_PKG_VERSION"));
    until("the rules are evenkeel's, in place", || groups().to_string().contains(&version));
    until("it is counted", || !bed.condition(&level, "RulesInstalled").is_null());
    let ours = groups();
    let records = |groups: &Value| groups.to_string().matches("\"record\"").count();
    assert_eq!(records(&ours), records(&theirs.0), "as many rules as Sloth makes");

    bed.patch(&level, hand(true, false));
    until("it is given back", || !kept(&bed, &level));
    let left = bed.get(&level).unwrap().json().to_string();
    assert!(!left.contains("evenkeel"), "{left}");
    let seen = written(&bed, &run).len();
    // Sloth goes on.
    let mut spec = bed.field(&level, "/spec");
    spec["slos"][0]["objective"] = json!(99.0);
    bed.patch(&level, json!({"spec": spec}));
    until("Sloth has its rules back", || {
        let now = groups();
        now != ours && !now.to_string().contains(&version)
    });

    // And what belongs to Sloth is Sloth's to remove, or the cluster's.
    bed.delete(&level);
    until("the rules are gone with the SLO", || bed.get(&rules).is_none());
    assert_eq!(written(&bed, &run)[seen..], [] as [&str; 0]);
}
