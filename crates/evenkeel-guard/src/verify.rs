use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use crate::{
    Dropped, Entry, Line, PublicKey,
    head::{self, Head},
    record::{self, Tip},
    regular,
    segment::{self, LINE_BYTES_MAX, TORN_BYTES_MAX},
};

/// What a record is held against, besides itself.
#[derive(Debug, Clone, Copy, Default)]
pub struct Check<'a> {
    /// The key that must have signed it. Without it the record is checked with the key that it
    /// names itself, which finds damage and partial edits but no rewrite under another key.
    pub key: Option<&'a PublicKey>,
    /// Bytes of a HEAD file that was copied elsewhere before: the record must still contain the
    /// line that it names. It finds that the record was put back to an older state.
    pub copy_of_head: Option<&'a [u8]>,
}

/// What a sound record holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Number of its first line; more than 1 when older ones were dropped.
    pub first: u64,
    /// Number of its last line.
    pub last: u64,
    /// Number of files.
    pub files: usize,
    /// Hash of the last line.
    pub hash: String,
    /// A last line that is there only in part: the process died while it wrote it, before the
    /// action was allowed.
    pub torn: Option<Torn>,
    /// Lines of format 1, which carry no signature of their own; later signed lines vouch for them.
    pub unsigned: u64,
    /// The latest drop of old files.
    pub dropped: Option<Dropped>,
    /// The key that signed it; `None` when all of it is of format 1.
    pub key: Option<PublicKey>,
}

/// What a crash left unfinished; the next process that writes the record cuts it off.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Torn {
    /// Name of the file in the folder.
    pub file: String,
    /// Line in that file, from 1.
    pub line: u64,
    /// How much of it is there.
    pub bytes: usize,
}

/// Where and how a record is not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {problem}", self.place())]
pub struct Tampering {
    /// Name of the file in the folder.
    pub file: String,
    /// Line in that file, from 1; 0 when the file itself is the problem.
    pub line: u64,
    /// What is wrong.
    pub problem: String,
}

impl Tampering {
    fn place(&self) -> String {
        match self.line {
            0 => self.file.clone(),
            line => format!("{} line {line}", self.file),
        }
    }
}

/// Why a record is not known to be sound.
#[derive(Debug, thiserror::Error)]
pub enum Unsound {
    /// It was read, and it is not what was written.
    #[error(transparent)]
    Tampered(#[from] Tampering),
    /// The system does not let it be read: nothing is known about it.
    #[error("{}", path.display())]
    Unreadable {
        /// Which file or folder.
        path: PathBuf,
        /// Cause.
        #[source]
        source: io::Error,
    },
}

impl Unsound {
    /// Something wrong with a file: an error of the system, or what this crate has found at the
    /// place of the file (see `regular`), which has no number of the system.
    pub(crate) fn of_io(dir: &Path, file: &str, error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::NotFound {
            return of_file(file, "the file is missing").into();
        }
        if error.raw_os_error().is_none() {
            return of_file(file, &error.to_string()).into();
        }
        Self::Unreadable { path: dir.join(file), source: error }
    }

    pub(crate) fn of_folder(dir: &Path, source: io::Error) -> Self {
        Self::Unreadable { path: dir.to_owned(), source }
    }
}

/// Checks every line of the record in `dir` (DATA-DIR/audit), and that nothing else lies there.
///
/// **Errors**: the first thing that is not as it was written, or that cannot be read. A folder
/// without any record is not as it was written: what was deleted whole looks just like that.
pub fn verify(dir: &Path, check: &Check<'_>) -> Result<Summary, Unsound> {
    let walk = walk(dir, check, |_| {})?;
    let Some(start) = walk.start else {
        return Err(of_file(&segment::name(1), "there is no audit record here").into());
    };
    let foreign = segment::foreign(dir).map_err(|error| Unsound::of_folder(dir, error))?;
    if let Some(file) = foreign {
        return Err(of_file(&file, "it is no part of the record: move it elsewhere").into());
    }
    Ok(Summary {
        first: start.seq + 1,
        last: walk.tip.seq,
        files: walk.files,
        hash: walk.tip.hash,
        torn: walk.torn,
        unsigned: walk.unsigned,
        dropped: walk.dropped,
        key: walk.key,
    })
}

/// Reads the whole record in order, checking it on the way.
///
/// **Errors**: as [`verify`]; `each` has seen the lines before.
pub fn read(dir: &Path, each: impl FnMut(Line)) -> Result<(), Unsound> {
    walk(dir, &Check::default(), each).map(drop)
}

/// A record as far as it was read.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    pub(crate) tip: Tip,
    /// Where the last file ends after its last whole line.
    pub(crate) len: u64,
    torn: Option<Torn>,
    heads: Vec<Head>,
    /// What the first line follows on; `None` before it.
    start: Option<Tip>,
    files: usize,
    unsigned: u64,
    /// Number of the last line of format 1.
    unsigned_last: u64,
    dropped: Option<Dropped>,
    key: Option<PublicKey>,
    /// Numbers of the lines that heads name.
    named: BTreeSet<u64>,
    /// Hashes of those, and of the last lines of files, which a drop may refer to.
    hashes: BTreeMap<u64, String>,
}

/// Reads the record in order, checks it, and hands every line over.
pub(crate) fn walk(
    dir: &Path,
    check: &Check<'_>,
    mut each: impl FnMut(Line),
) -> Result<Walk, Unsound> {
    // HEAD first: a running process goes on appending lines, and HEAD must not be newer than they.
    let (heads, numbers) = listed(dir)?;
    let copied = check.copy_of_head.map(head::all).unwrap_or_default();
    let named = heads.iter().flatten().chain(&copied).map(|head| head.tip.seq).collect();
    let mut walk = Walk {
        key: check.key.copied(),
        files: numbers.len(),
        named,
        heads: heads.clone().unwrap_or_default(),
        ..Walk::default()
    };
    let mut before = None;
    for number in &numbers {
        if let Some(missing) = before.map(|before| before + 1).filter(|next| next < number) {
            return Err(of_file(&segment::name(missing), "the file is missing").into());
        }
        before = Some(*number);
        walk.file(dir, *number, numbers.last() == Some(number), &mut each)?;
    }
    let last = segment::name(before.unwrap_or(1));
    walk.check_start(numbers.first().copied().unwrap_or(1))?;
    walk.check_head(heads.as_deref(), &last)?;
    if check.key.is_some() && walk.tip.seq > 0 && walk.tip.seq == walk.unsigned_last {
        return Err(of_file(&last, "all of it is of format 1, which was not signed yet").into());
    }
    if check.copy_of_head.is_some() {
        walk.check_copy(&copied, &last)?;
    }
    Ok(walk)
}

/// The heads in HEAD, if it is there, and the numbers of the files.
pub(crate) fn listed(dir: &Path) -> Result<(Option<Vec<Head>>, Vec<u32>), Unsound> {
    let numbers = || segment::numbers(dir).map_err(|error| Unsound::of_folder(dir, error));
    match head::read(dir) {
        Ok(heads) => Ok((heads, numbers()?)),
        Err(error) => {
            // Where the folder itself cannot be read, that is what is wrong.
            numbers()?;
            Err(Unsound::of_io(dir, "HEAD", error))
        }
    }
}

impl Walk {
    fn file(
        &mut self,
        dir: &Path,
        number: u32,
        is_last: bool,
        each: &mut impl FnMut(Line),
    ) -> Result<(), Unsound> {
        let name = segment::name(number);
        let unread = |error| Unsound::of_io(dir, &name, error);
        let file = regular::open(&dir.join(&name)).map_err(unread)?;
        let mut reader = BufReader::new(file);
        self.len = 0;
        let mut last = None;
        for index in 1.. {
            let wrong = |problem: String| Tampering { file: name.clone(), line: index, problem };
            let mut bytes = Vec::new();
            let mut limited = (&mut reader).take(LINE_BYTES_MAX);
            let read = limited.read_until(b'\n', &mut bytes);
            read.map_err(unread)?;
            if bytes.is_empty() {
                break;
            }
            match self.line(&bytes) {
                Ok(line) => {
                    if index == 1 && line.v > 1 && !begins(number, &line) {
                        let problem = "it is not the first line of this file";
                        return Err(wrong(problem.to_owned()).into());
                    }
                    last = Some((line.clone(), bytes, index));
                    each(line);
                }
                Err(problem) if is_last => {
                    let rest = rest(bytes, &mut reader).map_err(unread)?;
                    self.may_be_torn(&rest).map_err(|cut| wrong(cut.unwrap_or(problem)))?;
                    let (file, bytes) = (name.clone(), rest.len());
                    self.torn = Some(Torn { file, line: index, bytes });
                    break;
                }
                Err(_) if !bytes.ends_with(b"\n") => {
                    return Err(wrong("the line is truncated".to_owned()).into());
                }
                Err(problem) => return Err(wrong(problem).into()),
            }
        }
        let Some((line, bytes, index)) = last else { return Ok(()) };
        self.hashes.insert(line.seq, line.hash.clone());
        self.check_signature(&line, &bytes)
            .map_err(|problem| Tampering { file: name, line: index, problem }.into())
    }

    /// Whether a crash may have left this at the end of the last file; if not, what is known better
    /// than that the line is no good. What HEAD names was durable before.
    fn may_be_torn(&self, rest: &[u8]) -> Result<(), Option<String>> {
        if !segment::is_torn(rest, self.len, &self.tip) {
            return Err(None);
        }
        let head = head::newest(&self.heads, self.key.as_ref());
        let later = head.filter(|head| head.tip.seq > self.tip.seq);
        later.map_or(Ok(()), |head| Err(Some(cut(&self.tip, head))))
    }

    /// Takes the next line.
    fn line(&mut self, bytes: &[u8]) -> Result<Line, String> {
        let whole = bytes.strip_suffix(b"\n").ok_or("it has no end")?;
        let text = str::from_utf8(whole).map_err(|_| "it holds bytes that are not text")?;
        if self.start.is_none() {
            let first = record::parse(text)?;
            let before = first.seq.saturating_sub(1);
            // What lies before the first line is for `check_start` to judge.
            let hash = if before == 0 { Tip::default().hash } else { first.prev };
            self.tip = Tip { seq: before, hash };
        }
        let (line, tip) = self.tip.follow(text)?;
        if line.v == 1 {
            if self.unsigned_last < self.tip.seq && self.start.is_some() {
                return Err("it is of format 1, behind signed lines".to_owned());
            }
            self.unsigned += 1;
            self.unsigned_last = line.seq;
        }
        self.start.get_or_insert_with(|| self.tip.clone());
        match &line.entry {
            Entry::Checkpoint { key, .. } => {
                let known = *self.key.get_or_insert(*key);
                if known != *key {
                    return Err(format!(
                        "from here it is signed with the key {key}, not with {known}: it was \
                         rewritten, or it is another record"
                    ));
                }
            }
            Entry::Dropped(dropped) => self.dropped = Some(dropped.clone()),
            _ => {}
        }
        if self.named.contains(&line.seq) {
            self.hashes.insert(line.seq, line.hash.clone());
        }
        self.len += u64::try_from(bytes.len()).unwrap_or_default();
        self.tip = tip;
        Ok(line)
    }

    /// The last line of a file vouches for all others in it.
    fn check_signature(&self, line: &Line, bytes: &[u8]) -> Result<(), String> {
        let text = str::from_utf8(bytes).unwrap_or_default();
        if line.v == 1 || self.key.is_some_and(|key| line.is_signed_by(&key, text)) {
            return Ok(());
        }
        Err(match self.key {
            Some(key) => format!(
                "it does not carry the signature of the key {key}: it, or a line before, was \
                 rewritten"
            ),
            None => "no line before names the key that signed it".to_owned(),
        })
    }

    /// What is missing at the start must have been dropped by our own rule.
    fn check_start(&self, first_file: u32) -> Result<(), Tampering> {
        let Some(start) = self.start.as_ref().filter(|start| start.seq > 0) else {
            return if first_file > 1 {
                Err(of_file(&segment::name(1), "the file is missing"))
            } else {
                Ok(())
            };
        };
        let dropped = self.dropped.as_ref().filter(|dropped| dropped.last >= start.seq);
        let continues = dropped.is_some_and(|dropped| {
            let found = if dropped.last == start.seq {
                Some(&start.hash)
            } else {
                self.hashes.get(&dropped.last)
            };
            found == Some(&dropped.last_hash)
        });
        if continues {
            return Ok(());
        }
        let problem = format!(
            "the record begins with number {}, and no line says that those before it were dropped",
            start.seq + 1
        );
        Err(of_file(&segment::name(first_file), &problem))
    }

    fn check_head(&self, heads: Option<&[Head]>, last_file: &str) -> Result<(), Tampering> {
        let Some(heads) = heads else {
            // HEAD is made before the first line is written.
            return match self.tip.seq {
                0 => Ok(()),
                _ => Err(of_file("HEAD", "it is missing")),
            };
        };
        let head = match head::newest(heads, self.key.as_ref()) {
            Some(head) => head,
            None if self.tip.seq == 0 && heads.iter().all(|head| head.tip.seq == 0) => {
                return Ok(());
            }
            None => return Err(of_file("HEAD", "it holds no head with a valid signature")),
        };
        let named = head.tip.seq;
        if named > self.tip.seq {
            return Err(of_file(last_file, &cut(&self.tip, head)));
        }
        if self.hashes.get(&named).is_some_and(|hash| *hash != head.tip.hash) {
            let problem =
                format!("it names another hash for number {named}: the record was rewritten");
            return Err(of_file("HEAD", &problem));
        }
        // Format 1 synced HEAD after every line, and had nothing else against added lines.
        if head.is_unsigned() && (named > self.unsigned_last || self.unsigned_last > named + 1) {
            return Err(of_file(
                "HEAD",
                &format!(
                    "it names number {named} without a signature, the record goes on to number {}: \
                 lines were added by hand or an old HEAD was put back",
                    self.tip.seq
                ),
            ));
        }
        Ok(())
    }

    /// The record must contain what a copy of HEAD names.
    fn check_copy(&self, copied: &[Head], last_file: &str) -> Result<(), Tampering> {
        let head = head::newest(copied, self.key.as_ref());
        let head = head.ok_or_else(|| of_file("copy of HEAD", "it is not one of this record"))?;
        let Tip { seq, hash } = &head.tip;
        let problem = match self.hashes.get(seq) {
            _ if *seq > self.tip.seq => format!(
                "the record ends with number {}, the copy of HEAD names number {seq}: it was put \
                 back to an older state",
                self.tip.seq
            ),
            Some(found) if found != hash => {
                format!("the copy of HEAD names another hash for number {seq}: it was rewritten")
            }
            _ => return Ok(()),
        };
        Err(of_file(last_file, &problem))
    }
}

/// A bad line and all that follows, as far as it may matter. One without an end was the last when
/// it was read: a process that writes the record may go on meanwhile.
fn rest(mut bytes: Vec<u8>, reader: &mut impl io::Read) -> io::Result<Vec<u8>> {
    if bytes.ends_with(b"\n") || u64::try_from(bytes.len()).is_ok_and(|len| len >= LINE_BYTES_MAX) {
        reader.take(TORN_BYTES_MAX).read_to_end(&mut bytes)?;
    }
    Ok(bytes)
}

/// What is wrong when HEAD names a line that is not there.
pub(crate) fn cut(tip: &Tip, head: &Head) -> String {
    format!(
        "the record ends with number {}, HEAD names number {}: the end was cut",
        tip.seq, head.tip.seq
    )
}

/// Whether this is the first line of the file with this number.
fn begins(number: u32, line: &Line) -> bool {
    matches!(line.entry, Entry::Checkpoint { file, lines, .. }
        if file == number && lines + 1 == line.seq)
}

pub(crate) fn of_file(file: &str, problem: &str) -> Tampering {
    Tampering { file: file.to_owned(), line: 0, problem: problem.to_owned() }
}
