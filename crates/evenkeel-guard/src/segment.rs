//! The numbered files of a record, and how their lines are read.

use std::{
    ffi::OsString,
    fs,
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use serde::de::IgnoredAny;

use crate::{
    Line,
    record::{self, Tip},
    regular,
};

/// Longest line that is read: ours are a few KiB, so anything longer is not ours.
pub(crate) const LINE_BYTES_MAX: u64 = 1 << 20;
/// First piece read from the end of a file; it doubles until it holds a whole line.
const TAIL_BYTES: u64 = 64 << 10;
/// What a crash leaves unfinished at most: far more than the lines that are written together.
pub(crate) const TORN_BYTES_MAX: u64 = 32 << 20;
/// Disks write whole sectors: where one begins, data may follow on one that was never written.
const SECTOR_BYTES: u64 = 512;

/// Name of the file with this number.
pub(crate) fn name(number: u32) -> String {
    format!("{number:06}.jsonl")
}

/// Numbers of the files in `dir`, in order; none when there is no such folder.
pub(crate) fn numbers(dir: &Path) -> io::Result<Vec<u32>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut numbers = Vec::new();
    for entry in entries {
        numbers.extend(number(&entry?.file_name()));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The number of the file with this name; `None` when it is not a file of lines.
fn number(file: &OsString) -> Option<u32> {
    let number = file.to_str()?.strip_suffix(".jsonl")?.parse().ok()?;
    (file.to_str() == Some(&*name(number))).then_some(number)
}

/// The first name in `dir`, by alphabet, that no part of a record has.
pub(crate) fn foreign(dir: &Path) -> io::Result<Option<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir)? {
        let file = entry?.file_name();
        if number(&file).is_none() && file != "HEAD" && file != "LOCK" {
            names.push(file.to_string_lossy().into_owned());
        }
    }
    Ok(names.into_iter().min())
}

/// The first line of a file; `None` when it holds no whole readable one.
pub(crate) fn first_line(path: &Path) -> io::Result<Option<Line>> {
    let mut text = Vec::new();
    BufReader::new(regular::open(path)?).take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
    let text = text.strip_suffix(b"\n").and_then(|text| str::from_utf8(text).ok());
    Ok(text.and_then(|text| record::parse(text).ok()))
}

/// The end of a file from the last line that starts at or before `wanted` says so, as bytes, with
/// the offset where it begins. `enough` is asked about the first whole line in the piece.
pub(crate) fn tail(path: &Path, enough: impl Fn(&[u8]) -> bool) -> io::Result<(u64, Vec<u8>)> {
    let mut file = regular::open(path)?;
    let len = file.metadata()?.len();
    let mut wanted = TAIL_BYTES;
    loop {
        let start = len.saturating_sub(wanted);
        file.seek(SeekFrom::Start(start))?;
        let mut bytes = Vec::new();
        (&file).take(len - start).read_to_end(&mut bytes)?;
        // Only what begins behind a line end is a line; at the start of the file all of it is.
        let skip = match start {
            0 => 0,
            _ => bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |at| at + 1),
        };
        let piece = bytes.get(skip..).unwrap_or_default();
        let first = piece.split_inclusive(|byte| *byte == b'\n').next().unwrap_or_default();
        if start == 0 || (first.ends_with(b"\n") && enough(first)) {
            let skipped = u64::try_from(skip).unwrap_or_default();
            return Ok((start + skipped, piece.to_vec()));
        }
        wanted *= 2;
    }
}

/// Number of the line that begins at `offset`, from 1.
pub(crate) fn line_at(path: &Path, offset: u64) -> io::Result<u64> {
    let mut reader = BufReader::new(regular::open(path)?.take(offset));
    let mut line = 1;
    loop {
        let piece = reader.fill_buf()?;
        if piece.is_empty() {
            return Ok(line);
        }
        let ends = piece.split(|byte| *byte == b'\n').count() - 1;
        line += u64::try_from(ends).unwrap_or_default();
        let len = piece.len();
        reader.consume(len);
    }
}

/// Whether `rest`, from `offset` to the end of the last file, is what a crash leaves behind the
/// line of `tip`: the beginning of the next line, sectors that were never written, or both. Once
/// one is missing, others of the same write may follow on it.
pub(crate) fn is_torn(rest: &[u8], offset: u64, tip: &Tip) -> bool {
    let written = rest.iter().position(|byte| *byte == 0).unwrap_or(rest.len());
    let (begun, missing) = rest.split_at(written);
    let at = offset + u64::try_from(written).unwrap_or_default();
    let begins_sector = |(index, pair): (u64, &[u8])| {
        !matches!(pair, [0, after] if *after != 0) || (at + index + 1).is_multiple_of(SECTOR_BYTES)
    };
    !rest.is_empty()
        && u64::try_from(rest.len()).is_ok_and(|len| len <= TORN_BYTES_MAX)
        && (0..).zip(missing.windows(2)).all(begins_sector)
        && (begun.is_empty() || begins_next(begun, tip))
}

/// Whether a line that follows `tip` may begin like this, its end being missing.
fn begins_next(begun: &[u8], tip: &Tip) -> bool {
    // A crash may split a character.
    let text = match str::from_utf8(begun) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            str::from_utf8(begun.get(..error.valid_up_to()).unwrap_or_default()).unwrap_or_default()
        }
        Err(_) => return false,
    };
    let fits = (1..=record::VERSION).any(|version| {
        let start = format!("{{\"v\":{version},\"seq\":{},\"time\":\"", tip.seq + 1);
        start.starts_with(text) || text.starts_with(&start)
    });
    fits && match serde_json::from_slice::<IgnoredAny>(begun) {
        // Only its newline is missing.
        Ok(_) => tip.follow(text).is_ok(),
        Err(error) => error.is_eof(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_beginning_of_the_next_line_is_torn() {
        let tip = Tip { seq: 7, hash: "ab".repeat(32) };
        let (line, _) =
            tip.next(jiff::Timestamp::UNIX_EPOCH, false, crate::Entry::Lost { lines: 3 }, None);
        let torn = |rest: &[u8]| is_torn(rest, 1000, &tip);
        for len in 1..line.len() {
            assert!(torn(&line.as_bytes()[..len]), "{len}");
            assert!(torn(&[&line.as_bytes()[..len], &[0; 3]].concat()), "{len}");
        }
        assert!(torn(&[0; 30]));
        // Sectors begin at 1024 and 1536.
        assert!(torn(&[&[0; 24][..], b"rest of a line\n"].concat()));
        assert!(torn(b"{\"v\":2,\"seq\":8,\"time\":\"x\xc3"));
        let seq = |seq: u64| line.replace("\"seq\":8", &format!("\"seq\":{seq}"));
        let junk: [&[u8]; 9] = [
            b"",
            b"\n",
            b"junk",
            b"{\"v\":9",
            b"{\"v\":2,\"seq\":8,\"time\":\"x\xff\xff",
            b"{\"v\":2,\"seq\":8,\"time\":1}",
            b"{\"v\":2,\"seq\":8,\"time\":\"x\"} more",
            b"\0\0junk",
            b"\0\0\n",
        ];
        for rest in junk {
            assert!(!torn(rest), "{:?}", String::from_utf8_lossy(rest));
        }
        for other in [seq(6), seq(7), seq(9), line.replace("lost", "lust"), line.clone()] {
            let other = if other == line { other.as_str() } else { other.trim_end() };
            assert!(!torn(other.as_bytes()), "{other}");
        }
    }
}
