//! Commands of a test script.

use super::notation::{Room, SeriesLine, series_labels, series_line_within};
use crate::number::{parse_duration_ms, parse_float};
use regex::Regex;

#[derive(Debug)]
pub(super) enum Command {
    Clear,
    Load { interval_ms: i64, custom_buckets: bool, series: Vec<SeriesLine> },
    Eval(Box<Eval>),
}

#[derive(Debug)]
pub(super) struct Eval {
    pub(super) line: usize,
    pub(super) when: When,
    pub(super) query: String,
    pub(super) ordered: bool,
    pub(super) fail: Vec<Pattern>,
    pub(super) must_fail: bool,
    pub(super) warn: Notices,
    pub(super) info: Notices,
    pub(super) expected: Expected,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum When {
    At(i64),
    Range { start_ms: i64, end_ms: i64, step_ms: i64 },
}

/// What is expected of one level of annotations.
#[derive(Debug, Default)]
pub(super) struct Notices {
    pub(super) some: Vec<Pattern>,
    pub(super) any: bool,
    pub(super) none: bool,
}

#[derive(Debug)]
pub(super) enum Pattern {
    Anything,
    Exact(String),
    Regex(Regex),
}

impl Pattern {
    pub(super) fn matches(&self, text: &str) -> bool {
        match self {
            Self::Anything => true,
            Self::Exact(exact) => exact == text,
            Self::Regex(regex) => regex.is_match(text),
        }
    }

    pub(super) fn as_text(&self) -> &str {
        match self {
            Self::Anything => "anything",
            Self::Exact(text) => text,
            Self::Regex(regex) => regex.as_str(),
        }
    }
}

#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) series: Vec<SeriesLine>,
    pub(super) scalar: Option<f64>,
    pub(super) text: Option<String>,
    /// Times of an expected range vector.
    pub(super) times: Option<(i64, i64, i64)>,
}

/// A command and the line it starts at, or why a line is not a command.
pub(super) type Parsed = Result<Command, (usize, String)>;

/// Reads a script into commands; a malformed one does not hide those after it.
pub(super) fn commands(script: &str) -> Vec<Parsed> {
    let lines: Vec<(usize, &str)> =
        script.lines().enumerate().map(|(i, line)| (i + 1, line.trim())).collect();
    let mut room = Room::default();
    let mut out = Vec::new();
    let mut at = 0;
    while at < lines.len() {
        let (number, line) = lines[at];
        at += 1;
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let from = at;
        while at < lines.len() && !lines[at].1.is_empty() && !starts_command(lines[at].1) {
            at += 1;
        }
        let block: Vec<(usize, &str)> =
            lines[from..at].iter().filter(|(_, l)| !l.starts_with('#')).copied().collect();
        out.push(command(number, line, &block, &mut room));
    }
    out
}

fn starts_command(line: &str) -> bool {
    let first = line.split_whitespace().next().unwrap_or_default();
    line == "clear"
        || matches!(first, "load" | "load_with_nhcb")
        || (first.starts_with("eval")
            && line.split_whitespace().nth(1).is_some_and(|w| w == "instant" || w == "range"))
}

fn command(number: usize, line: &str, block: &[(usize, &str)], room: &mut Room) -> Parsed {
    let (word, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let fail = |reason: String| Err((number, reason));
    match word {
        "clear" => Ok(Command::Clear),
        "load" | "load_with_nhcb" => {
            let Some(interval_ms) = parse_duration_ms(rest.trim()) else {
                return fail(format!("`{rest}` is not an interval"));
            };
            let series =
                block.iter().map(|(n, l)| series_line_within(l, room).map_err(|e| (*n, e)));
            let series: Result<Vec<_>, _> = series.collect();
            Ok(Command::Load {
                interval_ms,
                custom_buckets: word == "load_with_nhcb",
                series: series?,
            })
        }
        _ if word.starts_with("eval") => eval(number, (word, rest.trim()), block, room),
        _ => fail(format!("unknown command `{word}`")),
    }
}

fn eval(
    number: usize,
    (word, rest): (&str, &str),
    block: &[(usize, &str)],
    room: &mut Room,
) -> Parsed {
    let fail = |reason: &str| Err((number, reason.to_owned()));
    let Some((when, query)) = when(rest) else { return fail("malformed eval") };
    let mut eval = Eval {
        line: number,
        when,
        query: query.to_owned(),
        ordered: word == "eval_ordered",
        fail: Vec::new(),
        must_fail: word == "eval_fail",
        warn: Notices { any: word == "eval_warn", ..Notices::default() },
        info: Notices { any: word == "eval_info", ..Notices::default() },
        expected: Expected::default(),
    };
    for (n, line) in block {
        expectation(&mut eval, line, room).map_err(|reason| (*n, reason))?;
    }
    Ok(Command::Eval(Box::new(eval)))
}

fn when(rest: &str) -> Option<(When, &str)> {
    let mut words = rest;
    let mut next = || -> Option<&str> {
        let (word, tail) = words.trim_start().split_once(char::is_whitespace)?;
        words = tail;
        Some(word)
    };
    match next()? {
        "instant" => {
            // Without `at`, time 0.
            let Some(timed) = words.trim_start().strip_prefix("at ") else {
                return Some((When::At(0), words.trim()));
            };
            let (at, query) = timed.trim_start().split_once(char::is_whitespace)?;
            Some((When::At(signed_ms(at)?), query.trim()))
        }
        "range" => {
            let mut times = [0; 3];
            for (slot, keyword) in times.iter_mut().zip(["from", "to", "step"]) {
                if next()? != keyword {
                    return None;
                }
                *slot = signed_ms(next()?)?;
            }
            let [start_ms, end_ms, step_ms] = times;
            Some((When::Range { start_ms, end_ms, step_ms }, words.trim()))
        }
        _ => None,
    }
}

fn signed_ms(text: &str) -> Option<i64> {
    match text.strip_prefix('-') {
        Some(digits) => parse_duration_ms(digits).map(|ms| -ms),
        None => parse_duration_ms(text),
    }
}

fn expectation(eval: &mut Eval, line: &str, room: &mut Room) -> Result<(), String> {
    if let Some(rest) = line.strip_prefix("expected_fail_message") {
        eval.fail.push(Pattern::Exact(rest.trim().to_owned()));
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("expected_fail_regexp") {
        eval.fail.push(Pattern::Regex(Regex::new(rest.trim()).map_err(|e| e.to_string())?));
        return Ok(());
    }
    if let Some(rest) = line.strip_prefix("expect ") {
        return expect(eval, rest.trim());
    }
    if let Some(value) = parse_float(line) {
        eval.expected.scalar = Some(value);
        return Ok(());
    }
    if line == "{}" {
        eval.expected.series.push(SeriesLine {
            labels: series_labels(line)?,
            start_times: false,
            points: Vec::new(),
        });
        return Ok(());
    }
    eval.expected.series.push(series_line_within(line, room)?);
    Ok(())
}

fn expect(eval: &mut Eval, rest: &str) -> Result<(), String> {
    let (kind, rest) = match rest.find(|c: char| c.is_whitespace()) {
        Some(at) => rest.split_at_checked(at).unwrap_or((rest, "")),
        None => (rest, ""),
    };
    let rest = rest.trim();
    match kind {
        "ordered" => eval.ordered = true,
        "no_warn" => eval.warn.none = true,
        "no_info" => eval.info.none = true,
        "warn" => eval.warn.some.push(pattern(rest)?),
        "info" => eval.info.some.push(pattern(rest)?),
        "fail" => {
            eval.must_fail = true;
            eval.fail.push(pattern(rest)?);
        }
        "string" => {
            let query = crate::parser::parse(rest).map_err(|e| e.to_string())?;
            let crate::ast::ExprKind::Text(text) = query.expr.kind else {
                return Err(format!("`{rest}` is not a string"));
            };
            eval.expected.text = Some(text);
        }
        "range" => {
            let times = rest.strip_prefix("vector").map(str::trim).unwrap_or_default();
            let words: Vec<&str> = times.split_whitespace().collect();
            let [_, from, _, to, _, step] = words.as_slice() else {
                return Err(format!("malformed range vector `{rest}`"));
            };
            let all = [from, to, step].map(|t| signed_ms(t));
            let [Some(from), Some(to), Some(step)] = all else {
                return Err(format!("malformed range vector `{rest}`"));
            };
            eval.expected.times = Some((from, to, step));
        }
        other => return Err(format!("unknown expectation `{other}`")),
    }
    Ok(())
}

fn pattern(rest: &str) -> Result<Pattern, String> {
    if rest.is_empty() {
        return Ok(Pattern::Anything);
    }
    if let Some(text) = rest.strip_prefix("msg:") {
        return Ok(Pattern::Exact(text.trim().to_owned()));
    }
    if let Some(text) = rest.strip_prefix("regex:") {
        return Regex::new(text.trim()).map(Pattern::Regex).map_err(|e| e.to_string());
    }
    Err(format!("unknown way to match `{rest}`"))
}
