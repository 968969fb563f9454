//! Real `evenkeel run` processes beside an API server, and what goes wrong between them.
//!
//! ```text
//! evenkeel run --TCP--> Line --HTTP--> Line --HTTPS--> API server     a plant plays the cluster
//!      \--HTTP--> Prometheus, and a receiver of webhooks and notifications
//! ```
//! The line between a process and the server goes dead, forbids, or ends watches, as a test says,
//! and counts what is asked. At the end of each test nothing that a process wrote anywhere may
//! contain what its kubeconfig keeps secret.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails the test")]

mod cluster;
#[path = "../record/database.rs"]
#[expect(dead_code, reason = "it is made for the tests of the record alone")]
mod database;
mod full;
mod leaders;
mod line;
mod panics;
mod process;
mod prometheus;
mod receiver;
mod record;
mod refusal;
mod secrets;
mod silence;
mod watches;

/// They wait most of the time, for intervals and limits that are real, so they do it together
/// however many threads the test harness has. One alone: `-- --ignored NAME`.
const ALL: [(&str, fn()); 12] = [
    ("silence", silence::a_black_holed_api_server_for_a_minute_costs_a_minute),
    ("watches", watches::watches_that_end_in_a_loop_are_reopened_at_leisure_and_nothing_is_missed),
    ("every_watch", watches::a_good_version_is_not_rolled_back_because_every_watch_ends_in_a_loop),
    ("killed", leaders::when_the_leader_is_killed_in_a_release_the_other_goes_on_within_the_lease),
    ("refusal", refusal::a_write_that_is_forbidden_is_said_and_tried_again_while_others_go_on),
    ("full", full::on_a_full_disk_nothing_acts_unrecorded_and_work_goes_on_once_there_is_room),
    ("record", record::a_rollback_that_is_due_is_done_before_the_database_of_the_record_is_there),
    ("panics", panics::a_panic_in_one_controller_stops_that_object_there_and_nothing_else),
    ("stopped", leaders::why_has_no_answer_while_the_leader_does_not_answer),
    ("one_leads", leaders::one_of_two_processes_leads_and_the_other_takes_over),
    (
        "credentials",
        leaders::what_keeps_a_process_from_its_cluster_is_said_without_what_is_secret_in_it,
    ),
    ("password", leaders::an_address_with_a_password_is_refused_and_not_repeated),
];

#[test]
fn all_at_once() {
    let start = |(name, test): (&str, fn())| {
        std::thread::Builder::new().name(name.to_owned()).spawn(test).unwrap()
    };
    let tests = ALL.map(start);
    let failed = tests.map(|test| (test.thread().name().map(str::to_owned), test.join().is_err()));
    let failed: Vec<_> = failed.into_iter().filter_map(|(name, is)| name.filter(|_| is)).collect();
    assert_eq!(failed, [""; 0], "why is told above");
}
