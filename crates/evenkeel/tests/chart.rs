//! The Helm chart in `charts/evenkeel` gives the objects that `evenkeel install` prints.
//!
//! Needs Helm, on the path or where `tests/realk8s/build` puts it; skipped without.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

use std::{
    collections::BTreeMap,
    io::Write as _,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::{Value, json};

const PROMETHEUS: &str = "http://prometheus.monitoring:9090/a-b/c%20d";

fn helm() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let cache = variable("EVENKEEL_REALK8S_CACHE").or_else(|| {
        let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
        Some(cache?.join("evenkeel-realk8s"))
    });
    let folders = std::env::split_paths(&path).chain(cache.map(|cache| cache.join("bin")));
    let found = folders.map(|folder| folder.join("helm")).find(|file| file.is_file());
    if found.is_none() {
        let text = "skipped: no Helm; tests/realk8s/build builds it\n";
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    found
}

/// The objects of a text, by kind, namespace and name.
fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents = evenkeel_yaml::split(text).unwrap();
    let parsed = documents.iter().map(|document| document.parse().unwrap().json().unwrap());
    let named = parsed.filter(|object| !object.is_null()).map(|object| {
        let meta = &object["metadata"];
        (format!("{} {} {}", object["kind"], meta["namespace"], meta["name"]), object)
    });
    named.collect()
}

fn output(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{command:?}: {text}");
    String::from_utf8(output.stdout).unwrap()
}

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../charts/evenkeel")
}

/// `helm template` with these values.
fn template(helm: &Path, namespace: &str, values: &Value, flags: &[&str]) -> Command {
    let number = std::process::id();
    let file = std::env::temp_dir().join(format!("evenkeel-chart-{number}-{namespace}.json"));
    std::fs::write(&file, values.to_string()).unwrap();
    let mut command = Command::new(helm);
    // A Helm that was built from its module alone takes every cluster for an old one.
    command.args(["template", "release", "--kube-version", "1.33.0"]);
    command.args(["--namespace", namespace, "--values"]).arg(&file);
    command.args(flags).arg(chart());
    command
}

#[test]
fn the_chart_and_install_give_the_same_objects() {
    let Some(helm) = helm() else { return };
    let cases: [(&str, Value, &[&str]); 9] = [
        ("ops", json!({}), &[]),
        ("slo", json!({"only": ["slo"]}), &["--only=slo"]),
        ("both", json!({"only": ["slo", "delivery"]}), &["--only=slo,delivery"]),
        ("team", json!({"watchNamespace": "team"}), &["--watch-namespace=team"]),
        (
            "apart",
            json!({"watchNamespace": "team", "only": ["delivery"]}),
            &["--watch-namespace=team", "--only=delivery"],
        ),
        (
            "more",
            json!({"replicas": 3, "serviceMonitor": true,
                "storage": {"size": "10Gi", "className": "fast"}}),
            &["--replicas=3", "--service-monitor", "--storage=10Gi", "--storage-class=fast"],
        ),
        (
            "shared",
            json!({"recordSecret": "evenkeel-record"}),
            &["--record-secret=evenkeel-record"],
        ),
        ("kinds", json!({}), &["--crds"]),
        ("beside", json!({"manage": "annotated"}), &["--manage=annotated"]),
    ];
    for (namespace, mut values, flags) in cases {
        values["image"] = json!("registry.example.com:5000/evenkeel@sha256:0123");
        values["prometheus"] = json!(PROMETHEUS);
        let mut install = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
        install.args(["install", "--namespace", namespace, "--prometheus", PROMETHEUS]);
        install.args(["--image", "registry.example.com:5000/evenkeel@sha256:0123"]).args(flags);
        let crds: &[&str] = if namespace == "kinds" { &["--include-crds"] } else { &[] };
        let made = objects(&output(&mut template(&helm, namespace, &values, crds)));
        let printed = objects(&output(&mut install));
        assert!(made.keys().eq(printed.keys()), "{namespace}: {made:#?} {printed:#?}");
        for (name, object) in &made {
            assert_eq!(object, &printed[name], "{namespace}: {name}");
        }
    }
}

#[test]
fn resources_are_a_value_of_the_chart_and_wrong_values_are_refused() {
    let Some(helm) = helm() else { return };
    let values = json!({"image": "a:1", "prometheus": PROMETHEUS,
        "resources": {"limits": {"memory": "1Gi"}}});
    let text = output(&mut template(&helm, "resources", &values, &[]));
    let all = objects(&text);
    let set = all.values().find(|object| object["kind"] == "StatefulSet").unwrap();
    let resources = &set["spec"]["template"]["spec"]["containers"][0]["resources"];
    let wanted = json!({"requests": {"cpu": "50m", "memory": "64Mi"}, "limits": {"memory": "1Gi"}});
    assert_eq!(*resources, wanted);
    let words = |values: &Value| {
        let refused = template(&helm, "wrong", values, &[]).output().unwrap();
        assert!(!refused.status.success(), "{values}");
        String::from_utf8(refused.stderr).unwrap()
    };
    let missing = words(&json!({"prometheus": PROMETHEUS}));
    assert!(missing.contains("image: an image with evenkeel"), "{missing}");
    let misspelt = words(&json!({"image": "a:1", "prometheus": PROMETHEUS, "replica": 3}));
    assert!(misspelt.contains("replica"), "{misspelt}");
    let group = words(&json!({"image": "a:1", "prometheus": PROMETHEUS, "only": ["slos"]}));
    assert!(group.contains("only"), "{group}");
    let which = words(&json!({"image": "a:1", "prometheus": PROMETHEUS, "manage": "marked"}));
    assert!(which.contains("manage"), "{which}");
    let long = json!({"image": "a:1", "prometheus": PROMETHEUS, "watchNamespace": "a".repeat(63)});
    assert!(words(&long).contains("too long a name"), "{}", words(&long));
}
