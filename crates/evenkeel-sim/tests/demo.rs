//! The demo under virtual time: repeatable, fine with all safeguards, and not without one.

use evenkeel_sim::demo::{Safeguards, run};

const ALL: Safeguards = Safeguards { retries: true, drain: true, confirmation: true };

fn is_fine_and_repeatable(seed: u64) -> String {
    let (first, second) = (run(seed, ALL), run(seed, ALL));
    assert!(first.report.ok(), "seed {seed}\n{}\n{}", first.trace, first.report.table());
    assert_eq!(first.trace, second.trace, "seed {seed}");
    assert_eq!(first.report, second.report, "seed {seed}");
    first.trace
}

fn shows_its_damage(safeguards: Safeguards) {
    let outcome = run(7, safeguards);
    assert!(outcome.report.broken.is_none(), "{:?}", outcome.report.broken);
    assert!(!outcome.report.ok(), "{}\n{}", outcome.trace, outcome.report.table());
}

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_a_different_run() {
    assert_ne!(is_fine_and_repeatable(1), is_fine_and_repeatable(2));
}

#[test]
fn without_retries_clients_see_errors() {
    shows_its_damage(Safeguards { retries: false, ..ALL });
}

#[test]
fn without_drain_clients_see_errors() {
    shows_its_damage(Safeguards { drain: false, ..ALL });
}

#[test]
fn without_confirmation_steps_are_blind() {
    shows_its_damage(Safeguards { confirmation: false, ..ALL });
}
