//! Archives whose bytes depend on their entries alone: no times, no names of users.

/// Length of a header, and what contents are filled up to.
const BLOCK: usize = 512;
/// Longest path. Longer ones would need another header.
const PATH_MAX: usize = 100;
/// The program and its group in an image.
const OWNER: u32 = 65_532;

/// Who owns an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The system.
    Root,
    /// The user that an image's program runs as.
    Program,
}

/// What a header says.
struct Entry<'a> {
    path: &'a str,
    kind: &'a str,
    mode: u32,
    size: usize,
    owner: Owner,
}

/// An archive in the making (ustar).
#[derive(Debug, Default)]
pub(crate) struct Archive {
    bytes: Vec<u8>,
}

impl Archive {
    /// Adds a folder.
    pub(crate) fn folder(&mut self, path: &str, owner: Owner) -> anyhow::Result<()> {
        let path = &format!("{path}/");
        self.header(&Entry { path, kind: "5", mode: 0o755, size: 0, owner })
    }

    /// Adds a file.
    pub(crate) fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> anyhow::Result<()> {
        let size = content.len();
        self.header(&Entry { path, kind: "0", mode, size, owner: Owner::Root })?;
        self.bytes.extend_from_slice(content);
        self.bytes.resize(self.bytes.len().next_multiple_of(BLOCK), 0);
        Ok(())
    }

    /// The whole archive.
    pub(crate) fn end(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len() + 2 * BLOCK, 0);
        self.bytes
    }

    fn header(&mut self, entry: &Entry<'_>) -> anyhow::Result<()> {
        let Entry { path, kind, mode, size, owner } = *entry;
        anyhow::ensure!(path.len() < PATH_MAX, "{path} is too long for an archive");
        let id = if owner == Owner::Program { OWNER } else { 0 };
        let mut block = Vec::with_capacity(BLOCK);
        let mut field = |text: &str, width: usize| {
            let end = block.len() + width;
            block.extend_from_slice(text.as_bytes());
            block.resize(end, 0);
        };
        field(path, 100);
        field(&format!("{mode:07o}"), 8);
        field(&format!("{id:07o}"), 8);
        field(&format!("{id:07o}"), 8);
        field(&format!("{size:011o}"), 12);
        // The time: 1970.
        field(&format!("{:011o}", 0), 12);
        // The sum counts itself as spaces.
        field("        ", 8);
        field(kind, 1);
        field("", 100);
        field("ustar", 6);
        field("00", 2);
        field("", BLOCK - 265);
        let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
        if let Some(place) = block.get_mut(148..156) {
            place.copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
        self.bytes.extend_from_slice(&block);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write as _, process::*};

    use super::*;

    #[test]
    fn tar_reads_it() {
        let mut archive = Archive::default();
        archive.folder("data", Owner::Program).expect("a folder");
        archive.file("data/words", 0o644, b"read me").expect("a file");
        assert!(archive.file(&"a".repeat(100), 0o644, b"").is_err());
        let bytes = archive.end();
        assert_eq!(bytes.len() % BLOCK, 0);
        let tar = |words: &[&str]| {
            let mut child = Command::new("tar")
                .args(words)
                .env("TZ", "UTC")
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .spawn()
                .expect("tar");
            child.stdin.take().expect("its input").write_all(&bytes).expect("write");
            let output = child.wait_with_output().expect("its output");
            assert!(output.status.success());
            String::from_utf8(output.stdout).expect("UTF-8")
        };
        let listed = tar(&["tvf", "-"]);
        let lines: Vec<&str> = listed.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x 65532/65532"), "{listed}");
        assert!(lines[1].ends_with("7 1970-01-01 00:00 data/words"), "{listed}");
        assert_eq!(tar(&["xOf", "-", "data/words"]), "read me");
    }
}
