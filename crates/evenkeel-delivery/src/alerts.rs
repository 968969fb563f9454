//! Whether the people that a Canary alerts can be reached: its providers exist, and what was sent
//! lately was accepted. A notification does not hold up the plan it belongs to: how it ended is
//! known to a later observation.

use std::time::Duration;

use evenkeel_api::{Obj, canary::Phase};
use evenkeel_control::{NOTIFY, Ports, Provider, StoreError};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;

use crate::{
    CanaryView, reasons,
    time::elapsed,
    view::{AlertProblem, Alerts},
};

/// How long a failed alert is shown: as long as Kubernetes keeps Events.
pub(crate) const MEMORY: Duration = Duration::from_hours(1);

/// Looks for a provider that does not exist or can deliver nothing, or a notification that was not
/// delivered. What cannot be looked up is not known: it keeps no rollback from being decided.
pub(crate) async fn look(view: &CanaryView, ports: &Ports) -> Alerts {
    for alert in &view.canary.spec.analysis.alerts {
        let provider = &alert.provider_ref;
        let namespace = provider.namespace.as_deref().unwrap_or(view.obj.namespace());
        let key = Provider::key(namespace, &provider.name);
        match ports.read.get(&key).await {
            Ok(Some(found)) => {
                // One wait for a server that does not answer is enough, not one per provider.
                let Ok(problem) = unusable(&found, view, ports).await else {
                    return Alerts::Unknown;
                };
                if let Some(message) = problem {
                    let reason = reasons::PROVIDER_INVALID;
                    return Alerts::Fail(AlertProblem { reason, message });
                }
            }
            // A cluster without the kind has no such object.
            Ok(None) | Err(StoreError::NoKind { .. }) => {
                let (reason, message) = (reasons::PROVIDER_MISSING, Provider::absent(&key));
                return Alerts::Fail(AlertProblem { reason, message });
            }
            // Who delivers reads it with the same rights.
            Err(error @ StoreError::Refused { .. }) => {
                let (reason, message) = (reasons::PROVIDER_UNREAD, error.to_string());
                return Alerts::Fail(AlertProblem { reason, message });
            }
            Err(_) => return Alerts::Unknown,
        }
    }
    let Some(since) = view.run.alerted_at.filter(|at| elapsed(*at, view.now) <= MEMORY) else {
        return Alerts::Fine;
    };
    let endings = ports.endings.of(view.obj.key(), NOTIFY);
    let mut recent = endings.into_iter().filter(|ending| ending.at >= since).peekable();
    if recent.peek().is_none() {
        return Alerts::Unknown;
    }
    let failed = recent.filter(|ending| ending.failure.is_some()).max_by_key(|ending| ending.at);
    let failure = failed.and_then(|ending| ending.failure);
    failure.map_or(Alerts::Fine, |message| {
        Alerts::Fail(AlertProblem { reason: reasons::NOT_DELIVERED, message })
    })
}

/// Whether the Secrets of providers are read in this look. What is in a Secret comes from the server
/// every time, so it is read when a release is about to begin, and until the problem is fixed.
fn reads_secrets(view: &CanaryView) -> bool {
    let fails =
        |condition: &Condition| condition.type_ == reasons::ALERTS && condition.status == "False";
    let begins = match view.status.phase {
        Phase::New | Phase::Initializing | Phase::Waiting => true,
        Phase::Progressing => view.pct() == 0,
        _ => false,
    };
    begins || view.status.conditions.iter().any(fails)
}

/// What of a provider, or of the Secret it names, keeps every notification from being delivered:
/// people should not learn it from the first alert that is missing. `None` when nothing is known.
///
/// **Errors**: the Secret could not be read this time.
async fn unusable(
    found: &Obj,
    view: &CanaryView,
    ports: &Ports,
) -> Result<Option<String>, StoreError> {
    let provider = match Provider::read(found) {
        Ok(provider) => provider,
        Err(problem) => return Ok(Some(problem)),
    };
    let mut kept = None;
    if let Some(secret) = provider.secret() {
        if !reads_secrets(view) {
            return Ok(None);
        }
        kept = match ports.read.get(secret).await {
            Ok(Some(found)) => Some(found),
            Ok(None) => return Ok(Some(provider.without(secret))),
            // One that may not be read here may be readable for who delivers.
            Err(StoreError::Refused { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
    }
    Ok(provider.target(kept.as_deref()).err())
}
