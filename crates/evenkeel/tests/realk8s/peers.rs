//! Other projects on the same cluster: Flagger as a process, and its and Sloth's own definitions.
//! They are built and fetched by `tests/realk8s/build`; tests are skipped without them.

use std::{
    fs::File,
    io::Write as _,
    net::TcpListener,
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::Once,
};

use evenkeel_yaml::split;
use serde_json::Value;

use crate::bed::{Bed, folder};

static SKIPPED: Once = Once::new();

fn file(name: &str) -> Option<PathBuf> {
    let file = folder().join("bin").join(name);
    if file.exists() {
        return Some(file);
    }
    SKIPPED.call_once(|| {
        let text = format!("skipped: no {name} in the cache; tests/realk8s/build fetches it\n");
        std::io::stderr().write_all(text.as_bytes()).unwrap();
    });
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

/// Flagger, with all rights; killed when dropped.
pub(crate) struct Flagger(Child);

impl Flagger {
    pub(crate) fn start(bed: &Bed, prometheus: &str) -> Option<Self> {
        let program = file("flagger")?;
        let log = File::create(bed.file("flagger.log")).unwrap();
        // Its port cannot be 0.
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let child = Command::new(program)
            .args(["-mesh-provider", "gatewayapi:v1", "-metrics-server", prometheus])
            .args(["-control-loop-interval", "2s", "-port", &free.to_string(), "-kubeconfig"])
            .arg(bed.file("kubeconfig"))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Some(Self(child))
    }
}

impl Drop for Flagger {
    fn drop(&mut self) {
        // It may have ended before.
        self.0.kill().unwrap_or_default();
        self.0.wait().unwrap();
    }
}
