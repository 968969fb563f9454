//! The door of a running system: its record, and the policies in front of it.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
};

use anyhow::{Context as _, anyhow};
use evenkeel_base::Clock;
use evenkeel_control::{Read, Timer};
use evenkeel_guard::{
    BudgetGate, Keep, KeyError, OpenError, RateLimit, RecordDoor, Settings, SigningKey, Switch,
};

use evenkeel_live::PostgresRecord;

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
) -> anyhow::Result<(RecordDoor, Watching)> {
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
    let keep = args.audit_keep.unwrap_or_default();
    let door = match &args.record {
        Some(address) => open_shared(address.clone(), key, keep, clock)?,
        None => open_files(&data_dir.join("audit"), key, keep, clock)?,
    };
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

fn open_files(
    dir: &Path,
    key: SigningKey,
    keep: Keep,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<RecordDoor> {
    let settings = Settings { dir: dir.to_owned(), key, keep };
    RecordDoor::open(settings, clock).map_err(|error| match error {
        OpenError::Io { .. } => anyhow!(error).context(unrecorded(dir)),
        OpenError::InUse { .. } => anyhow!(error),
    })
}

/// In a thread of its own: it looks at the database, for which a thread that drives futures must not
/// wait. When it does not answer, this process starts nevertheless.
fn open_shared(
    address: String,
    key: SigningKey,
    keep: Keep,
    clock: Arc<dyn Clock>,
) -> anyhow::Result<RecordDoor> {
    let open = move || {
        let store = PostgresRecord::open(&address)?;
        anyhow::Ok(RecordDoor::open_shared(Box::new(store), key, keep, clock)?)
    };
    let opened = thread::spawn(open).join();
    opened
        .unwrap_or_else(|_| Err(anyhow!("internal error while opening the record")))
        .context("nothing is done without a record of it: correct --record")
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
