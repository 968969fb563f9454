//! Structural schemas of custom kinds: pruning, defaults, validation.
//!
//! Not here: rules in CEL (`x-kubernetes-validations`), see `rules`.

use std::collections::BTreeSet;

use regex::Regex;
use serde_json::{Map, Value};

use crate::error::Cause;

/// Depth of a body beyond which it is no longer looked into.
const DEPTH_MAX: usize = 64;

/// Drops what the schema does not name, and lists the paths.
pub(crate) fn prune(schema: &Value, body: &mut Value, dropped: &mut Vec<String>) {
    if !schema.is_object() {
        return;
    }
    prune_at(schema, body, "", 0, dropped);
}

fn keeps_unknown(schema: &Value) -> bool {
    schema.get("x-kubernetes-preserve-unknown-fields") == Some(&Value::Bool(true))
}

fn join(path: &str, name: &str) -> String {
    if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") }
}

fn prune_at(schema: &Value, body: &mut Value, path: &str, depth: usize, dropped: &mut Vec<String>) {
    if depth > DEPTH_MAX {
        return;
    }
    match body {
        Value::Object(fields) => {
            let properties = schema.get("properties").and_then(Value::as_object);
            let others = schema.get("additionalProperties");
            let is_root = depth == 0 || schema.get("x-kubernetes-embedded-resource").is_some();
            let mut gone = Vec::new();
            for (name, value) in fields.iter_mut() {
                if is_root && matches!(name.as_str(), "apiVersion" | "kind" | "metadata") {
                    continue;
                }
                let below = properties
                    .and_then(|properties| properties.get(name))
                    .or(others.filter(|others| others.is_object()));
                match below {
                    Some(below) => prune_at(below, value, &join(path, name), depth + 1, dropped),
                    None if keeps_unknown(schema) || others == Some(&Value::Bool(true)) => {}
                    None => gone.push(name.clone()),
                }
            }
            for name in gone {
                fields.shift_remove(&name);
                dropped.push(join(path, &name));
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.get("items") {
                for (index, item) in items.iter_mut().enumerate() {
                    prune_at(below, item, &format!("{path}[{index}]"), depth + 1, dropped);
                }
            }
        }
        _ => {}
    }
}

/// Fills in the schema's defaults.
pub(crate) fn default(schema: &Value, body: &mut Value) {
    match body {
        Value::Object(fields) => {
            for (name, below) in
                schema.get("properties").and_then(Value::as_object).into_iter().flatten()
            {
                let nullable = below.get("nullable") == Some(&Value::Bool(true));
                let absent = fields.get(name).is_none_or(|value| value.is_null() && !nullable);
                if absent && let Some(value) = below.get("default") {
                    fields.insert(name.clone(), value.clone());
                }
                if let Some(value) = fields.get_mut(name) {
                    default(below, value);
                }
            }
            if let Some(below) = schema.get("additionalProperties").filter(|b| b.is_object()) {
                for value in fields.values_mut() {
                    default(below, value);
                }
            }
        }
        Value::Array(items) => {
            if let Some(below) = schema.get("items") {
                for item in items {
                    default(below, item);
                }
            }
        }
        _ => {}
    }
}

/// Everything in the body that breaks the schema.
pub(crate) fn validate(schema: &Value, body: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    if schema.is_object() {
        check(schema, body, "", 0, &mut causes);
    }
    causes
}

fn fault(reason: &'static str, path: &str, message: String) -> Cause {
    let field = if path.is_empty() { "<root>".to_owned() } else { path.to_owned() };
    Cause { reason, field, message }
}

fn invalid(path: &str, value: &Value, why: &str) -> Cause {
    let shown = match value {
        Value::Object(_) | Value::Array(_) => String::new(),
        other => format!("{other}: "),
    };
    let place = if path.is_empty() { "body" } else { path };
    fault("FieldValueInvalid", path, format!("Invalid value: {shown}{place} in body {why}"))
}

fn check(schema: &Value, value: &Value, path: &str, depth: usize, causes: &mut Vec<Cause>) {
    if depth > DEPTH_MAX {
        return;
    }
    if value.is_null() && schema.get("nullable") == Some(&Value::Bool(true)) {
        return;
    }
    let int_or_string = schema.get("x-kubernetes-int-or-string") == Some(&Value::Bool(true));
    if int_or_string {
        if !value.is_i64() && !value.is_string() {
            causes.push(invalid(path, value, "must be an integer or a string"));
        }
    } else if let Some(kind) = schema.get("type").and_then(Value::as_str)
        && !is_of(kind, value)
    {
        causes.push(fault(
            "FieldValueTypeInvalid",
            path,
            format!(
                "Invalid value: \"{}\": {path} in body must be of type {kind}: \"{}\"",
                type_name(value),
                type_name(value)
            ),
        ));
        return;
    }
    check_enum(schema, value, path, causes);
    match value {
        Value::Object(fields) => check_object(schema, fields, path, depth, causes),
        Value::Array(items) => check_list(schema, items, path, depth, causes),
        Value::String(text) => check_text(schema, text, path, causes),
        Value::Number(number) => check_number(schema, number, value, path, causes),
        Value::Null | Value::Bool(_) => {}
    }
    check_combined(schema, value, path, depth, causes);
}

fn is_of(kind: &str, value: &Value) -> bool {
    match kind {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => {
            value.is_i64() || value.is_u64() || value.as_f64().is_some_and(|n| n.fract() == 0.0)
        }
        "number" => value.is_number(),
        _ => true,
    }
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check_enum(schema: &Value, value: &Value, path: &str, causes: &mut Vec<Cause>) {
    let Some(allowed) = schema.get("enum").and_then(Value::as_array) else { return };
    if !allowed.contains(value) {
        let allowed: Vec<String> = allowed.iter().map(Value::to_string).collect();
        causes.push(fault(
            "FieldValueNotSupported",
            path,
            format!("Unsupported value: {value}: supported values: {}", allowed.join(", ")),
        ));
    }
}

fn limit(schema: &Value, name: &str) -> Option<u64> {
    schema.get(name).and_then(Value::as_u64)
}

fn size(length: usize) -> u64 {
    u64::try_from(length).unwrap_or(u64::MAX)
}

fn check_object(
    schema: &Value,
    fields: &Map<String, Value>,
    path: &str,
    depth: usize,
    causes: &mut Vec<Cause>,
) {
    let required = schema.get("required").and_then(Value::as_array);
    for name in required.into_iter().flatten().filter_map(Value::as_str) {
        if !fields.contains_key(name) {
            let path = join(path, name);
            causes.push(fault("FieldValueRequired", &path, "Required value".to_owned()));
        }
    }
    if limit(schema, "minProperties").is_some_and(|min| size(fields.len()) < min) {
        causes.push(invalid(path, &Value::Null, "has too few properties"));
    }
    if limit(schema, "maxProperties").is_some_and(|max| size(fields.len()) > max) {
        causes.push(invalid(path, &Value::Null, "has too many properties"));
    }
    let properties = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|others| others.is_object());
    for (name, value) in fields {
        if let Some(below) = properties.and_then(|properties| properties.get(name)).or(others) {
            check(below, value, &join(path, name), depth + 1, causes);
        }
    }
}

fn check_list(schema: &Value, items: &[Value], path: &str, depth: usize, causes: &mut Vec<Cause>) {
    let count = size(items.len());
    if let Some(min) = limit(schema, "minItems").filter(|min| count < *min) {
        causes.push(invalid(path, &Value::Null, &format!("should have at least {min} items")));
    }
    if let Some(max) = limit(schema, "maxItems").filter(|max| count > *max) {
        causes.push(invalid(path, &Value::Null, &format!("should have at most {max} items")));
    }
    let keys: Vec<&str> = schema
        .get("x-kubernetes-list-map-keys")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    let is_set = schema.get("x-kubernetes-list-type").and_then(Value::as_str) == Some("set")
        || schema.get("uniqueItems") == Some(&Value::Bool(true));
    let mut seen = BTreeSet::new();
    for (index, item) in items.iter().enumerate() {
        let at = format!("{path}[{index}]");
        let identity = match (keys.is_empty(), is_set) {
            (false, _) => Some(
                keys.iter().map(|key| item.get(key).unwrap_or(&Value::Null).to_string()).collect(),
            ),
            (true, true) => Some(item.to_string()),
            (true, false) => None::<String>,
        };
        if identity.is_some_and(|identity| !seen.insert(identity)) {
            causes.push(fault("FieldValueDuplicate", &at, format!("Duplicate value: {item}")));
        }
        if let Some(below) = schema.get("items") {
            check(below, item, &at, depth + 1, causes);
        }
    }
}

fn check_text(schema: &Value, text: &str, path: &str, causes: &mut Vec<Cause>) {
    let value = Value::String(text.to_owned());
    let count = size(text.chars().count());
    if let Some(min) = limit(schema, "minLength").filter(|min| count < *min) {
        let why = format!("should be at least {min} chars long");
        causes.push(invalid(path, &value, &why));
    }
    if let Some(max) = limit(schema, "maxLength").filter(|max| count > *max) {
        causes.push(fault(
            "FieldValueTooLong",
            path,
            format!("Too long: may not be more than {max} bytes"),
        ));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
    {
        causes.push(invalid(path, &value, &format!("should match '{pattern}'")));
    }
    let format = schema.get("format").and_then(Value::as_str);
    if format == Some("date-time") && text.parse::<jiff::Timestamp>().is_err() {
        causes.push(invalid(path, &value, "must be of type date-time"));
    }
}

fn check_number(
    schema: &Value,
    number: &serde_json::Number,
    value: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let Some(have) = number.as_f64() else { return };
    let bound = |name: &str| schema.get(name).and_then(Value::as_f64);
    let is_strict = |name: &str| schema.get(name) == Some(&Value::Bool(true));
    if let Some(min) = bound("minimum") {
        let strict = is_strict("exclusiveMinimum");
        if have < min || (strict && have <= min) {
            let than = if strict { "greater than" } else { "greater than or equal to" };
            causes.push(invalid(path, value, &format!("should be {than} {min}")));
        }
    }
    if let Some(max) = bound("maximum") {
        let strict = is_strict("exclusiveMaximum");
        if have > max || (strict && have >= max) {
            let than = if strict { "less than" } else { "less than or equal to" };
            causes.push(invalid(path, value, &format!("should be {than} {max}")));
        }
    }
    if let Some(step) = bound("multipleOf").filter(|step| *step > 0.0)
        && (have / step).fract() != 0.0
    {
        causes.push(invalid(path, value, &format!("should be a multiple of {step}")));
    }
}

fn check_combined(
    schema: &Value,
    value: &Value,
    path: &str,
    depth: usize,
    causes: &mut Vec<Cause>,
) {
    let fits = |below: &Value| {
        let mut inner = Vec::new();
        check(below, value, path, depth + 1, &mut inner);
        inner.is_empty()
    };
    let list = |name: &str| schema.get(name).and_then(Value::as_array);
    for below in list("allOf").into_iter().flatten() {
        check(below, value, path, depth + 1, causes);
    }
    if list("anyOf").is_some_and(|all| !all.iter().any(fits)) {
        causes.push(invalid(path, value, "must validate at least one schema (anyOf)"));
    }
    if list("oneOf").is_some_and(|all| all.iter().filter(|below| fits(below)).count() != 1) {
        causes.push(invalid(path, value, "must validate one and only one schema (oneOf)"));
    }
    if schema.get("not").is_some_and(fits) {
        causes.push(invalid(path, value, "must not validate the schema (not)"));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn schema() -> Value {
        json!({"type": "object", "properties": {"spec": {"type": "object",
            "required": ["name"], "properties": {
                "name": {"type": "string", "minLength": 1, "pattern": "^[a-z]+$"},
                "weight": {"type": "integer", "minimum": 0, "maximum": 100, "default": 50},
                "mode": {"type": "string", "enum": ["a", "b"]},
                "port": {"x-kubernetes-int-or-string": true},
                "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true},
                "steps": {"type": "array", "maxItems": 2, "items": {"type": "integer"}}}}}})
    }

    fn faults(spec: &Value) -> String {
        let causes = validate(&schema(), &json!({"spec": spec}));
        let lines: Vec<String> =
            causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message)).collect();
        lines.join("; ")
    }

    #[test]
    fn what_breaks_the_schema_is_named() {
        assert_eq!(faults(&json!({"name": "x", "port": "http", "tags": {"a": "b"}})), "");
        for (spec, said) in [
            (json!({}), "spec.name: Required value"),
            (
                json!({"name": "X"}),
                "spec.name: Invalid value: \"X\": spec.name in body should match",
            ),
            (json!({"name": "x", "weight": 101}), "should be less than or equal to 100"),
            (json!({"name": "x", "weight": "1"}), "must be of type integer: \"string\""),
            (json!({"name": "x", "mode": "c"}), "Unsupported value: \"c\": supported values"),
            (json!({"name": "x", "port": true}), "must be an integer or a string"),
            (json!({"name": "x", "tags": {"a": 1}}), "spec.tags.a"),
            (json!({"name": "x", "steps": [1, 2, 3]}), "should have at most 2 items"),
            (json!({"name": "x", "steps": [1, "2"]}), "spec.steps[1]"),
        ] {
            let found = faults(&spec);
            assert!(found.contains(said), "{spec}: {found}");
        }
    }

    #[test]
    fn unknown_fields_are_dropped_and_defaults_filled_in() {
        let mut body = json!({"apiVersion": "a/v1", "kind": "A", "metadata": {"x": 1}, "odd": 1,
            "spec": {"name": "x", "nmae": "y", "free": {"any": 1}}});
        let mut dropped = Vec::new();
        prune(&schema(), &mut body, &mut dropped);
        default(&schema(), &mut body);
        assert_eq!(dropped, ["spec.nmae", "odd"]);
        assert_eq!(body["spec"], json!({"name": "x", "free": {"any": 1}, "weight": 50}));
    }
}
