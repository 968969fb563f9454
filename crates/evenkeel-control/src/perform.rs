use std::{fmt, sync::Arc, time::Duration};

use evenkeel_api::{Key, Obj, Revision};
use serde_json::{Value, json};

use crate::{
    Action, AuditId, ClearedEffect, DeleteOptions, EffectError, Effected, Host, Patch, Retry,
    StatusWrite, StoreError, Subresource, Write, WriteOptions, action::TargetError,
    conditions::Flags, redact,
};

/// An action that the door let through. Only the run loop can make one, so no code path performs
/// what was not recorded.
pub struct Cleared<'a> {
    pub(crate) action: &'a Action,
    /// The merge patch that was judged, for actions that use one.
    pub(crate) patch: Option<Value>,
    /// Whether the target was there.
    pub(crate) exists: bool,
    pub(crate) audit: AuditId,
    pub(crate) manager: &'static str,
    /// The revision that was planned for or judged; a write to any other is a conflict.
    pub(crate) expect: Option<Revision>,
}

impl fmt::Debug for Cleared<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.action, self.audit.0)
    }
}

/// Why an action did not happen, or why that is uncertain.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum PerformError {
    /// The API refused or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The action names nothing to act on.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// The effector failed.
    #[error(transparent)]
    Effect(#[from] EffectError),
    /// This process has no effector for the port.
    #[error("this process performs no effects of {0:?}")]
    NoEffector(&'static str),
    /// It did not end in time.
    #[error("no answer within {0:?}; the action may have taken effect")]
    TimedOut(Duration),
    /// Another process may lead by now.
    #[error("no answer while this process led; the action may have taken effect")]
    TermOver,
    /// A defect in evenkeel.
    #[error("internal error ({0}); the action may have taken effect")]
    Panicked(String),
}

impl PerformError {
    /// What the loop should do next.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Store(source) => source.retry(),
            Self::Target(TargetError::Missing(_)) => Retry::Replan,
            Self::Target(_) | Self::NoEffector(_) | Self::Panicked(_) => Retry::Slowly,
            Self::Effect(error) => error.retry(),
            Self::TimedOut(_) | Self::TermOver => Retry::Later,
        }
    }

    /// As text that may be recorded.
    pub(crate) fn words(&self, target: Option<&Key>) -> String {
        let words = chain(self);
        match (self, target) {
            // The message of a defect may quote a Secret.
            (Self::Panicked(_), Some(key)) => redact::about(key, &words),
            _ => redact::text(&words),
        }
    }
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// The result of an action that was carried out.
pub(crate) struct Performed {
    pub(crate) effected: Effected,
    /// The target as it is stored now, if the server returned it.
    pub(crate) stored: Option<Arc<Obj>>,
}

/// Carries a cleared action out.
pub(crate) async fn perform(host: &Host, cleared: &Cleared<'_>) -> Result<Performed, PerformError> {
    let expect = cleared.expect.clone();
    let options = WriteOptions { subresource: None, expect, manager: cleared.manager };
    let write = &*host.write;
    let stored = match cleared.action {
        Action::Create(obj) => Some(write.create(obj, &options).await?),
        Action::Apply(obj) if !cleared.exists => Some(write.create(obj, &options).await?),
        Action::Apply(_)
        | Action::Patch { .. }
        | Action::Scale { .. }
        | Action::SetWeights { .. } => match (cleared.action.target(), &cleared.patch) {
            (Some(key), Some(patch)) => {
                Some(write.patch(key, &Patch::Merge(patch.clone()), &options).await?)
            }
            _ => None,
        },
        Action::Effect(call) => {
            let effector = host.effectors.find(call);
            let effector = effector.ok_or(PerformError::NoEffector(call.port))?;
            let effected = effector.perform(&ClearedEffect::new(call)).await?;
            return Ok(Performed { effected, stored: None });
        }
        Action::Delete { .. } | Action::Evict { .. } | Action::Bind { .. } => {
            remove_or_bind(write, cleared).await?;
            None
        }
    };
    Ok(Performed { effected: Effected::Done, stored })
}

/// The verbs whose answer has no object.
async fn remove_or_bind(write: &dyn Write, cleared: &Cleared<'_>) -> Result<(), StoreError> {
    let revision = cleared.expect.as_ref();
    let done = match cleared.action {
        Action::Delete { key, uid, propagation } => {
            let options = DeleteOptions {
                uid: Some(uid.clone()),
                expect: cleared.expect.clone(),
                grace_seconds: None,
                propagation: *propagation,
            };
            write.delete(key, &options).await
        }
        Action::Evict { key, uid } => {
            let mut preconditions = json!({"uid": uid});
            if let Some(revision) = revision {
                preconditions["resourceVersion"] = json!(&*revision.0);
            }
            let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace},
                "deleteOptions": {"preconditions": preconditions}});
            write.post(key, Subresource::Eviction, &body).await
        }
        Action::Bind { pod, node } => {
            let mut metadata = json!({"name": &*pod.name, "namespace": &*pod.namespace});
            if let Some(revision) = revision {
                metadata["resourceVersion"] = json!(&*revision.0);
            }
            let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata,
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            return write.post(pod, Subresource::Binding, &body).await;
        }
        _ => return Ok(()),
    };
    match done {
        // Already gone is what was wanted.
        Err(StoreError::NotFound { .. }) => Ok(()),
        other => other,
    }
}

/// Writes status. Bypasses the door on purpose.
///
/// In a list of conditions the loop's own one is as it is raised, whatever the controller saw.
pub(crate) async fn write_status(
    host: &Host,
    write: &StatusWrite,
    flags: &Flags,
    options: &WriteOptions,
) -> Result<Arc<Obj>, StoreError> {
    let mut status = write.status.clone();
    if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        list.retain(|condition| !flags.owns(condition));
        list.extend(flags.raised(&write.key));
    }
    let patch = Patch::Merge(json!({"status": status}));
    host.write.patch(&write.key, &patch, options).await
}

/// The first field of a merge patch that is not in what was stored: the server's schema has no such
/// field, so it was dropped silently.
///
/// Values that some servers leave out (zero, empty, false) count as stored.
pub(crate) fn dropped(stored: Option<&Value>, patch: &Value) -> Option<String> {
    let fields = patch.as_object()?;
    fields.iter().filter(|(_, part)| !is_empty(part)).find_map(|(name, part)| {
        match stored.and_then(|stored| stored.get(name)) {
            None => Some(name.clone()),
            Some(stored) => dropped(Some(stored), part).map(|inner| format!("{name}.{inner}")),
        }
    })
}

fn is_empty(part: &Value) -> bool {
    match part {
        Value::Null => true,
        Value::Bool(value) => !value,
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(fields) => fields.values().all(is_empty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_a_server_drops_are_named() {
        let patch = json!({"phase": "A", "own": {"step": 1, "note": ""}, "gone": null, "n": 0});
        let cases = [
            (json!({"phase": "A", "own": {"step": 1}}), None),
            (json!({"phase": "A", "own": {"step": 2}, "n": 0}), None),
            (json!({"phase": "A"}), Some("own")),
            (json!({"phase": "A", "own": {}}), Some("own.step")),
            (json!(null), Some("phase")),
        ];
        for (stored, expected) in cases {
            assert_eq!(dropped(Some(&stored), &patch).as_deref(), expected, "{stored}");
        }
    }
}
