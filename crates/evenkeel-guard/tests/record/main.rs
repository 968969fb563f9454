//! The record on disk: whatever is done to it is found, and a crash is not taken for tampering.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test's helpers may fail the test")]

mod following;
mod forging;
mod format1;
mod keeping;
mod sharing;
mod tampering;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use evenkeel_api::{Key, canary::Canary};
use evenkeel_base::FixedClock;
use evenkeel_control::{Action, Direction, Door as _, Outcome, Petition, Verdict};
use evenkeel_guard::{
    Check, Keep, Line, OpenError, PublicKey, RecordDoor, Settings, SigningKey, Tampering, Unsound,
    read, verify,
};
use futures::executor::block_on;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use sha2::{Digest as _, Sha256};

fn sha256(text: &str) -> String {
    let bytes = Sha256::digest(text.as_bytes());
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().concat()
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

/// An empty place for one test: the record in `audit`, the key in `keys`.
fn folder(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("record").join(name);
    if dir.exists() {
        fs::remove_dir_all(&dir).unwrap();
    }
    fs::create_dir_all(&dir).unwrap();
    dir
}

fn key(dir: &Path) -> PublicKey {
    SigningKey::read_or_create(&dir.join("keys/audit.key")).unwrap().public()
}

fn settings(dir: &Path, keep: Keep) -> Settings {
    let key = SigningKey::read_or_create(&dir.join("keys/audit.key")).unwrap();
    Settings { dir: dir.join("audit"), key, keep }
}

fn try_open(dir: &Path, keep: Keep, second: i64) -> Result<RecordDoor, OpenError> {
    RecordDoor::open(settings(dir, keep), Arc::new(FixedClock(at(second))))
}

fn open(dir: &Path) -> RecordDoor {
    try_open(dir, Keep::default(), 50).unwrap()
}

fn ask(door: &RecordDoor, replicas: i32, direction: Direction) -> Verdict {
    let action = Action::Scale { key: Key::of::<Deployment>("shop", "api"), replicas };
    let petition = Petition {
        controller: "delivery",
        object: &Key::of::<Canary>("shop", "api"),
        action: &action,
        text: &action.to_string(),
        after: None,
        reason: "StepDue",
        before: None,
        direction,
        now: at(40),
    };
    block_on(door.ask(&petition))
}

/// Why the door refuses an action.
fn denied(door: &RecordDoor) -> String {
    let Verdict::Deny { objections } = ask(door, 0, Direction::Riskier) else { panic!() };
    objections[0].reason.clone()
}

fn act(door: &RecordDoor, replicas: i32) {
    let Verdict::Allow(id) = ask(door, replicas, Direction::Riskier) else { panic!() };
    block_on(door.settle(&id, Outcome::Done));
}

/// A record of seven lines in one file: its own first line, and three actions.
fn recorded(name: &str) -> PathBuf {
    let dir = folder(name);
    let door = open(&dir);
    (1..=3).for_each(|replicas| act(&door, replicas));
    dir
}

fn path(dir: &Path, number: u32) -> PathBuf {
    dir.join(format!("audit/{number:06}.jsonl"))
}

fn lines(dir: &Path) -> Vec<String> {
    fs::read_to_string(path(dir, 1)).unwrap().lines().map(str::to_owned).collect()
}

fn put(dir: &Path, lines: &[String]) {
    let lines: Vec<_> = lines.iter().map(|line| format!("{line}\n")).collect();
    fs::write(path(dir, 1), lines.concat()).unwrap();
}

/// What verification says without and with the key; the same unless the key finds more.
fn finding(dir: &Path) -> String {
    let say = |key: Option<&PublicKey>| {
        let check = Check { key, copy_of_head: None };
        match verify(&dir.join("audit"), &check) {
            Ok(sound) => format!("lines {} to {}", sound.first, sound.last),
            Err(tampering) => tampering.to_string(),
        }
    };
    let (without, with) = (say(None), say(Some(&key(dir))));
    if without == with { without } else { format!("{without} | with the key: {with}") }
}

fn all(dir: &Path) -> Vec<Line> {
    let mut lines = Vec::new();
    read(&dir.join("audit"), |line| lines.push(line)).unwrap();
    lines
}
