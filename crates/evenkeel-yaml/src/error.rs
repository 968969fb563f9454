//! What is wrong with a document, in the terms of the file.

use std::fmt;

/// One mistake in one document.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Error {
    /// Line of the file, from 1.
    pub line: usize,
    /// Path of the field, `spec.slos[0].name`; empty for the whole document.
    pub field: String,
    /// What is wrong, and what to write instead where that is clear.
    pub problem: String,
}

impl Error {
    pub(crate) fn new(line: usize, problem: impl Into<String>) -> Self {
        Self { line, field: String::new(), problem: problem.into() }
    }

    /// The same error one level further out.
    pub(crate) fn below(mut self, step: &str) -> Self {
        let joint = if self.field.is_empty() || self.field.starts_with('[') { "" } else { "." };
        self.field = format!("{step}{joint}{}", self.field);
        self
    }

    /// The same error at this line, unless it has one already.
    pub(crate) fn at(mut self, line: usize) -> Self {
        if self.line == 0 {
            self.line = line;
        }
        self
    }
}

/// A key as a step of a path: `name`, or `["app.kubernetes.io/name"]`.
pub(crate) fn step(key: &str) -> String {
    let is_simple = |c: char| c.is_alphanumeric() || c == '_' || c == '-';
    if !key.is_empty() && key.chars().all(is_simple) {
        key.to_owned()
    } else {
        format!("[{key:?}]")
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, field, problem } = self;
        if *line > 0 {
            write!(f, "line {line}: ")?;
        }
        if !field.is_empty() {
            write!(f, "field {field}: ")?;
        }
        write!(f, "{problem}")
    }
}

impl std::error::Error for Error {}
