//! Pod templates: which `ReplicaSet` runs which.

use std::collections::BTreeMap;

use evenkeel_base::stable_hash;
use k8s_openapi::{api::core::v1::PodTemplateSpec, apimachinery::pkg::apis::meta::v1::ObjectMeta};
use serde_json::Value;

use crate::{history::encoded, seen::json};

/// Label that keeps the pods of different templates apart.
pub(crate) const HASH_LABEL: &str = evenkeel_api::labels::POD_TEMPLATE_HASH;

/// Whether two templates are the same but for the hash label.
pub(crate) fn equal(a: &PodTemplateSpec, b: &PodTemplateSpec) -> bool {
    type Text = BTreeMap<String, String>;
    fn labels(meta: Option<&ObjectMeta>) -> impl Iterator<Item = (&String, &String)> {
        let all = meta.and_then(|meta| meta.labels.as_ref()).into_iter().flatten();
        all.filter(|(key, _)| *key != HASH_LABEL)
    }
    fn annotations(meta: Option<&ObjectMeta>) -> Option<&Text> {
        meta?.annotations.as_ref().filter(|all| !all.is_empty())
    }
    let (a_meta, b_meta) = (a.metadata.as_ref(), b.metadata.as_ref());
    labels(a_meta).eq(labels(b_meta))
        && annotations(a_meta) == annotations(b_meta)
        && a.spec == b.spec
}

/// Hash of a template as it appears in names and labels: the same whatever the order of fields,
/// on every machine and after every restart. Upstream's hashes a dump of Go structs and cannot be
/// computed elsewhere; only its letters are kept.
pub(crate) fn hash(template: &PodTemplateSpec, collisions: i32) -> String {
    let mut text = String::new();
    canonical(&json(template), &mut text);
    if collisions > 0 {
        text.push_str(&collisions.to_string());
    }
    let wide = stable_hash(text.as_bytes());
    let folded = (wide ^ (wide >> 32)) & 0xffff_ffff;
    encoded(u32::try_from(folded).unwrap_or_default())
}

/// JSON with sorted fields and without nulls.
fn canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(fields) => {
            let sorted: BTreeMap<&String, &Value> =
                fields.iter().filter(|(_, value)| !value.is_null()).collect();
            text.push('{');
            for (name, value) in sorted {
                text.push_str(&Value::from(name.as_str()).to_string());
                text.push(':');
                canonical(value, text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                canonical(item, text);
                text.push(',');
            }
            text.push(']');
        }
        plain => text.push_str(&plain.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use serde::Deserialize as _;
    use serde_json::json;

    use super::*;

    fn template(body: &Value) -> PodTemplateSpec {
        PodTemplateSpec::deserialize(body).unwrap()
    }

    #[test]
    fn the_hash_depends_on_content_and_not_on_the_order_of_fields() {
        let a = template(&json!({"metadata": {"labels": {"app": "web", "tier": "x"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]}}));
        let b = template(&json!({"spec": {"containers": [{"image": "web:1", "name": "web"}]},
            "metadata": {"labels": {"tier": "x", "app": "web"}}}));
        assert_eq!(hash(&a, 0), hash(&b, 0));
        insta::assert_snapshot!(hash(&a, 0), @"86695db678");
        assert_ne!(hash(&a, 0), hash(&a, 1));
        let other = template(&json!({"spec": {"containers": [{"name": "web", "image": "web:2"}]}}));
        assert_ne!(hash(&a, 0), hash(&other, 0));
    }

    #[test]
    fn templates_are_compared_without_the_hash_label() {
        let plain = template(&json!({"metadata": {"labels": {"app": "web"}}}));
        let hashed = json!({"metadata": {"labels": {"app": "web", "pod-template-hash": "x"}}});
        assert!(equal(&plain, &template(&hashed)));
        let other = json!({"metadata": {"labels": {"app": "api"}}});
        assert!(!equal(&plain, &template(&other)));
    }
}
