//! Claims on folders of this machine: what the controller that provides them, the scheduler and the
//! node agents have to agree on.

use k8s_openapi::api::core::v1::PersistentVolumeSpec;

use crate::labels::HOSTNAME;

/// The `StorageClass` that is there by itself.
pub const CLASS: &str = "standard";
/// Provisioner of that class, and driver of its volumes.
pub const PROVISIONER: &str = "evenkeel.dev/local-folder";
/// Holds a volume until its node has removed the folder.
pub const FINALIZER: &str = "evenkeel.dev/local-folder";
/// On a claim: the node of the pod that waits for it. **Source**: `AnnSelectedNode` in
/// `component-helpers/storage/volume`.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";
/// Longest name of a file.
const NAME_MAX: usize = 255;

/// The folder of a new volume, below the root of claims.
pub fn folder_name(namespace: &str, claim: &str, uid: &str) -> String {
    let name = format!("{namespace}_{claim}_{uid}");
    if name.len() <= NAME_MAX { name } else { uid.to_owned() }
}

/// The folder of a volume that was provided here, below the root of claims. `None` when the volume
/// is another's, or when what it names is not one folder.
pub fn folder(spec: &PersistentVolumeSpec) -> Option<String> {
    let csi = spec.csi.as_ref().filter(|csi| csi.driver == PROVISIONER)?;
    let name = csi.volume_handle.as_str();
    let is_plain = !name.is_empty() && !name.starts_with('.') && name.len() <= NAME_MAX;
    (is_plain && !name.contains(['/', '\0'])).then(|| name.to_owned())
}

/// The host name of the one node on which a volume lies.
pub fn node(spec: &PersistentVolumeSpec) -> Option<&str> {
    let terms = &spec.node_affinity.as_ref()?.required.as_ref()?.node_selector_terms;
    let [term] = terms.as_slice() else { return None };
    let [wanted] = term.match_expressions.as_deref()? else { return None };
    let [name] = wanted.values.as_deref()? else { return None };
    (wanted.key == HOSTNAME && wanted.operator == "In").then_some(name.as_str())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::serde::Deserialize as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn only_one_plain_folder_below_the_root_is_a_volume_of_ours() {
        let of = |driver: &str, handle: &str| {
            let body = json!({"csi": {"driver": driver, "volumeHandle": handle}});
            folder(&PersistentVolumeSpec::deserialize(&body).unwrap())
        };
        assert_eq!(of(PROVISIONER, "shop_data_u1").as_deref(), Some("shop_data_u1"));
        for handle in ["", ".", "..", "../etc", "a/b", "/etc", ".hidden", "a\0b"] {
            assert_eq!(of(PROVISIONER, handle), None, "{handle:?}");
        }
        assert_eq!(of("ebs.csi.aws.com", "vol-1"), None);
        let long = "c".repeat(250);
        assert_eq!(folder_name("shop", &long, "u1"), "u1");
        assert_eq!(folder_name("shop", "data", "u1"), "shop_data_u1");
    }
}
