//! Functions that are called on a value, by its type.
//!
//! **Source**: `cel-go/ext`, `apiserver/pkg/cel/library`.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use evenkeel_api::Quantity;

use super::{
    machine::{Eval, Outcome, Stop, compare, failed, int, no_overload},
    value::{Cel, Key, Url},
};

pub(super) fn of_optional<'a>(
    name: &str,
    inner: Option<&Cel<'a>>,
    rest: &[Cel<'a>],
) -> Outcome<'a> {
    match (name, inner, rest) {
        ("hasValue", inner, []) => Ok(Cel::Bool(inner.is_some())),
        ("value" | "orValue", Some(inner), _) => Ok(inner.clone()),
        ("value", None, _) => failed("optional.none() dereference"),
        ("or", Some(inner), _) => Ok(Cel::some(inner.clone())),
        ("orValue" | "or", None, [other]) => Ok(other.clone()),
        _ => no_overload(),
    }
}

pub(super) fn of_list<'a>(eval: &mut Eval<'a, '_>, name: &str, values: &[Cel<'a>]) -> Outcome<'a> {
    let [Cel::List(list), rest @ ..] = values else { return no_overload() };
    let items: Vec<Cel<'a>> = list.iter().collect();
    match (name, rest) {
        ("join", rest) => {
            let between = match rest {
                [Cel::Text(text)] => text.to_string(),
                [] => String::new(),
                _ => return no_overload(),
            };
            let texts: Option<Vec<&str>> = items
                .iter()
                .map(|item| if let Cel::Text(text) = item { Some(&**text) } else { None })
                .collect();
            let Some(texts) = texts else { return no_overload() };
            let joined = texts.join(&between);
            eval.spend(joined.len() / 10)?;
            Ok(Cel::text(joined))
        }
        ("isSorted", []) => {
            for pair in items.windows(2) {
                let [a, b] = pair else { continue };
                match compare(a, b) {
                    Ok(Some(Ordering::Greater)) => return Ok(Cel::Bool(false)),
                    Ok(_) => {}
                    Err(_) => return no_overload(),
                }
            }
            Ok(Cel::Bool(true))
        }
        ("min", []) => best(name, items, Ordering::Less),
        ("max", []) => best(name, items, Ordering::Greater),
        ("sum", []) => {
            let mut total = None;
            for item in items {
                total = Some(match (total, item) {
                    (None, item) => item,
                    (Some(Cel::Int(a)), Cel::Int(b)) => Cel::Int(a.saturating_add(b)),
                    (Some(Cel::Double(a)), Cel::Double(b)) => Cel::Double(a + b),
                    (Some(Cel::Duration(a)), Cel::Duration(b)) => Cel::Duration(a + b),
                    _ => return no_overload(),
                });
            }
            Ok(total.unwrap_or(Cel::Int(0)))
        }
        ("indexOf" | "lastIndexOf", [wanted]) => {
            let mut found = -1;
            for (index, item) in items.iter().enumerate() {
                if eval.equal(item, wanted)? && (found < 0 || name == "lastIndexOf") {
                    found = i64::try_from(index).unwrap_or(i64::MAX);
                }
            }
            Ok(Cel::Int(found))
        }
        _ => no_overload(),
    }
}

fn best<'a>(name: &str, items: Vec<Cel<'a>>, wanted: Ordering) -> Outcome<'a> {
    let mut best: Option<Cel<'a>> = None;
    for item in items {
        let better = match &best {
            None => true,
            Some(best) => match compare(&item, best) {
                Ok(order) => order == Some(wanted),
                Err(_) => return no_overload(),
            },
        };
        if better {
            best = Some(item);
        }
    }
    best.ok_or_else(|| Stop::Failed(format!("{name} called on empty list")))
}

/// Characters from one place up to another.
fn part(text: &str, from: i64, to: i64) -> Option<String> {
    let (from, to) = (usize::try_from(from).ok()?, usize::try_from(to).ok()?);
    let count = text.chars().count();
    (from <= to && to <= count).then(|| text.chars().skip(from).take(to - from).collect())
}

pub(super) fn of_text<'a>(
    eval: &mut Eval<'a, '_>,
    name: &str,
    text: &Arc<str>,
    rest: &[Cel<'a>],
) -> Outcome<'a> {
    let length = i64::try_from(text.chars().count()).unwrap_or(i64::MAX);
    let texts = |all: Vec<String>| Ok(Cel::list(all.into_iter().map(Cel::text).collect()));
    match (name, rest) {
        ("contains", [Cel::Text(part)]) => Ok(Cel::Bool(text.contains(&**part))),
        ("startsWith", [Cel::Text(part)]) => Ok(Cel::Bool(text.starts_with(&**part))),
        ("endsWith", [Cel::Text(part)]) => Ok(Cel::Bool(text.ends_with(&**part))),
        ("matches", [Cel::Text(pattern)]) => Ok(Cel::Bool(eval.pattern(pattern)?.is_match(text))),
        ("find", [Cel::Text(pattern)]) => {
            Ok(Cel::text(eval.pattern(pattern)?.find(text).map_or("", |found| found.as_str())))
        }
        ("findAll", [Cel::Text(pattern), rest @ ..]) => {
            let most = match rest {
                [Cel::Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            let pattern = eval.pattern(pattern)?;
            texts(pattern.find_iter(text).take(most).map(|f| f.as_str().to_owned()).collect())
        }
        ("lowerAscii", []) => Ok(Cel::text(text.to_ascii_lowercase())),
        ("upperAscii", []) => Ok(Cel::text(text.to_ascii_uppercase())),
        ("trim", []) => Ok(Cel::text(text.trim())),
        ("charAt", [Cel::Int(index)]) if *index == length => Ok(Cel::text("")),
        ("charAt", [Cel::Int(index)]) => part(text, *index, *index + 1)
            .map(Cel::text)
            .ok_or_else(|| Stop::Failed(format!("index out of range: {index}"))),
        ("substring", [Cel::Int(from)]) => part(text, *from, length)
            .map(Cel::text)
            .ok_or_else(|| Stop::Failed(format!("index out of range: {from}"))),
        ("substring", [Cel::Int(from), Cel::Int(to)]) => {
            part(text, *from, *to).map(Cel::text).ok_or_else(|| {
                Stop::Failed(format!("invalid substring range. start: {from}, end: {to}"))
            })
        }
        ("indexOf" | "lastIndexOf", [Cel::Text(wanted)]) => {
            let found =
                if name == "indexOf" { text.find(&**wanted) } else { text.rfind(&**wanted) };
            let before = found.and_then(|at| text.get(..at)).map(|head| head.chars().count());
            Ok(before.map_or(Cel::Int(-1), int))
        }
        ("replace", [Cel::Text(from), Cel::Text(to), rest @ ..]) => {
            let most = match rest {
                [Cel::Int(most)] => usize::try_from(*most).unwrap_or(usize::MAX),
                _ => usize::MAX,
            };
            let found = text.matches(&**from).take(most).count();
            eval.spend((text.len() + found.saturating_mul(to.len())) / 10)?;
            Ok(Cel::text(text.replacen(&**from, to, most)))
        }
        ("split", [Cel::Text(by), rest @ ..]) => {
            eval.spend(text.len())?;
            let parts = |most: usize| -> Vec<String> {
                if by.is_empty() {
                    return text.chars().take(most).map(String::from).collect();
                }
                text.splitn(most, &**by).map(str::to_owned).collect()
            };
            match rest {
                [Cel::Int(0)] => texts(Vec::new()),
                [Cel::Int(most)] => texts(parts(usize::try_from(*most).unwrap_or(usize::MAX))),
                _ => texts(parts(usize::MAX)),
            }
        }
        _ => no_overload(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "asked for as an approximation")]
pub(super) fn of_quantity<'a>(name: &str, millis: i128, rest: &[Cel<'a>]) -> Outcome<'a> {
    let is_whole = millis % 1_000 == 0;
    Ok(match (name, rest) {
        ("sign", []) => Cel::Int(i64::try_from(millis.signum()).unwrap_or_default()),
        ("isInteger", []) => Cel::Bool(is_whole && i64::try_from(millis / 1_000).is_ok()),
        ("asInteger", []) => match i64::try_from(millis / 1_000) {
            Ok(value) if is_whole => Cel::Int(value),
            _ => return failed("cannot convert value to integer"),
        },
        ("asApproximateFloat", []) => Cel::Double(millis as f64 / 1_000.0),
        ("add", [Cel::Quantity(other)]) => Cel::Quantity(millis.saturating_add(*other)),
        ("add", [Cel::Int(other)]) => {
            Cel::Quantity(millis.saturating_add(Quantity::whole(*other).millis))
        }
        ("sub", [Cel::Quantity(other)]) => Cel::Quantity(millis.saturating_sub(*other)),
        ("sub", [Cel::Int(other)]) => {
            Cel::Quantity(millis.saturating_sub(Quantity::whole(*other).millis))
        }
        ("isLessThan", [Cel::Quantity(other)]) => Cel::Bool(millis < *other),
        ("isGreaterThan", [Cel::Quantity(other)]) => Cel::Bool(millis > *other),
        ("compareTo", [Cel::Quantity(other)]) => Cel::Int(match millis.cmp(other) {
            Ordering::Less => -1,
            Ordering::Equal => 0,
            Ordering::Greater => 1,
        }),
        _ => return no_overload(),
    })
}

pub(super) fn of_url<'a>(name: &str, url: &Url) -> Outcome<'a> {
    let (host, port) = match url.host.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port),
        _ => (url.host.as_str(), ""),
    };
    Ok(Cel::text(match name {
        "getScheme" => url.scheme.as_str(),
        "getHost" => url.host.as_str(),
        "getHostname" => host.trim_start_matches('[').trim_end_matches(']'),
        "getPort" => port,
        "getEscapedPath" => url.path.as_str(),
        "getQuery" => {
            let mut all: BTreeMap<Key, Vec<Cel<'a>>> = BTreeMap::new();
            for pair in url.query.split('&').filter(|pair| !pair.is_empty()) {
                let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
                all.entry(Key::Text(key.into())).or_default().push(Cel::text(value));
            }
            let all = all.into_iter().map(|(key, values)| (key, Cel::list(values))).collect();
            return Ok(Cel::Map(Arc::new(all)));
        }
        _ => return no_overload(),
    }))
}

impl Url {
    /// An absolute URL, or an absolute path, as Go's `url.ParseRequestURI` reads it.
    pub(super) fn parse(text: &str) -> Option<Self> {
        if text.chars().any(|c| c.is_control() || c == ' ') {
            return None;
        }
        let (scheme, rest) = if text.starts_with('/') {
            ("", text)
        } else {
            let (scheme, rest) = text.split_once(':')?;
            let mut letters = scheme.chars();
            let fine = letters.next().is_some_and(|c| c.is_ascii_alphabetic())
                && letters.all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c));
            if !fine || !rest.starts_with('/') {
                return None;
            }
            (scheme, rest)
        };
        let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (host, path) = match rest.strip_prefix("//").filter(|_| !scheme.is_empty()) {
            Some(rest) => rest.split_at(rest.find('/').unwrap_or(rest.len())),
            None => ("", rest),
        };
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        let port = host.rsplit_once(':').filter(|(_, port)| !port.contains(']'));
        if port.is_some_and(|(_, port)| !port.chars().all(|c| c.is_ascii_digit())) {
            return None;
        }
        Some(Self {
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path: path.to_owned(),
            query: query.to_owned(),
            whole: text.to_owned(),
        })
    }
}

pub(super) fn of_time<'a>(name: &str, at: jiff::Timestamp) -> Outcome<'a> {
    let at = at.to_zoned(jiff::tz::TimeZone::UTC);
    Ok(Cel::Int(match name {
        "getFullYear" => i64::from(at.year()),
        "getMonth" => i64::from(at.month()) - 1,
        "getDayOfMonth" => i64::from(at.day()) - 1,
        "getDayOfWeek" => i64::from(at.weekday().to_sunday_zero_offset()),
        "getHours" => i64::from(at.hour()),
        "getMinutes" => i64::from(at.minute()),
        "getSeconds" => i64::from(at.second()),
        "getMilliseconds" => i64::from(at.millisecond()),
        _ => return no_overload(),
    }))
}

pub(super) fn of_duration<'a>(name: &str, nanos: i128) -> Outcome<'a> {
    let unit = match name {
        "getHours" => 3_600_000_000_000,
        "getMinutes" => 60_000_000_000,
        "getSeconds" => 1_000_000_000,
        "getMilliseconds" => 1_000_000,
        _ => return no_overload(),
    };
    Ok(Cel::Int(i64::try_from(nanos / unit).unwrap_or(i64::MAX)))
}
