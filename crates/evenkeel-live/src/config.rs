//! Where the cluster is: a kubeconfig file, a list of them, or a pod's service account.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
};

use kube::{
    Config,
    config::{KubeConfigOptions, Kubeconfig, KubeconfigError},
};

use crate::{settings::LiveSettings, store::KubeStore, words::chain};

/// Why there is no connection to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {problem}")]
    Config {
        /// Its path, or where it was looked for.
        path: String,
        /// The message of the reader.
        problem: String,
    },
    /// TLS or another part could not be set up.
    #[error("client for {path}: {problem}")]
    Client {
        /// Path of the kubeconfig.
        path: String,
        /// The message of the library.
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
    let (path, config) = match (kubeconfig, listed) {
        (Some(file), _) => (file.display().to_string(), of_file(file).await),
        (None, Some(list)) => {
            let merged = merge(&list);
            let config = match merged {
                Ok(merged) => config(merged).await,
                Err(problem) => Err(problem),
            };
            (format!("$KUBECONFIG ({})", list.display()), config)
        }
        (None, None) => of_home_or_pod(std::env::home_dir()).await,
    };
    let config = config.map_err(|problem| ConnectError::Config { path: path.clone(), problem })?;
    KubeStore::new(config, settings)
        .map_err(|error| ConnectError::Client { path, problem: error.to_string() })
}

async fn of_file(file: &Path) -> Result<Config, String> {
    config(Kubeconfig::read_from(file).map_err(|error| chain(&error))?).await
}

/// The current context of a kubeconfig.
async fn config(kubeconfig: Kubeconfig) -> Result<Config, String> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    config.map_err(|error| chain(&error))
}

/// kubectl's usual file, or what a pod has, and where it was looked for. `Config::infer` of kube
/// does the same, and logs the lines of a file that it cannot read.
async fn of_home_or_pod(home: Option<PathBuf>) -> (String, Result<Config, String>) {
    let file = home.map(|home| home.join(".kube").join("config")).filter(|file| file.exists());
    let pod = Config::incluster();
    match (file, pod) {
        (Some(file), pod) => {
            let config = of_file(&file).await;
            (file.display().to_string(), config.or_else(|problem| pod.map_err(|_| problem)))
        }
        (None, Ok(pod)) => ("of this pod".to_owned(), Ok(pod)),
        (None, Err(error)) => {
            let problem =
                format!("there is no ~/.kube/config, and this is not a pod ({})", chain(&error));
            ("from the environment".to_owned(), Err(problem))
        }
    }
}

/// Reads a list of files as kubectl does: missing files are skipped, the first to set a value wins.
fn merge(list: &OsStr) -> Result<Kubeconfig, String> {
    let named: Vec<PathBuf> =
        std::env::split_paths(list).filter(|path| !path.as_os_str().is_empty()).collect();
    let mut merged: Option<Kubeconfig> = None;
    for path in named.iter().filter(|path| path.exists()) {
        let failed = |error: KubeconfigError| format!("{}: {}", path.display(), chain(&error));
        let next = Kubeconfig::read_from(path).map_err(failed)?;
        merged = Some(match merged {
            Some(first) => first.merge(next).map_err(failed)?,
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
    fn a_list_is_merged_and_missing_files_are_skipped() {
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
