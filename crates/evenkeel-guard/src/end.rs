//! Finds the end of a record without reading all of it.

use std::path::Path;

use jiff::Timestamp;

use crate::{
    Check, Line, PublicKey, Tampering,
    head::{self, Head},
    record::{self, Tip},
    segment,
    verify::{of_file, walk},
};

/// The end of a record as found.
#[derive(Debug, Default)]
pub(crate) struct End {
    pub(crate) tip: Tip,
    /// Number of the last file; 0 when there is none.
    pub(crate) number: u32,
    /// Its length up to the last whole line; what follows was torn by a crash.
    pub(crate) len: u64,
    /// Time of its first line.
    pub(crate) started: Option<Timestamp>,
    /// Whether the next line must begin a new file: the last one is of an older format.
    pub(crate) old_format: bool,
}

/// What the end of one file says.
enum Piece {
    /// No whole line.
    Nothing,
    /// Ends with this line.
    Last { tip: Tip, len: u64, line: Box<Line>, text: String },
}

/// Finds where to continue. Reads HEAD and the lines behind the one that it names, which are few; a
/// record of format 1 is read whole, once.
///
/// **Errors**: the end is not as it was written with `key`.
pub(crate) fn find(dir: &Path, key: &PublicKey) -> Result<End, Tampering> {
    let heads = head::read(dir).map_err(|error| of_file("HEAD", &error.to_string()))?;
    let numbers = segment::numbers(dir).map_err(|error| of_file("", &error.to_string()))?;
    let head = heads.as_deref().and_then(|heads| head::newest(heads, Some(key)));
    let Some(number) = numbers.last().copied() else {
        return cut(head, &Tip::default(), 1).map_or(Ok(End::default()), Err);
    };
    // A crash can leave a last file in which no line is whole; then the one before it has the end.
    for candidate in numbers.iter().rev().take(2).copied() {
        let path = dir.join(segment::name(candidate));
        let Piece::Last { tip, len, line, text } = piece(&path, candidate, head)? else { continue };
        if line.v == 1 {
            return old_format(dir, candidate);
        }
        if !line.is_signed_by(key, &text) {
            return Err(of_file(&segment::name(candidate), &foreign(&line, key)));
        }
        if head.is_none() {
            let problem = "HEAD is missing, or holds no head with a valid signature";
            return Err(of_file("HEAD", problem));
        }
        if let Some(tampering) = cut(head, &tip, candidate) {
            return Err(tampering);
        }
        let started = segment::first_line(&path).ok().flatten().map(|line| line.time);
        let (len, started) = if candidate == number { (len, started) } else { (0, None) };
        return Ok(End { tip, number, len, started, old_format: false });
    }
    if let Some(tampering) = cut(head, &Tip::default(), number) {
        return Err(tampering);
    }
    match number {
        1 => Ok(End { number, ..End::default() }),
        _ => {
            Err(of_file(&segment::name(number), "it holds no whole line, nor does the one before"))
        }
    }
}

/// Reads the end of a file from the line that HEAD names, or the last one before it.
fn piece(path: &Path, number: u32, head: Option<&Head>) -> Result<Piece, Tampering> {
    let name = segment::name(number);
    let named = head.map_or(0, |head| head.tip.seq);
    let line_of = |bytes: &[u8]| {
        let text = str::from_utf8(bytes.strip_suffix(b"\n")?).ok()?;
        record::parse(text).ok().map(|line| (Box::new(line), text.to_owned()))
    };
    let early_enough = |bytes: &[u8]| line_of(bytes).is_some_and(|(line, _)| line.seq <= named);
    let (mut len, bytes) =
        segment::tail(path, early_enough).map_err(|error| of_file(&name, &error.to_string()))?;
    let mut piece = Piece::Nothing;
    for bytes in bytes.split_inclusive(|byte| *byte == b'\n') {
        let torn = segment::is_torn(bytes);
        let before = match &piece {
            Piece::Last { tip, .. } => Some(tip),
            Piece::Nothing => None,
        };
        let next = line_of(bytes).filter(|(line, _)| {
            before.is_none_or(|tip| line.seq == tip.seq + 1 && line.prev == tip.hash)
        });
        match next {
            Some((line, text)) => {
                let problem = "HEAD names another hash for its end: the record was rewritten";
                if head.is_some_and(|head| line.seq == named && line.hash != head.tip.hash) {
                    return Err(of_file(&name, problem));
                }
                len += u64::try_from(bytes.len()).unwrap_or_default();
                let tip = Tip { seq: line.seq, hash: line.hash.clone() };
                piece = Piece::Last { tip, len, line, text };
            }
            None if torn => break,
            None => return Err(of_file(&name, "a line at its end is not as it was written")),
        }
    }
    Ok(piece)
}

fn old_format(dir: &Path, number: u32) -> Result<End, Tampering> {
    let walk = walk(dir, &Check::default(), |_| {})?;
    Ok(End { tip: walk.tip, number, len: walk.len, started: None, old_format: true })
}

fn cut(head: Option<&Head>, tip: &Tip, number: u32) -> Option<Tampering> {
    let head = head.filter(|head| head.tip.seq > tip.seq)?;
    let problem = format!(
        "the record ends with number {}, HEAD names number {}: the end was cut",
        tip.seq, head.tip.seq
    );
    Some(of_file(&segment::name(number), &problem))
}

fn foreign(line: &Line, key: &PublicKey) -> String {
    format!(
        "its last line, number {}, does not carry the signature of this key ({key}): name the key \
         that signed it with --audit-key",
        line.seq
    )
}
