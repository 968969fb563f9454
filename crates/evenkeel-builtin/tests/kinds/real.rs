//! A real control plane, by kubectl.

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::commands::Side;

/// Nothing has changed for this long: the controllers have done what they do at once. The Job
/// controller gathers what happens for a second.
const CALM: Duration = Duration::from_millis(2_500);
/// Longest wait for that.
const PATIENCE: Duration = Duration::from_mins(1);
const WATCHED: &str = "pods,statefulsets,daemonsets,jobs,cronjobs,controllerrevisions,pvc";

pub(crate) struct Real {
    kubectl: PathBuf,
    kubeconfig: PathBuf,
    namespace: String,
}

/// The folder that `tests/realk8s/up` was given.
fn beds() -> PathBuf {
    let named = std::env::var_os("EVENKEEL_REALK8S").map(PathBuf::from);
    named.unwrap_or_else(|| Path::new(env!("CARGO_TARGET_TMPDIR")).join("realk8s"))
}

impl Real {
    /// An empty namespace of the first control plane that runs; `None` when there is none.
    pub(crate) fn start(case: &str) -> Option<Self> {
        let clusters = std::fs::read_to_string(beds().join("clusters")).ok()?;
        let name = clusters.lines().next()?;
        let real = Self {
            kubectl: beds().join("bin/kubectl"),
            kubeconfig: beds().join(name).join("kubeconfig"),
            namespace: crate::namespace(case),
        };
        let (ready, _) = real.try_run(&["get", "--raw", "/readyz"], "");
        if ready.trim() != "ok" {
            return None;
        }
        let ns = real.namespace.clone();
        real.try_run(&["delete", "namespace", &ns, "--ignore-not-found"], "");
        real.run(&["create", "namespace", &ns], "");
        let began = Instant::now();
        // Pods are refused before their account is there.
        while real.try_run(&["get", "serviceaccount", "default"], "").0.is_empty() {
            assert!(began.elapsed() < PATIENCE, "no default account");
            std::thread::sleep(Duration::from_millis(200));
        }
        Some(real)
    }

    fn try_run(&self, arguments: &[&str], input: &str) -> (String, String) {
        let mut command = Command::new(&self.kubectl);
        command.arg("--kubeconfig").arg(&self.kubeconfig).args(["-n", &self.namespace]);
        command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.stderr(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (text(output.stdout), text(output.stderr))
    }

    fn run(&self, arguments: &[&str], input: &str) -> String {
        let (said, error) = self.try_run(arguments, input);
        assert!(!error.contains("rror"), "kubectl {arguments:?}: {error}");
        said
    }
}

impl Side for Real {
    fn apply(&mut self, objects: Vec<Value>) {
        for object in objects {
            self.run(&["apply", "-f", "-"], &object.to_string());
        }
    }

    fn patch(&mut self, (kind, name): (&str, &str), patch: &Value, is_status: bool) {
        let patch = if is_status {
            serde_json::json!({"status": patch}).to_string()
        } else {
            patch.to_string()
        };
        let mut arguments = vec!["patch", kind, name, "--type", "merge", "-p", &patch];
        if is_status {
            arguments.extend(["--subresource", "status"]);
        }
        self.run(&arguments, "");
    }

    fn delete(&mut self, (kind, name): (&str, &str), propagation: &str) {
        let cascade = format!("--cascade={}", propagation.to_lowercase());
        self.run(&["delete", kind, name, "--wait=false", &cascade], "");
    }

    fn list(&mut self, kind: &str) -> Vec<Value> {
        let listed = self.run(&["get", kind, "-o", "json"], "");
        let listed: Value = serde_json::from_str(&listed).unwrap();
        listed["items"].as_array().cloned().unwrap_or_default()
    }

    fn now(&self) -> String {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let now = i64::try_from(now.as_secs()).unwrap();
        jiff::Timestamp::from_second(now).unwrap().to_string()
    }

    fn wait(&mut self, seconds: u64) {
        std::thread::sleep(Duration::from_secs(seconds));
    }

    fn settle(&mut self) {
        let (began, mut since) = (Instant::now(), Instant::now());
        let mut last = String::new();
        let format = "jsonpath={.items[*].metadata.resourceVersion}";
        while since.elapsed() < CALM && began.elapsed() < PATIENCE {
            let now = self.run(&["get", WATCHED, "-o", format], "");
            if now != last {
                (last, since) = (now, Instant::now());
            }
            std::thread::sleep(Duration::from_millis(300));
        }
    }
}
