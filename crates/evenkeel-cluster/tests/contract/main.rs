//! One contract for two API servers: what Kubernetes answers, and what the embedded one does.
//!
//! ```text
//! cases/*.txt    sessions: commands, and what the real API server answers
//! files/*        what they send
//! accepted.txt   every answer of the embedded one that is another one, with the reason
//! ```
//! The embedded API server plays every session always. Where there is a real control plane
//! (`cargo xtask realk8s`) it plays them, too, and must answer what is written down. Answers are
//! compared in a normal form: without uids, times, revisions and generated names. A difference
//! that is not in the table fails, and so does a row of the table that is no difference any more.
//!
//! With `UPDATE=1` both are written: the answers by the real one, the rows by the embedded one;
//! a new row has to get its reason by hand.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]
#![expect(clippy::disallowed_methods, reason = "the sessions are files, and servers take time")]

mod accepted;
mod normal;
mod servers;
mod session;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    sync::Once,
};

use accepted::Difference;
use servers::{Side, kubectl};
use session::{Step, diff};

static SKIPPED: Once = Once::new();

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/contract")
}

fn is_update() -> bool {
    std::env::var_os("UPDATE").is_some()
}

fn say(text: &str) {
    // Past the harness, which hides what a passing test prints.
    std::io::stderr().write_all(format!("{text}\n").as_bytes()).unwrap();
}

/// Plays a session on both sides.
fn contract(name: &str) {
    if kubectl().is_none() {
        SKIPPED.call_once(|| say("skipped: the contract needs kubectl in the PATH"));
        return;
    }
    let path = folder().join("cases").join(format!("{name}.txt"));
    let text = std::fs::read_to_string(&path).unwrap();
    let mut steps = session::parse(&text);
    let (said, answers) = std::thread::scope(|both| {
        let real = both.spawn(|| Side::real(name).map(|real| real.play(&steps)));
        let embedded = Side::embedded(name).play(&steps);
        (real.join().unwrap(), embedded)
    });
    if let Some(said) = said {
        let changed = steps.iter().zip(&said).filter(|(step, said)| step.answer != **said);
        let changed: Vec<String> = changed
            .map(|(step, said)| format!("$ {}\n{}", step.command, diff(&step.answer, said)))
            .collect();
        if is_update() {
            for (step, answer) in steps.iter_mut().zip(said) {
                step.answer = answer;
            }
            std::fs::write(&path, session::write(&steps)).unwrap();
        } else {
            assert!(changed.is_empty(), "Kubernetes answers otherwise:\n{}", changed.join("\n"));
        }
    }
    let found = steps.iter().zip(&answers).filter(|(step, said)| step.answer != **said);
    let found = found.map(|(step, said)| Difference {
        case: name.to_owned(),
        command: step.command.clone(),
        lines: diff(&step.answer, said),
    });
    accepted::check(name, found.collect());
}

macro_rules! contracts {
    ($($name:ident)*) => {
        $(#[test] fn $name() { contract(stringify!($name)); })*

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

contracts! {
    access
    apply
    batch
    custom
    delete
    lists
    objects
    patches
    rules
    security
    tables
    validation
}

/// A step and what it prints, for one side.
impl Side {
    fn play(&self, steps: &[Step]) -> Vec<String> {
        let said = |step: &Step| normal::text(&step.command, &self.run(&step.command), self);
        steps.iter().map(said).collect()
    }
}
