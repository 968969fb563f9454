//! One direction of a connection that is carried as bytes.
//!
//! All connections of a worker share one scratch buffer. What the other side does not take at once
//! is kept, and nothing more is read until it is gone: that is the back-pressure, and the bound on
//! memory. A connection that is idle keeps no buffer.

use std::io;
use std::task::{Context, Poll, ready};

use tokio::net::TcpStream;

/// Bytes per read; also what one direction keeps at most.
pub(super) const CHUNK: usize = 64 << 10;
/// Reads in one turn; then others have theirs.
const READS_PER_TURN: usize = 8;

/// Why a direction ended before its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    /// Nothing more comes: the side that is read from has reset the connection.
    #[error("reading")]
    Reading(#[source] io::Error),
    /// The side that is written to takes no more.
    #[error("writing")]
    Writing(#[source] io::Error),
}

/// The state of one direction.
#[derive(Debug, Default)]
pub(super) struct Pump {
    /// Read and not written.
    rest: Vec<u8>,
    /// How much of `rest` is written.
    written: usize,
    over: bool,
}

impl Pump {
    /// Moves bytes from one side to the other. Ready when the one has ended and the other was told
    /// so.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        (from, to): (&TcpStream, &TcpStream),
        scratch: &mut [u8],
        mut passed: impl FnMut(u64),
    ) -> Poll<Result<(), Broken>> {
        if self.over {
            return Poll::Ready(Ok(()));
        }
        for _ in 0..READS_PER_TURN {
            ready!(self.poll_rest(cx, to, &mut passed)).map_err(Broken::Writing)?;
            let count = ready!(poll_read(cx, from, scratch)).map_err(Broken::Reading)?;
            let Some(bytes) = scratch.get(..count).filter(|bytes| !bytes.is_empty()) else {
                self.over = true;
                // It may be gone already; its own direction tells.
                return Poll::Ready(end(to).map_err(Broken::Writing));
            };
            let wrote = match to.try_write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                wrote => wrote.map_err(Broken::Writing)?,
            };
            passed(wrote as u64);
            self.rest.extend_from_slice(bytes.get(wrote..).unwrap_or_default());
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn poll_rest(
        &mut self,
        cx: &mut Context<'_>,
        to: &TcpStream,
        passed: &mut impl FnMut(u64),
    ) -> Poll<io::Result<()>> {
        while let Some(bytes) = self.rest.get(self.written..).filter(|bytes| !bytes.is_empty()) {
            ready!(to.poll_write_ready(cx))?;
            match to.try_write(bytes) {
                Ok(wrote) => {
                    self.written += wrote;
                    passed(wrote as u64);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if self.written > 0 {
            *self = Self::default();
        }
        Poll::Ready(Ok(()))
    }
}

fn poll_read(
    cx: &mut Context<'_>,
    from: &TcpStream,
    scratch: &mut [u8],
) -> Poll<io::Result<usize>> {
    loop {
        ready!(from.poll_read_ready(cx))?;
        match from.try_read(scratch) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            read => return Poll::Ready(read),
        }
    }
}

/// Says that nothing more comes. That the other side has ended the connection is no error here.
fn end(to: &TcpStream) -> io::Result<()> {
    match rustix::net::shutdown(to, rustix::net::Shutdown::Write) {
        Ok(()) | Err(rustix::io::Errno::NOTCONN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}
