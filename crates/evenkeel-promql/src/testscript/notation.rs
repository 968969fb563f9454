//! The notation for series and their points that test scripts and rule unit tests share:
//! `metric{a="b"} 1 2+3x4 _ stale {{schema:0 sum:5 count:4 buckets:[1 2 1]}}`.

use crate::histogram::{Buckets, CUSTOM_SCHEMA, Histogram, ResetHint, SCHEMA_MAX, SCHEMA_MIN};
use crate::labels::Labels;
use crate::number::{parse_duration_ms, parse_float, stale};
use crate::parser::parse_selector;
use crate::sample::Value;

/// Points a script or test file may have, a histogram counting once per bucket.
const POINTS_MAX: usize = 1_000_000;

/// How many points may still come.
#[derive(Debug)]
pub(crate) struct Room(usize);

impl Default for Room {
    fn default() -> Self {
        Self(POINTS_MAX)
    }
}

impl Room {
    fn take(&mut self, points: usize) -> Result<(), String> {
        match self.0.checked_sub(points) {
            Some(left) => {
                self.0 = left;
                Ok(())
            }
            None => Err(format!("more than {POINTS_MAX} points")),
        }
    }
}

/// One point of a series line.
#[derive(Clone, Debug, PartialEq)]
pub struct Noted {
    /// The value, `None` for a gap.
    pub value: Option<Value>,
    /// Whether a counter reset hint was written, so that it counts in comparisons.
    pub hint_given: bool,
}

/// A series line.
#[derive(Clone, Debug, PartialEq)]
pub struct SeriesLine {
    /// The series.
    pub labels: Labels,
    /// Whether the points are start times (`metric@st`), milliseconds relative to the samples.
    pub start_times: bool,
    /// Its points.
    pub points: Vec<Noted>,
}

/// Reads a whole series line.
pub fn series_line(line: &str) -> Result<SeriesLine, String> {
    series_line_within(line, &mut Room::default())
}

/// As [`series_line`], as long as there is room.
pub(crate) fn series_line_within(line: &str, room: &mut Room) -> Result<SeriesLine, String> {
    let line = line.trim();
    let end = selector_end(line);
    let (selector, rest) = line.split_at_checked(end).unwrap_or((line, ""));
    let labels = series_labels(selector)?;
    let (start_times, rest) = match rest.strip_prefix("@st") {
        Some(rest) => (true, rest),
        None => (false, rest),
    };
    let points = if start_times { start_points(rest, room)? } else { points_within(rest, room)? };
    Ok(SeriesLine { labels, start_times, points })
}

/// Reads a series name such as `up{job="a"}`; `{}` is the empty label set.
pub fn series_labels(text: &str) -> Result<Labels, String> {
    let text = text.trim();
    if text == "{}" {
        return Ok(Labels::empty());
    }
    let readable = if let Some(name) = text.strip_suffix("{}") { name } else { text };
    let matchers = match parse_selector(readable) {
        Ok(matchers) => matchers,
        // A series whose labels are all empty is fine here.
        Err(error) if error.reason.contains("non-empty matcher") => return Ok(Labels::empty()),
        Err(error) => return Err(error.to_string()),
    };
    Ok(Labels::from_pairs(matchers.iter().map(|m| (&*m.name, &*m.value))))
}

/// Where the series name ends: at the first blank outside of braces and quotes, or at `@st`.
fn selector_end(line: &str) -> usize {
    let mut quote = None;
    let mut braces = 0_i32;
    let mut escaped = false;
    for (i, c) in line.char_indices() {
        if escaped {
            escaped = false;
            continue;
        }
        match (quote, c) {
            (Some(q), c) if c == q => quote = None,
            (Some(_), '\\') => escaped = true,
            (None, '"' | '\'' | '`') => quote = Some(c),
            (None, '{') => braces += 1,
            (None, '}') => braces -= 1,
            (None, c) if braces == 0 && c.is_whitespace() => {
                // `metric {a="b"} 1` is one series.
                let next = line.get(i..).unwrap_or_default().trim_start();
                if next.starts_with('{')
                    && !next.starts_with("{{")
                    && !line.get(..i).unwrap_or_default().contains('{')
                {
                    continue;
                }
                return i;
            }
            (None, '@') if braces == 0 => return i,
            _ => {}
        }
    }
    line.len()
}

/// Reads a list of points.
pub fn points(text: &str) -> Result<Vec<Noted>, String> {
    points_within(text, &mut Room::default())
}

/// As [`points`], as long as there is room.
pub(crate) fn points_within(text: &str, room: &mut Room) -> Result<Vec<Noted>, String> {
    let mut out = Vec::new();
    for word in words(text)? {
        point(&word, &mut out, room)?;
    }
    Ok(out)
}

/// Splits at blanks outside of `{{...}}`.
fn words(text: &str) -> Result<Vec<String>, String> {
    let mut out = Vec::new();
    let mut word = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if rest.starts_with("{{") {
            let end = rest.find("}}").ok_or("a histogram does not end")?;
            let (histogram, tail) = rest.split_at_checked(end + 2).unwrap_or((rest, ""));
            word.push_str(histogram);
            rest = tail;
            continue;
        }
        if c.is_whitespace() {
            if !word.is_empty() {
                out.push(std::mem::take(&mut word));
            }
        } else {
            word.push(c);
        }
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    if !word.is_empty() {
        out.push(word);
    }
    Ok(out)
}

fn point(word: &str, out: &mut Vec<Noted>, room: &mut Room) -> Result<(), String> {
    let (body, times) = repeats(word)?;
    let count = times.map_or(1, |n| n.saturating_add(1));
    room.take(count)?;
    let noted = |value: Value| Noted { value: Some(value), hint_given: false };
    if body == "_" {
        // `_x3` is three gaps, unlike values.
        let gaps = times.unwrap_or(1);
        out.extend(std::iter::repeat_n(Noted { value: None, hint_given: false }, gaps));
        return Ok(());
    }
    if body == "stale" {
        out.extend(std::iter::repeat_n(noted(stale().into()), count));
        return Ok(());
    }
    if body.starts_with("{{") {
        return histogram_points(body, count, out, room);
    }
    let (first, step) = split_step(body);
    let number =
        |t: &str| parse_float(t).ok_or_else(|| format!("`{t}` in `{word}` is not a number"));
    let start = number(first)?;
    let step = step.map(number).transpose()?;
    for i in 0..count {
        // Upstream adds step by step.
        let value = match (step, i) {
            (Some(step), 1..) => {
                let before = out.last().and_then(|n| n.value.as_ref()?.as_float());
                before.unwrap_or(start) + step
            }
            _ => start,
        };
        out.push(noted(value.into()));
    }
    Ok(())
}

/// `bodyxN`
fn repeats(word: &str) -> Result<(&str, Option<usize>), String> {
    let after = word.rfind("}}").map_or(0, |at| at + 2);
    match word.rfind('x').filter(|at| *at >= after) {
        None => Ok((word, None)),
        Some(at) => {
            let (body, times) = word.split_at_checked(at).unwrap_or((word, ""));
            let times = times.get(1..).unwrap_or_default();
            let times = times.parse().map_err(|_| format!("bad repetition in `{word}`"))?;
            Ok((body, Some(times)))
        }
    }
}

/// `a+b` and `a-b`: the sign that is not at the start and not in an exponent.
fn split_step(body: &str) -> (&str, Option<&str>) {
    let bytes = body.as_bytes();
    let split = (1..bytes.len()).find(|i| {
        matches!(bytes[*i], b'+' | b'-') && !matches!(bytes[i - 1], b'e' | b'E' | b'+' | b'-')
    });
    match split {
        None => (body, None),
        Some(at) => {
            let (first, step) = body.split_at_checked(at).unwrap_or((body, ""));
            (first, Some(step))
        }
    }
}

fn histogram_points(
    body: &str,
    count: usize,
    out: &mut Vec<Noted>,
    room: &mut Room,
) -> Result<(), String> {
    let end = body.find("}}").ok_or("a histogram does not end")? + 2;
    let (first, step) = body.split_at_checked(end).unwrap_or((body, ""));
    let (mut at, hint_given) = histogram(first)?;
    let step = match step.chars().next() {
        None => None,
        Some(sign @ ('+' | '-')) => {
            let (step, _) = histogram(step.get(1..).unwrap_or_default())?;
            Some((sign, step))
        }
        Some(_) => return Err(format!("unexpected `{step}` behind a histogram")),
    };
    let stepped = step.as_ref().map_or(0, |(_, step)| buckets(step));
    room.take(count.saturating_mul(buckets(&at).saturating_add(stepped)))?;
    for i in 0..count {
        if let (Some((sign, step)), 1..) = (&step, i) {
            let merged = if *sign == '+' { at.add(step) } else { at.sub(step) };
            merged.map_err(|e| e.to_string())?;
        }
        let value = Value::from(at.clone());
        out.push(Noted { value: Some(value), hint_given });
    }
    Ok(())
}

fn buckets(h: &Histogram) -> usize {
    h.positive.len() + h.negative.len() + h.custom_bounds.len()
}

/// `{{schema:1 sum:3 count:22 buckets:[5 10 7]}}`, and whether it has a reset hint.
fn histogram(text: &str) -> Result<(Histogram, bool), String> {
    let body = text
        .strip_prefix("{{")
        .and_then(|t| t.strip_suffix("}}"))
        .ok_or_else(|| format!("`{text}` is not a histogram"))?;
    let mut h = Histogram::default();
    let (mut positive, mut negative) = ((0, Vec::new()), (0, Vec::new()));
    let mut hint_given = false;
    for (key, value) in histogram_fields(body)? {
        let float = || parse_float(&value).ok_or_else(|| format!("`{value}` is not a number"));
        let whole = || value.parse::<i32>().map_err(|_| format!("`{value}` is not a whole number"));
        match key.as_str() {
            "schema" => h.schema = whole()?,
            "sum" => h.sum = float()?,
            "count" => h.count = float()?,
            "z_bucket" => h.zero_count = float()?,
            "z_bucket_w" => h.zero_threshold = float()?,
            "offset" => positive.0 = whole()?,
            "n_offset" => negative.0 = whole()?,
            "buckets" => positive.1 = list(&value)?,
            "n_buckets" => negative.1 = list(&value)?,
            "custom_values" => h.custom_bounds = list(&value)?,
            "counter_reset_hint" => {
                hint_given = true;
                h.reset = hint(&value)?;
            }
            other => return Err(format!("unknown histogram field `{other}`")),
        }
    }
    let place = |(offset, counts): (i32, Vec<f64>)| -> Buckets {
        counts.into_iter().enumerate().map(|(i, c)| (offset.saturating_add(i as i32), c)).collect()
    };
    if h.schema != CUSTOM_SCHEMA && !(SCHEMA_MIN..=SCHEMA_MAX).contains(&h.schema) {
        return Err(format!("schema {} does not exist", h.schema));
    }
    if h.schema != CUSTOM_SCHEMA && !h.custom_bounds.is_empty() {
        return Err("custom values need schema -53".to_owned());
    }
    h.positive = place(positive);
    h.negative = place(negative);
    Ok((h, hint_given))
}

fn histogram_fields(body: &str) -> Result<Vec<(String, String)>, String> {
    let mut out = Vec::new();
    let mut rest = body.trim();
    while !rest.is_empty() {
        let (key, tail) = rest.split_once(':').ok_or_else(|| format!("`{rest}` has no value"))?;
        let tail = tail.trim_start();
        let end = if tail.starts_with('[') {
            tail.find(']').ok_or("a list does not end")? + 1
        } else {
            tail.find(char::is_whitespace).unwrap_or(tail.len())
        };
        let (value, tail) = tail.split_at_checked(end).unwrap_or((tail, ""));
        out.push((key.trim().to_owned(), value.to_owned()));
        rest = tail.trim_start();
    }
    Ok(out)
}

fn list(text: &str) -> Result<Vec<f64>, String> {
    let inner = text.strip_prefix('[').and_then(|t| t.strip_suffix(']'));
    let inner = inner.ok_or_else(|| format!("`{text}` is not a list"))?;
    inner
        .split_whitespace()
        .map(|word| parse_float(word).ok_or_else(|| format!("`{word}` is not a number")))
        .collect()
}

fn hint(text: &str) -> Result<ResetHint, String> {
    Ok(match text {
        "unknown" => ResetHint::Unknown,
        "reset" => ResetHint::Reset,
        "not_reset" => ResetHint::NotReset,
        "gauge" => ResetHint::Gauge,
        other => return Err(format!("unknown reset hint `{other}`")),
    })
}

/// Start times: durations relative to the sample, `-30s-1mx2` counts down.
fn start_points(text: &str, room: &mut Room) -> Result<Vec<Noted>, String> {
    let mut out = Vec::new();
    for word in words(text)? {
        let (body, times) = repeats(&word)?;
        room.take(times.map_or(1, |n| n.saturating_add(1)))?;
        if body == "_" {
            let gap = Noted { value: None, hint_given: false };
            out.extend(std::iter::repeat_n(gap, times.unwrap_or(1)));
            continue;
        }
        let (first, step) = split_step(body);
        let ms = |t: &str| -> Result<i64, String> {
            let (sign, digits) = match t.strip_prefix('-') {
                Some(digits) => (-1, digits),
                None => (1, t.strip_prefix('+').unwrap_or(t)),
            };
            let ms = parse_duration_ms(digits).ok_or_else(|| format!("`{t}` is not a duration"))?;
            Ok(sign * ms)
        };
        let start = ms(first)?;
        let step = step.map(ms).transpose()?.unwrap_or_default();
        for i in 0..times.map_or(1, |n| n + 1) {
            let value = Value::Float(start.saturating_add(step.saturating_mul(i as i64)) as f64);
            out.push(Noted { value: Some(value), hint_given: false });
        }
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn explosions_are_refused() {
        let refused = |line: &str| series_line(line).unwrap_err();
        let many = "0x999999 ".repeat(2);
        for line in [
            "a 0x18446744073709551615".to_owned(),
            format!("a {many}"),
            format!("a@st {many}").replace("0x", "1sx"),
            "a _x9999999".to_owned(),
            format!("a {{{{buckets:[{}]}}}}x1000", "1 ".repeat(2_000)),
        ] {
            assert_eq!(refused(&line), "more than 1000000 points", "{line:.40}");
        }
        let mut room = Room::default();
        assert!(series_line_within("a 0x900000", &mut room).is_ok());
        assert!(series_line_within("a 0x900000", &mut room).is_err());
        assert_eq!(refused("a {{schema:-2147483648}}"), "schema -2147483648 does not exist");
    }
}
