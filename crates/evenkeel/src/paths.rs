//! Where files lie.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use crate::up::CONSOLE;

/// The folder for state of an earlier run, for reading: it is not made.
///
/// **Errors**: it is not there.
pub(crate) fn existing_data_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = named(given)?;
    if !dir.is_dir() {
        bail!(
            "{} does not exist: name the folder that `evenkeel up` or `evenkeel run` wrote to \
             (--data-dir)",
            dir.display()
        );
    }
    Ok(dir)
}

/// The folder for state: as given, or `evenkeel` in the platform's state folder.
pub(crate) fn data_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = named(given)?;
    std::fs::create_dir_all(&dir).with_context(|| format!("make folder {}", dir.display()))?;
    dir.canonicalize().with_context(|| dir.display().to_string())
}

/// The kubeconfig of a running `evenkeel up`, unless the environment names another one.
pub(crate) fn kubeconfig_of_up(data_dir: Option<&Path>) -> Option<PathBuf> {
    if data_dir.is_none() && is_elsewhere() {
        return None;
    }
    let file = existing_data_dir(data_dir).ok()?.join("kubeconfig");
    file.exists().then_some(file)
}

/// Where a running `evenkeel up` serves its metrics.
///
/// **Errors**: none has written it there.
pub(crate) fn console_of_up(data_dir: Option<&Path>) -> anyhow::Result<String> {
    let file = existing_data_dir(data_dir)?.join(CONSOLE);
    std::fs::read_to_string(&file).with_context(|| {
        format!("{} does not exist: start `evenkeel up`, or use --prometheus", file.display())
    })
}

/// Whether the environment names a cluster.
pub(crate) fn is_elsewhere() -> bool {
    std::env::var_os("KUBECONFIG").is_some()
}

fn named(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(dir) = given {
        return Ok(dir.to_owned());
    }
    let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
    let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
    let base = state.or_else(home);
    let base = base.context("neither XDG_STATE_HOME nor HOME is set: use --data-dir")?;
    Ok(base.join("evenkeel"))
}
