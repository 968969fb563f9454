use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use crate::bed::Bed;

/// One request as the API server logged it.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) verb: String,
    /// Plural, with the subresource: `httproutes/status`; the path where there is no object.
    pub(crate) resource: String,
    pub(crate) namespace: String,
    /// Name of the object; empty for a list, and where the server makes the name.
    pub(crate) name: String,
    pub(crate) code: u64,
    pub(crate) agent: String,
    /// When it came, in Unix milliseconds.
    pub(crate) at_ms: i64,
}

/// All requests of a user so far; a watch counts once, when it begins.
pub(crate) fn requests(bed: &Bed, user: &str) -> Vec<Request> {
    let text = std::fs::read_to_string(bed.file("audit.log")).unwrap_or_default();
    // The last line may not be whole yet.
    let whole = text.rfind('\n').map_or("", |end| text.split_at(end).0);
    let asked_by = format!("\"username\":\"{user}\"");
    let theirs = whole.lines().filter(|line| line.contains(&asked_by));
    let mut all: Vec<_> =
        theirs.filter_map(|line| read(&serde_json::from_str(line).unwrap())).collect();
    all.sort_by_key(|request| request.at_ms);
    all
}

fn read(event: &Value) -> Option<Request> {
    let text =
        |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let is_watch = event["verb"] == "watch";
    if is_watch != (event["stage"] == "ResponseStarted") {
        return None;
    }
    let (plural, sub) = (text("/objectRef/resource"), text("/objectRef/subresource"));
    let resource = match (plural.is_empty(), sub.is_empty()) {
        (true, _) => text("/requestURI"),
        (false, true) => plural,
        (false, false) => format!("{plural}/{sub}"),
    };
    let at: jiff::Timestamp = text("/requestReceivedTimestamp").parse().unwrap();
    Some(Request {
        verb: text("/verb"),
        resource,
        namespace: text("/objectRef/namespace"),
        name: text("/objectRef/name"),
        code: event.pointer("/responseStatus/code").and_then(Value::as_u64).unwrap_or_default(),
        agent: text("/userAgent"),
        at_ms: at.as_millisecond(),
    })
}

/// Requests by what they ask.
pub(crate) struct Tally(BTreeMap<(String, String), usize>);

impl Tally {
    pub(crate) fn of(requests: &[Request]) -> Self {
        let mut counts = BTreeMap::new();
        for request in requests {
            let what = (request.verb.clone(), request.resource.clone());
            *counts.entry(what).or_default() += 1;
        }
        Self(counts)
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for ((verb, resource), count) in &self.0 {
            write!(f, " {verb} {resource} {count};")?;
        }
        Ok(())
    }
}
