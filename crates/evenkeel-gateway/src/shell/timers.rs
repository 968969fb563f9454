//! Deadlines of requests, kept coarse: setting one costs two stores, not a timer.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;

/// How late a deadline may be noticed.
pub(super) const TICK: Duration = Duration::from_millis(20);

/// The one deadline of a client's connection.
#[derive(Debug, Default)]
pub(super) struct Deadline {
    at: Cell<Option<Duration>>,
    passed: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

/// All deadlines of a worker.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    all: RefCell<Vec<Weak<Deadline>>>,
    armed: Cell<usize>,
    wanted: Notify,
}

impl Deadlines {
    /// A deadline for a new connection.
    pub(super) fn add(&self) -> Rc<Deadline> {
        let deadline = Rc::new(Deadline::default());
        self.all.borrow_mut().push(Rc::downgrade(&deadline));
        deadline
    }

    /// Sets the deadline of the attempt that begins.
    pub(super) fn arm(&self, deadline: &Deadline, at: Duration) {
        deadline.passed.set(false);
        if deadline.at.replace(Some(at)).is_none() {
            let armed = self.armed.get();
            self.armed.set(armed + 1);
            if armed == 0 {
                self.wanted.notify_one();
            }
        }
    }

    /// Removes the deadline.
    pub(super) fn disarm(&self, deadline: &Deadline) {
        if deadline.at.take().is_some() {
            self.armed.set(self.armed.get().saturating_sub(1));
        }
    }

    /// Wakes tasks whose deadline has passed.
    fn tick(&self, now: Duration) {
        self.all.borrow_mut().retain(|deadline| {
            let Some(deadline) = deadline.upgrade() else { return false };
            if deadline.at.get().is_some_and(|at| at <= now) {
                self.disarm(&deadline);
                deadline.passed.set(true);
                if let Some(waker) = deadline.waker.borrow_mut().take() {
                    waker.wake();
                }
            }
            true
        });
    }

    /// Watches the deadlines; sleeps while there are none.
    pub(super) async fn run(&self, now: impl Fn() -> Duration) {
        loop {
            if self.armed.get() == 0 {
                self.wanted.notified().await;
            }
            tokio::time::sleep(TICK).await;
            self.tick(now());
        }
    }
}

impl Deadline {
    /// True when it has passed; otherwise the task is woken when it does.
    pub(super) fn poll_passed(&self, cx: &Context<'_>) -> bool {
        if self.passed.get() {
            return true;
        }
        let mut waker = self.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }
}
