use std::io;

use evenkeel_api::{Key, canary::Canary};
use evenkeel_base::FixedClock;
use evenkeel_control::{Action, Withheld};
use futures::executor::block_on;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Secret};
use serde_json::json;

use super::*;
use crate::book::{AppendError, LATE_MAX, Sink};

/// Refuses as long as it is told to.
struct Disk {
    full: Arc<AtomicBool>,
    lines: MemorySink,
}

impl Sink for Disk {
    fn append(
        &mut self,
        text: &str,
        tip: &Tip,
        now: Timestamp,
        durable: bool,
    ) -> Result<(), AppendError> {
        if self.full.load(Relaxed) {
            return Err(io::Error::other("no space left").into());
        }
        self.lines.append(text, tip, now, durable)
    }
}

type DiskDoor = Keeper<Inline<Disk>>;

fn clock() -> Arc<FixedClock> {
    Arc::new(FixedClock(Timestamp::from_second(100).unwrap()))
}

fn door() -> (DiskDoor, Arc<AtomicBool>) {
    let full = Arc::new(AtomicBool::new(false));
    let disk = Disk { full: full.clone(), lines: MemorySink::default() };
    let book = Book::new(disk, Tip::default(), clock(), None);
    (Keeper::over(Inline::new(book), clock(), None), full)
}

fn ask_for<R: Record>(door: &Keeper<R>, action: &Action, direction: Direction) -> Verdict {
    let petition = Petition {
        controller: "delivery",
        object: &Key::of::<Canary>("shop", "a"),
        action,
        text: &action.to_string(),
        after: None,
        reason: "Test",
        before: None,
        direction,
        now: Timestamp::from_second(7).unwrap(),
    };
    block_on(door.ask(&petition))
}

fn ask<R: Record>(door: &Keeper<R>, direction: Direction) -> Verdict {
    let action = Action::Scale { key: Key::of::<Pod>("shop", "a"), replicas: 1 };
    ask_for(door, &action, direction)
}

fn settle<R: Record>(door: &Keeper<R>, verdict: &Verdict) {
    let Verdict::Allow(id) = verdict else { panic!("{verdict:?}") };
    block_on(door.settle(id, Outcome::Done));
}

/// The record in short: number, late, what.
fn record(door: &DiskDoor) -> String {
    let line = |text: &str| {
        let line: Line = serde_json::from_str(text).unwrap();
        let late = if line.late { " late" } else { "" };
        match line.entry {
            Entry::Ask(asked) => {
                let said = asked.objections.iter().map(|o| format!(" {}:{}", o.policy, o.verdict));
                let said = said.collect::<Vec<_>>().concat();
                format!("{}{late} {} {}{said}", line.seq, asked.direction, asked.verdict)
            }
            Entry::Outcome { of, outcome, .. } => {
                format!("{}{late} {outcome} {}", line.seq, of.unwrap_or_default())
            }
            Entry::Lost { lines } => format!("{}{late} lost {lines}", line.seq),
            other => format!("{}{late} {other:?}", line.seq),
        }
    };
    door.record.book().sink.lines.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn catch_up(door: &DiskDoor) -> usize {
    let mut book = door.record.book();
    book.commit(Vec::new());
    book.late_len()
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
    assert_eq!(
        objections[0].reason,
        "the audit record cannot be written (no space left): free disk space or repair \
         DATA-DIR/audit; evenkeel resumes by itself"
    );
    assert!(matches!(ask(&door, Direction::Neutral), Verdict::Hold { .. }));
    // One outcome comes while the disk is full, the other after it was repaired.
    let (first, second) = (ask(&door, Direction::Safer), ask(&door, Direction::Safer));
    settle(&door, &first);
    assert_eq!(catch_up(&door), 3);
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
    assert_eq!(catch_up(&door), 0);
    assert!(record(&door).ends_with("4097 late lost 5"), "{}", record(&door));
}

/// Holds whatever it sees.
struct Hold(&'static str);

impl Policy for Hold {
    fn name(&self) -> &'static str {
        self.0
    }
    fn judge(&self, _: &Petition<'_>) -> Opinion {
        Opinion::Hold { until: None, reason: format!("{} says no", self.0) }
    }
}

#[test]
fn what_thousands_of_objects_wait_for_is_on_record_once_however_often_they_ask() {
    let (door, _) = door();
    let door = door.with_policy(Hold("one"));
    for _ in 0..3 {
        for n in 0..2_000 {
            let key = Key::of::<Pod>("shop", &format!("a{n}"));
            let action = Action::Scale { key, replicas: 1 };
            assert!(matches!(ask_for(&door, &action, Direction::Riskier), Verdict::Hold { .. }));
        }
    }
    assert_eq!(door.record.book().tip.seq, 2_000);
}

#[test]
fn outcomes_find_the_lines_of_thousands_of_late_actions() {
    let (door, full) = door();
    full.store(true, Relaxed);
    let verdicts: Vec<_> = (0..LATE_MAX).map(|_| ask(&door, Direction::Safer)).collect();
    full.store(false, Relaxed);
    assert_eq!(catch_up(&door), 0);
    full.store(true, Relaxed);
    let last = ask(&door, Direction::Safer);
    full.store(false, Relaxed);
    assert_eq!(catch_up(&door), 0);
    // The one that was allowed first is forgotten, not one whose number begins with a 1.
    for verdict in [&verdicts[1], &verdicts[9], &last] {
        settle(&door, verdict);
    }
    let lines = record(&door);
    assert!(lines.ends_with("4098 done 2\n4099 done 10\n4100 done 4097"), "{lines}");
}

#[test]
fn the_first_objection_decides_and_all_are_recorded() {
    let (door, _) = door();
    let door = door.with_policy(Hold("one")).with_policy(Hold("two"));
    let Verdict::Hold { objections, .. } = ask(&door, Direction::Neutral) else { panic!() };
    let reasons: Vec<_> = objections.iter().map(ToString::to_string).collect();
    assert_eq!(reasons, ["one: one says no", "two: two says no"]);
    for _ in 0..3 {
        assert!(matches!(ask(&door, Direction::Riskier), Verdict::Hold { .. }));
    }
    assert!(matches!(ask(&door, Direction::Safer), Verdict::Allow(_)));
    assert!(matches!(ask(&door, Direction::Riskier), Verdict::Hold { .. }));
    insta::assert_snapshot!(record(&door), @r"
    1 neutral hold one:hold two:hold
    2 safer allow one:hold two:hold
    3 riskier hold one:hold two:hold
    ");
}

#[test]
fn an_empty_target_is_refused_whatever_the_direction() {
    let (door, _) = door();
    let action = Action::Scale { key: Key::of::<Pod>("shop", ""), replicas: 1 };
    let Verdict::Deny { objections } = ask_for(&door, &action, Direction::Safer) else { panic!() };
    assert!(
        objections[0].reason.contains("an empty target never means all objects"),
        "{objections:?}"
    );
    assert_eq!(record(&door), "1 safer deny target-sanity:deny");
}

#[test]
fn a_damaged_record_lets_only_safer_actions_through() {
    let damage = Some("line 3 was edited".to_owned());
    let book = Book::new(MemorySink::default(), Tip::default(), clock(), damage.clone());
    let door = Keeper::over(Inline::new(book), clock(), damage);
    assert!(matches!(ask(&door, Direction::Riskier), Verdict::Deny { .. }));
    assert!(matches!(ask(&door, Direction::Neutral), Verdict::Deny { .. }));
    assert!(matches!(ask(&door, Direction::Safer), Verdict::Allow(_)));
    assert_eq!(door.lines(), []);
}

#[test]
fn nothing_secret_reaches_the_record() {
    let door = MemoryDoor::new(clock());
    let key = Key::of::<Secret>("shop", "db");
    let patch = json!({"data": {"password": "aHVudGVyMg=="}});
    let action = Action::Patch { key, patch: patch.clone() };
    let Verdict::Allow(id) = ask_for(&door, &action, Direction::Riskier) else { panic!() };
    let error = format!("{patch}: Secret is invalid: \"aHVudGVyMg==\"");
    block_on(door.settle(&id, Outcome::Failed(&error)));
    let url = "http://user:pass@hook.test/x?key=abcdef";
    let other = Action::Patch { key: Key::of::<Pod>("shop", "a"), patch: json!({"x": url}) };
    let Verdict::Allow(id) = ask_for(&door, &other, Direction::Riskier) else { panic!() };
    block_on(door.settle(&id, Outcome::Failed(&format!("no answer from {url}"))));
    let all = serde_json::to_string(&door.lines()).unwrap();
    for secret in ["aHVudGVyMg", "user", "pass@", "abcdef"] {
        assert!(!all.contains(secret), "{secret}: {all}");
    }
    let Entry::Ask(secret) = &door.lines()[0].entry else { panic!() };
    assert_eq!(secret.action, "patch Secret/shop/db data.password");
    assert_eq!((&secret.after, &secret.body), (&None, &None));
    let Entry::Ask(pod) = &door.lines()[2].entry else { panic!() };
    assert_eq!(pod.action, "patch Pod/shop/a x");
    assert_eq!(pod.body.as_deref(), Some(r#"{"x":"http://***@hook.test/x?key=***"}"#));
    let Entry::Outcome { error, .. } = &door.lines()[3].entry else { panic!() };
    assert_eq!(error.as_deref(), Some("no answer from http://***@hook.test/x?key=***"));
}

/// Never answers, and keeps what it was asked.
#[derive(Default)]
struct Hanging(Mutex<Vec<Request>>);

impl Record for Hanging {
    fn submit(&self, request: Request) {
        self.0.lock().unwrap().push(request);
    }
}

/// Time is up at once.
struct Impatient;

impl Timer for Impatient {
    fn sleep(&self, _: Duration) -> BoxFuture<'static, ()> {
        Box::pin(future::ready(()))
    }
}

#[test]
fn a_disk_that_does_not_answer_blocks_no_safer_action() {
    let mut door = Keeper::over(Hanging::default(), clock(), None);
    door.timer = Some(Arc::new(Impatient));
    let Verdict::Hold { objections, .. } = ask(&door, Direction::Riskier) else { panic!() };
    assert!(objections[0].reason.contains("(no answer within 10 s)"));
    let safer = ask(&door, Direction::Safer);
    settle(&door, &safer);
    // The disk comes back: what was given up is not written, what happened is, as late.
    let requests = std::mem::take(&mut *door.record.0.lock().unwrap());
    let (written, _) = self::door();
    written.record.book().commit(requests);
    insta::assert_snapshot!(record(&written), @r"
    1 late safer allow
    2 done 1
    ");
}

#[test]
fn an_action_given_up_while_its_line_was_written_is_withdrawn() {
    struct GivenUp(DiskDoor);
    impl Record for GivenUp {
        fn submit(&self, request: Request) {
            let What::Ask(ask) = request.what else { return };
            let (reply, waiting) = oneshot::channel();
            let request = Request { time: request.time, what: What::Ask(Ask { reply, ..ask }) };
            // Between the check for it and the answer, nobody waits any more.
            let drafts = [request];
            let seqs = self.0.record.book().write(&drafts, request_time()).unwrap();
            drop(waiting);
            self.0.record.book().written(drafts.into(), &seqs);
        }
    }
    let door = Keeper::over(GivenUp(self::door().0), clock(), None);
    assert!(matches!(ask(&door, Direction::Riskier), Verdict::Hold { .. }));
    let inner = &door.record.0;
    assert!(inner.record.book().has_more());
    inner.record.book().commit(Vec::new());
    insta::assert_snapshot!(record(inner), @r"
    1 riskier allow
    2 withdrawn 1
    ");
}

fn request_time() -> Timestamp {
    Timestamp::from_second(7).unwrap()
}

#[test]
fn what_would_be_done_with_an_observed_object_is_on_record() {
    let door = MemoryDoor::new(clock());
    door.foresee(&Prediction {
        controller: "delivery",
        object: &Key::of::<Canary>("shop", "a"),
        text: "would NewRevision",
        reason: "NewRevision",
        now: Timestamp::from_second(7).unwrap(),
    });
    let [line] = &door.lines()[..] else { panic!("{:?}", door.lines()) };
    let Entry::Ask(asked) = &line.entry else { panic!("{line:?}") };
    let said = (&*asked.verb, &*asked.verdict, &*asked.action, &*asked.object);
    assert_eq!(said, ("predict", "observe", "would NewRevision", "Canary/shop/a"));
}

#[test]
fn what_a_controller_does_not_begin_is_on_record_once_for_each_reason() {
    let (door, _) = door();
    let hold = |mark: &str| {
        let withheld = Withheld {
            what: "start a new version".to_owned(),
            policy: "budget",
            why: format!("{mark}: 3.14 % is left"),
            mark: mark.to_owned(),
        };
        door.withhold(&OwnHold {
            controller: "delivery",
            object: &Key::of::<Canary>("shop", "a"),
            withheld: &withheld,
            reason: "BudgetPending",
            now: Timestamp::from_second(7).unwrap(),
        });
    };
    for mark in ["low", "low", "none", "low", "low"] {
        hold(mark);
    }
    // Less risk is no beginning.
    assert!(matches!(ask(&door, Direction::Safer), Verdict::Allow(_)));
    hold("low");
    assert!(matches!(ask(&door, Direction::Riskier), Verdict::Allow(_)));
    hold("low");
    insta::assert_snapshot!(record(&door), @r"
    1 riskier hold budget:hold
    2 riskier hold budget:hold
    3 riskier hold budget:hold
    4 safer allow
    5 riskier allow
    6 riskier hold budget:hold
    ");
    let lines = door.record.book();
    let line: Line = serde_json::from_str(lines.sink.lines.lines().next().unwrap()).unwrap();
    let Entry::Ask(asked) = line.entry else { panic!() };
    let said = (&*asked.verb, &*asked.action, &*asked.reason, asked.why.as_deref());
    assert_eq!(
        said,
        ("start", "start a new version", "BudgetPending", Some("low: 3.14 % is left"))
    );
}

/// Allows by an exception.
struct Except;

impl Policy for Except {
    fn name(&self) -> &'static str {
        "budget"
    }
    fn judge(&self, _: &Petition<'_>) -> Opinion {
        Opinion::AllowBecause { reason: "by kim".to_owned() }
    }
}

#[test]
fn an_exception_is_on_record_and_opens_nothing_that_another_policy_holds() {
    let (door, _) = door();
    let door = door.with_policy(Except);
    assert!(matches!(ask(&door, Direction::Riskier), Verdict::Allow(_)));
    assert!(matches!(ask(&door, Direction::Safer), Verdict::Allow(_)));
    let door = door.with_policy(Hold("two"));
    let Verdict::Hold { objections, .. } = ask(&door, Direction::Riskier) else { panic!() };
    assert_eq!(objections.len(), 1, "{objections:?}");
    insta::assert_snapshot!(record(&door), @r"
    1 riskier allow budget:allow
    2 safer allow
    3 riskier hold budget:allow two:hold
    ");
}
