use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_api::{
    ApiObject, Key, Obj, Revision,
    canary::Canary,
    misfit,
    slo::{ErrorBudgetPolicy, PrometheusRule, SloMaintenance},
};
use evenkeel_control::{ListQuery, Memo, ObserveError, Ports, StoreError, redact};
use jiff::SignedDuration;
use serde_json::Value;

use super::{
    SLOS_ANNOTATION, Settings,
    changes::{edges, is_running},
    former,
    manifest::{Manifest, RulesRead, read},
    status::{SloState, SloStatusObject},
    tracker::{Sight, Tracker},
    view::{CanarySeen, RulesSeen, SloSeen, SloSight, SloView},
};
use crate::{
    budget::{Exclusion, ExclusionError, Exclusions, History, SloKey},
    model::Slo,
    policy,
};

/// A metrics server that still fails after this long is not asked about the object's other SLOs:
/// the loop ends an observation after a minute, and the object must say why before that.
const FAILING_MAX: SignedDuration = SignedDuration::from_secs(15);

/// What one instance of the controller remembers of one object: everything in it can be counted
/// again.
pub(super) struct Known {
    uid: String,
    /// The status in the last revision of it that was read.
    status: (Revision, Arc<SloStatusObject>),
    manifest: Arc<Manifest>,
    trackers: Vec<Tracker>,
    /// Those of the object as it was when it could last be read.
    resting: Vec<Tracker>,
}

/// What is remembered of the objects that are looked after, and of those around them.
#[derive(Default)]
pub(super) struct Memory {
    known: Mutex<BTreeMap<Key, Known>>,
    rules: Memo<RulesRead>,
    /// Of a Canary, unless it is at rest.
    running: Memo<Option<CanarySeen>>,
}

impl Memory {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Key, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Forgets what is kept for an object that is gone; what others of its namespace need of it they
    /// read again.
    fn forget(&self, slo: &Key) {
        self.rules.forget(&slo.sibling::<PrometheusRule>(&slo.name));
        self.running.forget_all_in(&slo.namespace);
    }

    /// Forgets everything; what was counted can be counted again.
    pub(super) fn clear(&self) {
        self.known().clear();
        self.rules.clear();
        self.running.clear();
    }
}

/// One object's memory while it is worked on. It goes back when this is dropped, so that an
/// observation that is cut short keeps what was counted.
struct Taken<'a> {
    memory: &'a Memory,
    key: &'a Key,
    known: Option<Known>,
}

impl<'a> Taken<'a> {
    fn of(memory: &'a Memory, key: &'a Key) -> Self {
        let known = memory.known().remove(key);
        Self { memory, key, known }
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        if let Some(known) = self.known.take() {
            self.memory.known().insert(self.key.clone(), known);
        }
    }
}

/// Looks at one `PrometheusServiceLevel` and everything that its budgets depend on.
pub(super) async fn observe(
    key: &Key,
    ports: &Ports,
    settings: Settings,
    memory: &Memory,
) -> Result<Option<SloSight>, ObserveError> {
    let mut taken = Taken::of(memory, key);
    let Some(obj) = ports.read.get(key).await? else {
        taken.known = None;
        memory.forget(key);
        return Ok(rules_left(key, ports).await?.map(SloSight::RulesLeft));
    };
    if obj.is_deleting() {
        taken.known = None;
        return Ok(None);
    }
    let before = taken.known.take().filter(|known| known.uid == obj.uid());
    let status = status(&obj, before.as_ref());
    let known = match before {
        Some(known) if known.manifest.generation == obj.generation() => {
            if known.manifest.is_of(&obj) { known } else { Known { manifest: read(&obj), ..known } }
        }
        known => begin(&obj, &status, known, settings.every),
    };
    let known = taken.known.insert(Known { status: (obj.revision(), status.clone()), ..known });
    let manifest = known.manifest.clone();
    let counting = |known: &Known| {
        known.trackers.iter().any(|tracker| matches!(tracker.sight(), Sight::Counting(_)))
    };
    let was_counting = counting(known);
    let namespace = key.namespace.to_string();
    let maintenances = list::<SloMaintenance>(ports, &namespace).await?;
    let maintenances: Vec<_> = maintenances.iter().map(Maintenance::of).collect();
    let mut slos = Vec::new();
    let began = ports.clock.steady();
    let mut away: Option<String> = None;
    for tracker in &mut known.trackers {
        let problem = if away.is_some() {
            away.clone()
        } else {
            let looked = tracker.advance(&*ports.metrics, &*ports.clock, settings.every).await;
            looked.err().map(|error| error.to_string())
        };
        if ports.clock.steady().duration_since(began) > FAILING_MAX {
            away.clone_from(&problem);
        }
        slos.push(SloSeen {
            slo: tracker.slo().clone(),
            sight: tracker.sight().clone(),
            problem,
            histories: histories(tracker),
            exclusions: exclusions(&maintenances, tracker.slo()),
        });
    }
    let recounted = was_counting && !counting(known);
    let (policies, _) = policies(&list::<ErrorBudgetPolicy>(ports, &namespace).await?);
    Ok(Some(SloSight::There(Box::new(SloView {
        now: ports.clock.now(),
        every: settings.every,
        manifest,
        rules_have: rules_seen(key, ports, &memory.rules).await?,
        slos,
        ignored: maintenances.iter().filter_map(Maintenance::problem).collect(),
        recounted,
        policies,
        running: running(key, ports, &memory.running).await?,
        status,
        obj,
    }))))
}

/// The status of an object, which is read once per revision.
fn status(obj: &Obj, before: Option<&Known>) -> Arc<SloStatusObject> {
    match before.map(|known| &known.status) {
        Some((revision, status)) if *revision == obj.revision() => status.clone(),
        _ => {
            let status = obj.json().get("status").unwrap_or(&Value::Null);
            // What has another shape says nothing, and is written anew.
            Arc::new(misfit::readable(status).0)
        }
    }
}

/// The trackers of an object that is new or was edited: what counts what it counted before goes on,
/// everything else has counted nothing yet.
fn begin(
    obj: &Obj,
    status: &Arc<SloStatusObject>,
    before: Option<Known>,
    every: Duration,
) -> Known {
    let manifest = read(obj);
    let edges = edges(&status.changes, every);
    let queries = former::queries(&manifest.slos);
    let mut old = before.map_or_else(Vec::new, |mut before| {
        before.trackers.append(&mut before.resting);
        before.trackers
    });
    let tracker = |slo: &Slo| {
        let fits = |named: bool| {
            old.iter().position(|t| t.counts(slo) && (!named || t.slo().id == slo.id))
        };
        if let Some(at) = fits(true).or_else(|| fits(false)) {
            return old.swap_remove(at).revised(slo);
        }
        let mut tracker = Tracker::new(slo)?.within(obj.namespace()).with_edges(edges.clone());
        let id = status.id_of(slo, &queries);
        let had_events = |old: &SloState| old.id == id && old.last_traffic.is_some();
        if status.counts(id, slo, obj.generation()) && status.slos.iter().any(had_events) {
            tracker.had_events();
        }
        Some(tracker)
    };
    let trackers = manifest.slos.iter().filter_map(tracker).collect();
    // A slip of the pen must not cost what was counted.
    let resting = if manifest.slos.is_empty() { old } else { Vec::new() };
    let status = (obj.revision(), status.clone());
    Known { uid: obj.uid().to_owned(), status, manifest, trackers, resting }
}

/// The rules of an object that is gone, if they are still there and were its own alone.
async fn rules_left(key: &Key, ports: &Ports) -> Result<Option<Arc<Obj>>, StoreError> {
    let rules = match ports.read.get(&key.sibling::<PrometheusRule>(&key.name)).await {
        Ok(Some(rules)) => rules,
        Ok(None) | Err(StoreError::NoKind { .. }) => return Ok(None),
        Err(error) => return Err(error),
    };
    let owners = rules.meta().owner_references.as_deref().unwrap_or_default();
    let orphaned = !owners.is_empty()
        && owners.iter().all(|owner| *owner.kind == *key.kind.kind && *owner.name == *key.name);
    Ok((orphaned && !rules.is_deleting()).then_some(rules))
}

/// What a tracker has counted. An SLO without any data has a budget too: one that is not known,
/// so that its policy holds what should not go ahead blindly.
fn histories(tracker: &Tracker) -> BTreeMap<SloKey, Arc<History>> {
    if tracker.histories().is_empty() {
        return BTreeMap::from([tracker.unknown()]);
    }
    tracker.histories().clone()
}

/// The rules of an object. Its budgets do not depend on whether they may be read.
async fn rules_seen(
    key: &Key,
    ports: &Ports,
    memo: &Memo<RulesRead>,
) -> Result<RulesSeen, StoreError> {
    let rules = key.sibling::<PrometheusRule>(&key.name);
    match memo.get(&*ports.read, &rules, RulesRead::of).await {
        Ok(Some(rules)) => Ok(RulesSeen::There(rules)),
        Ok(None) => Ok(RulesSeen::Absent),
        Err(StoreError::NoKind { .. }) => Ok(RulesSeen::KindMissing),
        Err(StoreError::Refused { problem, .. }) => Ok(RulesSeen::Unread(redact::text(&problem))),
        Err(error) => Err(error),
    }
}

/// The objects of a kind; none where the cluster does not know it.
///
/// **Errors**: they cannot be read, or may not be. What follows from them is not known then: what
/// was said before stands until it is too old to be believed.
pub(super) async fn list<T: ApiObject>(
    ports: &Ports,
    namespace: &str,
) -> Result<Vec<Arc<Obj>>, StoreError> {
    let query = ListQuery::of::<T>().within(namespace);
    none_without_kind(ports.read.list(&query).await.map(|listed| listed.items))
}

/// No objects, where the cluster does not know their kind.
pub(super) fn none_without_kind<T>(
    listed: Result<Vec<T>, StoreError>,
) -> Result<Vec<T>, StoreError> {
    match listed {
        Err(StoreError::NoKind { .. }) => Ok(Vec::new()),
        listed => listed,
    }
}

pub(super) fn spec(obj: &Obj) -> Value {
    obj.json().get("spec").cloned().unwrap_or(Value::Null)
}

/// The policies by name, and the names of those that are not valid.
pub(super) fn policies(
    objects: &[Arc<Obj>],
) -> (BTreeMap<String, policy::ErrorBudgetPolicy>, Vec<String>) {
    let (mut valid, mut invalid) = (BTreeMap::new(), Vec::new());
    for obj in objects {
        match policy::ErrorBudgetPolicy::from_value(obj.json()) {
            Ok(policy) => drop(valid.insert(obj.name().to_owned(), policy)),
            Err(_) => invalid.push(obj.name().to_owned()),
        }
    }
    (valid, invalid)
}

/// The maintenances of an SLO's service.
fn exclusions(maintenances: &[Maintenance], slo: &Slo) -> Exclusions {
    let mine = maintenances.iter().filter(|one| Exclusion::concerns(&one.spec, slo));
    Exclusions::new(mine.filter_map(|one| one.read.clone().ok()).collect())
}

/// A `SloMaintenance`: as written, and what it says. What is not valid excludes nothing.
struct Maintenance {
    name: String,
    spec: Value,
    read: Result<Exclusion, ExclusionError>,
}

impl Maintenance {
    fn of(obj: &Arc<Obj>) -> Self {
        let spec = spec(obj);
        Self { name: obj.name().to_owned(), read: Exclusion::from_spec(&spec), spec }
    }

    /// What is wrong with it.
    fn problem(&self) -> Option<String> {
        let error = self.read.as_ref().err()?;
        Some(format!("SloMaintenance/{} has no effect: {error}", self.name))
    }
}

/// The names of the SLO objects that a Canary asks for; `None`: all of its namespace.
pub(super) fn named(canary: &Obj) -> Option<impl Iterator<Item = &str>> {
    let names = canary.annotation(SLOS_ANNOTATION)?;
    Some(names.split(',').map(str::trim).filter(|name| !name.is_empty()))
}

/// The Canaries of the namespace with a run under way that an SLO object has a say about.
async fn running(
    slo: &Key,
    ports: &Ports,
    memo: &Memo<Option<CanarySeen>>,
) -> Result<Vec<CanarySeen>, StoreError> {
    let query = ListQuery::of::<Canary>().within(&slo.namespace);
    let read = |obj: &Obj| {
        let canary: Arc<Canary> = obj.get().ok()?;
        is_running(&canary).then(|| CanarySeen { obj: Arc::new(obj.clone()), canary })
    };
    let all = none_without_kind(memo.list(&*ports.read, &query, read).await)?;
    let concerned = |seen: &CanarySeen| {
        named(&seen.obj).is_none_or(|mut names| names.any(|name| *name == *slo.name))
    };
    let running = all.into_iter().filter_map(|(_, seen)| (*seen).clone());
    Ok(running.filter(concerned).collect())
}
