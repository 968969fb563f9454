//! One record that several processes write: a chain in a database, besides that in files.
//!
//! ```text
//! replica A --append behind line 41--> LineStore (the end it names is the end: taken)
//! replica B --append behind line 41--> LineStore (the record ends with 42 now: refused)
//! replica B --chain to line 42, append behind it--> taken
//! ```
//! Lines, numbers of files and HEAD are those of the record in files, so that a copy in a folder is
//! verified, listed and read with the same tools.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use jiff::Timestamp;

use crate::{
    Dropped, Keep, Line, SigningKey,
    book::{AppendError, Sink},
    counters::Counters,
    head::{self, Head},
    record::{self, Tip},
    retention::{FILE_BYTES_MAX, Size, is_full, overdue},
};

/// Where a shared record lies. Every method is one exchange with a limited wait; after an error the
/// next call starts anew.
pub trait LineStore: Send {
    /// What it is called in messages, without secrets.
    fn name(&self) -> String;

    /// What stands at the end of the record; `None` while it has no lines.
    ///
    /// **Errors**: the store does not answer.
    fn end(&mut self) -> io::Result<Option<StoredEnd>>;

    /// Appends lines if the record still ends with `batch.after`, all or none of them, durable when
    /// it returns. `false` when it ends elsewhere.
    ///
    /// **Errors**: [`Doubt::Unknown`] when the lines may be stored nevertheless.
    fn append(&mut self, batch: &Batch<'_>) -> Result<bool, Doubt>;

    /// The hash of a line that is still there.
    ///
    /// **Errors**: the store does not answer.
    fn hash_of(&mut self, seq: u64) -> io::Result<Option<String>>;

    /// The files that the lines belong to, oldest first. `None` when another process drops old ones
    /// at this moment; else no other one may until [`Self::remove`] is called.
    ///
    /// **Errors**: the store does not answer.
    fn files(&mut self) -> io::Result<Option<Vec<StoredFile>>>;

    /// Removes the lines of these files, and lets others drop old ones.
    ///
    /// **Errors**: the store does not answer.
    fn remove(&mut self, files: &[u32]) -> io::Result<()>;

    /// Lines behind this number, oldest first, as many as are read well at once.
    ///
    /// **Errors**: the store does not answer.
    fn read(&mut self, behind: u64) -> io::Result<Vec<StoredLine>>;
}

/// Why lines were not appended.
#[derive(Debug)]
pub enum Doubt {
    /// None of them is stored.
    Not(io::Error),
    /// The answer was lost: they may be stored, now or in a moment.
    Unknown(io::Error),
}

/// The end of a stored record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredEnd {
    /// The last line.
    pub last: StoredLine,
    /// Number and hash of it, signed, as a HEAD file holds them.
    pub head: String,
    /// Bytes in the last file.
    pub bytes: u64,
    /// When the last file was begun.
    pub started: Timestamp,
}

/// One stored line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredLine {
    /// Its number.
    pub seq: u64,
    /// Number of the file that it belongs to.
    pub file: u32,
    /// The line, without a newline.
    pub text: String,
}

/// The lines of one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredFile {
    /// Number of the file.
    pub number: u32,
    /// Bytes of its lines.
    pub bytes: u64,
    /// Its first line, without a newline.
    pub first: String,
}

/// Lines to append, and where.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Number and hash of the line that they follow; number 0 when they are the first ones.
    pub after: (u64, &'a str),
    /// The lines, without newlines; their numbers follow on each other.
    pub lines: Vec<&'a str>,
    /// Number and hash of the last one.
    pub last: (u64, &'a str),
    /// The file that they belong to.
    pub file: u32,
    /// HEAD's text for the new end.
    pub head: String,
    /// Bytes in the file with them.
    pub bytes: u64,
    /// When the file was begun.
    pub started: Timestamp,
}

/// What the first look at a store has found.
#[derive(Debug)]
pub(crate) enum Found {
    /// The end of the record.
    End(Tip),
    /// Something is wrong with the record.
    Damaged(String),
    /// It does not answer.
    Nothing(io::Error),
}

/// Appends to a [`LineStore`].
pub(crate) struct SharedSink {
    store: Box<dyn LineStore>,
    key: Arc<SigningKey>,
    keep: Keep,
    file_bytes_max: u64,
    tip: Tip,
    /// Whether the store was asked for its end with success. Before, nothing can be chained.
    is_known: bool,
    /// The last file: its number (0: none), size, and when it was begun.
    number: u32,
    bytes: u64,
    started: Option<Timestamp>,
    /// The next line is the first one of its file.
    begins: bool,
    counters: Arc<Counters>,
}

impl SharedSink {
    /// Looks for the end of the record; how that went. When the store does not answer, the end is
    /// found before the first line is written.
    pub(crate) fn open(
        store: Box<dyn LineStore>,
        key: Arc<SigningKey>,
        keep: Keep,
    ) -> (Self, Found) {
        let mut sink = Self {
            store,
            key,
            keep,
            file_bytes_max: FILE_BYTES_MAX,
            tip: Tip::default(),
            is_known: false,
            number: 0,
            bytes: 0,
            started: None,
            begins: false,
            counters: Arc::default(),
        };
        let found = match sink.follow() {
            Ok(Ok(())) => Found::End(sink.tip.clone()),
            Ok(Err(problem)) => Found::Damaged(problem),
            Err(error) => Found::Nothing(error),
        };
        (sink, found)
    }

    /// Takes the end as it is stored for the end; what is wrong with it.
    fn follow(&mut self) -> io::Result<Result<(), String>> {
        let Some(end) = self.store.end()? else {
            if self.tip.seq > 0 {
                return Ok(Err(format!("its {} lines are gone", self.tip.seq)));
            }
            self.is_known = true;
            return Ok(Ok(()));
        };
        let checked = self.checked(&end).and_then(|tip| {
            if tip.seq >= self.tip.seq {
                return Ok(tip);
            }
            Err(format!(
                "it ends with line {}, and line {} was written: lines are gone",
                tip.seq, self.tip.seq
            ))
        });
        Ok(checked.map(|tip| {
            self.tip = tip;
            self.is_known = true;
            self.number = end.last.file;
            self.bytes = end.bytes;
            self.started = Some(end.started);
            self.begins = false;
        }))
    }

    fn checked(&self, end: &StoredEnd) -> Result<Tip, String> {
        let public = self.key.public();
        let StoredLine { seq, text, .. } = &end.last;
        let line = record::parse(text).map_err(|problem| format!("line {seq}: {problem}"))?;
        if !line.is_signed_by(&public, text) {
            return Err(format!(
                "its last line, number {seq}, does not carry the signature of this key ({public}): \
                 all processes that write it must be given the same --audit-key"
            ));
        }
        let tip = Tip { seq: line.seq, hash: line.hash };
        let heads = head::all(end.head.as_bytes());
        match head::newest(&heads, Some(&public)) {
            Some(head) if head.tip == tip => Ok(tip),
            Some(head) => Err(format!(
                "its signed end is line {}, and its last line is {}: lines were deleted or added",
                head.tip.seq, tip.seq
            )),
            None => Err("its end carries no valid signature".to_owned()),
        }
    }

    /// Another process has appended: the end is where it has left it.
    fn moved(&mut self) -> AppendError {
        match self.follow() {
            Ok(Ok(())) => AppendError::Moved,
            Ok(Err(problem)) => AppendError::Failed(io::Error::other(problem)),
            Err(error) => AppendError::Failed(error),
        }
    }
}

impl Sink for SharedSink {
    fn key(&self) -> Option<&SigningKey> {
        Some(&self.key)
    }

    fn counters(&self) -> Arc<Counters> {
        self.counters.clone()
    }

    fn begin_file(&mut self, _: &Tip, now: Timestamp) -> io::Result<Option<u32>> {
        let size = Size { bytes: self.bytes, started: self.started };
        if !self.begins && (self.number == 0 || is_full(size, self.file_bytes_max, self.keep, now))
        {
            self.number += 1;
            self.begins = true;
            (self.bytes, self.started) = (0, None);
        }
        Ok(self.begins.then_some(self.number))
    }

    /// Durable in any case: a database makes every answer wait for that.
    fn append(
        &mut self,
        text: &str,
        tip: &Tip,
        now: Timestamp,
        _: bool,
    ) -> Result<(), AppendError> {
        let lines: Vec<_> = text.lines().collect();
        if tip.seq != self.tip.seq + u64::try_from(lines.len()).unwrap_or_default() {
            // They were chained to another end.
            return Err(AppendError::Moved);
        }
        let bytes = self.bytes + u64::try_from(text.len()).unwrap_or_default();
        let started = self.started.unwrap_or(now);
        let batch = Batch {
            after: (self.tip.seq, &self.tip.hash),
            lines,
            last: (tip.seq, &tip.hash),
            file: self.number,
            head: Head::sign(tip.clone(), &self.key).to_text(),
            bytes,
            started,
        };
        match self.store.append(&batch) {
            Ok(true) => {}
            Ok(false) => return Err(self.moved()),
            Err(Doubt::Not(error)) => return Err(AppendError::Failed(error)),
            Err(Doubt::Unknown(error)) => return Err(AppendError::Unknown(error)),
        }
        self.counters.batches.fetch_add(1, Relaxed);
        self.counters.syncs.fetch_add(1, Relaxed);
        self.tip = tip.clone();
        (self.bytes, self.started, self.begins) = (bytes, Some(started), false);
        Ok(())
    }

    fn end(&self) -> Tip {
        self.tip.clone()
    }

    fn is_unknown(&self) -> bool {
        !self.is_known
    }

    fn find(&mut self) -> io::Result<Option<Tip>> {
        match self.follow()? {
            Ok(()) => Ok(Some(self.tip.clone())),
            Err(problem) => Err(io::Error::other(problem)),
        }
    }

    fn end_if_stored(&mut self, tip: &Tip) -> io::Result<Option<Tip>> {
        if self.store.hash_of(tip.seq)?.as_ref() != Some(&tip.hash) {
            return Ok(None);
        }
        self.find()
    }

    fn overdue(&mut self, now: Timestamp) -> io::Result<Option<(Dropped, Vec<u32>)>> {
        let Some(stored) = self.store.files()? else { return Ok(None) };
        let first = |file: StoredFile| {
            let line: Line = record::parse(&file.first).map_err(io::Error::other)?;
            Ok((file.number, file.bytes, line))
        };
        let files: io::Result<Vec<_>> = stored.into_iter().map(first).collect();
        let overdue = files.map(|files| overdue(&files, self.number, self.keep, now));
        if !matches!(overdue, Ok(Some(_))) {
            self.store.remove(&[])?;
        }
        overdue
    }

    fn remove(&mut self, files: &[u32]) -> io::Result<()> {
        self.store.remove(files)
    }
}
