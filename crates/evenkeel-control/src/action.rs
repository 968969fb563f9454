use std::fmt;

use evenkeel_api::{Key, Obj, json, weighted};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{EffectCall, Propagation, StoreError, repeats::Mark};

/// Field paths named in a text about a patch: enough to see what it is about.
const PATHS_MAX: usize = 6;

/// One effect on the world. Closed on purpose: the verbs on API objects, and [`Action::Effect`]
/// for everything that is not one.
///
/// `Debug` and `Display` do not show a body: the content of an object never reaches a log.
#[derive(Clone, PartialEq)]
pub enum Action {
    /// Makes a new object; that one of the name exists is a conflict.
    Create(Box<Obj>),
    /// Makes the object, or brings the given fields of the existing one to the given values.
    /// Lists are replaced whole; fields not given are left alone.
    Apply(Box<Obj>),
    /// Merges into an object.
    Patch {
        /// Which object.
        key: Key,
        /// RFC 7386 merge patch.
        patch: Value,
    },
    /// Deletes an object.
    Delete {
        /// Which object.
        key: Key,
        /// The uid it must have, so that another object of the same name survives.
        uid: String,
        /// What happens to its dependents.
        propagation: Propagation,
    },
    /// Asks for a pod to leave, within its disruption budget.
    Evict {
        /// Which pod.
        key: Key,
        /// The uid it must have.
        uid: String,
    },
    /// Sets the number of replicas.
    Scale {
        /// Which workload.
        key: Key,
        /// How many from now on.
        replicas: i32,
    },
    /// Places a pod on a node.
    Bind {
        /// Which pod.
        pod: Key,
        /// Name of the node.
        node: String,
    },
    /// Splits a route's traffic.
    SetWeights {
        /// The `HTTPRoute` or `VirtualService`.
        route: Key,
        /// Backend Service and its share; every rule that names these backends is set.
        weights: Vec<RouteWeight>,
    },
    /// Something that is not an API object: a webhook, a notification, a fault, a backup chunk.
    Effect(EffectCall),
}

/// A share of a route's traffic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouteWeight {
    /// Backend Service.
    pub backend: String,
    /// Relative weight; evenkeel writes percent.
    pub weight: i32,
}

/// Why an action cannot mean what it says. Never means "everything".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TargetError {
    #[error("the target has no name")]
    Nameless,
    #[error("{0} cannot be deleted: no uid given")]
    NoUid(Key),
    #[error("{0} is to be bound to a node without a name")]
    NoNode(Key),
    #[error("{0} does not exist")]
    Missing(Key),
    #[error("no rule of {0} has these backends: apply the route first")]
    NoBackends(Key),
}

impl Action {
    /// The object it changes; `None` for effects.
    pub fn target(&self) -> Option<&Key> {
        match self {
            Self::Create(obj) | Self::Apply(obj) => Some(obj.key()),
            Self::Patch { key, .. }
            | Self::Delete { key, .. }
            | Self::Evict { key, .. }
            | Self::Scale { key, .. } => Some(key),
            Self::Bind { pod, .. } => Some(pod),
            Self::SetWeights { route, .. } => Some(route),
            Self::Effect(_) => None,
        }
    }

    /// Its verb, for records and metrics.
    pub fn verb(&self) -> &'static str {
        match self {
            Self::Create(_) => "create",
            Self::Apply(_) => "apply",
            Self::Patch { .. } => "patch",
            Self::Delete { .. } => "delete",
            Self::Evict { .. } => "evict",
            Self::Scale { .. } => "scale",
            Self::Bind { .. } => "bind",
            Self::SetWeights { .. } => "set-weights",
            Self::Effect(call) => call.verb,
        }
    }

    /// Whether the target is one that can be acted on.
    pub(crate) fn check(&self) -> Result<(), TargetError> {
        let nameless = match self {
            Self::Create(obj) => obj.name().is_empty() && obj.meta().generate_name.is_none(),
            Self::Effect(call) => call.target.trim().is_empty(),
            other => other.target().is_some_and(|key| key.name.is_empty()),
        };
        match self {
            _ if nameless => Err(TargetError::Nameless),
            Self::Delete { key, uid, .. } | Self::Evict { key, uid } if uid.is_empty() => {
                Err(TargetError::NoUid(key.clone()))
            }
            Self::Bind { pod, node } if node.is_empty() => Err(TargetError::NoNode(pod.clone())),
            _ => Ok(()),
        }
    }

    /// The merge patch that it makes of the object as it is; `None` when the object is as wanted,
    /// or the action does not work by a patch.
    pub(crate) fn patch_of(&self, before: &Value) -> Result<Option<Value>, TargetError> {
        Ok(match self {
            Self::Apply(want) => json::missing(before, want.json()),
            Self::Patch { patch, .. } => Some(patch.clone()),
            Self::Scale { replicas, .. } => Some(json!({"spec": {"replicas": replicas}})),
            Self::SetWeights { route, weights } => {
                let spec = reweighted(before, weights);
                let spec = spec.ok_or_else(|| TargetError::NoBackends(route.clone()))?;
                Some(json!({"spec": spec}))
            }
            _ => None,
        })
    }

    /// The target as it will be; `None` when it will be gone, or when there is none.
    pub(crate) fn after(&self, before: Option<&Value>, patch: Option<&Value>) -> Option<Value> {
        match (self, before) {
            (Self::Create(obj), _) | (Self::Apply(obj), None) => Some(obj.json().clone()),
            (Self::Bind { node, .. }, Some(before)) => {
                let mut after = before.clone();
                json::merge(&mut after, &json!({"spec": {"nodeName": node}}));
                Some(after)
            }
            (Self::Delete { .. } | Self::Evict { .. } | Self::Effect(_), _) | (_, None) => None,
            (_, Some(before)) => {
                let mut after = before.clone();
                if let Some(patch) = patch {
                    json::merge(&mut after, patch);
                }
                Some(after)
            }
        }
    }
}

impl Action {
    /// Whether it creates something that may not exist before.
    pub(crate) fn makes(&self) -> bool {
        matches!(self, Self::Create(_) | Self::Apply(_))
    }

    /// Whether its purpose is that the target is removed.
    pub(crate) fn removes(&self) -> bool {
        matches!(self, Self::Delete { .. } | Self::Evict { .. })
    }

    /// Whether this object is the one to remove, not another one of the same name.
    pub(crate) fn check_uid(&self, found: &Obj) -> Result<(), StoreError> {
        match self {
            Self::Delete { uid, .. } | Self::Evict { uid, .. } if uid != found.uid() => {
                let problem = format!("its uid is {}, not {uid}", found.uid());
                Err(StoreError::Conflict { object: found.key().to_string(), problem })
            }
            _ => Ok(()),
        }
    }

    /// What it changes to what, for [`crate::repeats`]: what is changed counts, not what the target
    /// was or is.
    pub(crate) fn mark(&self, patch: Option<&Value>) -> Mark {
        let target = match self {
            Self::Effect(call) => format!("{} {} {}", call.port, call.verb, call.target),
            other => other.target().map(ToString::to_string).unwrap_or_default(),
        };
        let change = match self {
            Self::Create(obj) => obj.json().to_string(),
            Self::Apply(obj) => patch.unwrap_or(obj.json()).to_string(),
            Self::Patch { .. } | Self::Scale { .. } | Self::SetWeights { .. } => {
                patch.map(ToString::to_string).unwrap_or_default()
            }
            Self::Delete { uid, .. } | Self::Evict { uid, .. } => uid.clone(),
            Self::Bind { node, .. } => node.clone(),
            Self::Effect(call) => call.args.to_string(),
        };
        Mark::new(self.to_string(), &target, &format!("{} {change}", self.verb()))
    }
}

/// What changes in the spec of a route with these weights; `None` when no rule has these backends.
fn reweighted(route: &Value, weights: &[RouteWeight]) -> Option<Value> {
    let mut spec = Map::new();
    for (rules, destinations) in weighted::RULES {
        let Some(all) = route.pointer(&format!("/spec/{rules}")) else { continue };
        let mut all = all.clone();
        let mut hits = 0;
        let lists = all.as_array_mut().into_iter().flatten();
        for backends in lists.filter_map(|rule| rule.get_mut(destinations)?.as_array_mut()) {
            let has = |want: &RouteWeight| {
                backends.iter().any(|it| weighted::backend(it) == Some(&want.backend))
            };
            if !weights.iter().all(has) {
                continue;
            }
            for backend in backends.iter_mut() {
                let name = weighted::backend(backend);
                let want = weights.iter().find(|want| name == Some(&want.backend));
                if let Some(weight) = want.map(|want| want.weight) {
                    backend["weight"] = json!(weight);
                    hits += 1;
                }
            }
        }
        if hits > 0 {
            spec.insert(rules.to_owned(), all);
        }
    }
    (!spec.is_empty()).then_some(Value::Object(spec))
}

/// The paths that a patch writes, two levels deep, without any value.
fn paths(patch: &Value) -> String {
    let mut paths = Vec::new();
    for (name, part) in patch.as_object().into_iter().flatten() {
        match part.as_object().filter(|part| !part.is_empty()) {
            Some(part) => paths.extend(part.keys().map(|inner| format!("{name}.{inner}"))),
            None => paths.push(name.clone()),
        }
    }
    let more = paths.len().saturating_sub(PATHS_MAX);
    paths.truncate(PATHS_MAX);
    let text = paths.join(" ");
    if more > 0 { format!("{text} and {more} more") } else { text }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Scale { key, replicas } => write!(f, "scale {key} to {replicas}"),
            Self::Bind { pod, node } => write!(f, "bind {pod} to {node}"),
            Self::SetWeights { route, weights } => {
                write!(f, "set-weights {route}")?;
                weights
                    .iter()
                    .try_for_each(|share| write!(f, " {}={}", share.backend, share.weight))
            }
            Self::Effect(call) => write!(f, "{call}"),
            Self::Patch { key, patch } => write!(f, "patch {key} {}", paths(patch)),
            other => match other.target() {
                Some(key) => write!(f, "{} {key}", other.verb()),
                None => f.write_str(other.verb()),
            },
        }
    }
}

impl fmt::Debug for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::Secret;

    use super::*;

    #[test]
    fn a_text_about_an_action_names_fields_and_shows_no_value() {
        let patch = json!({"data": {"password": "czNjcmV0"}, "metadata": {"labels": {"a": "b"}}});
        let action = Action::Patch { key: Key::of::<Secret>("shop", "db"), patch };
        let expected = "patch Secret/shop/db data.password metadata.labels";
        assert_eq!((action.to_string(), format!("{action:?}")), (expected.into(), expected.into()));
    }

    #[test]
    fn weights_go_into_every_rule_that_has_all_backends() {
        let route = json!({"spec": {"rules": [
            {"backendRefs": [{"name": "p", "weight": 100}, {"name": "c", "weight": 0}]},
            {"backendRefs": [{"name": "other"}]}]}});
        let weight = |backend: &str, weight| RouteWeight { backend: backend.to_owned(), weight };
        let spec = reweighted(&route, &[weight("p", 90), weight("c", 10)]).unwrap();
        assert_eq!(spec["rules"][0]["backendRefs"][1]["weight"], json!(10));
        assert_eq!(spec["rules"][1], route["spec"]["rules"][1]);
        assert_eq!(reweighted(&route, &[weight("absent", 1)]), None);
    }

    #[test]
    fn weights_go_into_http_and_tcp_routes_of_a_virtual_service() {
        let to = |host: &str| json!({"destination": {"host": host}});
        let route = json!({"spec": {"hosts": ["p"], "http": [{"route": [to("other")]},
            {"route": [to("p"), to("c.shop.svc.cluster.local")], "timeout": "5s"}]}});
        let weight = |backend: &str, weight| RouteWeight { backend: backend.to_owned(), weight };
        let spec = reweighted(&route, &[weight("p", 90), weight("c", 10)]).unwrap();
        assert_eq!(spec["http"][1]["route"][1]["weight"], json!(10));
        assert_eq!(spec["http"][1]["timeout"], json!("5s"));
        assert_eq!((&spec["http"][0], spec.get("tcp")), (&route["spec"]["http"][0], None));
    }
}
