//! A copy of a shared record in a folder.

use std::{
    fs::{self, DirBuilder},
    io::{self, Write as _},
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::{LineStore, StoredLine, regular::writable, segment};

/// Copies a shared record into an empty folder, where [`crate::verify`], [`crate::read`] and
/// [`crate::Follow`] read it like a record that was written there.
pub struct Mirror {
    store: Box<dyn LineStore>,
    dir: PathBuf,
    /// Number of the last line that was copied.
    last: u64,
}

impl Mirror {
    /// Makes the folder and copies what is there.
    ///
    /// **Errors**: the store does not answer, the folder is not empty or cannot be written.
    pub fn new(store: Box<dyn LineStore>, dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        if fs::read_dir(dir)?.next().is_some() {
            return Err(io::Error::other(format!("{} is not empty", dir.display())));
        }
        let mut mirror = Self { store, dir: dir.to_owned(), last: 0 };
        mirror.refresh()?;
        Ok(mirror)
    }

    /// Copies what was appended since; how many lines.
    ///
    /// **Errors**: as of [`Self::new`]. What was copied before stays.
    pub fn refresh(&mut self) -> io::Result<u64> {
        let Some(end) = self.store.end()? else { return Ok(0) };
        let mut copied = 0;
        while self.last < end.last.seq {
            let lines = self.store.read(self.last)?;
            let before = self.last;
            for line in lines.iter().filter(|line| line.seq <= end.last.seq) {
                self.add(line)?;
                copied += 1;
            }
            if self.last == before {
                // Whoever verifies the copy finds which ones.
                break;
            }
        }
        // After the lines that it names.
        fs::write(self.dir.join("HEAD"), format!("{}\n", end.head))?;
        Ok(copied)
    }

    fn add(&mut self, line: &StoredLine) -> io::Result<()> {
        let mut file = writable(&self.dir.join(segment::name(line.file)))?;
        io::Seek::seek(&mut file, io::SeekFrom::End(0))?;
        file.write_all(format!("{}\n", line.text).as_bytes())?;
        self.last = line.seq;
        Ok(())
    }
}
