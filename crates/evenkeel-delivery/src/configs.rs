//! `ConfigMaps` and Secrets that a target uses: the primary gets copies of its own, so that a change
//! of one is judged like a new version.

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{GroupKind, Key, Obj, json::canonical};
use evenkeel_control::redact;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::diff;

/// Secret types that are copied; others belong to other controllers (tokens, registries).
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

/// What a config is called in statuses: `configmap/NAME` or `secret/NAME`.
pub(crate) fn label(key: &Key) -> String {
    format!("{}/{}", key.kind.kind.to_lowercase(), key.name)
}

/// Whether a name may be that of a copy.
pub(crate) fn may_be_copy(key: &Key) -> bool {
    key.name.ends_with(SUFFIX)
}

/// The copy of a config under Flagger's name.
pub(crate) fn copy_of(key: &Key) -> Key {
    Key::new(key.kind.clone(), &key.namespace, &format!("{}{SUFFIX}", key.name))
}

/// The copy of a config that another Canary copies, too.
pub(crate) fn own_copy_of(key: &Key, target: &str) -> Key {
    Key::new(key.kind.clone(), &key.namespace, &format!("{}-{target}{SUFFIX}", key.name))
}

/// Whether a copy is one Canary's alone, so that its content follows that Canary's releases only.
pub(crate) fn is_own(copy: &Obj, uid: &str) -> bool {
    let mut owners = canaries(copy).peekable();
    owners.peek().is_some() && owners.all(|owner| owner == uid)
}

/// The uids of the Canaries that a copy belongs to.
pub(crate) fn canaries(copy: &Obj) -> impl Iterator<Item = &str> {
    let owners = copy.meta().owner_references.iter().flatten();
    owners.filter(|owner| owner.kind == "Canary").map(|owner| owner.uid.as_str())
}

/// What the copy of each config is called, by [`label`]. A config that several targets use has a
/// copy per Canary: one Canary's promotion must not change what another one's pods read.
pub(crate) fn copy_names(
    configs: &BTreeMap<Key, Arc<Obj>>,
    copies: &BTreeMap<Key, Arc<Obj>>,
    uid: &str,
    target: &str,
) -> BTreeMap<String, String> {
    let name = |key: &Key| {
        let (plain, own) = (copy_of(key), own_copy_of(key, target));
        let taken = copies.get(&plain).is_some_and(|copy| !is_own(copy, uid));
        if taken || copies.contains_key(&own) { own } else { plain }
    };
    let tracked = configs.iter().filter(|(_, config)| is_tracked(config));
    tracked.map(|(key, _)| (label(key), name(key).name.to_string())).collect()
}

/// Whether a config is copied.
pub(crate) fn is_tracked(config: &Obj) -> bool {
    let kind = config.json().get("type").and_then(Value::as_str).unwrap_or_default();
    config.annotation(OPT_OUT) != Some("disabled") && SECRET_TYPES.contains(&kind)
}

/// `configmap/NAME` and `secret/NAME`, each with a hash of its content.
pub(crate) fn hashes(configs: &BTreeMap<Key, Arc<Obj>>) -> BTreeMap<String, String> {
    let tracked = configs.iter().filter(|(_, config)| is_tracked(config));
    tracked.map(|(key, config)| (label(key), hash(config))).collect()
}

/// Replaces the hashes that earlier versions recorded of Secrets; another hash would be another
/// content, and start a release.
pub(crate) fn renew(recorded: &mut BTreeMap<String, String>, configs: &BTreeMap<Key, Arc<Obj>>) {
    for (key, config) in configs.iter().filter(|(key, _)| redact::is_secret(key)) {
        if let Some(known) = recorded.get_mut(&label(key))
            && *known == diff::hash(&content(config))
        {
            *known = hash(config);
        }
    }
}

/// The hash is shown in the Canary's status and a part of what webhooks are sent, and a short
/// password is found from its hash by trying. That of a Secret depends on the Secret's uid, too,
/// which only those know who may read the Secret.
fn hash(config: &Obj) -> String {
    let content = content(config);
    if !redact::is_secret(config.key()) {
        return diff::hash(&content);
    }
    let digest = Sha256::new_with_prefix(config.uid()).chain_update(canonical(&content)).finalize();
    let start = digest.iter().take(8).fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
    format!("{start:016x}")
}

fn content(config: &Obj) -> Value {
    json!([config.json().get("data"), config.json().get("binaryData")])
}

/// The copy as it should be.
pub(crate) fn copy(config: &Obj, name: &str, owner: &Value) -> Value {
    let key = config.key();
    let mut copy = json!({"apiVersion": "v1", "kind": &*key.kind.kind,
        "metadata": {"name": name, "namespace": &*key.namespace, "ownerReferences": [owner]}});
    for field in ["type", "data", "binaryData"] {
        if let Some(value) = config.json().get(field) {
            copy[field] = value.clone();
        }
    }
    copy
}

/// Points a template's references to the copies, where there are copies; by [`label`].
pub(crate) fn rename(template: &mut Value, copies: &BTreeMap<String, String>) {
    visit(template, &mut |kind, name| {
        copies.get(&format!("{}/{name}", kind.to_lowercase())).cloned()
    });
}

/// Points a template's references to the copies of these configs back to the configs, whatever
/// the copies are called.
pub(crate) fn unname<'a>(
    template: &mut Value,
    configs: impl Iterator<Item = &'a String>,
    target: &str,
) {
    let mut sources = BTreeMap::new();
    for config in configs {
        let Some((kind, name)) = config.split_once('/') else { continue };
        for copy in [format!("{name}{SUFFIX}"), format!("{name}-{target}{SUFFIX}")] {
            sources.insert(format!("{kind}/{copy}"), name.to_owned());
        }
    }
    rename(template, &sources);
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
