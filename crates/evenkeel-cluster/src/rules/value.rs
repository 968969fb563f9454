use std::{collections::BTreeMap, sync::Arc};

use jiff::Timestamp;
use serde_json::{Map, Value};

use super::lexer::{Literal, RESERVED};

/// A value in an expression. Parts of the object stay where they are.
#[derive(Debug, Clone)]
pub(super) enum Cel<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    Text(Arc<str>),
    Bytes(Arc<[u8]>),
    List(List<'a>),
    Map(Arc<BTreeMap<Key, Cel<'a>>>),
    /// A part of the object, and its schema.
    Object(&'a Map<String, Value>, &'a Value),
    Type(&'static str),
    /// Thousandths.
    Quantity(i128),
    Url(Arc<Url>),
    /// Nanoseconds.
    Duration(i128),
    Time(Timestamp),
    Optional(Option<Box<Cel<'a>>>),
}

/// Key of a map.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Bool(bool),
    Int(i64),
    Text(Arc<str>),
}

#[derive(Debug, Clone)]
pub(super) enum List<'a> {
    /// A part of the object, and its schema.
    Found(&'a [Value], &'a Value),
    Made(Arc<Vec<Cel<'a>>>),
}

/// An absolute URL or an absolute path.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Url {
    pub(super) scheme: String,
    /// With the port.
    pub(super) host: String,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) whole: String,
}

static ANY: Value = Value::Null;

/// The schema of a field.
pub(super) fn property<'a>(schema: &'a Value, name: &str) -> &'a Value {
    let named = schema.get("properties").and_then(|all| all.get(name));
    named.or_else(|| schema.get("additionalProperties")).unwrap_or(&ANY)
}

impl<'a> List<'a> {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Found(items, _) => items.len(),
            Self::Made(items) => items.len(),
        }
    }

    pub(super) fn get(&self, index: usize) -> Option<Cel<'a>> {
        match self {
            Self::Found(items, schema) => {
                let below = schema.get("items").unwrap_or(&ANY);
                items.get(index).map(|item| Cel::of(item, below))
            }
            Self::Made(items) => items.get(index).cloned(),
        }
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = Cel<'a>> + '_ {
        (0..self.len()).filter_map(|index| self.get(index))
    }

    /// Whether the order of the elements says nothing.
    pub(super) fn is_unordered(&self) -> bool {
        let Self::Found(_, schema) = self else { return false };
        let kind = schema.get("x-kubernetes-list-type").and_then(Value::as_str);
        matches!(kind, Some("set" | "map"))
    }
}

impl<'a> Cel<'a> {
    /// A part of an object as its schema says.
    pub(super) fn of(value: &'a Value, schema: &'a Value) -> Self {
        let kind = schema.get("type").and_then(Value::as_str).unwrap_or_default();
        match value {
            Value::Null => Self::Null,
            Value::Bool(value) => Self::Bool(*value),
            Value::Number(number) => match (kind, number.as_i64()) {
                ("number", _) | (_, None) => Self::Double(number.as_f64().unwrap_or_default()),
                (_, Some(whole)) => Self::Int(whole),
            },
            Value::String(text) => Self::formatted(text, schema),
            Value::Array(items) => Self::List(List::Found(items, schema)),
            Value::Object(fields) => Self::Object(fields, schema),
        }
    }

    fn formatted(text: &str, schema: &Value) -> Self {
        let format = schema.get("format").and_then(Value::as_str).unwrap_or_default();
        let plain = || Self::Text(text.into());
        match format {
            "date-time" => text.parse().map_or_else(|_| plain(), Self::Time),
            "date" => {
                let midnight = format!("{text}T00:00:00Z");
                midnight.parse().map_or_else(|_| plain(), Self::Time)
            }
            "duration" => duration(text).map_or_else(plain, Self::Duration),
            "byte" => {
                crate::base64::decode(text).map_or_else(plain, |bytes| Self::Bytes(bytes.into()))
            }
            _ => plain(),
        }
    }

    pub(super) fn text(text: impl Into<Arc<str>>) -> Self {
        Self::Text(text.into())
    }

    pub(super) fn list(items: Vec<Self>) -> Self {
        Self::List(List::Made(Arc::new(items)))
    }

    pub(super) fn some(value: Self) -> Self {
        Self::Optional(Some(Box::new(value)))
    }

    pub(super) fn literal(literal: &Literal) -> Self {
        match literal {
            Literal::Null => Self::Null,
            Literal::Bool(value) => Self::Bool(*value),
            Literal::Int(value) => Self::Int(*value),
            Literal::Uint(value) => Self::Uint(*value),
            Literal::Double(value) => Self::Double(*value),
            Literal::Text(text) => Self::Text(text.clone()),
            Literal::Bytes(bytes) => Self::Bytes(bytes.clone()),
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null_type",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Uint(_) => "uint",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::Bytes(_) => "bytes",
            Self::List(_) => "list",
            Self::Map(_) | Self::Object(..) => "map",
            Self::Type(_) => "type",
            Self::Quantity(_) => "kubernetes.Quantity",
            Self::Url(_) => "kubernetes.URL",
            Self::Duration(_) => "google.protobuf.Duration",
            Self::Time(_) => "google.protobuf.Timestamp",
            Self::Optional(_) => "optional_type",
        }
    }

    /// A field that is set.
    pub(super) fn field(&self, name: &str) -> Option<Self> {
        match self {
            Self::Object(fields, schema) => {
                let name = unescape(name);
                let below = property(schema, &name);
                let value = fields.get(name.as_str())?;
                let nullable = below.get("nullable") == Some(&Value::Bool(true));
                (nullable || !value.is_null()).then(|| Self::of(value, below))
            }
            Self::Map(entries) => entries.get(&Key::Text(name.into())).cloned(),
            _ => None,
        }
    }

    pub(super) fn key(&self) -> Option<Key> {
        match self {
            Self::Bool(value) => Some(Key::Bool(*value)),
            Self::Int(value) => Some(Key::Int(*value)),
            Self::Uint(value) => i64::try_from(*value).ok().map(Key::Int),
            Self::Text(text) => Some(Key::Text(text.clone())),
            _ => None,
        }
    }
}

impl Key {
    pub(super) fn value<'a>(&self) -> Cel<'a> {
        match self {
            Self::Bool(value) => Cel::Bool(*value),
            Self::Int(value) => Cel::Int(*value),
            Self::Text(text) => Cel::Text(text.clone()),
        }
    }
}

/// The name of a property as it is in the schema.
///
/// **Source**: `apiserver/pkg/cel/escaping.go`.
pub(super) fn unescape(name: &str) -> String {
    if !name.contains("__") {
        return name.to_owned();
    }
    let word = name.strip_prefix("__").and_then(|name| name.strip_suffix("__"));
    if let Some(word) = word.filter(|word| is_keyword(word)) {
        return word.to_owned();
    }
    name.replace("__dot__", ".")
        .replace("__dash__", "-")
        .replace("__slash__", "/")
        .replace("__underscores__", "__")
}

fn is_keyword(word: &str) -> bool {
    ["true", "false", "null", "in"].contains(&word) || RESERVED.contains(&word)
}

/// `1h30m`, `1.5s`, `-2ms` in nanoseconds.
pub(super) fn duration(text: &str) -> Option<i128> {
    let (negative, mut rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    if rest == "0" {
        return Some(0);
    }
    let mut nanos = 0_i128;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, after) = rest.split_at(end);
        let (unit, scale) = [
            ("ns", 1_i64),
            ("us", 1_000),
            ("µs", 1_000),
            ("ms", 1_000_000),
            ("h", 3_600_000_000_000),
            ("m", 60_000_000_000),
            ("s", 1_000_000_000),
        ]
        .into_iter()
        .find(|(unit, _)| after.starts_with(unit))?;
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        let mut value = whole.parse::<i64>().ok().or(whole.is_empty().then_some(0))?;
        let mut total = i128::from(value) * i128::from(scale);
        let mut scale = i128::from(scale);
        for digit in part.chars() {
            scale /= 10;
            value = i64::from(digit.to_digit(10)?);
            total += i128::from(value) * scale;
        }
        nanos = nanos.checked_add(total)?;
        rest = after.get(unit.len()..)?;
    }
    Some(if negative { -nanos } else { nanos })
}
