//! The manifest of the version before, and the present one on top of it.

use serde_json::json;

use crate::{
    bed::Bed,
    install::{evenkeel, kubectl, manifest, ours},
    until,
};

const NAMESPACE: &str = "evenkeel-upgrade";
/// What version 0.1 printed for this namespace: all groups, and `--only slo`.
const ALL: &[u8] = include_bytes!("fixtures/install-0.1-all.yaml");
const SLO: &[u8] = include_bytes!("fixtures/install-0.1-slo.yaml");
/// Volumes for two pods: nobody makes any here.
const VOLUMES: [&str; 2] = ["evenkeel-upgrade-1", "evenkeel-upgrade-2"];

fn volumes(bed: &Bed) {
    for name in VOLUMES {
        bed.create(json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": name},
            "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
                "hostPath": {"path": "/nowhere"},
                "claimRef": {"namespace": NAMESPACE,
                    "name": name.replace("evenkeel-upgrade-1", "data-evenkeel-0")
                        .replace("evenkeel-upgrade-2", "data-evenkeel-1")}}}));
    }
}

fn names(manifest: &[u8]) -> Vec<String> {
    let text = String::from_utf8(manifest.to_vec()).unwrap();
    let documents = evenkeel_yaml::split(&text).unwrap();
    let objects = documents.iter().map(|one| one.parse().unwrap().json().unwrap());
    let name = |object: serde_json::Value| {
        let kind = object["kind"].as_str().unwrap().to_lowercase();
        format!("{kind} {}", object["metadata"]["name"].as_str().unwrap())
    };
    let mut names: Vec<_> = objects.map(name).collect();
    names.sort();
    names
}

/// As [`names`], of what is there.
fn there(bed: &Bed) -> Vec<String> {
    let name = |object: &String| {
        let (kind, name) = object.split_once('/').unwrap();
        format!("{} {name}", kind.split('.').next().unwrap())
    };
    let mut names: Vec<_> = ours(bed, NAMESPACE).iter().map(name).collect();
    names.retain(|name| !name.starts_with("pod "));
    names.sort();
    names
}

#[test]
fn the_present_manifest_replaces_that_of_the_version_before() {
    let Some(bed) = Bed::take_later() else { return };
    let bed = &bed;
    kubectl(bed, &["create", "namespace", NAMESPACE], b"");
    volumes(bed);
    kubectl(bed, &["apply", "-f", "-"], ALL);
    let rollout = ["rollout", "status", "-n", NAMESPACE, "statefulset/evenkeel", "--timeout=120s"];
    kubectl(bed, &rollout, b"");
    let now = manifest(NAMESPACE, &[]);
    let applied = kubectl(bed, &["apply", "-f", "-"], &now);
    assert!(!applied.contains("Warning"), "{applied}");
    kubectl(bed, &rollout, b"");
    let image = ["get", "pods", "-n", NAMESPACE, "-o", "jsonpath={..containers[*].image}"];
    let images = kubectl(bed, &image, b"");
    assert_eq!(images, "example.com/evenkeel:1 example.com/evenkeel:1");
    assert_eq!(there(bed), names(&now));

    let nodes = ["get", "pods", "-n", NAMESPACE, "-o", "jsonpath={..nodeName}"];
    let nodes = kubectl(bed, &nodes, b"");
    assert!(nodes.contains("node-1") && nodes.contains("node-2"), "{nodes}");

    // A drain waits for the other pod at most.
    kubectl(bed, &["drain", "node-1", "--force", "--timeout=120s"], b"");
    kubectl(bed, &["uncordon", "node-1"], b"");
    kubectl(bed, &rollout, b"");

    let file = bed.file("kubeconfig");
    let file = file.to_str().unwrap();
    evenkeel(&["uninstall", "--kubeconfig", file, "--namespace", NAMESPACE]);
    until("nothing is left", || ours(bed, NAMESPACE).is_empty());
    let claims = ["get", "pvc", "-n", NAMESPACE, "-o", "name"];
    assert_eq!(kubectl(bed, &claims, b"").lines().count(), 2, "the record is kept");

    // One group used to have the names of all of them: its successor has its own.
    kubectl(bed, &["apply", "-f", "-"], SLO);
    evenkeel(&["uninstall", "--kubeconfig", file, "--namespace", NAMESPACE]);
    let now = manifest(NAMESPACE, &["--only", "slo"]);
    kubectl(bed, &["apply", "-f", "-"], &now);
    assert_eq!(there(bed), names(&now));
    evenkeel(&[
        "uninstall",
        "--kubeconfig",
        file,
        "--namespace",
        NAMESPACE,
        "--only",
        "slo",
        "--purge",
    ]);
    kubectl(bed, &["delete", "namespace", NAMESPACE], b"");
    kubectl(bed, &["delete", "pv", VOLUMES[0], VOLUMES[1]], b"");
}
