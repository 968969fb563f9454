//! What the Canary's status said, change by change.

use std::{sync::Arc, time::Duration};

use anyhow::Context as _;
use evenkeel_api::{GroupKind, Obj, canary::Canary};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;

/// The status at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Moment {
    /// When it was seen, in milliseconds of the Unix epoch.
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
    pub(super) fn follow(store: Arc<dyn Store>) -> Self {
        let (sender, moments) = watch::channel(Vec::new());
        tokio::spawn(async move {
            let mut events = store.watch(ListQuery::all(GroupKind::of::<Canary>()));
            while let Some(event) = events.next().await {
                let Ok(WatchEvent::Applied(obj)) = event else { continue };
                let now = read(&obj);
                sender.send_if_modified(|all: &mut Vec<Moment>| {
                    let same =
                        all.last().is_some_and(|last| Moment { at: now.at, ..last.clone() } == now);
                    if !same {
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

    /// Waits until the present moment fits.
    pub(super) async fn wait_for(
        &self,
        patience: Duration,
        fits: impl Fn(&Moment) -> bool,
    ) -> anyhow::Result<Moment> {
        let mut moments = self.moments.clone();
        let found = moments.wait_for(|all| all.last().is_some_and(&fits));
        let found = tokio::time::timeout(patience, found).await;
        let last = || self.moments.borrow().last().cloned().unwrap_or_default();
        let found = found.with_context(|| format!("the Canary still is {:?}", last()))?;
        Ok(found
            .context("the Canary is not followed any more")?
            .last()
            .cloned()
            .unwrap_or_default())
    }

    /// Waits until there is a moment from number `from` on that fits.
    pub(super) async fn wait_since(
        &self,
        from: usize,
        patience: Duration,
        fits: impl Fn(&Moment) -> bool,
    ) -> Option<Moment> {
        let mut moments = self.moments.clone();
        let search = moments.wait_for(|all| all.iter().skip(from).any(&fits));
        let found = tokio::time::timeout(patience, search).await.ok()?.ok()?;
        found.iter().skip(from).find(|moment| fits(moment)).cloned()
    }
}

fn read(obj: &Obj) -> Moment {
    let status = obj.json().get("status");
    let field = |name: &str| status.and_then(|status| status.get(name));
    let number = |name: &str| field(name).and_then(Value::as_i64).unwrap_or_default();
    Moment {
        at: jiff::Timestamp::now().as_millisecond(),
        phase: field("phase").and_then(Value::as_str).unwrap_or_default().to_owned(),
        weight: i32::try_from(number("canaryWeight")).unwrap_or_default(),
        failed_checks: number("failedChecks"),
    }
}
