//! From requests to lines: numbers, chains and signs them, and keeps those that cannot be written.

use std::{
    collections::{BTreeMap, VecDeque},
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
};

use evenkeel_base::Clock;
use futures::channel::oneshot;
use jiff::{SignedDuration, Timestamp};

use crate::{
    Dropped, SigningKey,
    counters::Counters,
    recent::Recent,
    record::{Entry, Tip},
};

/// Lines that wait for the record to become writable again. Beyond it they are counted only:
/// a disk that is full for hours must not fill the memory too.
pub(crate) const LATE_MAX: usize = 4096;

/// Waiting lines written together at first, to see whether the record is writable again.
const LATE_FIRST: usize = 8;
/// And then.
const LATE_PIECE: usize = 256;
/// How often lines are chained anew because another process was faster. Each time one of them has
/// appended, so beyond it this process is only slow.
const MOVES_MAX: usize = 64;
/// Batches whose answer was lost and that may still arrive. Each comes after a look that found none of
/// those before, so there are few; beyond it the oldest is the least likely to be on its way.
const DOUBTS_MAX: usize = 16;
/// Outcome of an action whose line came too late to allow it.
const WITHDRAWN: &str = "withdrawn";
/// Pause after old files could not be dropped.
const RETAIN_AGAIN: SignedDuration = SignedDuration::from_mins(10);

/// Where lines go.
pub(crate) trait Sink: Send {
    /// Signs every line; records in memory need no signature.
    fn key(&self) -> Option<&SigningKey> {
        None
    }

    /// Begins a new file when it is time; its number when the next line is its first one.
    fn begin_file(&mut self, _tip: &Tip, _now: Timestamp) -> io::Result<Option<u32>> {
        Ok(None)
    }

    /// Appends lines (newlines included); `tip` is the new end of the record. When it fails,
    /// nothing of them may stay. Durable lines are on disk when it returns, and so are all before.
    fn append(
        &mut self,
        text: &str,
        tip: &Tip,
        now: Timestamp,
        durable: bool,
    ) -> Result<(), AppendError>;

    /// Where the record ends, after [`AppendError::Moved`].
    fn end(&self) -> Tip {
        Tip::default()
    }

    /// Whether the end of the record was never found yet, because its store does not answer.
    fn is_unknown(&self) -> bool {
        false
    }

    /// Asks the store for the end of the record; `None` where there is no store to ask.
    fn find(&mut self) -> io::Result<Option<Tip>> {
        Ok(None)
    }

    /// The end of the record if it contains the line `tip` by now, which was
    /// [`AppendError::Unknown`].
    fn end_if_stored(&mut self, _tip: &Tip) -> io::Result<Option<Tip>> {
        Ok(None)
    }

    /// What it cost so far.
    fn counters(&self) -> Arc<Counters> {
        Arc::default()
    }

    /// Makes durable what is not yet.
    fn sync(&mut self) -> io::Result<()> {
        Ok(())
    }

    /// Whether there is something that [`Self::sync`] would make durable.
    fn is_dirty(&self) -> bool {
        false
    }

    /// Old files that are to be dropped, and what the record says about it.
    fn overdue(&mut self, _now: Timestamp) -> io::Result<Option<(Dropped, Vec<u32>)>> {
        Ok(None)
    }

    /// Removes old files, oldest first; none when it was not possible to say so in the record.
    fn remove(&mut self, _files: &[u32]) -> io::Result<()> {
        Ok(())
    }
}

/// Why lines were not appended.
#[derive(Debug)]
pub(crate) enum AppendError {
    /// Nothing of them is in the record.
    Failed(io::Error),
    /// Whether they are in the record is not known.
    Unknown(io::Error),
    /// Nothing of them is in the record, because it does not end where they begin: another process
    /// has appended. [`Sink::end`] is where it ends now.
    Moved,
}

impl From<io::Error> for AppendError {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl AppendError {
    fn into_io(self) -> io::Error {
        match self {
            Self::Failed(error) | Self::Unknown(error) => error,
            Self::Moved => io::Error::other("other processes write to it all the time"),
        }
    }
}

/// One line that should be written.
pub struct Request {
    pub(crate) time: Timestamp,
    pub(crate) what: What,
}

pub(crate) enum What {
    /// An action that is allowed as soon as its line is durable.
    Ask(Ask),
    /// A refusal: nothing waits for it.
    Note(Entry),
    /// What became of an action.
    Outcome { id: String, outcome: &'static str, error: Option<String> },
}

pub(crate) struct Ask {
    pub(crate) entry: Entry,
    /// Happens whether it can be recorded or not.
    pub(crate) safer: bool,
    /// Identity until it has a number.
    pub(crate) ticket: String,
    /// Set when it happens before its line is durable.
    pub(crate) late: Arc<AtomicBool>,
    /// Identity of the line, or why it cannot be written.
    pub(crate) reply: oneshot::Sender<Result<String, String>>,
}

/// A line that waits.
struct Late {
    time: Timestamp,
    what: LateWhat,
}

enum LateWhat {
    Ask { entry: Entry, ticket: String },
    Note(Entry),
    Outcome { id: String, outcome: &'static str, error: Option<String> },
}

/// A line being made.
struct Draft {
    time: Timestamp,
    late: bool,
    entry: Entry,
}

/// A batch whose answer was lost.
#[derive(Default)]
struct Sent {
    /// Its last line.
    tip: Tip,
    /// The requests in it. Whoever made them heard that they are not in the record.
    asks: Vec<u64>,
    /// Lines that it says were withdrawn.
    withdrawn: Vec<u64>,
    /// Lines that it says were lost.
    lost: u64,
}

impl Sent {
    fn note(&mut self, seq: u64, entry: &Entry) {
        match entry {
            Entry::Ask(_) => self.asks.push(seq),
            Entry::Outcome { of, outcome, .. } if outcome == WITHDRAWN => {
                self.withdrawn.extend(*of);
            }
            Entry::Lost { lines } => self.lost = *lines,
            _ => {}
        }
    }
}

pub(crate) struct Book<S> {
    pub(crate) sink: S,
    pub(crate) tip: Tip,
    pub(crate) counters: Arc<Counters>,
    clock: Arc<dyn Clock>,
    /// What is wrong with the record that was found: it is left as it is.
    damage: Option<String>,
    late: VecDeque<Late>,
    lost: u64,
    /// Numbers of lines whose action knows them by their ticket only, until its outcome comes.
    tickets: Recent<u64>,
    /// Lines allowed too late: their action was given up meanwhile.
    withdrawn: Vec<u64>,
    /// Batches that may be in the record although that was not confirmed, oldest first.
    doubts: VecDeque<Sent>,
    /// When old files are looked for next; none until another file is begun.
    retain_from: Option<Timestamp>,
}

impl<S: Sink> Book<S> {
    pub(crate) fn new(sink: S, tip: Tip, clock: Arc<dyn Clock>, damage: Option<String>) -> Self {
        Self {
            counters: sink.counters(),
            sink,
            tip,
            clock,
            damage,
            late: VecDeque::new(),
            lost: 0,
            tickets: Recent::new(LATE_MAX),
            withdrawn: Vec::new(),
            doubts: VecDeque::new(),
            retain_from: Some(Timestamp::MIN),
        }
    }

    /// Whether something waits to be written.
    pub(crate) fn is_late(&self) -> bool {
        self.damage.is_none() && (!self.late.is_empty() || self.lost > 0)
    }

    /// Whether [`Self::commit`] has something to do without any request.
    pub(crate) fn has_more(&self) -> bool {
        !self.withdrawn.is_empty()
    }

    /// Whether the last attempt to write failed.
    pub(crate) fn is_troubled(&self) -> bool {
        self.damage.is_none() && self.counters.trouble().is_some()
    }

    /// Lines that wait.
    pub(crate) fn late_len(&self) -> usize {
        self.late.len()
    }

    /// These could not even be handed over.
    pub(crate) fn lose(&mut self, lines: u64) {
        self.lost = self.lost.saturating_add(lines);
    }

    /// Writes these lines behind all that waits, together, and answers those who asked.
    pub(crate) fn commit(&mut self, requests: Vec<Request>) {
        let given_up = |request: &Request| match &request.what {
            What::Ask(ask) => !ask.safer && ask.reply.is_canceled(),
            What::Note(_) | What::Outcome { .. } => false,
        };
        let requests: Vec<_> = requests.into_iter().filter(|request| !given_up(request)).collect();
        let now = self.clock.now();
        let mut written = self.write(&requests, now);
        for _ in 0..MOVES_MAX {
            if !matches!(written, Err(AppendError::Moved)) {
                break;
            }
            written = self.write(&requests, now);
        }
        match written {
            Ok(seqs) => self.written(requests, &seqs),
            Err(error) => {
                let error = error.into_io();
                self.counters.failed(&error.to_string(), now);
                self.not_written(requests, &error);
            }
        }
        let late = u64::try_from(self.late.len()).unwrap_or_default();
        self.counters.late.store(late, Relaxed);
        if self.retain_from.is_some_and(|from| from <= now) && self.damage.is_none() {
            self.retain_from = None;
            if let Err(error) = self.retain(now) {
                tracing::warn!(%error, "old files of the audit record are not dropped");
                self.retain_from = now.checked_add(RETAIN_AGAIN).ok();
            }
        }
    }

    /// After a failure: whether a store answers again, without anything to write.
    pub(crate) fn look(&mut self) {
        if !self.is_troubled() {
            return;
        }
        match self.sink.find() {
            Ok(Some(tip)) => {
                self.tip = tip;
                self.succeeded();
            }
            Ok(None) => {}
            Err(error) => self.counters.failed(&error.to_string(), self.clock.now()),
        }
    }

    fn succeeded(&self) {
        if let Some(trouble) = self.counters.succeeded() {
            tracing::info!(since = %trouble.since, error = trouble.error,
                "the audit record can be written again");
        }
    }

    /// Makes durable what is not yet.
    pub(crate) fn sync(&mut self) {
        if let Err(error) = self.sink.sync() {
            tracing::warn!(%error, "audit record: the latest outcomes are not durable yet");
        }
    }

    /// All lines of one batch, in one write; the numbers of those for `requests`.
    pub(crate) fn write(
        &mut self,
        requests: &[Request],
        now: Timestamp,
    ) -> Result<Vec<u64>, AppendError> {
        if let Some(damage) = &self.damage {
            return Err(io::Error::other(damage.clone()).into());
        }
        if self.sink.is_unknown()
            && let Some(end) = self.sink.find()?
        {
            self.tip = end;
        }
        self.settle_doubts()?;
        self.write_late(now)?;
        let begins = self.sink.begin_file(&self.tip, now)?;
        let mut drafts = Vec::from_iter(self.checkpoint(begins, now));
        if self.lost > 0 {
            let entry = Entry::Lost { lines: self.lost };
            drafts.push(Draft { time: now, late: true, entry });
        }
        for seq in &self.withdrawn {
            let outcome = WITHDRAWN.to_owned();
            let entry = Entry::Outcome { of: Some(*seq), outcome, error: None };
            drafts.push(Draft { time: now, late: false, entry });
        }
        let first = self.seq_after(&drafts);
        let mut durable = begins.is_some() || self.lost > 0;
        let mut tickets = BTreeMap::new();
        for (request, seq) in requests.iter().zip(first..) {
            let (late, entry) = match &request.what {
                What::Ask(ask) => {
                    durable = true;
                    tickets.insert(&*ask.ticket, seq);
                    (ask.late.load(Relaxed), ask.entry.clone())
                }
                What::Note(entry) => (false, entry.clone()),
                What::Outcome { id, outcome, error } => {
                    (false, self.outcome(id, outcome, error.clone(), &tickets))
                }
            };
            drafts.push(Draft { time: request.time, late, entry });
        }
        self.append(drafts, begins, now, durable)?;
        self.lost = 0;
        self.withdrawn.clear();
        Ok((first..=self.tip.seq).collect())
    }

    /// Looks which of the lost batches have arrived. Nobody acted on their lines.
    fn settle_doubts(&mut self) -> io::Result<()> {
        let mut open = VecDeque::new();
        while let Some(sent) = self.doubts.pop_front() {
            match self.sink.end_if_stored(&sent.tip) {
                Ok(Some(end)) => {
                    self.withdrawn.retain(|seq| !sent.withdrawn.contains(seq));
                    self.withdrawn.extend(sent.asks);
                    self.lost = self.lost.saturating_sub(sent.lost);
                    self.tip = end;
                }
                Ok(None) => open.push_back(sent),
                Err(error) => {
                    open.push_back(sent);
                    open.append(&mut self.doubts);
                    self.doubts = open;
                    return Err(error);
                }
            }
        }
        self.doubts = open;
        Ok(())
    }

    /// Writes what waits, in pieces: the first one is small, since it shows whether it works.
    fn write_late(&mut self, now: Timestamp) -> Result<(), AppendError> {
        let mut piece = LATE_FIRST;
        while !self.late.is_empty() {
            let begins = self.sink.begin_file(&self.tip, now)?;
            let mut drafts = Vec::from_iter(self.checkpoint(begins, now));
            let first = self.seq_after(&drafts);
            let mut tickets = BTreeMap::new();
            for (late, seq) in self.late.iter().take(piece).zip(first..) {
                let entry = match &late.what {
                    LateWhat::Ask { entry, ticket } => {
                        tickets.insert(&**ticket, seq);
                        entry.clone()
                    }
                    LateWhat::Note(entry) => entry.clone(),
                    LateWhat::Outcome { id, outcome, error } => {
                        self.outcome(id, outcome, error.clone(), &tickets)
                    }
                };
                drafts.push(Draft { time: late.time, late: true, entry });
            }
            self.append(drafts, begins, now, true)?;
            for seq in first..=self.tip.seq {
                match self.late.pop_front().map(|late| late.what) {
                    // Its outcome waits behind it, or is yet to come.
                    Some(LateWhat::Ask { ticket, .. }) => self.remember(ticket, seq),
                    Some(LateWhat::Outcome { id, .. }) => drop(self.tickets.remove(&id)),
                    Some(LateWhat::Note(_)) | None => {}
                }
            }
            piece = LATE_PIECE;
        }
        Ok(())
    }

    fn checkpoint(&self, begins: Option<u32>, now: Timestamp) -> Option<Draft> {
        let (file, key) = begins.zip(self.sink.key())?;
        let entry = Entry::Checkpoint { file, lines: self.tip.seq, key: key.public() };
        Some(Draft { time: now, late: false, entry })
    }

    fn seq_after(&self, drafts: &[Draft]) -> u64 {
        self.tip.seq + u64::try_from(drafts.len()).unwrap_or_default() + 1
    }

    fn outcome(
        &self,
        id: &str,
        outcome: &str,
        error: Option<String>,
        tickets: &BTreeMap<&str, u64>,
    ) -> Entry {
        let of = id.parse().ok().or_else(|| tickets.get(id).or(self.tickets.get(id)).copied());
        Entry::Outcome { of, outcome: outcome.to_owned(), error }
    }

    fn remember(&mut self, ticket: String, seq: u64) {
        self.tickets.insert(ticket, seq);
    }

    fn append(
        &mut self,
        drafts: Vec<Draft>,
        begins: Option<u32>,
        now: Timestamp,
        durable: bool,
    ) -> Result<(), AppendError> {
        if drafts.is_empty() {
            return Ok(());
        }
        let (mut text, mut tip, mut sent) = (String::new(), self.tip.clone(), Sent::default());
        for draft in drafts {
            sent.note(tip.seq + 1, &draft.entry);
            let (line, next) = tip.next(draft.time, draft.late, draft.entry, self.sink.key());
            text.push_str(&line);
            tip = next;
        }
        let appended = self.sink.append(&text, &tip, now, durable);
        match appended {
            Ok(()) => {}
            Err(AppendError::Moved) => {
                // Whoever tries again, or writes something else, continues there.
                self.tip = self.sink.end();
                return Err(AppendError::Moved);
            }
            Err(AppendError::Unknown(error)) => {
                // The same lines once more are the same batch.
                if self.doubts.iter().all(|known| known.tip != tip) {
                    if self.doubts.len() == DOUBTS_MAX {
                        self.doubts.pop_front();
                    }
                    self.doubts.push_back(Sent { tip, ..sent });
                }
                return Err(AppendError::Unknown(error));
            }
            Err(AppendError::Failed(error)) => return Err(AppendError::Failed(error)),
        }
        self.succeeded();
        // They follow on the line before, and so nothing else does or will: what had arrived before
        // was settled.
        self.doubts.clear();
        self.tip = tip;
        if begins.is_some() {
            self.retain_from = Some(Timestamp::MIN);
        }
        Ok(())
    }

    pub(crate) fn written(&mut self, requests: Vec<Request>, seqs: &[u64]) {
        for (request, seq) in requests.into_iter().zip(seqs) {
            match request.what {
                What::Ask(ask) => match ask.reply.send(Ok(seq.to_string())) {
                    Ok(()) => {}
                    // It happened meanwhile, and its outcome will name the ticket.
                    Err(_) if ask.safer => self.remember(ask.ticket, *seq),
                    Err(_) => self.withdrawn.push(*seq),
                },
                What::Outcome { id, .. } => drop(self.tickets.remove(&id)),
                What::Note(_) => {}
            }
        }
    }

    fn not_written(&mut self, requests: Vec<Request>, error: &io::Error) {
        if !requests.is_empty() {
            tracing::warn!(%error, lines = requests.len(), "audit record not writable");
        }
        for request in requests {
            let what = match request.what {
                What::Ask(ask) if ask.safer => {
                    // Whoever asked has given up waiting, or goes ahead with the ticket now.
                    ask.reply.send(Ok(ask.ticket.clone())).unwrap_or_default();
                    LateWhat::Ask { entry: ask.entry, ticket: ask.ticket }
                }
                What::Ask(ask) => {
                    ask.reply.send(Err(error.to_string())).unwrap_or_default();
                    continue;
                }
                What::Note(entry) => LateWhat::Note(entry),
                What::Outcome { id, outcome, error } => LateWhat::Outcome { id, outcome, error },
            };
            if self.late.len() == LATE_MAX {
                self.lose(1);
            } else {
                self.late.push_back(Late { time: request.time, what });
            }
        }
    }

    /// Drops old files: first a durable line that names them, then the files.
    fn retain(&mut self, now: Timestamp) -> io::Result<()> {
        let Some((dropped, files)) = self.sink.overdue(now)? else { return Ok(()) };
        let (first, last) = (dropped.first, dropped.last);
        let line = || Draft { time: now, late: false, entry: Entry::Dropped(dropped.clone()) };
        let mut noted = self.append(vec![line()], None, now, true);
        for _ in 0..MOVES_MAX {
            if !matches!(noted, Err(AppendError::Moved)) {
                break;
            }
            // Another process wrote meanwhile, or a lost batch arrived: the line comes behind that.
            let settled = self.settle_doubts().map_err(AppendError::from);
            noted = settled.and_then(|()| self.append(vec![line()], None, now, true));
        }
        if let Err(error) = noted {
            self.sink.remove(&[])?;
            return Err(error.into_io());
        }
        self.sink.remove(&files)?;
        tracing::info!(first, last, files = files.len(), "old lines dropped from the audit record");
        Ok(())
    }
}
