//! Volumes as folders.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Component, Path, PathBuf},
};

use jiff::Timestamp;

use super::{VolumeSettings, Wanted, atomic::Writer, beneath, view::HostPath, wanted::failure};
use crate::pod::VolumesSetUp;

/// Mode of a folder that all processes of a pod may write to. **Source**: `perm` in
/// `pkg/volume/emptydir/empty_dir.go`.
const SHARED: u32 = 0o777;
/// Where the volumes of a pod lie, beside the folders of its containers: not a container's name.
const VOLUMES: &str = ".volumes";
/// Files and folders of one volume that are measured; a volume with more is too large to say.
const ENTRIES_MAX: usize = 200_000;

/// Makes, measures and removes volumes. Blocks: to be called where that may be.
#[derive(Debug, Clone)]
pub(crate) struct Disk {
    settings: VolumeSettings,
}

/// The pod whose volumes they are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PodOf<'a> {
    pub(crate) uid: &'a str,
    /// Its `fsGroup`.
    pub(crate) group: Option<u32>,
    /// For the names of versions.
    pub(crate) now: Timestamp,
}

impl Wanted {
    /// Whether no container may change it. **Source**: `GetAttributes` of each kind.
    pub(super) fn is_read_only(&self) -> bool {
        match self {
            Self::Files { .. } => true,
            Self::EmptyDir { .. } => false,
            Self::Claim { is_read_only, .. } => *is_read_only,
            Self::HostPath(host) => host.is_read_only,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Files { kind, .. } => kind,
            Self::EmptyDir { .. } => "empty-dir",
            Self::Claim { .. } => "local-folder",
            Self::HostPath(_) => "host-path",
        }
    }
}

impl Disk {
    pub(crate) fn new(settings: VolumeSettings) -> Self {
        Self { settings }
    }

    fn pod_dir(&self, uid: &str) -> PathBuf {
        self.settings.root.join("pods").join(uid)
    }

    fn own_dir(&self, uid: &str, volume: &str, wanted: &Wanted) -> PathBuf {
        let kind = format!("kubernetes.io~{}", wanted.kind());
        self.pod_dir(uid).join(VOLUMES).join(kind).join(volume)
    }

    /// Brings all volumes of a pod to what they are to be. May be called again and again.
    ///
    /// **Errors**: the first that cannot be made, in the kubelet's words.
    pub(crate) fn set_up(
        &self,
        pod: PodOf<'_>,
        volumes: &BTreeMap<String, Wanted>,
    ) -> Result<VolumesSetUp, String> {
        let mut found = VolumesSetUp::default();
        for (name, wanted) in volumes {
            let made = self.set_up_one(pod, name, wanted);
            made.map_err(|problem| failure(name, &problem))?;
            match wanted {
                Wanted::Files { changes, .. } => found.changes |= changes,
                Wanted::EmptyDir { is_memory, limit } => {
                    if *is_memory {
                        found.caveats.push(format!(
                            "emptyDir volume \"{name}\" has medium Memory: it lies on disk here, \
                             and what is in it does not count as memory of the pod"
                        ));
                    }
                    let Some(limit) = limit else { continue };
                    found.changes = true;
                    if used(&self.own_dir(pod.uid, name, wanted)) > limit.bytes {
                        // **Source**: `emptyDirMessageFmt` in `pkg/kubelet/eviction/helpers.go`.
                        found.exceeded.get_or_insert(format!(
                            "Usage of EmptyDir volume \"{name}\" exceeds the limit \"{}\". ",
                            limit.text
                        ));
                    }
                }
                Wanted::Claim { .. } | Wanted::HostPath(_) => {}
            }
        }
        Ok(found)
    }

    fn set_up_one(
        &self,
        PodOf { uid, group, now }: PodOf<'_>,
        name: &str,
        wanted: &Wanted,
    ) -> Result<(), String> {
        let text = |error: io::Error| error.to_string();
        let dir = self.own_dir(uid, name, wanted);
        match wanted {
            Wanted::Files { payload, .. } => {
                private_dir(&dir).map_err(text)?;
                open_to_all(&dir, 0o755, group).map_err(text)?;
                let after = &mut |_| Ok(());
                Writer { dir: &dir, now, group, after }.write(payload).map_err(text)?;
            }
            Wanted::EmptyDir { .. } => make_shared(&dir, group)?,
            Wanted::Claim { folder, .. } => {
                let dir = self.claim_dir(folder)?;
                make_shared(&dir, group)?;
            }
            Wanted::HostPath(host) => self.host_path(host).map(drop)?,
        }
        Ok(())
    }

    fn claim_dir(&self, folder: &str) -> Result<PathBuf, String> {
        // It comes out of an object that others may write.
        let mut parts = Path::new(folder).components();
        match (parts.next(), parts.next()) {
            (Some(Component::Normal(name)), None) => Ok(self.settings.claims.join(name)),
            _ => Err(format!("{folder:?} is not the name of a folder")),
        }
    }

    /// Where a volume that has been set up lies, without symlinks.
    pub(super) fn source(&self, uid: &str, name: &str, wanted: &Wanted) -> Result<PathBuf, String> {
        let dir = match wanted {
            Wanted::HostPath(host) => return self.host_path(host),
            Wanted::Claim { folder, .. } => self.claim_dir(folder)?,
            Wanted::Files { .. } | Wanted::EmptyDir { .. } => self.own_dir(uid, name, wanted),
        };
        dir.canonicalize().map_err(|error| format!("volume {name:?}: {error}"))
    }

    /// A path of this machine, if the user has named a folder above it.
    ///
    /// **Source**: `pkg/volume/hostpath/host_path.go` for the types.
    fn host_path(&self, host: &HostPath) -> Result<PathBuf, String> {
        let path = Path::new(&host.path);
        let allowed = self.settings.host_paths.iter().filter_map(|root| root.canonicalize().ok());
        // As given, and as it is found: what the user has named may be a symlink.
        let named = self.settings.host_paths.iter().find_map(|root| {
            let rest = path.strip_prefix(root).ok()?;
            Some((root.canonicalize().ok()?, rest.to_owned()))
        });
        let below = named.or_else(|| {
            allowed.into_iter().find_map(|root| {
                let rest = path.strip_prefix(&root).ok()?.to_owned();
                Some((root, rest))
            })
        });
        let Some((root, rest)) = below else {
            return Err(format!(
                "hostPath {:?} is not below a folder that may be used: start `evenkeel up` with \
                 --host-path DIR",
                host.path
            ));
        };
        let text = |error: io::Error| format!("hostPath {:?}: {error}", host.path);
        let rest = if rest.as_os_str().is_empty() { PathBuf::from(".") } else { rest };
        let found = beneath::resolve(&root, &rest).map_err(text)?;
        let found = match (found, host.kind.as_str()) {
            (Some(found), _) => found,
            (None, "DirectoryOrCreate") => {
                beneath::resolve_or_make(&root, &rest, 0o755).map_err(text)?
            }
            (None, "FileOrCreate") => make_file(&root, &rest).map_err(text)?,
            (None, _) => return Err(wrong_type(host)),
        };
        let meta = fs::metadata(&found).map_err(text)?;
        let fits = match host.kind.as_str() {
            "" => true,
            "Directory" | "DirectoryOrCreate" => meta.is_dir(),
            "File" | "FileOrCreate" => meta.is_file(),
            "Socket" => meta.file_type().is_socket(),
            "CharDevice" => meta.file_type().is_char_device(),
            "BlockDevice" => meta.file_type().is_block_device(),
            other => return Err(format!("unknown host path type {other:?}")),
        };
        if fits { Ok(found) } else { Err(wrong_type(host)) }
    }

    /// Removes what is left of a pod. Nothing of it runs any more.
    pub(crate) fn tear_down(&self, uid: &str) -> io::Result<()> {
        remove_tree(&self.pod_dir(uid))
    }

    /// Pods that have volumes here.
    pub(crate) fn pods(&self) -> BTreeSet<String> {
        let pods = fs::read_dir(self.settings.root.join("pods")).into_iter().flatten().flatten();
        let with = pods.filter(|pod| pod.path().join(VOLUMES).is_dir());
        with.filter_map(|pod| pod.file_name().into_string().ok()).collect()
    }

    /// Removes the folder of a claim, and nothing else: a symlink there is only taken away.
    pub(crate) fn remove_claim(&self, folder: &str) -> Result<(), String> {
        let dir = self.claim_dir(folder)?;
        remove_tree(&dir).map_err(|error| format!("{}: {error}", dir.display()))
    }
}

/// Makes a folder, and those above it, that only their owner may look into.
fn private_dir(dir: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// A folder for all processes of a pod. One that is there keeps what it is: its containers may
/// have changed it.
fn make_shared(dir: &Path, group: Option<u32>) -> Result<(), String> {
    let text = |error: io::Error| error.to_string();
    match fs::symlink_metadata(dir) {
        Ok(meta) if meta.is_dir() => return Ok(()),
        Ok(_) => return Err(format!("{} is not a folder", dir.display())),
        Err(_) => {}
    }
    if let Some(above) = dir.parent() {
        private_dir(above).map_err(text)?;
    }
    // Under another name until it is as it should be.
    let mut fresh = dir.as_os_str().to_owned();
    fresh.push(".new~");
    let fresh = PathBuf::from(fresh);
    match fs::DirBuilder::new().mode(0o700).create(&fresh) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(text(error)),
        _ => {}
    }
    open_to_all(&fresh, SHARED, group).map_err(text)?;
    fs::rename(&fresh, dir).map_err(text)
}

fn wrong_type(host: &HostPath) -> String {
    // **Source**: `checkTypeInternal` and `MakeDir`.
    let is = match host.kind.as_str() {
        "File" | "FileOrCreate" => "a file",
        "Socket" => "a socket file",
        "CharDevice" => "a character device",
        "BlockDevice" => "a block device",
        "" => return format!("hostPath {:?} does not exist", host.path),
        _ => "a directory",
    };
    format!("hostPath type check failed: {} is not {is}", host.path)
}

fn make_file(root: &Path, rest: &Path) -> io::Result<PathBuf> {
    let (Some(above), Some(name)) = (rest.parent(), rest.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let above = if above.as_os_str().is_empty() { Path::new(".") } else { above };
    let above = beneath::resolve(root, above)?.ok_or(io::ErrorKind::NotFound)?;
    let path = above.join(name);
    match fs::File::create_new(&path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(path),
    }
}

fn open_to_all(dir: &Path, mode: u32, group: Option<u32>) -> io::Result<()> {
    let mut mode = mode;
    if let Some(group) = group {
        // **Source**: `SetVolumeOwnership` in `pkg/volume/volume_linux.go`.
        mode |= 0o2050;
        if let Err(error) = std::os::unix::fs::lchown(dir, None, Some(group)) {
            tracing::debug!(group, %error, "folder not given to the fsGroup");
        }
    }
    fs::set_permissions(dir, fs::Permissions::from_mode(mode))
}

/// Bytes that a folder takes on disk, links counted once.
fn used(dir: &Path) -> u64 {
    let (mut bytes, mut entries) = (0_u64, 0_usize);
    let mut seen = BTreeSet::new();
    let mut folders = vec![dir.to_owned()];
    while let Some(folder) = folders.pop() {
        // What cannot be read, or went meanwhile, does not count.
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return u64::MAX;
            }
            let Ok(meta) = entry.metadata() else { continue };
            if meta.is_dir() {
                folders.push(entry.path());
            }
            if meta.nlink() < 2 || meta.is_dir() || seen.insert((meta.dev(), meta.ino())) {
                bytes = bytes.saturating_add(meta.blocks().saturating_mul(512));
            }
        }
    }
    bytes
}

/// Removes a folder with all that is in it, if it is there. Never follows a symlink; folders that
/// their owner may not look into are opened first.
pub fn remove_tree(dir: &Path) -> io::Result<()> {
    let meta = match fs::symlink_metadata(dir) {
        Ok(meta) => meta,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    if !meta.is_dir() {
        return fs::remove_file(dir);
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            unlock(dir)?;
            fs::remove_dir_all(dir)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        done => done,
    }
}

/// Lets the owner into a folder and all folders in it.
fn unlock(dir: &Path) -> io::Result<()> {
    fs::set_permissions(dir, fs::Permissions::from_mode(0o700))?;
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            unlock(&entry.path())?;
        }
    }
    Ok(())
}
