//! The functions of CEL and those that Kubernetes adds.
//!
//! **Source**: `cel-spec/doc/langdef.md`, `cel-go/ext`, `apiserver/pkg/cel/library`.

use std::{cmp::Ordering, collections::BTreeMap, sync::Arc};

use evenkeel_api::Quantity;

use super::{
    machine::{Eval, Outcome, Stop, compare, failed},
    value::{Cel, Key, Url, duration},
};

/// What a function gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gives {
    Bool,
    Int,
    Uint,
    Double,
    Text,
    Texts,
    Bytes,
    Duration,
    Time,
    Quantity,
    Url,
    Optional,
    Any,
}

/// Whether it is called on a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Global,
    Member,
    Both,
}

use Gives::{Any, Bool, Bytes, Double, Int, Optional, Text, Texts, Time, Uint};
use Style::{Both, Global, Member};

/// Names that are types.
pub(super) const TYPES: [&str; 11] =
    ["bool", "int", "uint", "double", "string", "bytes", "list", "map", "type", "null_type", "dyn"];

/// Functions: name, how it is called, fewest and most arguments (the target not counted).
const TABLE: &[(&str, Style, usize, usize, Gives)] = &[
    ("size", Both, 0, 1, Int),
    ("int", Global, 1, 1, Int),
    ("uint", Global, 1, 1, Uint),
    ("double", Global, 1, 1, Double),
    ("string", Global, 1, 1, Text),
    ("bytes", Global, 1, 1, Bytes),
    ("bool", Global, 1, 1, Bool),
    ("dyn", Global, 1, 1, Any),
    ("type", Global, 1, 1, Any),
    ("duration", Global, 1, 1, Gives::Duration),
    ("timestamp", Global, 1, 1, Time),
    ("contains", Member, 1, 1, Bool),
    ("startsWith", Member, 1, 1, Bool),
    ("endsWith", Member, 1, 1, Bool),
    ("matches", Both, 1, 2, Bool),
    ("charAt", Member, 1, 1, Text),
    ("indexOf", Member, 1, 2, Int),
    ("lastIndexOf", Member, 1, 2, Int),
    ("lowerAscii", Member, 0, 0, Text),
    ("upperAscii", Member, 0, 0, Text),
    ("replace", Member, 2, 3, Text),
    ("split", Member, 1, 2, Texts),
    ("join", Member, 0, 1, Text),
    ("substring", Member, 1, 2, Text),
    ("trim", Member, 0, 0, Text),
    ("find", Member, 1, 1, Text),
    ("findAll", Member, 1, 2, Texts),
    ("isSorted", Member, 0, 0, Bool),
    ("sum", Member, 0, 0, Any),
    ("min", Member, 0, 0, Any),
    ("max", Member, 0, 0, Any),
    ("getFullYear", Member, 0, 0, Int),
    ("getMonth", Member, 0, 0, Int),
    ("getDayOfMonth", Member, 0, 0, Int),
    ("getDayOfWeek", Member, 0, 0, Int),
    ("getHours", Member, 0, 0, Int),
    ("getMinutes", Member, 0, 0, Int),
    ("getSeconds", Member, 0, 0, Int),
    ("getMilliseconds", Member, 0, 0, Int),
    ("isQuantity", Global, 1, 1, Bool),
    ("quantity", Global, 1, 1, Gives::Quantity),
    ("sign", Member, 0, 0, Int),
    ("isInteger", Member, 0, 0, Bool),
    ("asInteger", Member, 0, 0, Int),
    ("asApproximateFloat", Member, 0, 0, Double),
    ("add", Member, 1, 1, Gives::Quantity),
    ("sub", Member, 1, 1, Gives::Quantity),
    ("isLessThan", Member, 1, 1, Bool),
    ("isGreaterThan", Member, 1, 1, Bool),
    ("compareTo", Member, 1, 1, Int),
    ("isURL", Global, 1, 1, Bool),
    ("url", Global, 1, 1, Gives::Url),
    ("getScheme", Member, 0, 0, Text),
    ("getHost", Member, 0, 0, Text),
    ("getHostname", Member, 0, 0, Text),
    ("getPort", Member, 0, 0, Text),
    ("getEscapedPath", Member, 0, 0, Text),
    ("getQuery", Member, 0, 0, Any),
    ("isIP", Global, 1, 1, Bool),
    // Of `optional` and of an optional value.
    ("of", Member, 1, 1, Optional),
    ("none", Member, 0, 0, Optional),
    ("hasValue", Member, 0, 0, Bool),
    ("value", Member, 0, 0, Any),
    ("orValue", Member, 1, 1, Any),
    ("or", Member, 1, 1, Any),
    // Of `sets`.
    ("equivalent", Member, 2, 2, Bool),
    ("intersects", Member, 2, 2, Bool),
];

/// Functions of Kubernetes that are not here.
const ABSENT: [&str; 16] = [
    "ip",
    "cidr",
    "isCIDR",
    "family",
    "isCanonical",
    "format",
    "named",
    "validate",
    "getDate",
    "getDayOfYear",
    "quote",
    "reverse",
    "semver",
    "isSemver",
    "distinct",
    "sort",
];

pub(super) fn is_namespace(name: &str) -> bool {
    matches!(name, "optional" | "sets")
}

pub(super) fn namespace(name: &str) -> &'static str {
    if name == "optional" { "optional" } else { "sets" }
}

/// What a call gives; what is wrong with it otherwise.
pub(super) fn gives(name: &str, is_member: bool, args: usize) -> Result<Gives, String> {
    if ABSENT.contains(&name) {
        return Err(format!("function '{name}' is not supported by this cluster"));
    }
    let Some((_, style, fewest, most, gives)) = TABLE.iter().find(|row| row.0 == name) else {
        return Err(format!("undeclared reference to '{name}' (in container '')"));
    };
    let fits = match style {
        Global => !is_member,
        Member => is_member,
        Both => true,
    };
    let most = if name == "contains" { 2 } else { *most };
    if !fits || args < *fewest || args > most {
        return Err(format!("found no matching overload for '{name}'"));
    }
    Ok(*gives)
}

/// A value in a message.
pub(super) fn shown(value: &Cel<'_>) -> String {
    match value {
        Cel::Int(value) => value.to_string(),
        Cel::Uint(value) => value.to_string(),
        Cel::Bool(value) => value.to_string(),
        Cel::Text(text) => text.to_string(),
        other => other.type_name().to_owned(),
    }
}

fn no_overload<'a>() -> Outcome<'a> {
    failed("no such overload")
}

fn int<'a>(number: usize) -> Cel<'a> {
    Cel::Int(i64::try_from(number).unwrap_or(i64::MAX))
}

/// Calls a function; the first value is the target, if there is one.
pub(super) fn call<'a>(
    eval: &mut Eval<'a, '_>,
    name: &str,
    is_member: bool,
    values: &[Cel<'a>],
) -> Outcome<'a> {
    for value in values {
        match value {
            Cel::Text(text) => eval.spend(text.len() / 10)?,
            Cel::List(items) => eval.spend(items.len())?,
            _ => {}
        }
    }
    if is_member
        && let [Cel::Type(space), rest @ ..] = values
        && is_namespace(space)
    {
        return in_namespace(eval, space, name, rest);
    }
    match values {
        [Cel::Optional(inner), rest @ ..] if is_member => of_optional(name, inner.as_deref(), rest),
        [Cel::List(_), ..] if is_member && !matches!(name, "size") => of_list(eval, name, values),
        [value, rest @ ..] => match conversion(name, value) {
            Some(outcome) => outcome,
            None => match value {
                Cel::Text(text) => of_text(eval, name, text, rest),
                Cel::Quantity(millis) => of_quantity(name, *millis, rest),
                Cel::Url(url) => of_url(name, url),
                Cel::Time(at) => of_time(name, *at),
                Cel::Duration(nanos) => of_duration(name, *nanos),
                _ => no_overload(),
            },
        },
        [] => no_overload(),
    }
}

fn conversion<'a>(name: &str, value: &Cel<'a>) -> Option<Outcome<'a>> {
    Some(match (name, value) {
        ("size", Cel::Text(text)) => Ok(int(text.chars().count())),
        ("size", Cel::Bytes(bytes)) => Ok(int(bytes.len())),
        ("size", Cel::List(items)) => Ok(int(items.len())),
        ("size", Cel::Object(fields, _)) => Ok(int(fields.len())),
        ("size", Cel::Map(entries)) => Ok(int(entries.len())),
        ("dyn", value) => Ok(value.clone()),
        ("type", value) => Ok(Cel::Type(value.type_name())),
        ("string", value) => string(value),
        ("int", value) => whole(value),
        ("uint", value) => whole(value).and_then(|value| match value {
            Cel::Int(value) => u64::try_from(value)
                .map(Cel::Uint)
                .map_err(|_| Stop::Failed("unsigned integer overflow".to_owned())),
            _ => no_overload(),
        }),
        ("double", value) => double(value),
        ("bool", Cel::Bool(value)) => Ok(Cel::Bool(*value)),
        ("bool", Cel::Text(text)) => match &**text {
            "true" | "True" | "TRUE" | "t" | "1" => Ok(Cel::Bool(true)),
            "false" | "False" | "FALSE" | "f" | "0" => Ok(Cel::Bool(false)),
            _ => failed(format!("Type conversion error from 'string' to 'bool': {text}")),
        },
        ("bytes", Cel::Bytes(bytes)) => Ok(Cel::Bytes(bytes.clone())),
        ("bytes", Cel::Text(text)) => Ok(Cel::Bytes(text.as_bytes().into())),
        ("duration", Cel::Duration(nanos)) => Ok(Cel::Duration(*nanos)),
        ("duration", Cel::Text(text)) => duration(text)
            .map(Cel::Duration)
            .ok_or_else(|| Stop::Failed(format!("time: invalid duration {text:?}"))),
        ("timestamp", Cel::Time(at)) => Ok(Cel::Time(*at)),
        ("timestamp", Cel::Text(text)) => text
            .parse()
            .map(Cel::Time)
            .map_err(|error| Stop::Failed(format!("invalid timestamp {text:?}: {error}"))),
        ("isQuantity", Cel::Text(text)) => Ok(Cel::Bool(Quantity::parse(text).is_ok())),
        ("quantity", Cel::Text(text)) => Quantity::parse(text)
            .map(|quantity| Cel::Quantity(quantity.millis))
            .map_err(|error| Stop::Failed(error.to_string())),
        ("isURL", Cel::Text(text)) => Ok(Cel::Bool(Url::parse(text).is_some())),
        ("url", Cel::Text(text)) => Url::parse(text)
            .map(|url| Cel::Url(Arc::new(url)))
            .ok_or_else(|| Stop::Failed(format!("URL parse error during conversion: {text}"))),
        ("isIP", Cel::Text(text)) => Ok(Cel::Bool(text.parse::<std::net::IpAddr>().is_ok())),
        _ => return None,
    })
}

fn string<'a>(value: &Cel<'a>) -> Outcome<'a> {
    Ok(Cel::text(match value {
        Cel::Text(text) => return Ok(Cel::Text(text.clone())),
        Cel::Bool(value) => value.to_string(),
        Cel::Int(value) => value.to_string(),
        Cel::Uint(value) => value.to_string(),
        Cel::Double(value) => value.to_string(),
        Cel::Bytes(bytes) => String::from_utf8_lossy(bytes).into_owned(),
        Cel::Time(at) => at.to_string(),
        #[expect(clippy::cast_precision_loss, reason = "as Go prints durations")]
        Cel::Duration(nanos) => format!("{}s", *nanos as f64 / 1e9),
        Cel::Url(url) => url.whole.clone(),
        _ => return no_overload(),
    }))
}

#[expect(clippy::cast_possible_truncation, reason = "checked against the range")]
fn whole<'a>(value: &Cel<'a>) -> Outcome<'a> {
    let range = || Stop::Failed("integer overflow".to_owned());
    match value {
        Cel::Int(value) => Ok(Cel::Int(*value)),
        Cel::Uint(value) => i64::try_from(*value).map(Cel::Int).map_err(|_| range()),
        Cel::Double(value) if value.abs() < 9.2e18 => Ok(Cel::Int(*value as i64)),
        Cel::Double(_) => Err(range()),
        Cel::Text(text) => text.parse().map(Cel::Int).map_err(|_| {
            Stop::Failed(format!("strconv.ParseInt: parsing {text:?}: invalid syntax"))
        }),
        Cel::Time(at) => Ok(Cel::Int(at.as_second())),
        Cel::Duration(nanos) => i64::try_from(*nanos).map(Cel::Int).map_err(|_| range()),
        _ => no_overload(),
    }
}

#[expect(clippy::cast_precision_loss, reason = "as CEL converts")]
fn double<'a>(value: &Cel<'a>) -> Outcome<'a> {
    match value {
        Cel::Double(value) => Ok(Cel::Double(*value)),
        Cel::Int(value) => Ok(Cel::Double(*value as f64)),
        Cel::Uint(value) => Ok(Cel::Double(*value as f64)),
        Cel::Text(text) => text.parse().map(Cel::Double).map_err(|_| {
            Stop::Failed(format!("strconv.ParseFloat: parsing {text:?}: invalid syntax"))
        }),
        _ => no_overload(),
    }
}

fn in_namespace<'a>(
    eval: &mut Eval<'a, '_>,
    space: &str,
    name: &str,
    values: &[Cel<'a>],
) -> Outcome<'a> {
    match (space, name, values) {
        ("optional", "of", [value]) => Ok(Cel::some(value.clone())),
        ("optional", "none", []) => Ok(Cel::Optional(None)),
        ("sets", name, [Cel::List(a), Cel::List(b)]) => {
            let mut has = |list: &super::value::List<'a>, item: &Cel<'a>| {
                for other in list.iter() {
                    if eval.equal(&other, item)? {
                        return Ok(true);
                    }
                }
                Ok::<bool, Stop>(false)
            };
            let mut all = true;
            let mut any = false;
            for item in b.iter() {
                let found = has(a, &item)?;
                all &= found;
                any |= found;
            }
            if name == "equivalent" {
                for item in a.iter() {
                    all &= has(b, &item)?;
                }
            }
            Ok(Cel::Bool(if name == "intersects" { any } else { all }))
        }
        _ => no_overload(),
    }
}

fn of_optional<'a>(name: &str, inner: Option<&Cel<'a>>, rest: &[Cel<'a>]) -> Outcome<'a> {
    match (name, inner, rest) {
        ("hasValue", inner, []) => Ok(Cel::Bool(inner.is_some())),
        ("value" | "orValue", Some(inner), _) => Ok(inner.clone()),
        ("value", None, _) => failed("optional.none() dereference"),
        ("or", Some(inner), _) => Ok(Cel::some(inner.clone())),
        ("orValue" | "or", None, [other]) => Ok(other.clone()),
        _ => no_overload(),
    }
}

fn of_list<'a>(eval: &mut Eval<'a, '_>, name: &str, values: &[Cel<'a>]) -> Outcome<'a> {
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

fn of_text<'a>(
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
fn of_quantity<'a>(name: &str, millis: i128, rest: &[Cel<'a>]) -> Outcome<'a> {
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

fn of_url<'a>(name: &str, url: &Url) -> Outcome<'a> {
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

fn of_time<'a>(name: &str, at: jiff::Timestamp) -> Outcome<'a> {
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

fn of_duration<'a>(name: &str, nanos: i128) -> Outcome<'a> {
    let unit = match name {
        "getHours" => 3_600_000_000_000,
        "getMinutes" => 60_000_000_000,
        "getSeconds" => 1_000_000_000,
        "getMilliseconds" => 1_000_000,
        _ => return no_overload(),
    };
    Ok(Cel::Int(i64::try_from(nanos / unit).unwrap_or(i64::MAX)))
}
