//! Where the tools read a record: the folder of a process, or a copy of one in a database.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, bail};
use evenkeel_control::redact;
use evenkeel_guard::Mirror;
use evenkeel_live::PostgresRecord;

use crate::{io, paths, tools::audit_args::SourceArgs, up::secrets};

/// A record to read.
pub(super) struct Source {
    /// The folder with the lines.
    pub(super) dir: PathBuf,
    /// What it is called in messages.
    pub(super) name: String,
    copy: Option<Copied>,
}

/// A copy that goes away with it.
struct Copied {
    mirror: Mirror,
    dir: PathBuf,
}

impl Source {
    /// The record that the flags name. An empty or missing folder is found later, by who reads it.
    ///
    /// **Errors**: there is no data folder; the database does not answer or has no record.
    pub(super) fn open(args: &SourceArgs) -> anyhow::Result<Self> {
        let Some(address) = &args.record else {
            let dir = paths::existing_data_dir(args.data_dir.as_deref())?.join("audit");
            return Ok(Self { name: dir.display().to_string(), dir, copy: None });
        };
        let name = format!("evenkeel-audit-{:016x}", secrets::random_u64()?);
        let dir = std::env::temp_dir().join(name);
        let store = PostgresRecord::open_to_read(address)?;
        let mirror = Mirror::new(Box::new(store), &dir)
            .with_context(|| format!("copy the audit record of {}", redact::url(address)));
        // Also when only a part of it was copied.
        let mirror = mirror.inspect_err(|_| remove(&dir))?;
        let copy = Some(Copied { mirror, dir: dir.clone() });
        Ok(Self { dir, name: redact::url(address), copy })
    }

    /// As [`Self::open`], when there must be a record already.
    ///
    /// **Errors**: there is none.
    pub(super) fn existing(args: &SourceArgs) -> anyhow::Result<Self> {
        let source = Self::open(args)?;
        if !source.dir.is_dir() {
            bail!(
                "{} has no audit record: nothing was done there yet, or another --data-dir was \
                 given to `evenkeel up` or `evenkeel run`",
                source.dir.parent().unwrap_or(&source.dir).display()
            );
        }
        let chosen = args.record.is_some() || args.data_dir.is_some();
        if !chosen && paths::running_console().is_none() {
            io::complain(&format!(
                "no `evenkeel up` is running there: this is the record in {} (another one: \
                 --data-dir)",
                source.name
            ));
        }
        Ok(source)
    }

    /// Fetches what was appended since.
    ///
    /// **Errors**: the database does not answer.
    pub(super) fn refresh(&mut self) -> anyhow::Result<()> {
        let Some(copy) = &mut self.copy else { return Ok(()) };
        copy.mirror.refresh().with_context(|| format!("read the audit record of {}", self.name))?;
        Ok(())
    }
}

impl Drop for Copied {
    fn drop(&mut self) {
        remove(&self.dir);
    }
}

fn remove(dir: &Path) {
    if let Err(error) = fs::remove_dir_all(dir)
        && dir.exists()
    {
        tracing::warn!(dir = %dir.display(), %error, "a copy of the audit record stays behind");
    }
}
