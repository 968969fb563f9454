//! `evenkeel uninstall`: nothing of ours is left, and nothing of others is touched.
//!
//! ```text
//! look: what is there, what is ours, who else runs, what is under way    (refuses here or never)
//! StatefulSet, pods --> finalizers on Canaries --> Leases --> roles and the rest --> volumes, CRDs
//! ```
//! The controllers end first, so that they put nothing back; their rights go last, so that they can
//! end what is under way and give their Leases back. What Canaries and SLOs have made belongs to
//! them and stays.

mod look;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Read as _, StoreError, Write as _, WriteOptions,
};
use evenkeel_delivery::FINALIZER;
use evenkeel_live::{KubeStore, connect};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};

use self::look::Found;
use super::place::Place;
use crate::{install_flags::UninstallArgs, io};

/// Longest wait for something to be gone: the grace period of a pod, and its node's time.
const GONE_WITHIN: Duration = Duration::from_mins(3);
/// Between two looks at whether it is.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A Lease counts as held for so long after its end: clocks differ.
const LEASES_LATE: SignedDuration = SignedDuration::from_secs(10);
/// How often a write that met another one is tried.
const TRIES_MAX: usize = 5;
const MANAGER: &str = "evenkeel-uninstall";

/// Runs `evenkeel uninstall`.
pub(crate) fn run(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(uninstall(args))
}

async fn uninstall(args: &UninstallArgs) -> anyhow::Result<ExitCode> {
    let place = Place::of(&args.place)?;
    let store = connect(args.kubeconfig.as_deref())
        .await
        .context("no cluster: name its kubeconfig with --kubeconfig, or set KUBECONFIG")?;
    let found = look::at(&store, &place).await?;
    let verdict = found.check(args)?;
    let is_foreign = found.is_set_foreign();
    let mut work = Work { store, place, dry_run: args.dry_run, is_foreign, changed: false };
    if let Some(set) = &found.set {
        work.delete(set).await?;
    }
    if !is_foreign {
        // Also when an earlier run has deleted the set: a pod may still be there, and lead.
        work.pods_end().await?;
    }
    for canary in &found.canaries {
        work.free(canary).await?;
    }
    for lease in &found.leases {
        work.release(lease).await?;
    }
    for key in &found.rest {
        work.delete(key).await?;
    }
    work.claims(&found, args.purge).await?;
    work.definitions(&found, args.purge).await?;
    if !work.changed {
        io::print(&format!(
            "nothing of {} in namespace {}\n",
            work.place.name(),
            work.place.namespace
        ));
    }
    found.say_who_else_is_there();
    Ok(verdict)
}

struct Work {
    store: KubeStore,
    place: Place,
    dry_run: bool,
    /// The set of this name is not ours, and so its pods are not either.
    is_foreign: bool,
    /// Something was there to do.
    changed: bool,
}

impl Work {
    /// What is done, or would be.
    fn say(&mut self, done: &str, would: &str, what: &str) {
        self.changed = true;
        io::print(&format!("{} {what}\n", if self.dry_run { would } else { done }));
    }

    /// Deletes an object and waits until it is gone.
    async fn delete(&mut self, key: &Key) -> anyhow::Result<()> {
        self.say("deleted", "would delete", &key.to_string());
        if self.dry_run {
            return Ok(());
        }
        match self.store.delete(key, &DeleteOptions::default()).await {
            Ok(()) | Err(StoreError::NotFound { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        let store = &self.store;
        until_gone(&key.to_string(), async || Ok(store.get(key).await?.is_none())).await
    }

    /// Waits until no pod of the installation runs: the last one writes until then.
    async fn pods_end(&self) -> anyhow::Result<()> {
        if self.dry_run {
            return Ok(());
        }
        let query = ListQuery::of::<Pod>().within(&self.place.namespace);
        let (store, query) = (&self.store, query.with_labels(look::labels(&self.place)));
        let what = format!("the pods of {}", self.place.name());
        until_gone(&what, async || Ok(store.list(&query).await?.items.is_empty())).await
    }

    /// Takes our finalizer off a Canary: nobody would be there to do so when it is deleted.
    async fn free(&mut self, key: &Key) -> anyhow::Result<()> {
        self.say("freed", "would free", &format!("{key} of its finalizer"));
        if self.dry_run {
            return Ok(());
        }
        for _ in 0..TRIES_MAX {
            let Some(canary) = self.store.get(key).await? else { return Ok(()) };
            let all = canary.meta().finalizers.clone().unwrap_or_default();
            let rest: Vec<_> = all.into_iter().filter(|name| name != FINALIZER).collect();
            let patch = Patch::Merge(json!({"metadata": {"finalizers": rest}}));
            let options = WriteOptions {
                expect: Some(canary.revision()),
                manager: MANAGER,
                ..WriteOptions::default()
            };
            match self.store.patch(key, &patch, &options).await {
                Ok(_) | Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("{key} is changed all the time: try again")
    }

    /// Deletes a Lease that none but our pods holds. It is deleted as it was when that was seen:
    /// another installation may take it at any moment.
    async fn release(&mut self, key: &Key) -> anyhow::Result<()> {
        for _ in 0..TRIES_MAX {
            let Some(lease) = self.store.get(key).await? else { return Ok(()) };
            if let Some(other) = self.holder(&lease) {
                io::print(&format!("kept {key}: {other} holds it\n"));
                return Ok(());
            }
            let options = DeleteOptions {
                uid: Some(lease.uid().to_owned()),
                expect: Some(lease.revision()),
                ..DeleteOptions::default()
            };
            let deleted =
                if self.dry_run { Ok(()) } else { self.store.delete(key, &options).await };
            match deleted {
                Ok(()) => {
                    self.say("deleted", "would delete", &key.to_string());
                    return Ok(());
                }
                Err(StoreError::NotFound { .. }) => return Ok(()),
                Err(StoreError::Conflict { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("{key} is changed all the time: try again")
    }

    /// Who holds a Lease, unless it is a pod of ours, or nobody who has renewed it in time.
    fn holder(&self, lease: &Obj) -> Option<String> {
        let spec = lease.json().get("spec")?;
        let holder = spec.get("holderIdentity").and_then(Value::as_str)?;
        let renewed: Option<Timestamp> =
            spec.get("renewTime").and_then(Value::as_str).and_then(|time| time.parse().ok());
        let lasts = spec.get("leaseDurationSeconds").and_then(Value::as_i64).unwrap_or_default();
        let lasts = LEASES_LATE + SignedDuration::from_secs(lasts);
        if renewed.is_some_and(|at| Timestamp::now().duration_since(at) > lasts) {
            return None;
        }
        let pod = holder.split('_').next().unwrap_or_default();
        let number = pod.strip_prefix(&format!("{}-", self.place.name()));
        let is_numbered = number.is_some_and(|number| number.parse::<u32>().is_ok());
        let is_ours = is_numbered && !self.is_foreign;
        (!holder.is_empty() && !is_ours).then(|| holder.to_owned())
    }

    /// The volumes, which have the record.
    async fn claims(&mut self, found: &Found, purge: bool) -> anyhow::Result<()> {
        for key in &found.claims {
            if purge {
                self.delete(key).await?;
            } else {
                keep(key, "the record is in it; --purge deletes it");
            }
        }
        Ok(())
    }

    /// The definitions of our own kinds, when nobody uses them.
    async fn definitions(&mut self, found: &Found, purge: bool) -> anyhow::Result<()> {
        for (key, used) in &found.definitions {
            match used {
                Some(by) => keep(key, by),
                None if purge => self.delete(key).await?,
                None => keep(key, "--purge deletes it"),
            }
        }
        Ok(())
    }
}

fn keep(key: &Key, why: &str) {
    io::print(&format!("kept {key}: {why}\n"));
}

async fn until_gone(
    what: &str,
    mut is_gone: impl AsyncFnMut() -> anyhow::Result<bool>,
) -> anyhow::Result<()> {
    let looking = async {
        while !is_gone().await? {
            tokio::time::sleep(LOOK_EVERY).await;
        }
        anyhow::Ok(())
    };
    let waited = tokio::time::timeout(GONE_WITHIN, looking).await;
    waited.unwrap_or_else(|_| {
        bail!("{what} is deleted and not gone yet: see what holds it, then run this again")
    })
}
