//! What may be kept of the body of an object: nothing whose name sounds secret.

use evenkeel_api::Key;
use evenkeel_control::redact;
use serde_json::{Map, Value};

/// The body as it may be kept; `None` for Secrets. Of a ConfigMap only the names of its entries
/// are kept: whole configuration files with passwords lie there.
pub(crate) fn body(key: &Key, body: &Value) -> Option<Value> {
    if redact::is_secret(key) {
        return None;
    }
    let mut kept = json(body);
    if &*key.kind.kind == "ConfigMap" {
        for part in ["data", "binaryData"] {
            if let Some(Value::Object(entries)) = kept.get_mut(part) {
                entries.values_mut().for_each(mask);
            }
        }
    }
    Some(kept)
}

/// Masks fields whose name sounds secret, whatever stands in the environment and the arguments of
/// containers, and what is secret in URLs and other texts.
fn json(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(redact::text(text)),
        Value::Array(items) => Value::Array(items.iter().map(json).collect()),
        Value::Object(fields) => {
            let field = |(name, value): (&String, &Value)| {
                let mut value = json(value);
                match name.as_str() {
                    // No name tells which of them is a password: `DB_URL`, `-pswordfish`.
                    "env" => values_of(&mut value),
                    "args" | "command" => leaves(&mut value),
                    name if redact::is_secret_name(name) => leaves(&mut value),
                    _ => {}
                }
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

/// Masks the values of variables; their names and where they come from are worth keeping.
fn values_of(env: &mut Value) {
    for variable in env.as_array_mut().into_iter().flatten() {
        if let Some(value) = variable.get_mut("value") {
            mask(value);
        }
    }
}

/// Masks texts and numbers, also those in a list; an object is judged by its own fields.
fn leaves(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(leaves),
        Value::String(_) | Value::Number(_) => mask(value),
        _ => {}
    }
}

fn mask(value: &mut Value) {
    if !value.is_null() {
        *value = Value::String(redact::MASK.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_masked_by_their_name() {
        let value = json!({"spec": {"replicas": 2, "apiKey": "k", "tokens": ["a"], "passes": 3,
            "secretKeyRef": {"name": "db", "key": "x"}, "url": "http://u:p@a.test/?k=v"}});
        assert_eq!(
            body(&Key::of::<Pod>("shop", "a"), &value),
            Some(json!({"spec": {"replicas": 2, "apiKey": "***", "tokens": ["***"], "passes": 3,
                "secretKeyRef": {"name": "db", "key": "x"}, "url": "http://***@a.test/?k=***"}}))
        );
    }

    #[test]
    fn nothing_is_kept_of_what_containers_are_given() {
        let value = json!({"containers": [{"name": "api", "image": "shop/api:v1",
            "command": ["api", "--db-password", "pl4nted"], "args": ["-ppl4nted"],
            "env": [{"name": "DB_PASS", "value": "pl4nted"}, {"name": "A", "value": "pl4nted"},
                {"name": "B", "valueFrom": {"secretKeyRef": {"name": "db", "key": "x"}}}]}]});
        assert_eq!(
            body(&Key::of::<Pod>("shop", "a"), &value),
            Some(json!({"containers": [{"name": "api", "image": "shop/api:v1",
                "command": ["***", "***", "***"], "args": ["***"],
                "env": [{"name": "DB_PASS", "value": "***"}, {"name": "A", "value": "***"},
                    {"name": "B", "valueFrom": {"secretKeyRef": {"name": "db", "key": "x"}}}]}]}))
        );
    }

    #[test]
    fn nothing_is_kept_of_secrets_and_only_names_of_config_maps() {
        let value = json!({"data": {"app.yaml": "db: pl4nted", "gone": null}});
        assert_eq!(body(&Key::of::<Secret>("shop", "a"), &value), None);
        assert_eq!(
            body(&Key::of::<ConfigMap>("shop", "a"), &value),
            Some(json!({"data": {"app.yaml": "***", "gone": null}}))
        );
    }
}
