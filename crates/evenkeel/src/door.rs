//! The door of a running system: its record, and the policies in front of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::anyhow;
use evenkeel_base::Clock;
use evenkeel_control::{Read, Timer};
use evenkeel_guard::{
    BudgetGate, FileDoor, KeyError, OpenError, RateLimit, Settings, SigningKey, Switch,
};

use crate::tools::audit_args::RecordArgs;

/// Keeps the policies up to date.
pub(crate) struct Watching {
    gate: BudgetGate,
    switches: [(Switch, PathBuf); 2],
    timer: Arc<dyn Timer>,
}

/// Opens the record below `data_dir`, with the switches, the error budget and the rate limit in
/// front of it. [`Watching::run`] must be started before anything else.
///
/// **Errors**: nothing can be recorded, so nothing may be done.
pub(crate) fn open(
    data_dir: &Path,
    args: &RecordArgs,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
) -> anyhow::Result<(FileDoor, Watching)> {
    let dir = data_dir.join("audit");
    let key = if let Some(file) = &args.audit_key {
        SigningKey::read(file)?
    } else {
        let file = key_file(data_dir);
        SigningKey::read_or_create(&file).map_err(|error| match error {
            KeyError::Io { .. } => anyhow!(error).context(unrecorded(&file)),
            // It says what to do.
            other => other.into(),
        })?
    };
    let settings = Settings { dir: dir.clone(), key, keep: args.audit_keep.unwrap_or_default() };
    let door = FileDoor::open(settings, clock).map_err(|error| match error {
        OpenError::Io { .. } => anyhow!(error).context(unrecorded(&dir)),
        OpenError::InUse { .. } => anyhow!(error),
    })?;
    let door = door.with_timer(timer.clone());
    let switch = |name: &str, make: fn(&str) -> Switch| {
        let file = data_dir.join(name);
        let switch = make(&file.display().to_string());
        // Once before the first question, so that a stop from before the start counts.
        switch.look_at(&file);
        (switch, file)
    };
    let (stop, freeze) = (switch("stop", Switch::stop), switch("freeze", Switch::freeze));
    let gate = BudgetGate::default();
    let door = door
        .with_policy(stop.0.clone())
        .with_policy(freeze.0.clone())
        .with_policy(gate.clone())
        .with_policy(RateLimit::default());
    Ok((door, Watching { gate, switches: [stop, freeze], timer }))
}

fn unrecorded(place: &Path) -> String {
    format!(
        "nothing is done without a record of it, which needs {}: see that this user may write \
         there, or name another folder with --data-dir",
        place.display()
    )
}

/// Where the private key is by default: outside the record.
pub(crate) fn key_file(data_dir: &Path) -> PathBuf {
    data_dir.join("keys/audit.key")
}

impl Watching {
    /// Follows budgets and switches until dropped.
    pub(crate) async fn run(self, read: Arc<dyn Read>) {
        let [(stop, stop_file), (freeze, freeze_file)] = self.switches;
        tokio::join!(
            self.gate.follow(read, self.timer.clone()),
            stop.follow(&stop_file, self.timer.clone()),
            freeze.follow(&freeze_file, self.timer.clone()),
        );
    }
}
