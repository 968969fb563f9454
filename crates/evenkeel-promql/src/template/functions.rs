//! Functions of templates: Go's own and those Prometheus adds.
//!
//! **Source**: text/template/funcs.go of Go, template/template.go of Prometheus.

use super::format::{operand, print, printf, significant, sprint, type_name};
use super::text::{
    escape, escape_html, escape_js, go_duration, humanize, humanize_duration, humanize_timestamp,
    strip_domain, strip_port, title,
};
use super::{Data, OUTPUT_MAX, Scope};
use crate::labels::Labels;
use crate::matcher::anchored;
use crate::number::{parse_duration_ms, parse_float};
use std::cmp::Ordering;

/// Answers a query with labels and values.
pub type QueryFn<'s> = dyn Fn(&str) -> Result<Vec<(Labels, f64)>, String> + 's;

/// As many arguments as one likes.
const ANY: usize = usize::MAX;

/// Names with the fewest and the most arguments.
const FUNCTIONS: [(&str, usize, usize); 48] = [
    ("and", 1, ANY),
    ("args", 0, ANY),
    ("call", 1, ANY),
    ("eq", 1, ANY),
    ("externalURL", 0, 0),
    ("first", 1, 1),
    ("ge", 2, 2),
    ("graphLink", 1, 1),
    ("gt", 2, 2),
    ("html", 0, ANY),
    ("humanize", 1, 1),
    ("humanize1024", 1, 1),
    ("humanizeDuration", 1, 1),
    ("humanizePercentage", 1, 1),
    ("humanizeTimestamp", 1, 1),
    ("index", 1, ANY),
    ("js", 0, ANY),
    ("label", 2, 2),
    ("le", 2, 2),
    ("len", 1, 1),
    ("lt", 2, 2),
    ("match", 2, 2),
    ("ne", 2, 2),
    ("not", 1, 1),
    ("now", 0, 0),
    ("or", 1, ANY),
    ("parseDuration", 1, 1),
    ("pathPrefix", 0, 0),
    ("print", 0, ANY),
    ("printf", 1, ANY),
    ("println", 0, ANY),
    ("query", 1, 1),
    ("reReplaceAll", 3, 3),
    ("safeHtml", 1, 1),
    ("slice", 1, ANY),
    ("sortByLabel", 2, 2),
    ("stripDomain", 1, 1),
    ("stripPort", 1, 1),
    ("strvalue", 1, 1),
    ("tableLink", 1, 1),
    ("title", 1, 1),
    ("toDuration", 1, 1),
    ("toLower", 1, 1),
    ("toTime", 1, 1),
    ("toUpper", 1, 1),
    ("urlQueryEscape", 1, 1),
    ("urlquery", 0, ANY),
    ("value", 1, 1),
];

pub(super) fn is_function(name: &str) -> bool {
    FUNCTIONS.iter().any(|(known, ..)| *known == name)
}

/// Whether Go's own `text/template` has it.
pub(super) fn is_go_function(name: &str) -> bool {
    const GO: [&str; 19] = [
        "and", "call", "eq", "ge", "gt", "html", "index", "js", "le", "len", "lt", "ne", "not",
        "or", "print", "printf", "println", "slice", "urlquery",
    ];
    GO.contains(&name)
}

/// Calls a function.
pub(super) fn call(name: &str, args: Vec<Data>, scope: &Scope<'_>) -> Result<Data, String> {
    let arity = FUNCTIONS.iter().find(|(known, ..)| *known == name);
    let &(_, least, most) = arity.ok_or_else(|| format!("function {name:?} not defined"))?;
    let got = args.len();
    if got < least || got > most {
        let at_least = if most == ANY { "at least " } else { "" };
        let want = format!("{at_least}{least}");
        return Err(format!("wrong number of args for {name}: want {want} got {got}"));
    }
    let outcome = match <[Data; 1]>::try_from(args) {
        Ok([one]) if most == 1 => unary(name, one, scope.query),
        Ok([one]) => other(name, &[one], scope),
        Err(args) => other(name, &args, scope),
    };
    outcome.map_err(|reason| format!("error calling {name}: {reason}"))
}

/// Functions of none, two or more arguments.
fn other(name: &str, args: &[Data], scope: &Scope<'_>) -> Result<Data, String> {
    match (name, args) {
        ("and" | "or", args) => Ok(pick(args, name == "or")),
        ("print", args) => Ok(Data::Text(sprint(args))),
        ("println", args) => {
            let parts: Vec<String> = args.iter().map(operand).collect();
            Ok(Data::Text(format!("{}\n", parts.join(" "))))
        }
        ("printf", [Data::Text(format), rest @ ..]) => Ok(Data::Text(printf(format, rest))),
        ("printf", [format, ..]) => Err(not_text(format)),
        ("urlquery", args) => Ok(Data::Text(escape(&sprint(args)))),
        ("html", args) => Ok(Data::Text(escape_html(&sprint(args)))),
        ("js", args) => Ok(Data::Text(escape_js(&sprint(args)))),
        ("args", args) => {
            let named = args.iter().enumerate().map(|(i, v)| (format!("arg{i}"), v.clone()));
            Ok(Data::Map(named.collect()))
        }
        ("call", [first, ..]) => {
            Err(format!("non-function {} of type {}", print(first), type_name(first)))
        }
        ("eq", [first, rest @ ..]) => equal_to_any(first, rest),
        ("ne", [a, b]) => Ok(Data::Bool(!equal_to_any(a, std::slice::from_ref(b))?.is_true())),
        ("lt", [a, b]) => Ok(Data::Bool(compare(a, b)? == Some(Ordering::Less))),
        ("le", [a, b]) => {
            Ok(Data::Bool(matches!(compare(a, b)?, Some(Ordering::Less | Ordering::Equal))))
        }
        // As Go: what is not at most the other is greater, NaN included.
        ("gt", [a, b]) => {
            Ok(Data::Bool(!matches!(compare(a, b)?, Some(Ordering::Less | Ordering::Equal))))
        }
        ("ge", [a, b]) => Ok(Data::Bool(compare(a, b)? != Some(Ordering::Less))),
        ("index", [first, keys @ ..]) => index(first, keys),
        ("slice", [first, bounds @ ..]) => slice(first, bounds),
        ("externalURL", _) => Ok(Data::Text(scope.external_url.clone())),
        ("pathPrefix", _) => Ok(Data::Text(url_path(&scope.external_url).to_owned())),
        ("now", _) => Ok(Data::Float(scope.now_ms as f64 / 1000.0)),
        ("reReplaceAll", [pattern, with, text]) => {
            let pattern = crate::re2::translated(text_of(pattern)?)?;
            let regex = regex::RegexBuilder::new(&pattern).size_limit(1 << 20).build();
            replace(&regex.map_err(|e| e.to_string())?, text_of(with)?, text_of(text)?)
        }
        ("match", [pattern, text]) => {
            let regex = anchored(&format!(".*(?:{}).*", text_of(pattern)?));
            Ok(Data::Bool(regex.map_err(|e| e.to_string())?.is_match(text_of(text)?)))
        }
        ("label", [name, sample]) => match field(sample, "Labels")? {
            Data::Map(map) => {
                Ok(map.get(text_of(name)?).cloned().unwrap_or(Data::Text(String::new())))
            }
            _ => Err("label needs a sample".to_owned()),
        },
        ("sortByLabel", [label, Data::List(list)]) => {
            let key = text_of(label)?;
            let label = |d: &Data| match field(d, "Labels") {
                Ok(Data::Map(map)) => map.get(key).map(print).unwrap_or_default(),
                _ => String::new(),
            };
            let mut list = list.clone();
            list.sort_by_key(label);
            Ok(Data::List(list))
        }
        _ => Err("wrong type of argument".to_owned()),
    }
}

/// The text of an argument that has to be one.
fn text_of(value: &Data) -> Result<&str, String> {
    match value {
        Data::Text(text) => Ok(text),
        other => Err(not_text(other)),
    }
}

fn not_text(found: &Data) -> String {
    format!("expected string; found {}", print(found))
}

/// The path of a URL, empty without one.
fn url_path(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    rest.find('/').and_then(|at| rest.get(at..)).unwrap_or_default()
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

/// The first argument that decides, else the last.
fn pick(args: &[Data], wanted: bool) -> Data {
    let decides = args.iter().find(|arg| arg.is_true() == wanted);
    decides.or(args.last()).cloned().unwrap_or_default()
}

fn float(value: &Data) -> Result<f64, String> {
    match value {
        Data::Float(v) => Ok(*v),
        Data::Int(n) => Ok(*n as f64),
        Data::Text(text) => parse_float(text)
            .ok_or_else(|| format!("strconv.ParseFloat: parsing {text:?}: invalid syntax")),
        other => Err(format!("can't convert {} to float", type_name(other))),
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
            _ => return Err(format!("len of type {}", type_name(&arg))),
        })),
        "humanize" => text(humanize(float(&arg)?, 1000.0)),
        "humanize1024" => text(humanize(float(&arg)?, 1024.0)),
        "humanizeDuration" => text(humanize_duration(float(&arg)?)),
        "humanizePercentage" => text(format!("{}%", significant(float(&arg)? * 100.0, 4))),
        "humanizeTimestamp" | "toTime" => text(humanize_timestamp(float(&arg)?)),
        "toDuration" => text(go_duration((float(&arg)? * 1e9) as i64)),
        "toUpper" => text(text_of(&arg)?.to_uppercase()),
        "toLower" => text(text_of(&arg)?.to_lowercase()),
        "title" => text(title(text_of(&arg)?)),
        "safeHtml" => text(text_of(&arg)?.to_owned()),
        "stripPort" => text(strip_port(text_of(&arg)?).to_owned()),
        "stripDomain" => text(strip_domain(text_of(&arg)?)),
        "urlQueryEscape" => text(escape(text_of(&arg)?)),
        "parseDuration" => {
            let written = text_of(&arg)?;
            let (sign, size) = match written.strip_prefix('-') {
                Some(size) => (-1.0, size),
                None => (1.0, written),
            };
            parse_duration_ms(size)
                .map(|ms| Data::Float(sign * ms as f64 / 1000.0))
                .ok_or_else(|| format!("not a valid duration string: {written:?}"))
        }
        "graphLink" | "tableLink" => {
            let tab = i32::from(name != "graphLink");
            text(format!("/graph?g0.expr={}&g0.tab={tab}", escape(text_of(&arg)?)))
        }
        "query" => {
            let query = query.ok_or("query is not available here")?;
            let found = query(text_of(&arg)?)?;
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
        _ => Err(format!("function {name:?} not defined")),
    }
}

fn sample(labels: &Labels, value: f64) -> Data {
    Data::Record(vec![("Labels", Data::labels(labels)), ("Value", Data::Float(value))])
}

fn field(of: &Data, name: &str) -> Result<Data, String> {
    let fields = match of {
        Data::Record(fields) => fields.as_slice(),
        _ => &[],
    };
    let found = fields.iter().find(|(field, _)| *field == name).map(|(_, value)| value.clone());
    found.ok_or_else(|| format!("can't handle {} for arg of type *template.sample", print(of)))
}

fn index(of: &Data, keys: &[Data]) -> Result<Data, String> {
    let mut at = of.clone();
    for key in keys {
        at = match (&at, key) {
            (Data::Map(map), Data::Text(key)) => {
                map.get(key).cloned().unwrap_or(Data::Text(String::new()))
            }
            (Data::Map(_), key) => {
                return Err(format!("value has type {}; should be string", type_name(key)));
            }
            (Data::List(_) | Data::Text(_), Data::Int(i)) => {
                let place = usize::try_from(*i).ok();
                let found = match &at {
                    Data::List(list) => place.and_then(|i| list.get(i)).cloned(),
                    Data::Text(text) => place
                        .and_then(|i| text.as_bytes().get(i))
                        .map(|byte| Data::Int(i64::from(*byte))),
                    _ => None,
                };
                found.ok_or_else(|| format!("index out of range: {i}"))?
            }
            (Data::List(_) | Data::Text(_), key) => {
                return Err(format!("cannot index slice/array with type {}", type_name(key)));
            }
            (of, _) => return Err(format!("can't index item of type {}", type_name(of))),
        };
    }
    Ok(at)
}

/// `x[1:3]` of a text's bytes or of a list.
fn slice(of: &Data, bounds: &[Data]) -> Result<Data, String> {
    let length = match of {
        Data::Text(text) => text.len(),
        Data::List(list) => list.len(),
        other => return Err(format!("can't slice item of type {}", type_name(other))),
    };
    match (of, bounds.len()) {
        (Data::Text(_), 3) => return Err("cannot 3-index slice a string".to_owned()),
        (_, 4..) => return Err(format!("too many slice indexes: {}", bounds.len())),
        _ => {}
    }
    let mut places = [0, length, length];
    for (place, bound) in places.iter_mut().zip(bounds) {
        let Data::Int(i) = bound else {
            let kind = type_name(bound);
            return Err(format!("cannot index slice/array with type {kind}"));
        };
        let found = usize::try_from(*i).ok().filter(|i| *i <= length);
        *place = found.ok_or_else(|| format!("index out of range: {i}"))?;
    }
    let [from, to, _] = places;
    if from > to {
        return Err(format!("invalid slice index: {from} > {to}"));
    }
    match of {
        Data::List(list) => Ok(Data::List(list.get(from..to).unwrap_or_default().to_vec())),
        Data::Text(text) => {
            let bytes = text.as_bytes().get(from..to).unwrap_or_default();
            Ok(Data::Text(String::from_utf8_lossy(bytes).into_owned()))
        }
        _ => Ok(Data::Nil),
    }
}

/// What can be compared with each other.
#[derive(PartialEq, Eq)]
enum Basic {
    Bool,
    Int,
    Float,
    Text,
}

fn basic(value: &Data) -> Option<Basic> {
    Some(match value {
        Data::Bool(_) => Basic::Bool,
        Data::Int(_) => Basic::Int,
        Data::Float(_) => Basic::Float,
        Data::Text(_) => Basic::Text,
        Data::Nil | Data::Map(_) | Data::List(_) | Data::Record(_) => return None,
    })
}

fn incompatible(a: &Data, b: &Data) -> String {
    let (a, b) = (type_name(a), type_name(b));
    format!("incompatible types for comparison: {a} and {b}")
}

/// As Go: numbers of two types are not equal, like a number and a text.
fn equal_to_any(first: &Data, rest: &[Data]) -> Result<Data, String> {
    if rest.is_empty() {
        return Err("missing argument for comparison".to_owned());
    }
    for other in rest {
        let is_equal = match (basic(first), basic(other)) {
            (Some(a), Some(b)) if a == b => first == other,
            (None, None) if matches!(first, Data::Nil) || matches!(other, Data::Nil) => {
                first == other
            }
            (None, None) => {
                let kind = type_name(first);
                return Err(format!("non-comparable type {}: {kind}", print(first)));
            }
            _ if matches!(first, Data::Nil) || matches!(other, Data::Nil) => false,
            _ => return Err(incompatible(first, other)),
        };
        if is_equal {
            return Ok(Data::Bool(true));
        }
    }
    Ok(Data::Bool(false))
}

/// The order of two values of one type; `None` with NaN.
fn compare(a: &Data, b: &Data) -> Result<Option<Ordering>, String> {
    match (a, b) {
        (Data::Text(a), Data::Text(b)) => Ok(Some(a.cmp(b))),
        (Data::Int(a), Data::Int(b)) => Ok(Some(a.cmp(b))),
        (Data::Float(a), Data::Float(b)) => Ok(a.partial_cmp(b)),
        _ if basic(a).is_some() && basic(b).is_some() && basic(a) != basic(b) => {
            Err(incompatible(a, b))
        }
        _ => Err("invalid type for comparison".to_owned()),
    }
}
