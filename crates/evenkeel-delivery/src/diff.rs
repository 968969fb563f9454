//! What differs between JSON values, for people and for revisions.

use evenkeel_api::json::canonical;
use serde_json::Value;

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

/// A short, opaque, stable name of a value's content.
pub(crate) fn hash(value: &Value) -> String {
    format!("{:016x}", evenkeel_base::stable_hash(canonical(value).as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

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
