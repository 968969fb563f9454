//! Where the cluster is: a kubeconfig file, a list of them, or a pod's service account.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{answer::chain, settings::LiveSettings, store::KubeStore};

/// Why there is no connection to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {problem}")]
    Config {
        /// Its path, or where it was looked for.
        path: String,
        /// The reader's words.
        problem: String,
    },
    /// TLS or the like could not be set up.
    #[error("client for {path}: {problem}")]
    Client {
        /// Path of the kubeconfig.
        path: String,
        /// The library's words.
        problem: String,
    },
}

/// Connects with a kubeconfig file, or with what the environment offers (`KUBECONFIG`, the home
/// folder, a pod's service account) when there is none.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<KubeStore, ConnectError> {
    connect_with(kubeconfig, LiveSettings::default()).await
}

/// [`connect`] with other limits than the usual ones.
pub async fn connect_with(
    kubeconfig: Option<&Path>,
    settings: LiveSettings,
) -> Result<KubeStore, ConnectError> {
    let listed = std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty());
    let path = match (kubeconfig, &listed) {
        (Some(file), _) => file.display().to_string(),
        (None, Some(list)) => format!("$KUBECONFIG ({})", list.display()),
        (None, None) => "from the environment".to_owned(),
    };
    let bad = |problem: String| ConnectError::Config { path: path.clone(), problem };
    let read = |error: KubeconfigError| bad(chain(&error));
    let options = KubeConfigOptions::default();
    let config = match (kubeconfig, &listed) {
        (Some(file), _) => {
            let file = Kubeconfig::read_from(file).map_err(read)?;
            Config::from_custom_kubeconfig(file, &options).await.map_err(read)?
        }
        (None, Some(list)) => {
            let merged = merge(list).map_err(bad)?;
            Config::from_custom_kubeconfig(merged, &options).await.map_err(read)?
        }
        (None, None) => Config::infer().await.map_err(|error| bad(chain(&error)))?,
    };
    KubeStore::new(config, settings)
        .map_err(|error| ConnectError::Client { path, problem: chain(&error) })
}

/// Reads a list of files as kubectl does: those that are not there are passed over, the first to
/// set a value wins.
fn merge(list: &OsStr) -> Result<Kubeconfig, String> {
    let named: Vec<PathBuf> =
        std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect();
    let mut merged: Option<Kubeconfig> = None;
    for path in named.iter().filter(|path| path.exists()) {
        let told = |error: KubeconfigError| format!("{}: {}", path.display(), chain(&error));
        let next = Kubeconfig::read_from(path).map_err(told)?;
        merged = Some(match merged {
            Some(first) => first.merge(next).map_err(told)?,
            None => next,
        });
    }
    merged.ok_or_else(|| {
        "none of these files exists: correct KUBECONFIG, or name a file with --kubeconfig".into()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(dir: &Path, name: &str, server: &str) -> PathBuf {
        let path = dir.join(name);
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: {name}\n\
             contexts: [{{name: {name}, context: {{cluster: {name}, user: {name}}}}}]\n\
             clusters: [{{name: {name}, cluster: {{server: '{server}'}}}}]\n\
             users: [{{name: {name}, user: {{}}}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    #[test]
    fn a_list_is_merged_and_missing_files_are_passed_over() {
        let dir = std::env::temp_dir().join(format!("evenkeel-kubeconfig-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let missing = dir.join("missing");
        let one = file(&dir, "one", "http://one.test:1");
        let two = file(&dir, "two", "http://two.test:2");
        let list = |paths: &[&PathBuf]| std::env::join_paths(paths).unwrap();
        let merged = merge(&list(&[&missing, &one, &two])).unwrap();
        assert_eq!(merged.current_context.as_deref(), Some("one"));
        assert_eq!(merged.clusters.len(), 2);
        let none = merge(&list(&[&missing])).unwrap_err();
        assert!(none.starts_with("none of these files exists"), "{none}");
        std::fs::write(&missing, "clusters: 3").unwrap();
        let broken = merge(&list(&[&one, &missing])).unwrap_err();
        assert!(broken.contains("missing: "), "{broken}");
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
