//! One record that several processes write: a single chain, whatever gets lost on the way.

use std::{
    collections::VecDeque,
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use evenkeel_control::{Door as _, Outcome, Verdict};
use evenkeel_guard::{
    Batch, Doubt, Entry, Keep, LineStore, Mirror, RecordDoor, SigningKey, StoredEnd, StoredFile,
    StoredLine,
};

use super::*;

/// What happens to the next batches, one after the other.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    Not,
    /// The answer is lost, and the lines are not stored.
    LostBefore,
    /// The answer is lost, and the lines are stored.
    LostAfter,
    /// The answer is lost, and the lines are stored when the store is asked for its end again.
    LostAndLate,
    Down,
}

#[derive(Default)]
struct Rows {
    lines: Vec<StoredLine>,
    end: Option<StoredEnd>,
    faults: VecDeque<Fault>,
    late: Vec<(Vec<StoredLine>, StoredEnd)>,
    dropping: bool,
    /// It answers nothing.
    away: bool,
}

/// A database that all who have a clone of it share.
#[derive(Clone, Default)]
struct Database(Arc<Mutex<Rows>>);

impl Database {
    fn rows(&self) -> MutexGuard<'_, Rows> {
        self.0.lock().unwrap()
    }

    fn meets(&self, faults: &[Fault]) {
        self.rows().faults.extend(faults);
    }

    fn open(&self, dir: &Path) -> RecordDoor {
        self.open_at(dir, 50, Keep::default())
    }

    fn open_at(&self, dir: &Path, second: i64, keep: Keep) -> RecordDoor {
        let key = SigningKey::read_or_create(&dir.join("keys/audit.key")).unwrap();
        let clock = Arc::new(FixedClock(at(second)));
        RecordDoor::open_shared(Box::new(self.clone()), key, keep, clock).unwrap()
    }

    /// Copies it to where the record of files lies, and says what verification says.
    fn verified(&self, dir: &Path) -> String {
        let audit = dir.join("audit");
        if audit.exists() {
            fs::remove_dir_all(&audit).unwrap();
        }
        drop(Mirror::new(Box::new(self.clone()), &audit).unwrap());
        finding(dir)
    }
}

fn down() -> io::Error {
    io::Error::other("the database does not answer")
}

impl Rows {
    fn ends_with(&self, after: (u64, &str)) -> bool {
        match &self.end {
            None => after.0 == 0,
            Some(end) => end.last.seq == after.0 && end.last.text.contains(after.1),
        }
    }

    fn store(&mut self, lines: Vec<StoredLine>, end: StoredEnd) {
        self.lines.extend(lines);
        self.end = Some(end);
    }
}

impl LineStore for Database {
    fn name(&self) -> String {
        "test://database".to_owned()
    }

    fn end(&mut self) -> io::Result<Option<StoredEnd>> {
        let rows = self.rows();
        if rows.away || rows.faults.front() == Some(&Fault::Down) {
            return Err(down());
        }
        Ok(rows.end.clone())
    }

    fn append(&mut self, batch: &Batch<'_>) -> Result<bool, Doubt> {
        let mut rows = self.rows();
        let fault = rows.faults.pop_front().unwrap_or(Fault::Not);
        if rows.away || fault == Fault::Down {
            return Err(Doubt::Not(down()));
        }
        // What was still on its way arrives before anything newer.
        for (lines, end) in std::mem::take(&mut rows.late) {
            let first = lines[0].seq - 1;
            if rows.end.as_ref().is_some_and(|end| end.last.seq == first) {
                rows.store(lines, end);
            }
        }
        if fault == Fault::LostBefore {
            return Err(Doubt::Unknown(down()));
        }
        if !rows.ends_with(batch.after) {
            return Ok(false);
        }
        let lines: Vec<_> = (batch.after.0 + 1..)
            .zip(&batch.lines)
            .map(|(seq, text)| StoredLine { seq, file: batch.file, text: (*text).to_owned() })
            .collect();
        let end = StoredEnd {
            last: lines.last().unwrap().clone(),
            head: batch.head.clone(),
            bytes: batch.bytes,
            started: batch.started,
        };
        if fault == Fault::LostAndLate {
            rows.late.push((lines, end));
            return Err(Doubt::Unknown(down()));
        }
        rows.store(lines, end);
        if fault == Fault::LostAfter {
            return Err(Doubt::Unknown(down()));
        }
        Ok(true)
    }

    fn hash_of(&mut self, seq: u64) -> io::Result<Option<String>> {
        let rows = self.rows();
        if rows.away {
            return Err(down());
        }
        let line = rows.lines.iter().find(|line| line.seq == seq);
        Ok(line.map(|line| serde_json::from_str::<Line>(&line.text).unwrap().hash))
    }

    fn files(&mut self) -> io::Result<Option<Vec<StoredFile>>> {
        let mut rows = self.rows();
        if std::mem::replace(&mut rows.dropping, true) {
            return Ok(None);
        }
        let mut files: Vec<StoredFile> = Vec::new();
        for line in &rows.lines {
            let bytes = u64::try_from(line.text.len()).map_err(io::Error::other)? + 1;
            let last = files.last_mut().filter(|file| file.number == line.file);
            if let Some(file) = last {
                file.bytes += bytes;
            } else {
                let first = line.text.clone();
                files.push(StoredFile { number: line.file, bytes, first });
            }
        }
        Ok(Some(files))
    }

    fn remove(&mut self, files: &[u32]) -> io::Result<()> {
        let mut rows = self.rows();
        rows.lines.retain(|line| !files.contains(&line.file));
        rows.dropping = false;
        Ok(())
    }

    fn read(&mut self, behind: u64) -> io::Result<Vec<StoredLine>> {
        // In small pieces.
        let rows = self.rows();
        Ok(rows.lines.iter().filter(|line| line.seq > behind).take(3).cloned().collect())
    }
}

fn is_allowed(door: &RecordDoor, replicas: i32) -> bool {
    match ask(door, replicas, Direction::Riskier) {
        Verdict::Allow(id) => {
            block_on(door.settle(&id, Outcome::Done));
            true
        }
        Verdict::Hold { .. } | Verdict::Deny { .. } => false,
    }
}

/// How often an action was asked for, and each outcome.
fn tally(dir: &Path) -> (usize, usize, usize) {
    let lines = all(dir);
    let outcomes = |wanted: &str| {
        let is_it = |line: &&Line| matches!(&line.entry, Entry::Outcome { outcome, .. } if outcome == wanted);
        lines.iter().filter(is_it).count()
    };
    let asks = lines.iter().filter(|line| matches!(line.entry, Entry::Ask(_))).count();
    (asks, outcomes("done"), outcomes("withdrawn"))
}

#[test]
fn processes_write_one_chain_in_turn() {
    let (dir, database) = (folder("shared"), Database::default());
    let (a, b) = (database.open(&dir), database.open(&dir));
    for replicas in 1..=20 {
        assert!(is_allowed(if replicas % 2 == 0 { &a } else { &b }, replicas));
    }
    // What is still to be written is written when they end.
    drop((a, b));
    assert_eq!(database.verified(&dir), "lines 1 to 41");
    assert_eq!(tally(&dir), (20, 20, 0));
    let c = database.open(&dir);
    assert!(is_allowed(&c, 21));
}

#[test]
fn processes_write_one_chain_at_the_same_time() {
    let (dir, database) = (folder("shared-at-once"), Database::default());
    let threads: Vec<_> = (0..4)
        .map(|_| {
            let door = database.open(&dir);
            std::thread::spawn(move || {
                assert!((1..=50).all(|replicas| is_allowed(&door, replicas)));
            })
        })
        .collect();
    for thread in threads {
        thread.join().unwrap();
    }
    assert_eq!(database.verified(&dir), "lines 1 to 401");
    assert_eq!(tally(&dir), (200, 200, 0));
}

#[test]
fn a_lost_answer_leaves_neither_a_gap_nor_an_action_that_seems_allowed() {
    let table = [
        (Fault::Down, (1, 1, 0)),
        (Fault::LostBefore, (1, 1, 0)),
        (Fault::LostAfter, (2, 1, 1)),
        (Fault::LostAndLate, (2, 1, 1)),
    ];
    for (fault, expected) in table {
        let (dir, database) = (folder("shared-lost"), Database::default());
        assert!(is_allowed(&database.open(&dir), 0), "the record begins");
        let a = database.open(&dir);
        database.meets(&[fault]);
        assert!(!is_allowed(&a, 1), "not without an answer");
        assert!(is_allowed(&a, 2), "the next one is answered");
        drop(a);
        assert!(database.verified(&dir).starts_with("lines 1 to "), "{}", database.verified(&dir));
        let (asks, done, withdrawn) = tally(&dir);
        assert_eq!((asks - 1, done - 1, withdrawn), expected);
    }
}

#[test]
fn no_lost_answer_is_forgotten_for_a_later_one() {
    use Fault::{LostAfter, LostAndLate, LostBefore};
    let table: [(&[Fault], usize); 4] = [
        (&[LostBefore, LostBefore, LostAfter], 1),
        (&[LostAndLate, LostBefore], 1),
        (&[LostAndLate, LostBefore, LostBefore], 1),
        (&[LostAfter, LostAndLate, LostBefore], 2),
    ];
    for ((faults, lost), differing) in table.into_iter().flat_map(|row| [(row, 0), (row, 1)]) {
        let (dir, database) = (folder("shared-doubts"), Database::default());
        assert!(is_allowed(&database.open(&dir), 0), "the record begins");
        let a = database.open(&dir);
        database.meets(faults);
        for replicas in (1..).take(faults.len()) {
            assert!(!is_allowed(&a, replicas * differing), "not without an answer");
        }
        assert!(is_allowed(&a, 9), "the next one is answered");
        drop(a);
        assert!(database.verified(&dir).starts_with("lines 1 to "), "{}", database.verified(&dir));
        let (asks, done, withdrawn) = tally(&dir);
        assert_eq!((asks - 2, done - 1, withdrawn), (lost, 1, lost));
    }
}

#[test]
fn what_makes_things_safer_happens_and_is_recorded_late() {
    let (dir, database) = (folder("shared-late"), Database::default());
    let a = database.open(&dir);
    database.meets(&[Fault::Down]);
    let Verdict::Allow(id) = ask(&a, 1, Direction::Safer) else { panic!() };
    block_on(a.settle(&id, Outcome::Done));
    assert!(is_allowed(&a, 2));
    drop(a);
    assert_eq!(database.verified(&dir), "lines 1 to 5");
    assert!(all(&dir)[1].late, "its line, whatever became of the outcome's");
}

/// Whether an action that makes things safer is done, with its outcome.
fn is_rescued(door: &RecordDoor, replicas: i32) -> bool {
    let Verdict::Allow(id) = ask(door, replicas, Direction::Safer) else { return false };
    block_on(door.settle(&id, Outcome::Done));
    true
}

fn held(door: &RecordDoor, replicas: i32) -> String {
    let Verdict::Hold { objections, .. } = ask(door, replicas, Direction::Riskier) else {
        panic!()
    };
    objections[0].reason.clone()
}

#[test]
fn a_process_that_starts_while_the_store_is_away_chains_to_what_it_finds_later() {
    for lines_before in [0, 1] {
        let (dir, database) = (folder("shared-away"), Database::default());
        if lines_before > 0 {
            assert!(is_allowed(&database.open(&dir), 0));
        }
        database.rows().away = true;
        let (a, b) = (database.open(&dir), database.open(&dir));
        for door in [&a, &b] {
            assert!(is_rescued(door, 1), "it does not wait for the record");
            let why = held(door, 2);
            let named = why.contains("test://database") && why.contains("does not answer");
            assert!(named, "{why}");
            let away = door.health().away().unwrap();
            assert!(away.contains("test://database is away since 1970-01-01T00:00:50Z"), "{away}");
        }
        let metrics = a.health().metrics();
        let gauge = "evenkeel_audit_record_away{record=\"test://database\"} 1\n";
        assert!(metrics.contains(gauge), "{metrics}");
        database.rows().away = false;
        assert!(is_allowed(&a, 3) && is_allowed(&b, 3));
        assert_eq!((a.health().away(), b.health().away()), (None, None));
        let gauge = "evenkeel_audit_record_away{record=\"test://database\"} 0\n";
        assert!(a.health().metrics().contains(gauge));
        drop((a, b));
        let last = 1 + 2 * lines_before + 8;
        assert_eq!(database.verified(&dir), format!("lines 1 to {last}"));
        assert_eq!(tally(&dir), (4 + lines_before, 4 + lines_before, 0));
        let is_late = |line: &&Line| line.late && matches!(line.entry, Entry::Ask(_));
        assert_eq!(all(&dir).iter().filter(is_late).count(), 2);
    }
}

#[test]
fn a_damaged_record_that_is_found_late_is_not_continued() {
    let (dir, database) = (folder("shared-away-damaged"), Database::default());
    assert!(is_allowed(&database.open(&dir), 0));
    database.rows().away = true;
    let stranger = database.open(&folder("shared-away-stranger"));
    assert!(is_rescued(&stranger, 1));
    database.rows().away = false;
    let why = held(&stranger, 2);
    assert!(why.contains("the same --audit-key"), "{why}");
    assert!(stranger.health().away().unwrap().contains("the same --audit-key"));
    drop(stranger);
    assert_eq!(database.verified(&dir), "lines 1 to 3");
}

#[test]
fn a_store_that_comes_back_with_fewer_lines_is_not_continued() {
    let (dir, database) = (folder("shared-restored"), Database::default());
    let a = database.open(&dir);
    assert!(is_allowed(&a, 1));
    // With its outcome.
    drop(a);
    let lines = database.rows().lines.len();
    let end = database.rows().end.clone();
    let a = database.open(&dir);
    assert!(is_allowed(&a, 2));
    database.rows().lines.truncate(lines);
    database.rows().end = end;
    // A backup is sound in itself, and still this process knows better.
    for replicas in 3..5 {
        let why = held(&a, replicas);
        assert!(why.contains("was written: lines are gone"), "{why}");
    }
    assert!(is_rescued(&a, 6));
    database.rows().lines.clear();
    database.rows().end = None;
    assert!(held(&a, 7).contains("lines are gone"), "an empty one");
    drop(a);
    assert!(database.rows().lines.is_empty(), "nothing is written into it");
}

#[test]
fn lines_of_a_stranger_and_a_cut_end_stop_what_is_risky() {
    let (dir, database) = (folder("shared-foreign"), Database::default());
    drop(database.open(&dir));
    assert!(is_allowed(&database.open(&dir), 1));
    let other = folder("shared-foreign-other");
    let stranger = database.open(&other);
    assert!(denied(&stranger).contains("the same --audit-key"));

    // While it runs, too.
    let ours = database.open(&dir);
    let whole = database.rows().lines.pop().unwrap();
    let last = database.rows().lines.last().unwrap().clone();
    database.rows().end.as_mut().unwrap().last = last;
    let Verdict::Hold { objections, .. } = ask(&ours, 2, Direction::Riskier) else { panic!() };
    assert!(objections[0].reason.contains("lines were deleted or added"), "{objections:?}");
    assert!(matches!(ask(&ours, 2, Direction::Safer), Verdict::Allow(_)));
    drop(ours);
    let reopened = database.open(&dir);
    assert!(denied(&reopened).contains("lines were deleted or added"));
    drop((reopened, whole));
    assert!(database.verified(&dir).contains("the end was cut"), "{}", database.verified(&dir));
}

#[test]
fn old_files_are_dropped_by_one_of_them_while_others_write() {
    let (dir, database) = (folder("shared-old"), Database::default());
    let keep = Keep { age: Some(Duration::from_hours(80 * 24)), ..Keep::default() };
    for day in (0..=400).step_by(20) {
        let door = || database.open_at(&dir, day * 86_400, keep);
        let writers = [door(), door(), door()].map(|door| {
            std::thread::spawn(move || assert!((1..=3).all(|replicas| is_allowed(&door, replicas))))
        });
        for writer in writers {
            writer.join().unwrap();
        }
    }
    let verified = database.verified(&dir);
    let first = verified.split_whitespace().nth(1).unwrap();
    assert!(first.parse::<u64>().is_ok_and(|first| first > 100), "{verified}");
}
