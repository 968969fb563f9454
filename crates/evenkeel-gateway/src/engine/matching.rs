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

    /// The part of the path that a prefix replacement takes away.
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
pub(super) type Rank =
    (HostRank, Reverse<u8>, Reverse<usize>, Reverse<bool>, Reverse<usize>, Reverse<usize>);

/// Exact host names first, then the longest wildcard, then none.
type HostRank = (Reverse<u8>, Reverse<usize>);

/// Every (rule, match) in the order in which they are tried.
pub(super) fn order(rules: &[Rule]) -> Vec<(Rank, u16, u16)> {
    let everything = [Match::default()];
    let mut order = Vec::new();
    for (rule_index, rule) in (0_u16..).zip(rules) {
        let matches = if rule.matches.is_empty() { &everything[..] } else { &rule.matches };
        // A rule with several host names ranks by its most specific one; `find` checks the name.
        let host = rule.hostnames.iter().map(|name| host_rank(name)).min();
        let host = host.unwrap_or((Reverse(0), Reverse(0)));
        for (match_index, one) in (0_u16..).zip(matches) {
            order.push((rank(host, one), rule_index, match_index));
        }
    }
    order.sort_by_key(|a| a.0);
    order
}

fn host_rank(name: &str) -> HostRank {
    (Reverse(if name.starts_with("*.") { 1 } else { 2 }), Reverse(name.len()))
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

/// The first (rule, match) that holds.
pub(super) fn find(
    rules: &[Rule],
    order: &[(Rank, u16, u16)],
    meta: &Meta<'_>,
) -> Option<(usize, usize)> {
    let mut hit = order.iter().map(|(_, rule, one)| (usize::from(*rule), usize::from(*one)));
    hit.find(|(rule_index, match_index)| {
        let Some(rule) = rules.get(*rule_index) else { return false };
        host_holds(&rule.hostnames, meta.host)
            && rule.matches.get(*match_index).is_none_or(|one| one.holds(meta))
    })
}

fn host_holds(hostnames: &[String], host: Option<&str>) -> bool {
    if hostnames.is_empty() {
        return true;
    }
    let Some(host) = host else { return false };
    let host = host.rsplit_once(':').map_or(host, |(name, port)| {
        if port.bytes().all(|byte| byte.is_ascii_digit()) { name } else { host }
    });
    hostnames.iter().any(|name| match name.strip_prefix('*') {
        Some(suffix) => {
            let at = host.len().checked_sub(suffix.len());
            at.is_some_and(|at| {
                at > 0 && host.get(at..).is_some_and(|end| end.eq_ignore_ascii_case(suffix))
            })
        }
        None => host.eq_ignore_ascii_case(name),
    })
}
