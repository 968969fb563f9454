//! The parts of a running cluster.

use anyhow::{Context as _, anyhow};
use tokio::task::JoinHandle;

use crate::thread::Thread;

/// A part that runs until its owner is dropped.
pub(super) struct Part {
    name: &'static str,
    running: Running,
}

enum Running {
    /// Shares the runtime: it never computes for long and never waits for the disk.
    Task(JoinHandle<()>),
    /// Has a thread to itself.
    Thread(Thread),
}

impl Part {
    pub(super) fn task(
        name: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> Self {
        Self { name, running: Running::Task(tokio::spawn(work)) }
    }

    pub(super) fn thread<F: Future<Output = ()>>(
        name: &'static str,
        work: impl FnOnce() -> F + Send + 'static,
    ) -> anyhow::Result<Self> {
        let thread = Thread::start(name, work).with_context(|| format!("start {name}"))?;
        Ok(Self { name, running: Running::Thread(thread) })
    }

    async fn ended(&mut self) -> anyhow::Error {
        match &mut self.running {
            Running::Task(task) => {
                if let Err(error) = task.await {
                    tracing::error!(part = self.name, %error, "a part broke");
                }
            }
            Running::Thread(thread) => thread.ended().await,
        }
        anyhow!("{} stopped unexpectedly; shutting down the cluster", self.name)
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        match &self.running {
            Running::Task(task) => task.abort(),
            Running::Thread(_) => {}
        }
    }
}

/// Ready when the first part has ended, which none does by itself; names it.
pub(super) async fn first_to_end(parts: &mut [Part]) -> anyhow::Error {
    if parts.is_empty() {
        return std::future::pending().await;
    }
    let ends = parts.iter_mut().map(|part| Box::pin(part.ended()));
    futures::future::select_all(ends).await.0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The part that `make` makes ends, others beside it do not, and the error names it.
    fn named(name: &'static str, make: impl FnOnce(&'static str) -> Part) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let said = runtime.block_on(async {
            let waits = Part::task("waits", std::future::pending());
            let waits_too = Part::thread("waits-too", std::future::pending::<()>).unwrap();
            first_to_end(&mut [waits, make(name), waits_too]).await.to_string()
        });
        assert_eq!(said, format!("{name} stopped unexpectedly; shutting down the cluster"));
    }

    fn break_down() {
        std::panic::resume_unwind(Box::new("a defect of a part"));
    }

    #[test]
    fn a_part_that_ends_or_panics_is_named() {
        named("task-breaks", |name| Part::task(name, async { break_down() }));
        named("task-ends", |name| Part::task(name, async {}));
        named("thread-breaks", |name| Part::thread(name, async || break_down()).unwrap());
        named("thread-ends", |name| Part::thread(name, async || {}).unwrap());
    }
}
