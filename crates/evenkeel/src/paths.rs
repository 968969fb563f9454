//! Where files are.

use std::{
    fs::{self, File},
    io::{
        self,
        ErrorKind::{AlreadyExists, QuotaExceeded, StorageFull},
    },
    net::{TcpStream, ToSocketAddrs as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, bail};
use serde_json::Value;

use crate::up::CONSOLE;

/// Longest wait for a connection to an `up`, which is on this machine.
const PROBE_TIMEOUT: Duration = Duration::from_millis(300);

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
///
/// **Errors**: it cannot be made, or nothing can be made in it.
pub(crate) fn data_dir(given: Option<&Path>) -> anyhow::Result<PathBuf> {
    let dir = named(given)?;
    let made = fs::create_dir_all(&dir).and_then(|()| dir.canonicalize());
    made.and_then(|dir| try_out(&dir).map(|()| dir)).with_context(|| {
        format!(
            "nothing can be kept in the data folder {}: let this user write there, or name another \
             folder with --data-dir",
            dir.display()
        )
    })
}

/// Makes a file and removes it: rights alone do not say whether a file system can be written.
fn try_out(dir: &Path) -> io::Result<()> {
    let file = dir.join(format!(".try-{}", std::process::id()));
    match File::create_new(&file) {
        Ok(_) => fs::remove_file(&file),
        // What is there already is enough, also for a record that waits for room.
        Err(error) if matches!(error.kind(), StorageFull | QuotaExceeded) => Ok(()),
        Err(error) if error.kind() == AlreadyExists => fs::remove_file(&file),
        Err(error) => Err(error),
    }
}

/// The kubeconfig of the `evenkeel up` of this folder; without a folder, of a running one, unless
/// the environment or the home folder has another cluster.
pub(crate) fn kubeconfig_of_up(data_dir: Option<&Path>) -> Option<PathBuf> {
    let file = existing_data_dir(data_dir).ok()?.join("kubeconfig");
    if data_dir.is_some() {
        return file.exists().then_some(file);
    }
    let found = named_cluster().is_none() && !has_home_cluster();
    (found && is_alive(&server(&fs::read_to_string(&file).ok()?)?)).then_some(file)
}

/// Where the `evenkeel up` of this folder serves its metrics, or did so.
///
/// **Errors**: no `up` has written it there.
pub(crate) fn console_of_up(data_dir: Option<&Path>) -> anyhow::Result<String> {
    let file = existing_data_dir(data_dir)?.join(CONSOLE);
    fs::read_to_string(&file).with_context(|| {
        let dir = file.parent().unwrap_or(&file).display();
        format!(
            "no `evenkeel up` is running in {dir}: start it, name the folder of another one with \
             --data-dir, or a Prometheus with --prometheus"
        )
    })
}

/// Where the running `evenkeel up` of this folder serves its metrics.
///
/// **Errors**: none is running there.
pub(crate) fn console_of_running_up(data_dir: Option<&Path>) -> anyhow::Result<String> {
    let url = console_of_up(data_dir)?;
    if !is_alive(&url) {
        bail!(
            "no `evenkeel up` is running in {}: its metrics at {url} do not answer; start it, name \
             the folder of another one with --data-dir, or a Prometheus with --prometheus",
            existing_data_dir(data_dir)?.display()
        );
    }
    Ok(url)
}

/// Whether this is the folder that commands use that are given none.
pub(crate) fn is_usual(data_dir: &Path) -> bool {
    let usual = named(None).and_then(|dir| Ok(dir.canonicalize()?));
    usual.is_ok_and(|usual| data_dir.canonicalize().is_ok_and(|given| given == usual))
}

/// Where a running `evenkeel up` in the usual folder serves its metrics.
pub(crate) fn running_console() -> Option<String> {
    console_of_up(None).ok().filter(|url| is_alive(url))
}

/// The kubeconfig that the environment names, or several with colons between them.
pub(crate) fn named_cluster() -> Option<PathBuf> {
    std::env::var_os("KUBECONFIG").filter(|list| !list.is_empty()).map(PathBuf::from)
}

/// Whether this is the kubeconfig that the `up` in the usual folder has written.
pub(crate) fn is_of_up(kubeconfig: &Path) -> bool {
    let own = named(None).and_then(|dir| Ok(dir.join("kubeconfig").canonicalize()?));
    own.is_ok_and(|own| kubeconfig.canonicalize().is_ok_and(|given| given == own))
}

/// Whether kubectl has one by default.
pub(crate) fn has_home_cluster() -> bool {
    std::env::home_dir().is_some_and(|home| home.join(".kube").join("config").exists())
}

/// The API server of a kubeconfig with one cluster, which is what `up` writes.
fn server(kubeconfig: &str) -> Option<String> {
    let file: Value = serde_saphyr::from_str(kubeconfig).ok()?;
    file.pointer("/clusters/0/cluster/server")?.as_str().map(str::to_owned)
}

/// Whether a server listens at this address. What `up` has written stays when it ends.
fn is_alive(url: &str) -> bool {
    let Ok(url) = url.trim().parse::<http::Uri>() else { return false };
    let Some((host, port)) = url.host().zip(url.port_u16()) else { return false };
    let host = host.trim_matches(['[', ']']);
    let Ok(found) = (host, port).to_socket_addrs() else { return false };
    found.into_iter().any(|address| TcpStream::connect_timeout(&address, PROBE_TIMEOUT).is_ok())
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

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn only_an_address_with_a_listener_is_alive() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        assert!(is_alive(&url));
        assert!(is_alive(&url.replace("http:", "https:")));
        drop(listener);
        assert!(!is_alive(&url));
        for text in ["", "nonsense", "http://127.0.0.1", "http://no such host:1"] {
            assert!(!is_alive(text), "{text}");
        }
        let kubeconfig = "clusters:\n- name: up\n  cluster: {server: 'https://127.0.0.1:6443'}\n";
        assert_eq!(server(kubeconfig).as_deref(), Some("https://127.0.0.1:6443"));
        assert_eq!(server("no kubeconfig"), None);
    }
}
