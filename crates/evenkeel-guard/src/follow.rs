use std::{
    io::{self, BufRead as _, BufReader, Read as _, Seek as _, SeekFrom},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use crate::{
    Line, Unsound, record, regular,
    segment::{self, LINE_BYTES_MAX},
};

/// Reads a record while it is written, without checking how its lines hang together: for looking
/// on, not for proving anything.
#[derive(Debug)]
pub struct Follow {
    dir: PathBuf,
    number: u32,
    /// Which file has this number: another one may take its place.
    inode: u64,
    offset: u64,
}

impl Follow {
    /// From the first line on.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), number: 0, inode: 0, offset: 0 }
    }

    /// Lines that came since the last call; a line that is not whole yet comes later. A record
    /// that was moved away and begun anew is read from its first line.
    ///
    /// **Errors**: a file or the folder cannot be read, or is none.
    pub fn lines(&mut self) -> Result<Vec<Line>, Unsound> {
        let mut lines = Vec::new();
        loop {
            let numbers = segment::numbers(&self.dir);
            let numbers = numbers.map_err(|error| Unsound::of_folder(&self.dir, error))?;
            // Listed before the last one is read: nothing more is appended once the next exists.
            let next = numbers.iter().copied().find(|number| *number > self.number);
            if self.number > 0 {
                let file = segment::name(self.number);
                let read = self.read(&file, &mut lines);
                read.map_err(|error| Unsound::of_io(&self.dir, &file, error))?;
            }
            match next {
                Some(next) => self.number = next,
                // Retention never drops the last file.
                None if !numbers.contains(&self.number) => {
                    self.number = 0;
                    return Ok(lines);
                }
                None => return Ok(lines),
            }
        }
    }

    fn read(&mut self, file: &str, lines: &mut Vec<Line>) -> io::Result<()> {
        let mut file = match regular::open(&self.dir.join(file)) {
            Ok(file) => file,
            // Dropped meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if found.ino() != self.inode {
            (self.inode, self.offset) = (found.ino(), 0);
        }
        // What a failed write left was cut off.
        self.offset = self.offset.min(found.len());
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
