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
    place: Place,
}

/// How far the file was read, and how another one that takes its place is told from it.
#[derive(Debug, Default)]
struct Place {
    offset: u64,
    /// Says nothing alone: a file system may give the number of a removed file to the next one.
    inode: u64,
    /// Digest of the first line, once it has been read.
    first: Option<String>,
}

impl Follow {
    /// From the first line on.
    pub fn new(dir: &Path) -> Self {
        Self { dir: dir.to_owned(), number: 0, place: Place::default() }
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
                let read = self.place.read(&self.dir.join(&file), &mut lines);
                let same = read.map_err(|error| Unsound::of_io(&self.dir, &file, error))?;
                if !same {
                    self.turn_to(0);
                    continue;
                }
            }
            match next {
                Some(next) => self.turn_to(next),
                // Retention never drops the last file.
                None if !numbers.contains(&self.number) => {
                    self.turn_to(0);
                    return Ok(lines);
                }
                None => return Ok(lines),
            }
        }
    }

    /// Reads the file with this number from its start; 0: the first file that there is.
    fn turn_to(&mut self, number: u32) {
        self.number = number;
        self.place = Place::default();
    }
}

impl Place {
    /// Reads on; false when the file is one of another record.
    fn read(&mut self, path: &Path, lines: &mut Vec<Line>) -> io::Result<bool> {
        let mut file = match regular::open(path) {
            Ok(file) => file,
            // Dropped meanwhile.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(error),
        };
        let found = file.metadata()?;
        if let Some(first) = &self.first {
            let mut bytes = Vec::new();
            BufReader::new(&file).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            if found.ino() != self.inode || record::sha256(&bytes) != *first {
                return Ok(false);
            }
        }
        self.inode = found.ino();
        // What a failed write left was cut off.
        self.offset = self.offset.min(found.len());
        file.seek(SeekFrom::Start(self.offset))?;
        let mut reader = BufReader::new(file);
        loop {
            let mut bytes = Vec::new();
            (&mut reader).take(LINE_BYTES_MAX).read_until(b'\n', &mut bytes)?;
            let Some(text) = bytes.strip_suffix(b"\n") else { return Ok(true) };
            self.first.get_or_insert_with(|| record::sha256(&bytes));
            self.offset += u64::try_from(bytes.len()).unwrap_or_default();
            lines.extend(str::from_utf8(text).ok().and_then(|text| record::parse(text).ok()));
        }
    }
}
