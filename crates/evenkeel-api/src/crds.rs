use serde_json::Value;

/// The definitions as written, one file per kind.
const FILES: [(&str, &str); 11] = [
    ("alertproviders.yaml", include_str!("../crds/alertproviders.yaml")),
    ("breakglasses.yaml", include_str!("../crds/breakglasses.yaml")),
    ("canaries.yaml", include_str!("../crds/canaries.yaml")),
    ("errorbudgetpolicies.yaml", include_str!("../crds/errorbudgetpolicies.yaml")),
    ("gateways.yaml", include_str!("../crds/gateways.yaml")),
    ("httproutes.yaml", include_str!("../crds/httproutes.yaml")),
    ("metrictemplates.yaml", include_str!("../crds/metrictemplates.yaml")),
    ("prometheusrules.yaml", include_str!("../crds/prometheusrules.yaml")),
    ("prometheusservicelevels.yaml", include_str!("../crds/prometheusservicelevels.yaml")),
    ("referencegrants.yaml", include_str!("../crds/referencegrants.yaml")),
    ("slomaintenances.yaml", include_str!("../crds/slomaintenances.yaml")),
];

/// The `CustomResourceDefinition`s of every foreign kind evenkeel serves in its embedded cluster.
///
/// They are installed there at the start; on another cluster they are what a person applies.
pub fn crds() -> Vec<Value> {
    let parse = |(_, text): &(&str, &str)| {
        let node = evenkeel_yaml::Node::parse(text);
        node.and_then(|node| node.json()).expect("every file in crds/ is parsed by a test")
    };
    FILES.iter().map(parse).collect()
}

/// The same as written, one YAML document per kind: those of evenkeel's own group, or `all`, also
/// the foreign ones (Flagger, Sloth, Gateway API, Prometheus operator).
pub fn crds_yaml(all: bool) -> String {
    crds_yaml_where(all, |_| true)
}

/// As [`crds_yaml`], only those with `wanted` names (`canaries.flagger.app`).
pub fn crds_yaml_where(all: bool, wanted: impl Fn(&str) -> bool) -> String {
    let own = |text: &str| text.contains("\n  group: evenkeel.dev\n");
    let named = FILES.iter().zip(crds()).filter(|((_, text), crd)| {
        let name = crd.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
        (all || own(text)) && wanted(name)
    });
    named.flat_map(|((_, text), _)| ["---\n", text]).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_file_in_the_folder_is_embedded_and_is_a_definition() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/crds");
        let found: BTreeSet<String> = std::fs::read_dir(folder)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        let embedded: BTreeSet<String> = FILES.iter().map(|(name, _)| (*name).to_owned()).collect();
        assert_eq!(found, embedded);
        for crd in crds() {
            let text = |path: &str| crd.pointer(path).and_then(Value::as_str).unwrap_or_default();
            assert_eq!(text("/kind"), "CustomResourceDefinition");
            let name = format!("{}.{}", text("/spec/names/plural"), text("/spec/group"));
            assert_eq!(text("/metadata/name"), name);
            let group = text("/spec/group");
            if group.ends_with(".k8s.io") || group.ends_with(".kubernetes.io") {
                let approved = text("/metadata/annotations/api-approved.kubernetes.io");
                assert!(approved.starts_with("unapproved"), "API servers refuse {name}");
            }
            let versions = crd.pointer("/spec/versions").and_then(Value::as_array).unwrap();
            let schema = |version: &Value| version.pointer("/schema/openAPIV3Schema").is_some();
            assert!(versions.iter().all(schema), "{name}");
        }
    }

    #[test]
    fn as_text_they_are_ours_or_all_of_them() {
        let kinds = |all| crds_yaml(all).matches("\nkind: CustomResourceDefinition\n").count();
        assert_eq!((kinds(true), kinds(false)), (FILES.len(), 3));
        let one = crds_yaml_where(true, |name| name == "canaries.flagger.app");
        assert!(one.contains("\n    kind: Canary\n") && one.matches("---\n").count() == 1);
        assert_eq!(crds_yaml_where(false, |name| name == "canaries.flagger.app"), "");
    }

    #[test]
    fn the_canary_definition_shows_flaggers_columns() {
        let crd = crds().into_iter().find(|crd| crd["metadata"]["name"] == "canaries.flagger.app");
        let crd = crd.unwrap();
        let columns = crd.pointer("/spec/versions/0/additionalPrinterColumns").unwrap();
        let names: Vec<_> =
            columns.as_array().unwrap().iter().map(|c| c["name"].as_str().unwrap()).collect();
        assert_eq!(
            names.join(" "),
            "Status Weight Suspended FailedChecks Interval Mirror \
            StepWeight StepWeights MaxWeight LastTransitionTime"
        );
    }

    /// The fields below a schema that have no description.
    fn undescribed(path: &str, schema: &Value, found: &mut Vec<String>) {
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            let path = format!("{path}.{name}");
            if field["description"].is_null() && field["enum"].is_null() {
                found.push(path.clone());
            }
            undescribed(&path, field, found);
            undescribed(&format!("{path}[]"), &field["items"], found);
        }
    }

    #[test]
    fn our_own_kinds_describe_every_field_and_have_no_room_for_others() {
        let ours = crds().into_iter().filter(|crd| crd["spec"]["group"] == "evenkeel.dev");
        let mut found = Vec::new();
        for crd in ours {
            let kind = crd["spec"]["names"]["kind"].as_str().unwrap().to_owned();
            assert!(!crd.to_string().contains("preserve-unknown-fields"), "{kind}");
            let schema = &crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            assert!(schema["description"].is_string(), "{kind}");
            undescribed(&format!("{kind}.spec"), &schema["properties"]["spec"], &mut found);
        }
        assert!(found.is_empty(), "{found:#?}");
    }
}
