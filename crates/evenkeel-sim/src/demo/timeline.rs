//! What the Canary's status said, change by change.

use std::{sync::Arc, time::Duration};

use evenkeel_api::{GroupKind, Obj, canary::Canary};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;

use super::time::{Trace, VirtualTime, millis};

/// The status at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// When it was seen, in milliseconds since the beginning.
    pub(super) at: i64,
    /// `status.phase`.
    pub(super) phase: String,
    /// `status.canaryWeight`, percent.
    pub(super) weight: i32,
    /// `status.failedChecks`.
    pub(super) failed_checks: i64,
}

impl Moment {
    /// Whether a release is over, one way or the other.
    pub(super) fn is_decided(&self) -> bool {
        self.phase == "Succeeded" || self.phase == "Failed"
    }
}

/// The Canary's history, growing.
pub(super) struct Timeline {
    moments: watch::Receiver<Vec<Moment>>,
}

impl Timeline {
    /// Follows the only Canary there is.
    pub(super) fn follow(store: &Arc<dyn Store>, time: Arc<VirtualTime>, trace: Trace) -> Self {
        let (sender, moments) = watch::channel(Vec::new());
        let mut events = store.watch(ListQuery::all(GroupKind::of::<Canary>()));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let Ok(WatchEvent::Applied(obj)) = event else { continue };
                let now = read(&obj, millis(time.elapsed()));
                sender.send_if_modified(|all: &mut Vec<Moment>| {
                    let same =
                        all.last().is_some_and(|last| Moment { at: now.at, ..last.clone() } == now);
                    if !same {
                        trace.say(&format!(
                            "canary: {}, weight {} %, failed checks {}",
                            now.phase, now.weight, now.failed_checks
                        ));
                        all.push(now);
                    }
                    !same
                });
            }
        });
        Self { moments }
    }

    /// How many moments there are.
    pub(super) fn len(&self) -> usize {
        self.moments.borrow().len()
    }

    /// The moments from number `from` on.
    pub(super) fn since(&self, from: usize) -> Vec<Moment> {
        self.moments.borrow().get(from..).unwrap_or_default().to_vec()
    }

    /// Waits until there is a moment from number `from` on that fits; returns it with its number.
    pub(super) async fn wait_since(
        &self,
        from: usize,
        patience: Duration,
        fits: impl Fn(&Moment) -> bool,
    ) -> Option<(usize, Moment)> {
        let mut moments = self.moments.clone();
        let search = moments.wait_for(|all| all.iter().skip(from).any(&fits));
        let found = tokio::time::timeout(patience, search).await.ok()?.ok()?;
        let mut numbered = found.iter().enumerate().skip(from);
        numbered.find(|(_, moment)| fits(moment)).map(|(number, moment)| (number, moment.clone()))
    }
}

fn read(obj: &Obj, at: i64) -> Moment {
    let status = obj.json().get("status");
    let field = |name: &str| status.and_then(|status| status.get(name));
    let number = |name: &str| field(name).and_then(Value::as_i64).unwrap_or_default();
    Moment {
        at,
        phase: field("phase").and_then(Value::as_str).unwrap_or_default().to_owned(),
        weight: i32::try_from(number("canaryWeight")).unwrap_or_default(),
        failed_checks: number("failedChecks"),
    }
}
