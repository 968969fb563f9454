//! How long lines are kept, what they cost, and how large files get.

use std::time::Duration;

use evenkeel_guard::Summary;
use futures::future::join_all;
use serde_json::json;

use super::*;

const DAY: i64 = 86_400;

/// Opens the record at a day and acts once.
fn act_on(dir: &Path, day: i64) {
    let keep = Keep { age: Some(Duration::from_hours(80 * 24)), ..Keep::default() };
    let door = try_open(dir, keep, day * DAY).unwrap();
    act(&door, 1);
}

fn summary(dir: &Path) -> Summary {
    verify(&dir.join("audit"), &Check { key: Some(&key(dir)), copy_of_head: None }).unwrap()
}

#[test]
fn old_files_go_whole_and_the_record_says_so() {
    let dir = folder("retention");
    // Eighty days are kept, so a file is closed after ten.
    for day in [0, 11, 22, 33] {
        act_on(&dir, day);
    }
    let sound = summary(&dir);
    assert_eq!((sound.first, sound.last, sound.files, sound.dropped), (1, 12, 4, None));
    act_on(&dir, 103);
    let sound = summary(&dir);
    assert_eq!((sound.first, sound.last, sound.files), (7, 16, 3));
    let dropped = sound.dropped.unwrap();
    assert_eq!((dropped.first, dropped.last, dropped.lines, dropped.files), (1, 6, 6, 2));
    act_on(&dir, 104);
    assert_eq!(summary(&dir).last, 18, "nothing is dropped twice");

    // Removing one file more than the record says is found.
    fs::remove_file(path(&dir, 3)).unwrap();
    let found = finding(&dir);
    let problem = "the record begins with number 10, and no line says that those before it were";
    assert!(found.contains(problem), "{found}");
}

#[test]
fn a_crash_while_files_are_removed_is_no_tampering_and_is_finished_later() {
    let dir = folder("half-removed");
    for day in [0, 11, 22] {
        act_on(&dir, day);
    }
    let second = fs::read(path(&dir, 2)).unwrap();
    act_on(&dir, 103);
    assert_eq!(summary(&dir).first, 7);
    // As if the process had died between the first and the second removal.
    fs::write(path(&dir, 2), second).unwrap();
    assert_eq!(summary(&dir).first, 4);
    act_on(&dir, 104);
    let sound = summary(&dir);
    assert_eq!(sound.first, 7);
    let dropped = sound.dropped.unwrap();
    assert_eq!((dropped.first, dropped.last, dropped.files), (4, 6, 1));
}

/// Asks for this many actions at once.
fn ask_many(door: &RecordDoor, action: &Action, count: usize) {
    let object = Key::of::<Canary>("shop", "api");
    let petition = || Petition {
        controller: "delivery",
        object: &object,
        action,
        text: "patch",
        after: None,
        reason: "StepDue",
        before: None,
        direction: Direction::Neutral,
        now: at(40),
    };
    let petitions: Vec<_> = std::iter::repeat_with(petition).take(count).collect();
    let verdicts = block_on(join_all(petitions.iter().map(|petition| door.ask(petition))));
    assert!(verdicts.iter().all(|verdict| matches!(verdict, Verdict::Allow(_))));
}

fn patch(letters: usize) -> Action {
    let patch = json!({"data": {"text": "x".repeat(letters)}});
    Action::Patch { key: Key::of::<Deployment>("shop", "api"), patch }
}

#[test]
fn actions_cost_one_sync_each_and_less_together() {
    let dir = folder("syncs");
    let door = open(&dir);
    act(&door, 0);
    let first = door.stats().syncs;
    for replicas in 1..=20 {
        act(&door, replicas);
    }
    let alone = door.stats().syncs - first;
    assert!(alone <= 21, "{alone} syncs for 20 actions one by one");
    let before = door.stats().syncs;
    ask_many(&door, &patch(1), 200);
    let together = door.stats().syncs - before;
    assert!(together < 100, "{together} syncs for 200 actions at once");
    drop(door);
    assert_eq!(summary(&dir).last, 1 + 2 * 21 + 200);
}

#[test]
fn opening_reads_the_end_only() {
    let dir = recorded("tail");
    ask_many(&open(&dir), &patch(5000), 50);
    // An edit far from the end is for `verify` to find, not for the start.
    let mut all = lines(&dir);
    all[1] = all[1].replace("riskier", "safer!!");
    put(&dir, &all);
    act(&open(&dir), 4);
    assert!(finding(&dir).contains("line 2: its content does not match"));
    let mut seen = 0;
    let unsound = read(&dir.join("audit"), |_| seen += 1).unwrap_err();
    assert!(matches!(unsound, Unsound::Tampered(Tampering { line: 2, .. })), "{unsound}");
    assert_eq!(seen, 1);
}
