//! Which rule a request takes: the match types of an `HTTPRoute` and their precedence.
//!
//! Source: the Gateway API specification, `HTTPRouteRule.matches`.

use std::cmp::Reverse;

use http::{HeaderName, Method};
use regex::Regex;

use super::Meta;
use super::snapshot::Rule;

/// One alternative of a rule; all its parts must hold.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Match {
    /// `None` is the default, prefix `/`.
    pub path: Option<PathMatch>,
    /// Exact method.
    pub method: Option<Method>,
    /// All must hold.
    pub headers: Vec<(HeaderName, TextMatch)>,
    /// All must hold.
    pub query: Vec<(String, TextMatch)>,
}

impl Match {
    /// Whether every request matches; an API server fills in prefix `/` where nothing is said.
    pub(super) fn is_any(&self) -> bool {
        let Self { path, method, headers, query } = self;
        let every_path = match path {
            None => true,
            Some(PathMatch::Prefix(prefix)) => prefix == "/",
            Some(PathMatch::Exact(_) | PathMatch::Pattern(_)) => false,
        };
        every_path && method.is_none() && headers.is_empty() && query.is_empty()
    }
}

/// A path condition.
#[derive(Debug, Clone, PartialEq)]
pub enum PathMatch {
    /// The whole path.
    Exact(String),
    /// Whole leading elements of the path: `/a` matches `/a` and `/a/b`, not `/ab`.
    Prefix(String),
    /// The whole path, by regular expression.
    Pattern(Pattern),
}

/// A condition on a header's or query parameter's value.
#[derive(Debug, Clone, PartialEq)]
pub enum TextMatch {
    /// The whole value.
    Exact(String),
    /// The whole value, by regular expression.
    Pattern(Pattern),
}

/// A compiled regular expression; equal when its text is equal.
#[derive(Debug, Clone)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles `text`, anchored at both ends. `Err` carries the reason.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        Regex::new(&format!("^(?:{text})$")).map(Self)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.0.as_str() == other.0.as_str()
    }
}

impl PathMatch {
    fn holds(&self, path: &str) -> bool {
        match self {
            Self::Exact(want) => path == want,
            Self::Prefix(want) => {
                let want = want.trim_end_matches('/');
                path.strip_prefix(want).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
            Self::Pattern(pattern) => pattern.0.is_match(path),
        }
    }

    /// The part of the path that a prefix replacement removes.
    pub fn prefix(&self) -> &str {
        match self {
            Self::Prefix(prefix) => prefix,
            Self::Exact(_) | Self::Pattern(_) => "/",
        }
    }
}

impl TextMatch {
    fn holds(&self, value: &str) -> bool {
        match self {
            Self::Exact(want) => value == want,
            Self::Pattern(pattern) => pattern.0.is_match(value),
        }
    }
}

impl Match {
    fn holds(&self, meta: &Meta<'_>) -> bool {
        self.path.as_ref().is_none_or(|path| path.holds(meta.path))
            && self.method.as_ref().is_none_or(|method| method == meta.method)
            && self.headers.iter().all(|(name, want)| header_holds(name, want, meta))
            && self.query.iter().all(|(name, want)| query_holds(name, want, meta.query))
    }
}

fn header_holds(name: &HeaderName, want: &TextMatch, meta: &Meta<'_>) -> bool {
    if name == http::header::HOST {
        return meta.host.is_some_and(|host| want.holds(host));
    }
    let mut values = meta.headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    let Some(first) = values.next() else { return false };
    match values.next() {
        None => want.holds(first),
        // Repeated headers mean the same as one with comma-separated values (RFC 9110, 5.3).
        Some(second) => {
            let joined: Vec<&str> = [first, second].into_iter().chain(values).collect();
            want.holds(&joined.join(","))
        }
    }
}

fn query_holds(name: &str, want: &TextMatch, query: Option<&str>) -> bool {
    let pairs = query.unwrap_or_default().split('&');
    let mut pairs = pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    // Only the first of repeated parameters counts, as the specification recommends.
    pairs.find(|(key, _)| *key == name).is_some_and(|(_, value)| want.holds(value))
}

/// Sort key of one match: smaller is asked first.
type Rank = (HostRank, Reverse<u8>, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

/// Exact host names first, then the longest wildcard, then none.
type HostRank = (Reverse<u8>, Reverse<usize>);

/// One match of a rule under one of its host names.
#[derive(Debug, Clone, PartialEq)]
struct Candidate {
    rank: Rank,
    rule: u16,
    one: u16,
    /// Position of the host name; `None` is a rule for any.
    host: Option<u16>,
}

/// The rules behind one listener of a Gateway (or behind a Service), in the order they are tried.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Section {
    /// What it serves; `None` is every host.
    hostname: Option<String>,
    order: Vec<Candidate>,
}

impl Section {
    /// `rules` with their positions in the listener.
    pub(super) fn new<'a>(
        hostname: Option<String>,
        rules: impl Iterator<Item = (u16, &'a Rule)>,
    ) -> Self {
        let everything = [Match::default()];
        let mut order = Vec::new();
        for (rule_index, rule) in rules {
            let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
            for (match_index, one) in (0_u16..).zip(matches) {
                let candidate = |name: Option<&String>, host| Candidate {
                    rank: rank(host_rank(name.map(String::as_str)), one),
                    rule: rule_index,
                    one: match_index,
                    host,
                };
                // Once per name: a rule counts by the name that the request bears, not by its
                // best one.
                if rule.hostnames.is_empty() {
                    order.push(candidate(None, None));
                }
                let names = (0_u16..).zip(&rule.hostnames);
                order.extend(names.map(|(host, name)| candidate(Some(name), Some(host))));
            }
        }
        order.sort_by_key(|candidate| candidate.rank);
        Self { hostname, order }
    }

    /// Most specific host name first.
    pub(super) fn precedence(&self) -> impl Ord + use<> {
        host_rank(self.hostname.as_deref())
    }
}

fn host_rank(name: Option<&str>) -> HostRank {
    match name {
        None => (Reverse(0), Reverse(0)),
        Some(name) if name.starts_with("*.") => (Reverse(1), Reverse(name.len())),
        Some(name) => (Reverse(2), Reverse(name.len())),
    }
}

fn rank(host: HostRank, one: &Match) -> Rank {
    let (kind, length) = match &one.path {
        Some(PathMatch::Exact(path)) => (2, path.len()),
        // The specification leaves the place of patterns open: between exact and prefix.
        Some(PathMatch::Pattern(_)) => (1, 0),
        Some(PathMatch::Prefix(path)) => (0, path.trim_end_matches('/').len()),
        None => (0, 0),
    };
    let method = one.method.is_some();
    (
        host,
        Reverse(kind),
        Reverse(length),
        Reverse(method),
        Reverse(one.headers.len()),
        Reverse(one.query.len()),
    )
}

/// The first (rule, match) that holds, in the most specific of `sections` that serves the host: what
/// that one does not know is not looked for in the others.
pub(super) fn find(
    rules: &[Rule],
    sections: &[Section],
    meta: &Meta<'_>,
) -> Option<(usize, usize)> {
    let host = meta.host.map(without_port);
    let serves = |section: &&Section| {
        section.hostname.as_deref().is_none_or(|name| host.is_some_and(|host| covers(name, host)))
    };
    let section = sections.iter().find(serves)?;
    let hit = section.order.iter().find(|candidate| {
        let Some(rule) = rules.get(usize::from(candidate.rule)) else { return false };
        let name = candidate.host.map(|at| rule.hostnames.get(usize::from(at)));
        let named =
            name.is_none_or(|name| name.zip(host).is_some_and(|(name, host)| covers(name, host)));
        named && rule.matches.get(usize::from(candidate.one)).is_none_or(|one| one.holds(meta))
    })?;
    Some((usize::from(hit.rule), usize::from(hit.one)))
}

/// A `Host` without its port.
pub(super) fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Whether `name` (`*.` at its beginning stands for any labels) means `host`.
fn covers(name: &str, host: &str) -> bool {
    match name.strip_prefix('*') {
        Some(suffix) => {
            let at = host.len().checked_sub(suffix.len());
            at.is_some_and(|at| {
                at > 0 && host.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            })
        }
        None => host.eq_ignore_ascii_case(name),
    }
}
