//! Differences between JSON values, as RFC 7386 merge patches.

use serde_json::{Map, Value};

/// The merge patch from `have` to exactly `want`; `None` when they are equal.
pub(crate) fn between(have: &Value, want: &Value) -> Option<Value> {
    let (Value::Object(have), Value::Object(want)) = (have, want) else {
        return (have != want).then(|| want.clone());
    };
    let mut patch = Map::new();
    for (name, want) in want {
        let part = match have.get(name) {
            None if want.is_null() => None,
            None => Some(want.clone()),
            Some(have) => between(have, want),
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

/// Paths of the fields of `want` that `have` does not have as wanted; elements of lists may have
/// more fields.
pub(crate) fn uncovered(have: &Value, want: &Value) -> Vec<String> {
    let mut paths = Vec::new();
    collect(have, want, "", &mut paths);
    paths
}

fn collect(have: &Value, want: &Value, path: &str, paths: &mut Vec<String>) {
    match (have, want) {
        (Value::Object(have), Value::Object(want)) => {
            for (name, want) in want {
                let dot = if path.is_empty() { "" } else { "." };
                let path = format!("{path}{dot}{name}");
                match have.get(name) {
                    Some(have) => collect(have, want, &path, paths),
                    None if want.is_null() => {}
                    None => paths.push(path),
                }
            }
        }
        (Value::Array(have), Value::Array(want)) if have.len() == want.len() => {
            for (index, (have, want)) in have.iter().zip(want).enumerate() {
                collect(have, want, &format!("{path}[{index}]"), paths);
            }
        }
        _ if have == want => {}
        _ => paths.push(path.to_owned()),
    }
}

/// Text that is the same for equal values, in whatever order their fields were written.
pub(crate) fn canonical(value: &Value) -> String {
    match value {
        Value::Object(fields) => {
            let mut names: Vec<&String> = fields.keys().collect();
            names.sort();
            let field = |name: &&String| format!("{name:?}:{}", canonical(&fields[*name]));
            let known = |name: &&String| !fields[*name].is_null();
            format!(
                "{{{}}}",
                names
                    .iter()
                    .copied()
                    .filter(known)
                    .map(|n| field(&n))
                    .collect::<Vec<_>>()
                    .join(",")
            )
        }
        Value::Array(items) => {
            format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(","))
        }
        other => other.to_string(),
    }
}

/// A short, opaque, stable name of a value's content.
pub(crate) fn hash(value: &Value) -> String {
    format!("{:016x}", evenkeel_base::stable_hash(canonical(value).as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_patch_sets_what_is_new_and_removes_what_is_gone() {
        let have = json!({"a": 1, "b": {"c": 2, "d": 3}, "e": [1]});
        let want = json!({"a": 1, "b": {"c": 4}, "e": [2]});
        assert_eq!(between(&have, &want), Some(json!({"b": {"c": 4, "d": null}, "e": [2]})));
        assert_eq!(between(&have, &have), None);
    }

    #[test]
    fn the_order_of_fields_makes_no_difference() {
        let (a, b) =
            (json!({"x": 1, "y": [{"p": 1, "q": null}]}), json!({"y": [{"p": 1}], "x": 1}));
        assert_eq!(hash(&a), hash(&b));
        assert_ne!(hash(&a), hash(&json!({"y": [{"p": 2}], "x": 1})));
    }

    #[test]
    fn servers_may_add_defaults() {
        let have = json!({"spec": {"ports": [{"port": 80, "protocol": "TCP"}], "x": 1}});
        assert!(uncovered(&have, &json!({"spec": {"ports": [{"port": 80}]}})).is_empty());
        assert_eq!(uncovered(&have, &json!({"spec": {"ports": []}})), ["spec.ports"]);
        let want = json!({"spec": {"ports": [{"port": 81, "name": "a"}], "x": null, "y": null}});
        let paths = ["spec.ports[0].port", "spec.ports[0].name", "spec.x"];
        assert_eq!(uncovered(&have, &want), paths);
    }
}
