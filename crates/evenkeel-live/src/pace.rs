//! The pace at which watches that end at once are opened again.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Turns, one after another at fixed intervals, first come, first served.
///
/// Each informer makes longer and longer pauses of its own. That is enough while a few of them are
/// in trouble; when a proxy ends every watch of a process, it is the sum that the server feels.
/// Nobody waits for longer than `longest`, so that a cache does not go stale in the queue: with very
/// many of them the turns come closer together.
#[derive(Debug)]
pub(crate) struct Pace {
    interval: Duration,
    longest: Duration,
    /// When the next turn may begin.
    next: Mutex<Option<Instant>>,
}

impl Pace {
    pub(crate) fn new(interval: Duration, longest: Duration) -> Self {
        Self { interval, longest, next: Mutex::new(None) }
    }

    /// Waits for its turn. A turn that was taken and is not waited for is lost.
    pub(crate) async fn turn(&self) {
        tokio::time::sleep_until(self.take(Instant::now())).await;
    }

    fn take(&self, now: Instant) -> Instant {
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        let turn = next.map_or(now, |next| next.clamp(now, now + self.longest));
        *next = Some(turn + self.interval);
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_keep_their_distance_none_is_saved_up_and_none_is_far_away() {
        let start = Instant::now();
        let pace = Pace::new(Duration::from_secs(2), Duration::from_secs(5));
        let turns = [0, 0, 1, 5, 60, 60, 60, 60, 60].map(|asked| {
            let turn = pace.take(start + Duration::from_secs(asked));
            (turn - start).as_secs()
        });
        assert_eq!(turns, [0, 2, 4, 6, 60, 62, 64, 65, 65]);
    }
}
