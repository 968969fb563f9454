//! Volumes: what lies in them, and where they lie on this machine.
//!
//! ```text
//! Pod, ConfigMaps, Secrets, claims --wanted (pure)--> Wanted per volume --Disk--> folders
//!                                                                          |
//! volumeMounts of a container --Disk::mounts (subPath below the volume)----+--> Mount
//! ```
//! **Shape** on disk, as the kubelet has it: `ROOT/pods/UID/.volumes/kubernetes.io~KIND/NAME`. The
//! folders of claims lie beside the nodes, below a root of their own, and outlive pods and agents.
//!
//! Nothing is mounted here: a runtime gets [`crate::runtime::Mount`]s. Not here: attaching,
//! formatting and resizing of disks, and every kind of volume that is not a folder of this machine.

mod atomic;
mod beneath;
mod claims;
mod disk;
mod fields;
mod mounts;
mod payload;
mod projected;
mod tokens;
mod view;
mod wanted;

#[cfg(test)]
mod tests;

use std::path::PathBuf;

pub(crate) use claims::release;
pub use disk::remove_tree;
pub(crate) use disk::{Disk, PodOf};
pub(crate) use fields::resource_value;
pub(crate) use projected::tokens as tokens_of;
pub use tokens::{NoTokens, TokenWanted, Tokens};
pub(crate) use view::{Sources, Wanted};
pub(crate) use wanted::{references, wanted};

/// Where an agent keeps volumes, and what of this machine pods may see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumeSettings {
    /// Where this node keeps its files.
    pub root: PathBuf,
    /// Where the folders of claims lie; all nodes of a machine may share it.
    pub claims: PathBuf,
    /// Folders below which `hostPath` may point.
    pub host_paths: Vec<PathBuf>,
}
