//! Being told to stop, by SIGINT or SIGTERM.

use std::{io, process, thread};

use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

use crate::io::complain;

/// Ready at the first signal. The second one of its kind ends the process at once: Ctrl-C reaches
/// everybody in the terminal, so a process may get one of each for a single wish.
///
/// Signals are waited for on a thread of their own, so that they are heard however busy the rest
/// is.
pub(crate) fn stop_signal() -> io::Result<impl Future<Output = ()> + Send + 'static> {
    let (sender, told) = oneshot::channel();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    // Handlers are in place before this returns.
    let (mut interrupt, mut terminate) = runtime.block_on(async {
        let kinds = [SignalKind::interrupt(), SignalKind::terminate()];
        let [interrupt, terminate] = kinds.map(signal);
        Ok::<_, io::Error>((interrupt?, terminate?))
    })?;
    thread::Builder::new().name("signals".to_owned()).spawn(move || {
        runtime.block_on(async {
            let mut sender = Some(sender);
            let (mut interrupts, mut terminates) = (0, 0);
            while interrupts < 2 && terminates < 2 {
                tokio::select! {
                    biased;
                    _ = interrupt.recv() => interrupts += 1,
                    _ = terminate.recv() => terminates += 1,
                }
                if let Some(sender) = sender.take() {
                    // Without a listener the process is ending already.
                    sender.send(()).unwrap_or_default();
                }
            }
            complain("stopped at once; what it started may still run");
            give_up()
        })
    })?;
    // The thread keeps its end until it has sent.
    Ok(async move { told.await.unwrap_or_default() })
}

/// Ready when asked to end, however often.
pub(crate) async fn stopped() {
    let Ok(mut terminate) = signal(SignalKind::terminate()) else { return };
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
    use nix::sys::signal::{Signal, raise};

    use super::*;

    #[test]
    fn the_first_signal_is_told() {
        let stop = stop_signal().unwrap();
        raise(Signal::SIGTERM).unwrap();
        futures::executor::block_on(stop);
    }
}
