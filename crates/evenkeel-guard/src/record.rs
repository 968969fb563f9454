use std::fmt::Write as _;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::{PublicKey, SigningKey};

/// Format of the lines that are written now. Format 1 had no signatures; its lines are read, and
/// continued in this format.
pub(crate) const VERSION: u32 = 2;

/// What one line says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum Entry {
    /// An action was asked for.
    Ask(Box<Asked>),
    /// What became of an allowed action.
    Outcome {
        /// `seq` of its `Ask` line; `None` when that one is not written yet.
        of: Option<u64>,
        /// `done`, `failed`, or `withdrawn` when the answer came too late for the one who asked.
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
    /// First line of a file: makes it provable also without the files before it.
    Checkpoint {
        /// Number of the file.
        file: u32,
        /// Lines in all files before it, whether they still exist or not.
        lines: u64,
        /// The key that signs this line and those after it.
        key: PublicKey,
    },
    /// Whole files left the record, by the rule how long it is kept.
    Dropped(Dropped),
}

/// What one policy had against an action, or by which exception it had nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Objected {
    /// Name of the policy.
    pub policy: String,
    /// `hold` or `deny`; `allow` for an exception that somebody made.
    pub verdict: String,
    /// Why, and who can change it; of an exception: which one, whose, and until when.
    pub reason: String,
}

/// An action that was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Asked {
    /// Who asked.
    pub controller: String,
    /// On behalf of which object, as `Kind/namespace/name`.
    pub object: String,
    /// Verb of the action.
    pub verb: String,
    /// The action in words, without what it writes.
    pub action: String,
    /// Reason of the plan.
    pub reason: String,
    /// `safer`, `neutral` or `riskier`.
    pub direction: String,
    /// `allow`, `hold` or `deny`; `observe` for what would be done with an object that is not ours.
    pub verdict: String,
    /// Why it is held or denied.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// What each policy had against it, also when that did not decide, and the exceptions by
    /// which one had nothing.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub objections: Vec<Objected>,
    /// The target as it was; `None` when there was none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub before: Option<State>,
    /// SHA-256 of the target's JSON as it will be (in format 1, of what is written); `None` when
    /// there is none, and for Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub after: Option<String>,
    /// What is written, as JSON, when `action` does not say all of it; redacted, cut, and never
    /// there for Secrets.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
}

/// What left the record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dropped {
    /// Number of the first line that went this time; those before it went earlier.
    pub first: u64,
    /// Number of the last line that went.
    pub last: u64,
    /// How many lines went this time.
    pub lines: u64,
    /// How many files went this time.
    pub files: u32,
    /// Hash of the last line that went: the next one, which is still there, continues it.
    pub last_hash: String,
}

/// A state of an object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Its `resourceVersion`.
    pub revision: String,
    /// SHA-256 of its JSON; empty for Secrets, whose content could be guessed from it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
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
    /// Ed25519 signature, in base64, of the SHA-256 of this line's bytes up to here. Format 1, and
    /// records in memory, have none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub sig: String,
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

/// Between a line's content and its signature.
const SIGNATURE: &str = ",\"sig\":\"";
/// Between all that and its hash.
const SEAL: &str = ",\"hash\":\"";

impl Tip {
    /// The text of the next line (with its newline) and the tip after it.
    pub(crate) fn next(
        &self,
        time: Timestamp,
        late: bool,
        entry: Entry,
        key: Option<&SigningKey>,
    ) -> (String, Self) {
        let line = Line {
            v: VERSION,
            seq: self.seq + 1,
            time,
            late,
            entry,
            prev: self.hash.clone(),
            sig: String::new(),
            hash: String::new(),
        };
        let mut text = serde_json::to_string(&line).expect("a line is plain text and numbers");
        // The closing brace moves behind the hash.
        text.pop();
        if let Some(key) = key {
            let signature = key.sign(&signed_text(&text));
            text.push_str(SIGNATURE);
            text.push_str(&signature);
            text.push('"');
        }
        let hash = sha256(text.as_bytes());
        text.push_str(SEAL);
        text.push_str(&hash);
        text.push_str("\"}\n");
        (text, Self { seq: line.seq, hash })
    }

    /// Checks that `text` (without newline) is the next line, byte for byte. Its signature is
    /// another matter: see [`Line::is_signed_by`].
    ///
    /// **Errors**: in words for a person.
    pub(crate) fn follow(&self, text: &str) -> Result<(Line, Self), String> {
        let line = parse(text)?;
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

impl Line {
    /// Whether `text`, the bytes of this line, carries the signature of `key`. The hash covers the
    /// signature and the chain covers the hash, so one good signature vouches for all lines before.
    pub(crate) fn is_signed_by(&self, key: &PublicKey, text: &str) -> bool {
        text.rsplit_once(SIGNATURE)
            .is_some_and(|(content, _)| key.signed(&signed_text(content), &self.sig))
    }
}

/// Reads one line (without newline) and checks that it is as it was sealed.
///
/// **Errors**: in words for a person.
pub(crate) fn parse(text: &str) -> Result<Line, String> {
    let (content, _) = text.rsplit_once(SEAL).ok_or("it is not a line of the record")?;
    let line: Line =
        serde_json::from_str(text).map_err(|error| format!("it is not readable: {error}"))?;
    if !(1..=VERSION).contains(&line.v) {
        return Err(format!("it is of format {}, this version reads 1 to {VERSION}", line.v));
    }
    if format!("{content}{SEAL}{}\"}}", line.hash) != text
        || sha256(content.as_bytes()) != line.hash
    {
        return Err("its content does not match its hash: it was edited".to_owned());
    }
    Ok(line)
}

/// What is signed for a line: never mistaken for another kind of text under the same key.
fn signed_text(content: &str) -> String {
    format!("evenkeel audit line {}", sha256(content.as_bytes()))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        // Writing to a String cannot fail.
        write!(text, "{byte:02x}").unwrap_or_default();
        text
    })
}
