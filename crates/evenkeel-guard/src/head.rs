//! HEAD: where the record ends. A hint for opening it quickly, and proof that its end was not cut.

use std::{fs::File, io, os::unix::fs::FileExt as _, path::Path};

use crate::{PublicKey, SigningKey, record::Tip, regular};

/// The same head stands in two places, each in a sector of its own: a write that a crash tears
/// leaves one of them whole, before it or after it. **No older head stays in the file**: whoever
/// finds one there could cut the lines behind it and blank the newer one.
const SLOT_BYTES: usize = 512;
/// Longest file that is read: ours is far smaller.
const FILE_BYTES_MAX: u64 = 16 << 10;

/// The end of a record, as HEAD names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    pub(crate) tip: Tip,
    /// Signature; empty in format 1.
    signature: String,
}

impl Head {
    pub(crate) fn sign(tip: Tip, key: &SigningKey) -> Self {
        let signature = key.sign(&signed_text(&tip));
        Self { tip, signature }
    }

    /// Whether it is of format 1, which knew no signatures.
    pub(crate) fn is_unsigned(&self) -> bool {
        self.signature.is_empty()
    }

    pub(crate) fn is_signed_by(&self, key: &PublicKey) -> bool {
        key.signed(&signed_text(&self.tip), &self.signature)
    }

    /// Writes it into both places, at once.
    pub(crate) fn write(&self, file: &File) -> io::Result<()> {
        file.write_all_at(self.to_slot().repeat(2).as_bytes(), 0)
    }

    /// What stands in a HEAD file.
    pub(crate) fn to_text(&self) -> String {
        format!("2 {:020} {} {}", self.tip.seq, self.tip.hash, self.signature)
    }

    /// One line of always the same length.
    fn to_slot(&self) -> String {
        format!("{:<width$}\n", self.to_text(), width = SLOT_BYTES - 1)
    }

    fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let version = words.next()?;
        let tip = Tip { seq: words.next()?.parse().ok()?, hash: words.next()?.to_owned() };
        let signature = match version {
            "1" => String::new(),
            "2" => words.next()?.to_owned(),
            _ => return None,
        };
        (tip.hash.len() == 64 && words.next().is_none()).then_some(Self { tip, signature })
    }
}

/// The heads in the HEAD file of `dir`; `None` when there is no such file.
pub(crate) fn read(dir: &Path) -> io::Result<Option<Vec<Head>>> {
    match regular::small(&dir.join("HEAD"), FILE_BYTES_MAX) {
        Ok(bytes) => Ok(Some(all(&bytes))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads a copy of HEAD that was kept elsewhere, for [`crate::Check`]. It may come by a pipe.
///
/// **Errors**: it is not readable, or far too large.
pub fn copy_of_head(path: &Path) -> io::Result<Vec<u8>> {
    regular::given(path, FILE_BYTES_MAX)
}

/// The heads in the bytes of a HEAD file or of a copy of one, oldest first. A torn one may be
/// among them: its signature is wrong.
pub(crate) fn all(bytes: &[u8]) -> Vec<Head> {
    // A torn one may have lost its newline.
    let lines =
        bytes.chunks(SLOT_BYTES).flat_map(|slot| slot.split(|byte| matches!(byte, b'\n' | 0)));
    let mut heads: Vec<_> =
        lines.filter_map(|line| Head::parse(str::from_utf8(line).ok()?)).collect();
    heads.sort_by_key(|head| head.tip.seq);
    heads
}

/// Whether both places in the file hold this head.
pub(crate) fn is_in_both(heads: &[Head], head: &Head) -> bool {
    heads.iter().filter(|other| *other == head).count() == 2
}

/// The newest of `heads` that counts: one without a signature, or with that of `key`.
pub(crate) fn newest<'a>(heads: &'a [Head], key: Option<&PublicKey>) -> Option<&'a Head> {
    let counts = |head: &&Head| head.is_unsigned() || key.is_some_and(|key| head.is_signed_by(key));
    heads.iter().rev().find(counts)
}

fn signed_text(tip: &Tip) -> String {
    format!("evenkeel audit head {} {}", tip.seq, tip.hash)
}
