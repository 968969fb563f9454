//! `evenkeel uninstall`: what is there afterwards is what was there before.

use std::collections::BTreeMap;

use evenkeel_api::{Key, beside::MANAGED};
use evenkeel_control::StoreError;
use k8s_openapi::api::{apps::v1::StatefulSet, coordination::v1::Lease};
use serde_json::{Value, json};

use crate::{
    bed::Bed,
    install::{evenkeel, kubectl, manifest, ours, try_evenkeel, try_kubectl},
    objects::{APP, canary_key},
    releases::Stage,
    soon, until,
};

const NAMESPACE: &str = "evenkeel-leaves";
/// Of what lives for a while only, or is made from other objects when it is asked for.
const PASSING: [&str; 3] = ["events", "events.events.k8s.io", "componentstatuses"];

/// Every object of the cluster by its kind and name, without what changes by itself.
fn everything(bed: &Bed) -> BTreeMap<String, Value> {
    let mut last = None;
    soon("nothing changes any more", || {
        let now = look(bed)?;
        let is_settled = last.as_ref() == Some(&now);
        last = Some(now);
        is_settled.then(|| last.take()).flatten()
    })
    .0
}

/// As [`everything`], as it is now; `None` when a kind went while it was looked at, or a namespace of
/// another test is still going.
fn look(bed: &Bed) -> Option<BTreeMap<String, Value>> {
    let kinds = kubectl(bed, &["api-resources", "--verbs=list", "-o", "name"], b"");
    let kinds: Vec<_> = kinds.lines().filter(|kind| !PASSING.contains(kind)).collect();
    let (succeeded, text) = try_kubectl(bed, &["get", &kinds.join(","), "-A", "-o", "json"], b"");
    // Warnings follow.
    let list = serde_json::Deserializer::from_str(&text).into_iter::<Value>().next();
    let list = list.and_then(Result::ok).filter(|_| succeeded)?;
    let mut objects = BTreeMap::new();
    for mut object in list["items"].as_array()?.iter().cloned() {
        if object["status"]["phase"] == "Terminating" {
            return None;
        }
        let name = format!(
            "{} {} {}",
            object["kind"], object["metadata"]["namespace"], object["metadata"]["name"]
        );
        forget(&mut object);
        objects.insert(name, object);
    }
    Some(objects)
}

/// Drops revisions, times and who wrote which field.
fn forget(value: &mut Value) {
    match value {
        Value::Object(fields) => {
            fields.retain(|name, _| {
                let passing = ["resourceVersion", "managedFields", "renewTime", "acquireTime"];
                !passing.contains(&name.as_str()) && !name.ends_with("Time")
            });
            fields.values_mut().for_each(forget);
        }
        Value::Array(items) => items.iter_mut().for_each(forget),
        _ => {}
    }
}

fn differences(before: &BTreeMap<String, Value>, after: &BTreeMap<String, Value>) -> Vec<String> {
    let gone = before.keys().filter(|name| !after.contains_key(*name));
    let gone = gone.map(|name| format!("gone: {name}"));
    let others = after.iter().filter(|(name, object)| before.get(*name) != Some(object));
    let others = others.map(|(name, after)| {
        let before = before.get(name).map_or_else(|| "nothing".to_owned(), Value::to_string);
        format!("{name}: {after} instead of {before}")
    });
    gone.chain(others).collect()
}

/// `evenkeel uninstall` on this cluster, in [`NAMESPACE`].
fn uninstall(bed: &Bed, words: &[&str]) -> String {
    let (succeeded, text) = try_uninstall(bed, words);
    assert!(succeeded, "{text}");
    text
}

/// As [`uninstall`], and whether it succeeded.
fn try_uninstall(bed: &Bed, words: &[&str]) -> (bool, String) {
    let file = bed.file("kubeconfig");
    let mut all = vec!["uninstall", "--kubeconfig", file.to_str().unwrap()];
    all.extend(["--namespace", NAMESPACE]);
    all.extend(words);
    try_evenkeel(&all)
}

/// A Lease as the pods of an installation leave it when they are killed.
fn lease(holder: &str) -> Value {
    json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": "evenkeel-delivery", "namespace": NAMESPACE},
        "spec": {"holderIdentity": holder, "leaseDurationSeconds": 15}})
}

#[test]
fn what_is_there_after_uninstall_is_what_was_there_before_install() {
    let Some(bed) = Bed::take_later() else { return };
    let mut stage = Stage::set(bed);
    let ns = "leaves";
    let canary = stage.app(ns);
    // It stays when its controllers go, as if they had been an installation's.
    stage.run.crash();
    let bed = &stage.bed;
    kubectl(bed, &["create", "namespace", NAMESPACE], b"");
    let ours_alone = ["slomaintenances", "errorbudgetpolicies", "breakglasses"];
    for name in ours_alone.map(|name| format!("{name}.evenkeel.dev")) {
        kubectl(bed, &["delete", "crd", &name], b"");
    }
    until("the namespace has what each has", || {
        kubectl(bed, &["get", "cm,sa", "-n", NAMESPACE, "-o", "name"], b"").lines().count() == 2
    });
    let groups = ["get", "apiservice", "-o", "name"];
    until("nothing is known of our kinds", || !kubectl(bed, &groups, b"").contains("evenkeel.dev"));
    let mut before = everything(bed);
    let finalizer = json!(["finalizer.flagger.app"]);
    assert_eq!(bed.field(&canary, "/metadata/finalizers"), finalizer);

    // All others are there, and are not printed: they may be newer.
    let file = bed.file("kubeconfig");
    let crds = ["crds", "--all", "--missing", "--kubeconfig", file.to_str().unwrap()];
    let missing = evenkeel(&crds);
    assert_eq!(missing.matches("\n  group: evenkeel.dev\n").count(), 3, "{missing}");
    assert_eq!(missing.matches("kind: CustomResourceDefinition\n").count(), 3, "{missing}");
    kubectl(bed, &["apply", "-f", "-"], &manifest(NAMESPACE, &["--crds"]));
    assert_eq!(evenkeel(&crds), "the cluster has all of them\n");
    until("both pods are made", || {
        let pods = kubectl(bed, &["get", "pods", "-n", NAMESPACE, "-o", "name"], b"");
        pods.contains("pod/evenkeel-0") && pods.contains("pod/evenkeel-1")
    });
    bed.create(lease("evenkeel-0_0123456789abcdef"));
    let installed = everything(bed);
    let said = uninstall(bed, &["--purge", "--dry-run"]);
    assert!(said.contains("would delete StatefulSet/evenkeel-leaves/evenkeel\n"), "{said}");
    assert_eq!(differences(&installed, &everything(bed)), [""; 0]);

    let said = uninstall(bed, &["--purge"]);
    until("nothing is known of our kinds", || !kubectl(bed, &groups, b"").contains("evenkeel.dev"));
    assert!(said.contains(&format!("freed Canary/{ns}/{APP} of its finalizer\n")), "{said}");
    // The Canary can be deleted when nobody is there to revert it: that is all that differs.
    let name = before.keys().find(|name| name.starts_with("\"Canary\"")).unwrap().clone();
    let meta = before.get_mut(&name).unwrap()["metadata"].as_object_mut().unwrap();
    meta.remove("finalizers");
    let after = everything(bed);
    assert_eq!(differences(&before, &after), [""; 0]);
    bed.delete(&canary);
    until("the Canary is gone", || bed.get(&canary_key(ns, APP)).is_none());
    let said = uninstall(bed, &[]);
    assert_eq!(said, "nothing of evenkeel in namespace evenkeel-leaves\n");
    kubectl(bed, &["delete", "namespace", NAMESPACE, "--wait=false"], b"");
}

#[test]
fn groups_live_side_by_side_and_leave_one_by_one() {
    let Some(bed) = Bed::take_later() else { return };
    let bed = &bed;
    let ns = "evenkeel-groups";
    kubectl(bed, &["create", "namespace", ns], b"");
    let group = |name: &str| manifest(ns, &["--only", name]);
    kubectl(bed, &["apply", "-f", "-"], &group("slo"));
    kubectl(bed, &["apply", "-f", "-"], &group("delivery"));
    until("the pods of both are made", || {
        let pods = kubectl(bed, &["get", "pods", "-n", ns, "-o", "name"], b"");
        pods.lines().count() == 4
    });
    // Neither has taken anything from the other.
    for name in ["slo", "delivery"] {
        assert_eq!(kubectl(bed, &["diff", "-f", "-"], &group(name)), "");
    }
    let can = |account: &str, words: &[&str]| {
        let who = format!("--as=system:serviceaccount:{ns}:evenkeel-{account}");
        let words = [&["auth", "can-i", "--quiet", &who], words].concat();
        try_kubectl(bed, &words, b"").0
    };
    assert!(can("delivery", &["patch", "deployments.apps", "-A"]));
    assert!(!can("slo", &["patch", "deployments.apps", "-A"]));
    assert!(can("slo", &["create", "prometheusrules.monitoring.coreos.com", "-A"]));
    assert!(!can("delivery", &["create", "prometheusrules.monitoring.coreos.com", "-A"]));

    let file = bed.file("kubeconfig");
    let file = file.to_str().unwrap();
    let uninstall = |group: &str| {
        evenkeel(&["uninstall", "--kubeconfig", file, "-n", ns, "--only", group, "--purge"])
    };
    let said = uninstall("slo");
    let other = format!("still there: StatefulSet/{ns}/evenkeel-delivery");
    assert!(said.contains(&other), "{said}");
    assert!(said.contains("kept CustomResourceDefinition/breakglasses.evenkeel.dev"), "{said}");
    assert_eq!(kubectl(bed, &["diff", "-f", "-"], &group("delivery")), "");
    assert!(ours(bed, ns).iter().all(|name| !name.ends_with("slo")), "{:?}", ours(bed, ns));

    // What has the name of ours and is not stays; a Lease that another process holds, too.
    kubectl(
        bed,
        &["label", "service", "-n", ns, "evenkeel-delivery", "app.kubernetes.io/part-of-"],
        b"",
    );
    let mut held = lease("somebody-else_0123456789abcdef");
    held["metadata"]["namespace"] = json!(ns);
    let held = bed.create(held);
    let said = uninstall("delivery");
    assert!(said.contains("left Service/evenkeel-groups/evenkeel-delivery"), "{said}");
    assert!(said.contains("somebody-else_0123456789abcdef holds it"), "{said}");
    assert!(bed.get(&held).is_some_and(|lease| lease.key().kind.is::<Lease>()));
    assert!(bed.get(&Key::of::<StatefulSet>(ns, "evenkeel-delivery")).is_none());
    kubectl(bed, &["delete", "namespace", ns, "--wait=false"], b"");
}

#[test]
fn what_is_handed_over_is_not_left_alone_and_what_was_taken_back_keeps_its_finalizer() {
    let Some(bed) = Bed::take_later() else { return };
    let mut stage = Stage::set(bed);
    let ns = "left-behind";
    let canary = stage.app(ns);
    stage.run.crash();
    let bed = &stage.bed;
    let marked = |value: Option<&str>| json!({"metadata": {"annotations": {MANAGED: value}}});
    bed.patch(&canary, marked(Some("true")));
    let (succeeded, said) = try_uninstall(bed, &[]);
    assert!(!succeeded && said.contains("handed over and not given back"), "{said}");
    assert!(said.contains(&canary.to_string()), "{said}");

    // As evenkeel gives it back to Flagger, and as Flagger goes on.
    bed.patch(&canary, marked(None));
    let status = |status: Value| {
        let patch = json!({"status": status}).to_string();
        let words =
            ["patch", "canary", APP, "-n", ns, "--subresource=status", "--type=merge", "-p"];
        kubectl(bed, &[&words[..], &[&patch]].concat(), b"");
    };
    let finalizers = || bed.field(&canary, "/metadata/finalizers");
    assert_eq!(finalizers(), json!(["finalizer.flagger.app"]));
    let nothing = format!("nothing of evenkeel in namespace {NAMESPACE}\n");
    for theirs in [
        json!({"phase": "Initializing", "evenkeel": null, "lastAppliedSpec": null,
            "lastPromotedSpec": null}),
        json!({"phase": "Initialized", "lastAppliedSpec": "6d8f5c9b7f",
            "lastPromotedSpec": "6d8f5c9b7f"}),
    ] {
        status(theirs);
        let said = uninstall(bed, &[]);
        assert!(said.contains(&nothing) && !said.contains("freed"), "{said}");
        assert_eq!(finalizers(), json!(["finalizer.flagger.app"]));
    }
}

/// Forbids to delete Leases of a namespace by name alone, and waits until that is in force.
fn forbid_deletion_by_name(bed: &Bed, ns: &str) -> [Key; 2] {
    let (name, api) = ("lease-as-it-was", "admissionregistration.k8s.io/v1");
    let asks = "has(request.options.preconditions) && \
                has(request.options.preconditions.uid) && \
                has(request.options.preconditions.resourceVersion)";
    let policy = bed.create(json!({"apiVersion": api, "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name}, "spec": {"failurePolicy": "Fail",
            "matchConstraints": {"resourceRules": [{"apiGroups": ["coordination.k8s.io"],
                "apiVersions": ["*"], "operations": ["DELETE"], "resources": ["leases"]}]},
            "validations": [{"expression": asks, "message": "whichever it is"}]}}));
    let binding = bed.create(json!({"apiVersion": api,
        "kind": "ValidatingAdmissionPolicyBinding", "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"], "matchResources": {
            "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": ns}}}}}));
    let mut bystander = lease("nobody");
    bystander["metadata"] = json!({"name": "bystander", "namespace": ns});
    until("the policy is in force", || {
        let key = bed.put(&bystander);
        matches!(bed.try_delete(&key), Err(StoreError::Refused { .. } | StoreError::Invalid { .. }))
    });
    [binding, policy]
}

#[test]
fn a_lease_is_deleted_only_as_it_was_seen() {
    let Some(bed) = Bed::take_later() else { return };
    let bed = &bed;
    let ns = "evenkeel-lease";
    kubectl(bed, &["create", "namespace", ns], b"");
    let rules = forbid_deletion_by_name(bed, ns);
    let mut ours = lease("evenkeel-0_0123456789abcdef");
    ours["metadata"]["namespace"] = json!(ns);
    let ours = bed.create(ours);
    let file = bed.file("kubeconfig");
    let said = evenkeel(&["uninstall", "--kubeconfig", file.to_str().unwrap(), "-n", ns]);
    assert!(said.contains(&format!("deleted {ours}\n")), "{said}");
    assert!(bed.get(&ours).is_none());
    for rule in &rules {
        bed.delete(rule);
    }
    kubectl(bed, &["delete", "namespace", ns, "--wait=false"], b"");
}

#[test]
fn a_stateful_set_of_somebody_else_keeps_its_pods_and_volumes() {
    let Some(bed) = Bed::take_later() else { return };
    let bed = &bed;
    let ns = "evenkeel-foreign";
    kubectl(bed, &["create", "namespace", ns], b"");
    let labels = json!({"app.kubernetes.io/name": "evenkeel"});
    bed.create(json!({"apiVersion": "apps/v1", "kind": "StatefulSet",
        "metadata": {"name": "evenkeel", "namespace": ns},
        "spec": {"replicas": 1, "serviceName": "evenkeel", "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels},
                "spec": {"containers": [{"name": "theirs", "image": "theirs:1"}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"},
                "spec": {"accessModes": ["ReadWriteOnce"],
                    "resources": {"requests": {"storage": "1Mi"}}}}]}}));
    let theirs = || kubectl(bed, &["get", "sts,pods,pvc", "-n", ns, "-o", "name"], b"");
    until("their pod is made", || theirs().lines().count() == 3);
    let file = bed.file("kubeconfig");
    // In one namespace: the definitions are the cluster's.
    let place = ["--watch-namespace", ns, "--purge"];
    let words = ["uninstall", "--kubeconfig", file.to_str().unwrap()];
    let said = evenkeel(&[&words[..], &place].concat());
    assert!(said.contains(&format!("left StatefulSet/{ns}/evenkeel")), "{said}");
    assert!(said.contains(&format!("nothing of evenkeel in namespace {ns}\n")), "{said}");
    assert_eq!(theirs().lines().count(), 3, "{}", theirs());
    kubectl(bed, &["delete", "namespace", ns, "--wait=false"], b"");
}
