//! What the API server refuses is shown on the object, tried again slowly, and heals.

use evenkeel_api::Key;
use evenkeel_control::StoreError;
use k8s_openapi::api::core::v1::{ConfigMap, Pod};
use serde_json::{Value, json};

use crate::{
    audit,
    bed::Bed,
    figure,
    objects::{APP, deployment_key, route_key, weight},
    releases::Stage,
    until,
};

const ADMISSION: &str = "admissionregistration.k8s.io";

fn words(bed: &Bed, key: &Key) -> String {
    let stalled = bed.condition(key, "Stalled");
    stalled["message"].as_str().unwrap_or_default().to_owned()
}

/// Forbids every update of a route in a namespace, and waits until that is in force.
fn forbid_updates(bed: &Bed, ns: &str) -> [Key; 2] {
    let bystander = bed.create(json!({"apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute", "metadata": {"name": "bystander", "namespace": ns}, "spec": {}}));
    let api = format!("{ADMISSION}/v1");
    let policy = bed.create(json!({"apiVersion": api, "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": ns}, "spec": {"failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["gateway.networking.k8s.io"],
                "apiVersions": ["*"], "operations": ["UPDATE"], "resources": ["httproutes"]}]},
            "validations": [{"expression": "false", "message": "routes are frozen"}]}}));
    let binding = bed.create(json!({"apiVersion": api,
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": ns},
        "spec": {"policyName": ns, "validationActions": ["Deny"], "matchResources": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}}}}}));
    let mut tries = 0;
    until("the policy is in force", || {
        tries += 1;
        let touch = json!({"metadata": {"annotations": {"try": tries.to_string()}}});
        matches!(
            bed.try_patch(&bystander, touch),
            Err(StoreError::Refused { .. } | StoreError::Invalid { .. })
        )
    });
    [binding, policy]
}

#[test]
fn a_rollback_that_a_policy_forbids_is_shown_and_done_when_it_is_allowed() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "frozen");
    let canary = stage.app(ns);
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let rules = forbid_updates(bed, ns);
    stage.prometheus.worsen(ns);
    let said = until("the refusal is shown", || words(bed, &canary).contains("routes are frozen"));
    figure(&format!("a forbidden rollback was shown after {:.0} s", said.as_secs_f64()));
    assert_eq!(bed.condition(&canary, "Stalled")["reason"], "Refused");
    let refused = || {
        let all = audit::requests(bed, &stage.run.user);
        let of_route = |request: &audit::Request| {
            request.namespace == ns && request.resource == "httproutes" && request.code >= 400
        };
        all.into_iter().filter(of_route).collect::<Vec<_>>()
    };
    until("it is tried three times", || refused().len() >= 3);
    let tries = refused();
    let gaps: Vec<_> = tries.windows(2).map(|two| two[1].at_ms - two[0].at_ms).collect();
    assert!(gaps.iter().all(|gap| *gap >= 1_500), "pauses in milliseconds: {gaps:?}");
    for rule in &rules {
        bed.delete(rule);
    }
    let healed = until("the rollback is done", || {
        bed.get(&route_key(ns, APP)).is_some_and(|route| weight(route.json()) == 0)
    });
    figure(&format!("and done {:.0} s after it was allowed", healed.as_secs_f64()));
    bed.reaches(ns, "Failed");
    until("the condition goes away", || bed.condition(&canary, "Stalled") == Value::Null);
}

/// Allows no more than this many of something, and waits until that is in force: until one like
/// `probe` is refused.
fn limit(bed: &Bed, ns: &str, what: &str, count: usize, probe: &Value) -> Key {
    let quota = bed.create(json!({"apiVersion": "v1", "kind": "ResourceQuota",
        "metadata": {"name": "tight", "namespace": ns},
        "spec": {"hard": {what: count.to_string()}}}));
    until("the quota is counted", || bed.field(&quota, "/status/hard") != Value::Null);
    // Admission learns of the quota when it likes, and until then allows what is too much.
    until("the quota is in force", || bed.refuses(probe.clone()));
    quota
}

/// Whatever the conditions of an object say.
fn said(bed: &Bed, key: &Key) -> String {
    bed.field(key, "/status/conditions").to_string()
}

#[test]
fn a_quota_that_forbids_pods_of_the_promotion_is_shown_and_the_promotion_goes_on() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "quota-pods");
    let canary = stage.app_with(ns, &json!({"maxWeight": 10}));
    until("the target has no pod", || bed.list::<Pod>(ns).len() == 1);
    // One of the canary is allowed, and no other beside that of the primary.
    let filler = |name: &str| {
        json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": ns},
            "spec": {"terminationGracePeriodSeconds": 0,
                "containers": [{"name": "main", "image": "filler:1"}]}})
    };
    let first = bed.create(filler("first"));
    let quota = limit(bed, ns, "pods", 2, &filler("second"));
    bed.delete(&first);
    until("there is room for one", || bed.field(&quota, "/status/used/pods") == "1");
    bed.release(ns, "web:2");
    let shown = until("what keeps the primary's pods away is shown", || {
        said(bed, &canary).contains("exceeded quota: tight")
    });
    figure(&format!(
        "a promotion without room for a pod: shown after {:.0} s",
        shown.as_secs_f64()
    ));
    stage.gateways.saw(ns, &[0, 10]);
    assert_eq!(bed.phase(ns), "Promoting");
    bed.delete(&quota);
    bed.reaches(ns, "Succeeded");
    stage.gateways.saw(ns, &[0, 10, 0]);
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    let promoted = bed.condition(&canary, "Promoted");
    assert!(!promoted.to_string().contains("exceeded quota"), "{promoted}");
}

#[test]
fn a_quota_that_forbids_a_config_of_the_promotion_is_shown_and_the_promotion_goes_on() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "quota-config");
    let canary = stage.app_with(ns, &json!({"maxWeight": 10}));
    let config = |name: &str| {
        json!({"apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": ns}, "data": {"a": "1"}})
    };
    bed.create(config("fresh"));
    // The authority that is in every namespace is there, too, or comes.
    until("both are there", || bed.list::<ConfigMap>(ns).len() == 2);
    let quota = limit(bed, ns, "count/configmaps", 2, &config("other"));
    let reads = json!([{"configMapRef": {"name": "fresh"}}]);
    bed.patch(
        &deployment_key(ns, APP),
        json!({"spec": {"template": {"spec": {"containers": [{"name": "main", "image": "web:2",
            "envFrom": reads, "ports": [{"containerPort": 8080}]}]}}}}),
    );
    until("the refusal is shown", || words(bed, &canary).contains("exceeded quota: tight"));
    assert_eq!(bed.image(ns, "web-primary"), "web:1");
    bed.delete(&quota);
    bed.reaches(ns, "Succeeded");
    assert_eq!(bed.image(ns, "web-primary"), "web:2");
    assert!(bed.get(&Key::of::<ConfigMap>(ns, "fresh-primary")).is_some());
    until("the condition goes away", || bed.condition(&canary, "Stalled") == Value::Null);
}

#[test]
fn a_quota_that_forbids_the_primary_is_shown_and_recovers_when_it_is_lifted() {
    let Some(stage) = Stage::shared() else { return };
    let (bed, ns) = (&stage.bed, "quota");
    bed.namespace(ns);
    bed.create(crate::objects::deployment(ns, APP, "web:1", 1));
    let other = crate::objects::deployment(ns, "x", "web:1", 0);
    let quota = limit(bed, ns, "count/deployments.apps", 1, &other);
    let canary = bed.create(crate::objects::canary(ns, APP, &json!({})));
    until("the refusal is shown", || words(bed, &canary).contains("exceeded quota"));
    assert_eq!(bed.condition(&canary, "Stalled")["reason"], "Refused");
    bed.delete(&quota);
    let healed = bed.reaches(ns, "Initialized");
    figure(&format!("initialised {:.0} s after the quota was lifted", healed.as_secs_f64()));
    until("the condition goes away", || bed.condition(&canary, "Stalled") == Value::Null);
}
