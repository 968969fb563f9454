//! Repository chores. `cargo xtask tidy` checks the shape of the workspace, `cargo xtask bench
//! NAME -o json` runs a benchmark against its peers, `cargo xtask sim --seeds N` plays simulated faults,
//! `cargo test -p xtask` holds the fence.

mod bench;
mod circles;
mod fence;
mod paths;
mod tidy;

use std::process::ExitCode;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["tidy"] => tidy::check(),
        ["bench", name] => bench::run(name, &bench::Form::Table),
        ["bench", name, "-o", "json"] => bench::run(name, &bench::Form::Json),
        ["sim", "--seeds", seeds] => sim(seeds),
        _ => {
            say(
                "usage: cargo xtask tidy | cargo xtask bench gateway|rules|up [-o json] | cargo xtask sim \
                 --seeds N",
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
    let status = std::process::Command::new(env!("CARGO")).args(words).arg(seeds).status()?;
    anyhow::ensure!(status.success(), "a seed showed what must not be");
    Ok(())
}

#[expect(clippy::print_stderr, reason = "a command line tool talks to people")]
fn say(text: &str) {
    eprintln!("{text}");
}
