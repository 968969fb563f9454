//! Functions of templates: Go's own and those Prometheus adds.

use super::Data;
use super::format::{print, printf, significant};
use super::run::OUTPUT_MAX;
use crate::labels::Labels;
use crate::matcher::anchored;
use crate::number::{parse_duration_ms, parse_float};
use std::cmp::Ordering;
use std::collections::BTreeMap;

/// Answers a query with labels and values.
pub type QueryFn<'s> = dyn Fn(&str) -> Result<Vec<(Labels, f64)>, String> + 's;

const NAMES: [&str; 43] = [
    "and",
    "args",
    "eq",
    "externalURL",
    "first",
    "ge",
    "gt",
    "html",
    "humanize",
    "humanize1024",
    "humanizeDuration",
    "humanizePercentage",
    "humanizeTimestamp",
    "index",
    "label",
    "le",
    "len",
    "lt",
    "match",
    "ne",
    "not",
    "or",
    "parseDuration",
    "pathPrefix",
    "print",
    "printf",
    "println",
    "query",
    "reReplaceAll",
    "safeHtml",
    "sortByLabel",
    "stripDomain",
    "stripPort",
    "strvalue",
    "tableLink",
    "graphLink",
    "title",
    "toDuration",
    "toLower",
    "toTime",
    "toUpper",
    "urlquery",
    "value",
];

pub(super) fn is_function(name: &str) -> bool {
    NAMES.contains(&name)
}

pub(super) fn call(
    name: &str,
    args: Vec<Data>,
    query: Option<&QueryFn<'_>>,
) -> Result<Data, String> {
    match name {
        "and" => Ok(pick(args, false)),
        "or" => Ok(pick(args, true)),
        "print" => Ok(Data::Text(args.iter().map(print).collect())),
        "println" => {
            let parts: Vec<String> = args.iter().map(print).collect();
            Ok(Data::Text(format!("{}\n", parts.join(" "))))
        }
        "printf" => match args.split_first() {
            Some((Data::Text(format), rest)) => Ok(Data::Text(printf(format, rest))),
            _ => Err("printf needs a format".to_owned()),
        },
        "urlquery" => Ok(Data::Text(escape(&args.iter().map(print).collect::<String>()))),
        "html" => Ok(Data::Text(args.iter().map(print).map(|text| escape_html(&text)).collect())),
        "args" => {
            let named = args.into_iter().enumerate().map(|(i, v)| (format!("arg{i}"), v));
            Ok(Data::Map(named.collect()))
        }
        "eq" => match args.split_first() {
            Some((first, rest)) if !rest.is_empty() => {
                Ok(Data::Bool(rest.iter().any(|other| equal(first, other))))
            }
            _ => Err("eq needs two arguments".to_owned()),
        },
        "index" => index(&args),
        "externalURL" | "pathPrefix" => Ok(Data::Text(String::new())),
        "reReplaceAll" => match args.as_slice() {
            [Data::Text(pattern), Data::Text(with), Data::Text(text)] => {
                let pattern = crate::re2::translated(pattern)?;
                let regex = regex::RegexBuilder::new(&pattern).size_limit(1 << 20).build();
                replace(&regex.map_err(|e| e.to_string())?, with, text)
            }
            _ => Err("reReplaceAll needs three texts".to_owned()),
        },
        _ => match <[Data; 1]>::try_from(args) {
            Ok([one]) => unary(name, one, query),
            Err(args) => match <[Data; 2]>::try_from(args) {
                Ok([a, b]) => binary(name, &a, b),
                Err(_) => Err(format!("wrong number of args for {name}")),
            },
        },
    }
}

/// Replaces all matches, as long as the result is no larger than a template's output may be.
fn replace(regex: &regex::Regex, with: &str, text: &str) -> Result<Data, String> {
    let references = with.matches('$').count();
    let mut out = String::new();
    let mut copied = 0;
    for captures in regex.captures_iter(text) {
        let Some(found) = captures.get(0) else { continue };
        out.push_str(text.get(copied..found.start()).unwrap_or_default());
        copied = found.end();
        let most = with.len().saturating_add(found.len().saturating_mul(references));
        if out.len().saturating_add(most) > OUTPUT_MAX {
            return Err(format!("reReplaceAll would write more than {OUTPUT_MAX} bytes"));
        }
        captures.expand(with, &mut out);
    }
    out.push_str(text.get(copied..).unwrap_or_default());
    Ok(Data::Text(out))
}

fn pick(args: Vec<Data>, wanted: bool) -> Data {
    let mut last = Data::Nil;
    for arg in args {
        last = arg;
        if last.is_true() == wanted {
            break;
        }
    }
    last
}

fn float(value: &Data) -> Result<f64, String> {
    match value {
        Data::Float(v) => Ok(*v),
        Data::Int(n) => Ok(*n as f64),
        Data::Text(text) => parse_float(text)
            .ok_or_else(|| format!("strconv.ParseFloat: parsing {text:?}: invalid syntax")),
        other => Err(format!("can't convert {} to float", print(other))),
    }
}

fn unary(name: &str, arg: Data, query: Option<&QueryFn<'_>>) -> Result<Data, String> {
    let text = |t: String| Ok(Data::Text(t));
    match name {
        "not" => Ok(Data::Bool(!arg.is_true())),
        "len" => Ok(Data::Int(match &arg {
            Data::Text(t) => t.len() as i64,
            Data::List(list) => list.len() as i64,
            Data::Map(map) => map.len() as i64,
            _ => return Err(format!("len of {}", print(&arg))),
        })),
        "humanize" => text(humanize(float(&arg)?, 1000.0)),
        "humanize1024" => text(humanize(float(&arg)?, 1024.0)),
        "humanizeDuration" => text(humanize_duration(float(&arg)?)),
        "humanizePercentage" => text(format!("{}%", significant(float(&arg)? * 100.0, 4))),
        "humanizeTimestamp" | "toTime" => text(humanize_timestamp(float(&arg)?)),
        "toDuration" => text(go_duration((float(&arg)? * 1e9) as i64)),
        "toUpper" => text(print(&arg).to_uppercase()),
        "toLower" => text(print(&arg).to_lowercase()),
        "title" => text(title(&print(&arg))),
        "safeHtml" => Ok(arg),
        "stripPort" => {
            let host = print(&arg);
            text(match host.rsplit_once(':') {
                Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => {
                    name.trim_start_matches('[').trim_end_matches(']').to_owned()
                }
                _ => host,
            })
        }
        "stripDomain" => {
            let host = print(&arg);
            let (name, port) = match host.rsplit_once(':') {
                Some((name, port)) => (name, format!(":{port}")),
                None => (host.as_str(), String::new()),
            };
            let first = name.split('.').next().unwrap_or_default();
            text(format!("{first}{port}"))
        }
        "parseDuration" => parse_duration_ms(&print(&arg))
            .map(|ms| Data::Float(ms as f64 / 1000.0))
            .ok_or_else(|| format!("not a valid duration string: {:?}", print(&arg))),
        "graphLink" | "tableLink" => {
            let tab = i32::from(name != "graphLink");
            text(format!("/graph?g0.expr={}&g0.tab={tab}", escape(&print(&arg))))
        }
        "query" => {
            let query = query.ok_or("query is not available here")?;
            let found = query(&print(&arg))?;
            Ok(Data::List(found.iter().map(|(labels, v)| sample(labels, *v)).collect()))
        }
        "first" => match arg {
            Data::List(list) => list
                .into_iter()
                .next()
                .ok_or_else(|| "first() called on vector with no elements".to_owned()),
            _ => Err("first() needs a vector".to_owned()),
        },
        "value" => field(&arg, "Value"),
        "strvalue" => match field(&arg, "Labels")? {
            Data::Map(map) => {
                Ok(map.get("__value__").cloned().unwrap_or(Data::Text(String::new())))
            }
            _ => Err("strvalue needs a sample".to_owned()),
        },
        _ => Err(format!("wrong number of args for {name}")),
    }
}

fn binary(name: &str, a: &Data, b: Data) -> Result<Data, String> {
    let ordered = |wanted: &[Ordering]| {
        let order = compare(a, &b).ok_or("incompatible types for comparison")?;
        Ok(Data::Bool(wanted.contains(&order)))
    };
    match name {
        "ne" => Ok(Data::Bool(!equal(a, &b))),
        "lt" => ordered(&[Ordering::Less]),
        "le" => ordered(&[Ordering::Less, Ordering::Equal]),
        "gt" => ordered(&[Ordering::Greater]),
        "ge" => ordered(&[Ordering::Greater, Ordering::Equal]),
        "match" => {
            let pattern = print(a);
            let regex = anchored(&format!(".*(?:{pattern}).*")).map_err(|e| e.to_string())?;
            Ok(Data::Bool(regex.is_match(&print(&b))))
        }
        "label" => match field(&b, "Labels")? {
            Data::Map(map) => Ok(map.get(&print(a)).cloned().unwrap_or(Data::Text(String::new()))),
            _ => Err("label needs a sample".to_owned()),
        },
        "sortByLabel" => match b {
            Data::List(mut list) => {
                let key = print(a);
                let label = |d: &Data| match field(d, "Labels") {
                    Ok(Data::Map(map)) => map.get(&key).map(print).unwrap_or_default(),
                    _ => String::new(),
                };
                list.sort_by_key(label);
                Ok(Data::List(list))
            }
            _ => Err("sortByLabel needs a vector".to_owned()),
        },
        _ => Err(format!("wrong number of args for {name}")),
    }
}

fn sample(labels: &Labels, value: f64) -> Data {
    let mut map = BTreeMap::new();
    map.insert("Labels".to_owned(), Data::labels(labels));
    map.insert("Value".to_owned(), Data::Float(value));
    Data::Map(map)
}

fn field(of: &Data, name: &str) -> Result<Data, String> {
    match of {
        Data::Map(map) => map.get(name).cloned().ok_or_else(|| format!("no field {name}")),
        _ => Err(format!("no field {name}")),
    }
}

fn index(args: &[Data]) -> Result<Data, String> {
    let (first, keys) = args.split_first().ok_or("index needs arguments")?;
    let mut at = first.clone();
    for key in keys {
        at = match (&at, key) {
            (Data::Map(map), key) => {
                map.get(&print(key)).cloned().unwrap_or(Data::Text(String::new()))
            }
            (Data::List(list), Data::Int(i)) => {
                let found = usize::try_from(*i).ok().and_then(|i| list.get(i)).cloned();
                found.ok_or_else(|| format!("index out of range: {i}"))?
            }
            _ => return Err("can't index that".to_owned()),
        };
    }
    Ok(at)
}

fn equal(a: &Data, b: &Data) -> bool {
    compare(a, b) == Some(Ordering::Equal) || a == b
}

fn compare(a: &Data, b: &Data) -> Option<Ordering> {
    match (a, b) {
        (Data::Text(a), Data::Text(b)) => Some(a.cmp(b)),
        (Data::Int(_) | Data::Float(_), Data::Int(_) | Data::Float(_)) => {
            float(a).ok()?.partial_cmp(&float(b).ok()?)
        }
        _ => None,
    }
}

fn humanize(v: f64, base: f64) -> String {
    let mut v = v;
    if v == 0.0 || !v.is_finite() {
        return significant(v, 4);
    }
    let binary = base > 1000.0;
    let up: [&str; 8] = if binary {
        ["ki", "Mi", "Gi", "Ti", "Pi", "Ei", "Zi", "Yi"]
    } else {
        ["k", "M", "G", "T", "P", "E", "Z", "Y"]
    };
    let mut prefix = "";
    if v.abs() >= 1.0 || binary {
        for p in up {
            if v.abs() < base {
                break;
            }
            prefix = p;
            v /= base;
        }
    } else {
        for p in ["m", "u", "n", "p", "f", "a", "z", "y"] {
            if v.abs() >= 1.0 {
                break;
            }
            prefix = p;
            v *= base;
        }
    }
    format!("{}{prefix}", significant(v, 4))
}

fn humanize_duration(v: f64) -> String {
    if !v.is_finite() {
        return significant(v, 4);
    }
    if v.abs() < 1.0 {
        return if v == 0.0 { "0s".to_owned() } else { format!("{}s", humanize(v, 1000.0)) };
    }
    let sign = if v < 0.0 { "-" } else { "" };
    let v = v.abs();
    let whole = v as i64;
    let (seconds, minutes) = (whole % 60, whole / 60 % 60);
    let (hours, days) = (whole / 3600 % 24, whole / 86_400);
    if days != 0 {
        format!("{sign}{days}d {hours}h {minutes}m {seconds}s")
    } else if hours != 0 {
        format!("{sign}{hours}h {minutes}m {seconds}s")
    } else if minutes != 0 {
        format!("{sign}{minutes}m {seconds}s")
    } else {
        format!("{sign}{}s", significant(v, 4))
    }
}

fn humanize_timestamp(v: f64) -> String {
    let ms = (v * 1000.0).round();
    if !ms.is_finite() || ms.abs() > 2.5e14 {
        return significant(v, 4);
    }
    match jiff::Timestamp::from_millisecond(ms as i64) {
        Ok(time) => {
            let text = time.to_string();
            let text = text.trim_end_matches('Z').replace('T', " ");
            format!("{text} +0000 UTC")
        }
        Err(_) => significant(v, 4),
    }
}

fn title(text: &str) -> String {
    let mut start = true;
    text.chars()
        .map(|c| {
            let shown = if start { c.to_uppercase().next().unwrap_or(c) } else { c };
            start = !c.is_alphanumeric() && c != '_' && c != '\'';
            shown
        })
        .collect()
}

/// As Go prints a `time.Duration`: `1h30m0s`, `12.5s`, `1.5ms`, `0s`.
fn go_duration(nanos: i64) -> String {
    let sign = if nanos < 0 { "-" } else { "" };
    let all = nanos.unsigned_abs();
    let seconds = all as f64 / 1e9;
    match all {
        0 => "0s".to_owned(),
        1..1_000 => format!("{sign}{all}ns"),
        1_000..1_000_000 => format!("{sign}{}\u{b5}s", all as f64 / 1e3),
        1_000_000..1_000_000_000 => format!("{sign}{}ms", all as f64 / 1e6),
        1_000_000_000..60_000_000_000 => format!("{sign}{seconds}s"),
        _ => {
            let (minutes, rest) = (all / 60_000_000_000, (all % 60_000_000_000) as f64 / 1e9);
            let hours = if minutes >= 60 { format!("{}h", minutes / 60) } else { String::new() };
            format!("{sign}{hours}{}m{rest}s", minutes % 60)
        }
    }
}

fn escape_html(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '\'' => out.push_str("&#39;"),
            '"' => out.push_str("&#34;"),
            '\0' => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

fn escape(text: &str) -> String {
    let mut out = String::new();
    for b in text.bytes() {
        match b {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(b));
            }
            b' ' => out.push('+'),
            b => out.extend(["%".to_owned(), format!("{b:02X}")]),
        }
    }
    out
}
