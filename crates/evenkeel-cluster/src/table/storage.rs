use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Layout, age_of, column, name_of};
use crate::value::{list_at, text, text_at};

/// **Source**: `printPersistentVolumeClaim`.
pub(super) const CLAIM: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Status", "string", 0),
        column("Volume", "string", 0),
        column("Capacity", "string", 0),
        column("Access Modes", "string", 0),
        column("StorageClass", "string", 0),
        column("VolumeAttributesClass", "string", 0),
        column("Age", "string", 0),
        column("VolumeMode", "string", 1),
    ],
    cells: claim,
};

fn claim(body: &Value, now: Timestamp) -> Vec<Value> {
    let going = !text_at(body, "/metadata/deletionTimestamp").is_empty();
    let phase = if going { "Terminating" } else { text_at(body, "/status/phase") };
    let volume = text_at(body, "/spec/volumeName");
    let bound = !volume.is_empty();
    let only_bound = |text: &str| json!(if bound { text } else { "" });
    let modes = access_modes(list_at(body, "/status/accessModes"));
    vec![
        name_of(body),
        json!(phase),
        json!(volume),
        only_bound(text_at(body, "/status/capacity/storage")),
        only_bound(&modes),
        json!(class(body)),
        json!(or_unset(text_at(body, "/spec/volumeAttributesClassName"))),
        age_of(body, now),
        json!(or_unset(text_at(body, "/spec/volumeMode"))),
    ]
}

/// **Source**: `printPersistentVolume`.
pub(super) const VOLUME: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Capacity", "string", 0),
        column("Access Modes", "string", 0),
        column("Reclaim Policy", "string", 0),
        column("Status", "string", 0),
        column("Claim", "string", 0),
        column("StorageClass", "string", 0),
        column("VolumeAttributesClass", "string", 0),
        column("Reason", "string", 0),
        column("Age", "string", 0),
        column("VolumeMode", "string", 1),
    ],
    cells: volume,
};

fn volume(body: &Value, now: Timestamp) -> Vec<Value> {
    let going = !text_at(body, "/metadata/deletionTimestamp").is_empty();
    let phase = if going { "Terminating" } else { text_at(body, "/status/phase") };
    let (namespace, name) =
        (text_at(body, "/spec/claimRef/namespace"), text_at(body, "/spec/claimRef/name"));
    let of = if name.is_empty() { String::new() } else { format!("{namespace}/{name}") };
    vec![
        name_of(body),
        json!(text_at(body, "/spec/capacity/storage")),
        json!(access_modes(list_at(body, "/spec/accessModes"))),
        json!(text_at(body, "/spec/persistentVolumeReclaimPolicy")),
        json!(phase),
        json!(of),
        json!(class(body)),
        json!(or_unset(text_at(body, "/spec/volumeAttributesClassName"))),
        json!(text_at(body, "/status/reason")),
        age_of(body, now),
        json!(or_unset(text_at(body, "/spec/volumeMode"))),
    ]
}

/// **Source**: `printStorageClass`.
pub(super) const CLASS: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Provisioner", "string", 0),
        column("ReclaimPolicy", "string", 0),
        column("VolumeBindingMode", "string", 0),
        column("AllowVolumeExpansion", "string", 0),
        column("Age", "string", 0),
    ],
    cells: |body, now| {
        let annotations = body.pointer("/metadata/annotations").unwrap_or(&Value::Null);
        let is_default = text(annotations, "storageclass.kubernetes.io/is-default-class") == "true";
        let name = text_at(body, "/metadata/name");
        let name = if is_default { format!("{name} (default)") } else { name.to_owned() };
        let expands = body.get("allowVolumeExpansion").and_then(Value::as_bool).unwrap_or(false);
        vec![
            json!(name),
            json!(text(body, "provisioner")),
            json!(text(body, "reclaimPolicy")),
            json!(text(body, "volumeBindingMode")),
            json!(expands),
            age_of(body, now),
        ]
    },
};

/// Each mode once, in short. **Source**: `GetAccessModesAsString`.
fn access_modes(modes: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let has = |name: &str| modes.iter().any(|mode| mode == name);
    let shown: Vec<&str> =
        short.iter().filter(|(name, _)| has(name)).map(|(_, short)| *short).collect();
    shown.join(",")
}

/// **Source**: `GetPersistentVolumeClass`, which reads an annotation of old first.
fn class(body: &Value) -> &str {
    text_at(body, "/spec/storageClassName")
}

fn or_unset(text: &str) -> &str {
    if text.is_empty() { "<unset>" } else { text }
}
