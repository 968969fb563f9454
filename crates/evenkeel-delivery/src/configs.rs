//! `ConfigMaps` and Secrets that a target uses: the primary gets copies of its own, so that a change
//! of one is judged like a new version.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{GroupKind, Key, Obj};
use serde_json::{Value, json};

use crate::diff;

/// Secret types that are copied; others belong to somebody else (tokens, registries).
const SECRET_TYPES: [&str; 5] =
    ["", "Opaque", "kubernetes.io/basic-auth", "kubernetes.io/ssh-auth", "kubernetes.io/tls"];
/// Set to `disabled` on a `ConfigMap` or Secret, it is shared instead of copied.
const OPT_OUT: &str = "flagger.app/config-tracking";
/// What its copy is called.
const SUFFIX: &str = "-primary";

/// The configs that a pod template names.
pub(crate) fn named_by(template: &Value, namespace: &str) -> Vec<Key> {
    let mut keys = Vec::new();
    let mut template = template.clone();
    visit(&mut template, &mut |kind, name| {
        let key = Key::new(GroupKind::new("", kind), namespace, name);
        if !keys.contains(&key) {
            keys.push(key);
        }
        None
    });
    keys
}

/// The copy of a config.
pub(crate) fn copy_of(key: &Key) -> Key {
    Key::new(key.kind.clone(), &key.namespace, &format!("{}{SUFFIX}", key.name))
}

/// Whether a config is copied.
pub(crate) fn is_tracked(config: &Obj) -> bool {
    let kind = config.json().get("type").and_then(Value::as_str).unwrap_or_default();
    config.annotation(OPT_OUT) != Some("disabled") && SECRET_TYPES.contains(&kind)
}

/// `configmap/NAME` and `secret/NAME`, each with a hash of its content.
pub(crate) fn hashes(configs: &BTreeMap<Key, Arc<Obj>>) -> BTreeMap<String, String> {
    let content =
        |config: &Obj| json!([config.json().get("data"), config.json().get("binaryData")]);
    configs
        .iter()
        .filter(|(_, config)| is_tracked(config))
        .map(|(key, config)| {
            let name = format!("{}/{}", key.kind.kind.to_lowercase(), key.name);
            (name, diff::hash(&content(config)))
        })
        .collect()
}

/// The copy as it should be.
pub(crate) fn copy(config: &Obj, owner: &Value) -> Value {
    let key = copy_of(config.key());
    let mut copy = json!({"apiVersion": "v1", "kind": &*key.kind.kind,
        "metadata": {"name": &*key.name, "namespace": &*key.namespace,
            "ownerReferences": [owner]}});
    for field in ["type", "data", "binaryData"] {
        if let Some(value) = config.json().get(field) {
            copy[field] = value.clone();
        }
    }
    copy
}

/// Points a template's references to the copies, where there are copies.
pub(crate) fn rename(template: &mut Value, hashes: &BTreeMap<String, String>) {
    visit(template, &mut |kind, name| {
        let copied = hashes.contains_key(&format!("{}/{name}", kind.to_lowercase()));
        copied.then(|| format!("{name}{SUFFIX}"))
    });
}

/// Calls `each` with kind and name of every reference; what it returns becomes the name.
fn visit(template: &mut Value, each: &mut impl FnMut(&str, &str) -> Option<String>) {
    let Some(spec) = template.get_mut("spec") else { return };
    for volume in items(spec, "volumes") {
        reference(volume.get_mut("configMap"), "name", "ConfigMap", each);
        reference(volume.get_mut("secret"), "secretName", "Secret", each);
        for source in volume.get_mut("projected").into_iter().flat_map(|p| items(p, "sources")) {
            reference(source.get_mut("configMap"), "name", "ConfigMap", each);
            reference(source.get_mut("secret"), "name", "Secret", each);
        }
    }
    for list in ["containers", "initContainers"] {
        for container in items(spec, list) {
            for env in items(container, "env") {
                let Some(from) = env.get_mut("valueFrom") else { continue };
                reference(from.get_mut("configMapKeyRef"), "name", "ConfigMap", each);
                reference(from.get_mut("secretKeyRef"), "name", "Secret", each);
            }
            for env in items(container, "envFrom") {
                reference(env.get_mut("configMapRef"), "name", "ConfigMap", each);
                reference(env.get_mut("secretRef"), "name", "Secret", each);
            }
        }
    }
}

fn items<'a>(value: &'a mut Value, field: &str) -> impl Iterator<Item = &'a mut Value> {
    value.get_mut(field).and_then(Value::as_array_mut).into_iter().flatten()
}

fn reference(
    holder: Option<&mut Value>,
    field: &str,
    kind: &str,
    each: &mut impl FnMut(&str, &str) -> Option<String>,
) {
    let Some(name) = holder.and_then(|holder| holder.get_mut(field)) else { return };
    if let Some(new) = name.as_str().and_then(|old| each(kind, old)) {
        *name = new.into();
    }
}
