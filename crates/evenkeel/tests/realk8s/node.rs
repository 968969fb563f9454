//! The control plane with a real node that `tests/realk8s/node` starts, from inside its network.

use std::{
    fs::File,
    path::PathBuf,
    process::{Child, Command, Stdio},
};

use serde_json::json;

use crate::{
    bed::{Bed, folder},
    skip,
};

/// The control plane, as a folder below that of the others.
const NAME: &str = "node/one";
/// Set in the process of a test that has entered the network.
const INSIDE: &str = "EVENKEEL_REALK8S_INSIDE";
/// Where the node is reached from its pods.
pub(crate) const ADDRESS: &str = "10.88.0.1";
/// Where pods get their addresses from.
const PODS: &str = "10.88.200.0/24";
/// The image with this program, as the node knows it.
pub(crate) const IMAGE: &str = "example.com/evenkeel:test";
/// A user to whom pods are as far away as to somebody outside of the cluster.
const STRANGER: &str = "65533";

/// A program beside the pods, in the node's network; it ends with its owner.
pub(crate) struct Beside(Child);

/// Connects a test to the node. `None` when there is none, and in the process that has let another
/// one play the test inside.
pub(crate) fn enter(test: &str) -> Option<Bed> {
    if std::env::var_os(INSIDE).is_some() {
        let mut bed = Bed::open(NAME);
        bed.install_crds();
        return Some(bed);
    }
    let at = folder().join("node");
    if !at.join("ready").exists() {
        skip(&format!("no real node in {}", folder().display()));
        return None;
    }
    let first = std::fs::read_to_string(at.join("first")).unwrap();
    let output = command("nsenter")
        .args(["--target", first.trim(), "--net"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(INSIDE, "1")
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
    None
}

/// A program that is killed with this process.
fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]);
    command
}

impl Beside {
    /// Starts it; what it prints is in NAME.log of the control plane.
    pub(crate) fn start(bed: &Bed, name: &str, program: &str, words: &[&str]) -> Self {
        let output = File::create(log(bed, name)).unwrap();
        let child = command(program)
            .args(words)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn();
        Self(child.unwrap())
    }

    /// Closes its input, and waits until it has ended.
    pub(crate) fn finish(mut self) {
        drop(self.0.stdin.take());
        assert!(self.0.wait().unwrap().success());
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        // It may have ended before.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}

/// What a program beside the pods has printed.
pub(crate) fn log(bed: &Bed, name: &str) -> PathBuf {
    bed.file(&format!("{name}.log"))
}

/// Where the volume with this number is.
pub(crate) fn volume(number: u32) -> PathBuf {
    folder().join(format!("node/volumes/{number}"))
}

/// Volumes on the node's disk, for claims that name no class.
pub(crate) fn offer_volumes(bed: &Bed, count: u32) {
    for number in 0..count {
        std::fs::create_dir_all(volume(number)).unwrap();
        let here = json!({"key": "kubernetes.io/hostname", "operator": "In", "values": ["real"]});
        bed.create(json!({"apiVersion": "v1", "kind": "PersistentVolume",
            "metadata": {"name": format!("disk-{number}")},
            "spec": {"capacity": {"storage": "2Gi"}, "accessModes": ["ReadWriteOnce"],
                "local": {"path": volume(number)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [
                    {"matchExpressions": [here]}]}}}}));
    }
}

/// What this program prints for somebody who reaches the API server and no pod: (out, errors).
pub(crate) fn from_outside(bed: &Bed, words: &[&str]) -> (String, String) {
    let rule = ["rule", "add", "uidrange", &format!("{STRANGER}-{STRANGER}"), "to", PODS];
    let ruled = Command::new("ip").args(rule).arg("unreachable").status().unwrap();
    assert!(ruled.success());
    // Others may not read what the tests build.
    let program = bed.file("evenkeel");
    std::fs::copy(env!("CARGO_BIN_EXE_evenkeel"), &program).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", STRANGER, "--clear-groups"])
        .arg(program)
        .args(words)
        .arg("--kubeconfig")
        .arg(bed.file("kubeconfig"))
        .output()
        .unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (text(output.stdout), text(output.stderr))
}
