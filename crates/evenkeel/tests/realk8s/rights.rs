//! What `evenkeel run` may do here: what `evenkeel install` grants, and nothing else. That nothing
//! granted is idle, the simulation checks.

use std::process::Command;

use serde_json::{Value, json};

use crate::bed::Bed;

/// The group of the users of `evenkeel run`, as `tests/realk8s/up` makes them.
const GROUP: &str = "evenkeel";
/// What `evenkeel install` prints, for Leases in the namespace `default`.
pub(crate) fn objects() -> Vec<Value> {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .args(["install", "--namespace", "default", "--image", "evenkeel"])
        .args(["--prometheus", "http://127.0.0.1:9090"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let text = String::from_utf8(output.stdout).unwrap();
    let documents = evenkeel_yaml::split(&text).unwrap();
    documents.iter().map(|document| document.parse().unwrap().json().unwrap()).collect()
}

/// Gives the users of `evenkeel run` these roles.
pub(crate) fn grant(bed: &Bed) {
    for mut object in objects() {
        match object["kind"].as_str().unwrap() {
            "ClusterRole" | "Role" => {}
            "ClusterRoleBinding" | "RoleBinding" => {
                object["subjects"] = json!([{"apiGroup": "rbac.authorization.k8s.io",
                    "kind": "Group", "name": GROUP}]);
            }
            _ => continue,
        }
        bed.put(&object);
    }
}
