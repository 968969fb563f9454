use std::time::Duration;

use evenkeel_base::Rng;
use jiff::Timestamp;

use crate::Settings;

/// One request, as far as the answer depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request<'a> {
    /// Which one it is at this instance, from 1.
    pub number: u64,
    /// HTTP method.
    pub method: &'a str,
    /// Path without query.
    pub path: &'a str,
}

/// What the workload does with a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// How long it takes.
    pub latency: Duration,
    /// JSON.
    pub body: String,
    /// Whether the request has an effect, to be done once per Idempotency-Key. A failing answer
    /// has none: a release that answers 500 fails before it executes.
    pub executes: bool,
}

/// How often slow requests differ from each other: they take this share more at most.
const SLOW_SPREAD: f64 = 0.1;

/// What an instance with these settings answers. Pure: the server and the simulator share it.
///
/// Draws three numbers from `rng` for every request, whatever the settings, so that two versions
/// under the same seed get the same random numbers. `/health` and `/ready` draw nothing and never
/// fail.
pub fn respond(
    settings: &Settings,
    request: &Request<'_>,
    now: Timestamp,
    rng: &mut Rng,
) -> Answer {
    if matches!(request.path, "/health" | "/healthz" | "/ready" | "/readyz") {
        let body = r#"{"status":"ok"}"#.to_owned();
        return Answer { status: 200, latency: Duration::ZERO, body, executes: false };
    }
    let (jitter, failing, slow) = (rng.unit(), rng.unit(), rng.unit());
    // A clock that stepped back means: the fault has not begun.
    let age = Duration::try_from(now.duration_since(settings.started)).unwrap_or_default();
    let faulty = age >= settings.fault_after;
    let fails = faulty && failing < settings.error_rate;
    let is_post = request.method == "POST";

    let mut latency = settings.latency.mul_f64(0.5 + jitter);
    if faulty && slow < settings.slow_rate {
        latency += settings.slow.mul_f64(1.0 + SLOW_SPREAD * jitter);
    }
    if is_post && !fails {
        latency += settings.post;
    }
    let (status, error) = if fails { (500, r#","error":"injected""#) } else { (200, "") };
    let body = format!(
        r#"{{"service":{:?},"version":{:?},"request":{}{error}}}"#,
        settings.service, settings.version, request.number
    );
    Answer { status, latency, body, executes: is_post && !fails }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    /// Columns: method, path, age in ms; then settings.
    fn row(request: &str, settings: &str) -> String {
        let env = |name: &str| {
            settings
                .split_whitespace()
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.to_owned())
        };
        let settings = Settings::parse(env, Timestamp::UNIX_EPOCH).unwrap();
        let words: Vec<&str> = request.split_whitespace().collect();
        let now = Timestamp::from_millisecond(words[2].parse().unwrap()).unwrap();
        let request = Request { number: 1, method: words[0], path: words[1] };
        let answer = respond(&settings, &request, now, &mut Rng::new(1));
        let executes = if answer.executes { " executes" } else { "" };
        format!("{} {:?}{executes}", answer.status, answer.latency)
    }

    #[test]
    fn answers_follow_the_settings() {
        assert_snapshot!(row("GET /health 0", "ERROR_RATE=1 LATENCY_MS=50"), @"200 0ns");
        assert_snapshot!(row("GET /a 0", "LATENCY_MS=10"), @"200 10.665616ms");
        assert_snapshot!(row("GET /a 0", "LATENCY_MS=10 SLOW_RATE=1 SLOW_MS=800"), @"200 855.990542ms");
        assert_snapshot!(row("GET /a 0", "LATENCY_MS=10 ERROR_RATE=1 VERSION=2"), @"500 10.665616ms");
        assert_snapshot!(row("POST /a 0", "LATENCY_MS=10 POST_MS=100"), @"200 110.665616ms executes");
        assert_snapshot!(row("POST /a 0", "LATENCY_MS=10 POST_MS=100 ERROR_RATE=1"), @"500 10.665616ms");
        assert_snapshot!(row("GET /a 999", "ERROR_RATE=1 FAULT_AFTER_MS=1000"), @"200 1.066562ms");
        assert_snapshot!(row("GET /a 1000", "ERROR_RATE=1 FAULT_AFTER_MS=1000"), @"500 1.066562ms");
    }

    #[test]
    fn the_body_says_which_version_answered() {
        let env = |name: &str| (name == "VERSION").then(|| "1.2".to_owned());
        let settings = Settings::parse(env, Timestamp::UNIX_EPOCH).unwrap();
        let request = Request { number: 9, method: "GET", path: "/" };
        let body = respond(&settings, &request, Timestamp::UNIX_EPOCH, &mut Rng::new(1)).body;
        assert_eq!(body, r#"{"service":"api","version":"1.2","request":9}"#);
    }

    #[test]
    fn the_share_of_errors_is_the_one_asked_for() {
        let env = |name: &str| (name == "ERROR_RATE").then(|| "0.05".to_owned());
        let settings = Settings::parse(env, Timestamp::UNIX_EPOCH).unwrap();
        let mut rng = Rng::new(7);
        let failed = (0..20_000)
            .map(|number| Request { number, method: "GET", path: "/" })
            .filter(|request| {
                respond(&settings, request, Timestamp::UNIX_EPOCH, &mut rng).status == 500
            })
            .count();
        assert!((900..1100).contains(&failed), "{failed}");
    }
}
