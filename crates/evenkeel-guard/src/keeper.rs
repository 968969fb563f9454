use std::{
    io,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use evenkeel_api::Key;
use evenkeel_base::Clock;
use evenkeel_control::{
    AuditId, BoxFuture, Direction, Door, Objection, Outcome, OwnHold, Petition, Prediction, Timer,
    Verdict,
};
use futures::{
    channel::oneshot,
    future::{self, Either},
};

use crate::{
    Health, Keep, Line, LineStore, MemorySink, OpenError, Opinion, Policy, SigningKey,
    book::{Ask, Book, Request, Sink as _, What},
    describe,
    files::FileSink,
    policy::{Chain, Judgement},
    recent::Recent,
    record::{Entry, Objected, Tip},
    shared::{Found, SharedSink},
    writer::{Inline, Record, Writer},
};

/// Held or denied actions whose repetition is not written again and again: as many as objects are
/// remembered elsewhere. Beyond it the one that was refused longest ago is forgotten.
const REFUSED_MAX: usize = 10_000;
/// Prefix of the identity of an action whose own line has no number yet.
const LATE_PREFIX: &str = "late-";
/// End of the identity of an action on a Secret: its error is scrubbed harder.
const SECRET_SUFFIX: &str = "-secret";
/// So long an action that makes things safer waits for a disk that does not answer.
const SAFER_WAIT: Duration = Duration::from_secs(1);
/// So long any other one does.
const OTHER_WAIT: Duration = Duration::from_secs(10);
/// What helps when the record in files cannot be written.
const REPAIR_FILES: &str = "free disk space or repair DATA-DIR/audit; evenkeel resumes by itself";

/// The door with its record: asks the policies, writes the line, then answers.
pub struct Keeper<R> {
    record: R,
    policies: Chain,
    clock: Arc<dyn Clock>,
    timer: Option<Arc<dyn Timer>>,
    tickets: AtomicU64,
    /// Reasons of refusals that are on record already, by object and action.
    refused: Mutex<Recent<String>>,
    /// What is wrong with the record that was found.
    damage: Option<String>,
    /// What helps when it cannot be written.
    repair: String,
}

/// The door of a running system.
pub type RecordDoor = Keeper<Writer>;

/// The door of a simulation or a test.
pub type MemoryDoor = Keeper<Inline<MemorySink>>;

/// Where the record of a running system lies, and how it is kept.
#[derive(Debug)]
pub struct Settings {
    /// The folder (DATA-DIR/audit).
    pub dir: PathBuf,
    /// What signs it.
    pub key: SigningKey,
    /// How long lines are kept.
    pub keep: Keep,
}

/// What the record of a [`RecordDoor`] cost so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Writes to its files; each holds all lines that came in during the one before.
    pub batches: u64,
    /// Calls of `fdatasync` and `fsync`.
    pub syncs: u64,
}

impl RecordDoor {
    /// Opens or starts the record.
    ///
    /// A damaged record opens too: then only actions that make things safer pass, and the others
    /// are denied with what is wrong.
    ///
    /// **Errors**: the folder cannot be made or read, or another process has it open.
    pub fn open(settings: Settings, clock: Arc<dyn Clock>) -> Result<Self, OpenError> {
        let Settings { dir, key, keep } = settings;
        let (sink, tip, damage) = FileSink::open(&dir, Arc::new(key), keep)?;
        if let Some(error) = &damage {
            tracing::error!(error, "only actions that make things safer will pass");
        } else {
            // Logs are kept elsewhere: there it proves later that the record was not put back.
            tracing::info!(seq = tip.seq, hash = tip.hash, "audit record open");
        }
        let book = Book::new(sink, tip, clock.clone(), damage.clone());
        let name = dir.display().to_string();
        let writer = Writer::start(book).map_err(|source| OpenError::Io { path: dir, source })?;
        let mut door = Self::over(writer, clock, damage);
        door.record.name = name;
        Ok(door)
    }

    /// Opens or starts a record that several processes write.
    ///
    /// A damaged one opens too, as in [`Self::open`]. So does one whose store does not answer: what
    /// makes things safer must not wait for it. Its end is found when it answers, and until then it
    /// is as if the store had gone away later: lines of safer actions wait, and all else is held.
    ///
    /// **Errors**: the system has no more threads.
    pub fn open_shared(
        store: Box<dyn LineStore>,
        key: SigningKey,
        keep: Keep,
        clock: Arc<dyn Clock>,
    ) -> io::Result<Self> {
        let name = store.name();
        let (sink, found) = SharedSink::open(store, Arc::new(key), keep);
        let (mut tip, mut damage) = (Tip::default(), None);
        match found {
            Found::End(end) => {
                tracing::info!(
                    record = name,
                    seq = end.seq,
                    hash = end.hash,
                    "shared audit record open"
                );
                tip = end;
            }
            Found::Damaged(problem) => {
                let error = format!("the audit record is damaged: {problem}");
                tracing::error!(
                    record = name,
                    error,
                    "only actions that make things safer will pass"
                );
                damage = Some(error);
            }
            Found::Nothing(error) => {
                tracing::error!(
                    record = name,
                    %error,
                    "the audit record is away: until it is back, only what makes things safer is \
                     done, and recorded then"
                );
                sink.counters().failed(&error.to_string(), clock.now());
            }
        }
        let book = Book::new(sink, tip, clock.clone(), damage.clone());
        let mut door = Self::over(Writer::start(book)?, clock, damage);
        door.repair = format!(
            "see that {name}, the store of --record, answers and takes new lines; evenkeel resumes \
             by itself"
        );
        door.record.name = name;
        door.record.is_shared = true;
        Ok(door)
    }

    /// How the record is, now and later.
    pub fn health(&self) -> Health {
        let Writer { name, is_shared, counters, .. } = &self.record;
        let (name, counters) = (name.clone(), counters.clone());
        Health { name, is_shared: *is_shared, damage: self.damage.clone(), counters }
    }

    /// Waits for a disk that does not answer no longer than a moment. Without it, forever.
    #[must_use]
    pub fn with_timer(mut self, timer: Arc<dyn Timer>) -> Self {
        self.timer = Some(timer);
        self
    }

    /// What the record cost so far.
    pub fn stats(&self) -> Stats {
        let counters = &self.record.counters;
        Stats { batches: counters.batches.load(Relaxed), syncs: counters.syncs.load(Relaxed) }
    }
}

impl MemoryDoor {
    /// An empty record in memory.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let book = Book::new(MemorySink::default(), Tip::default(), clock.clone(), None);
        Self::over(Inline::new(book), clock, None)
    }

    /// The latest lines, oldest first.
    pub fn lines(&self) -> Vec<Line> {
        let book = self.record.book();
        book.sink.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Hash of the last line: equal for two runs only if their whole records are equal.
    pub fn digest(&self) -> String {
        self.record.book().tip.hash.clone()
    }
}

impl<R: Record> Keeper<R> {
    pub(crate) fn over(record: R, clock: Arc<dyn Clock>, damage: Option<String>) -> Self {
        Self {
            record,
            policies: Chain::new(),
            clock,
            timer: None,
            tickets: AtomicU64::new(0),
            refused: Mutex::new(Recent::new(REFUSED_MAX)),
            damage,
            repair: REPAIR_FILES.to_owned(),
        }
    }

    /// Also asks this policy, after those before.
    #[must_use]
    pub fn with_policy(mut self, policy: impl Policy + 'static) -> Self {
        self.policies.push(policy);
        self
    }

    async fn answer(&self, petition: &Petition<'_>) -> Verdict {
        let safer = petition.direction == Direction::Safer;
        if let Some(reason) = self.damage.clone().filter(|_| !safer) {
            return Verdict::Deny { objections: vec![objection(reason)] };
        }
        let Judgement { opinion, objections, said } = self.policies.judge(petition);
        let verdict = match opinion {
            Opinion::Allow | Opinion::AllowBecause { .. } => {
                return self.allow(petition, &said).await;
            }
            Opinion::Hold { until, .. } => Verdict::Hold { until, objections },
            Opinion::Deny { .. } => Verdict::Deny { objections },
        };
        self.note_refusal(petition, &opinion, &said);
        verdict
    }

    /// Writes down what is refused, once for as long as the reason stays the same. Nothing waits
    /// for it: refused it is either way.
    fn note_refusal(&self, petition: &Petition<'_>, opinion: &Opinion, said: &[Objected]) {
        let (Opinion::Hold { reason, .. } | Opinion::Deny { reason }) = opinion else { return };
        if self.is_news(refused_text(petition), reason) {
            let what = What::Note(describe::ask(petition, opinion, said));
            self.record.submit(Request { time: petition.now, what });
        }
    }

    /// Whether this was not refused for this reason the last time; it is noted.
    fn is_news(&self, what: String, reason: &str) -> bool {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        let known = refused.insert(what, reason.to_owned());
        known.is_none_or(|known| known != reason)
    }

    fn forget_refusals(&self, petition: &Petition<'_>) {
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        refused.remove(&refused_text(petition));
        if petition.direction == Direction::Riskier {
            // What was not begun is begun, or goes on.
            refused.remove(&withheld_text(petition.controller, petition.object));
        }
    }

    async fn allow(&self, petition: &Petition<'_>, said: &[Objected]) -> Verdict {
        self.forget_refusals(petition);
        let entry = describe::ask(petition, &Opinion::Allow, said);
        let safer = petition.direction == Direction::Safer;
        let secret = if describe::is_about_secret(petition.action) { SECRET_SUFFIX } else { "" };
        match self.written(petition, entry, safer).await {
            Ok(id) => {
                self.policies.allowed(petition);
                Verdict::Allow(AuditId(format!("{id}{secret}")))
            }
            Err(error) => Verdict::Hold {
                until: None,
                objections: vec![objection(format!(
                    "the audit record cannot be written ({error}): {}",
                    self.repair
                ))],
            },
        }
    }

    /// The identity of the line once it is durable. For a safer action also when it is not: then
    /// the line follows later.
    async fn written(
        &self,
        petition: &Petition<'_>,
        entry: Entry,
        safer: bool,
    ) -> Result<String, String> {
        let ticket = format!("{LATE_PREFIX}{}", self.tickets.fetch_add(1, Relaxed) + 1);
        let (reply, mut answer) = oneshot::channel();
        let late = Arc::new(AtomicBool::new(false));
        let ask = Ask { entry, safer, ticket: ticket.clone(), late: late.clone(), reply };
        self.record.submit(Request { time: petition.now, what: What::Ask(ask) });
        let wait = if safer { SAFER_WAIT } else { OTHER_WAIT };
        let in_time = match &self.timer {
            None => (&mut answer).await.ok(),
            Some(timer) => match future::select(&mut answer, timer.sleep(wait)).await {
                Either::Left((answered, _)) => answered.ok(),
                Either::Right(((), _)) => {
                    late.store(true, Relaxed);
                    // From here on the writer knows that nobody waits for its answer.
                    answer.close();
                    answer.try_recv().ok().flatten()
                }
            },
        };
        let not_in_time = || format!("no answer within {} s", wait.as_secs());
        let recorded = match in_time {
            Some(Ok(id)) => Ok(id),
            Some(Err(error)) => Err(error),
            None => Err(not_in_time()),
        };
        match recorded {
            Err(error) if safer => {
                tracing::error!(controller = petition.controller, object = %petition.object,
                    action = petition.text, error, "not recorded yet, done all the same");
                Ok(ticket)
            }
            recorded => recorded,
        }
    }

    fn note_outcome(&self, id: &AuditId, outcome: Outcome<'_>) {
        let (id, secret) = match id.0.strip_suffix(SECRET_SUFFIX) {
            Some(id) => (id, true),
            None => (&*id.0, false),
        };
        let (outcome, error) = match outcome {
            Outcome::Done => ("done", None),
            Outcome::Failed(error) => ("failed", Some(describe::error(error, secret))),
        };
        let what = What::Outcome { id: id.to_owned(), outcome, error };
        self.record.submit(Request { time: self.clock.now(), what });
    }
}

fn refused_text(petition: &Petition<'_>) -> String {
    format!("{} {}", petition.object, petition.text)
}

fn withheld_text(controller: &str, object: &Key) -> String {
    format!("{object} not begun by {controller}")
}

fn objection(reason: String) -> Objection {
    Objection { policy: "record", reason }
}

impl<R: Record> Door for Keeper<R> {
    fn ask<'a>(&'a self, petition: &'a Petition<'a>) -> BoxFuture<'a, Verdict> {
        Box::pin(self.answer(petition))
    }

    /// Does not wait until the outcome is durable: after a crash, its absence says that nobody
    /// knows what became of the action, which was true then.
    fn settle<'a>(&'a self, id: &'a AuditId, outcome: Outcome<'a>) -> BoxFuture<'a, ()> {
        self.note_outcome(id, outcome);
        Box::pin(future::ready(()))
    }

    fn foresee(&self, prediction: &Prediction<'_>) {
        let what = What::Note(describe::foreseen(prediction));
        self.record.submit(Request { time: prediction.now, what });
    }

    fn withhold(&self, hold: &OwnHold<'_>) {
        if self.is_news(withheld_text(hold.controller, hold.object), &hold.withheld.mark) {
            let what = What::Note(describe::withheld(hold));
            self.record.submit(Request { time: hold.now, what });
        }
    }
}

#[cfg(test)]
mod tests;
