//! The record on disk: whatever is done to it is found, and a crash is not taken for tampering.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail the test")]

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use evenkeel_api::Key;
use evenkeel_base::FixedClock;
use evenkeel_control::{Action, Direction, Door as _, Outcome, Petition, Verdict};
use evenkeel_guard::{Entry, FileDoor, OpenError, read, verify};
use futures::executor::block_on;
use jiff::Timestamp;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Secret};
use proptest::prelude::*;
use serde_json::json;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    dir
}

fn open(dir: &Path) -> FileDoor {
    FileDoor::open(dir, Arc::new(FixedClock(at(50)))).unwrap()
}

fn ask(door: &FileDoor, action: &Action, direction: Direction) -> Verdict {
    let petition = Petition {
        controller: "delivery",
        object: &evenkeel_api::Key::of::<evenkeel_api::canary::Canary>("shop", "api"),
        action,
        text: &action.to_string(),
        after: None,
        reason: "StepDue",
        before: None,
        direction,
        now: at(40),
    };
    block_on(door.ask(&petition))
}

fn act(door: &FileDoor, replicas: i32) {
    let action = Action::Scale { key: Key::of::<Deployment>("shop", "api"), replicas };
    let Verdict::Allow(id) = ask(door, &action, Direction::Riskier) else { panic!() };
    block_on(door.settle(&id, Outcome::Done));
}

/// Something done to the lines of a record.
type Tamper = fn(&mut Vec<String>);

/// A record of six lines in one file.
fn recorded(name: &str) -> PathBuf {
    let dir = folder(name);
    let door = open(&dir);
    (1..=3).for_each(|replicas| act(&door, replicas));
    dir
}

fn lines(dir: &Path) -> Vec<String> {
    let text = fs::read_to_string(dir.join("000001.jsonl")).unwrap();
    text.lines().map(str::to_owned).collect()
}

fn put(dir: &Path, lines: &[String]) {
    fs::write(dir.join("000001.jsonl"), lines.join("\n") + "\n").unwrap();
}

fn finding(dir: &Path) -> String {
    verify(dir).map_or_else(|tampering| tampering.to_string(), |ok| format!("{} lines", ok.lines))
}

#[test]
fn a_sound_record_is_sound_and_goes_on_after_a_restart() {
    let dir = recorded("sound");
    assert_eq!(finding(&dir), "6 lines");
    act(&open(&dir), 9);
    assert_eq!(finding(&dir), "8 lines");
    let entries = read(&dir).unwrap();
    assert!(matches!(&entries[7].entry, Entry::Outcome { of: Some(7), .. }));
    assert_eq!((entries[6].time, entries[7].time), (at(40), at(50)));
}

#[test]
fn every_kind_of_tampering_is_found_with_its_line() {
    let table: [(&str, Tamper, &str); 7] = [
        ("edit", |l| l[2] = l[2].replace(" to 2", " to 9"), "line 3: its content does not match"),
        ("space", |l| l[2].insert(1, ' '), "line 3: its content does not match"),
        ("delete", |l| drop(l.remove(2)), "line 3: it is number 4 and does not follow on number 2"),
        ("insert", |l| l.insert(2, l[1].clone()), "line 3: it is number 2 and does not follow"),
        ("swap", |l| l.swap(2, 3), "line 3: it is number 4 and does not follow on number 2"),
        ("cut", |l| l.truncate(5), "ends with number 5, HEAD names number 6: the end was cut"),
        ("rubbish", |l| l[3] = "{}".to_owned(), "line 4: it is not a line of the record"),
    ];
    for (name, tamper, problem) in table {
        let dir = recorded(name);
        let mut all = lines(&dir);
        tamper(&mut all);
        put(&dir, &all);
        let found = finding(&dir);
        assert!(found.contains(problem), "{name}: {found}");
        // The door opens, says what is wrong, and lets only safer actions through.
        let door = open(&dir);
        let action = Action::Scale { key: Key::of::<Deployment>("shop", "api"), replicas: 0 };
        let Verdict::Deny { objections } = ask(&door, &action, Direction::Riskier) else {
            panic!("{name}")
        };
        assert!(objections[0].reason.contains("evenkeel audit verify"), "{objections:?}");
        assert!(matches!(ask(&door, &action, Direction::Safer), Verdict::Allow(_)), "{name}");
        assert_eq!(lines(&dir), all, "{name}: a damaged record is left as it is");
    }
}

#[test]
fn missing_files_are_found() {
    let dir = recorded("no-head");
    fs::remove_file(dir.join("HEAD")).unwrap();
    assert_eq!(finding(&dir), "HEAD line 0: it is missing");

    let dir = recorded("no-record");
    fs::remove_file(dir.join("000001.jsonl")).unwrap();
    assert!(finding(&dir).contains("the end was cut"), "{}", finding(&dir));

    let dir = recorded("no-first");
    fs::rename(dir.join("000001.jsonl"), dir.join("000002.jsonl")).unwrap();
    assert_eq!(finding(&dir), "000001.jsonl line 0: the file is missing");

    let found = finding(&folder("nothing"));
    assert_eq!(found, "000001.jsonl line 0: there is no audit record here");

    let dir = recorded("old-head");
    let old = fs::read(dir.join("HEAD")).unwrap();
    act(&open(&dir), 4);
    fs::write(dir.join("HEAD"), old).unwrap();
    assert!(finding(&dir).contains("an old HEAD was put back"), "{}", finding(&dir));
}

#[test]
fn a_crash_in_the_middle_of_a_line_is_mended_and_is_no_tampering() {
    let dir = recorded("torn");
    let path = dir.join("000001.jsonl");
    let whole = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{whole}{{\"v\":1,\"se")).unwrap();
    let summary = verify(&dir).unwrap();
    assert_eq!((summary.lines, summary.torn), (6, true));
    act(&open(&dir), 4);
    assert_eq!(finding(&dir), "8 lines");
    assert!(!verify(&dir).unwrap().torn);
}

#[test]
fn two_processes_cannot_write_one_record() {
    let dir = recorded("twice");
    let _first = open(&dir);
    let second = FileDoor::open(&dir, Arc::new(FixedClock(at(0))));
    assert!(matches!(second, Err(OpenError::InUse { .. })));
}

#[test]
fn what_a_secret_holds_does_not_reach_the_record() {
    let dir = folder("secret");
    let door = open(&dir);
    let key = Key::of::<Secret>("shop", "db");
    let action = Action::Patch { key, patch: json!({"data": {"password": "aHVudGVyMg=="}}) };
    assert!(matches!(ask(&door, &action, Direction::Neutral), Verdict::Allow(_)));
    let text = lines(&dir).join("");
    assert!(!text.contains("aHVudGVyMg") && text.contains("patch Secret/shop/db"), "{text}");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..Default::default() })]
    #[test]
    fn no_single_changed_byte_goes_unseen(at in 0_usize..2000, bit in 0_u8..7) {
        static RECORD: std::sync::OnceLock<(PathBuf, Vec<u8>)> = std::sync::OnceLock::new();
        let (dir, sound) = RECORD.get_or_init(|| {
            let dir = recorded("bytes");
            let sound = fs::read(dir.join("000001.jsonl")).unwrap();
            (dir, sound)
        });
        let mut bytes = sound.clone();
        let at = at % bytes.len();
        bytes[at] ^= 1 << bit;
        fs::write(dir.join("000001.jsonl"), bytes).unwrap();
        prop_assert!(verify(dir).is_err(), "byte {}", at);
    }
}
