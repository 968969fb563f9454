//! Other projects on the same cluster: Flagger and Sloth as processes, and their own definitions.
//! They are built and fetched by `tests/realk8s/build`; tests are skipped without them.

use std::{
    collections::BTreeSet,
    fs::File,
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::{Mutex, PoisonError},
};

use evenkeel_yaml::split;
use serde_json::Value;

use crate::bed::{Bed, folder};

static MISSED: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// A file of the cache; says once that it is missed.
pub(crate) fn file(name: &str) -> Option<PathBuf> {
    let file = folder().join("bin").join(name);
    if file.exists() {
        return Some(file);
    }
    let mut missed = MISSED.lock().unwrap_or_else(PoisonError::into_inner);
    if missed.insert(name.to_owned()) {
        let newer = if name.ends_with("-newer") { " --newer" } else { "" };
        let text = format!("skipped: no {name} in the cache; run tests/realk8s/build{newer}\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    }
    None
}

/// The definitions of other projects, in place of ours until it is dropped.
pub(crate) struct Definitions<'a>(pub(crate) &'a Bed);

impl<'a> Definitions<'a> {
    /// Those of Flagger and Sloth.
    pub(crate) fn install(bed: &'a Bed) -> Option<Self> {
        for name in ["flagger.crd.yaml", "sloth.crd.yaml"] {
            let text = std::fs::read_to_string(file(name)?).unwrap();
            for document in split(&text).unwrap() {
                let mut crd: Value = document.parse().unwrap().json().unwrap();
                if crd.is_null() {
                    continue;
                }
                // What generators leave behind.
                crd.as_object_mut().map(|crd| crd.remove("status"));
                bed.apply_crd(&crd);
            }
        }
        Some(Self(bed))
    }
}

impl Drop for Definitions<'_> {
    fn drop(&mut self) {
        for crd in evenkeel_api::crds() {
            self.0.apply_crd(&crd);
        }
    }
}

/// A program of another project, with all rights; killed when dropped.
pub(crate) struct Peer(Child);

/// Label of the SLOs that Sloth looks after.
pub(crate) const OF_SLOTH: &str = "of-sloth";

impl Peer {
    pub(crate) fn flagger(bed: &Bed, prometheus: &str) -> Option<Self> {
        let program = file("flagger")?;
        let mut command = Command::new(program);
        command
            .args(["-mesh-provider", "gatewayapi:v1", "-metrics-server", prometheus])
            .args(["-control-loop-interval", "2s", "-port", &free_port(), "-kubeconfig"])
            .arg(bed.file("kubeconfig"));
        Some(Self::run(&mut command, bed, "flagger.log"))
    }

    /// For SLOs with the label [`OF_SLOTH`].
    pub(crate) fn sloth(bed: &Bed) -> Option<Self> {
        let program = file("sloth")?;
        let at = || format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(program);
        command
            .args(["kubernetes-controller", "--kube-local", "--label-selector", OF_SLOTH])
            .args(["--metrics-listen-addr", &at(), "--hot-reload-addr", &at(), "--kube-config"])
            .arg(bed.file("kubeconfig"));
        Some(Self::run(&mut command, bed, "sloth.log"))
    }

    fn run(command: &mut Command, bed: &Bed, log: &str) -> Self {
        let log = File::create(bed.file(log)).unwrap();
        let command = command.stdin(Stdio::null()).stdout(log.try_clone().unwrap());
        Self(command.stderr(log).spawn().unwrap())
    }
}

/// Their ports cannot be 0.
fn free_port() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port().to_string()
}

impl Drop for Peer {
    fn drop(&mut self) {
        // It may have ended before.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}
