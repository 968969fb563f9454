use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use evenkeel_api::{
    ApiObject, GroupKind, Key, Obj,
    canary::Canary,
    slo::{BreakGlass, ErrorBudgetPolicy, PrometheusRule, PrometheusServiceLevel, SloMaintenance},
};
use evenkeel_control::{ListQuery, ObserveError, Ports, StoreError};
use serde_json::Value;

use super::{
    SLOS_ANNOTATION, Settings,
    tracker::Tracker,
    view::{CanarySeen, RulesSeen, SloSeen, SloView},
};
use crate::{
    budget::{Exclusion, Exclusions, History, SloKey},
    finding::{Finding, has_errors},
    generate::{Mode, Options, generate, load},
    model::{Slo, SloGroup},
    policy,
    spec::Input,
};

/// What one instance of the controller remembers of one object: everything in it can be counted
/// again.
pub(super) struct Known {
    generation: i64,
    uid: String,
    trackers: Vec<Tracker>,
}

/// Looks at one `PrometheusServiceLevel` and everything that its budgets depend on.
pub(super) async fn observe(
    key: &Key,
    ports: &Ports,
    settings: Settings,
    known: &Mutex<BTreeMap<Key, Known>>,
) -> Result<Option<SloView>, ObserveError> {
    let take = || known.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
    let Some(obj) = ports.read.get(key).await?.filter(|obj| !obj.is_deleting()) else {
        take();
        return Ok(None);
    };
    let (group, rules, findings) = read(&obj);
    let slos = group.map_or_else(Vec::new, |group| group.slos);
    // Taken out while it is worked on: an observation that is dropped half-way forgets it.
    let mut known_now = take()
        .filter(|known| known.uid == obj.uid() && known.generation == obj.generation())
        .unwrap_or_else(|| Known {
            generation: obj.generation(),
            uid: obj.uid().to_owned(),
            trackers: slos.iter().filter_map(Tracker::new).collect(),
        });
    let recounted = known_now.trackers.iter().any(Tracker::is_new);
    let mut metrics_problem = None;
    for tracker in &mut known_now.trackers {
        let looked = tracker.advance(&*ports.metrics, ports.clock.now(), settings.every).await;
        if let Err(error) = looked {
            metrics_problem = Some(format!("{}: {error}", tracker.slo().path));
        }
    }
    let namespace = key.namespace.to_string();
    let maintenances = list::<SloMaintenance>(ports, &namespace).await?;
    let seen = known_now.trackers.iter().map(|tracker| SloSeen {
        slo: tracker.slo().clone(),
        histories: histories(tracker),
        exclusions: exclusions(&maintenances, tracker.slo()),
    });
    let slos = seen.collect();
    known.lock().unwrap_or_else(PoisonError::into_inner).insert(key.clone(), known_now);

    let (policies, invalid_policies) =
        policies(&list::<ErrorBudgetPolicy>(ports, &namespace).await?);
    let status = obj.json().get("status").cloned().unwrap_or(Value::Null);
    let peers = list::<PrometheusServiceLevel>(ports, &namespace).await?;
    Ok(Some(SloView {
        now: ports.clock.now(),
        every: settings.every,
        findings,
        rules,
        rules_have: rules_seen(key, ports).await?,
        slos,
        metrics_problem,
        recounted,
        policies,
        invalid_policies,
        glasses: list::<BreakGlass>(ports, &namespace)
            .await?
            .iter()
            .map(|glass| (glass.name().to_owned(), spec(glass)))
            .collect(),
        canaries: canaries(&list::<Canary>(ports, &namespace).await?, obj.name()),
        peers: peers.into_iter().filter(|peer| peer.name() != obj.name()).collect(),
        // A status of another shape says nothing: it is written anew.
        status: serde_json::from_value(status).unwrap_or_default(),
        obj,
    }))
}

/// What a tracker has counted. An SLO without any data has a budget too: one that is not known,
/// so that its policy holds what should not go ahead blindly.
fn histories(tracker: &Tracker) -> BTreeMap<SloKey, Arc<History>> {
    if tracker.histories().is_empty() {
        return BTreeMap::from([tracker.unknown()]);
    }
    tracker.histories().clone()
}

async fn rules_seen(key: &Key, ports: &Ports) -> Result<RulesSeen, StoreError> {
    match ports.read.get(&key.sibling::<PrometheusRule>(&key.name)).await {
        Ok(Some(obj)) => Ok(RulesSeen::There(obj)),
        Ok(None) => Ok(RulesSeen::Absent),
        Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => Ok(RulesSeen::KindMissing),
        Err(error) => Err(error),
    }
}

/// The SLOs and rules of an object, and everything there is to say about it.
fn read(obj: &Obj) -> (Option<SloGroup>, Option<crate::RuleSet>, Vec<Finding>) {
    let input = Input { name: obj.key().to_string(), text: obj.json().to_string() };
    let options = Options {
        mode: Mode::Controller,
        version: env!("CARGO_PKG_VERSION").to_owned(),
        ..Options::default()
    };
    let inputs = [input];
    match generate(&inputs, &options) {
        Ok(mut output) => (output.groups.pop(), output.sets.pop(), output.findings),
        Err(findings) => {
            // The budget of what can be read is counted all the same.
            let mut read = Vec::new();
            let group = load(&inputs, &options, &mut read).groups.pop();
            (group.filter(|_| !has_errors(&read)), None, findings)
        }
    }
}

/// The objects of a kind; none where the cluster does not know it.
async fn list<T: ApiObject>(ports: &Ports, namespace: &str) -> Result<Vec<Arc<Obj>>, StoreError> {
    let query = ListQuery::all(GroupKind::of::<T>()).within(namespace);
    match ports.read.list(&query).await {
        Ok(listed) => Ok(listed.items),
        Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn spec(obj: &Obj) -> Value {
    obj.json().get("spec").cloned().unwrap_or(Value::Null)
}

/// The policies by name, and the names of those that are not valid.
fn policies(objects: &[Arc<Obj>]) -> (BTreeMap<String, policy::ErrorBudgetPolicy>, Vec<String>) {
    let (mut valid, mut invalid) = (BTreeMap::new(), Vec::new());
    for obj in objects {
        match policy::ErrorBudgetPolicy::from_value(obj.json()) {
            Ok(policy) => drop(valid.insert(obj.name().to_owned(), policy)),
            Err(_) => invalid.push(obj.name().to_owned()),
        }
    }
    (valid, invalid)
}

/// The maintenances of an SLO's service. What is not valid excludes nothing.
fn exclusions(maintenances: &[Arc<Obj>], slo: &Slo) -> Exclusions {
    let specs = maintenances.iter().map(|obj| spec(obj));
    Exclusions::new(
        specs
            .filter(|spec| Exclusion::concerns(spec, slo))
            .filter_map(|spec| Exclusion::from_spec(&spec).ok())
            .collect(),
    )
}

/// The Canaries that name this object, or none in particular.
fn canaries(objects: &[Arc<Obj>], name: &str) -> Vec<CanarySeen> {
    let concerned = |obj: &&Arc<Obj>| match obj.annotation(SLOS_ANNOTATION) {
        Some(names) => names.split(',').any(|one| one.trim() == name),
        None => true,
    };
    objects
        .iter()
        .filter(concerned)
        .filter_map(|obj| Some(CanarySeen { obj: obj.clone(), canary: obj.get().ok()? }))
        .collect()
}
