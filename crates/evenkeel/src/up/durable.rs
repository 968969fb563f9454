//! What a cluster is across restarts of `up`: its objects, its tokens and its port.
//!
//! **Shape**: `DATA-DIR/cluster/{lock,state.redb,access.json}`, for their owner alone.

use std::{
    collections::BTreeMap,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{ErrorKind, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context as _, bail};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::{ApiServer, Keeper, RedbJournal};
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::secrets;

/// The folder of a cluster; no other process uses it as long as this is held.
pub(crate) struct ClusterFolder {
    data_dir: PathBuf,
    _lock: File,
}

/// Who may come in, and where.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Access {
    /// The administrator's token.
    pub(super) admin: String,
    /// Tokens of the nodes' agents.
    #[serde(default)]
    pub(super) nodes: BTreeMap<String, String>,
    /// Where the API was served last.
    #[serde(default)]
    pub(super) port: u16,
}

fn folder(data_dir: &Path) -> PathBuf {
    data_dir.join("cluster")
}

/// Puts a file in the place of another, also on the disk.
fn put_in_place(fresh: &Path, file: &Path) -> anyhow::Result<()> {
    let done = File::open(fresh)
        .and_then(|fresh| fresh.sync_all())
        .and_then(|()| fs::rename(fresh, file))
        .and_then(|()| file.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()));
    done.with_context(|| format!("replace {}", file.display()))
}

impl ClusterFolder {
    /// Takes the folder.
    ///
    /// **Errors**: another process has it, which is named.
    pub(crate) fn lock(data_dir: &Path) -> anyhow::Result<Self> {
        match Self::try_lock(data_dir)? {
            Ok(folder) => Ok(folder),
            Err(process) => bail!(
                "the cluster in {} is run by another evenkeel (process {process}): stop that one \
                 first, or name another folder with --data-dir",
                data_dir.display()
            ),
        }
    }

    /// The same; `Err` is the process that has it.
    pub(crate) fn try_lock(data_dir: &Path) -> anyhow::Result<Result<Self, String>> {
        let folder = folder(data_dir);
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&folder);
        made.with_context(|| format!("make folder {}", folder.display()))?;
        let path = folder.join("lock");
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let mut file = options.open(&path).with_context(|| path.display().to_string())?;
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
            let mut owner = String::new();
            file.read_to_string(&mut owner).unwrap_or_default();
            return Ok(Err(owner.trim().to_owned()));
        }
        // Only for the message above: on a full disk the lock holds all the same.
        if file.set_len(0).is_ok() {
            write!(file, "{}", std::process::id()).unwrap_or_default();
        }
        Ok(Ok(Self { data_dir: data_dir.to_owned(), _lock: file }))
    }

    /// Forgets the objects and who may come in.
    pub(crate) fn forget(&self) -> anyhow::Result<()> {
        for file in [self.state(), self.access()] {
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("remove {}", file.display()));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// The journal of its objects.
    pub(crate) fn journal(&self) -> anyhow::Result<RedbJournal> {
        Ok(RedbJournal::open(&self.state())?)
    }

    /// Writes objects into the journal; into a new one, which takes the place of the present one
    /// when all is written, if that is to be replaced.
    pub(crate) fn restore<T>(
        &self,
        replace: bool,
        write: impl FnOnce(&mut RedbJournal) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        if !replace {
            return write(&mut self.journal()?);
        }
        let (state, fresh) = (self.state(), folder(&self.data_dir).join("restored.redb"));
        match fs::remove_file(&fresh) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                return Err(error).with_context(|| format!("remove {}", fresh.display()));
            }
            _ => {}
        }
        let mut journal = RedbJournal::open(&fresh)?;
        let written = write(&mut journal)?;
        drop(journal);
        put_in_place(&fresh, &state)?;
        Ok(written)
    }

    /// The API server over its objects, which are written as long as the keeper is held.
    pub(super) fn open(&self, clock: Arc<dyn Clock>) -> anyhow::Result<(Arc<ApiServer>, Keeper)> {
        let rng = Rng::new(secrets::random_u64()?);
        let (api, flusher) = ApiServer::open(clock, rng, self.journal()?)?;
        Ok((api, flusher.start().context("start the journal's thread")?))
    }

    fn state(&self) -> PathBuf {
        folder(&self.data_dir).join("state.redb")
    }

    fn access(&self) -> PathBuf {
        folder(&self.data_dir).join("access.json")
    }

    /// Who may come in: as before, and every node that is new.
    pub(super) fn admit<'a>(
        &self,
        nodes: impl IntoIterator<Item = &'a str>,
    ) -> anyhow::Result<Access> {
        let file = self.access();
        let mut access = match fs::read_to_string(&file) {
            Ok(text) => serde_json::from_str(&text).with_context(|| {
                let file = file.display();
                format!("{file} is damaged: remove it, then everybody gets a new kubeconfig")
            })?,
            Err(error) if error.kind() == ErrorKind::NotFound => Access::default(),
            Err(error) => return Err(error).with_context(|| format!("read {}", file.display())),
        };
        if access.admin.is_empty() {
            access.admin = secrets::token()?;
        }
        let mut admitted = BTreeMap::new();
        for node in nodes {
            let token = access.nodes.remove(node).map_or_else(secrets::token, Ok)?;
            admitted.insert(node.to_owned(), token);
        }
        access.nodes = admitted;
        Ok(access)
    }

    /// Keeps who may come in, as a whole or not at all.
    pub(super) fn keep(&self, access: &Access) -> anyhow::Result<()> {
        let (file, fresh) = (self.access(), self.access().with_extension("new"));
        secrets::write_private(&fresh, &serde_json::to_string(access)?)?;
        put_in_place(&fresh, &file)
    }
}
