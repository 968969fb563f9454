//! Where files lie.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// The folder for state: as given, or `evenkeel` in the platform's state folder.
pub(crate) fn data_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = if let Some(dir) = given {
        dir.to_owned()
    } else {
        let state = std::env::var_os("XDG_STATE_HOME").map(PathBuf::from);
        let home = || std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state"));
        let base = state.or_else(home);
        base.context("neither XDG_STATE_HOME nor HOME is set: use --data-dir")?.join("evenkeel")
    };
    std::fs::create_dir_all(&dir).with_context(|| format!("make folder {}", dir.display()))?;
    dir.canonicalize().with_context(|| dir.display().to_string())
}
