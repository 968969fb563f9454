//! The only place that writes to the terminal.

use std::{
    borrow::Cow,
    io::{IsTerminal as _, Write as _},
};

use evenkeel_control::redact;
use tokio::{io::Interest, net::unix::pipe};

/// The text with nothing in it that a terminal acts upon, but for lines and tabs: what others wrote
/// into objects and answers must not move the cursor, or turn the order of letters round.
fn visible(text: &str) -> Cow<'_, str> {
    let acts = |c: char| {
        let turns = matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
        turns || (c.is_control() && c != '\n' && c != '\t')
    };
    if text.contains(acts) {
        Cow::Owned(text.replace(acts, "\u{fffd}"))
    } else {
        Cow::Borrowed(text)
    }
}

/// Writes a result. A reader that has gone away (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let text = visible(text);
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    write!(out, "{text}{end}").and_then(|()| out.flush()).unwrap_or_default();
}

/// Writes a piece of a result that has no end; false when the reader has gone away.
pub(crate) fn try_print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(visible(text).as_bytes()).and_then(|()| out.flush()).is_ok()
}

/// Ready when whoever reads the results through a pipe has gone away; never, when they go
/// elsewhere. Needs a tokio runtime.
pub(crate) async fn reader_gone() {
    // Opened anew: others who write to standard output must not share how this end waits.
    let output = pipe::OpenOptions::new().open_sender("/proc/self/fd/1");
    let gone = match &output {
        Ok(output) => output.ready(Interest::ERROR).await.is_ok(),
        // No pipe: nobody can leave.
        Err(_) => false,
    };
    if !gone {
        std::future::pending::<()>().await;
    }
}

/// Whether results go to a terminal, whose lines have a limited width.
pub(crate) fn is_terminal() -> bool {
    std::io::stdout().is_terminal()
}

/// Writes a remark or an error, apart from results.
pub(crate) fn complain(text: &str) {
    writeln!(std::io::stderr().lock(), "{}", visible(text)).unwrap_or_default();
}

/// An error with its causes, for the terminal. It may quote an address or an answer.
pub(crate) fn words(error: &anyhow::Error) -> String {
    redact::whole(&format!("{error:#}"))
}

/// A plain table: columns as wide as their longest cell, two spaces between.
pub(crate) fn table(head: &[&str], rows: &[Vec<String>]) -> String {
    let cells = |column: usize| rows.iter().filter_map(move |row| row.get(column));
    let widths: Vec<usize> = head
        .iter()
        .enumerate()
        .map(|(column, title)| {
            cells(column).map(|cell| cell.chars().count()).max().unwrap_or(0).max(title.len())
        })
        .collect();
    let line = |row: &[String]| {
        let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        format!("{}\n", cells.collect::<Vec<_>>().join("  ").trim_end())
    };
    let head: Vec<String> = head.iter().map(|title| (*title).to_owned()).collect();
    std::iter::once(line(&head)).chain(rows.iter().map(|row| line(row))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_is_printed_moves_the_cursor() {
        let text = "a\u{1b}[2J\u{7}b\r\tc\n\u{202e}d \u{1f4a9} \u{9b}1m";
        let shown = "a\u{fffd}[2J\u{fffd}b\u{fffd}\tc\n\u{fffd}d \u{1f4a9} \u{fffd}1m";
        assert_eq!(visible(text), shown);
        assert!(matches!(visible("plain \u{e4}\n"), Cow::Borrowed(_)));
    }
}
