//! What may be kept of the body of an object: nothing whose name sounds secret.

use evenkeel_api::Key;
use evenkeel_control::redact;
use serde_json::{Map, Value};

/// Parts of names whose values are masked, in lower case and without separators.
const NAMES: [&str; 12] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "token",
    "apikey",
    "accesskey",
    "privatekey",
    "authorization",
    "credential",
    "cookie",
    "connectionstring",
];

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

/// Masks fields and environment variables whose name sounds secret, and what is secret in URLs and
/// other texts.
fn json(value: &Value) -> Value {
    match value {
        Value::String(text) => Value::String(redact::text(text)),
        Value::Array(items) => Value::Array(items.iter().map(json).collect()),
        Value::Object(fields) => {
            let variable = fields.get("name").and_then(Value::as_str).is_some_and(sounds_secret);
            let field = |(name, value): (&String, &Value)| {
                let secret = sounds_secret(name) || (variable && name == "value");
                let mut value = json(value);
                if secret && matches!(value, Value::String(_) | Value::Number(_)) {
                    mask(&mut value);
                }
                (name.clone(), value)
            };
            Value::Object(fields.iter().map(field).collect::<Map<_, _>>())
        }
        other => other.clone(),
    }
}

fn mask(value: &mut Value) {
    if !value.is_null() {
        *value = Value::String(redact::MASK.to_owned());
    }
}

fn sounds_secret(name: &str) -> bool {
    let plain: String =
        name.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    NAMES.iter().any(|part| plain.contains(part))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{ConfigMap, Pod, Secret};
    use serde_json::json;

    use super::*;

    #[test]
    fn values_are_masked_by_their_name() {
        let value = json!({"spec": {"replicas": 2, "apiKey": "k", "tokens": ["a"],
            "env": [{"name": "DB_PASSWORD", "value": "pl4nted"}, {"name": "A", "value": "b"}],
            "secretKeyRef": {"name": "db", "key": "x"}, "url": "http://u:p@a.test/?k=v"}});
        assert_eq!(
            body(&Key::of::<Pod>("shop", "a"), &value),
            Some(json!({"spec": {"replicas": 2, "apiKey": "***", "tokens": ["a"],
                "env": [{"name": "DB_PASSWORD", "value": "***"}, {"name": "A", "value": "b"}],
                "secretKeyRef": {"name": "db", "key": "x"}, "url": "http://***@a.test/?k=***"}}))
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
