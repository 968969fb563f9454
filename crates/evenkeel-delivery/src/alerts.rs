//! Whether the people that a Canary alerts can be reached: its providers exist, and what was sent
//! lately was accepted. A notification does not hold up the plan it belongs to: how it ended is
//! known to a later observation.

use std::time::Duration;

use evenkeel_api::{GroupKind, Key, Obj, canary::Phase};
use evenkeel_control::{NOTIFY, PROVIDER_TYPES, Ports, StoreError, redact};
use k8s_openapi::{api::core::v1::Secret, apimachinery::pkg::apis::meta::v1::Condition};
use serde_json::Value;

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
        let kind = GroupKind::new("flagger.app", "AlertProvider");
        let key = Key::new(kind, namespace, &provider.name);
        match ports.read.get(&key).await {
            Ok(Some(found)) => {
                if let Some(message) = unusable(&found, view, ports).await {
                    let reason = reasons::PROVIDER_INVALID;
                    return Alerts::Fail(AlertProblem { reason, message });
                }
            }
            // A cluster without the kind has no such object.
            Ok(None) | Err(StoreError::Refused { .. } | StoreError::NotFound { .. }) => {
                let message =
                    format!("{key} does not exist: create it, or correct spec.analysis.alerts");
                let reason = reasons::PROVIDER_MISSING;
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
/// every time, so it is read when a release is about to begin, and until what was wrong is mended.
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
async fn unusable(provider: &Obj, view: &CanaryView, ports: &Ports) -> Option<String> {
    let text = |path: &str| {
        provider.json().pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let key = provider.key();
    let kind = text("/spec/type");
    if !PROVIDER_TYPES.contains(&kind.as_str()) {
        let (kind, known) = (redact::quote(&kind), PROVIDER_TYPES.join(", "));
        return Some(format!("{key}: spec.type {kind} is not supported; use one of {known}"));
    }
    if !text("/spec/proxy").is_empty() {
        return Some(format!("{key}: spec.proxy is not supported: remove it"));
    }
    let (mut address, mut has_token) = (text("/spec/address"), false);
    let mut place = "spec.address".to_owned();
    let secret = text("/spec/secretRef/name");
    if !secret.is_empty() {
        if !reads_secrets(view) {
            return None;
        }
        let secret = key.sibling::<Secret>(&secret);
        // One that may not be read here may be readable for who delivers.
        let Some(found) = ports.read.get(&secret).await.ok()? else {
            let fix = "create it, or correct spec.secretRef";
            return Some(format!("{key}: {secret} does not exist: {fix}"));
        };
        let data = found.get::<Secret>().ok().and_then(|secret| secret.data.clone());
        let data = data.unwrap_or_default();
        has_token = data.contains_key("token");
        if let Some(bytes) = data.get("address") {
            String::from_utf8_lossy(&bytes.0).trim().clone_into(&mut address);
            place = format!("the key address of {secret}");
        }
    }
    if address.is_empty() {
        let by_token = kind == "slack" && has_token;
        let problem = "has no address: set spec.address, or `address` in the Secret of \
                       spec.secretRef";
        return (!by_token).then(|| format!("{key} {problem}"));
    }
    // What it is instead may be what gives access to it.
    let host = ["http://", "https://"].iter().find_map(|scheme| address.strip_prefix(scheme));
    let is_url = host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with(['/', ':', '?']));
    let problem = format!("{key}: {place} is not an http:// or https:// URL: correct it");
    (!is_url).then_some(problem)
}
