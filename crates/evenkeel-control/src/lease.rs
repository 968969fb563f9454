//! One leader per group, by a `coordination.k8s.io` Lease, as client-go's `leaderelection` does it.
//!
//! ```text
//! Lease as read --decide--> Step: create, renew, take over, wait
//! ```
//! A follower looks as often as a leader renews, and at once when the Lease is given back, which a
//! watch tells it.
//!
//! Clocks of different machines are never compared, and wall clocks do not matter: a follower
//! counts monotonic time from the moment at which it saw the Lease change. A leader stops counting
//! as one `renew_within` after it began its last renewal, and gives up its writes that are under
//! way. Writes that are still in the network must land between that moment and the one at which
//! another process may take over.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::{FieldSelector, Key, Obj, Revision};
use futures::{
    StreamExt as _,
    channel::mpsc,
    future::{Either, select},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{api::coordination::v1::Lease, apimachinery::pkg::apis::meta::v1::MicroTime};
use serde_json::{Value, json};

use crate::{Host, ListQuery, Patch, StoreError, Watch, WatchEvent, WriteOptions};

/// Field manager of leases.
const MANAGER: &str = "evenkeel-leader-election";
/// How often releasing a Lease is tried.
const RELEASE_TRIES: usize = 3;
/// Logged when that does not succeed.
pub(crate) const NOT_RELEASED: &str = "lease not released, it will expire";

/// Which Lease makes a leader, and how fast it changes hands.
///
/// **Source** of the defaults: client-go and kube-controller-manager (15 s, 10 s, 2 s).
#[derive(Debug, Clone)]
pub struct LeaseSettings {
    /// Namespace and name of the Lease.
    pub key: Key,
    /// Our identity; unique per process.
    pub identity: String,
    /// A leader that has not renewed for this long may be replaced.
    duration: Duration,
    /// A leader that could not renew for this long stops acting. Shorter than `duration`.
    renew_within: Duration,
    /// Between two attempts.
    retry: Duration,
    /// Written on the Lease by the process that takes it: where to ask this process.
    pub annotations: BTreeMap<String, String>,
}

impl LeaseSettings {
    /// The defaults of Kubernetes' own controllers.
    pub fn new(namespace: &str, name: &str, identity: &str) -> Self {
        Self::lasting(namespace, name, identity, Duration::from_secs(15))
    }

    /// A Lease that changes hands after `duration`; the other times keep client-go's proportions.
    pub fn lasting(namespace: &str, name: &str, identity: &str, duration: Duration) -> Self {
        Self {
            key: Key::of::<Lease>(namespace, name),
            identity: identity.to_owned(),
            duration,
            renew_within: duration * 2 / 3,
            retry: duration * 2 / 15,
            annotations: BTreeMap::new(),
        }
    }

    /// With annotations for the Lease.
    #[must_use]
    pub fn annotated(mut self, annotations: BTreeMap<String, String>) -> Self {
        self.annotations = annotations;
        self
    }
}

/// Whether this process may act for its group. Cheap to clone; shared with every worker.
#[derive(Clone)]
pub(crate) struct Leadership(Arc<Mutex<Term>>);

/// Until when, in monotonic time.
struct Term {
    until: Timestamp,
    resigned: bool,
}

impl Leadership {
    /// Without election.
    pub(crate) fn always() -> Self {
        Self::until(Timestamp::MAX)
    }

    /// Follows an election; not leading yet.
    pub(crate) fn elected() -> Self {
        Self::until(Timestamp::MIN)
    }

    fn until(until: Timestamp) -> Self {
        Self(Arc::new(Mutex::new(Term { until, resigned: false })))
    }

    /// Whether this process may act at `now`, in monotonic time.
    pub(crate) fn holds(&self, now: Timestamp) -> bool {
        let term = self.term();
        !term.resigned && now < term.until
    }

    /// Whether what it has begun may still reach the server at `now`: until the end of the term,
    /// also after it has resigned.
    pub(crate) fn lasts(&self, now: Timestamp) -> bool {
        now < self.term().until
    }

    /// Until when it may act if the Lease is not renewed again, in monotonic time.
    pub(crate) fn ends(&self) -> Timestamp {
        self.term().until
    }

    /// Stops acting and does not start again: a renewal that is under way changes nothing about it.
    pub(crate) fn resign(&self) {
        self.term().resigned = true;
    }

    fn set(&self, until: Timestamp) {
        self.term().until = until;
    }

    fn term(&self) -> MutexGuard<'_, Term> {
        // Plain values; no panic can leave them half written.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is known of the Lease: its content, and when that was first seen here.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Seen {
    /// It has been deleted since. Its holder may not know yet, so its time still counts.
    gone: bool,
    holder: String,
    renewed: String,
    duration: Duration,
    transitions: i64,
    revision: Revision,
    at: Timestamp,
}

/// What to do about the Lease now.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Step {
    Create,
    /// Renew our own.
    Renew,
    /// Take over a Lease that is not renewed.
    TakeOver,
    /// Another process holds it.
    Wait(Duration),
}

/// Pure: the same Lease at the same time gives the same step.
fn decide(seen: Option<&Seen>, settings: &LeaseSettings, now: Timestamp) -> Step {
    let Some(seen) = seen else { return Step::Create };
    let take = if seen.gone { Step::Create } else { Step::TakeOver };
    if seen.holder == settings.identity {
        return if seen.gone { Step::Create } else { Step::Renew };
    }
    if seen.holder.is_empty() {
        return take;
    }
    let expires = later(seen.at, seen.duration);
    let left = Duration::try_from(expires.duration_since(now)).unwrap_or_default();
    if left.is_zero() { take } else { Step::Wait(left.min(settings.retry)) }
}

/// Keeps one Lease and notifies the workers when leadership is gained or lost.
pub(crate) struct Elector {
    host: Host,
    settings: LeaseSettings,
    leadership: Leadership,
    workers: Vec<mpsc::UnboundedSender<()>>,
    seen: Option<Seen>,
    /// The last state seen is our own last write: the next renewal needs no look first.
    is_own: bool,
    leading: bool,
    /// The holder that was logged last.
    logged_holder: String,
}

impl Elector {
    pub(crate) fn new(
        host: Host,
        settings: LeaseSettings,
        leadership: Leadership,
        workers: Vec<mpsc::UnboundedSender<()>>,
    ) -> Self {
        Self {
            host,
            settings,
            leadership,
            workers,
            seen: None,
            is_own: false,
            leading: false,
            logged_holder: String::new(),
        }
    }

    /// Never ends.
    pub(crate) async fn run(mut self) {
        let mut watch = None;
        loop {
            let wait = match self.attempt().await {
                Ok(wait) => wait,
                Err(error) => {
                    tracing::warn!(lease = %self.settings.key, %error, "lease not renewed");
                    self.settings.retry
                }
            };
            self.announce();
            self.rest(wait, &mut watch).await;
            self.announce();
        }
    }

    /// Waits until the next attempt; a follower no longer than until the Lease is given back. Its
    /// watch only tells when to look: without it the next look is later.
    async fn rest(&self, wait: Duration, watch: &mut Option<Watch>) {
        let others = |seen: &Seen| {
            !seen.gone && !seen.holder.is_empty() && seen.holder != self.settings.identity
        };
        let sleep = self.host.timer.sleep(wait);
        if !self.seen.as_ref().is_some_and(others) {
            *watch = None;
            return sleep.await;
        }
        let open = || {
            let name = FieldSelector::equal("metadata.name", &self.settings.key.name);
            let lease = ListQuery::of::<Lease>().within(&self.settings.key.namespace);
            self.host.ports.read.watch(lease.with_fields(name))
        };
        let given_back = Box::pin(given_back(watch.get_or_insert_with(open)));
        let left = match select(sleep, given_back).await {
            Either::Right((Watched::Ended, sleep)) => Some(sleep),
            Either::Left(_) | Either::Right((Watched::GivenBack, _)) => None,
        };
        if let Some(sleep) = left {
            // What has ended must not be asked again. The next rest opens another one.
            *watch = None;
            sleep.await;
        }
    }

    /// One write, and a look before it unless the last write was ours; how long to wait until the
    /// next. A renewal is conditioned on what we wrote last, so it conflicts with whatever another
    /// process has written meanwhile, and the next attempt looks.
    async fn attempt(&mut self) -> Result<Duration, StoreError> {
        if !std::mem::take(&mut self.is_own) {
            let found = self.within(self.host.ports.read.get(&self.settings.key)).await?;
            // Noted as of now: the Lease may have been renewed while the answer was on its way.
            self.note(found.as_deref(), self.steady());
        }
        let started = self.steady();
        let step = decide(self.seen.as_ref(), &self.settings, started);
        if let Step::Wait(wait) = step {
            self.leadership.set(Timestamp::MIN);
            return Ok(wait);
        }
        match self.write(&step).await {
            // Whatever has answered this, it has not written what was asked for.
            Ok(lease) if holder(&lease) != self.settings.identity => {
                return Err(StoreError::Unreachable {
                    object: self.settings.key.to_string(),
                    problem: "the answer to a renewal names another holder".to_owned(),
                });
            }
            Ok(lease) => {
                self.note(Some(&lease), self.steady());
                self.is_own = true;
                // The end of a term that has run out meanwhile must be announced before the next
                // one begins: a worker that saw the end waits to be notified of a beginning.
                self.announce();
                // Counted from before the request: its answer may be slow, the Lease is not longer
                // for it.
                self.leadership.set(later(started, self.settings.renew_within));
            }
            // Another process was faster or has deleted it, or our own earlier write went through
            // after all: the next look shows which.
            Err(
                StoreError::Conflict { .. }
                | StoreError::Exists { .. }
                | StoreError::NotFound { .. },
            ) => {
                return Ok(self.settings.retry / 4);
            }
            Err(error) => return Err(error),
        }
        Ok(self.settings.retry)
    }

    fn steady(&self) -> Timestamp {
        self.host.ports.clock.steady()
    }

    async fn write(&self, step: &Step) -> Result<Arc<Obj>, StoreError> {
        let (settings, now) = (&self.settings, self.host.ports.clock.now());
        let seconds = settings.duration.as_secs().max(1);
        let mut spec = json!({"holderIdentity": settings.identity,
            "leaseDurationSeconds": seconds, "renewTime": MicroTime(now)});
        if *step != Step::Renew {
            spec["acquireTime"] = json!(MicroTime(now));
            let before = self.seen.as_ref().map_or(-1, |seen| seen.transitions);
            spec["leaseTransitions"] = json!(before.saturating_add(1));
        }
        let expect = self.seen.as_ref().map(|seen| seen.revision.clone());
        let options = WriteOptions { subresource: None, expect, manager: MANAGER };
        if *step == Step::Create {
            let lease = json!({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
                "metadata": {"name": &*settings.key.name,
                    "namespace": &*settings.key.namespace, "annotations": settings.annotations},
                "spec": spec});
            let lease = Obj::from_json(lease)?;
            return self.within(self.host.write.create(&lease, &options)).await;
        }
        let mut patch = json!({"spec": spec});
        if *step == Step::TakeOver && !settings.annotations.is_empty() {
            patch["metadata"] = json!({"annotations": settings.annotations});
        }
        let patch = Patch::Merge(patch);
        self.within(self.host.write.patch(&settings.key, &patch, &options)).await
    }

    /// A server may be silent: every request has a third of the renewal time.
    async fn within<T>(
        &self,
        request: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let limit = self.settings.renew_within / 3;
        crate::within(&*self.host.timer, limit, request).await.unwrap_or_else(|| {
            Err(StoreError::Unreachable {
                object: self.settings.key.to_string(),
                problem: format!("no answer within {limit:?}"),
            })
        })
    }

    fn note(&mut self, lease: Option<&Obj>, now: Timestamp) {
        let Some(lease) = lease else {
            self.seen = self.seen.take().map(|seen| Seen { gone: true, ..seen });
            return;
        };
        let spec = lease.json().get("spec");
        let field = |name: &str| spec.and_then(|spec| spec.get(name));
        let text = |name: &str| field(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name: &str| field(name).and_then(Value::as_i64).unwrap_or_default();
        let fresh = Seen {
            gone: false,
            holder: text("holderIdentity"),
            renewed: text("renewTime"),
            duration: lasts(number("leaseDurationSeconds")),
            transitions: number("leaseTransitions"),
            revision: lease.revision(),
            at: now,
        };
        let same = self.seen.as_ref().filter(|old| {
            (&old.holder, &old.renewed) == (&fresh.holder, &fresh.renewed)
                && old.revision == fresh.revision
        });
        let at = same.map_or(now, |old| old.at);
        self.log_leader(&fresh.holder);
        self.seen = Some(Seen { at, ..fresh });
    }

    fn announce(&mut self) {
        let leads = self.leadership.holds(self.steady());
        if leads != self.leading {
            self.leading = leads;
            let (lease, leader) = (&self.settings.key, &self.settings.identity);
            if leads {
                tracing::info!(%lease, leader, "leadership gained: this process acts");
            } else {
                tracing::info!(%lease, leader, "leadership lost: this process acts no more");
            }
            self.host.observer.led(&self.settings.key, leads);
            // A worker that is gone is removed.
            self.workers.retain(|worker| worker.unbounded_send(()).is_ok());
        }
    }

    /// Logs once that another process leads, or none.
    fn log_leader(&mut self, holder: &str) {
        if holder == self.logged_holder {
            return;
        }
        holder.clone_into(&mut self.logged_holder);
        let lease = &self.settings.key;
        if holder.is_empty() {
            tracing::info!(%lease, "no process leads");
        } else if holder != self.settings.identity {
            tracing::info!(%lease, leader = holder, "another process leads");
        }
    }

    /// Releases the Lease, so that another process need not wait for it to expire.
    pub(crate) async fn release(host: &Host, settings: &LeaseSettings) {
        for _ in 0..RELEASE_TRIES {
            match Self::give_back(host, settings).await {
                Ok(()) => return,
                // A renewal of ours was still under way.
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => {
                    tracing::warn!(lease = %settings.key, %error, "{NOT_RELEASED}");
                    return;
                }
            }
        }
        tracing::warn!(lease = %settings.key, "{NOT_RELEASED}");
    }

    async fn give_back(host: &Host, settings: &LeaseSettings) -> Result<(), StoreError> {
        let Some(lease) = host.ports.read.get(&settings.key).await? else { return Ok(()) };
        if holder(&lease) != settings.identity {
            return Ok(());
        }
        let options =
            WriteOptions { subresource: None, expect: Some(lease.revision()), manager: MANAGER };
        let patch =
            Patch::Merge(json!({"spec": {"holderIdentity": "", "leaseDurationSeconds": 1}}));
        host.write.patch(&settings.key, &patch, &options).await?;
        let (lease, leader) = (&settings.key, &settings.identity);
        tracing::info!(%lease, leader, "leadership given back: another process may act at once");
        Ok(())
    }
}

/// Who holds a Lease; empty when nobody does.
fn holder(lease: &Obj) -> &str {
    let holder = lease.json().pointer("/spec/holderIdentity").and_then(Value::as_str);
    holder.unwrap_or_default()
}

/// What a watch of the Lease came to.
enum Watched {
    /// Nobody holds the Lease.
    GivenBack,
    /// There is no more to come.
    Ended,
}

/// Waits until nobody holds the Lease. What hinders the watch is not reported: the next look is.
async fn given_back(watch: &mut Watch) -> Watched {
    while let Some(event) = watch.next().await {
        let Ok(WatchEvent::Applied(lease)) = event else { continue };
        if holder(&lease).is_empty() {
            return Watched::GivenBack;
        }
    }
    Watched::Ended
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    let by = SignedDuration::try_from(by).unwrap_or(SignedDuration::MAX);
    at.checked_add(by).unwrap_or(Timestamp::MAX)
}

/// How long a Lease lasts that names so many seconds. No process takes one for longer than an hour,
/// so a longer one was written by hand, and must not stop all processes for years.
fn lasts(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap_or_default().clamp(1, 3_600))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn step(holder: &str, seen_at: i64, now: i64) -> Step {
        step_of(false, holder, seen_at, now)
    }

    fn step_of(gone: bool, holder: &str, seen_at: i64, now: i64) -> Step {
        let settings = LeaseSettings::new("evenkeel", "delivery", "me");
        let seen = Seen {
            gone,
            holder: holder.to_owned(),
            renewed: String::new(),
            duration: Duration::from_secs(15),
            transitions: 0,
            revision: Revision::from(1),
            at: at(seen_at),
        };
        decide(Some(&seen), &settings, at(now))
    }

    #[test]
    fn a_lease_that_was_edited_by_hand_lasts_an_hour_at_most() {
        let seconds = |written| lasts(written).as_secs();
        assert_eq!((seconds(15), seconds(i64::from(i32::MAX))), (15, 3_600));
        assert_eq!((seconds(0), seconds(-5)), (1, 1));
    }

    #[test]
    fn a_lease_changes_hands_only_after_its_time_as_seen_from_here() {
        let settings = LeaseSettings::new("evenkeel", "delivery", "me");
        assert_eq!(decide(None, &settings, at(0)), Step::Create);
        assert_eq!(step("me", 0, 100), Step::Renew);
        assert_eq!(step("", 0, 0), Step::TakeOver);
        assert_eq!(step("other", 100, 101), Step::Wait(Duration::from_secs(2)));
        assert_eq!(step("other", 100, 114), Step::Wait(Duration::from_secs(1)));
        assert_eq!(step("other", 100, 115), Step::TakeOver);
        // A clock that stepped back never shortens it.
        assert_eq!(step("other", 100, 50), Step::Wait(Duration::from_secs(2)));
        // Nor when the Lease is deleted: its holder may not know yet.
        assert_eq!(step_of(true, "other", 100, 101), Step::Wait(Duration::from_secs(2)));
        assert_eq!(step_of(true, "other", 100, 115), Step::Create);
        assert_eq!(step_of(true, "me", 100, 101), Step::Create);
    }

    #[test]
    fn a_leader_stops_before_another_may_take_over() {
        let settings = LeaseSettings::new("evenkeel", "delivery", "me");
        assert!(settings.renew_within + settings.retry < settings.duration);
        let leadership = Leadership::elected();
        assert!(!leadership.holds(at(0)));
        leadership.set(at(10));
        assert!(leadership.holds(at(9)) && !leadership.holds(at(10)));
        leadership.resign();
        leadership.set(at(20));
        assert!(!leadership.holds(at(9)));
        assert!(Leadership::always().holds(at(0)));
    }
}
