//! Tokens, private files and the lock on this machine's cluster addresses.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Read as _, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use anyhow::{Context as _, bail};
use rustix::fs::{FlockOperation, flock};

/// 64 random bits from the operating system.
pub(crate) fn random_u64() -> anyhow::Result<u64> {
    let mut bytes = [0; 8];
    random(&mut bytes)?;
    Ok(u64::from_le_bytes(bytes))
}

/// A bearer token of 256 random bits.
pub(crate) fn token() -> anyhow::Result<String> {
    let mut bytes = [0; 32];
    random(&mut bytes)?;
    Ok(hex(&bytes))
}

fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits.filter_map(|digit| char::from_digit(digit.into(), 16)).collect()
}

fn random(bytes: &mut [u8]) -> anyhow::Result<()> {
    let mut source = File::open("/dev/urandom").context("open /dev/urandom")?;
    source.read_exact(bytes).context("read /dev/urandom")
}

/// Writes a file that only its owner can read; its folder is made.
pub(crate) fn write_private(file: &Path, text: &str) -> anyhow::Result<()> {
    if let Some(dir) = file.parent() {
        fs::create_dir_all(dir).with_context(|| format!("make folder {}", dir.display()))?;
    }
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut open = options.open(file).with_context(|| format!("write {}", file.display()))?;
    open.write_all(text.as_bytes()).with_context(|| format!("write {}", file.display()))
}

/// Takes the machine's loopback addresses for pods and Services: 127.64.0.0 and up belong to one
/// cluster at a time. Held until the returned file is dropped.
pub(crate) fn lock() -> anyhow::Result<File> {
    let path = std::env::temp_dir().join("evenkeel-addresses.lock");
    let mut file = lock_file(&path).with_context(|| path.display().to_string())?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        let mut owner = String::new();
        file.read_to_string(&mut owner).unwrap_or_default();
        bail!(
            "another embedded cluster runs on this machine (process {}): stop it first, both would \
             use the addresses 127.64.0.0 and up",
            owner.trim()
        );
    }
    // Whose file it is does not matter for the lock, only for this note.
    if file.set_len(0).is_ok() {
        write!(file, "{}", std::process::id())?;
    }
    Ok(file)
}

/// The file stays when its cluster ends, and another user's cannot be written: reading is enough to
/// lock it.
fn lock_file(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true);
    match options.open(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            options.write(true).create_new(true).mode(0o644);
            match options.open(path) {
                // Somebody else was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => File::open(path),
                made => made,
            }
        }
        // To leave a note there, if it may be written.
        Ok(file) => Ok(OpenOptions::new().read(true).write(true).open(path).unwrap_or(file)),
        other => other,
    }
}
