//! Which way a change of a route moves the risk for users.
//!
//! ```text
//! less for a canary                                  safer
//! anything but weights, labels and annotations       riskier, except
//!   of rules that send nothing to a primary,
//!   to one that sends all of it there                safer
//! a route that is given back as it was               safer
//! more for a canary                                  riskier, except
//!   its Canary is being deleted (traffic goes back)  safer
//!   nothing else is ready and the canary is          safer
//! ```
//! By Flagger's convention the backend whose name ends in `-canary` is the new version.

use std::{cmp::Ordering, sync::Arc};

use evenkeel_api::{Key, Obj, labels::SHARED_SERVICE, weighted};
use evenkeel_control::{BoxFuture, Change, Direction, Judge, Read, StoreError, workload};
use k8s_openapi::api::apps::v1::Deployment;
use serde_json::Value;

use crate::{endpoints, plain, router::Router, routing, services::Names, view, workload::Workload};

/// Judges changes of `HTTPRoute`s and `VirtualService`s.
pub(crate) struct RouteJudge;

impl Judge for RouteJudge {
    fn direction<'a>(&'a self, change: Change<'a>, read: &'a dyn Read) -> BoxFuture<'a, Direction> {
        Box::pin(async move {
            let Some(after) = change.after else {
                // Without its route a Service routes by its own selector.
                let given_back = is_given_back(change, read).await;
                return if given_back { Direction::Safer } else { Direction::Riskier };
            };
            let Some(before) = change.before else { return Direction::Neutral };
            if served(before.json()) != served(after) {
                let safe =
                    is_brought_back(before.json(), after) || is_given_back(change, read).await;
                return if safe { Direction::Safer } else { Direction::Riskier };
            }
            let (now, then) = (canary_share(before.json()), canary_share(after));
            match then.cmp(&now) {
                Ordering::Less => Direction::Safer,
                // Also when it is so already: a repeated rollback must never be blocked.
                Ordering::Equal if then == 0 => Direction::Safer,
                Ordering::Equal => Direction::Neutral,
                Ordering::Greater if is_given_back(change, read).await => Direction::Safer,
                Ordering::Greater if is_rescue(change, after, read).await => Direction::Safer,
                Ordering::Greater => Direction::Riskier,
            }
        })
    }
}

/// Judges changes of Deployments: as those of any workload, but a version that was given up goes
/// when no request reaches it, or a rollback would end only with the freeze.
pub(crate) struct DeploymentJudge;

impl Judge for DeploymentJudge {
    fn direction<'a>(&'a self, change: Change<'a>, read: &'a dyn Read) -> BoxFuture<'a, Direction> {
        Box::pin(async move {
            match workload(change) {
                Direction::Riskier if is_given_up(change, read).await => Direction::Safer,
                direction => direction,
            }
        })
    }
}

/// Whether this is the scale-down of the target of a Canary that is being rolled back, and whose
/// route sends it nothing.
async fn is_given_up(change: Change<'_>, read: &dyn Read) -> bool {
    let (Some(before), Some(after)) = (change.before, change.after) else { return false };
    let spec = |deployment: &Value| {
        let mut spec = deployment.get("spec").cloned().unwrap_or_default();
        let replicas = spec.as_object_mut().and_then(|spec| spec.remove("replicas"));
        (spec, replicas.and_then(|replicas| replicas.as_i64()))
    };
    let ((had, _), (gets, replicas)) = (spec(before.json()), spec(after));
    if had != gets || replicas != Some(0) {
        return false;
    }
    let Ok(Some(owner)) = read.get(change.owner).await else { return false };
    let canary = view::lenient(&owner);
    let names = Names::from_spec(&canary.spec, owner.namespace());
    let run = canary.status.as_ref().and_then(|status| status.evenkeel.as_ref());
    let decided = run.is_some_and(|run| run.rollback.is_some());
    if !decided || *change.key != owner.key().sibling::<Deployment>(&names.target) {
        return false;
    }
    let router = Router::of(canary.spec.provider.as_deref());
    let key = Key::new(router.kind(), owner.namespace(), &names.apex);
    let Ok(Some(route)) = read.get(&key).await else { return false };
    if router != Router::Service {
        return routing::canary_pct(&route, &names) == Some(0);
    }
    let selector = route.json().pointer("/spec/selector");
    Workload::of(Arc::new(before.clone())).is_ok_and(|target| {
        let primary = target.selector_of_primary();
        let mut labels = primary.as_object().into_iter().flatten();
        labels.all(|(name, value)| selector.and_then(|all| all.get(name)) == Some(value))
    })
}

/// Judges changes of Services: another selector sends users elsewhere, a port that is gone nowhere,
/// and a larger share that is asked for more users to the new version.
/// From the new version to the primary is safer; so is what a deletion gives back, and the
/// new version where nothing else is ready.
pub(crate) struct ServiceJudge;

impl Judge for ServiceJudge {
    fn direction<'a>(&'a self, change: Change<'a>, read: &'a dyn Read) -> BoxFuture<'a, Direction> {
        Box::pin(async move {
            let Some(before) = change.before else { return Direction::Neutral };
            let Some(after) = change.after else { return Direction::Riskier };
            if served(before.json()) == served(after) {
                let (now, then) = (plain::asked(before.json()), plain::asked(after));
                return match then.cmp(&now) {
                    Ordering::Less => Direction::Safer,
                    Ordering::Equal => Direction::Neutral,
                    Ordering::Greater => Direction::Riskier,
                };
            }
            let rest = |service: &Value| {
                let mut service = served(service);
                let spec = service.get_mut("spec").and_then(Value::as_object_mut);
                let selector = spec.and_then(|spec| spec.shift_remove("selector"));
                if let Some(meta) = service.get_mut("metadata").and_then(Value::as_object_mut) {
                    meta.shift_remove("ownerReferences");
                }
                (service, selector.unwrap_or_default())
            };
            let ((had, was), (gets, is)) = (rest(before.json()), rest(after));
            if had != gets {
                return Direction::Riskier;
            }
            let (to_primary, to_canary) = (is_primary_of(&was, &is), is_primary_of(&is, &was));
            let safe = to_primary
                || is_primary_of_target(change, &was, &is, read).await
                || is_given_back(change, read).await
                || (to_canary && is_last_resort(before, read).await);
            if safe { Direction::Safer } else { Direction::Riskier }
        })
    }
}

/// Whether one selector is that of the other's primary: `-primary` at one value.
fn is_primary_of(target: &Value, primary: &Value) -> bool {
    let (Some(target), Some(primary)) = (target.as_object(), primary.as_object()) else {
        return false;
    };
    let mut changed = primary.iter().filter(|(name, value)| target.get(*name) != Some(*value));
    let renamed = changed.next().is_some_and(|(name, value)| {
        let was = target.get(name).and_then(Value::as_str);
        was.is_some_and(|was| value.as_str() == Some(&format!("{was}-primary")))
    });
    renamed && changed.next().is_none() && target.len() == primary.len()
}

/// Judges changes of pods, of which only the label is ours by which a plain Service shares requests.
pub(crate) fn pod(change: Change<'_>) -> Direction {
    let label = |pod: &Value| {
        let labels = pod.pointer("/metadata/labels");
        labels.and_then(|labels| labels.get(SHARED_SERVICE)).cloned()
    };
    let (Some(before), Some(after)) = (change.before, change.after) else {
        return Direction::Riskier;
    };
    match (label(before.json()), label(after)) {
        (now, then) if now == then => Direction::Neutral,
        (Some(_), None) => Direction::Safer,
        _ => Direction::Riskier,
    }
}

/// Whether this is the selector of the primary that the Canary's target has, whatever was before; by
/// the primary itself where the target is gone.
async fn is_primary_of_target(
    change: Change<'_>,
    was: &Value,
    selector: &Value,
    read: &dyn Read,
) -> bool {
    let fits = |primary: &Value| {
        let mut wanted = primary.as_object().into_iter().flatten();
        let mut all = selector.as_object().into_iter().flatten();
        // What an apex that was there before selects by besides stays.
        wanted.all(|(name, value)| selector.get(name) == Some(value))
            && all.all(|(name, value)| primary.get(name).or_else(|| was.get(name)) == Some(value))
    };
    let Ok(Some(owner)) = read.get(change.owner).await else { return false };
    let canary = view::lenient(&owner);
    let names = Names::from_spec(&canary.spec, owner.namespace());
    let workload = async |name: &str| {
        let found = read.get(&owner.key().sibling::<Deployment>(name)).await.ok()??;
        Workload::of(found).ok()
    };
    if let Some(target) = workload(&names.target).await {
        return fits(&target.selector_of_primary());
    }
    let primary = workload(&names.target_primary).await;
    primary.is_some_and(|primary| fits(&primary.selector_of_canary()))
}

/// Whether nothing of the primary is ready, and something of the canary is.
async fn is_last_resort(apex: &Obj, read: &dyn Read) -> bool {
    let ready = async |role: &str| {
        ready_behind(apex.namespace(), &format!("{}-{role}", apex.name()), read).await
    };
    let primary = ready("primary").await.is_ok_and(|ready| ready == 0);
    primary && ready("canary").await.is_ok_and(|ready| ready > 0)
}

/// Judges changes of Istio's rules for connections: they may cut them.
pub(crate) fn destination_rule(change: Change<'_>) -> Direction {
    let Some(before) = change.before else { return Direction::Neutral };
    let same = change.after.is_some_and(|after| served(before.json()) == served(after));
    if same { Direction::Neutral } else { Direction::Riskier }
}

/// Whether a route that had no shares for primary and canary gets them, and the primary all.
fn is_brought_back(before: &Value, after: &Value) -> bool {
    let hosts = |route: &Value| {
        let field = |name: &str| route.pointer(&format!("/spec/{name}")).cloned();
        [field("hosts"), field("gateways"), field("hostnames"), field("parentRefs")]
    };
    let is_primary = |name: &str| name.ends_with("-primary");
    let of_both = weighted::shares(before)
        .filter(|shares| shares.iter().any(|(name, _)| is_primary(name) || is_new(name)));
    let mut of_both = of_both.peekable();
    let lost = of_both.peek().is_none()
        || of_both
            .any(|shares| !shares.iter().any(|(name, weight)| is_primary(name) && *weight > 0));
    let mut shares = weighted::shares(after).peekable();
    let all = shares.peek().is_some()
        && shares.all(|shares| {
            shares.iter().all(|(name, weight)| match (name.ends_with("-primary"), is_new(name)) {
                (true, _) => *weight > 0,
                (_, true) => *weight == 0,
                _ => false,
            })
        });
    lost && all && hosts(before) == hosts(after)
}

/// The part of an object that decides whether users are served and by which pods, except for the
/// shares of a route's backends.
fn served(obj: &Value) -> Value {
    let mut obj = obj.clone();
    if let Some(fields) = obj.as_object_mut() {
        fields.remove("status");
    }
    if let Some(metadata) = obj.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|name, _| !["labels", "annotations"].contains(&name.as_str()));
    }
    for (rules, destinations) in weighted::RULES {
        let rules = obj.pointer_mut(&format!("/spec/{rules}")).and_then(Value::as_array_mut);
        let lists =
            rules.into_iter().flatten().filter_map(|r| r.get_mut(destinations)?.as_array_mut());
        for backend in lists.flatten().filter_map(Value::as_object_mut) {
            backend.remove("weight");
        }
    }
    obj
}

/// Judges changes of configs: a new one is not read by any pod yet.
pub(crate) fn config(change: Change<'_>) -> Direction {
    let Some(before) = change.before.map(Obj::json) else { return Direction::Neutral };
    let Some(after) = change.after else { return Direction::Riskier };
    let same = ["data", "binaryData"].iter().all(|field| before.get(field) == after.get(field));
    if same { Direction::Neutral } else { Direction::Riskier }
}

fn backends(route: &Value) -> impl Iterator<Item = (&str, i64)> {
    weighted::shares(route).flatten()
}

fn is_new(name: &str) -> bool {
    name.ends_with("-canary")
}

/// The highest weight of a canary in any rule.
fn canary_share(route: &Value) -> i64 {
    backends(route).filter(|(name, _)| is_new(name)).map(|(_, weight)| weight).max().unwrap_or(0)
}

/// A Canary that is being deleted gives the traffic back to the Deployment its user wrote.
async fn is_given_back(change: Change<'_>, read: &dyn Read) -> bool {
    let owner = read.get(change.owner).await.ok().flatten();
    owner.is_some_and(|owner| owner.is_deleting())
}

/// Moves traffic off backends of which none is ready, to canaries that are.
async fn is_rescue(change: Change<'_>, after: &Value, read: &dyn Read) -> bool {
    let namespace = change.before.map(Obj::namespace).unwrap_or_default();
    let mut canary_ready = true;
    for (name, weight) in backends(after) {
        let Ok(ready) = ready_behind(namespace, name, read).await else { return false };
        if is_new(name) && weight > 0 {
            canary_ready &= ready > 0;
        } else if ready > 0 {
            return false;
        }
    }
    canary_ready
}

async fn ready_behind(
    namespace: &str,
    service: &str,
    read: &dyn Read,
) -> Result<usize, StoreError> {
    let query = endpoints::slices_of(vec![service.to_owned()], namespace);
    let slices = read.list(&query).await?.items;
    Ok(slices.iter().map(|slice| endpoints::ready(slice).count()).sum())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_api::{canary::Canary, httproute::HttpRoute};
    use evenkeel_control::{ListQuery, Listed, Watch};
    use futures::{FutureExt as _, StreamExt as _, executor::block_on};
    use k8s_openapi::api::core::v1::Service;
    use serde_json::json;

    use super::*;

    /// Has these ready pods behind its Services, and a Canary that may be going.
    struct Cluster {
        ready: Vec<(&'static str, usize)>,
        deleting: bool,
    }

    impl Read for Cluster {
        fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
            if key.kind.is::<Deployment>() {
                let target = json!({"apiVersion": "apps/v1", "kind": "Deployment",
                    "metadata": {"name": &*key.name, "namespace": &*key.namespace},
                    "spec": {"selector": {"matchLabels": {"app": &*key.name}},
                        "template": {"metadata": {"labels": {"app": &*key.name}}}}});
                return async { Ok(Some(Arc::new(Obj::from_json(target).unwrap()))) }.boxed();
            }
            let mut canary = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace},
                "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment",
                    "name": &*key.name}}});
            if self.deleting {
                canary["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            async { Ok(Some(Arc::new(Obj::from_json(canary).unwrap()))) }.boxed()
        }
        fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
            let slice = |(service, ready): &(&str, usize)| {
                let endpoint = json!({"addresses": ["10.0.0.1"], "conditions": {"ready": true}});
                let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                    "metadata": {"name": service, "namespace": "shop",
                        "labels": {"kubernetes.io/service-name": service}},
                    "addressType": "IPv4", "endpoints": vec![endpoint; *ready]});
                Arc::new(Obj::from_json(slice).unwrap())
            };
            let items = self.ready.iter().map(slice).filter(|obj| query.matches(obj)).collect();
            async { Ok(Listed { items, ..Listed::default() }) }.boxed()
        }
        fn watch(&self, _: ListQuery) -> Watch {
            futures::stream::pending().boxed()
        }
    }

    fn route(canary: i32) -> Value {
        json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
            "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"rules": [{"backendRefs": [
                {"name": "api-primary", "weight": 100 - canary},
                {"name": "api-canary", "weight": canary}]}]}})
    }

    fn judged(from: i32, to: i32, cluster: &Cluster) -> Direction {
        let (key, owner) = (Key::of::<HttpRoute>("shop", "api"), Key::of::<Canary>("shop", "api"));
        let before = Obj::from_json(route(from)).unwrap();
        let after = route(to);
        let change =
            Change { key: &key, before: Some(&before), after: Some(&after), owner: &owner };
        block_on(RouteJudge.direction(change, cluster))
    }

    #[test]
    fn less_canary_is_safer_and_more_is_riskier() {
        let cluster =
            Cluster { ready: vec![("api-primary", 2), ("api-canary", 2)], deleting: false };
        assert_eq!(judged(10, 20, &cluster), Direction::Riskier);
        assert_eq!(judged(20, 10, &cluster), Direction::Safer);
        assert_eq!(judged(0, 0, &cluster), Direction::Safer);
        assert_eq!(judged(20, 20, &cluster), Direction::Neutral);
    }

    /// How a change of one field of a route at 10 % is judged, if its canary has this share then.
    fn changed(path: &str, value: Value, to: i32) -> Direction {
        let cluster = Cluster { ready: vec![("api-primary", 2)], deleting: false };
        let (key, owner) = (Key::of::<HttpRoute>("shop", "api"), Key::of::<Canary>("shop", "api"));
        let body = |pct| {
            let mut body = route(pct);
            body["metadata"]["labels"] = json!({"a": "b"});
            body["spec"]["hostnames"] = json!(["a.example", "b.example"]);
            body["spec"]["parentRefs"] = json!([{"name": "one"}]);
            body
        };
        let (before, mut after) = (Obj::from_json(body(10)).unwrap(), body(to));
        *after.pointer_mut(path).unwrap() = value;
        let change =
            Change { key: &key, before: Some(&before), after: Some(&after), owner: &owner };
        block_on(RouteJudge.direction(change, &cluster))
    }

    #[test]
    fn whatever_else_of_a_route_serves_users_is_riskier() {
        for (path, value) in [
            ("/spec/hostnames", json!(["a.example"])),
            ("/spec/parentRefs", json!([])),
            ("/spec/rules/0/backendRefs/0/name", json!("other")),
        ] {
            for to in [0, 10] {
                assert_eq!(changed(path, value.clone(), to), Direction::Riskier, "{path} {to}");
            }
        }
        assert_eq!(changed("/metadata/labels", json!({"a": "c"}), 10), Direction::Neutral);
        assert_eq!(changed("/metadata/labels", json!({"a": "c"}), 5), Direction::Safer);
    }

    #[test]
    fn whatever_of_a_service_serves_users_is_riskier() {
        let key = Key::of::<Service>("shop", "api");
        let before = json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "api", "namespace": "shop", "annotations": {"a": "b"}},
            "spec": {"selector": {"app": "api"}, "ports": [{"port": 80}, {"port": 81}]}});
        let judged = |path: &str, value: Value| {
            let mut after = before.clone();
            *after.pointer_mut(path).unwrap() = value;
            let before = Obj::from_json(before.clone()).unwrap();
            let change =
                Change { key: &key, before: Some(&before), after: Some(&after), owner: &key };
            let cluster = Cluster { ready: vec![("api-primary", 2)], deleting: false };
            block_on(ServiceJudge.direction(change, &cluster))
        };
        assert_eq!(judged("/spec/ports", json!([{"port": 80}])), Direction::Riskier);
        assert_eq!(judged("/spec/selector", json!({"app": "other"})), Direction::Riskier);
        assert_eq!(judged("/spec/selector", json!({"app": "api-primary"})), Direction::Safer);
        assert_eq!(judged("/metadata/annotations", json!({"a": "c"})), Direction::Neutral);
    }

    #[test]
    fn back_to_the_primary_is_safer_whatever_labels_were_there() {
        let key = Key::of::<Service>("shop", "api");
        let service = |selector: Value| {
            json!({"apiVersion": "v1", "kind": "Service",
                "metadata": {"name": "api", "namespace": "shop"},
                "spec": {"selector": selector, "ports": [{"port": 80}]}})
        };
        let owner = Key::of::<Canary>("shop", "api");
        let judged = |before: Value, after: Value| {
            let (before, after) = (Obj::from_json(service(before)).unwrap(), service(after));
            let change =
                Change { key: &key, before: Some(&before), after: Some(&after), owner: &owner };
            let cluster = Cluster { ready: vec![("api-primary", 2)], deleting: false };
            block_on(ServiceJudge.direction(change, &cluster))
        };
        let primary = json!({"app": "api-primary"});
        for before in [json!({"app": "other"}), json!({"app": "api", "tier": "web"}), json!({})] {
            assert_eq!(judged(before, primary.clone()), Direction::Safer);
        }
        assert_eq!(judged(primary, json!({"app": "another-primary"})), Direction::Riskier);
    }

    #[test]
    fn a_rule_for_the_canary_alone_is_brought_back() {
        let (key, owner) = (Key::of::<HttpRoute>("shop", "api"), Key::of::<Canary>("shop", "api"));
        let cluster = Cluster { ready: vec![("api-primary", 2)], deleting: false };
        let judged = |rule: Value| {
            let mut before = route(0);
            before["spec"]["rules"].as_array_mut().unwrap().push(rule);
            let (before, after) = (Obj::from_json(before).unwrap(), route(0));
            let change =
                Change { key: &key, before: Some(&before), after: Some(&after), owner: &owner };
            block_on(RouteJudge.direction(change, &cluster))
        };
        let canary = json!({"backendRefs": [{"name": "api-canary", "weight": 1}]});
        assert_eq!(judged(canary), Direction::Safer);
        let other = json!({"backendRefs": [{"name": "elsewhere", "weight": 1}]});
        assert_eq!(judged(other), Direction::Riskier, "it serves somebody");
    }

    #[test]
    fn a_rescue_and_a_deleted_canary_are_never_held() {
        let dead = |canary| Cluster {
            ready: vec![("api-primary", 0), ("api-canary", canary)],
            deleting: false,
        };
        assert_eq!(judged(10, 100, &dead(2)), Direction::Safer);
        assert_eq!(judged(10, 100, &dead(0)), Direction::Riskier);
        let going = Cluster { ready: vec![("api-primary", 2)], deleting: true };
        assert_eq!(judged(0, 100, &going), Direction::Safer);
    }
}
