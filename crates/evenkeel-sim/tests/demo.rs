//! The demo under virtual time: repeatable, fine with all safeguards, and not without one.

use evenkeel_sim::demo::{Safeguards, report::PhaseResult, run};

const ALL: Safeguards = Safeguards { retries: true, drain: true, confirmation: true };

#[test]
fn the_same_seed_gives_the_same_run_and_another_one_a_different_run() {
    let runs = [1, 2, 1, 2].map(|seed| std::thread::spawn(move || run(seed, ALL)));
    let [first, other, again, other_again] = runs.map(|run| run.join().unwrap());
    for (one, two) in [(&first, &again), (&other, &other_again)] {
        assert!(one.report.ok(), "{}\n{}", one.trace, one.report.table());
        assert_eq!(one.trace, two.trace);
        assert_eq!(one.report, two.report);
    }
    assert_ne!(first.trace, other.trace);
}

/// Fails, and for this reason alone.
fn shows_its_damage(safeguards: Safeguards, damage: &str) {
    let outcome = run(7, safeguards);
    assert!(outcome.report.broken.is_none(), "{:?}", outcome.report.broken);
    assert!(!outcome.report.ok(), "{}\n{}", outcome.trace, outcome.report.table());
    let faults: Vec<_> = outcome.report.phases.iter().flat_map(PhaseResult::faults).collect();
    assert!(faults.iter().all(|fault| fault.contains(damage)), "{faults:?}");
}

#[test]
fn without_retries_clients_see_errors() {
    shows_its_damage(Safeguards { retries: false, ..ALL }, "GETs failed");
}

#[test]
fn without_drain_uploads_are_lost() {
    shows_its_damage(Safeguards { drain: false, ..ALL }, "POSTs failed");
}

#[test]
fn without_confirmation_steps_are_decided_on_the_weight_before() {
    shows_its_damage(Safeguards { confirmation: false, ..ALL }, "was decided on");
}
