//! Whether the people that a Canary alerts can be reached: its providers exist, and what was sent
//! lately was accepted. A notification does not hold up the plan it belongs to: how it ended is
//! known to a later observation.

use std::time::Duration;

use evenkeel_api::{GroupKind, Key};
use evenkeel_control::{NOTIFY, Ports, StoreError};

use crate::{
    CanaryView, reasons,
    time::elapsed,
    view::{AlertProblem, Alerts},
};

/// How long a failed alert is shown: as long as Kubernetes keeps Events.
pub(crate) const MEMORY: Duration = Duration::from_hours(1);

/// Looks for a provider that does not exist, or a notification that was not delivered.
pub(crate) async fn look(view: &CanaryView, ports: &Ports) -> Result<Alerts, StoreError> {
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
                    format!("{key} does not exist: create it, or correct spec.analysis.alerts");
                let reason = reasons::PROVIDER_MISSING;
                return Ok(Alerts::Fail(AlertProblem { reason, message }));
            }
            Err(error) => return Err(error),
        }
    }
    let Some(since) = view.run.alerted_at.filter(|at| elapsed(*at, view.now) <= MEMORY) else {
        return Ok(Alerts::Fine);
    };
    let endings = ports.endings.of(view.obj.key(), NOTIFY);
    let mut recent = endings.into_iter().filter(|ending| ending.at >= since).peekable();
    if recent.peek().is_none() {
        return Ok(Alerts::Unknown);
    }
    let failed = recent.filter(|ending| ending.failure.is_some()).max_by_key(|ending| ending.at);
    let failure = failed.and_then(|ending| ending.failure);
    Ok(failure.map_or(Alerts::Fine, |message| {
        Alerts::Fail(AlertProblem { reason: reasons::NOT_DELIVERED, message })
    }))
}
