//! The only place that writes to the terminal.

use std::io::{IsTerminal as _, Write as _};

use evenkeel_control::redact;
use tokio::{io::Interest, net::unix::pipe};

/// Writes a result. A reader that has gone away (`| head`) is not an error.
pub(crate) fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    let end = if text.ends_with('\n') || text.is_empty() { "" } else { "\n" };
    write!(out, "{text}{end}").and_then(|()| out.flush()).unwrap_or_default();
}

/// Writes a piece of a result that has no end; false when the reader has gone away.
pub(crate) fn try_print(text: &str) -> bool {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_ok()
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
    writeln!(std::io::stderr().lock(), "{text}").unwrap_or_default();
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
