//! Small readers and writers of JSON bodies.

use jiff::Timestamp;
use serde_json::{Map, Value};

/// A text field; empty when absent.
pub(crate) fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}

/// A text by JSON pointer; empty when absent.
pub(crate) fn text_at<'a>(value: &'a Value, pointer: &str) -> &'a str {
    value.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

/// A whole number by JSON pointer.
pub(crate) fn number_at(value: &Value, pointer: &str) -> Option<i64> {
    value.pointer(pointer).and_then(Value::as_i64)
}

/// A list by JSON pointer; empty when absent.
pub(crate) fn list_at<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    value.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// The object in a field, made when it is not there.
pub(crate) fn object_in<'a>(value: &'a mut Value, field: &str) -> &'a mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let inner = &mut value[field];
    if !inner.is_object() {
        *inner = Value::Object(Map::new());
    }
    inner.as_object_mut().expect("made an object above")
}

/// The metadata, made when it is not there.
pub(crate) fn meta_mut(body: &mut Value) -> &mut Map<String, Value> {
    object_in(body, "metadata")
}

/// Sets a field, or removes it when there is nothing to set.
pub(crate) fn set_or_remove(map: &mut Map<String, Value>, field: &str, value: Option<Value>) {
    match value {
        Some(value) => {
            map.insert(field.to_owned(), value);
        }
        None => {
            map.shift_remove(field);
        }
    }
}

/// A time as Kubernetes writes it: UTC, whole seconds.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}
