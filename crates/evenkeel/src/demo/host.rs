//! How long this machine makes a thread wait that has work to do.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Pause between two looks: shorter stalls are harmless.
const EVERY: Duration = Duration::from_millis(20);

/// A thread that wakes up again and again and measures how late it is.
pub(super) struct Stalls {
    worst_us: Arc<AtomicU64>,
}

impl Stalls {
    /// Looks from now on, until it is dropped.
    pub(super) fn watch() -> Self {
        let worst_us = Arc::<AtomicU64>::default();
        let watched = Arc::downgrade(&worst_us);
        std::thread::spawn(move || {
            while let Some(worst) = watched.upgrade() {
                let began = Instant::now();
                std::thread::sleep(EVERY);
                let late = began.elapsed().saturating_sub(EVERY).as_micros();
                worst.fetch_max(u64::try_from(late).unwrap_or(u64::MAX), Ordering::Relaxed);
            }
        });
        Self { worst_us }
    }

    /// The longest stall since the last call, in milliseconds.
    pub(super) fn take_ms(&self) -> f64 {
        let worst = Duration::from_micros(self.worst_us.swap(0, Ordering::Relaxed));
        worst.as_secs_f64() * 1e3
    }
}
