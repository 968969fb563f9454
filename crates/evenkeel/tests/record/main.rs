//! The shared audit record in a real PostgreSQL: one chain of several processes, whatever happens
//! to the database. Skipped, with a line that says so, where PostgreSQL is not installed.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

mod database;

use std::{
    process::{Command, Stdio},
    sync::Arc,
    thread,
    time::Duration,
};

use evenkeel_api::{Key, canary::Canary};
use evenkeel_base::{Clock, FixedClock};
use evenkeel_control::{Action, Direction, Door as _, Outcome, Petition, Verdict};
use evenkeel_guard::{Keep, LineStore as _, RecordDoor, SigningKey};
use evenkeel_live::{PostgresRecord, RealTime};
use futures::executor::block_on;
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

use database::Database;

/// A process that writes the record.
fn open(database: &Database) -> RecordDoor {
    open_keeping(database, Keep::default(), Arc::new(RealTime::start()))
}

fn open_keeping(database: &Database, keep: Keep, clock: Arc<dyn Clock>) -> RecordDoor {
    let store = PostgresRecord::open(&database.address()).unwrap();
    let key = SigningKey::read_or_create(&database.dir.join("audit.key")).unwrap();
    RecordDoor::open_shared(Box::new(store), key, keep, clock).unwrap()
}

/// Asks for an action and says what became of it; what the door says against it.
fn act(door: &RecordDoor, replicas: i32, direction: Direction) -> Result<(), String> {
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
        now: RealTime::start().now(),
    };
    match block_on(door.ask(&petition)) {
        Verdict::Allow(id) => {
            block_on(door.settle(&id, Outcome::Done));
            Ok(())
        }
        Verdict::Hold { objections, .. } | Verdict::Deny { objections } => {
            Err(objections[0].reason.clone())
        }
    }
}

/// Exit code and all output of `evenkeel audit`.
fn audit(database: &Database, words: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_evenkeel"))
        .arg("audit")
        .args(words)
        .args(["--record", &database.address()])
        .env("PGPASSWORD", database::PASSWORD)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
    (output.status.code().unwrap(), text)
}

/// That the record is sound, by the key, and how many actions it holds.
fn sound(database: &Database) -> usize {
    let key = SigningKey::read(&database.dir.join("audit.key")).unwrap().public().to_string();
    let (code, text) = audit(database, &["verify", "--key", &key]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("the given key"), "{text}");
    let (code, text) = audit(database, &["list", "-o", "json"]);
    assert_eq!(code, 0, "{text}");
    let actions: Vec<Value> = serde_json::from_str(&text).unwrap();
    actions.len()
}

#[test]
fn several_processes_write_one_chain_and_the_tools_read_it() {
    let Some(database) = Database::start("chain") else { return };
    let writers: Vec<_> = (0..3)
        .map(|_| {
            let door = open(&database);
            thread::spawn(move || (1..=30).all(|n| act(&door, n, Direction::Riskier).is_ok()))
        })
        .collect();
    assert!(writers.into_iter().all(|writer| writer.join().unwrap()));
    assert_eq!(sound(&database), 90);
    let (code, text) = audit(&database, &["show", "2"]);
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("StepDue"), "{text}");
    let copies = std::fs::read_dir(std::env::temp_dir()).unwrap();
    let left: Vec<_> = copies
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.starts_with("evenkeel-audit-"))
        .collect();
    assert!(left.is_empty(), "copies stay behind: {left:?}");
}

#[test]
fn a_database_that_goes_away_holds_what_is_risky_and_loses_nothing() {
    let Some(mut database) = Database::start("outage") else { return };
    let door = open(&database);
    act(&door, 1, Direction::Riskier).unwrap();
    database.crash();
    let why = act(&door, 2, Direction::Riskier).unwrap_err();
    assert!(why.contains("audit record cannot be written") && why.contains("--record"), "{why}");
    act(&door, 3, Direction::Safer).unwrap();
    database.run();
    act(&door, 4, Direction::Riskier).unwrap();
    // The line of the safer action follows before it.
    drop(door);
    assert_eq!(sound(&database), 3);
    let (_, text) = audit(&database, &["list", "-o", "json"]);
    let late = |action: &Value| action["late"] == true;
    let actions: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(actions.iter().map(late).collect::<Vec<_>>(), [false, true, false]);
}

#[test]
fn a_database_that_stops_answering_is_given_up() {
    let Some(database) = Database::start("frozen") else { return };
    // For the door's waits.
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _entered = runtime.enter();
    let time = Arc::new(RealTime::start());
    let door = open(&database).with_timer(time);
    act(&door, 1, Direction::Riskier).unwrap();
    database.freeze(true);
    act(&door, 2, Direction::Safer).unwrap();
    let why = act(&door, 3, Direction::Riskier).unwrap_err();
    assert!(why.contains("audit record cannot be written"), "{why}");
    database.freeze(false);
    // Until it has noticed.
    let began = std::time::Instant::now();
    while let Err(why) = act(&door, 4, Direction::Riskier) {
        assert!(began.elapsed() < Duration::from_mins(1), "{why}");
        thread::sleep(Duration::from_millis(100));
    }
    drop(door);
    assert!(sound(&database) >= 3);
}

#[test]
fn a_process_that_starts_before_its_database_goes_on_as_soon_as_that_is_there() {
    let Some(mut database) = Database::stopped("late") else { return };
    let doors = [open(&database), open(&database)];
    for door in &doors {
        act(door, 1, Direction::Safer).unwrap();
        let why = act(door, 2, Direction::Riskier).unwrap_err();
        assert!(why.contains("cannot be written") && why.contains("refused"), "{why}");
        assert!(why.contains("postgres://***@127.0.0.1:"), "it is named: {why}");
        let away = door.health().away().unwrap();
        assert!(!away.contains(database::PASSWORD) && away.contains("refused"), "{away}");
    }
    database.run();
    // Nobody asks for anything: what waits is written all the same.
    let began = std::time::Instant::now();
    while let Some(away) = doors.iter().find_map(|door| door.health().away()) {
        assert!(began.elapsed() < Duration::from_mins(1), "{away}");
        thread::sleep(Duration::from_millis(100));
    }
    for door in &doors {
        act(door, 3, Direction::Riskier).unwrap();
    }
    drop(doors);
    assert_eq!(sound(&database), 4);
    let (_, text) = audit(&database, &["list", "-o", "json"]);
    let actions: Vec<Value> = serde_json::from_str(&text).unwrap();
    assert_eq!(actions.iter().filter(|action| action["late"] == true).count(), 2, "{text}");
    assert!(actions.iter().all(|action| action["outcome"] == "done"), "{text}");
}

#[test]
fn tables_of_a_newer_version_are_left_alone() {
    let Some(mut database) = Database::start("format") else { return };
    let door = open(&database);
    act(&door, 1, Direction::Riskier).unwrap();
    // A newer process has changed them, and this one must notice when it comes back.
    database.sql("UPDATE evenkeel_audit_end SET format = 9");
    database.crash();
    database.run();
    let newer = "its tables are of format 9, this version knows 1";
    for door in [door, open(&database)] {
        // A connection that broke is noticed by the first of them.
        let said: Vec<_> = (2..4).map(|n| act(&door, n, Direction::Riskier).unwrap_err()).collect();
        assert!(said[1].contains(newer), "{said:?}");
        assert!(door.health().away().unwrap().contains(newer));
        act(&door, 4, Direction::Safer).unwrap();
    }
    let (code, text) = audit(&database, &["verify"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains(newer), "{text}");
    database.sql("UPDATE evenkeel_audit_end SET format = 1");
    assert_eq!(sound(&database), 1, "nothing was written into them");
}

#[test]
fn a_database_that_was_put_back_to_an_older_state_is_not_continued() {
    let Some(database) = Database::start("restored") else { return };
    drop({
        let door = open(&database);
        act(&door, 1, Direction::Riskier).unwrap();
        door
    });
    for table in ["line", "end"] {
        database.sql(&format!("CREATE TABLE kept_{table} AS TABLE evenkeel_audit_{table}"));
    }
    let door = open(&database);
    act(&door, 2, Direction::Riskier).unwrap();
    // In one transaction.
    database.sql(
        "TRUNCATE evenkeel_audit_line, evenkeel_audit_end;
         INSERT INTO evenkeel_audit_line SELECT * FROM kept_line;
         INSERT INTO evenkeel_audit_end SELECT * FROM kept_end",
    );
    let why = act(&door, 3, Direction::Riskier).unwrap_err();
    assert!(why.contains("was written: lines are gone"), "{why}");
    act(&door, 4, Direction::Safer).unwrap();
    assert!(door.health().away().unwrap().contains("lines are gone"));
    drop(door);
    assert_eq!(sound(&database), 1, "the backup is as it was");
}

#[test]
fn who_cannot_tell_which_lines_are_old_lets_others_try() {
    let Some(database) = Database::start("unlocked") else { return };
    act(&open(&database), 1, Direction::Riskier).unwrap();
    let mut store = PostgresRecord::open(&database.address()).unwrap();
    let locks = "SELECT 1 / (SELECT count(*) FROM pg_locks WHERE locktype = 'advisory')";
    assert_eq!(store.files().unwrap().map(|files| files.len()), Some(1));
    database.sql(locks);
    store.remove(&[]).unwrap();
    assert!(!database.psql(locks), "it was given back");
    // A number that no file has: what it says of the files cannot be used.
    database.sql("UPDATE evenkeel_audit_line SET file = -1");
    store.files().unwrap_err();
    assert!(!database.psql(locks), "the lock is given back");
    let mut other = PostgresRecord::open(&database.address()).unwrap();
    database.sql("UPDATE evenkeel_audit_line SET file = 1");
    assert!(other.files().unwrap().is_some(), "others may drop old lines");
}

#[test]
fn old_lines_are_dropped_once_and_the_record_says_so() {
    let Some(database) = Database::start("retention") else { return };
    let keep = Keep { age: Some(Duration::from_hours(80 * 24)), ..Keep::default() };
    let day = |day: i64| {
        let now = jiff::Timestamp::from_second(day * 86_400).unwrap();
        open_keeping(&database, keep, Arc::new(FixedClock(now)))
    };
    for at in (0..=200).step_by(20) {
        let (one, two) = (day(at), day(at));
        act(&one, 1, Direction::Riskier).unwrap();
        act(&two, 2, Direction::Riskier).unwrap();
    }
    assert!(sound(&database) < 22, "nothing was dropped");
    let key = SigningKey::read(&database.dir.join("audit.key")).unwrap().public().to_string();
    let (_, text) = audit(&database, &["verify", "--key", &key]);
    assert!(text.contains("were dropped as --audit-keep says"), "{text}");

    // Who may not delete, drops nothing and goes on.
    database.sql("CREATE ROLE adder LOGIN PASSWORD 'pl4nted-password'");
    database.sql("GRANT SELECT, INSERT ON evenkeel_audit_line TO adder");
    database.sql("GRANT SELECT, INSERT, UPDATE ON evenkeel_audit_end TO adder");
    let address = database.address().replace("evenkeel:", "adder:");
    let store = Box::new(PostgresRecord::open(&address).unwrap());
    let signing = SigningKey::read(&database.dir.join("audit.key")).unwrap();
    let clock = Arc::new(FixedClock(jiff::Timestamp::from_second(900 * 86_400).unwrap()));
    let door = RecordDoor::open_shared(store, signing, keep, clock).unwrap();
    let before = sound(&database);
    act(&door, 3, Direction::Riskier).unwrap();
    drop(door);
    assert_eq!(sound(&database), before + 1);
}

#[test]
fn what_was_changed_in_the_tables_is_found() {
    let Some(database) = Database::start("tampering") else { return };
    let door = open(&database);
    (1..=3).for_each(|n| act(&door, n, Direction::Riskier).unwrap());
    drop(door);
    let key = SigningKey::read(&database.dir.join("audit.key")).unwrap().public().to_string();
    for (change, expected) in [
        (
            "UPDATE evenkeel_audit_line SET line = replace(line, 'shop', 'shed') WHERE seq = 2",
            "000001.jsonl line 2: its content does not match its hash: it was edited",
        ),
        ("DELETE FROM evenkeel_audit_line WHERE seq = 4", "lines were deleted"),
        ("DELETE FROM evenkeel_audit_line WHERE seq > 5", "the end was cut"),
    ] {
        database.sql("CREATE TABLE kept AS SELECT * FROM evenkeel_audit_line");
        database.sql(change);
        let (code, text) = audit(&database, &["verify", "--key", &key]);
        assert_eq!(code, 1, "{text}");
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains(database::PASSWORD), "{text}");
        database.sql("TRUNCATE evenkeel_audit_line");
        database.sql("INSERT INTO evenkeel_audit_line SELECT * FROM kept");
        database.sql("DROP TABLE kept");
    }
    assert_eq!(sound(&database), 3);
}

#[test]
fn who_cannot_read_what_is_old_lets_others_drop_it() {
    let Some(database) = Database::start("locked") else { return };
    let keep = Keep { age: Some(Duration::from_hours(80 * 24)), ..Keep::default() };
    let day = |day: i64| {
        let now = jiff::Timestamp::from_second(day * 86_400).unwrap();
        open_keeping(&database, keep, Arc::new(FixedClock(now)))
    };
    act(&day(0), 1, Direction::Riskier).unwrap();
    // Columns that it asks for then are not granted.
    database.sql("CREATE ROLE blind LOGIN PASSWORD 'pl4nted-password'");
    database.sql("GRANT SELECT (seq, line), INSERT, DELETE ON evenkeel_audit_line TO blind");
    database.sql("GRANT SELECT, INSERT, UPDATE ON evenkeel_audit_end TO blind");
    let address = database.address().replace("evenkeel:", "blind:");
    let store = Box::new(PostgresRecord::open(&address).unwrap());
    let signing = SigningKey::read(&database.dir.join("audit.key")).unwrap();
    let clock = Arc::new(FixedClock(jiff::Timestamp::from_second(200 * 86_400).unwrap()));
    let door = RecordDoor::open_shared(store, signing, keep, clock).unwrap();
    act(&door, 2, Direction::Riskier).unwrap();
    let none = "SELECT 1 / (count(*) = 0)::int FROM pg_locks WHERE locktype = 'advisory'";
    database.sql(none);
}

#[test]
fn a_wrong_address_says_what_is_wrong_and_no_password() {
    let Some(database) = Database::start("address") else { return };
    let error = |address: &str| match PostgresRecord::open(address) {
        Ok(mut record) => record.end().unwrap_err().to_string(),
        Err(error) => error.to_string(),
    };
    let address = database.address();
    let table = [
        ("mysql://u:pl4nted@h/d".to_owned(), "it is not the address of a PostgreSQL database"),
        (format!("{address}&what=pl4nted"), "what"),
        (format!("{address}&sslrootcert=/no/such"), "sslrootcert /no/such: No such file"),
        (address.replace(database::PASSWORD, "pl4nted"), "password authentication failed"),
        (address.replace("/postgres?", "/nowhere?"), "database \"nowhere\" does not exist"),
        ("postgres://u:pl4nted@127.0.0.1:1/d".to_owned(), "refused"),
    ];
    for (address, expected) in table {
        let text = error(&address);
        assert!(text.contains(expected) && !text.contains("pl4nted"), "{text}");
    }
    // Nobody has written there yet.
    let (code, text) = audit(&database, &["list"]);
    assert_eq!(code, 2, "{text}");
    assert!(text.contains("it holds no audit record"), "{text}");
}

#[test]
fn with_tls_the_server_is_verified() {
    let Some(mut database) = Database::start("tls") else { return };
    let authority = database.serve_tls();
    let verified = format!("{}&sslmode=verify-full&sslrootcert={authority}", database.address());
    assert_eq!(PostgresRecord::open(&verified).unwrap().end().unwrap(), None);
    let unverified = format!("{}&sslmode=require", database.address());
    let error = PostgresRecord::open(&unverified).unwrap().end().unwrap_err().to_string();
    assert!(error.contains("certificate"), "{error}");
}
