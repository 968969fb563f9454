use std::{
    collections::{BTreeMap, VecDeque},
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use evenkeel_base::Clock;
use evenkeel_control::{
    AuditId, BoxFuture, Direction, Door, Objection, Outcome, Petition, Verdict,
};
use jiff::Timestamp;

use crate::{
    AllowAll, FileSink, Line, MemorySink, OpenError, Opinion, Policy, describe,
    record::{Entry, Tip},
};

/// Lines that wait for the record to become writable again. Beyond it they are counted only:
/// a disk that is full for hours must not fill the memory too.
const LATE_MAX: usize = 4096;
/// Held or denied actions whose repetition is not written again and again.
const REFUSED_MAX: usize = 1024;
/// Prefix of the identity of an action whose own line is still waiting to be written.
const LATE_PREFIX: &str = "late-";

/// Where lines go.
pub trait Sink: Send {
    /// Appends one line (newline included) and makes it durable; `seq` and `hash` are the new end
    /// of the record. When it fails, nothing of the line may stay.
    fn append(&mut self, line: &str, seq: u64, hash: &str) -> io::Result<()>;
}

/// The door with its record: asks the policy, writes the line, then answers.
pub struct Keeper<S> {
    book: Mutex<Book<S>>,
    policy: Box<dyn Policy>,
    clock: Arc<dyn Clock>,
}

/// The door of a running system.
pub type FileDoor = Keeper<FileSink>;

/// The door of a simulation or a test.
pub type MemoryDoor = Keeper<MemorySink>;

struct Book<S> {
    sink: S,
    tip: Tip,
    late: VecDeque<Late>,
    late_count: u64,
    /// Numbers that late asks got, until their outcome comes.
    late_seqs: BTreeMap<String, u64>,
    lost: u64,
    refused: BTreeMap<String, String>,
    damage: Option<String>,
}

struct Late {
    time: Timestamp,
    entry: Entry,
    /// Identity handed out for an ask, or that an outcome refers to: an outcome that waits behind
    /// its ask learns the number from it.
    id: Option<String>,
}

impl FileDoor {
    /// Opens or starts the record in `dir` (DATA-DIR/audit).
    ///
    /// A damaged record opens too: then only actions that make things safer pass, and the others
    /// are denied with what is wrong.
    ///
    /// **Errors**: the folder cannot be made or read, or another process has it open.
    pub fn open(dir: &Path, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let (sink, tip, damage) = FileSink::open(dir)?;
        Ok(Self::over(sink, tip, clock, damage))
    }
}

impl MemoryDoor {
    /// An empty record in memory.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self::over(MemorySink::default(), Tip::default(), clock, None)
    }

    /// The latest lines, oldest first.
    pub fn lines(&self) -> Vec<Line> {
        let book = self.book();
        book.sink.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Hash of the last line: equal for two runs only if their whole records are equal.
    pub fn digest(&self) -> String {
        self.book().tip.hash.clone()
    }
}

impl<S: Sink> Keeper<S> {
    pub(crate) fn over(sink: S, tip: Tip, clock: Arc<dyn Clock>, damage: Option<String>) -> Self {
        let book = Book {
            sink,
            tip,
            late: VecDeque::new(),
            late_count: 0,
            late_seqs: BTreeMap::new(),
            lost: 0,
            refused: BTreeMap::new(),
            damage,
        };
        Self { book: Mutex::new(book), policy: Box::new(AllowAll), clock }
    }

    /// Also asks this policy about riskier actions.
    #[must_use]
    pub fn with_policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policy = Box::new(policy);
        self
    }

    /// Tries again to write what could not be written; returns how many lines still wait.
    pub fn catch_up(&self) -> usize {
        let mut book = self.book();
        if let Err(error) = book.catch_up() {
            tracing::warn!(%error, "audit record not writable");
        }
        book.late.len()
    }

    fn book(&self) -> MutexGuard<'_, Book<S>> {
        // A panic elsewhere leaves at worst a line unwritten, which the next append notices.
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn answer(&self, petition: &Petition<'_>) -> Verdict {
        let safer = petition.direction == Direction::Safer;
        let opinion = match petition.direction {
            Direction::Riskier => self.policy.judge(petition),
            Direction::Safer | Direction::Neutral => Opinion::Allow,
        };
        let mut book = self.book();
        if let Some(why) = book.damage.clone().filter(|_| !safer) {
            return denied(why);
        }
        let text = format!("{} {}", petition.object, petition.text);
        match &opinion {
            Opinion::Allow => drop(book.refused.remove(&text)),
            Opinion::Hold { reason, .. } | Opinion::Deny { reason } => {
                if book.refused.get(&text) == Some(reason) {
                    return refusal(opinion);
                }
                if book.refused.len() == REFUSED_MAX {
                    book.refused.pop_first();
                }
                book.refused.insert(text, reason.clone());
            }
        }
        let written = book.write(petition.now, describe::ask(petition, &opinion));
        match (opinion, written) {
            (Opinion::Allow, Ok(seq)) => Verdict::Allow(AuditId(seq.to_string())),
            (Opinion::Allow, Err(error)) if safer => {
                tracing::error!(controller = petition.controller, object = %petition.object,
                    action = petition.text, %error, "not recorded yet, done all the same");
                let entry = describe::ask(petition, &Opinion::Allow);
                Verdict::Allow(AuditId(book.postpone_ask(petition.now, entry)))
            }
            (Opinion::Allow, Err(error)) => Verdict::Hold {
                until: None,
                objections: vec![objection(format!(
                    "the audit record cannot be written ({error}): free disk space or repair \
                     DATA-DIR/audit; evenkeel resumes by itself"
                ))],
            },
            // Refused either way; that the refusal is not on record does not change it.
            (opinion, written) => {
                if let Err(error) = written {
                    tracing::warn!(%error, "a refusal is not recorded");
                }
                refusal(opinion)
            }
        }
    }

    fn note_outcome(&self, id: &AuditId, outcome: Outcome<'_>) {
        let (outcome, error) = match outcome {
            Outcome::Done => ("done", None),
            Outcome::Failed(error) => ("failed", Some(error.to_owned())),
        };
        let now = self.clock.now();
        let mut book = self.book();
        let caught_up = book.catch_up();
        // While the action's own line waits it has no number; the outcome then waits behind it.
        let of = id.0.parse().ok().or_else(|| book.late_seqs.remove(&id.0));
        let entry = Entry::Outcome { of, outcome: outcome.to_owned(), error };
        if let Err(error) = caught_up.and_then(|()| book.append(now, false, entry.clone())) {
            tracing::warn!(%error, "audit record not writable");
            book.postpone(Late { time: now, entry, id: Some(id.0.clone()) });
        }
    }
}

impl<S: Sink> Book<S> {
    /// Appends a line after everything that is late; its number.
    fn write(&mut self, time: Timestamp, entry: Entry) -> io::Result<u64> {
        self.catch_up()?;
        self.append(time, false, entry)
    }

    fn append(&mut self, time: Timestamp, late: bool, entry: Entry) -> io::Result<u64> {
        if let Some(damage) = &self.damage {
            return Err(io::Error::other(damage.clone()));
        }
        let (line, tip) = self.tip.next(time, late, entry);
        self.sink.append(&line, tip.seq, &tip.hash)?;
        self.tip = tip;
        Ok(self.tip.seq)
    }

    fn catch_up(&mut self) -> io::Result<()> {
        while let Some(late) = self.late.front() {
            let (time, entry, id) = (late.time, late.entry.clone(), late.id.clone());
            let asked = matches!(entry, Entry::Ask { .. });
            let seq = self.append(time, true, entry)?;
            self.late.pop_front();
            if asked && let Some(id) = id {
                self.settle_late(id, seq);
            }
        }
        if self.lost > 0 {
            let (time, lines) = (Timestamp::UNIX_EPOCH, self.lost);
            self.append(time, true, Entry::Lost { lines })?;
            self.lost = 0;
        }
        Ok(())
    }

    /// A late ask got its number: its outcome refers to it, whether it waits too or is yet to come.
    fn settle_late(&mut self, id: String, seq: u64) {
        for late in &mut self.late {
            if late.id.as_ref() == Some(&id)
                && let Entry::Outcome { of, .. } = &mut late.entry
            {
                *of = Some(seq);
                return;
            }
        }
        if self.late_seqs.len() < LATE_MAX {
            self.late_seqs.insert(id, seq);
        }
    }

    fn postpone_ask(&mut self, time: Timestamp, entry: Entry) -> String {
        self.late_count += 1;
        let id = format!("{LATE_PREFIX}{}", self.late_count);
        self.postpone(Late { time, entry, id: Some(id.clone()) });
        id
    }

    fn postpone(&mut self, late: Late) {
        if self.late.len() == LATE_MAX {
            self.lost += 1;
        } else {
            self.late.push_back(late);
        }
    }
}

fn refusal(opinion: Opinion) -> Verdict {
    match opinion {
        Opinion::Hold { until, reason } => {
            Verdict::Hold { until, objections: vec![objection(reason)] }
        }
        Opinion::Deny { reason } => denied(reason),
        Opinion::Allow => denied("not recorded".to_owned()),
    }
}

fn denied(reason: String) -> Verdict {
    Verdict::Deny { objections: vec![objection(reason)] }
}

fn objection(reason: String) -> Objection {
    Objection { policy: "record", reason }
}

impl<S: Sink> Door for Keeper<S> {
    fn ask<'a>(&'a self, petition: &'a Petition<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(async move { self.answer(petition) })
    }

    fn settle<'a>(&'a self, id: &'a AuditId, outcome: Outcome<'a>) -> BoxFuture<'a, ()> {
        Box::pin(async move { self.note_outcome(id, outcome) })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

    use evenkeel_api::{Key, canary::Canary};
    use evenkeel_base::FixedClock;
    use evenkeel_control::Action;
    use futures::executor::block_on;
    use k8s_openapi::api::core::v1::Pod;

    use super::*;

    /// Refuses as long as it is told to.
    struct Disk {
        full: Arc<AtomicBool>,
        lines: MemorySink,
    }

    impl Sink for Disk {
        fn append(&mut self, line: &str, seq: u64, hash: &str) -> io::Result<()> {
            if self.full.load(Relaxed) {
                return Err(io::Error::other("no space left"));
            }
            self.lines.append(line, seq, hash)
        }
    }

    fn door() -> (Keeper<Disk>, Arc<AtomicBool>) {
        let full = Arc::new(AtomicBool::new(false));
        let disk = Disk { full: full.clone(), lines: MemorySink::default() };
        let clock = Arc::new(FixedClock(Timestamp::from_second(100).unwrap()));
        (Keeper::over(disk, Tip::default(), clock, None), full)
    }

    fn ask<S: Sink>(door: &Keeper<S>, direction: Direction) -> Verdict {
        let action = Action::Scale { key: Key::of::<Pod>("shop", "a"), replicas: 1 };
        let petition = Petition {
            controller: "delivery",
            object: &Key::of::<Canary>("shop", "a"),
            action: &action,
            text: "scale",
            after: None,
            reason: "Test",
            before: None,
            direction,
            now: Timestamp::from_second(7).unwrap(),
        };
        block_on(door.ask(&petition))
    }

    fn settle<S: Sink>(door: &Keeper<S>, verdict: &Verdict) {
        let Verdict::Allow(id) = verdict else { panic!("{verdict:?}") };
        block_on(door.settle(id, Outcome::Done));
    }

    /// The record in short: number, late, what.
    fn record(door: &Keeper<Disk>) -> String {
        let line = |text: &str| {
            let line: Line = serde_json::from_str(text).unwrap();
            let late = if line.late { " late" } else { "" };
            match line.entry {
                Entry::Ask { direction, verdict, .. } => {
                    format!("{}{late} {direction} {verdict}", line.seq)
                }
                Entry::Outcome { of, outcome, .. } => {
                    format!("{}{late} {outcome} {}", line.seq, of.unwrap_or_default())
                }
                Entry::Lost { lines } => format!("{}{late} lost {lines}", line.seq),
            }
        };
        door.book().sink.lines.lines().map(line).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn a_line_before_and_a_line_after_every_action() {
        let (door, _) = door();
        settle(&door, &ask(&door, Direction::Riskier));
        settle(&door, &ask(&door, Direction::Safer));
        insta::assert_snapshot!(record(&door), @r"
        1 riskier allow
        2 done 1
        3 safer allow
        4 done 3
        ");
    }

    #[test]
    fn a_full_disk_stops_everything_but_what_makes_things_safer() {
        let (door, full) = door();
        full.store(true, Relaxed);
        let Verdict::Hold { objections, .. } = ask(&door, Direction::Riskier) else { panic!() };
        assert!(objections[0].reason.contains("no space left"), "{objections:?}");
        assert!(matches!(ask(&door, Direction::Neutral), Verdict::Hold { .. }));
        // One outcome comes while the disk is full, the other after it was mended.
        let (first, second) = (ask(&door, Direction::Safer), ask(&door, Direction::Safer));
        settle(&door, &first);
        assert_eq!(door.catch_up(), 3);
        full.store(false, Relaxed);
        settle(&door, &second);
        settle(&door, &ask(&door, Direction::Riskier));
        insta::assert_snapshot!(record(&door), @r"
        1 late safer allow
        2 late safer allow
        3 late done 1
        4 done 2
        5 riskier allow
        6 done 5
        ");
    }

    #[test]
    fn what_cannot_be_kept_is_counted() {
        let (door, full) = door();
        full.store(true, Relaxed);
        for _ in 0..LATE_MAX + 5 {
            assert!(matches!(ask(&door, Direction::Safer), Verdict::Allow(_)));
        }
        full.store(false, Relaxed);
        assert_eq!(door.catch_up(), 0);
        assert!(record(&door).ends_with("4097 late lost 5"), "{}", record(&door));
    }

    #[test]
    fn a_policy_is_asked_about_riskier_actions_only_and_not_recorded_twice() {
        struct Freeze;
        impl Policy for Freeze {
            fn judge(&self, _: &Petition<'_>) -> Opinion {
                Opinion::Hold { until: None, reason: "freeze until Monday".to_owned() }
            }
        }
        let (door, _) = door();
        let door = door.with_policy(Freeze);
        for _ in 0..3 {
            assert!(matches!(ask(&door, Direction::Riskier), Verdict::Hold { .. }));
        }
        assert!(matches!(ask(&door, Direction::Neutral), Verdict::Allow(_)));
        assert!(matches!(ask(&door, Direction::Safer), Verdict::Allow(_)));
        insta::assert_snapshot!(record(&door), @r"
        1 riskier hold
        2 neutral allow
        3 safer allow
        ");
    }

    #[test]
    fn a_damaged_record_lets_only_safer_actions_through() {
        let clock = Arc::new(FixedClock(Timestamp::from_second(100).unwrap()));
        let damage = Some("line 3 was edited".to_owned());
        let door = Keeper::over(MemorySink::default(), Tip::default(), clock, damage);
        assert!(matches!(ask(&door, Direction::Riskier), Verdict::Deny { .. }));
        assert!(matches!(ask(&door, Direction::Neutral), Verdict::Deny { .. }));
        assert!(matches!(ask(&door, Direction::Safer), Verdict::Allow(_)));
        assert_eq!(door.lines(), []);
    }
}
