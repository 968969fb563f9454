//! Label matchers: `=`, `!=`, `=~`, `!~`.

use crate::labels::{Labels, is_legacy_label_name, quote};
use crate::re2::translated;
use regex::Regex;
use std::fmt;
use std::sync::Arc;

/// Compiled size a single regular expression may have; bounds compile time of hostile patterns.
const REGEX_BYTES_MAX: usize = 2 << 20;
/// Compiled size all patterns of one query may have together: some thousand ordinary ones.
pub(crate) const REGEX_BYTES_QUERY_MAX: usize = 32 << 20;
/// Sizes that are tried one after the other; the first that suffices is what a pattern costs.
const REGEX_BYTES_TRIED: [usize; 3] = [16 << 10, 128 << 10, REGEX_BYTES_MAX];

/// How a matcher compares.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`
    Regex,
    /// `!~`
    NotRegex,
}

impl MatchOp {
    /// As written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// A condition on one label. A missing label counts as an empty value.
#[derive(Clone, Debug)]
pub struct Matcher {
    /// The label's name.
    pub name: Arc<str>,
    /// The comparison.
    pub op: MatchOp,
    /// The value or pattern as written.
    pub value: Arc<str>,
    regex: Option<Arc<Regex>>,
    /// Alternatives, if the pattern is only literals joined by `|`.
    literals: Option<Arc<[String]>>,
}

/// A pattern that does not compile.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
#[error("error parsing regexp: {reason}: `{pattern}`")]
pub struct BadRegex {
    /// The pattern.
    pub pattern: String,
    /// What is wrong with it.
    pub reason: String,
}

impl Matcher {
    /// Compiles the pattern if there is one. `Err` when it is malformed or too large.
    pub fn new(name: &str, op: MatchOp, value: &str) -> Result<Self, BadRegex> {
        Self::within(name, op, value, &mut REGEX_BYTES_MAX.clone())
    }

    /// As [`Matcher::new`]; the pattern's compiled size is taken from `left`.
    pub(crate) fn within(
        name: &str,
        op: MatchOp,
        value: &str,
        left: &mut usize,
    ) -> Result<Self, BadRegex> {
        let is_regex = matches!(op, MatchOp::Regex | MatchOp::NotRegex);
        let literals = if is_regex { literal_alternatives(value) } else { None };
        let regex = if is_regex { Some(Arc::new(anchored_within(value, left)?)) } else { None };
        Ok(Self { name: Arc::from(name), op, value: Arc::from(value), regex, literals })
    }

    /// An equality matcher.
    pub fn equal(name: &str, value: &str) -> Self {
        Self {
            name: Arc::from(name),
            op: MatchOp::Equal,
            value: Arc::from(value),
            regex: None,
            literals: None,
        }
    }

    /// Whether a label value passes.
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => value == &*self.value,
            MatchOp::NotEqual => value != &*self.value,
            MatchOp::Regex => self.is_match(value),
            MatchOp::NotRegex => !self.is_match(value),
        }
    }

    /// Whether a label set passes.
    pub fn matches_labels(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.name))
    }

    /// The finite list of values that can match, if there is one (`=` and `=~"a|b"`).
    pub fn literals(&self) -> Option<Vec<&str>> {
        match self.op {
            MatchOp::Equal => Some(vec![&self.value]),
            MatchOp::Regex => {
                self.literals.as_ref().map(|list| list.iter().map(String::as_str).collect())
            }
            _ => None,
        }
    }

    fn is_match(&self, value: &str) -> bool {
        if let Some(literals) = &self.literals {
            return literals.iter().any(|l| l == value);
        }
        self.regex.as_ref().is_some_and(|regex| regex.is_match(value))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.op == other.op && self.value == other.value
    }
}

impl Eq for Matcher {}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if is_legacy_label_name(&self.name) {
            write!(f, "{}{}{}", self.name, self.op.as_str(), quote(&self.value))
        } else {
            write!(f, "{}{}{}", quote(&self.name), self.op.as_str(), quote(&self.value))
        }
    }
}

/// Compiles a pattern that must match the whole text, where `.` also matches a newline (Prometheus
/// 3).
pub fn anchored(pattern: &str) -> Result<Regex, BadRegex> {
    anchored_within(pattern, &mut REGEX_BYTES_MAX.clone())
}

/// As [`anchored`]; the compiled size, or a little more, is taken from `left`.
pub(crate) fn anchored_within(pattern: &str, left: &mut usize) -> Result<Regex, BadRegex> {
    let bad = |reason: String| BadRegex { pattern: pattern.to_owned(), reason };
    let whole = format!("^(?s:{})$", translated(pattern).map_err(bad)?);
    for size in REGEX_BYTES_TRIED {
        if size > *left {
            return Err(bad("the patterns are too large together".to_owned()));
        }
        let built = regex::RegexBuilder::new(&whole)
            .size_limit(size)
            .dfa_size_limit(REGEX_BYTES_MAX)
            .nest_limit(100)
            .build();
        match built {
            Ok(regex) => {
                *left -= size;
                return Ok(regex);
            }
            Err(regex::Error::CompiledTooBig(_)) => {}
            Err(other) => return Err(bad(last_line(&other.to_string()))),
        }
    }
    Err(bad("expression too large".to_owned()))
}

fn last_line(text: &str) -> String {
    let line = text.lines().last().unwrap_or_default();
    line.trim_start_matches("error: ").to_owned()
}

fn literal_alternatives(pattern: &str) -> Option<Arc<[String]>> {
    let special = |c: char| "\\.+*?()[]{}^$".contains(c);
    if pattern.contains(special) {
        return None;
    }
    Some(pattern.split('|').map(str::to_owned).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_whole_value() {
        let matches = |pattern: &str, value: &str| {
            Matcher::new("a", MatchOp::Regex, pattern).unwrap().matches(value)
        };
        assert!(matches("a|b", "b") && !matches("a|b", "ab"));
        assert!(matches(".*", "x\ny") && matches("", "") && !matches("x", "xx"));
        assert!(matches("(?i:PRO).*", "production"));
        assert!(Matcher::new("a", MatchOp::Regex, "((((a{100}){100}){100}){100}").is_err());
        assert!(Matcher::new("a", MatchOp::Regex, "(").is_err());
    }

    #[test]
    fn many_large_patterns_are_refused_and_many_small_ones_are_not() {
        let query = |pattern: &str, times: usize| {
            let matchers = format!("b=~\"{pattern}\",").repeat(times);
            crate::parser::parse(&format!("a{{{matchers}}}")).map(|_| ()).map_err(|e| e.reason)
        };
        assert_eq!(query("5..|api-.*|[a-z]+", 500), Ok(()));
        assert_eq!(query("(a{90}){90}", 5), Ok(()));
        let refused = query("(a{90}){90}", 1_000).unwrap_err();
        assert!(refused.contains("the patterns are too large together"), "{refused}");
    }
}
