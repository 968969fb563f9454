use std::fmt::Write as _;

use evenkeel_control::Direction;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Version of the line format.
pub(crate) const VERSION: u32 = 1;

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// An action was asked for.
    Ask {
        /// Who asked.
        controller: String,
        /// On behalf of which object, as `Kind/namespace/name`.
        object: String,
        /// Verb of the action.
        verb: String,
        /// The action in words; without payload for Secrets, cut at 1 KiB.
        action: String,
        /// Reason of the plan.
        reason: String,
        /// `safer`, `neutral` or `riskier`.
        direction: String,
        /// `allow`, `hold` or `deny`.
        verdict: String,
        /// Why it is held or denied.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        why: Option<String>,
        /// The target as it was; `None` when there was none.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        before: Option<State>,
        /// SHA-256 of what is written; `None` when the action carries nothing.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        after: Option<String>,
    },
    /// What became of an allowed action.
    Outcome {
        /// `seq` of its `Ask` line; `None` when that one is not written yet.
        of: Option<u64>,
        /// `done` or `failed`.
        outcome: String,
        /// What went wrong.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        error: Option<String>,
    },
    /// Lines that could be neither written nor kept: the stated limit of late lines was reached.
    Lost {
        /// How many.
        lines: u64,
    },
}

/// A state of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its `resourceVersion`.
    pub revision: String,
    /// SHA-256 of its JSON.
    pub digest: String,
}

/// One line of the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Line {
    /// Format version.
    pub v: u32,
    /// Number of the line, from 1, without gaps.
    pub seq: u64,
    /// When it happened (not: was written).
    pub time: Timestamp,
    /// Written after the fact, because the record was not writable then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub late: bool,
    /// What it says.
    #[serde(flatten)]
    pub entry: Entry,
    /// Hash of the line before; 64 zeros for the first one.
    pub prev: String,
    /// SHA-256 of this line's bytes up to here. Empty only while the line is being made.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hash: String,
}

/// The end of a chain of lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Tip {
    pub(crate) seq: u64,
    pub(crate) hash: String,
}

impl Default for Tip {
    fn default() -> Self {
        Self { seq: 0, hash: "0".repeat(64) }
    }
}

/// Between a line's content and its hash.
const SEAL: &str = ",\"hash\":\"";

impl Tip {
    /// The text of the next line (with its newline) and the tip after it.
    pub(crate) fn next(&self, time: Timestamp, late: bool, entry: Entry) -> (String, Self) {
        let line = Line {
            v: VERSION,
            seq: self.seq + 1,
            time,
            late,
            entry,
            prev: self.hash.clone(),
            hash: String::new(),
        };
        let mut text = serde_json::to_string(&line).expect("a line is plain text and numbers");
        // The closing brace moves behind the hash.
        text.pop();
        let hash = sha256(text.as_bytes());
        text.push_str(SEAL);
        text.push_str(&hash);
        text.push_str("\"}\n");
        (text, Self { seq: line.seq, hash })
    }

    /// Checks that `text` (without newline) is the next line, byte for byte.
    ///
    /// **Errors**: in words for a person.
    pub(crate) fn follow(&self, text: &str) -> Result<(Line, Self), String> {
        let (content, _) = text.rsplit_once(SEAL).ok_or("it is not a line of the record")?;
        let line: Line =
            serde_json::from_str(text).map_err(|error| format!("it is not readable: {error}"))?;
        if line.v != VERSION {
            return Err(format!("it is of format version {}, not {VERSION}", line.v));
        }
        if format!("{content}{SEAL}{}\"}}", line.hash) != text
            || sha256(content.as_bytes()) != line.hash
        {
            return Err("its content does not match its hash: it was edited".to_owned());
        }
        if line.seq != self.seq + 1 || line.prev != self.hash {
            return Err(format!(
                "it is number {} and does not follow on number {}: lines were deleted, inserted \
                 or moved",
                line.seq, self.seq
            ));
        }
        let tip = Self { seq: line.seq, hash: line.hash.clone() };
        Ok((line, tip))
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}

pub(crate) fn direction_text(direction: Direction) -> &'static str {
    match direction {
        Direction::Safer => "safer",
        Direction::Neutral => "neutral",
        Direction::Riskier => "riskier",
    }
}
