//! `evenkeel snapshot`: a cluster's objects as one file.

use std::{
    fs::{self, OpenOptions},
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use evenkeel_cluster::{Journal as _, restore, to_snapshot};

use crate::{
    cli::{SnapshotArgs, SnapshotCommand},
    io, paths,
    up::durable::ClusterFolder,
};

/// Where a running API server gives a copy of itself.
const PATH: &str = "/evenkeel/snapshot";

/// Runs `evenkeel snapshot`.
pub(crate) fn run(command: &SnapshotCommand) -> anyhow::Result<ExitCode> {
    match command {
        SnapshotCommand::Save(args) => save(args)?,
        SnapshotCommand::Restore { args, replace } => bring_back(args, *replace)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn save(args: &SnapshotArgs) -> anyhow::Result<()> {
    let data_dir = paths::existing_data_dir(args.data_dir.as_deref())?;
    let bytes = match ClusterFolder::try_lock(&data_dir)? {
        Ok(folder) => to_snapshot(&folder.journal()?.read()?),
        // It runs: it says itself what it has.
        Err(_) => asked(&data_dir)?,
    };
    write(&args.file, &bytes).with_context(|| format!("write {}", args.file.display()))?;
    io::print(&format!("saved: {} ({} bytes)\n", args.file.display(), bytes.len()));
    Ok(())
}

fn asked(data_dir: &Path) -> anyhow::Result<Vec<u8>> {
    let kubeconfig = data_dir.join("kubeconfig");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let store = evenkeel_live::connect(Some(&kubeconfig)).await?;
        let bytes = store.fetch(PATH).await;
        Ok(bytes.context("ask the running cluster for a copy")?.to_vec())
    })
}

/// A whole file, for its owner alone, or none.
fn write(file: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let fresh = file.with_file_name(name);
    let mut options = OpenOptions::new();
    let mut open = options.write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    open.write_all(bytes)?;
    open.sync_all()?;
    fs::rename(&fresh, file)
}

fn bring_back(args: &SnapshotArgs, replace: bool) -> anyhow::Result<()> {
    let place = args.file.display().to_string();
    let bytes = fs::read(&args.file).with_context(|| format!("read {place}"))?;
    let data_dir = paths::data_dir(args.data_dir.as_deref())?;
    let folder = ClusterFolder::lock(&data_dir)?;
    // What is damaged has no revision to go on from.
    let present = folder.journal().and_then(|mut journal| Ok(journal.read()?.revision));
    let revision_min = present.unwrap_or_default();
    let objects = folder.restore(replace, |journal| {
        if !replace && revision_min > 0 {
            bail!(
                "{} has objects already: --replace puts those of {place} in their place",
                data_dir.display()
            );
        }
        Ok(restore(&bytes, &place, revision_min, journal)?.objects.len())
    })?;
    io::print(&format!("restored: {objects} objects in {}\n", data_dir.display()));
    Ok(())
}
