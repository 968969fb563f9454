//! What `evenkeel run` may do here: what `evenkeel install` grants, and nothing else. That nothing
//! granted is idle, the simulation checks.

use std::process::Command;

use serde_json::{Value, json};

use crate::{bed::Bed, figure, releases::Stage, until};

/// The group of the users of `evenkeel run`, as `tests/realk8s/up` makes them.
const GROUP: &str = "evenkeel";
/// A service account with the same rights, in the namespace `default`.
pub(crate) const ACCOUNT: &str = "evenkeel-pod";

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
                    "kind": "Group", "name": GROUP},
                    {"kind": "ServiceAccount", "name": ACCOUNT, "namespace": "default"}]);
            }
            _ => continue,
        }
        bed.put(&object);
    }
}

#[test]
fn a_right_taken_away_in_a_release_is_named_and_used_again_when_it_is_given_back() {
    let Some(bed) = Bed::take() else { return };
    let stage = Stage::set(bed);
    let (bed, ns) = (&stage.bed, "rights");
    let canary = stage.app_with(ns, &json!({"maxWeight": 20}));
    bed.release(ns, "web:2");
    stage.reaches_weight(ns, 10);
    let mut roles = objects();
    roles.retain(|object| object["kind"] == "ClusterRole" || object["kind"] == "Role");
    for role in &mut roles {
        for rule in role["rules"].as_array_mut().unwrap() {
            if rule["resources"].to_string().contains("httproutes") {
                rule["verbs"] = json!(["get", "list", "watch"]);
            }
        }
        bed.put(role);
    }
    let said = || bed.condition(&canary, "Stalled")["message"].to_string();
    until("it is named", || said().contains("forbidden") && said().contains("httproutes"));
    let weights = stage.gateways.weights(ns);
    assert!(weights.ends_with(&[10]), "{weights:?}");
    grant(bed);
    let healed = bed.reaches(ns, "Succeeded");
    figure(&format!(
        "a right given back in a release: it ended {:.0} s later",
        healed.as_secs_f64()
    ));
    stage.gateways.saw(ns, &[0, 10, 20, 0]);
    until("the condition goes away", || bed.condition(&canary, "Stalled") == Value::Null);
}
