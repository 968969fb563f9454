//! Which controllers run, and behind which door.

use std::{path::Path, sync::Arc, time::Duration};

use anyhow::Context as _;
use evenkeel_base::Clock;
use evenkeel_control::{Host, RunLoop};
use evenkeel_delivery as delivery;
use evenkeel_guard::{BudgetGate, FileDoor};
use evenkeel_slo::controller as slo;

use crate::cli::Group;

/// How the controllers are set up.
pub(crate) struct Options<'a> {
    /// Where the record of actions is kept: its folder `audit`.
    pub(crate) data_dir: &'a Path,
    /// Whether weights count as set only when the gateway has confirmed them.
    pub(crate) confirm: bool,
    /// Time between two looks at the counters of SLOs.
    pub(crate) look_every: Duration,
    /// Which groups run; none named means all.
    pub(crate) only: &'a [Group],
}

/// All domain controllers behind the door that keeps the record and minds the error budget. Runs
/// until dropped.
pub(crate) fn all(
    host: Host,
    clock: Arc<dyn Clock>,
    options: &Options<'_>,
) -> anyhow::Result<impl Future<Output = ()> + Send + use<>> {
    let dir = options.data_dir.join("audit");
    let door = FileDoor::open(&dir, clock).with_context(|| format!("record {}", dir.display()))?;
    let gate = BudgetGate::default();
    let door = door.with_policy(gate.clone());
    let read = host.ports().read.clone();
    let wanted = |group| options.only.is_empty() || options.only.contains(&group);
    let mut run = RunLoop::new(host.with_door(Arc::new(door)));
    if wanted(Group::Delivery) {
        run = delivery::install(run, delivery::Settings { confirm: options.confirm });
    }
    if wanted(Group::Slo) {
        run = slo::install(run, slo::Settings { every: options.look_every });
    }
    Ok(async move {
        tokio::select! {
            () = run.run() => {}
            () = gate.follow(read) => {}
        }
    })
}
