//! Which controllers run, and behind which door.

use std::{path::Path, sync::Arc};

use anyhow::Context as _;
use evenkeel_base::Clock;
use evenkeel_control::{Ports, RunLoop};
use evenkeel_delivery::{CanaryController, Settings};
use evenkeel_guard::FileDoor;

/// How the controllers are set up.
pub(crate) struct Options<'a> {
    /// Where the record of actions is kept: its folder `audit`.
    pub(crate) data_dir: &'a Path,
    /// Whether weights count as set only when the gateway has confirmed them.
    pub(crate) confirm: bool,
}

/// All domain controllers behind the door that keeps the record.
pub(crate) fn all(
    ports: Ports,
    clock: Arc<dyn Clock>,
    options: &Options<'_>,
) -> anyhow::Result<RunLoop> {
    let dir = options.data_dir.join("audit");
    let door = FileDoor::open(&dir, clock).with_context(|| format!("record {}", dir.display()))?;
    let settings = Settings { confirm: options.confirm };
    Ok(RunLoop::new(ports, Arc::new(door)).with(CanaryController { settings }))
}
