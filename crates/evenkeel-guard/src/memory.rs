use std::collections::VecDeque;

use jiff::Timestamp;

use crate::{
    book::{AppendError, Sink},
    record::Tip,
};

/// Lines kept at most; a simulated year makes more, its digest covers them all.
const LINES_MAX: usize = 100_000;

/// Keeps lines in memory, in order.
#[derive(Debug, Default)]
pub struct MemorySink {
    lines: VecDeque<String>,
}

impl MemorySink {
    /// The latest lines, oldest first, without newlines.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.lines.iter().map(|line| line.trim_end())
    }
}

impl Sink for MemorySink {
    fn append(&mut self, text: &str, _: &Tip, _: Timestamp, _: bool) -> Result<(), AppendError> {
        for line in text.lines() {
            if self.lines.len() == LINES_MAX {
                self.lines.pop_front();
            }
            self.lines.push_back(line.to_owned());
        }
        Ok(())
    }
}
