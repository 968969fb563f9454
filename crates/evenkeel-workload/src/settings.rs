use std::{path::PathBuf, time::Duration};

use jiff::Timestamp;

/// How an instance of the workload behaves; read from its environment.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// `VERSION`: the version that it reports.
    pub version: String,
    /// `SERVICE`: the `service` label of its metrics.
    pub service: String,
    /// `POD_NAME`: sent in header `X-Pod` and written to the ledger.
    pub pod: String,
    /// `ERROR_RATE`: share of requests answered 500, from 0 to 1.
    pub error_rate: f64,
    /// `SLOW_RATE`: share of requests that take `slow` longer, from 0 to 1.
    pub slow_rate: f64,
    /// `SLOW_MS`.
    pub slow: Duration,
    /// `LATENCY_MS`: what a request takes on average.
    pub latency: Duration,
    /// `POST_MS`: what executing a POST takes on top.
    pub post: Duration,
    /// `FAULT_AFTER_MS`: errors and slowness begin this long after `started`.
    pub fault_after: Duration,
    /// `LEDGER`: the append-only file of executed POSTs, shared by all instances.
    pub ledger: Option<PathBuf>,
    /// `GRACEFUL`: on SIGTERM finish what is being answered instead of exiting at once.
    pub graceful: bool,
    /// When this instance began.
    pub started: Timestamp,
}

/// Why an environment variable was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{name}={value:?} {problem}")]
pub struct SettingsError {
    /// The variable.
    pub name: &'static str,
    /// Its value.
    pub value: String,
    /// What it should be.
    pub problem: &'static str,
}

impl Settings {
    /// Reads settings through `env`; an unset variable takes its default.
    ///
    /// **Errors**: a share outside 0 to 1, or a time that is not a whole number of milliseconds.
    pub fn parse(
        env: impl Fn(&str) -> Option<String>,
        started: Timestamp,
    ) -> Result<Self, SettingsError> {
        let text = |name: &str, default: &str| env(name).unwrap_or_else(|| default.to_owned());
        let share = |name| {
            parse(&env, name, 0.0, "is not a share from 0 to 1", |share: &f64| {
                (0.0..=1.0).contains(share)
            })
        };
        let millis = |name, default| {
            let problem = "is not a number of milliseconds below 10 minutes";
            parse(&env, name, default, problem, |ms| *ms <= 600_000).map(Duration::from_millis)
        };
        Ok(Self {
            version: text("VERSION", "1"),
            service: text("SERVICE", "api"),
            pod: text("POD_NAME", "local"),
            error_rate: share("ERROR_RATE")?,
            slow_rate: share("SLOW_RATE")?,
            slow: millis("SLOW_MS", 800)?,
            latency: millis("LATENCY_MS", 1)?,
            post: millis("POST_MS", 20)?,
            fault_after: millis("FAULT_AFTER_MS", 0)?,
            ledger: env("LEDGER").filter(|path| !path.is_empty()).map(PathBuf::from),
            graceful: parse(&env, "GRACEFUL", false, "is neither true nor false", |_| true)?,
            started,
        })
    }
}

fn parse<T: std::str::FromStr>(
    env: impl Fn(&str) -> Option<String>,
    name: &'static str,
    default: T,
    problem: &'static str,
    fits: impl Fn(&T) -> bool,
) -> Result<T, SettingsError> {
    let Some(value) = env(name).filter(|value| !value.is_empty()) else { return Ok(default) };
    match value.trim().parse::<T>() {
        Ok(parsed) if fits(&parsed) => Ok(parsed),
        _ => Err(SettingsError { name, value, problem }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Settings, SettingsError> {
        let env = |name: &str| {
            text.split_whitespace()
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        Settings::parse(env, Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn what_is_not_set_takes_its_default_and_nonsense_is_named() {
        let settings = read("VERSION=2 ERROR_RATE=0.05 SLOW_MS=400 GRACEFUL=true").unwrap();
        assert_eq!((settings.version.as_str(), settings.error_rate), ("2", 0.05));
        assert_eq!((settings.slow.as_millis(), settings.graceful), (400, true));
        assert_eq!(settings.service, "api");
        for (text, says) in [
            ("ERROR_RATE=5", "ERROR_RATE=\"5\" is not a share from 0 to 1"),
            ("SLOW_RATE=NaN", "SLOW_RATE=\"NaN\" is not a share from 0 to 1"),
            ("POST_MS=-1", "POST_MS=\"-1\" is not a number of milliseconds below 10 minutes"),
            ("GRACEFUL=maybe", "GRACEFUL=\"maybe\" is neither true nor false"),
        ] {
            assert_eq!(read(text).unwrap_err().to_string(), says);
        }
    }
}
