//! A thread with a runtime of its own, for work that computes or waits for the disk: everything
//! that shares a runtime with it would stand still meanwhile.

use std::{io, thread};

use tokio::sync::oneshot;

/// Work on a thread of its own. Dropping it ends the work at its next wait.
pub(crate) struct Thread {
    stop: Option<oneshot::Sender<()>>,
    ended: oneshot::Receiver<()>,
}

impl Thread {
    /// Starts it. The future is made on its thread, so it need not be `Send`.
    pub(crate) fn start<F: Future<Output = ()>>(
        name: &str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> io::Result<Self> {
        let (stop, stopped) = oneshot::channel();
        let (ending, ended) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            // Dropped when the work ends, also by a panic.
            let _ending: oneshot::Sender<()> = ending;
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    // Stopped, or the owner is gone.
                    _ = stopped => {}
                    () = work() => {}
                }
            });
            // Blocking work may take long; its result is not needed.
            runtime.shutdown_background();
        })?;
        Ok(Self { stop: Some(stop), ended })
    }

    /// Ready when the work has ended by itself.
    pub(crate) async fn ended(&mut self) {
        // An error means that the other end is gone, which is the event waited for.
        (&mut self.ended).await.unwrap_or_default();
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended already.
            stop.send(()).unwrap_or_default();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn current() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
    }

    #[test]
    fn work_that_blocks_its_thread_does_not_stop_others() {
        let (release, blocked) = mpsc::channel::<()>();
        let thread = Thread::start("blocks", || async move { blocked.recv().unwrap_or_default() });
        let mut thread = thread.unwrap();
        current().block_on(async {
            // While it blocks, this runtime of one thread continues.
            tokio::spawn(async {}).await.unwrap();
            release.send(()).unwrap();
            thread.ended().await;
        });
    }

    #[test]
    fn it_ends_when_it_is_dropped_and_reports_its_end_when_it_panics() {
        struct OnDrop(mpsc::Sender<()>);
        impl Drop for OnDrop {
            fn drop(&mut self) {
                self.0.send(()).unwrap_or_default();
            }
        }
        let (sender, dropped) = mpsc::channel();
        let on_drop = OnDrop(sender);
        let thread = Thread::start("waits", || async move {
            std::future::pending::<()>().await;
            drop(on_drop);
        });
        drop(thread.unwrap());
        dropped.recv().unwrap();
        let broken = Thread::start("breaks", || async { std::panic::resume_unwind(Box::new(1)) });
        current().block_on(broken.unwrap().ended());
    }
}
