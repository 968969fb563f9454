//! Who we are to an API server, when that stands in files: they are replaced while we run.

use std::{
    path::PathBuf,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use http::HeaderValue;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::connect;
use kube::{Config, client::ConfigExt as _};
use tracing::warn;

use crate::{
    connector::{Bounded, tcp},
    settings::LiveSettings,
    words::describe,
};

/// A connector with our certificate.
pub(crate) type Connector = Bounded<HttpsConnector<connect::HttpConnector>>;

/// The certificate and token of a client. Looking whether a file is another one costs microseconds,
/// so it is done at each request: whoever replaces a credential may withdraw the old one at once.
pub(crate) struct Identity {
    config: Config,
    settings: LiveSettings,
    token: Option<PathBuf>,
    /// Certificate and key, as far as they stand in files.
    files: Vec<PathBuf>,
    seen: Mutex<Seen>,
}

struct Seen {
    files: Vec<Option<Stamp>>,
    connector: Connector,
    /// What was logged last about files that are no use.
    problem: String,
}

/// What tells one content of a file from the next.
type Stamp = (SystemTime, u64);

impl Identity {
    /// Takes the token file out of `config`, which would be read once a minute.
    pub(crate) fn new(config: &mut Config, settings: &LiveSettings) -> Result<Self, kube::Error> {
        let user = &mut config.auth_info;
        let is_file_used = user.token.is_none() && user.auth_provider.is_none();
        let token = user.token_file.take_if(|_| is_file_used).map(PathBuf::from);
        let inline = user.client_certificate_data.is_some();
        let files = [&user.client_certificate, &user.client_key].into_iter().flatten();
        let files: Vec<PathBuf> = files.filter(|_| !inline).map(PathBuf::from).collect();
        let stamps = stamps(&files);
        let connector = connector(config, settings)?;
        let seen = Mutex::new(Seen { files: stamps, connector, problem: String::new() });
        Ok(Self { config: config.clone(), settings: settings.clone(), token, files, seen })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn connector(&self) -> Connector {
        self.seen().connector.clone()
    }

    /// Whether another certificate is in use from now on. Until a new one and its key fit together
    /// the old one stays.
    pub(crate) fn renew(&self) -> bool {
        let now = stamps(&self.files);
        let mut seen = self.seen();
        if seen.files == now {
            return false;
        }
        match connector(&self.config, &self.settings) {
            Ok(connector) => {
                *seen = Seen { files: now, connector, problem: String::new() };
                true
            }
            Err(error) => {
                let problem = describe(&error, None);
                if seen.problem != problem {
                    warn!(error = problem, "the new client certificate cannot be used");
                    seen.problem = problem;
                }
                false
            }
        }
    }

    /// The present token, as a header; `None` when none is in a file.
    pub(crate) fn bearer(&self) -> Result<Option<HeaderValue>, String> {
        let Some(path) = &self.token else { return Ok(None) };
        let text = std::fs::read_to_string(path)
            .map_err(|error| format!("token file {}: {error}", path.display()))?;
        let mut value = HeaderValue::from_str(&format!("Bearer {}", text.trim()))
            .map_err(|_| format!("token file {}: it holds no token", path.display()))?;
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

fn stamps(files: &[PathBuf]) -> Vec<Option<Stamp>> {
    let stamp = |path: &PathBuf| {
        let found = std::fs::metadata(path).ok()?;
        Some((found.modified().ok()?, found.len()))
    };
    files.iter().map(stamp).collect()
}

fn connector(config: &Config, settings: &LiveSettings) -> Result<Connector, kube::Error> {
    let connector = config.rustls_https_connector_with_connector(tcp(settings))?;
    Ok(Bounded { connector, limit: settings.connect })
}
