//! Being told to stop, by SIGINT or SIGTERM.

use std::{io, process, sync::mpsc, thread, time::Duration};

use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

use crate::io::complain;

/// Longest orderly end: the grace period of the slowest pods, and then some.
const STOP_MAX: Duration = Duration::from_mins(3);

/// Ready at the first signal. SIGINT afterwards ends the process at once, and so does an orderly
/// end that takes too long.
///
/// Signals are waited for on a thread of their own, so that they are heard however busy the rest
/// is.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (sender, told) = oneshot::channel();
    let (ready, listening) = mpsc::channel();
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let listened = runtime.and_then(|runtime| runtime.block_on(listen(&ready, sender)));
        if let Err(error) = listened {
            // Whoever asked waits for this, or is gone.
            ready.send(Err(error)).unwrap_or_default();
        }
    })?;
    // Handlers are in place before this returns.
    listening.recv().unwrap_or_else(|_| Err(io::ErrorKind::BrokenPipe.into()))?;
    // The thread keeps its end until it has sent.
    Ok(async move { told.await.unwrap_or_default() })
}

async fn listen(
    ready: &mpsc::Sender<io::Result<()>>,
    sender: oneshot::Sender<()>,
) -> io::Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let _survived = too_large()?;
    ready.send(Ok(())).unwrap_or_default();
    let told = tokio::select! {
        biased;
        told = interrupt.recv() => told,
        told = terminate.recv() => told,
    };
    if told.is_some() {
        // Without a listener the process is ending already.
        sender.send(()).unwrap_or_default();
    }
    // SIGTERM may come twice for a single wish: to everybody in a group, and from a parent.
    drop(tokio::time::timeout(STOP_MAX, interrupt.recv()).await);
    complain("stopped at once; what it started may still run");
    give_up()
}

/// A file that may not grow further (`ulimit -f`) is an error for whoever writes it, as a full disk
/// is, and not the end of the process: so it stays once this has been called.
fn too_large() -> io::Result<Signal> {
    signal(SignalKind::from_raw(nix::libc::SIGXFSZ))
}

/// Ready when asked to end, however often.
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
    async fn the_first_signal_is_told() {
        let stop = stop_signal().unwrap();
        raise(Raised::SIGXFSZ).unwrap();
        raise(Raised::SIGTERM).unwrap();
        stop.await;
    }
}
