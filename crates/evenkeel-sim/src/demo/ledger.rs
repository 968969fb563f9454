//! What the SLO's ledger says that each release cost: counted from the gateway's metrics, by the
//! SLO controller, in whatever process it runs. The judge holds it against what clients counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_api::{GroupKind, slo::PrometheusServiceLevel};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use evenkeel_slo::controller::{SloStatusObject, UNEXPLAINED, change_id};
use futures::StreamExt as _;

use super::happened::Happened;

/// The ledger has not settled in time.
pub const SILENT: &str = "the SLO's ledger does not say what the releases cost";

/// The ledger when every release is settled.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LedgerRecord {
    failures: BTreeMap<String, u64>,
}

impl LedgerRecord {
    /// Failures that one release caused.
    pub fn of(&self, change: &str) -> u64 {
        self.failures.get(change).copied().unwrap_or_default()
    }

    /// Failures that no release explains.
    pub fn unexplained(&self) -> u64 {
        self.of(UNEXPLAINED)
    }
}

/// The name that the ledger has for the release of a phase; `None` when none met users.
pub fn change_of(happened: &Happened) -> Option<String> {
    let met_users = happened.moments.iter().rfind(|moment| moment.weight > 0)?;
    Some(change_id("default", "api-service", &met_users.revision))
}

/// Waits until the ledger has settled these changes. `None` when it does not in time.
pub async fn settled(
    store: &Arc<dyn Store>,
    changes: &BTreeSet<String>,
    patience: Duration,
) -> Option<LedgerRecord> {
    let mut events = store.watch(ListQuery::all(GroupKind::of::<PrometheusServiceLevel>()));
    let search = async {
        while let Some(event) = events.next().await {
            let Ok(WatchEvent::Applied(obj)) = event else { continue };
            let status = obj.json().get("status").cloned().unwrap_or_default();
            let Ok(status) = serde_json::from_value::<SloStatusObject>(status) else { continue };
            let Some(slo) = status.slos.first() else { continue };
            let known: BTreeSet<_> = slo.account.settled().iter().map(|(id, _)| id).collect();
            if changes.iter().all(|change| known.contains(change)) {
                let shares = slo.ledger.iter();
                let failures = shares.map(|share| (share.cause.clone(), whole(share.failures)));
                return Some(LedgerRecord { failures: failures.collect() });
            }
        }
        None
    };
    tokio::time::timeout(patience, search).await.ok()?
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts of a demo are small and not negative"
)]
fn whole(failures: f64) -> u64 {
    failures.round() as u64
}
