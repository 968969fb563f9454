//! `cargo xtask realk8s`: the suite that needs a real Kubernetes, with one made for it.

use std::{
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
};

use anyhow::Context as _;

use crate::say;

/// Control planes side by side: this many tests run at once that need one for themselves.
const CLUSTERS: [&str; 5] = ["one", "two", "three", "four", "five"];
/// What `build` and `up` answer when something is missing that only the machine's owner can add.
const MISSING: i32 = 3;
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

fn test(folder: &Path, only: &[&str]) -> anyhow::Result<ExitStatus> {
    let mut command = cargo(&["--", "--test-threads", THREADS]);
    command.args(only).env("EVENKEEL_REALK8S", folder).status().context("run cargo test")
}

/// `cargo test` of the suites: the controllers, and the embedded API server beside the real one.
fn cargo(more: &[&str]) -> Command {
    let mut command = crate::cargo();
    let suites = ["--test", "realk8s", "--test", "contract"];
    command.args(["test", "--workspace"]).args(suites).args(more).current_dir(root());
    command
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}
