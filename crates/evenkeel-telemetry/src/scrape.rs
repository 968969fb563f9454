//! The scrape loop: find the targets that are due, fetch, read, again. One future for all targets.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use evenkeel_api::{GroupKind, Obj};
use evenkeel_base::{Clock, format_duration, stable_hash};
use evenkeel_control::{BoxFuture, ListQuery, Read, StoreError, Timer, WatchEvent};
use evenkeel_promql::exposition::Format;
use futures::{
    FutureExt as _, StreamExt as _,
    future::{Either, select},
    stream::FuturesUnordered,
};
use jiff::Timestamp;

use crate::{
    Health, ScrapeError, ScrapeSettings, Target, TargetStatus, Telemetry,
    intake::{Intake, Report, Taken},
};

/// Fetches in flight at once; the others wait for their turn.
const FETCHES_MAX: usize = 64;
/// A scrape that starts this late still carries its slot's time: even spacing is worth more.
const SLOT_TOLERANCE_MS: i64 = 20;
/// How often old samples are looked for.
const PRUNE_EVERY_MS: i64 = 60_000;

/// Gets the exposition of a target: HTTP in real life, a direct call in a simulation.
pub trait Fetch: Send + Sync {
    /// The text; the loop bounds the time.
    fn fetch<'a>(
        &'a self,
        target: &'a Target,
        settings: &'a ScrapeSettings,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>>;
}

/// An exposition as it came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fetched {
    /// The text.
    pub text: String,
    /// Its format.
    pub format: Format,
}

/// Why there is no exposition.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FetchError {
    /// Refused, reset, unknown host ...
    #[error("no answer: {problem}")]
    Unreachable {
        /// The transport's words.
        problem: String,
    },
    /// It took too long.
    #[error("no answer within {}", format_duration(*.timeout))]
    Timeout {
        /// How long was waited.
        timeout: Duration,
    },
    /// Another answer than 200.
    #[error("server returned HTTP status {status}")]
    Status {
        /// HTTP status.
        status: u16,
    },
    /// Too much text.
    #[error("the exposition has more than {limit} bytes")]
    TooLarge {
        /// The limit.
        limit: usize,
    },
    /// The bytes are not text.
    #[error("the exposition is not UTF-8")]
    NotText,
    /// The target's own annotations do not allow it.
    #[error("{problem}")]
    Misconfigured {
        /// What is wrong, and the fix.
        problem: String,
    },
}

/// Something in this process that has metrics, such as the gateway.
pub trait Source: Send + Sync {
    /// Its metrics in the Prometheus text format.
    fn expose(&self) -> String;
}

/// Scrapes all targets, forever.
pub struct Scraper {
    telemetry: Telemetry,
    settings: ScrapeSettings,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    fetch: Arc<dyn Fetch>,
    pods: Option<Arc<dyn Read>>,
    jobs: BTreeMap<String, Job>,
}

/// One target with all that is known about it.
struct Job {
    target: Arc<Target>,
    source: Option<Arc<dyn Source>>,
    intake: Intake,
    due_ms: i64,
    busy: bool,
    next: Next,
}

/// What happens to a target when its running scrape is over.
#[derive(Default)]
enum Next {
    #[default]
    Again,
    Retire,
    Replace(Target),
}

/// A scrape that has ended, before it is read.
struct Answer {
    id: String,
    at_ms: i64,
    took: Duration,
    result: Result<Fetched, FetchError>,
}

impl Scraper {
    /// A scraper without targets.
    pub fn new(
        telemetry: Telemetry,
        settings: ScrapeSettings,
        fetch: Arc<dyn Fetch>,
        clock: Arc<dyn Clock>,
        timer: Arc<dyn Timer>,
    ) -> Self {
        Self { telemetry, settings, clock, timer, fetch, pods: None, jobs: BTreeMap::new() }
    }

    /// Discovers annotated pods.
    #[must_use]
    pub fn with_pods(mut self, store: Arc<dyn Read>) -> Self {
        self.pods = Some(store);
        self
    }

    /// Adds a target that is always there.
    #[must_use]
    pub fn with_target(mut self, target: Target) -> Self {
        self.add(target, None);
        self
    }

    /// Adds a source in this process; its own labels win over `job` and `instance`.
    #[must_use]
    pub fn with_source(mut self, job: &str, instance: &str, source: Arc<dyn Source>) -> Self {
        self.add(Target::in_process(job, instance), Some(source));
        self
    }

    /// Scrapes until dropped.
    pub async fn run(mut self) {
        let mut events = match &self.pods {
            Some(store) => store.watch(ListQuery::all(GroupKind::new("", "Pod"))),
            None => futures::stream::pending().boxed(),
        }
        .fuse();
        let mut running: FuturesUnordered<BoxFuture<'static, Answer>> = FuturesUnordered::new();
        let mut prune_due_ms = self.now_ms().saturating_add(PRUNE_EVERY_MS);
        loop {
            let now_ms = self.now_ms();
            if now_ms >= prune_due_ms || prune_due_ms - now_ms > PRUNE_EVERY_MS {
                self.telemetry.prune(self.clock.now());
                prune_due_ms = now_ms.saturating_add(PRUNE_EVERY_MS);
            }
            self.start_due(now_ms, &mut running);
            let next_ms =
                self.next_due_ms(running.len()).map_or(prune_due_ms, |due| due.min(prune_due_ms));
            let wait = u64::try_from(next_ms.saturating_sub(now_ms)).unwrap_or_default();
            let mut alarm = self.timer.sleep(Duration::from_millis(wait)).fuse();
            futures::select_biased! {
                answer = running.select_next_some() => self.finish(answer),
                event = events.select_next_some() => self.discover(event),
                () = alarm => {}
            }
        }
    }

    fn now_ms(&self) -> i64 {
        self.clock.now().as_millisecond()
    }

    fn next_due_ms(&self, running: usize) -> Option<i64> {
        if running >= FETCHES_MAX {
            return None;
        }
        self.jobs.values().filter(|job| !job.busy).map(|job| job.due_ms).min()
    }

    fn start_due(
        &mut self,
        now_ms: i64,
        running: &mut FuturesUnordered<BoxFuture<'static, Answer>>,
    ) {
        let interval_ms = self.interval_ms();
        let mut ready = Vec::new();
        for (id, job) in &mut self.jobs {
            // Due further ahead than one interval means that the clock stepped back.
            let is_due = job.due_ms <= now_ms || job.due_ms - now_ms > interval_ms;
            if job.busy || !is_due || running.len() >= FETCHES_MAX {
                continue;
            }
            let late_ms = now_ms - job.due_ms;
            let at_ms =
                if (0..=SLOT_TOLERANCE_MS).contains(&late_ms) { job.due_ms } else { now_ms };
            job.due_ms = next_slot(id, now_ms, interval_ms);
            let id = id.clone();
            match (&job.source, &job.target.problem) {
                (Some(source), _) => {
                    let text = source.expose();
                    let result = Ok(Fetched { text, format: Format::Text });
                    ready.push(Answer { id, at_ms, took: Duration::ZERO, result });
                }
                (None, Some(problem)) => {
                    let result = Err(FetchError::Misconfigured { problem: problem.clone() });
                    ready.push(Answer { id, at_ms, took: Duration::ZERO, result });
                }
                (None, None) => {
                    job.busy = true;
                    let call = Call {
                        id,
                        at_ms,
                        target: Arc::clone(&job.target),
                        settings: self.settings.clone(),
                        clock: Arc::clone(&self.clock),
                        timer: Arc::clone(&self.timer),
                        fetch: Arc::clone(&self.fetch),
                    };
                    running.push(call.make().boxed());
                }
            }
        }
        for answer in ready {
            self.finish(answer);
        }
    }

    fn finish(&mut self, answer: Answer) {
        let Some(job) = self.jobs.get_mut(&answer.id) else { return };
        job.busy = false;
        let Answer { at_ms, took, result, .. } = answer;
        let mut store = self.telemetry.write();
        let outcome = result.map_err(ScrapeError::from).and_then(|fetched| {
            let text = (fetched.text.as_str(), fetched.format);
            job.intake.take(&mut store, (&job.target, &self.settings), text, at_ms)
        });
        if outcome.is_err() {
            job.intake.lose(&mut store, at_ms);
        }
        let taken = outcome.as_ref().copied().unwrap_or_default();
        let report = Report { up: outcome.is_ok(), took, taken };
        job.intake.report(&mut store, &job.target, report, at_ms);
        drop(store);
        self.telemetry.learn_families(job.intake.families());
        if let Err(error) = &outcome {
            tracing::debug!(target_id = answer.id, %error, "scrape without result");
        }
        let status = self.status(&answer.id, Some((at_ms, took)), &outcome);
        if let Some(status) = status {
            self.telemetry.set_target(status);
        }
        match self.jobs.get_mut(&answer.id).map(|job| std::mem::take(&mut job.next)) {
            None | Some(Next::Again) => {}
            Some(Next::Retire) => self.retire(&answer.id),
            Some(Next::Replace(target)) => {
                self.retire(&answer.id);
                self.add(target, None);
            }
        }
    }

    fn status(
        &self,
        id: &str,
        scrape: Option<(i64, Duration)>,
        outcome: &Result<Taken, ScrapeError>,
    ) -> Option<TargetStatus> {
        let job = self.jobs.get(id)?;
        let taken = outcome.as_ref().copied().unwrap_or_default();
        let health = match (scrape, outcome) {
            (None, _) => Health::Unknown,
            (Some(_), Ok(_)) => Health::Up,
            (Some(_), Err(_)) => Health::Down,
        };
        Some(TargetStatus {
            target: (*job.target).clone(),
            health,
            last_error: outcome.as_ref().err().map(ToString::to_string).unwrap_or_default(),
            last_scrape: scrape.and_then(|(at_ms, _)| Timestamp::from_millisecond(at_ms).ok()),
            took: scrape.map(|(_, took)| took).unwrap_or_default(),
            samples: taken.samples,
            refused: taken.refused,
            interval: self.settings.interval,
            timeout: self.timeout(),
        })
    }

    fn discover(&mut self, event: Result<WatchEvent, StoreError>) {
        match event {
            Ok(WatchEvent::Applied(pod)) => self.set_pod(&pod, Target::of_pod(&pod)),
            Ok(WatchEvent::Deleted(pod)) => self.set_pod(&pod, None),
            Ok(WatchEvent::Synced) => {}
            Err(error) => tracing::warn!(%error, "watch of pods interrupted, resuming"),
        }
    }

    fn set_pod(&mut self, pod: &Obj, target: Option<Target>) {
        let id = Target::pod_id(pod);
        let Some(job) = self.jobs.get_mut(&id) else {
            if let Some(target) = target {
                self.add(target, None);
            }
            return;
        };
        if target.as_ref() == Some(&*job.target) {
            job.next = Next::Again;
        } else if job.busy {
            job.next = target.map_or(Next::Retire, Next::Replace);
        } else {
            self.retire(&id);
            if let Some(target) = target {
                self.add(target, None);
            }
        }
    }

    fn add(&mut self, mut target: Target, source: Option<Arc<dyn Source>>) {
        if self.jobs.len() >= self.settings.targets_max {
            let limit = self.settings.targets_max;
            target.problem = Some(format!("more than {limit} targets, this one is not scraped"));
        }
        let id = target.id.clone();
        // New targets are looked at soon: a canary of a few seconds should be seen.
        let now_ms = self.now_ms();
        let first = next_slot(&id, now_ms, self.interval_ms().min(1000));
        let intake = Intake::default();
        let target = Arc::new(target);
        let job = Job { target, source, intake, due_ms: first, busy: false, next: Next::Again };
        self.jobs.insert(id.clone(), job);
        if let Some(status) = self.status(&id, None, &Ok(Taken::default())) {
            self.telemetry.set_target(status);
        }
    }

    fn retire(&mut self, id: &str) {
        if let Some(mut job) = self.jobs.remove(id) {
            job.intake.retire(&mut self.telemetry.write(), self.now_ms());
            self.telemetry.remove_target(id);
        }
    }

    fn interval_ms(&self) -> i64 {
        i64::try_from(self.settings.interval.as_millis()).unwrap_or(i64::MAX).max(1)
    }

    fn timeout(&self) -> Duration {
        self.settings.timeout.min(self.settings.interval)
    }
}

/// A scrape over the wire.
struct Call {
    id: String,
    at_ms: i64,
    target: Arc<Target>,
    settings: ScrapeSettings,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    fetch: Arc<dyn Fetch>,
}

impl Call {
    async fn make(self) -> Answer {
        let start = self.clock.now();
        let timeout = self.settings.timeout.min(self.settings.interval);
        let fetch = self.fetch.fetch(&self.target, &self.settings);
        let result = match select(fetch, self.timer.sleep(timeout)).await {
            Either::Left((result, _)) => result,
            Either::Right(_) => Err(FetchError::Timeout { timeout }),
        };
        let took = Duration::try_from(self.clock.now().duration_since(start)).unwrap_or_default();
        Answer { id: self.id, at_ms: self.at_ms, took, result }
    }
}

/// The first time after `now_ms` that is the target's own: targets are spread over the interval,
/// each always at the same place in it.
fn next_slot(id: &str, now_ms: i64, interval_ms: i64) -> i64 {
    let interval = interval_ms.max(1);
    let spread = stable_hash(id.as_bytes()) % interval.unsigned_abs();
    let offset = i64::try_from(spread).unwrap_or_default();
    let slots = (now_ms - offset).div_euclid(interval) + 1;
    slots.saturating_mul(interval).saturating_add(offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_evenly_spaced_and_differ_between_targets() {
        let first = next_slot("a", 1_000_000, 15_000);
        assert!(first > 1_000_000 && first <= 1_015_000);
        assert_eq!(next_slot("a", first, 15_000), first + 15_000);
        assert_eq!(next_slot("a", first - 1, 15_000), first);
        assert_ne!(next_slot("b", 1_000_000, 15_000), first);
    }
}
