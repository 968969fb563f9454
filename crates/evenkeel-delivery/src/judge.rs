//! Which way a change of a route moves the risk for users.
//!
//! ```text
//! less for a canary                                  safer
//! more for a canary                                  riskier, except
//!   its Canary is being deleted (traffic goes back)  safer
//!   nothing else is ready and the canary is          safer
//! ```
//! By Flagger's convention the backend whose name ends in `-canary` is the new version.

use std::cmp::Ordering;

use evenkeel_api::Obj;
use evenkeel_control::{BoxFuture, Change, Direction, Judge, Read, StoreError};
use serde_json::Value;

use crate::endpoints;

/// Judges changes of `HTTPRoute`s.
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

/// Judges changes of Services: another selector sends users elsewhere.
pub(crate) fn service(change: Change<'_>) -> Direction {
    let Some(before) = change.before else { return Direction::Neutral };
    let Some(after) = change.after else { return Direction::Riskier };
    let selector = "/spec/selector";
    if before.json().pointer(selector) == after.pointer(selector) {
        Direction::Neutral
    } else {
        Direction::Riskier
    }
}

/// Judges changes of configs: a new one is not read by any pod yet.
pub(crate) fn config(change: Change<'_>) -> Direction {
    let Some(before) = change.before.map(Obj::json) else { return Direction::Neutral };
    let Some(after) = change.after else { return Direction::Riskier };
    let same = ["data", "binaryData"].iter().all(|field| before.get(field) == after.get(field));
    if same { Direction::Neutral } else { Direction::Riskier }
}

fn backends(route: &Value) -> impl Iterator<Item = (&str, i64)> {
    let rules = route.pointer("/spec/rules").and_then(Value::as_array);
    let backends = rules.into_iter().flatten().filter_map(|r| r.get("backendRefs")?.as_array());
    backends.flatten().filter_map(|backend| {
        let weight = backend.get("weight").and_then(Value::as_i64).unwrap_or(1);
        Some((backend.get("name")?.as_str()?, weight))
    })
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

    use evenkeel_api::{Key, canary::Canary, httproute::HttpRoute};
    use evenkeel_control::{ListQuery, Listed, Watch};
    use futures::{FutureExt as _, StreamExt as _, executor::block_on};
    use serde_json::json;

    use super::*;

    /// Has these ready pods behind its Services, and a Canary that may be going.
    struct Cluster {
        ready: Vec<(&'static str, usize)>,
        deleting: bool,
    }

    impl Read for Cluster {
        fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
            let mut canary = json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace}});
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
