//! Whether the people that a Canary alerts can be reached: its providers exist, and what was sent
//! lately was accepted. A notification does not hold up the plan it belongs to, so its failure is
//! known only from the Event that the run loop writes.

use std::time::Duration;

use evenkeel_api::{FieldSelector, GroupKind, Key, Obj};
use evenkeel_control::{ListQuery, Ports, StoreError};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Event;
use serde_json::Value;

use crate::{CanaryView, reasons, time::elapsed, view::AlertProblem};

/// How long a failed alert is shown: as long as Kubernetes keeps Events.
pub(crate) const MEMORY: Duration = Duration::from_hours(1);
/// Reason of the Events about effects that failed.
const EFFECT_FAILED: &str = "EffectFailed";

/// Looks for a provider that does not exist, or a notification that was not delivered.
pub(crate) async fn problem(
    view: &CanaryView,
    ports: &Ports,
) -> Result<Option<AlertProblem>, StoreError> {
    for alert in &view.canary.spec.analysis.alerts {
        let provider = &alert.provider_ref;
        let namespace = provider.namespace.as_deref().unwrap_or(view.obj.namespace());
        let kind = GroupKind::new("flagger.app", "AlertProvider");
        let key = Key::new(kind, namespace, &provider.name);
        match ports.read.get(&key).await {
            Ok(Some(_)) => {}
            // A cluster without the kind has no such object.
            Ok(None) | Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => {
                let message =
                    format!("{key} is not there: create it, or correct spec.analysis.alerts");
                return Ok(Some(AlertProblem { reason: reasons::PROVIDER_MISSING, message }));
            }
            Err(error) => return Err(error),
        }
    }
    let Some(since) = view.run.alerted_at.filter(|at| elapsed(*at, view.now) <= MEMORY) else {
        return Ok(None);
    };
    let about = FieldSelector::equal("involvedObject.name", view.obj.name());
    let query = ListQuery::of::<Event>().within(view.obj.namespace()).with_fields(about);
    // Events are for people; not being allowed to read them must not stop a release.
    let Ok(events) = ports.read.list(&query).await else { return Ok(None) };
    let failed = |event: &&std::sync::Arc<Obj>| {
        let text = |path: &str| event.json().pointer(path).and_then(Value::as_str);
        text("/reason") == Some(EFFECT_FAILED)
            && text("/involvedObject/uid") == Some(view.obj.uid())
            && text("/message").is_some_and(|message| message.contains("AlertProvider/"))
            // Events have whole seconds.
            && last_seen(event).is_some_and(|at| at.as_second() >= since.as_second())
    };
    let last = events.items.iter().filter(failed).max_by_key(|event| last_seen(event));
    Ok(last.map(|event| {
        let message = event.json().get("message").and_then(Value::as_str).unwrap_or_default();
        AlertProblem { reason: reasons::NOT_DELIVERED, message: message.to_owned() }
    }))
}

fn last_seen(event: &Obj) -> Option<Timestamp> {
    event.json().get("lastTimestamp")?.as_str()?.parse().ok()
}
