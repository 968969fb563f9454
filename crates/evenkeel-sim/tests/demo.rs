//! The demo under virtual time: repeatable, fine with all safeguards, and not without one.

use evenkeel_sim::demo::{Safeguards, run};

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

fn shows_its_damage(safeguards: Safeguards) {
    let outcome = run(7, safeguards);
    assert!(outcome.report.broken.is_none(), "{:?}", outcome.report.broken);
    assert!(!outcome.report.ok(), "{}\n{}", outcome.trace, outcome.report.table());
}

#[test]
fn without_retries_clients_see_errors() {
    shows_its_damage(Safeguards { retries: false, ..ALL });
}

#[test]
fn without_drain_uploads_are_lost() {
    shows_its_damage(Safeguards { drain: false, ..ALL });
}

#[test]
fn without_confirmation_a_late_worker_sends_to_nobody() {
    shows_its_damage(Safeguards { confirmation: false, ..ALL });
}
