use std::sync::Arc;

use evenkeel_api::{Key, Obj, Revision};
use serde_json::{Value, json};

use crate::{
    Action, AuditId, ClearedEffect, DeleteOptions, EffectError, Effected, Host, Patch, Retry,
    StatusWrite, StoreError, Subresource, WriteOptions, action::TargetError, conditions, redact,
};

/// An action that the door let through. Only the run loop can make one, so no code path performs
/// what was not recorded.
#[derive(Debug)]
pub struct Cleared<'a> {
    pub(crate) action: &'a Action,
    /// The merge patch that was judged, for actions that work by one.
    pub(crate) patch: Option<Value>,
    /// Whether the target was there.
    pub(crate) exists: bool,
    pub(crate) audit: AuditId,
    pub(crate) manager: &'static str,
    /// The revision that was planned for or judged; the write bounces off on any other.
    pub(crate) expect: Option<Revision>,
}

/// Why an action did not happen, or not surely.
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
    /// Nobody performs effects of this port.
    #[error("this process performs no effects of {0:?}")]
    NoEffector(&'static str),
    /// It did not end in time.
    #[error("no answer within {0:?}; it may have happened")]
    TimedOut(std::time::Duration),
}

impl PerformError {
    /// What the loop should do next.
    pub(crate) fn retry(&self) -> Retry {
        match self {
            Self::Store(source) => source.retry(),
            Self::Target(TargetError::Missing(_)) => Retry::Replan,
            Self::Target(_) | Self::NoEffector(_) => Retry::Slowly,
            Self::Effect(error) => error.retry(),
            Self::TimedOut(_) => Retry::Later,
        }
    }

    /// In words that may be recorded. What a server says about a Secret may quote it.
    pub(crate) fn words(&self, target: Option<&Key>) -> String {
        let words = chain(self);
        match (self, target) {
            (Self::Store(StoreError::Unreachable { .. }), _) | (_, None) => redact::text(&words),
            (Self::Store(_), Some(key)) => redact::about(key, &words),
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

/// Carries a cleared action out.
pub(crate) async fn perform(host: &Host, cleared: &Cleared<'_>) -> Result<Effected, PerformError> {
    let expect = cleared.expect.clone();
    let options = WriteOptions { subresource: None, expect, manager: cleared.manager };
    let write = &*host.write;
    match cleared.action {
        Action::Create(obj) => drop(write.create(obj, &options).await?),
        Action::Apply(obj) if !cleared.exists => drop(write.create(obj, &options).await?),
        Action::Apply(_)
        | Action::Patch { .. }
        | Action::Scale { .. }
        | Action::SetWeights { .. } => {
            if let (Some(key), Some(patch)) = (cleared.action.target(), &cleared.patch) {
                drop(write.patch(key, &Patch::Merge(patch.clone()), &options).await?);
            }
        }
        Action::Delete { key, uid, propagation } => {
            let options = DeleteOptions {
                uid: Some(uid.clone()),
                expect: cleared.expect.clone(),
                grace_seconds: None,
                propagation: *propagation,
            };
            match write.delete(key, &options).await {
                // Already gone is what was wanted.
                Ok(()) | Err(StoreError::NotFound { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Action::Evict { key, uid } => {
            let mut preconditions = json!({"uid": uid});
            if let Some(revision) = &cleared.expect {
                preconditions["resourceVersion"] = json!(&*revision.0);
            }
            let body = json!({"apiVersion": "policy/v1", "kind": "Eviction",
                "metadata": {"name": &*key.name, "namespace": &*key.namespace},
                "deleteOptions": {"preconditions": preconditions}});
            write.post(key, Subresource::Eviction, &body).await?;
        }
        Action::Bind { pod, node } => {
            let mut metadata = json!({"name": &*pod.name, "namespace": &*pod.namespace});
            if let Some(revision) = &cleared.expect {
                metadata["resourceVersion"] = json!(&*revision.0);
            }
            let body = json!({"apiVersion": "v1", "kind": "Binding", "metadata": metadata,
                "target": {"apiVersion": "v1", "kind": "Node", "name": node}});
            write.post(pod, Subresource::Binding, &body).await?;
        }
        Action::Effect(call) => {
            let effector = host.effectors.find(call);
            let effector = effector.ok_or(PerformError::NoEffector(call.port))?;
            return Ok(effector.perform(&ClearedEffect::new(call, &cleared.audit)).await?);
        }
    }
    Ok(Effected::Done)
}

/// Writes status. Bypasses the door on purpose.
///
/// The loop's own conditions are left out of a list of conditions: a status is written only when
/// everything before it went well, and then they no longer hold.
pub(crate) async fn write_status(
    host: &Host,
    write: &StatusWrite,
    expect: Option<Revision>,
    manager: &'static str,
) -> Result<Arc<Obj>, StoreError> {
    let options = WriteOptions { subresource: Some(Subresource::Status), expect, manager };
    let mut status = write.status.clone();
    if let Some(list) = status.get_mut("conditions").and_then(Value::as_array_mut) {
        list.retain(|condition| !conditions::is_own(condition));
    }
    let patch = Patch::Merge(json!({"status": status}));
    host.write.patch(&write.key, &patch, &options).await
}
