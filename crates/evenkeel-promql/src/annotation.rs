//! Warnings and infos that a query result carries.

use crate::ast::Span;
use crate::parser::position;
use std::collections::BTreeMap;

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

/// The warnings and infos of one evaluation, without duplicates.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Annotations {
    texts: BTreeMap<(Level, String), Span>,
}

impl Annotations {
    /// Adds a warning about the text at `span`.
    pub fn warn(&mut self, span: Span, text: &str) {
        self.add(Level::Warning, span, format!("PromQL warning: {text}"));
    }

    /// Adds an info about the text at `span`.
    pub fn info(&mut self, span: Span, text: &str) {
        self.add(Level::Info, span, format!("PromQL info: {text}"));
    }

    fn add(&mut self, level: Level, span: Span, text: String) {
        if self.texts.len() < ANNOTATIONS_MAX {
            self.texts.entry((level, text)).or_insert(span);
        }
    }

    /// Takes all annotations of another evaluation.
    pub fn merge(&mut self, other: Annotations) {
        for (key, span) in other.texts {
            self.texts.entry(key).or_insert(span);
        }
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.texts.is_empty()
    }

    /// All of a level as the HTTP API shows them, with the position in the query.
    pub fn texts(&self, level: Level, query: &str) -> Vec<String> {
        self.texts
            .iter()
            .filter(|((l, _), _)| *l == level)
            .map(|((_, text), span)| {
                let (line, column) = position(query, span.start);
                format!("{text} ({line}:{column})")
            })
            .collect()
    }
}
