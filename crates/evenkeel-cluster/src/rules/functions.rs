//! The functions of CEL and those that Kubernetes adds.
//!
//! **Source**: `cel-spec/doc/langdef.md`, `cel-go/ext`, `apiserver/pkg/cel/library`.

use std::sync::Arc;

use evenkeel_api::Quantity;

use super::{
    machine::{Eval, Outcome, Stop, failed, int, no_overload},
    methods::{of_duration, of_list, of_optional, of_quantity, of_text, of_time, of_url},
    value::{Cel, Url, duration},
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
