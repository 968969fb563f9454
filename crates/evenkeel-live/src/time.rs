//! Real time.
//!
//! 1. `now` is the wall clock, read at every call. So it is right after a suspend and after a step
//!    of the clock, and agrees with what the API server, Prometheus and other replicas call now; a
//!    stamp in an object, an Event or a query is never hours off because a process is old.
//! 2. [`Timer::sleep`] and [`Clock::steady`] follow the clock that counts since boot, suspend
//!    included. It cannot be set, so a wait that runs is neither stretched nor cut.
//! 3. The wall clock may step, forwards or back, when a person or NTP sets it. That is logged once
//!    per step. Code that computes a wait from a stamp in an object bounds it: a stamp later than
//!    now counts as made now, so a step back costs at most one more interval. Code that keeps alarms
//!    in memory keeps them in `steady` time.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use jiff::{SignedDuration, Timestamp};
use rustix::time::{ClockId, clock_gettime};

/// Tokio's timers stand still in suspend, so a long wait is cut into pieces of this length, and
/// what is left is read from the clock that does not.
const PIECE: Duration = Duration::from_secs(5);
/// A smaller step is the everyday slewing of NTP and is not logged.
const STEP_MIN: SignedDuration = SignedDuration::from_secs(1);

/// The clocks of this machine. See the module for their rules.
#[derive(Debug, Clone)]
pub struct RealTime {
    wall: fn() -> Timestamp,
    /// The wall clock at the start, less the time since boot then.
    started: Timestamp,
    boot: Duration,
    /// Wall clock less time since boot, in microseconds, as last seen.
    offset_us: Arc<AtomicI64>,
}

impl RealTime {
    /// Reads the clocks once, for [`Clock::steady`] to start at the wall clock.
    pub fn start() -> Self {
        Self::by(Timestamp::now)
    }

    /// With this wall clock.
    fn by(wall: fn() -> Timestamp) -> Self {
        let (started, boot) = (wall(), since_boot());
        let offset_us = Arc::new(AtomicI64::new(offset_us(started, boot)));
        Self { wall, started, boot, offset_us }
    }

    /// Notices a step of the wall clock; the step, when there was one.
    fn notice(&self, now: Timestamp, boot: Duration) -> Option<SignedDuration> {
        let offset = offset_us(now, boot);
        let before = self.offset_us.load(Ordering::Relaxed);
        let step = SignedDuration::from_micros(offset.saturating_sub(before));
        if step.abs() < STEP_MIN {
            return None;
        }
        // The first to store it reports it.
        let ordering = Ordering::Relaxed;
        let stored = self.offset_us.compare_exchange(before, offset, ordering, ordering);
        stored.is_ok().then_some(step)
    }
}

impl Clock for RealTime {
    fn now(&self) -> Timestamp {
        let (now, boot) = ((self.wall)(), since_boot());
        if let Some(step) = self.notice(now, boot) {
            let way = if step.is_negative() { "back" } else { "forward" };
            let by = format!("{:#}", step.abs());
            tracing::warn!(by, "the wall clock was set {way}; waits are not affected");
        }
        now
    }

    fn steady(&self) -> Timestamp {
        let passed = since_boot().saturating_sub(self.boot);
        let passed = SignedDuration::try_from(passed).unwrap_or(SignedDuration::MAX);
        self.started.checked_add(passed).unwrap_or(Timestamp::MAX)
    }
}

impl Timer for RealTime {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(sleep(wait, since_boot))
    }
}

/// Waits until `clock` has moved on by `wait`.
fn sleep(wait: Duration, clock: impl Fn() -> Duration) -> impl Future<Output = ()> {
    let until = clock().saturating_add(wait);
    async move {
        loop {
            let left = until.saturating_sub(clock());
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(PIECE)).await;
        }
    }
}

/// Time since boot, suspend included; it cannot be set.
pub(crate) fn since_boot() -> Duration {
    #[cfg(any(target_os = "linux", target_os = "android"))]
    const CLOCK: ClockId = ClockId::Boottime;
    // On macOS this one counts suspend too.
    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    const CLOCK: ClockId = ClockId::Monotonic;
    Duration::try_from(clock_gettime(CLOCK)).unwrap_or_default()
}

fn offset_us(now: Timestamp, boot: Duration) -> i64 {
    now.as_microsecond().saturating_sub(i64::try_from(boot.as_micros()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, sync::atomic::AtomicU64};

    use super::*;

    #[test]
    fn now_is_the_wall_clock() {
        let time = RealTime::start();
        let (before, now, after) = (Timestamp::now(), time.now(), Timestamp::now());
        assert!(before <= now && now <= after);
    }

    thread_local! {
        /// How far off the wall clock of this test was set.
        static SET_BY: Cell<SignedDuration> = const { Cell::new(SignedDuration::ZERO) };
    }

    #[test]
    fn now_follows_a_step_of_the_wall_clock_and_steady_time_does_not() {
        let time = RealTime::by(|| Timestamp::now() + SET_BY.get());
        let slack = SignedDuration::from_secs(20);
        for seconds in [0, 26, 0, -26, 5 * 3600, -5 * 3600, 0] {
            SET_BY.set(SignedDuration::from_secs(seconds));
            let (right, steady) = (Timestamp::now(), time.steady());
            let off = time.now().duration_since(right) - SET_BY.get();
            assert!(off.abs() < slack, "now is off by {off} after a step to {seconds} s");
            let off = time.steady().duration_since(steady);
            assert!(!off.is_negative() && off < slack, "steady time went by {off}");
            let off = steady.duration_since(right);
            assert!(off.abs() < slack, "steady time is off by {off} at {seconds} s");
        }
    }

    #[test]
    fn steady_time_starts_at_the_wall_clock_and_only_moves_on() {
        let time = RealTime::start();
        let (first, second) = (time.steady(), time.steady());
        assert!(time.started <= first && first <= second);
        assert!(second.duration_since(time.started) < SignedDuration::from_mins(1));
    }

    #[test]
    fn a_step_of_the_wall_clock_is_reported_once_and_a_suspend_is_not() {
        let time = RealTime::start();
        let (wall, boot) = (time.started, time.boot);
        let hour = Duration::from_hours(1);
        let steps =
            |wall: Timestamp, boot: Duration| time.notice(wall, boot).map(|step| step.as_secs());
        assert_eq!(steps(wall + hour, boot + hour), None, "an hour went by, in suspend or not");
        assert_eq!(steps(wall - hour + hour, boot + hour), Some(-3600));
        assert_eq!(steps(wall, boot + hour), None, "reported already");
        assert_eq!(steps(wall + hour, boot + hour), Some(3600), "set right again");
        let slewed = SignedDuration::from_millis(900);
        assert_eq!(steps(wall + hour + slewed, boot + hour), None, "NTP at work");
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_counts_the_time_of_a_suspend() {
        let (started, suspended) = (tokio::time::Instant::now(), Arc::new(AtomicU64::new(0)));
        let clock = {
            let suspended = suspended.clone();
            move || started.elapsed() + Duration::from_secs(suspended.load(Ordering::Relaxed))
        };
        let wait = tokio::spawn(sleep(Duration::from_hours(2), clock));
        tokio::time::sleep(Duration::from_mins(1)).await;
        suspended.store(2 * 3600, Ordering::Relaxed);
        wait.await.unwrap();
        assert!(started.elapsed() <= Duration::from_mins(1) + PIECE, "{:?}", started.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_is_as_long_as_it_should_be() {
        let started = tokio::time::Instant::now();
        sleep(Duration::from_millis(12_345), move || started.elapsed()).await;
        assert_eq!(started.elapsed(), Duration::from_millis(12_345));
    }
}
