//! What the built-in load tester understands: `hey` command lines, read without a shell.

use std::{ops::RangeInclusive, time::Duration};

use evenkeel_base::{format_duration, parse_duration};

/// Longest run: a load test that is not stopped ends by itself.
const DURATION_MAX: Duration = Duration::from_hours(1);
/// Concurrent workers at most; `hey` itself defaults to 50.
const WORKERS_MAX: u32 = 1000;
/// Requests per second of one worker, when it has a rate: a request every quarter of an hour to
/// one every tenth of a millisecond, which is all that a timer can do.
const RATES: RangeInclusive<f64> = 0.001..=10_000.0;

/// Requests to send, by whoever has sockets.
#[derive(Debug, Clone, PartialEq)]
pub struct LoadPlan {
    /// Where to.
    pub url: String,
    /// HTTP method.
    pub method: String,
    /// Headers in the order given.
    pub headers: Vec<(String, String)>,
    /// Request body.
    pub body: String,
    /// Concurrent workers.
    pub workers: u32,
    /// Requests per second of each worker; `None` is as fast as answers come.
    pub rate_per_worker: Option<f64>,
    /// Requests of all workers together; `None` is as many as fit into `duration`.
    pub requests: Option<u64>,
    /// Longest duration of the whole run.
    pub duration: Duration,
    /// Longest wait for one answer.
    pub timeout: Duration,
    /// What was asked for and is not done, in words; empty when all of it is.
    pub limits: Vec<String>,
}

/// Why a command is not run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("load test {command:?}: {problem}")]
pub struct LoadError {
    /// The command as given.
    pub command: String,
    /// What is wrong, and what would be right.
    pub problem: String,
}

/// Reads a `hey` command line. Nothing is ever run through a shell, and no file is read.
///
/// **Source**: the options of `hey` 0.1.4.
///
/// **Errors**: another program, shell syntax, an unknown or unsafe option, no URL.
pub fn plan(cmd: &str) -> Result<LoadPlan, LoadError> {
    read(cmd).map_err(|problem| LoadError { command: cmd.to_owned(), problem })
}

fn read(cmd: &str) -> Result<LoadPlan, String> {
    let mut words = split(cmd)?.into_iter();
    match words.next().as_deref() {
        Some("hey") => {}
        Some(other) => {
            return Err(format!("{other:?} is not run here; only `hey [options] URL` is"));
        }
        None => return Err("it is empty; write `hey [options] URL`".to_owned()),
    }
    let mut plan = LoadPlan {
        url: String::new(),
        method: "GET".to_owned(),
        headers: Vec::new(),
        body: String::new(),
        workers: 50,
        rate_per_worker: None,
        requests: Some(200),
        duration: DURATION_MAX,
        timeout: Duration::from_secs(20),
        limits: Vec::new(),
    };
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            if !plan.url.is_empty() {
                return Err(format!(
                    "{word:?} is an unexpected argument after the URL {}",
                    plan.url
                ));
            }
            plan.url = word;
            continue;
        };
        let (name, inline) = match option.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (option, None),
        };
        if matches!(name, "disable-compression" | "disable-keepalive" | "disable-redirects") {
            continue;
        }
        let missing = || format!("option -{name} needs a value");
        let value = inline.or_else(|| words.next()).ok_or_else(missing)?;
        take(&mut plan, name, value)?;
    }
    if !plan.url.starts_with("http://") && !plan.url.starts_with("https://") {
        return Err(format!("{:?} is not an http:// or https:// URL", plan.url));
    }
    Ok(plan)
}

fn take(plan: &mut LoadPlan, name: &str, value: String) -> Result<(), String> {
    let wrong = |what: &str| format!("option -{name} {value:?} is not {what}");
    match name {
        "z" => {
            let duration = parse_duration(&value).map_err(|error| error.to_string())?;
            // As in hey: no time at all is as if it were not there.
            if !duration.is_zero() {
                plan.duration = limited(plan, "-z", duration);
                plan.requests = None;
            }
        }
        // As in hey: a duration wins over a number.
        "n" => {
            let requests: u64 = value.parse().map_err(|_| wrong("a number of requests"))?;
            if requests == 0 {
                return Err(wrong("a number from 1 on"));
            }
            plan.requests = plan.requests.and(Some(requests));
        }
        "c" => {
            let workers: u32 = value.parse().map_err(|_| wrong("a number of workers"))?;
            if workers == 0 || workers > WORKERS_MAX {
                return Err(wrong(&format!("from 1 to {WORKERS_MAX}")));
            }
            plan.workers = workers;
        }
        "q" => {
            let rate: f64 = value.parse().map_err(|_| wrong("a number of requests per second"))?;
            // As in hey: 0 means unlimited.
            let is_unlimited = rate == 0.0;
            if !is_unlimited && !RATES.contains(&rate) {
                let (min, max) = (RATES.start(), RATES.end());
                return Err(wrong(&format!("from {min} to {max}, or 0 for no limit")));
            }
            plan.rate_per_worker = (!is_unlimited).then_some(rate);
        }
        "t" => {
            let seconds: u64 = value.parse().map_err(|_| wrong("a number of seconds"))?;
            plan.timeout = match seconds {
                0 => DURATION_MAX,
                seconds => limited(plan, "-t", Duration::from_secs(seconds)),
            };
        }
        "m" => {
            if value.is_empty() || !value.bytes().all(is_token) {
                return Err(wrong("an HTTP method"));
            }
            plan.method = value;
        }
        "d" => plan.body = value,
        "H" => {
            let (header, text) =
                value.split_once(':').ok_or_else(|| wrong("a header like 'Name: value'"))?;
            let (header, text) = (header.trim(), text.trim());
            if header.is_empty() || !header.bytes().all(is_token) {
                return Err(wrong("a header like 'Name: value'"));
            }
            push_header(plan, header, text).map_err(wrong)?;
        }
        "host" => push_header(plan, "Host", &value).map_err(wrong)?,
        "T" => push_header(plan, "Content-Type", &value).map_err(wrong)?,
        "A" => push_header(plan, "Accept", &value).map_err(wrong)?,
        "U" => push_header(plan, "User-Agent", &value).map_err(wrong)?,
        "cpus" => {}
        "D" | "o" | "x" | "a" | "h2" => {
            return Err(format!("option -{name} is not supported by the built-in load tester"));
        }
        _ => {
            let known = "-z -n -q -c -m -H -d -t -T -A -U -host";
            return Err(format!("option -{name} is unknown; known are {known}"));
        }
    }
    Ok(())
}

/// A duration within the longest one; says so in the plan when it was longer.
fn limited(plan: &mut LoadPlan, option: &str, asked: Duration) -> Duration {
    if asked > DURATION_MAX {
        let (asked, max) = (format_duration(asked), format_duration(DURATION_MAX));
        plan.limits.push(format!("{option} {asked} is cut to {max}"));
    }
    asked.min(DURATION_MAX)
}

/// Whether a byte may stand in a method or in the name of a header.
///
/// **Source**: RFC 9110, section 5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn push_header(plan: &mut LoadPlan, name: &str, value: &str) -> Result<(), &'static str> {
    if value.chars().any(|c| c.is_control() && c != '\t') {
        return Err("a header without control characters");
    }
    plan.headers.push((name.to_owned(), value.to_owned()));
    Ok(())
}

/// Splits into words as a shell would for quotes, and refuses what only a shell could do.
fn split(cmd: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    let mut word: Option<String> = None;
    let mut quote: Option<char> = None;
    let mut chars = cmd.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), _) if c == open => quote = None,
            (Some('"') | None, '\\') => {
                word.get_or_insert_default().extend(chars.next());
            }
            (Some('"') | None, '$' | '`') | (None, '|' | ';' | '&' | '<' | '>' | '\n') => {
                return Err(format!(
                    "{c:?} is shell syntax, and there is no shell here; quote it if it is meant \
                     literally"
                ));
            }
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_default();
            }
            (None, _) if c.is_whitespace() => words.extend(word.take()),
            (Some(_) | None, _) => word.get_or_insert_default().push(c),
        }
    }
    if quote.is_some() {
        return Err("a quote is not closed".to_owned());
    }
    words.extend(word);
    Ok(words)
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn show(cmd: &str) -> String {
        match plan(cmd) {
            Ok(plan) => format!(
                "{} {} workers={} rate={:?} requests={:?} for {:?} timeout={:?} {:?} {:?}{}",
                plan.method,
                plan.url,
                plan.workers,
                plan.rate_per_worker,
                plan.requests,
                plan.duration,
                plan.timeout,
                plan.headers,
                plan.body,
                if plan.limits.is_empty() {
                    String::new()
                } else {
                    format!(" ({})", plan.limits.join(", "))
                },
            ),
            Err(error) => error.problem,
        }
    }

    #[test]
    fn hey_command_lines_are_read() {
        assert_snapshot!(show("hey -z 1m -q 10 -c 2 http://api-service-canary/"),
            @r#"GET http://api-service-canary/ workers=2 rate=Some(10.0) requests=None for 60s timeout=20s [] """#);
        assert_snapshot!(show("hey -n 1000 -z=30s -m POST -d '{\"a\": 1}' -H 'X-Key: k 1' -t 5 -host shop.example http://x:80/y"),
            @r#"POST http://x:80/y workers=50 rate=None requests=None for 30s timeout=5s [("X-Key", "k 1"), ("Host", "shop.example")] "{\"a\": 1}""#);
        assert_snapshot!(show("hey http://x/"),
            @r#"GET http://x/ workers=50 rate=None requests=Some(200) for 3600s timeout=20s [] """#);
    }

    #[test]
    fn no_number_is_too_large_or_too_small() {
        assert_snapshot!(show("hey -q 1e-20 http://x/"), @r#"option -q "1e-20" is not from 0.001 to 10000, or 0 for no limit"#);
        assert_snapshot!(show("hey -q 5e9 http://x/"), @r#"option -q "5e9" is not from 0.001 to 10000, or 0 for no limit"#);
        assert_snapshot!(show("hey -q -1 http://x/"), @r#"option -q "-1" is not from 0.001 to 10000, or 0 for no limit"#);
        assert_snapshot!(show("hey -q NaN http://x/"), @r#"option -q "NaN" is not from 0.001 to 10000, or 0 for no limit"#);
        assert_snapshot!(show("hey -q 0 -z 0s http://x/"), @r#"GET http://x/ workers=50 rate=None requests=Some(200) for 3600s timeout=20s [] """#);
        assert_snapshot!(show("hey -z 90m -t 86400 http://x/"), @r#"GET http://x/ workers=50 rate=None requests=None for 3600s timeout=3600s [] "" (-z 1h30m is cut to 1h, -t 24h is cut to 1h)"#);
        assert_snapshot!(show("hey -c 5e9 http://x/"), @r#"option -c "5e9" is not a number of workers"#);
        assert_snapshot!(show("hey -n 0 http://x/"), @r#"option -n "0" is not a number from 1 on"#);
        assert_snapshot!(show("hey -m 'G T' http://x/"), @r#"option -m "G T" is not an HTTP method"#);
        assert_snapshot!(show("hey -H 'A B: c' http://x/"), @r#"option -H "A B: c" is not a header like 'Name: value'"#);
    }

    #[test]
    fn everything_else_is_refused_with_the_reason() {
        assert_snapshot!(show("curl http://x/"), @r#""curl" is not run here; only `hey [options] URL` is"#);
        assert_snapshot!(show("hey http://x/ && rm -rf /"), @"'&' is shell syntax, and there is no shell here; quote it if it is meant literally");
        assert_snapshot!(show("hey http://x/$(id)"), @"'$' is shell syntax, and there is no shell here; quote it if it is meant literally");
        assert_snapshot!(show("hey -D /etc/passwd http://x/"), @"option -D is not supported by the built-in load tester");
        assert_snapshot!(show("hey -w 3 http://x/"), @"option -w is unknown; known are -z -n -q -c -m -H -d -t -T -A -U -host");
        assert_snapshot!(show("hey -c 0 http://x/"), @r#"option -c "0" is not from 1 to 1000"#);
        assert_snapshot!(show("hey -z 10 http://x/"), @r#""10" is not a duration: a unit is missing or unknown (write it like 30s, 5m or 1h30m)"#);
        assert_snapshot!(show("hey -z 1m"), @r#""" is not an http:// or https:// URL"#);
        assert_snapshot!(show("hey 'http://x/"), @"a quote is not closed");
        assert_snapshot!(show(""), @"it is empty; write `hey [options] URL`");
    }
}
