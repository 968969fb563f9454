//! Claims, volumes of the cluster and storage classes.
//!
//! **Source**: `ValidatePersistentVolumeClaim` and `ValidatePersistentVolume` in
//! `pkg/apis/core/validation/validation.go`, and `pkg/apis/storage/validation`.

use evenkeel_api::Quantity;
use serde_json::{Map, Value, json};

use super::{Check, has_parent};
use crate::value::{list_at, text, text_at};

const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

/// A claim.
pub(super) fn claim(body: &Value, check: &mut Check) {
    claim_spec(body.get("spec").unwrap_or(&Value::Null), "spec", check);
}

pub(super) fn claim_spec(spec: &Value, path: &str, check: &mut Check) {
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
            check.needs(source, "path", &at);
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
    // What was not said when it was made may be said later. **Source**: `validatePvNodeAffinity`.
    if old.pointer("/spec/nodeAffinity").is_some_and(Value::is_object) {
        check.immutable(old, new, "/spec/nodeAffinity", "spec.nodeAffinity");
    }
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
    fn a_volume_stays_where_it_is() {
        let on = |node: &str| {
            let terms = json!([{"matchExpressions": [
                {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}]}]);
            json!({"spec": {"nodeAffinity": {"required": {"nodeSelectorTerms": terms}}}})
        };
        let run = |old: Value, new: Value| {
            let mut check = Check::default();
            volume_updated(&old, &new, &mut check);
            let fields = check.causes.iter().map(|cause| cause.field.clone());
            fields.collect::<Vec<_>>().join(" ")
        };
        assert_eq!(run(on("n1"), on("n1")), "");
        assert_eq!(run(json!({"spec": {}}), on("n1")), "");
        assert_eq!(run(on("n1"), on("n2")), "spec.nodeAffinity");
        assert_eq!(run(on("n1"), json!({"spec": {}})), "spec.nodeAffinity");
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
