//! The field at which a body does not fit its kind.
//!
//! The decoder says what it found and what it wanted, not where. The place is found by leaving out
//! one part after the other: without the part that is wrong, the error is another one or none.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// Decodes a body: the decoder's error, `None` when it fits.
pub type Decode<'a> = &'a dyn Fn(&Value) -> Option<String>;

/// Longest text that is quoted from a body.
const TEXT_MAX: usize = 64;
/// Decodings that the search for one field may take.
const TRIES_MAX: usize = 500;

/// The decoder's error with the path of the field, in the words of people's files:
/// `spec.replicas: must be a whole number, not the text "3"`.
pub fn described(decode: Decode<'_>, body: &Value, problem: &str) -> String {
    let mut tries = 0;
    let (mut pointer, mut path) = (String::new(), String::new());
    while let Some((step, name)) = wrong_child(decode, body, (&pointer, problem), &mut tries) {
        pointer.push_str(&step);
        path.push_str(if name.starts_with('[') || path.is_empty() { "" } else { "." });
        path.push_str(&name);
    }
    let problem = plain(problem);
    if path.is_empty() { problem } else { format!("{path}: {problem}") }
}

/// A part of a body that does not fit, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// The field of the body; empty when the body is no mapping.
    pub part: String,
    /// The path of what is wrong, and what is wrong with it.
    pub problem: String,
}

/// Reads a body as far as it fits: what one field holds, or one element of a list, never hides
/// what the others say. All fields of `T` must have defaults.
pub fn readable<T: DeserializeOwned + Default>(body: &Value) -> (T, Vec<Misfit>) {
    let error = match T::deserialize(body) {
        Ok(whole) => return (whole, Vec::new()),
        Err(error) => error.to_string(),
    };
    let decode = |body: &Value| T::deserialize(body).err().map(|error| error.to_string());
    let Some(fields) = body.as_object() else {
        let misfit = Misfit { part: String::new(), problem: described(&decode, body, &error) };
        return (T::default(), vec![misfit]);
    };
    let (mut kept, mut misfits) = (Map::new(), Vec::new());
    for (name, value) in fields {
        let alone = |value: Value| Value::Object(Map::from_iter([(name.clone(), value)]));
        let body = alone(value.clone());
        let Some(error) = decode(&body) else {
            kept.insert(name.clone(), value.clone());
            continue;
        };
        let problem = described(&decode, &body, &error);
        misfits.push(Misfit { part: name.clone(), problem });
        if let Value::Array(items) = value {
            let fits = |item: &&Value| decode(&alone(Value::from(vec![(*item).clone()]))).is_none();
            kept.insert(name.clone(), items.iter().filter(fits).cloned().collect());
        }
    }
    (T::deserialize(Value::Object(kept)).unwrap_or_default(), misfits)
}

/// The part below a pointer that the error is about: its step in the pointer, and in the path.
fn wrong_child(
    decode: Decode<'_>,
    body: &Value,
    (pointer, problem): (&str, &str),
    tries: &mut usize,
) -> Option<(String, String)> {
    let steps: Vec<(String, String)> = match body.pointer(pointer)? {
        Value::Object(fields) => {
            let escaped = |name: &str| name.replace('~', "~0").replace('/', "~1");
            fields.keys().map(|name| (format!("/{}", escaped(name)), name.clone())).collect()
        }
        Value::Array(items) => {
            (0..items.len()).map(|index| (format!("/{index}"), format!("[{index}]"))).collect()
        }
        _ => return None,
    };
    steps.into_iter().enumerate().find_map(|(index, step)| {
        *tries += 1;
        let mut without = (*tries <= TRIES_MAX).then(|| body.clone())?;
        match without.pointer_mut(pointer)? {
            Value::Object(fields) => drop(fields.shift_remove(&step.1)),
            Value::Array(items) => drop(items.remove(index)),
            _ => return None,
        }
        let is_wrong = decode(&without).is_none_or(|error| error != problem);
        is_wrong.then_some(step)
    })
}

/// The decoder's words for types in those of the file.
fn plain(problem: &str) -> String {
    let parts = problem.strip_prefix("invalid type: ").and_then(|p| p.split_once(", expected "));
    let Some((found, wanted)) = parts else { return problem.to_owned() };
    let is_whole = wanted.starts_with(['i', 'u'])
        && wanted.get(1..).is_some_and(|bits| bits.parse::<u8>().is_ok());
    let is_name = wanted.starts_with(|c: char| c.is_ascii_uppercase());
    let wanted = match wanted {
        _ if is_whole => "a whole number",
        "f32" | "f64" => "a number",
        "a string" | "string" => "text",
        "a boolean" => "true or false",
        "a sequence" => "a list",
        "a map" => "a mapping",
        _ if is_name || wanted.starts_with("struct ") => "a mapping",
        other => other,
    };
    let found = match found.split_once(' ') {
        Some(("boolean", value)) => format!("the boolean {}", value.trim_matches('`')),
        Some(("integer", value)) => format!("the number {}", value.trim_matches('`')),
        Some(("string", value)) => format!("the text {}", cut(value)),
        _ => match (found, found.strip_prefix("floating point ")) {
            (_, Some(value)) => format!("the number {}", value.trim_matches('`')),
            ("map", _) => "a mapping".to_owned(),
            ("sequence", _) => "a list".to_owned(),
            ("null", _) => "nothing".to_owned(),
            (other, _) => other.to_owned(),
        },
    };
    format!("must be {wanted}, not {found}")
}

/// A quoted text, as long as a message bears.
fn cut(quoted: &str) -> String {
    if quoted.len() <= TEXT_MAX {
        return quoted.to_owned();
    }
    format!("{}\" ...", quoted.get(..quoted.floor_char_boundary(TEXT_MAX)).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::*;

    fn decode(body: &Value) -> Option<String> {
        let deployment = <Deployment as serde::Deserialize>::deserialize(body);
        deployment.err().map(|error| error.to_string())
    }

    #[test]
    fn the_field_is_named() {
        let error = |at: &str, value: Value| {
            let container = json!({"name": "c", "image": "x", "ports": [
                {"containerPort": 1}, {"containerPort": 2}], "resources": {"limits": {"cpu": "1"}}});
            let mut body = json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": "a"}, "spec": {"replicas": 1, "paused": false,
                "selector": {"matchLabels": {"a": "b"}}, "template": {"spec": {
                "nodeSelector": {"a.b/c": "d"}, "containers": [{"name": "b"}, container]}}}});
            *body.pointer_mut(at).unwrap() = value;
            described(&decode, &body, &decode(&body).unwrap())
        };
        for (at, value, wanted) in [
            (
                "/spec/replicas",
                json!("3"),
                "spec.replicas: must be a whole number, not the text \"3\"",
            ),
            (
                "/spec/replicas",
                json!(true),
                "spec.replicas: must be a whole number, not the boolean true",
            ),
            (
                "/spec/paused",
                json!("yes"),
                "spec.paused: must be true or false, not the text \"yes\"",
            ),
            (
                "/spec/template/spec/containers/1/ports/1/containerPort",
                json!("http"),
                "spec.template.spec.containers[1].ports[1].containerPort: must be a whole number, \
                 not the text \"http\"",
            ),
            (
                "/spec/template/spec/nodeSelector/a.b~1c",
                json!(5),
                "spec.template.spec.nodeSelector.a.b/c: must be text, not the number 5",
            ),
            (
                "/spec/template/spec/containers",
                json!({"name": "c"}),
                "spec.template.spec.containers: must be a list, not a mapping",
            ),
            ("/spec/selector", json!(["a"]), "spec.selector: must be a mapping, not a list"),
        ] {
            assert_eq!(error(at, value), wanted);
        }
    }

    #[test]
    fn what_one_part_holds_does_not_hide_the_others() {
        #[derive(Debug, Default, PartialEq, serde::Deserialize)]
        #[serde(default)]
        struct Status {
            phase: String,
            weight: i32,
            lists: Vec<i32>,
        }
        let of = |phase: &str, weight, lists: &[i32]| Status {
            phase: phase.to_owned(),
            weight,
            lists: lists.to_vec(),
        };
        let read = |body: Value| {
            let (status, misfits) = readable::<Status>(&body);
            let said: Vec<_> =
                misfits.into_iter().map(|m| format!("{}|{}", m.part, m.problem)).collect();
            (status, said.join("; "))
        };
        let fine = json!({"phase": "a", "weight": 5, "lists": [1, 2], "more": 1});
        assert_eq!(read(fine), (of("a", 5, &[1, 2]), String::new()));
        assert_eq!(
            read(json!({"phase": "a", "weight": "5", "lists": [1, "x", 2]})),
            (
                of("a", 0, &[1, 2]),
                "weight|weight: must be a whole number, not the text \"5\"; lists|lists[1]: must \
                 be a whole number, not the text \"x\""
                    .to_owned()
            )
        );
        assert_eq!(
            read(json!("a")),
            (Status::default(), "|must be a mapping, not the text \"a\"".to_owned())
        );
    }
}
