use std::{
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
};

use crate::{
    Line, record, regular,
    segment::{self, LINE_BYTES_MAX},
};

/// Reads a record while it is written, without checking how its lines hang together: for looking
/// on, not for proving anything.
#[derive(Debug)]
pub struct Follow {
    dir: PathBuf,
    number: u32,
    offset: u64,
}

impl Follow {
    /// From the first line on.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), number: 0, offset: 0 }
    }

    /// Lines that came since the last call; a line that is not whole yet comes later.
    pub fn lines(&mut self) -> io::Result<Vec<Line>> {
        let mut lines = Vec::new();
        loop {
            let numbers = segment::numbers(&self.dir)?;
            // Listed before the last one is read: nothing more is appended once the next exists.
            let next = numbers.into_iter().find(|number| *number > self.number);
            if self.number > 0 {
                self.read(&mut lines)?;
            }
            let Some(next) = next else { return Ok(lines) };
            (self.number, self.offset) = (next, 0);
        }
    }

    fn read(&mut self, lines: &mut Vec<Line>) -> io::Result<()> {
        let mut file = match regular::open(&self.dir.join(segment::name(self.number))) {
            Ok(file) => file,
            // Dropped meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::new(file);
        loop {
            let mut bytes = Vec::new();
            (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            let Some(text) = bytes.strip_suffix(b"\n") else { return Ok(()) };
            self.offset += u64::try_from(bytes.len()).unwrap_or_default();
            lines.extend(str::from_utf8(text).ok().and_then(|text| record::parse(text).ok()));
        }
    }
}
