//! Repository chores. `cargo xtask tidy` checks the shape of the workspace, `cargo xtask bench
//! NAME -o json` runs a benchmark against its peers, `cargo xtask sim --seeds N` plays simulated faults,
//! `cargo xtask image` makes the container image, `cargo xtask realk8s` tests against a real
//! Kubernetes, `cargo test -p xtask` holds the fence.

mod bench;
mod circles;
mod fence;
mod image;
mod paths;
mod realk8s;
mod tar;
mod tidy;

use std::process::{Command, ExitCode};

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy::check(),
        ["bench", name, more @ ..] => bench::run(name, more),
        ["sim", "--seeds", seeds] => sim(seeds),
        ["image", flags @ ..] => image::run(flags),
        ["realk8s", more @ ..] => realk8s::run(more),
        _ => {
            say(
                "usage: cargo xtask tidy | cargo xtask bench live|gateway|rules|... [-o json] | cargo xtask sim \
                 --seeds N | cargo xtask image [--binary PATH] [--out FILE] [--name NAME] | cargo \
                 xtask realk8s [TEST...]",
            );
            return ExitCode::from(2);
        }
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Plays seeds of the simulated world of releases, optimised.
fn sim(seeds: &str) -> anyhow::Result<()> {
    let words = ["run", "--release", "-p", "evenkeel-sim", "--example", "world", "--", "--seeds"];
    let status = cargo().args(words).arg(seeds).status()?;
    anyhow::ensure!(status.success(), "a seed showed what must not be");
    Ok(())
}

/// Cargo, as it is when called by hand.
fn cargo() -> Command {
    let mut command = Command::new(env!("CARGO"));
    // What `cargo run` sets for this process would make build scripts run again, and all that
    // depends on them compile again.
    for (name, _) in std::env::vars_os() {
        let text = name.to_string_lossy();
        if text.starts_with("CARGO_PKG_") || text.starts_with("CARGO_MANIFEST_") {
            command.env_remove(&name);
        }
    }
    command
}

#[expect(clippy::print_stderr, reason = "a command line tool talks to people")]
fn say(text: &str) {
    eprintln!("{text}");
}

#[cfg(test)]
mod tests {
    /// README says `cargo run`; a workspace with several programs would ask which.
    #[test]
    fn cargo_run_knows_which_program_is_meant() {
        let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
        let mut metadata = std::process::Command::new(env!("CARGO"));
        metadata.args(["metadata", "--no-deps", "--offline", "--format-version", "1"]);
        let output = metadata.current_dir(root).output().expect("cargo");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        let members = text.split("\"workspace_default_members\":[").nth(1).expect("members");
        let members = members.split(']').next().unwrap_or_default();
        assert!(!members.contains(',') && members.contains("/crates/evenkeel#"), "{members}");
    }
}
