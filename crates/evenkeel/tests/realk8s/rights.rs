//! What `evenkeel run` may do here: what `evenkeel install` grants, and nothing else.

use std::{collections::BTreeSet, fmt::Write as _, io::Write as _, process::Command, sync::Mutex};

use serde_json::{Value, json};

use crate::bed::{Bed, folder};

/// The group of the users of `evenkeel run`, as `tests/realk8s/up` makes them.
const GROUP: &str = "evenkeel";
/// Granted for clusters that ask for more than this one does.
const ELSEWHERE: [&str; 1] = ["update flagger.app/canaries/finalizers"];

static FILE: Mutex<()> = Mutex::new(());

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

/// Keeps which rights were used since the audit log began.
pub(crate) fn note_use(bed: &Bed) {
    let text = std::fs::read_to_string(bed.file("audit.log")).unwrap_or_default();
    let mut used = String::new();
    for right in text.lines().filter_map(used_right).collect::<BTreeSet<_>>() {
        writeln!(used, "{right}").unwrap();
    }
    let _lock = FILE.lock().unwrap();
    let path = folder().join("used-rights");
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    file.unwrap().write_all(used.as_bytes()).unwrap();
}

/// The right that a request of `evenkeel run` took; `None` for everybody else's.
fn used_right(line: &str) -> Option<String> {
    let event: Value = serde_json::from_str(line).ok()?;
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default();
    let is_allowed = event.pointer("/annotations/authorization.k8s.io~1decision")? == "allow";
    if !text("/user/username").starts_with("client-") || !is_allowed {
        return None;
    }
    let (plural, sub) = (text("/objectRef/resource"), text("/objectRef/subresource"));
    let resource = if sub.is_empty() { plural.to_owned() } else { format!("{plural}/{sub}") };
    (!plural.is_empty()).then(|| named(text("/verb"), text("/objectRef/apiGroup"), &resource))
}

fn named(verb: &str, group: &str, resource: &str) -> String {
    format!("{verb} {group}/{resource}")
}

/// Run after all the others, by `cargo xtask realk8s`.
#[test]
#[ignore = "needs what all other tests have used"]
fn every_right_is_used() {
    let used = std::fs::read_to_string(folder().join("used-rights")).unwrap();
    let used: BTreeSet<&str> = used.lines().collect();
    let mut unused = Vec::new();
    for role in objects().iter().filter(|object| object["rules"].is_array()) {
        for rule in role["rules"].as_array().unwrap() {
            let all = |field: &str| -> Vec<String> {
                let texts = rule[field].as_array().unwrap().iter();
                texts.map(|text| text.as_str().unwrap().to_owned()).collect()
            };
            for (resource, verb) in all("resources").iter().flat_map(|resource| {
                all("verbs").into_iter().map(move |verb| (resource.clone(), verb))
            }) {
                unused.push(named(&verb, &all("apiGroups")[0], &resource));
            }
        }
    }
    unused.retain(|right| !used.contains(&**right) && !ELSEWHERE.contains(&&**right));
    assert!(unused.is_empty(), "granted and never used: {unused:#?}");
}
