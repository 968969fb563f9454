use std::sync::Arc;

use evenkeel_api::{Key, Obj, Revision};
use serde_json::{Map, Value, json};

use crate::{
    Action, AuditId, DeleteOptions, Host, Patch, RouteWeight, StatusWrite, StoreError, Subresource,
    WriteOptions,
};

/// What a caller should do after a failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// Try the same again after a pause.
    Later,
    /// Look again: the world has moved on.
    Replan,
    /// Wait until somebody changes something.
    Never,
}

/// An action that the door let through. Only the run loop can make one, so no code path performs
/// what was not recorded.
#[derive(Debug)]
pub struct Cleared<'a> {
    pub(crate) action: &'a Action,
    pub(crate) audit: AuditId,
    pub(crate) manager: &'static str,
    pub(crate) expect: Option<Revision>,
}

/// Why an action did not happen.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PerformError {
    /// The API refused or did not answer.
    #[error("{action}")]
    Store {
        /// The action, in words.
        action: String,
        /// Cause.
        #[source]
        source: StoreError,
    },
    /// The action names nothing to act on. Never means "everything".
    #[error("{action}: {problem}")]
    NoTarget {
        /// The action, in words.
        action: String,
        /// What is missing.
        problem: String,
    },
}

impl PerformError {
    /// What the loop should do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store { source, .. } => source.retry(),
            Self::NoTarget { .. } => Retry::Never,
        }
    }
}

/// Carries a cleared action out.
pub(crate) async fn perform(host: &Host, cleared: &Cleared<'_>) -> Result<(), PerformError> {
    let action = cleared.action;
    let failed = |source| PerformError::Store { action: action.to_string(), source };
    if action.target().is_some_and(|key| key.name.is_empty() && !may_be_nameless(action)) {
        let problem = "the target has no name".to_owned();
        return Err(PerformError::NoTarget { action: action.to_string(), problem });
    }
    let options = WriteOptions {
        subresource: None,
        expect: cleared.expect.clone(),
        manager: cleared.manager,
    };
    match action {
        Action::Create(obj) => host.write.create(obj, &options).await.map(drop).map_err(failed),
        Action::Apply(obj) => apply(host, obj, options).await.map_err(failed),
        Action::Patch { key, patch } => {
            let patch = Patch::Merge(patch.clone());
            host.write.patch(key, &patch, &options).await.map(drop).map_err(failed)
        }
        Action::Delete { key, uid, propagation } => {
            let options = DeleteOptions {
                uid: Some(uid.clone()),
                expect: cleared.expect.clone(),
                grace_seconds: None,
                propagation: *propagation,
            };
            match host.write.delete(key, &options).await {
                // Already gone is what was wanted.
                Ok(()) | Err(StoreError::NotFound { .. }) => Ok(()),
                Err(error) => Err(failed(error)),
            }
        }
        Action::Evict { key, uid } => {
            let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace},
                "deleteOptions": {"preconditions": {"uid": uid}}});
            host.write.post(key, Subresource::Eviction, &body).await.map_err(failed)
        }
        Action::Scale { key, replicas } => {
            let patch = Patch::Merge(json!({"spec": {"replicas": replicas}}));
            host.write.patch(key, &patch, &options).await.map(drop).map_err(failed)
        }
        Action::Bind { pod, node } => {
            let body = json!({"apiVersion": "v1", "kind": "Binding",
                "metadata": {"name": &*pod.name, "namespace": &*pod.namespace},
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            host.write.post(pod, Subresource::Binding, &body).await.map_err(failed)
        }
        Action::SetWeights { route, weights } => {
            set_weights(host, action, route, weights, options).await
        }
        // What the hook said is the next observation's business, also when it did not answer.
        Action::RunHook(call) => {
            if let Err(error) = host.ports.hooks.call(call).await {
                tracing::debug!(object = call.owner, %error, "webhook");
            }
            Ok(())
        }
        Action::Notify { channel, message } => {
            tracing::info!(action = "notify", channel, message, "notified");
            Ok(())
        }
    }
}

fn may_be_nameless(action: &Action) -> bool {
    matches!(action, Action::Create(obj) if obj.meta().generate_name.is_some())
}

async fn apply(host: &Host, obj: &Obj, options: WriteOptions) -> Result<(), StoreError> {
    let Some(found) = host.ports.read.get(obj.key()).await? else {
        return host.write.create(obj, &options).await.map(drop);
    };
    let Some(patch) = missing_part(found.json(), obj.json()) else { return Ok(()) };
    // The difference was computed against this state; on any other it could undo newer work.
    let options = WriteOptions { expect: Some(found.revision()), ..options };
    host.write.patch(obj.key(), &Patch::Merge(patch), &options).await.map(drop)
}

/// The merge patch that brings the fields of `want` into `have`; `None` when they are there.
fn missing_part(have: &Value, want: &Value) -> Option<Value> {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            let mut patch = Map::new();
            for (name, want) in want {
                let part = match have.get(name) {
                    None if want.is_null() => None,
                    None => Some(want.clone()),
                    Some(have) => missing_part(have, want),
                };
                if let Some(part) = part {
                    patch.insert(name.clone(), part);
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        // Servers add defaults inside list elements; an element that has all wanted fields is fine.
        (Value::Array(have_list), Value::Array(want_list))
            if have_list.len() == want_list.len() =>
        {
            let differs = have_list
                .iter()
                .zip(want_list)
                .any(|(have, want)| missing_part(have, want).is_some());
            differs.then(|| want.clone())
        }
        _ => (have != want).then(|| want.clone()),
    }
}

async fn set_weights(
    host: &Host,
    action: &Action,
    route: &Key,
    weights: &[RouteWeight],
    options: WriteOptions,
) -> Result<(), PerformError> {
    let failed = |source| PerformError::Store { action: action.to_string(), source };
    let none = |problem: &str| PerformError::NoTarget {
        action: action.to_string(),
        problem: problem.to_owned(),
    };
    let found = host.ports.read.get(route).await.map_err(failed)?;
    let found = found.ok_or_else(|| failed(StoreError::NotFound { object: route.to_string() }))?;
    let mut rules = found.json().pointer("/spec/rules").cloned().unwrap_or_default();
    let mut hits = 0;
    for backends in rules
        .as_array_mut()
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.get_mut("backendRefs")?.as_array_mut())
    {
        let known = |backends: &[Value], want: &RouteWeight| {
            backends.iter().any(|backend| backend.get("name") == Some(&json!(want.backend)))
        };
        if !weights.iter().all(|want| known(backends, want)) {
            continue;
        }
        for backend in backends.iter_mut() {
            for want in weights {
                if backend.get("name") == Some(&json!(want.backend)) {
                    backend["weight"] = json!(want.weight);
                    hits += 1;
                }
            }
        }
    }
    if hits == 0 {
        return Err(none("no rule of the route has these backends: apply the route first"));
    }
    let expect = options.expect.or_else(|| Some(found.revision()));
    let options = WriteOptions { expect, ..options };
    let patch = Patch::Merge(json!({"spec": {"rules": rules}}));
    host.write.patch(route, &patch, &options).await.map(drop).map_err(failed)
}

/// Writes status. Bypasses the door on purpose.
pub(crate) async fn write_status(
    host: &Host,
    write: &StatusWrite,
    manager: &'static str,
) -> Result<Arc<Obj>, StoreError> {
    let options = WriteOptions { subresource: Some(Subresource::Status), expect: None, manager };
    let patch = Patch::Merge(json!({"status": write.status}));
    host.write.patch(&write.key, &patch, &options).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn applying_writes_only_what_is_missing() {
        let have = json!({"spec": {"replicas": 3, "ports": [{"port": 80, "protocol": "TCP"}]}});
        let same = json!({"spec": {"replicas": 3, "ports": [{"port": 80}]}});
        assert_eq!(missing_part(&have, &same), None);
        let other = json!({"spec": {"replicas": 4, "ports": [{"port": 80}]}});
        assert_eq!(missing_part(&have, &other), Some(json!({"spec": {"replicas": 4}})));
        let longer = json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}});
        assert_eq!(missing_part(&have, &longer), Some(longer.clone()));
    }
}
