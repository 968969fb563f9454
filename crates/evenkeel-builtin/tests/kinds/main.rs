//! What the controllers do, beside what the real ones of Kubernetes do.
//!
//! ```text
//! cases/*.txt    sessions: commands, and what a real control plane shows after them
//! files/*.yaml   what they apply
//! accepted.txt   every line of ours that is another one, with the reason
//! ```
//! The embedded API server with these controllers plays every session always, in virtual time.
//! Where there is a real control plane (`tests/realk8s/up`) it plays them, too, and must show what
//! is written down. Nothing runs pods here, on either side: no node has the label that they ask
//! for, and the session says how they fare. Objects are compared in a normal form: without uids,
//! times, revisions and generated names.
//!
//! With `UPDATE=1` the sessions are written by the real control plane, if there is one, and the
//! table by the difference; a new row has to get its reason by hand.
#![expect(clippy::unwrap_used, clippy::panic, reason = "a step that fails fails the test")]
#![expect(clippy::disallowed_methods, reason = "the real control plane takes real time")]

#[path = "../../../evenkeel-cluster/tests/contract/accepted.rs"]
mod accepted;
mod commands;
mod embedded;
mod normal;
mod real;
#[path = "../../../evenkeel-cluster/tests/contract/session.rs"]
mod session;

use std::path::{Path, PathBuf};

use commands::{Command, Side};
use session::Step;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/kinds")
}

/// Where a session plays, on either side.
fn namespace(case: &str) -> String {
    format!("kinds-{}", case.replace('_', "-"))
}

fn is_update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

fn play(side: &mut dyn Side, steps: &[Step]) -> Vec<String> {
    let mut answers = Vec::new();
    for step in steps {
        answers.push(commands::run(side, &Command::parse(&step.command)));
    }
    answers
}

/// Plays a session on both sides.
fn kinds(name: &str) {
    let path = folder().join("cases").join(format!("{name}.txt"));
    let mut steps = session::parse(&std::fs::read_to_string(&path).unwrap());
    if let Some(mut real) = real::Real::start(name) {
        let said = play(&mut real, &steps);
        if is_update() {
            for (step, answer) in steps.iter_mut().zip(said) {
                step.answer = answer;
            }
            std::fs::write(&path, session::write(&steps)).unwrap();
        } else {
            let pairs = steps.iter().zip(&said).filter(|(step, said)| step.answer != **said);
            let changed: Vec<String> = pairs
                .map(|(step, said)| {
                    format!("$ {}\n{}", step.command, session::diff(&step.answer, said))
                })
                .collect();
            assert!(changed.is_empty(), "Kubernetes shows something else:\n{}", changed.join("\n"));
        }
    }
    let answers = play(&mut embedded::Embedded::start(name), &steps);
    let pairs = steps.iter().zip(&answers).filter(|(step, said)| step.answer != **said);
    let found = pairs.map(|(step, said)| accepted::Difference {
        case: name.to_owned(),
        command: step.command.clone(),
        lines: session::diff(&step.answer, said),
    });
    accepted::check(name, found.collect());
}

macro_rules! sessions {
    ($($name:ident)*) => {
        $(#[test] fn $name() { kinds(stringify!($name)); })*

        #[test]
        fn every_session_is_played_and_every_row_is_of_a_session() {
            let names = [$(stringify!($name)),*];
            let mut files: Vec<String> = std::fs::read_dir(folder().join("cases")).unwrap()
                .map(|file| file.unwrap().path().file_stem().unwrap().to_str().unwrap().to_owned())
                .collect();
            files.sort();
            assert_eq!(files, names);
            for row in accepted::rows() {
                assert!(names.contains(&&*row.difference.case), "{}", row.difference.case);
            }
        }
    };
}

sessions! {
    cron
    daemons
    jobs
    jobs_failing
    jobs_indexed
    stateful
    stateful_claims
    stateful_parallel
}
