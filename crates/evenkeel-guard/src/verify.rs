use std::{fs, io, path::Path};

use crate::{
    Line,
    files::{read_head, segment_name},
    record::Tip,
};

/// What a sound record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of lines.
    pub lines: u64,
    /// Number of files.
    pub files: u32,
    /// Hash of the last line: keep a copy elsewhere to prove later that nothing was rewritten.
    pub hash: String,
    /// Whether a last line is there only in part: the process died while it wrote it, before the
    /// action was allowed.
    pub torn: bool,
}

/// Where and how a record is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file} line {line}: {problem}")]
pub struct Tampering {
    /// Name of the file in the folder.
    pub file: String,
    /// Line in that file, from 1; 0 when the file itself is the problem.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

/// The end of a record as found.
#[derive(Debug, Default)]
pub(crate) struct Tail {
    pub(crate) tip: Tip,
    /// Number of the last segment; 0 when there is none.
    pub(crate) number: u32,
    /// Its length up to the last whole line.
    pub(crate) len: u64,
    torn: bool,
}

/// Checks every line of the record in `dir` (DATA-DIR/audit).
///
/// **Errors**: the first thing that is not as it was written. A folder without any record is one,
/// too: what was deleted whole looks just like that.
pub fn verify(dir: &Path) -> Result<Summary, Tampering> {
    let tail = walk(dir, |_| {})?;
    if tail.number == 0 {
        return Err(of_file(&segment_name(1), "there is no audit record here"));
    }
    Ok(Summary { lines: tail.tip.seq, files: tail.number, hash: tail.tip.hash, torn: tail.torn })
}

/// Reads the whole record in order, checking it on the way.
pub fn read(dir: &Path) -> Result<Vec<Line>, Tampering> {
    let mut lines = Vec::new();
    walk(dir, |line| lines.push(line))?;
    Ok(lines)
}

/// Finds the end of the record, for going on writing it.
pub(crate) fn tail(dir: &Path) -> Result<Tail, Tampering> {
    walk(dir, |_| {})
}

fn walk(dir: &Path, mut each: impl FnMut(Line)) -> Result<Tail, Tampering> {
    let head = read_head(dir).map_err(|error| of_file("HEAD", &error.to_string()))?;
    let last = last_segment(dir)?;
    let mut tail = Tail { number: last, ..Tail::default() };
    // Hash of the line that HEAD names, and of those behind it.
    let mut at_head = head.as_ref().map(|head| head.seq == 0);
    for number in 1..=last {
        let name = segment_name(number);
        let text = fs::read(dir.join(&name)).map_err(|error| of_file(&name, &absent(&error)))?;
        let text = String::from_utf8(text)
            .map_err(|_| of_file(&name, "it holds bytes that are no text"))?;
        tail.len = 0;
        for (index, line) in (1..).zip(text.split_inclusive('\n')) {
            let wrong = |problem| Tampering { file: name.clone(), line: index, problem };
            let Some(whole) = line.strip_suffix('\n') else {
                if number < last {
                    return Err(wrong("it is cut".to_owned()));
                }
                tail.torn = true;
                break;
            };
            let (line_read, tip) = tail.tip.follow(whole).map_err(wrong)?;
            if let Some(head) = head.as_ref().filter(|head| head.seq == tip.seq) {
                if head.hash != tip.hash {
                    let problem = "HEAD names another hash for it: the record was rewritten";
                    return Err(wrong(problem.to_owned()));
                }
                at_head = Some(true);
            }
            tail.len += u64::try_from(line.len()).unwrap_or_default();
            tail.tip = tip;
            each(line_read);
        }
    }
    check_head(head.as_ref(), at_head, &tail)?;
    Ok(tail)
}

fn check_head(head: Option<&Tip>, found: Option<bool>, tail: &Tail) -> Result<(), Tampering> {
    let Some(head) = head else {
        // HEAD is made before the first line is written.
        if tail.tip.seq == 0 {
            return Ok(());
        }
        return Err(of_file("HEAD", "it is missing"));
    };
    if found != Some(true) {
        let problem = format!(
            "the record ends with number {}, HEAD names number {}: the end was cut",
            tail.tip.seq, head.seq
        );
        return Err(of_file(&segment_name(tail.number.max(1)), &problem));
    }
    if tail.tip.seq > head.seq + 1 {
        let problem = format!(
            "it names number {}, the record goes on to number {}: lines were added by hand or an \
             old HEAD was put back",
            head.seq, tail.tip.seq
        );
        return Err(of_file("HEAD", &problem));
    }
    Ok(())
}

/// Highest number of a segment; gaps below it are found when they are read.
fn last_segment(dir: &Path) -> Result<u32, Tampering> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(of_file("", &error.to_string())),
    };
    let mut last = 0;
    for entry in entries {
        let entry = entry.map_err(|error| of_file("", &error.to_string()))?;
        let name = entry.file_name();
        let number = name.to_str().and_then(|name| name.strip_suffix(".jsonl")?.parse().ok());
        last = last.max(number.unwrap_or_default());
    }
    Ok(last)
}

fn absent(error: &io::Error) -> String {
    if error.kind() == io::ErrorKind::NotFound {
        "the file is missing".to_owned()
    } else {
        error.to_string()
    }
}

fn of_file(file: &str, problem: &str) -> Tampering {
    Tampering { file: file.to_owned(), line: 0, problem: problem.to_owned() }
}
