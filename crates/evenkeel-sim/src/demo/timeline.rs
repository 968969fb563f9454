//! What the Canary's status said, change by change.

use std::{sync::Arc, time::Duration};

use evenkeel_api::{GroupKind, Obj, canary::Canary};
use evenkeel_control::{ListQuery, Store, WatchEvent};
use futures::StreamExt as _;
use serde_json::Value;
use tokio::sync::watch;

use super::script::Verdict;

/// The status at one time.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Moment {
    /// When it was seen, in milliseconds of the host's time.
    pub at: i64,
    /// `status.phase`.
    pub phase: String,
    /// `status.canaryWeight`, percent.
    pub weight: i32,
    /// `status.failedChecks`.
    pub failed_checks: i64,
    /// `status.lastAppliedSpec`: which release it is about.
    pub revision: String,
}

impl Moment {
    /// Whether a release is over, one way or the other.
    pub fn is_decided(&self) -> bool {
        self.phase == "Succeeded" || self.phase == "Failed"
    }

    /// Whether a new version has this share of the traffic, or more.
    pub fn is_ramping(&self, weight: i32) -> bool {
        self.phase == "Progressing" && self.weight >= weight
    }

    fn read(obj: &Obj, at: i64) -> Self {
        let status = obj.json().get("status");
        let field = |name: &str| status.and_then(|status| status.get(name));
        let text = |name: &str| field(name).and_then(Value::as_str).unwrap_or_default().to_owned();
        let number = |name: &str| field(name).and_then(Value::as_i64).unwrap_or_default();
        Self {
            at,
            phase: text("phase"),
            weight: i32::try_from(number("canaryWeight")).unwrap_or_default(),
            failed_checks: number("failedChecks"),
            revision: text("lastAppliedSpec"),
        }
    }
}

/// The Canary's history, growing.
pub struct Timeline {
    moments: watch::Receiver<Vec<Moment>>,
}

impl Timeline {
    /// Follows the only Canary there is. `now` is the host's time in milliseconds; `told` hears of
    /// every new moment.
    pub fn follow(
        store: &Arc<dyn Store>,
        now: impl Fn() -> i64 + Send + 'static,
        told: impl Fn(&Moment) + Send + 'static,
    ) -> Self {
        let (sender, moments) = watch::channel(Vec::<Moment>::new());
        let mut events = store.watch(ListQuery::all(GroupKind::of::<Canary>()));
        tokio::spawn(async move {
            while let Some(event) = events.next().await {
                let Ok(WatchEvent::Applied(obj)) = event else { continue };
                let new = Moment::read(&obj, now());
                sender.send_if_modified(|all| {
                    let last = all.last().cloned();
                    if last.is_some_and(|last| Moment { at: new.at, ..last } == new) {
                        return false;
                    }
                    told(&new);
                    all.push(new);
                    true
                });
            }
        });
        Self { moments }
    }

    /// How many moments there are.
    pub fn len(&self) -> usize {
        self.moments.borrow().len()
    }

    /// Whether the Canary has not been seen yet.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The moments from number `from` on.
    pub fn since(&self, from: usize) -> Vec<Moment> {
        self.moments.borrow().get(from..).unwrap_or_default().to_vec()
    }

    /// Waits until there is a moment from number `from` on that fits; returns its number.
    pub async fn wait_since(
        &self,
        from: usize,
        patience: Duration,
        fits: impl Fn(&Moment) -> bool,
    ) -> Option<usize> {
        let mut moments = self.moments.clone();
        let search = moments.wait_for(|all| all.iter().skip(from).any(&fits));
        let found = tokio::time::timeout(patience, search).await.ok()?.ok()?;
        found.iter().skip(from).position(&fits).map(|number| from + number)
    }

    /// Follows a release that begins after moment number `from` to its end.
    pub async fn verdict(&self, from: usize, patience: Duration) -> Verdict {
        let search = async {
            // The end of the release before is not the end of this one.
            let began = self.wait_since(from, patience, |now| !now.is_decided()).await?;
            self.wait_since(began, patience, Moment::is_decided).await
        };
        let Some(end) = search.await else { return Verdict::Undecided };
        let succeeded = |now: &Moment| now.phase == "Succeeded";
        if self.moments.borrow().get(end).is_some_and(succeeded) {
            Verdict::Promoted
        } else {
            Verdict::RolledBack
        }
    }
}
