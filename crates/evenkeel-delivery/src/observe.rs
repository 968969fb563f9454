use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use evenkeel_api::{
    GroupKind, Key, LabelSelector, Obj,
    canary::{Canary, MetricTemplate, Phase, TemplateRef},
    httproute::{Gateway, HttpRoute, ParentRef},
    labels::SHARED_SERVICE,
    weighted,
};
use evenkeel_control::{
    ListQuery, MetricsError, NO_KIND, ObserveError, Plan, Ports, StoreError, redact,
};
use futures::future::join_all;
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Pod, Service},
};
use serde_json::Value;

use crate::{
    CanaryView, Memory, Settings, alerts, checks, configs, context::Need, decide::advance,
    endpoints, fill, istio, plain, pods, route, router::Router, rules::MetricKind, services::Names,
    spec_error::SpecError, stamps, time::elapsed, view::StrayRoute, workload::Workload,
};

/// Things that deciding may ask for in one observation: more than any spec has checks.
const NEEDS_MAX: usize = 256;

/// Looks at everything that one Canary depends on.
///
/// An object that is there and cannot be read is part of the view: it must not keep a rollback from
/// being decided. Nor must one that may be there, where only a part of what is decided needs it
/// ([`Unread`]). Without the Canary, its target, primary and route nothing can be judged: a passing
/// failure there (no answer from the server) is an error, and looked at again.
pub(crate) async fn observe(
    key: &Key,
    ports: &Ports,
    settings: &Settings,
    memory: &Memory,
) -> Result<Option<CanaryView>, ObserveError> {
    let Some(obj) = ports.read.get(key).await? else { return Ok(None) };
    let mut view = CanaryView::new(obj, settings, ports.clock.now());
    view.standing = ports.standing(&view.obj).await?;
    let off = memory.clocks.correct(&mut view, &*ports.clock);
    let names = view.names.clone();
    view.conflicting_canary = conflicting_canary(&view, ports).await?;
    let before = view.unreadable.len();
    view.target = workload(&mut view, &names.target, ports).await?;
    view.target_unreadable = view.unreadable.len() > before;
    let before = view.unreadable.len();
    view.primary = workload(&mut view, &names.target_primary, ports).await?;
    view.unread.primary = view.unreadable.len() > before;
    view.route = routing(&mut view, ports).await?;
    view.stray_route = stray_route(&mut view, ports).await?;
    // Each may wait for a server that does not answer: together no longer than one of them.
    let services = [&names.apex, &names.primary, &names.canary].map(|name| {
        let key = key.sibling::<Service>(name);
        async move { (name.clone(), ports.read.get(&key).await) }
    });
    let (route, services, endpoints, marked, gateways, templates, stuck, configs, alerts) = futures::join!(
        latest_route(&view, ports),
        join_all(services),
        endpoints(&names, ports),
        marked_pods(&view, ports),
        gateways(&view, ports),
        templates(&view, ports),
        stuck_pods(&view, &memory.listings, ports),
        used_configs(&view, ports),
        alerts::look(&view, ports),
    );
    view.route = route;
    for (name, answer) in services {
        match answer {
            Ok(Some(service)) => drop(view.services.insert(name, service)),
            Ok(None) => {}
            Err(error) => drop(view.unread.services.insert(name, error.to_string())),
        }
    }
    match endpoints {
        Ok(endpoints) => view.endpoints = endpoints,
        Err(error) => view.unread.endpoints = Some(error.to_string()),
    }
    match marked {
        Ok(marked) => view.marked = marked,
        Err(error) => view.unread.pods = Some(format!("pods cannot be listed: {error}")),
    }
    take_gateways(&mut view, gateways);
    take_templates(&mut view, templates);
    (view.stuck_pods, view.alerts) = (stuck, alerts);
    take_configs(&mut view, configs);
    // What was seen last is stamped with a time at which it was so: an interval that begins with
    // the gateway's confirmation never begins before it, however slow the server is.
    let off = stamps::Clocks::correct_again(&mut view, off, &*ports.clock);
    if let Some(plan) = answers(&mut view, ports).await {
        memory.clocks.planned(&view, &plan, off);
    }
    Ok(Some(view))
}

/// The object that holds the weight, with what belongs to it; plain Services have none.
async fn routing(view: &mut CanaryView, ports: &Ports) -> Result<Option<Arc<Obj>>, StoreError> {
    if view.router == Router::Service {
        return Ok(None);
    }
    let key = view.route_key();
    let answer = ports.read.get(&key).await;
    if let Err(error) = &answer
        && error.is_without_kind()
    {
        let kind = &key.kind;
        view.kind_missing = Some(format!("{NO_KIND} {kind}: {}", view.router.install()));
        return Ok(None);
    }
    let before = view.unreadable.len();
    let found = readable(view, &key, answer)?;
    view.unread.route = view.unreadable.get(before).cloned();
    if view.router == Router::Istio {
        for key in istio::rule_keys(&view.names) {
            if let Some(part) = read(view, &key, ports).await? {
                view.route_parts.insert(key, part);
            }
        }
    }
    Ok(found)
}

/// Whether the gateway has had its time to confirm a weight, and has not as far as is known.
fn counts_as_unconfirmed(view: &CanaryView, ports: &Ports) -> bool {
    let since = view.run.ticked_at.unwrap_or(view.now);
    let late = elapsed(since, ports.clock.now()) >= view.confirmation_max();
    view.status.phase == Phase::Progressing && view.pct() != 0 && late && !view.confirmed()
}

/// The route, from the server itself where it counts against a version: not because a watch is
/// behind.
async fn latest_route(view: &CanaryView, ports: &Ports) -> Option<Arc<Obj>> {
    let known = view.route.clone();
    let asked = view.router != Router::Service && view.unread.route.is_none();
    if !asked || !counts_as_unconfirmed(view, ports) {
        return known;
    }
    ports.read.get_latest(&view.route_key()).await.unwrap_or(known)
}

/// An object; one that the server does not let us read is noted in the view.
async fn read(
    view: &mut CanaryView,
    key: &Key,
    ports: &Ports,
) -> Result<Option<Arc<Obj>>, StoreError> {
    let answer = ports.read.get(key).await;
    readable(view, key, answer)
}

/// An answer; that the server does not let us read an object is noted in the view.
fn readable(view: &mut CanaryView, key: &Key, answer: Answered) -> Answered {
    match answer {
        Err(error) if is_lasting(&error) => {
            view.unreadable.push(format!("{key} cannot be read: {error}"));
            Ok(None)
        }
        other => other,
    }
}

/// Whether looking again soon gives the same answer: then what can be done without the object is.
fn is_lasting(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::NoKind { .. }
            | StoreError::Refused { .. }
            | StoreError::Invalid { .. }
            | StoreError::Malformed(_)
    )
}

async fn workload(
    view: &mut CanaryView,
    name: &str,
    ports: &Ports,
) -> Result<Option<Workload>, StoreError> {
    let key = view.obj.key().sibling::<Deployment>(name);
    let Some(obj) = read(view, &key, ports).await? else { return Ok(None) };
    match Workload::of(obj) {
        Ok(workload) => Ok(Some(workload)),
        Err(error) => {
            view.unreadable.push(error.to_string());
            Ok(None)
        }
    }
}

/// What keeps pods of the target and its primary from starting; looked for only while some are
/// missing.
async fn stuck_pods(
    view: &CanaryView,
    listings: &pods::Listings,
    ports: &Ports,
) -> BTreeMap<String, String> {
    let mut stuck = BTreeMap::new();
    for workload in [&view.target, &view.primary].into_iter().flatten() {
        if workload.is_complete() {
            continue;
        }
        if let Some(trouble) = listings.trouble(workload, ports).await {
            stuck.insert(workload.obj.name().to_owned(), trouble);
        }
    }
    stuck
}

/// A route of this Canary under another name than the spec's. Looked for only while the spec's
/// route is not there: it is what a changed name or provider leaves behind.
async fn stray_route(
    view: &mut CanaryView,
    ports: &Ports,
) -> Result<Option<StrayRoute>, StoreError> {
    let is_ours = |route: &Obj| {
        let owner = route.controller();
        view.router == Router::Gateway || owner.is_some_and(|it| it.uid == view.obj.uid())
    };
    let known = view.route.as_ref().is_some_and(|route| is_ours(route));
    if known || view.status.canary_weight == 0 {
        return Ok(None);
    }
    let own = view.route_key();
    // Who may not read Istio's objects has not written any, unless the spec says so.
    let counts = |kind: &GroupKind| kind.is::<HttpRoute>() || *kind == own.kind;
    let mut routes = Vec::new();
    for kind in [GroupKind::of::<HttpRoute>(), weighted::virtual_service()] {
        let query = ListQuery::all(kind).within(view.obj.namespace());
        match ports.read.list(&query).await {
            Ok(found) => routes.extend(found.items),
            Err(StoreError::NoKind { .. }) => {}
            Err(error) if is_lasting(&error) && counts(&query.kind) => {
                hide_weight(view, &format!("routes cannot be listed: {error}"));
            }
            Err(error) if is_lasting(&error) => view.unread.strays = Some(error.to_string()),
            Err(error) => return Err(error),
        }
    }
    let ours =
        |route: &&Arc<Obj>| route.controller().is_some_and(|owner| owner.uid == view.obj.uid());
    // The spec's own route that is listed and may not be read is not left from before.
    routes.retain(|route| *route.key() != own);
    let Some(obj) = routes.iter().find(ours).cloned() else { return Ok(None) };
    let names = Names::around(obj.name(), &view.names);
    let primary_ready = match endpoints(&names, ports).await {
        Ok(ready) => ready.get(&names.primary).map_or(0, BTreeSet::len),
        // Whether its primary could take the traffic is not known.
        Err(error) if is_lasting(&error) => {
            hide_weight(view, &format!("the pods of {} cannot be read: {error}", names.primary));
            0
        }
        Err(error) => return Err(error),
    };
    Ok(Some(StrayRoute { obj, primary_ready }))
}

/// Which share the canary has cannot be found out now.
fn hide_weight(view: &mut CanaryView, problem: &str) {
    view.unreadable.push(problem.to_owned());
    view.unread.route.get_or_insert_with(|| problem.to_owned());
}

/// An older Canary with the same target in the same namespace; the name decides between equals.
async fn conflicting_canary(
    view: &CanaryView,
    ports: &Ports,
) -> Result<Option<String>, StoreError> {
    let query = ListQuery::of::<Canary>().within(view.obj.namespace());
    let age = |obj: &Obj| {
        let created = obj.meta().creation_timestamp.as_ref().map(|time| time.0);
        (created, obj.name().to_owned())
    };
    let mine = age(&view.obj);
    let rivals = ports.read.list(&query).await?.items;
    let older = rivals.iter().find(|rival| {
        rival.uid() != view.obj.uid()
            && !rival.is_deleting()
            && age(rival) < mine
            && rival
                .get::<Canary>()
                .is_ok_and(|rival| rival.spec.target_ref == view.canary.spec.target_ref)
    });
    Ok(older.map(|older| older.key().to_string()))
}

/// Names of the ready pods behind each of the three Services.
async fn endpoints(
    names: &Names,
    ports: &Ports,
) -> Result<BTreeMap<String, BTreeSet<String>>, StoreError> {
    let services = vec![names.apex.clone(), names.primary.clone(), names.canary.clone()];
    let query = endpoints::slices_of(services, &names.namespace);
    let mut ready: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for slice in ports.read.list(&query).await?.items {
        let pod =
            |endpoint: &Value| endpoint.pointer("/targetRef/name")?.as_str().map(str::to_owned);
        let pods = ready.entry(endpoints::service_of(&slice).to_owned()).or_default();
        pods.extend(endpoints::ready(&slice).filter_map(pod));
    }
    Ok(ready)
}

/// Names of the canary's pods to which a plain Service may send requests. Looked for only while a
/// version is released by it.
async fn marked_pods(view: &CanaryView, ports: &Ports) -> Result<BTreeSet<String>, StoreError> {
    let labels = view.target.as_ref().and_then(Workload::match_labels);
    let Some(labels) = labels.filter(|_| {
        plain::shares(view) && view.status.phase.is_release() && !view.obj.is_deleting()
    }) else {
        return Ok(BTreeSet::new());
    };
    let mut labels = labels.clone();
    labels.insert(SHARED_SERVICE.to_owned(), view.names.apex.clone());
    let query = ListQuery::of::<Pod>()
        .within(view.obj.namespace())
        .with_labels(LabelSelector::from_labels(&labels));
    let pods = ports.read.list(&query).await?.items;
    let alive = pods.iter().filter(|pod| !pod.is_deleting());
    Ok(alive.map(|pod| pod.name().to_owned()).collect())
}

/// What one read was answered.
type Answered = Result<Option<Arc<Obj>>, StoreError>;

/// Looks for the Gateways that the spec names: the article's `public-gateway` may well not be there.
/// A parent of another kind is not looked for.
async fn gateways(view: &CanaryView, ports: &Ports) -> Vec<(ParentRef, Option<(Key, Answered)>)> {
    let service = &view.canary.spec.service;
    let mut wanted: Vec<ParentRef> = Vec::new();
    for name in service.gateways.iter().filter(|name| *name != "mesh") {
        let (namespace, name) = match name.split_once('/') {
            Some((namespace, name)) => (Some(namespace.to_owned()), name),
            None => (None, name.as_str()),
        };
        wanted.push(ParentRef { namespace, name: name.to_owned(), ..ParentRef::default() });
    }
    if view.router != Router::Istio {
        wanted.extend(service.gateway_refs.iter().cloned());
    }
    let looks = wanted.into_iter().map(|gateway| async move {
        if gateway.kind.as_deref().is_some_and(|kind| kind != "Gateway") {
            return (gateway, None);
        }
        let namespace = gateway.namespace.as_deref().unwrap_or(view.obj.namespace());
        let key = match view.router {
            Router::Istio => {
                Key::new(GroupKind::new(weighted::ISTIO, "Gateway"), namespace, &gateway.name)
            }
            Router::Gateway | Router::Service => Key::of::<Gateway>(namespace, &gateway.name),
        };
        let answer = ports.read.get(&key).await;
        (gateway, Some((key, answer)))
    });
    join_all(looks).await
}

/// Sorts the Gateways into those that exist and those that do not.
fn take_gateways(view: &mut CanaryView, gateways: Vec<(ParentRef, Option<(Key, Answered)>)>) {
    for (gateway, look) in gateways {
        match look {
            None => view.gateways.push(gateway),
            Some((_, Ok(Some(obj)))) => {
                view.gateways.push(gateway.clone());
                view.gateway_objs.push((gateway, obj));
            }
            Some((key, Ok(None))) => view.gateways_missing.push(key.to_string()),
            // Of another namespace, which we may not look into: the route asks to be attached, and
            // its status says whether it is.
            Some((key, Err(StoreError::Refused { .. })))
                if *key.namespace != *view.obj.namespace() =>
            {
                view.gateways.push(gateway);
            }
            Some((key, Err(error))) => {
                // It may be there: who is attached to it stays so.
                if view.route.as_ref().is_some_and(|route| route::names(route, &gateway)) {
                    view.gateways.push(gateway);
                }
                view.unread.gateways.insert(key, error.to_string());
            }
        }
    }
}

/// Answers for the configs that the target and its primary name, and for the copies of them.
type Configs = BTreeMap<Key, Answered>;

/// Reads the configs that the target uses, and whatever may be a copy of them.
async fn used_configs(view: &CanaryView, ports: &Ports) -> Configs {
    let keys: BTreeSet<Key> = sources(view).into_iter().chain(used_copies(view)).collect();
    let copies = sources(view).into_iter().flat_map(|key| copies_of(view, &key));
    let keys: BTreeSet<Key> = keys.into_iter().chain(copies).collect();
    let reads = keys.into_iter().map(|key| async move {
        let found = ports.read.get(&key).await;
        (key, found)
    });
    join_all(reads).await.into_iter().collect()
}

/// Why a config could not be read. What a server says of a Secret is withheld; that it refuses is
/// what its users must know.
fn words(key: &Key, error: &StoreError) -> String {
    match error {
        StoreError::Refused { .. } if redact::is_secret(key) => {
            format!("{key}: the API server does not let us read it")
        }
        _ => error.to_string(),
    }
}

/// The configs that the target names.
fn sources(view: &CanaryView) -> Vec<Key> {
    let target = view.target.as_ref();
    target.map(|t| configs::named_by(t.template(), &view.names.namespace)).unwrap_or_default()
}

/// What the primary names that may be a copy.
fn used_copies(view: &CanaryView) -> BTreeSet<Key> {
    let used = view.primary.as_ref();
    let used = used.map(|p| configs::named_by(p.template(), &view.names.namespace));
    let named = sources(view);
    let used = used.unwrap_or_default().into_iter();
    used.filter(|key| configs::may_be_copy(key) && !named.contains(key)).collect()
}

fn copies_of(view: &CanaryView, source: &Key) -> [Key; 2] {
    [configs::copy_of(source), configs::own_copy_of(source, &view.names.target)]
}

/// Sorts the configs and copies that were read into the view. What could not be read is taken to
/// be as it was when a version was last taken up: nothing that needs more is done.
fn take_configs(view: &mut CanaryView, answers: Configs) {
    let named: BTreeSet<Key> = sources(view).into_iter().collect();
    view.used_copies = used_copies(view);
    let copies: BTreeSet<Key> = named.iter().flat_map(|key| copies_of(view, key)).collect();
    for (key, answer) in answers {
        let is_copy = copies.contains(&key) || view.used_copies.contains(&key);
        match answer {
            Ok(Some(found)) => {
                if is_copy {
                    view.config_copies.insert(key.clone(), found.clone());
                }
                if named.contains(&key) {
                    view.configs.insert(key, found);
                }
            }
            // What is missing is the pod's business to complain about.
            Ok(None) => {}
            Err(error) => {
                let words = words(&key, &error);
                if named.contains(&key) {
                    view.unread.configs.insert(key, words);
                } else {
                    view.unread.copies.insert(key, words);
                }
            }
        }
    }
    view.config_hashes = configs::hashes(&view.configs);
    for recorded in view.status.tracked_configs.iter_mut().chain([&mut view.run.promoted_configs]) {
        configs::renew(recorded, &view.configs);
    }
    for label in view.unread.configs.keys().map(configs::label) {
        let recorded = view.status.tracked_configs.as_ref().and_then(|all| all.get(&label));
        if let Some(hash) = recorded {
            view.config_hashes.insert(label, hash.clone());
        }
    }
    let (uid, target) = (view.obj.uid(), &view.names.target);
    view.copy_names = configs::copy_names(&view.configs, &view.config_copies, uid, target);
}

/// Reads the templates that the metrics name.
async fn templates(view: &CanaryView, ports: &Ports) -> Vec<(TemplateRef, Key, Answered)> {
    let metrics = &view.canary.spec.analysis.metrics;
    let named: BTreeSet<TemplateRef> =
        metrics.iter().filter_map(|metric| metric.template_ref.clone()).collect();
    let reads = named.into_iter().map(|reference| async move {
        let namespace = reference.namespace.as_deref().unwrap_or(view.obj.namespace());
        let key = Key::of::<MetricTemplate>(namespace, &reference.name);
        let answer = ports.read.get(&key).await;
        (reference, key, answer)
    });
    join_all(reads).await
}

/// Puts the templates that can be used into the view.
fn take_templates(view: &mut CanaryView, templates: Vec<(TemplateRef, Key, Answered)>) {
    for (reference, key, answer) in templates {
        let found = match answer {
            Ok(Some(found)) => found,
            Ok(None) => continue,
            Err(error) if is_lasting(&error) => {
                view.unread.templates.push(format!("{key} cannot be read: {error}"));
                continue;
            }
            Err(error) => {
                view.templates_unread.insert(reference, error.to_string());
                continue;
            }
        };
        let template = match found.get::<MetricTemplate>() {
            Ok(template) => template,
            Err(error) => {
                view.unread.templates.push(error.to_string());
                continue;
            }
        };
        let address = checks::address(&template);
        let refused = checks::unsupported(&template).or_else(|| {
            let problem = view.settings.server(address?).err()?;
            Some(format!("spec.provider.address: {problem}"))
        });
        let refused = refused.or_else(|| {
            let asking = view.rules.metrics.iter().filter_map(|rule| match &rule.kind {
                MetricKind::Template(named, variables) if *named == reference => Some(variables),
                _ => None,
            });
            let query = &template.spec.query;
            let problem = asking.into_iter().find_map(|v| fill::query_problem(query, v))?;
            Some(format!("spec.query: {problem}"))
        });
        if let Some(problem) = refused {
            view.spec_error.get_or_insert(SpecError::new(&key.to_string(), problem));
        }
        view.templates.insert(reference, template);
    }
}

/// Looks up what deciding asks for, one thing after the other, so that nothing is queried that
/// does not matter now. Returns what is decided by it.
async fn answers(view: &mut CanaryView, ports: &Ports) -> Option<Plan> {
    for _ in 0..NEEDS_MAX {
        match advance(view) {
            Ok(plan) => return Some(plan),
            Err(Need::Reply(id)) => {
                let reply = ports.replies.reply(&id);
                view.replies.insert(id, reply);
            }
            Err(Need::Answer(query)) => {
                let server = match &query.server {
                    None => Ok(ports.metrics.clone()),
                    Some(address) => view.settings.server(address),
                };
                let answer = match server {
                    Ok(server) => server.query(&query.expr, view.now).await,
                    Err(problem) => Err(MetricsError::Unreachable { problem }),
                };
                view.answers.insert(query, answer);
            }
        }
    }
    None
}
