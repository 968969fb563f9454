//! `evenkeel install`, as kubectl and a real API server take it.

use std::{
    io::Write as _,
    process::{Command, Stdio},
};

use crate::{
    bed::{Bed, folder},
    until,
};

const NAMESPACE: &str = "evenkeel-install";

/// What `evenkeel` prints with these words.
pub(crate) fn evenkeel(words: &[&str]) -> String {
    let (succeeded, text) = try_evenkeel(words);
    assert!(succeeded, "evenkeel {words:?}: {text}");
    text
}

/// As [`evenkeel`], and whether it succeeded.
pub(crate) fn try_evenkeel(words: &[&str]) -> (bool, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel")).args(words).output().unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.success(), text)
}

/// What `evenkeel install` prints, with these words besides.
pub(crate) fn manifest(namespace: &str, words: &[&str]) -> Vec<u8> {
    let mut all = vec!["install", "--namespace", namespace, "--image", "example.com/evenkeel:1"];
    all.extend(["--prometheus", "http://prometheus.monitoring:9090"]);
    all.extend(words);
    evenkeel(&all).into_bytes()
}

/// What kubectl prints, warnings included.
pub(crate) fn kubectl(bed: &Bed, words: &[&str], input: &[u8]) -> String {
    let (succeeded, text) = try_kubectl(bed, words, input);
    assert!(succeeded, "kubectl {words:?}: {text}");
    text
}

/// As [`kubectl`], and whether it succeeded.
pub(crate) fn try_kubectl(bed: &Bed, words: &[&str], input: &[u8]) -> (bool, String) {
    let mut child = Command::new(folder().join("bin/kubectl"))
        .arg("--kubeconfig")
        .arg(bed.file("kubeconfig"))
        .args(words)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(text).unwrap())
}

/// Every object of installations in a namespace, as kubectl names them.
pub(crate) fn ours(bed: &Bed, namespace: &str) -> Vec<String> {
    let label = "app.kubernetes.io/part-of=evenkeel";
    let find = |kinds: &str| {
        kubectl(bed, &["get", kinds, "-n", namespace, "-l", label, "-o", "name"], b"")
    };
    let found = find("clusterroles,clusterrolebindings")
        + &find("serviceaccounts,roles,rolebindings,services,poddisruptionbudgets")
        + &find("networkpolicies,statefulsets,pods");
    // That there are none is a line, too; the roles for `default` are those of all tests.
    let named = |line: &&str| line.contains('/') && !line.ends_with("/evenkeel-default");
    found.lines().filter(named).map(str::to_owned).collect()
}

#[test]
fn what_install_prints_is_taken_without_a_warning_and_can_be_taken_away() {
    let Some(bed) = Bed::take_later() else { return };
    let manifest = manifest(NAMESPACE, &[]);
    kubectl(&bed, &["create", "namespace", NAMESPACE], b"");
    let applied = kubectl(&bed, &["apply", "-f", "-"], &manifest);
    assert!(!applied.contains("Warning"), "{applied}");
    until("both pods are made", || {
        let pods = kubectl(&bed, &["get", "pods", "-n", NAMESPACE, "-o", "name"], b"");
        pods.contains("pod/evenkeel-0") && pods.contains("pod/evenkeel-1")
    });
    // Nothing is pruned, and a second apply has nothing to change; kubectl would fail otherwise.
    let changes = kubectl(&bed, &["diff", "-f", "-"], &manifest);
    assert_eq!(changes, "");

    kubectl(&bed, &["delete", "-f", "-"], &manifest);
    until("nothing is left", || ours(&bed, NAMESPACE).is_empty());
    kubectl(&bed, &["delete", "namespace", NAMESPACE], b"");
}
