//! Finds the end of a record without reading all of it.

use std::path::Path;

use jiff::Timestamp;

use crate::{
    Check, Line, PublicKey, Tampering, Unsound,
    head::{self, Head},
    record::{self, Tip},
    segment,
    verify::{self, of_file, walk},
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
    /// What HEAD names, where something else or nothing stands in one of its two places: earlier
    /// versions wrote them in turn.
    pub(crate) stale_head: Option<Tip>,
}

/// What the end of one file says.
enum Piece {
    /// No good line, only this.
    Nothing(Vec<u8>),
    /// Ends with this line.
    Last { tip: Tip, len: u64, line: Box<Line>, text: String },
}

/// Finds where to continue. Reads HEAD and the lines behind the one that it names, which are few; a
/// record of format 1 is read whole, once.
///
/// **Errors**: the end is not as it was written with `key`, or it cannot be read.
pub(crate) fn find(dir: &Path, key: &PublicKey) -> Result<End, Unsound> {
    let (heads, numbers) = verify::listed(dir)?;
    let head = heads.as_deref().and_then(|heads| head::newest(heads, Some(key)));
    let Some(number) = numbers.last().copied() else {
        return cut(head, &Tip::default(), 1)
            .map_or(Ok(End::default()), |tampering| Err(tampering.into()));
    };
    // A crash can leave a last file in which no line is whole; then the one before it has the end.
    let mut begun = Vec::new();
    for candidate in numbers.iter().rev().take(2).copied() {
        let path = dir.join(segment::name(candidate));
        let (tip, len, line, text) = match piece(dir, candidate, head)? {
            Piece::Last { tip, len, line, text } => (tip, len, line, text),
            Piece::Nothing(rest) if candidate == number => {
                begun = rest;
                continue;
            }
            Piece::Nothing(rest) => {
                return Err(of_line(&path, candidate, 0, &wrong(&rest, None)).into());
            }
        };
        if line.v == 1 {
            return old_format(dir, candidate);
        }
        if !line.is_signed_by(key, &text) {
            return Err(of_file(&segment::name(candidate), &foreign(&line, key)).into());
        }
        if head.is_none() {
            let problem = "HEAD is missing, or holds no head with a valid signature";
            return Err(of_file("HEAD", problem).into());
        }
        if let Some(tampering) = cut(head, &tip, candidate) {
            return Err(tampering.into());
        }
        check_begun(dir, number, &begun, &tip)?;
        let started = segment::first_line(&path).ok().flatten().map(|line| line.time);
        let (len, started) = if candidate == number { (len, started) } else { (0, None) };
        let stale_head = head
            .filter(|head| !heads.as_deref().is_some_and(|heads| head::is_in_both(heads, head)));
        let stale_head = stale_head.map(|head| head.tip.clone());
        return Ok(End { tip, number, len, started, old_format: false, stale_head });
    }
    check_begun(dir, number, &begun, &Tip::default())?;
    if let Some(tampering) = cut(head, &Tip::default(), number) {
        return Err(tampering.into());
    }
    if number == 1 {
        return Ok(End { number, ..End::default() });
    }
    let problem = "it holds no whole line, and none is before it";
    Err(of_file(&segment::name(number), problem).into())
}

/// A last file in which no line is whole must be what a crash leaves behind this line.
fn check_begun(dir: &Path, number: u32, begun: &[u8], tip: &Tip) -> Result<(), Tampering> {
    if begun.is_empty() || segment::is_torn(begun, 0, tip) {
        return Ok(());
    }
    Err(of_line(&dir.join(segment::name(number)), number, 0, &wrong(begun, Some(tip))))
}

/// Reads the end of a file from the line that HEAD names, or the last one before it.
fn piece(dir: &Path, number: u32, head: Option<&Head>) -> Result<Piece, Unsound> {
    let name = segment::name(number);
    let path = &dir.join(&name);
    let named = head.map_or(0, |head| head.tip.seq);
    let early_enough = |bytes: &[u8]| line_of(bytes).is_some_and(|(line, _)| line.seq <= named);
    let (mut len, bytes) =
        segment::tail(path, early_enough).map_err(|error| Unsound::of_io(dir, &name, error))?;
    let mut rest = bytes.as_slice();
    let mut last: Option<(Tip, Box<Line>, String)> = None;
    while !rest.is_empty() {
        let end = rest.iter().position(|byte| *byte == b'\n').map_or(rest.len(), |at| at + 1);
        let (bytes, after) = rest.split_at(end);
        let before = last.as_ref().map(|(tip, ..)| tip);
        let next = line_of(bytes).filter(|(line, _)| {
            before.is_none_or(|tip| line.seq == tip.seq + 1 && line.prev == tip.hash)
        });
        let Some((line, text)) = next else {
            match before {
                None => return Ok(Piece::Nothing(rest.to_vec())),
                Some(tip) if segment::is_torn(rest, len, tip) => break,
                Some(tip) => {
                    return Err(of_line(path, number, len, &wrong(bytes, Some(tip))).into());
                }
            }
        };
        if head.is_some_and(|head| line.seq == named && line.hash != head.tip.hash) {
            let problem = "HEAD names another hash for it: the record was rewritten";
            return Err(of_line(path, number, len, problem).into());
        }
        len += u64::try_from(bytes.len()).unwrap_or_default();
        last = Some((Tip { seq: line.seq, hash: line.hash.clone() }, line, text));
        rest = after;
    }
    let Some((tip, line, text)) = last else { return Ok(Piece::Nothing(Vec::new())) };
    Ok(Piece::Last { tip, len, line, text })
}

/// A line as it was sealed, with its text.
fn line_of(bytes: &[u8]) -> Option<(Box<Line>, String)> {
    let text = str::from_utf8(bytes.strip_suffix(b"\n")?).ok()?;
    record::parse(text).ok().map(|line| (Box::new(line), text.to_owned()))
}

/// What is wrong with a line that is no good, or does not follow on the one before.
fn wrong(bytes: &[u8], before: Option<&Tip>) -> String {
    let line = bytes.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
    let problem = match line.strip_suffix(b"\n").map(str::from_utf8) {
        None => Some("it has no end".to_owned()),
        Some(Err(_)) => Some("it holds bytes that are not text".to_owned()),
        Some(Ok(text)) => {
            let parsed = record::parse(text);
            let followed =
                parsed.and_then(|_| before.map_or(Ok(()), |tip| tip.follow(text).map(drop)));
            followed.err()
        }
    };
    problem.unwrap_or_else(|| "it is not as it was written".to_owned())
}

/// Something wrong with the line that begins at `offset`.
fn of_line(path: &Path, number: u32, offset: u64, problem: &str) -> Tampering {
    // Unreadable now, and it was readable before: the file is named all the same.
    let line = segment::line_at(path, offset).unwrap_or_default();
    Tampering { line, ..of_file(&segment::name(number), problem) }
}

fn old_format(dir: &Path, number: u32) -> Result<End, Unsound> {
    let walk = walk(dir, &Check::default(), |_| {})?;
    let (tip, len) = (walk.tip, walk.len);
    Ok(End { tip, number, len, old_format: true, ..End::default() })
}

fn cut(head: Option<&Head>, tip: &Tip, number: u32) -> Option<Tampering> {
    let head = head.filter(|head| head.tip.seq > tip.seq)?;
    Some(of_file(&segment::name(number), &verify::cut(tip, head)))
}

fn foreign(line: &Line, key: &PublicKey) -> String {
    format!(
        "its last line, number {}, does not carry the signature of this key ({key}): name the key \
         that signed it with --audit-key",
        line.seq
    )
}
