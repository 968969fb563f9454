//! Plays seeds of the world of releases and prints what must not have been.
//!
//! `cargo xtask sim --seeds 10000` builds this with optimisation and runs it.
#![expect(clippy::print_stdout, reason = "it is a program for people")]

use std::process::ExitCode;

use evenkeel_sim::world::releases;

fn main() -> ExitCode {
    let number = |name: &str, default: u64| {
        let mut words = std::env::args().skip_while(|word| word != name);
        words.nth(1).and_then(|word| word.parse().ok()).unwrap_or(default)
    };
    let (first, seeds) = (number("--first", 1), number("--seeds", 100));
    let (mut bad, mut deaths) = (0, 0);
    for outcome in releases::play_all(first..first.saturating_add(seeds)) {
        deaths += outcome.deaths;
        if !outcome.breaches.is_empty() {
            bad += 1;
            println!("seed {}: {:?}", outcome.seed, outcome.trace);
            for breach in &outcome.breaches {
                println!("  {:>8} ms  {}", breach.at_ms, breach.what);
            }
        }
    }
    println!("{seeds} seeds, {deaths} deaths, {bad} with a breach");
    if bad == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
