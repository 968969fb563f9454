use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures::task::AtomicWaker;

/// How much is under way. Cheap to clone; one waits for it at most.
#[derive(Clone, Default)]
pub(crate) struct Busy(Arc<Shared>);

#[derive(Default)]
struct Shared {
    count: AtomicUsize,
    waker: AtomicWaker,
}

/// One thing that is under way; it no longer is when this is dropped, by a panic too.
pub(crate) struct Working(Arc<Shared>);

impl Busy {
    pub(crate) fn enter(&self) -> Working {
        self.0.count.fetch_add(1, Ordering::SeqCst);
        Working(self.0.clone())
    }

    /// Ready when nothing is under way.
    pub(crate) fn idle(&self) -> impl Future<Output = ()> + Unpin {
        let shared = self.0.clone();
        std::future::poll_fn(move |ctx| {
            shared.waker.register(ctx.waker());
            if shared.count.load(Ordering::SeqCst) == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
    }
}

impl Drop for Working {
    fn drop(&mut self) {
        if self.0.count.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.0.waker.wake();
        }
    }
}
