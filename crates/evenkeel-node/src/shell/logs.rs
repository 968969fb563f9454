//! Container output for `kubectl logs`.

use std::{
    collections::VecDeque,
    fs::File,
    io::{BufRead as _, BufReader, Read as _},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_control::BoxStream;
use futures::{StreamExt as _, stream};
use jiff::Timestamp;

use super::{files, logfile::rotated};

/// How often a followed file is looked at.
const FOLLOW_PERIOD: Duration = Duration::from_millis(200);
/// Most rotated files that are looked for.
const FILES_MAX: u32 = 100;
/// Bytes sent at once.
const CHUNK_BYTES: usize = 64 * 1024;

/// Which output is wanted, and how much of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogQuery {
    /// Root of the node's files, as given to the runtime.
    pub root: PathBuf,
    /// Uid of the pod.
    pub uid: String,
    /// The container.
    pub container: String,
    /// Continues until the container ends.
    pub follow: bool,
    /// Only this many lines from the end.
    pub tail_lines: Option<u64>,
    /// Of the run before the last one.
    pub previous: bool,
    /// Only lines written at this time or later.
    pub since: Option<Timestamp>,
    /// Each line starts with its time.
    pub timestamps: bool,
    /// Ends after this many bytes.
    pub limit_bytes: Option<u64>,
}

/// Why there is no output.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LogsError {
    /// The container has not run (yet, or never before).
    #[error("{}container {container:?} has no logs: it has not run", if *previous { "previous " } else { "" })]
    NotFound {
        /// Its name.
        container: String,
        /// The run before the last one was asked for.
        previous: bool,
    },
}

/// Opens the output of one container.
pub fn read_logs(query: &LogQuery) -> Result<BoxStream<'static, Bytes>, LogsError> {
    let LogQuery { container, previous, .. } = query;
    let missing = || LogsError::NotFound { container: container.clone(), previous: *previous };
    // A name from a URL must not lead out of the directory.
    if [&query.uid, container].iter().any(|name| name.contains('/') || name.starts_with('.')) {
        return Err(missing());
    }
    let dir = files::pod_dir(&query.root, &query.uid).join(container);
    let mut runs = files::attempts(&dir);
    runs.retain(|run| dir.join(run.to_string()).join("output.log").exists());
    if *previous {
        runs.pop();
    }
    let run = runs.pop().ok_or_else(missing)?;
    let dir = dir.join(run.to_string());
    let present = File::open(dir.join("output.log")).map_err(|_| missing())?;
    let follower = Follower {
        reader: BufReader::new(present),
        shape: Shape { since: query.since, timestamps: query.timestamps, at_line_start: true },
        line: Vec::new(),
        dir,
    };
    let limit = query.limit_bytes.map_or(u64::MAX, |limit| limit);
    let output = head(follower, query.tail_lines, query.follow);
    Ok(limited(output, limit))
}

/// What is there already, then, if wanted, what comes.
fn head(
    mut follower: Follower,
    tail_lines: Option<u64>,
    follow: bool,
) -> BoxStream<'static, Bytes> {
    let older: Vec<PathBuf> = (1..FILES_MAX)
        .map(|number| rotated(&follower.dir.join("output.log"), number))
        .take_while(|path| path.exists())
        .collect();
    let keep = tail_lines.map(|lines| usize::try_from(lines).unwrap_or(usize::MAX));
    let mut chunks = Tail { keep, lines: VecDeque::new(), open: false };
    for path in older.into_iter().rev() {
        if let Ok(file) = File::open(path) {
            let mut reader = BufReader::new(file);
            let mut line = Vec::new();
            while matches!(reader.read_until(b'\n', &mut line), Ok(1..)) {
                follower.shape.render(&line, &mut chunks);
                line.clear();
            }
        }
    }
    follower.drain(&mut chunks);
    let past = stream::iter(chunks.chunks());
    if !follow {
        return Box::pin(past);
    }
    let coming = stream::unfold(Some(follower), |follower| async {
        let mut follower = follower?;
        loop {
            // Looked at before reading: what was written before the end is still read.
            let ended = follower.has_ended();
            let mut chunks = Tail { keep: None, lines: VecDeque::new(), open: false };
            follower.drain(&mut chunks);
            let next = follower.next_file();
            let bytes: Vec<u8> = chunks.chunks().concat();
            match (bytes.is_empty(), ended && !next) {
                (false, true) => return Some((Bytes::from(bytes), None)),
                (false, false) => return Some((Bytes::from(bytes), Some(follower))),
                (true, true) => return None,
                (true, false) => {}
            }
            if !next {
                tokio::time::sleep(FOLLOW_PERIOD).await;
            }
        }
    });
    Box::pin(past.chain(coming))
}

fn limited(output: BoxStream<'static, Bytes>, limit: u64) -> BoxStream<'static, Bytes> {
    Box::pin(output.scan(limit, |left, mut bytes| {
        if *left == 0 {
            return std::future::ready(None);
        }
        bytes.truncate(usize::try_from(*left).unwrap_or(usize::MAX));
        *left = left.saturating_sub(bytes.len() as u64);
        std::future::ready(Some(bytes))
    }))
}

/// The last lines of a text, or all of them.
struct Tail {
    keep: Option<usize>,
    lines: VecDeque<Vec<u8>>,
    /// The last line is not complete.
    open: bool,
}

impl Tail {
    fn push(&mut self, text: &[u8], is_whole: bool) {
        match self.lines.back_mut() {
            Some(line) if self.open => line.extend_from_slice(text),
            _ => self.lines.push_back(text.to_vec()),
        }
        self.open = !is_whole;
        if self.keep.is_some_and(|keep| self.lines.len() > keep) {
            self.lines.pop_front();
        }
    }

    fn chunks(self) -> Vec<Bytes> {
        let mut chunks = Vec::new();
        let mut chunk = Vec::new();
        for line in self.lines {
            chunk.extend_from_slice(&line);
            if chunk.len() >= CHUNK_BYTES {
                chunks.push(Bytes::from(std::mem::take(&mut chunk)));
            }
        }
        if !chunk.is_empty() {
            chunks.push(chunk.into());
        }
        chunks
    }
}

/// How a CRI line is shown.
struct Shape {
    since: Option<Timestamp>,
    timestamps: bool,
    at_line_start: bool,
}

impl Shape {
    /// Shows one line of the file: `TIME STREAM F|P TEXT`.
    fn render(&mut self, line: &[u8], out: &mut Tail) {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut fields = line.splitn(4, |byte| *byte == b' ');
        let (Some(time), Some(_), Some(tag)) = (fields.next(), fields.next(), fields.next()) else {
            return;
        };
        let text = fields.next().unwrap_or_default();
        let stamp = String::from_utf8_lossy(time);
        let old = |since: Timestamp| stamp.parse::<Timestamp>().is_ok_and(|at| at < since);
        if self.since.is_some_and(old) {
            return;
        }
        let mut shown = Vec::with_capacity(text.len() + 40);
        if self.timestamps && self.at_line_start {
            shown.extend_from_slice(time);
            shown.push(b' ');
        }
        shown.extend_from_slice(text);
        let is_whole = tag != b"P";
        if is_whole {
            shown.push(b'\n');
        }
        self.at_line_start = is_whole;
        out.push(&shown, is_whole);
    }
}

/// A place in the present log file of a run.
struct Follower {
    dir: PathBuf,
    reader: BufReader<File>,
    /// The beginning of a line whose end is not written yet.
    line: Vec<u8>,
    shape: Shape,
}

impl Follower {
    fn drain(&mut self, out: &mut Tail) {
        while matches!(self.reader.read_until(b'\n', &mut self.line), Ok(1..)) {
            if !self.line.ends_with(b"\n") {
                return;
            }
            let line = std::mem::take(&mut self.line);
            self.shape.render(&line, out);
        }
    }

    fn has_ended(&self) -> bool {
        self.dir.join("exit.json").exists() || !self.dir.exists()
    }

    /// Continues with the next file when this one has been rotated away.
    fn next_file(&mut self) -> bool {
        let path: &Path = &self.dir.join("output.log");
        let (Ok(present), Ok(ours)) = (std::fs::metadata(path), self.reader.get_ref().metadata())
        else {
            return false;
        };
        if present.ino() == ours.ino() {
            return false;
        }
        // It may have got its last lines after we read it and before it was rotated.
        let mut rest = Vec::new();
        if matches!(self.reader.read_to_end(&mut rest), Ok(1..)) {
            self.line.extend_from_slice(&rest);
            return true;
        }
        match File::open(path) {
            Ok(file) => {
                self.reader = BufReader::new(file);
                true
            }
            Err(_) => false,
        }
    }
}
