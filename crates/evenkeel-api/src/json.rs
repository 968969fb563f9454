//! Merging and comparing JSON bodies, in one place.
//!
//! ```text
//! have --merge(patch)--> want        difference(have, want) = patch   (exactly want)
//!                                    missing(have, want)    = patch   (at least want)
//! ```

use serde_json::{Map, Value};

/// Applies an RFC 7386 merge patch: objects are merged, everything else is replaced, `null`
/// deletes.
pub fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        target.clone_from(patch);
        return;
    };
    if !target.is_object() {
        *target = Value::Object(Map::new());
    }
    let Some(fields) = target.as_object_mut() else { return };
    for (name, part) in patch {
        if part.is_null() {
            fields.shift_remove(name);
        } else {
            merge(fields.entry(name.clone()).or_insert(Value::Null), part);
        }
    }
}

/// The merge patch from `have` to exactly `want`; `None` when they are equal.
pub fn difference(have: &Value, want: &Value) -> Option<Value> {
    let (Value::Object(have), Value::Object(want)) = (have, want) else {
        return (!same(have, want)).then(|| want.clone());
    };
    let mut patch = Map::new();
    for (name, want) in want {
        let part = match have.get(name) {
            None if want.is_null() => None,
            None => Some(want.clone()),
            Some(have) => difference(have, want),
        };
        if let Some(part) = part {
            patch.insert(name.clone(), part);
        }
    }
    for name in have.keys().filter(|name| !want.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

/// The merge patch that brings the fields of `want` into `have`; `None` when they are there.
///
/// Servers add defaults inside list elements: an element that has all wanted fields is fine.
pub fn missing(have: &Value, want: &Value) -> Option<Value> {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            let mut patch = Map::new();
            for (name, want) in want {
                let part = match have.get(name) {
                    None if want.is_null() => None,
                    None => Some(want.clone()),
                    Some(have) => missing(have, want),
                };
                if let Some(part) = part {
                    patch.insert(name.clone(), part);
                }
            }
            (!patch.is_empty()).then_some(Value::Object(patch))
        }
        _ => (!covers(have, want)).then(|| want.clone()),
    }
}

/// Whether `have` has every field of `want`; elements of lists may have more fields.
pub fn covers(have: &Value, want: &Value) -> bool {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => want
            .iter()
            .all(|(name, want)| have.get(name).map_or(want.is_null(), |have| covers(have, want))),
        (Value::Array(have), Value::Array(want)) => {
            have.len() == want.len() && have.iter().zip(want).all(|(have, want)| covers(have, want))
        }
        _ => same(have, want),
    }
}

/// Whether two values are equal. A number is what it amounts to, however it is written: an API
/// server of Go stores what was sent as `100.0` as `100`.
pub fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(one), Value::Number(other)) => {
            let is_float = one.is_f64() || other.is_f64();
            one == other || (is_float && one.as_f64() == other.as_f64())
        }
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(a, b)| same(a, b))
        }
        (Value::Object(one), Value::Object(other)) => {
            let in_other =
                |(name, a): (&String, &Value)| other.get(name).is_some_and(|b| same(a, b));
            one.len() == other.len() && one.iter().all(in_other)
        }
        _ => a == b,
    }
}

/// Text that is the same for equal values, in whatever order their fields were written; fields
/// that are `null` count as absent.
pub fn canonical(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(&mut text, value);
    text
}

fn write_canonical(text: &mut String, value: &Value) {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<_> = fields.iter().filter(|(_, value)| !value.is_null()).collect();
            names.sort_by_key(|(name, _)| *name);
            text.push('{');
            for (index, (name, value)) in names.into_iter().enumerate() {
                text.push_str(if index == 0 { "" } else { "," });
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                write_canonical(text, value);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                text.push_str(if index == 0 { "" } else { "," });
                write_canonical(text, item);
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn merging_follows_the_rfc() {
        let mut have = json!({"a": 1, "b": {"c": 2, "d": [1]}, "e": 3});
        merge(&mut have, &json!({"b": {"c": null, "d": [2], "f": {"g": null}}, "e": null}));
        assert_eq!(have, json!({"a": 1, "b": {"d": [2], "f": {}}}));
    }

    #[test]
    fn a_difference_leads_to_exactly_what_is_wanted() {
        let have = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]});
        let want = json!({"a": 1, "b": {"c": 4}, "e": [2]});
        let patch = difference(&have, &want).unwrap();
        assert_eq!(patch, json!({"b": {"c": 4, "d": null}, "e": [2]}));
        let mut merged = have.clone();
        merge(&mut merged, &patch);
        assert_eq!(merged, want);
        assert_eq!(difference(&have, &have), None);
    }

    #[test]
    fn only_what_is_missing_is_written() {
        let have = json!({"spec": {"replicas": 3, "ports": [{"port": 80, "protocol": "TCP"}]}});
        let same = json!({"spec": {"replicas": 3, "ports": [{"port": 80}]}});
        assert_eq!(missing(&have, &same), None);
        let other = json!({"spec": {"replicas": 4, "ports": [{"port": 80}]}});
        assert_eq!(missing(&have, &other), Some(json!({"spec": {"replicas": 4}})));
        let longer = json!({"spec": {"ports": [{"port": 80}, {"port": 81}]}});
        assert_eq!(missing(&have, &longer), Some(longer.clone()));
    }

    #[test]
    fn a_number_is_what_it_amounts_to() {
        let have = json!({"left": 100, "all": [{"left": 0}], "big": u64::MAX});
        let want = json!({"left": 100.0, "all": [{"left": 0.0}], "big": u64::MAX});
        assert_eq!(difference(&have, &want), None);
        assert_eq!(missing(&have, &want), None);
        let other = json!({"left": 100.5, "all": [{"left": 0.0}], "big": u64::MAX - 1});
        let patch = json!({"left": 100.5, "big": u64::MAX - 1});
        assert_eq!(difference(&have, &other), Some(patch));
    }

    #[test]
    fn the_order_of_fields_makes_no_difference() {
        let (a, b) =
            (json!({"x": 1, "y": [{"p": 1, "q": null}]}), json!({"y": [{"p": 1}], "x": 1}));
        assert_eq!(canonical(&a), canonical(&b));
        assert_eq!(canonical(&a), r#"{"x":1,"y":[{"p":1}]}"#);
        assert_ne!(canonical(&a), canonical(&json!({"y": [{"p": 2}], "x": 1})));
    }
}
