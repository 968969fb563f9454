//! What is said about a record that is not known to be sound.

use std::process::ExitCode;

use evenkeel_guard::Unsound;

use crate::NOT_KNOWN;

/// Why a record is not known to be sound, in one line.
pub(super) fn told_of(record: &str, unsound: &Unsound) -> String {
    match unsound {
        Unsound::Tampered(tampering) => format!("{record}: {tampering}"),
        Unsound::Unreadable { path, source } => {
            format!("{} cannot be read, so nothing is known about it: {source}", path.display())
        }
    }
}

/// A record that was tampered with is an answer, one that could not be checked is none.
pub(super) fn code(unsound: &Unsound) -> ExitCode {
    match unsound {
        Unsound::Tampered(_) => ExitCode::FAILURE,
        Unsound::Unreadable { .. } => ExitCode::from(NOT_KNOWN),
    }
}
