//! What is asked of a query text: does it parse, and which ranges does it use.

use std::collections::BTreeSet;

use crate::template::Template;

/// The language queries are written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// Prometheus.
    PromQl,
    /// `VictoriaMetrics`; only quotes and brackets are checked.
    MetricsQl,
}

/// Checks a query template, rendered with a window of one minute as Sloth does.
pub(crate) fn check(query: &str, dialect: Dialect) -> Result<(), String> {
    if query.is_empty() {
        return Err("query is required".to_owned());
    }
    let rendered = Template::parse(query).map_err(|e| e.to_string())?.render("1m");
    match dialect {
        Dialect::PromQl => parse_promql(&rendered),
        Dialect::MetricsQl => balanced(&rendered),
    }
}

/// Checks many queries; those that differ only in label values are parsed once.
#[derive(Debug, Default)]
pub(crate) struct Checker {
    /// Shapes that passed.
    passed: BTreeSet<String>,
}

impl Checker {
    /// Most shapes that are remembered.
    const SHAPES_MAX: usize = 10_000;

    /// As [`check`].
    pub(crate) fn check(&mut self, query: &str, dialect: Dialect) -> Result<(), String> {
        let shape = (dialect == Dialect::PromQl).then(|| shape(query)).flatten();
        if shape.as_ref().is_some_and(|s| self.passed.contains(s)) {
            return Ok(());
        }
        check(query, dialect)?;
        if let Some(shape) = shape.filter(|_| self.passed.len() < Self::SHAPES_MAX) {
            self.passed.insert(shape);
        }
        Ok(())
    }
}

/// The query without the values of `=` and `!=` matchers, which cannot make it invalid as long
/// as they are plain and not empty. `None` when a string is not closed.
fn shape(query: &str) -> Option<String> {
    let mut out = String::with_capacity(query.len());
    let mut rest = query;
    while let Some(at) = rest.find(['"', '\'', '`', '#']) {
        let (code, tail) = rest.split_at(at);
        out.push_str(code);
        let mark = tail.chars().next()?;
        if mark == '#' {
            return None;
        }
        let inner = tail.split_at(1).1;
        let value = inner.split_at(inner.find(mark)?).0;
        // A line may not end inside of quotes.
        if value.contains(['\\', '\n']) || value.contains("{{") {
            return None;
        }
        let equals = code.trim_end().ends_with('=');
        out.push(mark);
        out.push_str(if equals && !value.is_empty() { "v" } else { value });
        out.push(mark);
        rest = inner.split_at(value.len() + 1).1;
    }
    out.push_str(rest);
    Some(out)
}

/// The one place where the `PromQL` parser is asked.
fn parse_promql(query: &str) -> Result<(), String> {
    evenkeel_promql::parser::parse(query).map(drop).map_err(|error| error.to_string())
}

/// The texts inside the `[...]` of a query, outside strings and comments.
///
/// `None` when a quote or bracket is not closed.
pub(crate) fn ranges(query: &str) -> Option<Vec<&str>> {
    let mut out = Vec::new();
    let mut open = None;
    let mut scan = Scanner::new(query);
    while let Some((at, c)) = scan.next_code().ok()? {
        match (c, open) {
            ('[', None) => open = Some(at + 1),
            (']', Some(from)) => {
                out.push(query.get(from..at)?);
                open = None;
            }
            ('[', Some(_)) | (']', None) => return None,
            _ => {}
        }
    }
    open.is_none().then_some(out)
}

/// Replaces the text inside every `[...]`. The query must have passed [`ranges`].
pub(crate) fn replace_ranges(query: &str, with: &str) -> String {
    let Some(found) = ranges(query) else { return query.to_owned() };
    let base = query.as_ptr() as usize;
    let mut out = String::with_capacity(query.len() + 16);
    let mut last = 0;
    for range in found {
        let from = range.as_ptr() as usize - base;
        out.push_str(query.get(last..from).unwrap_or(""));
        out.push_str(with);
        last = from + range.len();
    }
    out.push_str(query.get(last..).unwrap_or(""));
    out
}

fn balanced(query: &str) -> Result<(), String> {
    let mut stack = Vec::new();
    let mut scan = Scanner::new(query);
    loop {
        let next = scan.next_code()?;
        let Some((at, c)) = next else { break };
        match c {
            '(' | '[' | '{' => stack.push(c),
            ')' | ']' | '}' => {
                let want = match c {
                    ')' => '(',
                    ']' => '[',
                    _ => '{',
                };
                if stack.pop() != Some(want) {
                    return Err(format!("unexpected {c:?} at byte {at}"));
                }
            }
            _ => {}
        }
    }
    match stack.pop() {
        None => Ok(()),
        Some(c) => Err(format!("unclosed {c:?}")),
    }
}

/// Walks over a query and skips what is inside strings and comments.
struct Scanner<'a> {
    chars: std::str::CharIndices<'a>,
}

impl<'a> Scanner<'a> {
    fn new(query: &'a str) -> Self {
        Self { chars: query.char_indices() }
    }

    /// The next character of code, `None` at the end. `Err`: a string does not end.
    fn next_code(&mut self) -> Result<Option<(usize, char)>, String> {
        loop {
            let Some((at, c)) = self.chars.next() else { return Ok(None) };
            match c {
                '"' | '\'' | '`' => self.skip_string(c)?,
                '#' => {
                    for (_, c) in self.chars.by_ref() {
                        if c == '\n' {
                            break;
                        }
                    }
                }
                _ => return Ok(Some((at, c))),
            }
        }
    }

    fn skip_string(&mut self, mark: char) -> Result<(), String> {
        while let Some((_, c)) = self.chars.next() {
            if c == mark {
                return Ok(());
            }
            if c == '\\' && mark != '`' {
                self.chars.next();
            }
        }
        Err("unterminated quoted string".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_found_outside_strings_and_comments() {
        let query = "sum(rate(x{a=~\"[0-9]+\",b='\\'[1m]'}[5m])) # [2m]\n/ y[1h:5m]";
        assert_eq!(ranges(query), Some(vec!["5m", "1h:5m"]));
        assert_eq!(ranges("x[5m"), None);
        assert_eq!(ranges("x{a=\"b}"), None);
        assert_eq!(replace_ranges("a[5m]+b{c=\"[5m]\"}[1m]", "W"), "a[W]+b{c=\"[5m]\"}[W]");
    }

    #[test]
    fn brackets_must_match() {
        let error = |text| check(text, Dialect::MetricsQl).unwrap_err();
        assert!(check("vector(1)[{{.window}}]", Dialect::MetricsQl).is_ok());
        assert_eq!(error("sum(x"), "unclosed '('");
        assert_eq!(error("sum(x]"), "unexpected ']' at byte 5");
        assert_eq!(error("x{a=\"b}"), "unterminated quoted string");
        assert_eq!(error(""), "query is required");
    }

    #[test]
    fn queries_of_one_shape_differ_in_plain_values_only() {
        let shape = |text| super::shape(text).unwrap_or_default();
        insta::assert_snapshot!(shape("x{a=\"1\",b!='2',c=~\"3\",d!~`4`,e=\"\"}"), @r#"x{a="v",b!='v',c=~"3",d!~`4`,e=""}"#);
        assert_eq!(shape("x{a=\"\\q\"}"), "");
        assert_eq!(shape("x{a=\"{{.job}}\"}"), "");
        assert_eq!(shape("x{a=\"1}"), "");
        let mut checker = Checker::default();
        let rows = [
            ("x{a=\"1\"}", true),
            ("x{a=\"2\"}", true),
            ("x{a=~\"(\"}", false),
            ("x{a=\"1\n\"}", false),
        ];
        for (text, ok) in rows {
            assert_eq!(checker.check(text, Dialect::PromQl).is_ok(), ok, "{text}");
        }
        assert_eq!(checker.passed.len(), 1);
    }

    #[test]
    fn promql_is_parsed_and_type_checked() {
        let checked = |text| check(text, Dialect::PromQl).err().unwrap_or_default();
        insta::assert_snapshot!(checked("sum(rate(x[{{.window}}]))"), @"");
        insta::assert_snapshot!(checked("sum(rate(x))"), @r#"
        1:10: parse error: expected type range vector in call to function "rate", got instant vector
        "#);
        insta::assert_snapshot!(checked("sum(x[{{.window}}]"), @"1:10: parse error: unexpected end of input");
    }
}
