//! Opens regular files only: a FIFO or a device in their place makes whoever opens it wait for
//! ever.

use std::{
    fs::{self, File, FileType, OpenOptions},
    io::{self, Read as _},
    os::unix::fs::{FileTypeExt as _, OpenOptionsExt as _},
    path::Path,
};

use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Without it, opening a FIFO waits for its other end, and a device for whatever it likes.
const NO_WAIT: OFlags = OFlags::NONBLOCK;

/// Opens a file for reading.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    opened(path, OpenOptions::new().read(true))
}

/// Opens a file for reading and writing; makes it, for its owner only, when it is not there.
pub(crate) fn writable(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    opened(path, options.read(true).write(true).create(true).truncate(false).mode(0o600))
}

/// Reads a file that should be small.
pub(crate) fn small(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    bounded(open(path)?, bytes_max)
}

/// Reads what a person has named, which should be small. It may be a pipe: that is what a shell
/// hands over for `<(command)`. It is read once, until its end.
pub(crate) fn given(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    bounded(File::open(path)?, bytes_max)
}

fn bounded(file: File, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.take(bytes_max + 1).read_to_end(&mut bytes)?;
    if u64::try_from(bytes.len()).is_ok_and(|len| len <= bytes_max) {
        return Ok(bytes);
    }
    Err(io::Error::other(format!("it is larger than {bytes_max} bytes")))
}

/// What is looked at is what was opened: nobody puts something else there in between. Links are
/// followed, as Kubernetes mounts a Secret as links.
///
/// **Errors**: there is nothing, or something that is no regular file.
fn opened(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    let flags = i32::try_from(NO_WAIT.bits()).map_err(io::Error::other)?;
    let file = match options.custom_flags(flags).open(path) {
        Ok(file) => file,
        Err(error) => {
            // Some of what is no regular file cannot even be opened; it is named all the same.
            fs::metadata(path).map_or(Ok(()), |found| check(found.file_type()))?;
            return Err(error);
        }
    };
    check(file.metadata()?.file_type())?;
    // Reads and writes may wait.
    fcntl_setfl(&file, fcntl_getfl(&file)? - NO_WAIT)?;
    Ok(file)
}

/// **Errors**: it is not a regular file.
fn check(found: FileType) -> io::Result<()> {
    if found.is_file() {
        return Ok(());
    }
    Err(io::Error::other(format!("it is {}, not a regular file", name(found))))
}

fn name(found: FileType) -> &'static str {
    if found.is_dir() {
        "a folder"
    } else if found.is_fifo() {
        "a named pipe"
    } else if found.is_socket() {
        "a socket"
    } else {
        "a device"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_opened_waits_as_files_do_and_nobody_waits_for_anything_else() {
        let dir = std::env::temp_dir().join(format!("evenkeel-regular-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let (file, socket) = (dir.join("file"), dir.join("socket"));
        for opened in [writable(&file), open(&file)] {
            let flags = fcntl_getfl(opened.unwrap()).unwrap();
            assert!(!flags.contains(NO_WAIT), "{flags:?}");
        }
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        for (path, what) in [(dir.as_path(), "a folder"), (&socket, "a socket")] {
            let problem = format!("it is {what}, not a regular file");
            assert_eq!(open(path).unwrap_err().to_string(), problem);
            assert_eq!(writable(path).unwrap_err().to_string(), problem);
        }
        fs::remove_dir_all(&dir).unwrap();
        assert_eq!(open(&file).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn what_a_person_names_may_be_a_pipe_and_has_an_end() {
        let (reader, mut writer) = io::pipe().unwrap();
        io::Write::write_all(&mut writer, b"a key\n").unwrap();
        drop(writer);
        let fd = std::os::fd::AsRawFd::as_raw_fd(&reader);
        assert_eq!(given(Path::new(&format!("/dev/fd/{fd}")), 10).unwrap(), b"a key\n");
        let endless = given(Path::new("/dev/zero"), 10).unwrap_err().to_string();
        assert_eq!(endless, "it is larger than 10 bytes");
    }
}
