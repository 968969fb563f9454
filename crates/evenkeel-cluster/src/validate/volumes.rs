//! Volumes of pods, and where containers mount them.
//!
//! **Source**: `validateVolumeSource` and `ValidateVolumeMounts` in
//! `pkg/apis/core/validation/validation.go`.

use std::collections::BTreeSet;

use evenkeel_api::Quantity;
use serde_json::{Value, json};

use super::{Check, has_parent, storage::claim_spec};
use crate::value::{list_at, text};

/// Fields of a pod that a downwardAPI volume may show.
const FIELDS: [&str; 5] = [
    "metadata.annotations",
    "metadata.labels",
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
];
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
            check.needs(source, "path", &at);
            if has_parent(text(source, "path")) {
                let value = json!(text(source, "path"));
                check.invalid(&format!("{at}.path"), &value, "must not contain '..'");
            }
            check.one_of(source, "type", &at, &HOST_PATH_TYPES);
        }
        "secret" => {
            check.needs(source, "secretName", &at);
            keys(source, &at, check);
        }
        "configMap" => {
            check.needs(source, "name", &at);
            keys(source, &at, check);
        }
        "persistentVolumeClaim" => check.needs(source, "claimName", &at),
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
        check.needs(item, "key", &at);
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
                check.needs(field, "containerName", &at);
                check.needs(field, "resource", &at);
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
                    check.needs(body, "name", &at);
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
}
