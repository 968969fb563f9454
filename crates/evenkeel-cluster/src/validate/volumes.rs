//! Volumes of pods, claims, volumes of the cluster and storage classes.
//!
//! **Source**: `validateVolumeSource`, `ValidateVolumeMounts`, `ValidatePersistentVolumeClaim` and
//! `ValidatePersistentVolume` in `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeSet;

use evenkeel_api::Quantity;
use serde_json::{Map, Value, json};

use super::Check;
use crate::value::{list_at, text, text_at};

/// Fields of a pod that a downwardAPI volume may show.
const FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const HOST_PATH_TYPES: [&str; 7] = [
    "BlockDevice",
    "CharDevice",
    "Directory",
    "DirectoryOrCreate",
    "File",
    "FileOrCreate",
    "Socket",
];
/// Shortest life of a token.
const TOKEN_S_MIN: i64 = 600;

/// One entry of `volumes`: what it is made from.
pub(super) fn source(volume: &Value, path: &str, check: &mut Check) {
    let sources = volume.as_object().into_iter().flatten();
    let mut sources = sources.filter(|(name, value)| *name != "name" && !value.is_null());
    let Some((kind, source)) = sources.next() else {
        return check.required(path, "must specify a volume type");
    };
    for (more, _) in sources {
        let why = "may not specify more than 1 volume type";
        check.forbidden(&format!("{path}.{more}"), why);
    }
    let at = format!("{path}.{kind}");
    match kind.as_str() {
        "emptyDir" => {
            let limit = source.get("sizeLimit").and_then(Value::as_str).map(Quantity::parse);
            if limit.is_some_and(|limit| limit.is_ok_and(|limit| limit.millis < 0)) {
                let why = "SizeLimit field must be a valid resource quantity";
                check.forbidden(&format!("{at}.sizeLimit"), why);
            }
        }
        "hostPath" => {
            required(source, "path", &at, check);
            if has_parent(text(source, "path")) {
                let value = json!(text(source, "path"));
                check.invalid(&format!("{at}.path"), &value, "must not contain '..'");
            }
            check.one_of(source, "type", &at, &HOST_PATH_TYPES);
        }
        "secret" => {
            required(source, "secretName", &at, check);
            keys(source, &at, check);
        }
        "configMap" => {
            required(source, "name", &at, check);
            keys(source, &at, check);
        }
        "persistentVolumeClaim" => required(source, "claimName", &at, check),
        "downwardAPI" => {
            mode(source, "defaultMode", &at, check);
            downward(source, &at, check);
        }
        "projected" => projected(source, &at, check),
        "ephemeral" => match source.get("volumeClaimTemplate") {
            Some(template) if template.is_object() => {
                let at = format!("{at}.volumeClaimTemplate.spec");
                claim_spec(template.get("spec").unwrap_or(&Value::Null), &at, check);
            }
            _ => check.required(&format!("{at}.volumeClaimTemplate"), ""),
        },
        _ => {}
    }
}

fn required(body: &Value, name: &str, path: &str, check: &mut Check) {
    if text(body, name).is_empty() {
        check.required(&format!("{path}.{name}"), "");
    }
}

fn has_parent(path: &str) -> bool {
    path.split('/').any(|part| part == "..")
}

fn mode(body: &Value, name: &str, path: &str, check: &mut Check) {
    let given = body.get(name).filter(|mode| !mode.is_null());
    if let Some(given) = given
        && given.as_i64().is_some_and(|mode| !(0..=0o777).contains(&mode))
    {
        let why = "must be a number between 0 and 0777 (octal), both inclusive";
        check.invalid(&format!("{path}.{name}"), given, why);
    }
}

/// `items` of a `ConfigMap` or Secret.
fn keys(source: &Value, path: &str, check: &mut Check) {
    mode(source, "defaultMode", path, check);
    for (index, item) in list_at(source, "/items").iter().enumerate() {
        let at = format!("{path}.items[{index}]");
        required(item, "key", &at, check);
        relative(item, "path", &at, check);
        mode(item, "mode", &at, check);
    }
}

/// A path in a volume. **Source**: `validateLocalNonReservedPath`.
fn relative(body: &Value, name: &str, path: &str, check: &mut Check) {
    let (value, at) = (text(body, name), format!("{path}.{name}"));
    if value.is_empty() {
        return check.required(&at, "");
    }
    if value.starts_with('/') {
        check.invalid(&at, &json!(value), "must be a relative path");
    }
    if has_parent(value) {
        check.invalid(&at, &json!(value), "must not contain '..'");
    }
    if value.starts_with("..") && !value.starts_with("../") && value != ".." {
        check.invalid(&at, &json!(value), "must not start with '..'");
    }
}

fn downward(source: &Value, path: &str, check: &mut Check) {
    for (index, item) in list_at(source, "/items").iter().enumerate() {
        let at = format!("{path}.items[{index}]");
        relative(item, "path", &at, check);
        mode(item, "mode", &at, check);
        let given = |name: &str| item.get(name).filter(|value| value.is_object());
        match (given("fieldRef"), given("resourceFieldRef")) {
            (Some(field), None) => field_ref(field, &format!("{at}.fieldRef"), check),
            (None, Some(field)) => {
                let at = format!("{at}.resourceFieldRef");
                required(field, "containerName", &at, check);
                required(field, "resource", &at, check);
            }
            (None, None) => check.required(&at, "one of fieldRef and resourceFieldRef is required"),
            (Some(_), Some(_)) => {
                let why = "fieldRef and resourceFieldRef can not be specified simultaneously";
                check.invalid(&at, &json!("resource"), why);
            }
        }
    }
}

fn field_ref(field: &Value, path: &str, check: &mut Check) {
    let name = text(field, "fieldPath");
    let at = format!("{path}.fieldPath");
    if name.is_empty() {
        return check.required(&at, "");
    }
    let of_map = ["metadata.labels['", "metadata.annotations['"];
    let is_entry = name.ends_with("']") && of_map.iter().any(|map| name.starts_with(map));
    if !is_entry && !FIELDS.contains(&name) {
        check.one_of(field, "fieldPath", path, &FIELDS);
    }
}

fn projected(source: &Value, path: &str, check: &mut Check) {
    mode(source, "defaultMode", path, check);
    for (index, source) in list_at(source, "/sources").iter().enumerate() {
        let at = format!("{path}.sources[{index}]");
        let kinds = source.as_object().into_iter().flatten().filter(|(_, value)| !value.is_null());
        for (number, (kind, body)) in kinds.enumerate() {
            let at = format!("{at}.{kind}");
            if number > 0 {
                check.forbidden(&at, "may not specify more than 1 volume type");
            }
            match kind.as_str() {
                "secret" | "configMap" => {
                    required(body, "name", &at, check);
                    keys(body, &at, check);
                }
                "downwardAPI" => downward(body, &at, check),
                "serviceAccountToken" => {
                    let seconds = body.get("expirationSeconds").unwrap_or(&Value::Null);
                    if seconds.as_i64().is_some_and(|seconds| seconds < TOKEN_S_MIN) {
                        let why = "may not specify a duration less than 10 minutes";
                        check.invalid(&format!("{at}.expirationSeconds"), seconds, why);
                    }
                    relative(body, "path", &at, check);
                }
                _ => {}
            }
        }
    }
}

/// `volumeMounts` of a container.
pub(super) fn mounts(container: &Value, path: &str, volumes: &BTreeSet<&str>, check: &mut Check) {
    let mut seen = BTreeSet::new();
    for (index, mount) in list_at(container, "/volumeMounts").iter().enumerate() {
        let at = format!("{path}.volumeMounts[{index}]");
        let (name, target) = (text(mount, "name"), text(mount, "mountPath"));
        if name.is_empty() {
            check.required(&format!("{at}.name"), "");
        } else if !volumes.contains(name) {
            check.not_found(&format!("{at}.name"), &json!(name));
        }
        if target.is_empty() {
            check.required(&format!("{at}.mountPath"), "");
        } else if !seen.insert(target) {
            check.invalid(&format!("{at}.mountPath"), &json!(target), "must be unique");
        }
        for field in ["subPath", "subPathExpr"] {
            let value = text(mount, field);
            let at = format!("{at}.{field}");
            if value.starts_with('/') {
                check.invalid(&at, &json!(value), "must be a relative path");
            }
            if has_parent(value) {
                check.invalid(&at, &json!(value), "must not contain '..'");
            }
        }
        if !text(mount, "subPath").is_empty() && !text(mount, "subPathExpr").is_empty() {
            let why = "subPathExpr and subPath are mutually exclusive";
            check.invalid(&format!("{at}.subPathExpr"), &mount["subPathExpr"], why);
        }
        let allowed = ["Bidirectional", "HostToContainer", "None"];
        check.one_of(mount, "mountPropagation", &at, &allowed);
        let is_privileged = container.pointer("/securityContext/privileged") == Some(&json!(true));
        if text(mount, "mountPropagation") == "Bidirectional" && !is_privileged {
            let why = "Bidirectional mount propagation is available only to privileged containers";
            check.forbidden(&format!("{at}.mountPropagation"), why);
        }
    }
}

/// A claim.
pub(super) fn claim(body: &Value, check: &mut Check) {
    claim_spec(body.get("spec").unwrap_or(&Value::Null), "spec", check);
}

fn claim_spec(spec: &Value, path: &str, check: &mut Check) {
    access_modes(spec, path, "at least 1 access mode is required", check);
    check.one_of(spec, "volumeMode", path, &["Block", "Filesystem"]);
    let at = format!("{path}.resources[storage]");
    match spec.pointer("/resources/requests/storage") {
        None => check.required(&at, ""),
        Some(size) => positive(size, &at, check),
    }
}

fn access_modes(spec: &Value, path: &str, why: &str, check: &mut Check) {
    let modes = list_at(spec, "/accessModes");
    if modes.is_empty() {
        check.required(&format!("{path}.accessModes"), why);
    }
    for mode in modes {
        check.one_of(&json!({"accessModes": mode}), "accessModes", path, &ACCESS_MODES);
    }
    let is_exclusive = modes.iter().any(|mode| mode == "ReadWriteOncePod");
    if is_exclusive && modes.len() > 1 {
        let why = "may not use ReadWriteOncePod with other access modes";
        check.forbidden(&format!("{path}.accessModes"), why);
    }
}

fn positive(size: &Value, path: &str, check: &mut Check) {
    let parsed = size.as_str().map(Quantity::parse);
    match parsed {
        Some(Ok(amount)) if amount.millis > 0 => {}
        Some(Ok(_)) => check.invalid(path, size, "must be greater than zero"),
        _ => check.invalid(path, size, "must be a quantity such as 1Gi"),
    }
}

/// A change of a claim.
///
/// **Source**: `ValidatePersistentVolumeClaimUpdate`.
pub(super) fn claim_updated(old: &Value, new: &Value, check: &mut Check) {
    let is_bound = text_at(old, "/status/phase") == "Bound";
    let frozen = |body: &Value| {
        let mut spec = body.get("spec").cloned().unwrap_or_default();
        for name in ["volumeName", "storageClassName"] {
            // What was not chosen when it was made is chosen later.
            if text_at(old, &format!("/spec/{name}")).is_empty() {
                spec[name] = Value::Null;
            }
        }
        if is_bound {
            spec["resources"]["requests"] = Value::Null;
            spec["volumeAttributesClassName"] = Value::Null;
        }
        spec
    };
    if frozen(old) != frozen(new) {
        let why = "spec is immutable after creation except resources.requests and \
            volumeAttributesClassName for bound claims";
        check.forbidden("spec", why);
    }
    let amount = |body: &Value, at: &str| {
        body.pointer(at).and_then(Value::as_str).and_then(|text| Quantity::parse(text).ok())
    };
    let storage = "/spec/resources/requests/storage";
    let (had, wanted) = (amount(old, storage), amount(new, storage));
    if wanted < had && wanted <= amount(old, "/status/capacity/storage") {
        let why = "field can not be less than status.capacity";
        check.forbidden("spec.resources.requests.storage", why);
    }
}

/// A volume of the cluster.
pub(super) fn volume(body: &Value, check: &mut Check) {
    let spec = body.get("spec").unwrap_or(&Value::Null);
    access_modes(spec, "spec", "", check);
    match spec.pointer("/capacity/storage") {
        None => check.required("spec.capacity", ""),
        Some(size) => positive(size, "spec.capacity[storage]", check),
    }
    let policies = ["Delete", "Recycle", "Retain"];
    check.one_of(spec, "persistentVolumeReclaimPolicy", "spec", &policies);
    check.one_of(spec, "volumeMode", "spec", &["Block", "Filesystem"]);
    let found = sources(spec);
    if found.is_empty() {
        check.required("spec", "must specify a volume type");
    }
    for (kind, _) in found.iter().skip(1) {
        check.forbidden(&format!("spec.{kind}"), "may not specify more than 1 volume type");
    }
    for (kind, source) in &found {
        let at = format!("spec.{kind}");
        if matches!(kind.as_str(), "hostPath" | "local") {
            required(source, "path", &at, check);
            if has_parent(text(source, "path")) {
                let value = json!(text(source, "path"));
                check.invalid(&format!("{at}.path"), &value, "must not contain '..'");
            }
        }
        if *kind == "local" && !spec.get("nodeAffinity").is_some_and(Value::is_object) {
            check.required("spec.nodeAffinity", "Local volume requires node affinity");
        }
    }
}

/// What a volume is made from; its other fields are no objects, or known by name.
fn sources(spec: &Value) -> Vec<(&String, &Value)> {
    let others = ["capacity", "claimRef", "nodeAffinity"];
    let fields = spec.as_object().into_iter().flatten();
    fields.filter(|(name, value)| value.is_object() && !others.contains(&name.as_str())).collect()
}

/// A change of a volume of the cluster.
pub(super) fn volume_updated(old: &Value, new: &Value, check: &mut Check) {
    let of = |body: &Value| -> Map<String, Value> {
        let spec = body.get("spec").cloned().unwrap_or_default();
        sources(&spec).into_iter().map(|(name, source)| (name.clone(), source.clone())).collect()
    };
    if of(old) != of(new) {
        let why = "spec.persistentvolumesource is immutable after creation";
        check.forbidden("spec.persistentvolumesource", why);
    }
    check.immutable(old, new, "/spec/volumeMode", "spec.volumeMode");
}

/// A storage class.
pub(super) fn class(body: &Value, check: &mut Check) {
    if text(body, "provisioner").is_empty() {
        check.required("provisioner", "");
    }
    let modes = ["Immediate", "WaitForFirstConsumer"];
    for (name, allowed) in [("reclaimPolicy", ["Delete", "Retain"]), ("volumeBindingMode", modes)] {
        let have = text(body, name);
        if !have.is_empty() && !allowed.contains(&have) {
            let supported = allowed.map(|text| format!("{text:?}")).join(", ");
            let message = format!("Unsupported value: {have:?}: supported values: {supported}");
            check.add("FieldValueNotSupported", name, message);
        }
    }
}

/// A change of a storage class.
pub(super) fn class_updated(old: &Value, new: &Value, check: &mut Check) {
    for name in ["provisioner", "parameters", "reclaimPolicy", "volumeBindingMode"] {
        if old.get(name) != new.get(name) {
            check.forbidden(name, format!("updates to {name} are forbidden."));
        }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn said(check: &Check) -> String {
        let lines = check.causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message));
        lines.collect::<Vec<_>>().join("\n")
    }

    fn of_volume(body: &Value) -> String {
        let mut check = Check::default();
        source(body, "v", &mut check);
        said(&check)
    }

    #[test]
    fn a_volume_has_one_source_that_is_whole() {
        assert_snapshot!(of_volume(&json!({"name": "v"})), @"v: Required value: must specify a volume type");
        assert_snapshot!(of_volume(&json!({"emptyDir": {}, "hostPath": {"path": "/x"}})), @"v.hostPath: Forbidden: may not specify more than 1 volume type");
        assert_snapshot!(of_volume(&json!({"hostPath": {"path": "/a/../b", "type": "Dir"}})), @r#"
        v.hostPath.path: Invalid value: "/a/../b": must not contain '..'
        v.hostPath.type: Unsupported value: "Dir": supported values: "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"
        "#);
        assert_snapshot!(of_volume(&json!({"secret": {"defaultMode": 1000}})), @r"
        v.secret.secretName: Required value
        v.secret.defaultMode: Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive
        ");
        assert_snapshot!(of_volume(&json!({"configMap": {"name": "c", "items": [
            {"key": "k", "path": "/abs"}, {"key": "k", "path": "a/../b"},
            {"key": "k", "path": "..data"}, {"path": "x", "mode": 512}]}})), @r#"
        v.configMap.items[0].path: Invalid value: "/abs": must be a relative path
        v.configMap.items[1].path: Invalid value: "a/../b": must not contain '..'
        v.configMap.items[2].path: Invalid value: "..data": must not start with '..'
        v.configMap.items[3].key: Required value
        v.configMap.items[3].mode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive
        "#);
        assert_snapshot!(of_volume(&json!({"downwardAPI": {"items": [
            {"path": "a", "fieldRef": {"fieldPath": "status.podIP"}},
            {"path": "b", "fieldRef": {"fieldPath": "metadata.labels['x']"}},
            {"path": "c", "resourceFieldRef": {"resource": "limits.cpu"}}, {"path": "d"}]}})), @r#"
        v.downwardAPI.items[0].fieldRef.fieldPath: Unsupported value: "status.podIP": supported values: "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid"
        v.downwardAPI.items[2].resourceFieldRef.containerName: Required value
        v.downwardAPI.items[3]: Required value: one of fieldRef and resourceFieldRef is required
        "#);
        assert_snapshot!(of_volume(&json!({"projected": {"sources": [
            {"serviceAccountToken": {"path": "t", "expirationSeconds": 60}},
            {"secret": {"name": "s"}, "configMap": {"name": "c"}}]}})), @r"
        v.projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes
        v.projected.sources[1].configMap: Forbidden: may not specify more than 1 volume type
        ");
        assert_snapshot!(of_volume(&json!({"ephemeral": {"volumeClaimTemplate": {"spec": {}}}})), @r"
        v.ephemeral.volumeClaimTemplate.spec.accessModes: Required value: at least 1 access mode is required
        v.ephemeral.volumeClaimTemplate.spec.resources[storage]: Required value
        ");
    }

    #[test]
    fn mounts_name_volumes_and_stay_in_them() {
        let container = json!({"volumeMounts": [
            {"name": "a", "mountPath": "/x"}, {"name": "b", "mountPath": "/x"}, {"mountPath": "/y"},
            {"name": "a", "mountPath": "/z", "subPath": "/abs", "subPathExpr": "../up"},
            {"name": "a", "mountPath": "/p", "mountPropagation": "Bidirectional"}]});
        let mut check = Check::default();
        mounts(&container, "c", &BTreeSet::from(["a"]), &mut check);
        assert_snapshot!(said(&check), @r#"
        c.volumeMounts[1].name: Not found: "b"
        c.volumeMounts[1].mountPath: Invalid value: "/x": must be unique
        c.volumeMounts[2].name: Required value
        c.volumeMounts[3].subPath: Invalid value: "/abs": must be a relative path
        c.volumeMounts[3].subPathExpr: Invalid value: "../up": must not contain '..'
        c.volumeMounts[3].subPathExpr: Invalid value: "../up": subPathExpr and subPath are mutually exclusive
        c.volumeMounts[4].mountPropagation: Forbidden: Bidirectional mount propagation is available only to privileged containers
        "#);
    }

    #[test]
    fn claims_and_volumes_say_how_much_and_how() {
        let run = |rule: fn(&Value, &mut Check), body: Value| {
            let mut check = Check::default();
            rule(&body, &mut check);
            said(&check)
        };
        assert_snapshot!(run(claim, json!({"spec": {}})), @r"
        spec.accessModes: Required value: at least 1 access mode is required
        spec.resources[storage]: Required value
        ");
        assert_snapshot!(run(claim, json!({"spec": {"accessModes": ["RWO"],
            "resources": {"requests": {"storage": "0"}}}})), @r#"
        spec.accessModes: Unsupported value: "RWO": supported values: "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"
        spec.resources[storage]: Invalid value: "0": must be greater than zero
        "#);
        assert_snapshot!(run(volume, json!({"spec": {}})), @r"
        spec.accessModes: Required value
        spec.capacity: Required value
        spec: Required value: must specify a volume type
        ");
        assert_snapshot!(run(volume, json!({"spec": {"capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"], "local": {"path": "/a/.."}}})), @r#"
        spec.local.path: Invalid value: "/a/..": must not contain '..'
        spec.nodeAffinity: Required value: Local volume requires node affinity
        "#);
        assert_snapshot!(run(class, json!({"reclaimPolicy": "Recycle"})), @r#"
        provisioner: Required value
        reclaimPolicy: Unsupported value: "Recycle": supported values: "Delete", "Retain"
        "#);
    }

    #[test]
    fn a_claim_changes_only_where_it_may() {
        let body = |spec: Value, phase: &str| {
            let status = json!({"phase": phase, "capacity": {"storage": "2Gi"}});
            json!({"spec": spec, "status": status})
        };
        let asks = |size: &str| json!({"resources": {"requests": {"storage": size}}});
        let run = |old: Value, new: Value| {
            let mut check = Check::default();
            claim_updated(&old, &new, &mut check);
            said(&check)
        };
        assert_eq!(run(body(asks("2Gi"), "Bound"), body(asks("3Gi"), "Bound")), "");
        assert_snapshot!(run(body(asks("2Gi"), "Bound"), body(asks("1Gi"), "Bound")), @"spec.resources.requests.storage: Forbidden: field can not be less than status.capacity");
        assert_snapshot!(run(body(asks("2Gi"), "Pending"), body(asks("3Gi"), "Pending")), @"spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
        let mut named = asks("2Gi");
        named["volumeName"] = json!("v");
        assert_eq!(run(body(asks("2Gi"), "Pending"), body(named.clone(), "Pending")), "");
        let mut other = named.clone();
        other["volumeName"] = json!("w");
        assert_snapshot!(run(body(named, "Bound"), body(other, "Bound")), @"spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims");
    }
}
