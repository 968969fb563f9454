//! Warnings and infos that a query result carries.

use crate::ast::Span;
use crate::number::format_general;
use crate::parser::position;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

/// Distinct annotations one query keeps of each level.
const ANNOTATIONS_MAX: usize = 1_000;

/// How serious an annotation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// The result is likely not what was meant.
    Warning,
    /// Something worth knowing.
    Info,
}

/// The warnings and infos of one evaluation, without duplicates: of equal texts the last place is
/// kept (of those that count, the first), as upstream does.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Annotations {
    notes: BTreeMap<(Level, String), Note>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Note {
    span: Span,
    /// What is added up over all places and steps of one text.
    fixes: Option<Fixes>,
}

/// Classic histograms whose counts fell from one bucket to the next, and were raised.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Fixes {
    /// Upper bounds of the lowest and of the highest bucket raised.
    pub(crate) buckets: (f64, f64),
    /// By how much at most.
    pub(crate) difference: f64,
    /// Histograms.
    pub(crate) samples: u64,
    /// Time of the first and of the last one.
    pub(crate) times_ms: (i64, i64),
}

impl Fixes {
    fn add(&mut self, other: &Fixes) {
        self.buckets = (self.buckets.0.min(other.buckets.0), self.buckets.1.max(other.buckets.1));
        self.difference = self.difference.max(other.difference);
        self.samples += other.samples;
        self.times_ms =
            (self.times_ms.0.min(other.times_ms.0), self.times_ms.1.max(other.times_ms.1));
    }
}

impl fmt::Display for Fixes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bound = |value| format_general(value);
        let time = |ms| {
            jiff::Timestamp::from_millisecond(ms).unwrap_or_default().strftime("%Y-%m-%dT%H:%M:%SZ")
        };
        write!(
            f,
            ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
            bound(self.buckets.0),
            bound(self.buckets.1),
            bound(self.difference),
            self.samples,
            time(self.times_ms.0),
            time(self.times_ms.1)
        )
    }
}

impl Annotations {
    /// Adds a warning about the text at `span`.
    pub fn warn(&mut self, span: Span, text: &str) {
        self.add(Level::Warning, format!("PromQL warning: {text}"), Note { span, fixes: None });
    }

    /// Adds an info about the text at `span`.
    pub fn info(&mut self, span: Span, text: &str) {
        self.add(Level::Info, format!("PromQL info: {text}"), Note { span, fixes: None });
    }

    /// Adds an info that counts.
    pub(crate) fn fixed(&mut self, span: Span, text: &str, fixes: Fixes) {
        let fixes = Some(fixes);
        self.add(Level::Info, format!("PromQL info: {text}"), Note { span, fixes });
    }

    fn add(&mut self, level: Level, text: String, mut note: Note) {
        let full = self.notes.len() >= ANNOTATIONS_MAX;
        match self.notes.entry((level, text)) {
            Entry::Occupied(mut known) => {
                if let (Some(fixes), Some(before)) = (&mut note.fixes, &known.get().fixes) {
                    fixes.add(before);
                    note.span = known.get().span;
                }
                known.insert(note);
            }
            Entry::Vacant(place) if !full => {
                place.insert(note);
            }
            Entry::Vacant(_) => {}
        }
    }

    /// Takes all annotations of another evaluation.
    pub fn merge(&mut self, other: Annotations) {
        for ((level, text), note) in other.notes {
            self.add(level, text, note);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.notes.is_empty()
    }

    /// All of a level as the HTTP API shows them, with the position in the query.
    pub fn texts(&self, level: Level, query: &str) -> Vec<String> {
        self.notes
            .iter()
            .filter(|((l, _), _)| *l == level)
            .map(|((_, text), note)| {
                let (line, column) = position(query, note.span.start);
                let fixes = note.fixes.map(|fixes| fixes.to_string()).unwrap_or_default();
                format!("{text}{fixes} ({line}:{column})")
            })
            .collect()
    }
}
