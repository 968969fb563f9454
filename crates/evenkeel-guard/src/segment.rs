//! The numbered files of a record, and how their lines are read.

use std::{
    fs::{self, File},
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::Path,
};

use crate::{Line, record};

/// Longest line that is read: ours are a few KiB, so anything longer is not ours.
pub(crate) const LINE_BYTES_MAX: u64 = 1 << 20;
/// First piece read from the end of a file; it doubles until it holds a whole line.
const TAIL_BYTES: u64 = 64 << 10;

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
        let file = entry?.file_name();
        let number = file.to_str().and_then(|file| file.strip_suffix(".jsonl")?.parse().ok());
        numbers.extend(number.filter(|number| file.to_str() == Some(&*name(*number))));
    }
    numbers.sort_unstable();
    Ok(numbers)
}

/// The first line of a file; `None` when it holds no whole readable one.
pub(crate) fn first_line(path: &Path) -> io::Result<Option<Line>> {
    let mut text = Vec::new();
    BufReader::new(File::open(path)?).take(LINE_BYTES_MAX).read_until(b'\n', &mut text)?;
    let text = text.strip_suffix(b"\n").and_then(|text| str::from_utf8(text).ok());
    Ok(text.and_then(|text| record::parse(text).ok()))
}

/// The end of a file from the last line that starts at or before `wanted` says so, as bytes, with
/// the offset where it begins. `enough` is asked about the first whole line in the piece.
pub(crate) fn tail(path: &Path, enough: impl Fn(&[u8]) -> bool) -> io::Result<(u64, Vec<u8>)> {
    let mut file = File::open(path)?;
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

/// Whether `line`, which is no good one, is what a crash leaves in the last file: a line without an
/// end, or a block that was allotted but never written.
pub(crate) fn is_torn(line: &[u8]) -> bool {
    !line.ends_with(b"\n") || line.contains(&0)
}
