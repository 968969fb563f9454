//! `cargo xtask realk8s`: the suite that needs a real Kubernetes, with one made for it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::Context as _;

use crate::{image::Image, say};

/// Control planes side by side: this many tests run at once that need one for themselves.
const CLUSTERS: [&str; 5] = ["one", "two", "three", "four", "five"];
/// What `build` and `up` answer when something is missing that only the machine's owner can add.
const MISSING: i32 = 3;
/// The test that needs a real node, which is started for it alone.
const ON_A_NODE: &str = "pods::a_life_cycle_with_real_pods_under_load_fails_no_request";
/// Threads of the tests: nearly all of them wait.
const THREADS: &str = "16";

/// Builds what is not built yet, starts it, runs the tests whose names contain one of `only`, and
/// stops it, whatever happens: should this process die, `up` has left one behind that stops it.
pub(crate) fn run(only: &[&str]) -> anyhow::Result<()> {
    let scripts = root().join("tests/realk8s");
    let script = |name: &str| Command::new(scripts.join(name));
    let built = script("build").status().context("run tests/realk8s/build")?;
    if built.code() == Some(MISSING) {
        say("skipped: there is no Kubernetes to test against, and no Go to build it");
        return Ok(());
    }
    anyhow::ensure!(built.success(), "tests/realk8s/build: {built}");

    let ready = cargo(&["--no-run"]).status().context("run cargo test")?;
    anyhow::ensure!(ready.success(), "the tests do not compile");
    let folder = std::env::temp_dir().join(format!("evenkeel-realk8s-{}", std::process::id()));
    let me = std::process::id().to_string();
    let up = script("up").arg("--folder").arg(&folder).args(["--for", &me]).args(CLUSTERS).status();
    let tested = up.context("run tests/realk8s/up").and_then(|up| {
        anyhow::ensure!(up.success(), "tests/realk8s/up: {up}");
        if only.is_empty() || only.iter().any(|word| ON_A_NODE.contains(word)) {
            start_node(&folder)?;
        }
        test(&folder, only)
    });
    let keep = tested.as_ref().map_or(true, |status| !status.success());
    let down = script("down").args(keep.then_some("--keep")).arg(&folder).status();
    anyhow::ensure!(down.context("run tests/realk8s/down")?.success(), "tests/realk8s/down");
    if keep {
        say(&format!("logs are in {}", folder.display()));
    }
    anyhow::ensure!(tested?.success(), "a test failed");
    Ok(())
}

/// Starts the real node, if the machine can have one, with the images that it needs.
fn start_node(folder: &Path) -> anyhow::Result<()> {
    let images = folder.join("images");
    std::fs::create_dir_all(&images)?;
    let target = std::env::var_os("CARGO_TARGET_DIR").map(PathBuf::from);
    let target = target.unwrap_or_else(|| root().join("target"));
    // A static one would have to be compiled. What helps to debug it is most of it.
    let stripped = images.join("evenkeel");
    let mut strip = Command::new("strip");
    let strip = strip.arg("-o").arg(&stripped).arg(target.join("debug/evenkeel")).status();
    let strip = strip.context("run strip")?;
    anyhow::ensure!(strip.success(), "strip: {strip}");
    let mut node = Command::new(root().join("tests/realk8s/node"));
    node.arg("--folder").arg(folder);
    for binary in [stripped, folder.join("bin/pause")] {
        let Some(name) = binary.file_name().filter(|_| binary.exists()) else { continue };
        let tarball = images.join(name).with_extension("tar");
        let name = format!("example.com/{}:test", name.display());
        std::fs::write(&tarball, Image { binary, name }.make()?)?;
        node.arg(tarball);
    }
    let started = node.status().context("run tests/realk8s/node")?;
    if started.code() == Some(MISSING) {
        // It has said what is missing, and the test says that it is skipped.
        return Ok(());
    }
    anyhow::ensure!(started.success(), "tests/realk8s/node: {started}");
    Ok(())
}

fn test(folder: &Path, only: &[&str]) -> anyhow::Result<ExitStatus> {
    let mut command = cargo(&["--", "--test-threads", THREADS]);
    command.args(only).env("EVENKEEL_REALK8S", folder).status().context("run cargo test")
}

/// `cargo test` of the suites: the controllers, and the embedded API server beside the real one.
fn cargo(more: &[&str]) -> Command {
    let mut command = crate::cargo();
    let suites = ["--test", "realk8s", "--test", "contract", "--test", "kinds"];
    command.args(["test", "--workspace"]).args(suites).args(more).current_dir(root());
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
