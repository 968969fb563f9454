use std::{
    fs::File,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::{Path, PathBuf},
};

use jiff::Timestamp;

/// Longest line before it is written in parts. **Source**: containerd's `max_container_log_line`.
const LINE_BYTES_MAX: usize = 16 * 1024;

/// Writes the output of a container as CRI lines: `TIME STREAM F|P TEXT`, in rotated files
/// `output.log`, `output.log.1` (younger) ... .
pub(crate) struct LogFile {
    path: PathBuf,
    file: File,
    bytes: u64,
    bytes_max: u64,
    files_max: u32,
}

/// Bytes of one stream that do not make a line yet.
pub(crate) struct Stream {
    name: &'static str,
    partial: Vec<u8>,
}

impl Stream {
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, partial: Vec::new() }
    }
}

impl LogFile {
    pub(crate) fn open(path: &Path, bytes_max: u64, files_max: u32) -> io::Result<Self> {
        let file = append(path)?;
        let bytes = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, bytes, bytes_max, files_max: files_max.max(1) })
    }

    /// Takes bytes of a stream; whole lines are written, the rest waits.
    pub(crate) fn take(
        &mut self,
        stream: &mut Stream,
        bytes: &[u8],
        now: Timestamp,
    ) -> io::Result<()> {
        let mut rest = bytes;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (line, after) = rest.split_at(end);
            stream.partial.extend_from_slice(line);
            self.flush(stream, true, now)?;
            rest = after.get(1..).unwrap_or_default();
        }
        stream.partial.extend_from_slice(rest);
        if stream.partial.len() >= LINE_BYTES_MAX {
            self.flush(stream, false, now)?;
        }
        Ok(())
    }

    /// The stream has ended: a line without end is written as one.
    pub(crate) fn end(&mut self, stream: &mut Stream, now: Timestamp) -> io::Result<()> {
        if stream.partial.is_empty() { Ok(()) } else { self.flush(stream, true, now) }
    }

    fn flush(&mut self, stream: &mut Stream, whole: bool, now: Timestamp) -> io::Result<()> {
        let partial = std::mem::take(&mut stream.partial);
        let mut chunks = partial.chunks(LINE_BYTES_MAX).peekable();
        if chunks.peek().is_none() {
            self.line(stream.name, &[], true, now)?;
        }
        while let Some(chunk) = chunks.next() {
            self.line(stream.name, chunk, whole && chunks.peek().is_none(), now)?;
        }
        Ok(())
    }

    fn line(&mut self, stream: &str, text: &[u8], is_last: bool, now: Timestamp) -> io::Result<()> {
        if self.bytes >= self.bytes_max {
            self.rotate()?;
        }
        let tag = if is_last { 'F' } else { 'P' };
        let mut line = format!("{now:.9} {stream} {tag} ").into_bytes();
        line.extend_from_slice(text);
        line.push(b'\n');
        self.file.write_all(&line)?;
        self.bytes += line.len() as u64;
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.files_max).rev() {
            let older = rotated(&self.path, number);
            let younger = rotated(&self.path, number - 1);
            match std::fs::rename(younger, older) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.files_max == 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.file = append(&self.path)?;
        self.bytes = 0;
        Ok(())
    }
}

/// The file that was rotated `number` times; 0 is the present one.
pub(crate) fn rotated(path: &Path, number: u32) -> PathBuf {
    if number == 0 {
        return path.to_owned();
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn append(path: &Path) -> io::Result<File> {
    std::fs::OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_whole_long_ones_come_in_parts_and_files_are_rotated() {
        let dir = std::env::temp_dir().join(format!("evenkeel-logfile-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("output.log");
        let now = Timestamp::UNIX_EPOCH;
        let mut log = LogFile::open(&path, 200, 3).unwrap();
        let mut stream = Stream::new("stdout");
        log.take(&mut stream, b"one\ntw", now).unwrap();
        log.take(&mut stream, b"o\n\nrest", now).unwrap();
        log.end(&mut stream, now).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        insta::assert_snapshot!(text.replace('\n', "$\n"), @r"
        1970-01-01T00:00:00.000000000Z stdout F one$
        1970-01-01T00:00:00.000000000Z stdout F two$
        1970-01-01T00:00:00.000000000Z stdout F $
        1970-01-01T00:00:00.000000000Z stdout F rest$
        ");
        log.take(&mut stream, &vec![b'x'; LINE_BYTES_MAX + 10], now).unwrap();
        log.take(&mut stream, b"\n", now).unwrap();
        for number in 0..10 {
            log.take(&mut stream, format!("{number} {}\n", "y".repeat(90)).as_bytes(), now)
                .unwrap();
        }
        let mut names: Vec<_> = std::fs::read_dir(&dir)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["output.log", "output.log.1", "output.log.2"]);
        std::fs::remove_dir_all(dir).unwrap();
    }
}
