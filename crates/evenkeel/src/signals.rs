//! The signals to stop: SIGINT and SIGTERM.

use std::{io, process, sync::mpsc, thread, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::io::complain;

/// Longest orderly stop: the grace period of the slowest pods, and some more.
const STOP_MAX: Duration = Duration::from_mins(3);

/// Ready at the first signal. SIGINT afterwards ends the process at once, and so does an orderly
/// stop that takes too long.
///
/// A thread of its own waits for signals, so that they are received however busy the rest is.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (sender, stopped) = oneshot::channel();
    let (ready, listening) = mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let listened = runtime.and_then(|runtime| runtime.block_on(listen(&ready, sender)));
        if let Err(error) = listened {
            // The caller waits for this, or is gone.
            ready.send(Err(error)).unwrap_or_default();
        }
    })?;
    // Handlers are in place before this returns.
    listening.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    // The thread keeps its end until it has sent.
    Ok(async move { stopped.await.unwrap_or_default() })
}

async fn listen(
    ready: &mpsc::Sender<io::Result<()>>,
    sender: oneshot::Sender<()>,
) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _survived = too_large()?;
    ready.send(Ok(())).unwrap_or_default();
    let received = tokio::select! {
        biased;
        received = interrupt.recv() => received,
        received = terminate.recv() => received,
    };
    if received.is_some() {
        // Without a listener the process is ending already.
        sender.send(()).unwrap_or_default();
    }
    // SIGTERM may come twice for a single stop: to all processes of a group, and from a parent.
    drop(tokio::time::timeout(STOP_MAX, interrupt.recv()).await);
    complain("stopped at once; what it started may still run");
    give_up()
}

/// A file that may not grow further (`ulimit -f`) is an error for its writer, as a full disk is,
/// and does not end the process: this holds from the first call on.
fn too_large() -> io::Result<Signal> {
    signal(SignalKind::from_raw(nix::libc::SIGXFSZ))
}

/// Ready at a signal to stop, any number of times.
pub(crate) async fn stopped() {
    let (Ok(mut terminate), Ok(_survived)) = (signal(SignalKind::terminate()), too_large()) else {
        return;
    };
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = tokio::signal::ctrl_c() => {}
    }
}

#[expect(clippy::exit, reason = "asked twice, and the orderly end did not come")]
fn give_up() -> ! {
    process::exit(130)
}

#[cfg(test)]
mod tests {
    use nix::sys::signal::raise;

    use super::*;

    type Raised = nix::sys::signal::Signal;

    #[tokio::test]
    async fn the_first_signal_is_reported() {
        let stop = stop_signal().unwrap();
        raise(Raised::SIGXFSZ).unwrap();
        raise(Raised::SIGTERM).unwrap();
        stop.await;
    }
}
