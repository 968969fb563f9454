//! Controllers of one namespace, with the rights that `install --watch-namespace` prints.

use std::collections::BTreeSet;

use evenkeel_api::Key;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::json;

use crate::{
    audit,
    bed::Bed,
    gateways::Gateways,
    install::{evenkeel, kubectl, manifest},
    objects::{APP, canary_key, slo, slo_key},
    process::{Evenkeel, Start},
    prometheus::Prometheus,
    until,
};

#[test]
fn with_rights_in_one_namespace_a_release_goes_through_and_no_other_is_asked() {
    let Some(bed) = Bed::take() else { return };
    let (prometheus, gateways) = (Prometheus::start(), Gateways::start(&bed));
    let (ns, other) = ("watched", "unwatched");
    bed.app(other, &json!({}));
    bed.namespace(ns);
    let manifest = manifest(ns, &["--watch-namespace", ns]);
    kubectl(&bed, &["apply", "-f", "-"], &manifest);
    let account = Key::of::<ServiceAccount>(ns, "evenkeel");
    assert!(bed.get(&account).is_some());
    let token = kubectl(&bed, &["create", "token", "evenkeel", "-n", ns], b"");
    let user = format!("system:serviceaccount:{ns}:evenkeel");
    let flags = ["--watch-namespace", ns];
    let entry = format!("{{token: {}}}", token.trim());
    let login = Some((&*user, &*entry));
    let run =
        Evenkeel::start(&bed, &Start { login, flags: &flags, ..Start::with(&prometheus.url) });

    bed.create(crate::objects::deployment(ns, APP, "web:1", 1));
    // Its Gateway is in another namespace, which nobody may look into.
    let mut canary = crate::objects::canary(ns, APP, &json!({"maxWeight": 20}));
    canary["spec"]["service"]["gatewayRefs"] = json!([{"name": "public", "namespace": other}]);
    bed.create(canary);
    bed.create(slo(ns, "api"));
    bed.reaches(ns, "Initialized");
    until("the SLO is looked at", || !bed.field(&slo_key(ns, "api"), "/status").is_null());
    gateways.forget_before(ns);
    bed.release(ns, "web:2");
    bed.reaches(ns, "Succeeded");
    gateways.saw(ns, &[0, 10, 20, 0]);
    assert_eq!(bed.image(ns, "web-primary"), "web:2");

    assert!(bed.field(&canary_key(other, APP), "/status").is_null());
    let asked = audit::requests(&bed, &run.user);
    let objects = asked.iter().filter(|request| !request.resource.starts_with('/'));
    let namespaces: BTreeSet<_> = objects.map(|request| request.namespace.as_str()).collect();
    assert_eq!(namespaces, BTreeSet::from([ns]));
    let refused: Vec<_> = asked.iter().filter(|request| request.code == 403).collect();
    assert!(refused.is_empty(), "{refused:?}");

    drop(run);
    let file = bed.file("kubeconfig");
    let file = file.to_str().unwrap();
    let said = evenkeel(&["uninstall", "--kubeconfig", file, "--watch-namespace", ns, "--purge"]);
    assert!(said.contains(&format!("freed Canary/{ns}/{APP} of its finalizer")), "{said}");
    assert!(bed.get(&Key::of::<ServiceAccount>(ns, "evenkeel")).is_none(), "{said}");
    kubectl(&bed, &["delete", "namespace", ns, other, "--wait=false"], b"");
}
