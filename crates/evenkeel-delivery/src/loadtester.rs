//! What the built-in load tester understands: `hey` command lines, read without a shell.

use std::time::Duration;

use evenkeel_base::parse_duration;

/// Longest run: a load test that nobody stops ends by itself.
const DURATION_MAX: Duration = Duration::from_hours(1);
/// Concurrent workers at most; `hey` itself defaults to 50.
const WORKERS_MAX: u32 = 1000;

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
    };
    while let Some(word) = words.next() {
        let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else {
            if !plan.url.is_empty() {
                return Err(format!("{word:?} is left over after the URL {}", plan.url));
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
            plan.duration = duration.min(DURATION_MAX);
            plan.requests = None;
        }
        // As in hey: a duration wins over a number.
        "n" => {
            let requests = value.parse().map_err(|_| wrong("a number of requests"))?;
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
            plan.rate_per_worker = (rate.is_finite() && rate > 0.0).then_some(rate);
        }
        "t" => {
            let seconds: u64 = value.parse().map_err(|_| wrong("a number of seconds"))?;
            plan.timeout = match seconds {
                0 => DURATION_MAX,
                seconds => Duration::from_secs(seconds).min(DURATION_MAX),
            };
        }
        "m" => plan.method = value,
        "d" => plan.body = value,
        "H" => {
            let (header, text) =
                value.split_once(':').ok_or_else(|| wrong("a header like 'Name: value'"))?;
            plan.headers.push((header.trim().to_owned(), text.trim().to_owned()));
        }
        "host" => plan.headers.push(("Host".to_owned(), value)),
        "T" => plan.headers.push(("Content-Type".to_owned(), value)),
        "A" => plan.headers.push(("Accept".to_owned(), value)),
        "U" => plan.headers.push(("User-Agent".to_owned(), value)),
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
                "{} {} workers={} rate={:?} requests={:?} for {:?} timeout={:?} {:?} {:?}",
                plan.method,
                plan.url,
                plan.workers,
                plan.rate_per_worker,
                plan.requests,
                plan.duration,
                plan.timeout,
                plan.headers,
                plan.body
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
