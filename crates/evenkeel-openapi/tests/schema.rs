//! Schemas as `kubectl explain` reads them.

use evenkeel_api::GroupKind;
use evenkeel_openapi::{PREFIX, schema};
use serde_json::{Map, json};

#[test]
fn a_kind_is_described_whole() {
    let mut parts = Map::new();
    let deployment = schema(&GroupKind::new("apps", "Deployment"), &mut parts).unwrap();
    let part =
        |name: &str, field: &str| parts[&format!("{PREFIX}{name}")]["properties"][field].clone();
    assert_eq!(
        deployment["properties"]["spec"]["$ref"],
        "#/components/schemas/io.k8s.api.DeploymentSpec"
    );
    assert_eq!(part("DeploymentSpec", "replicas")["type"], "integer");
    assert_eq!(part("RollingUpdateDeployment", "maxSurge")["format"], "int-or-string");
    assert_eq!(part("ObjectMeta", "creationTimestamp")["format"], "date-time");
    assert_eq!(part("PodSpec", "containers")["type"], "array");
    assert_eq!(part("PodSpec", "nodeSelector")["additionalProperties"]["type"], "string");
    assert_eq!(
        part("ResourceRequirements", "limits"),
        json!({"type": "object", "additionalProperties": {"type": "string"}})
    );
    // The last ones, so nothing has stopped it.
    assert!(part("PodSpec", "volumes")["items"]["$ref"].is_string());
    assert!(deployment["properties"]["status"]["$ref"].is_string());
    let mut of_pod = Map::new();
    schema(&GroupKind::new("", "Pod"), &mut of_pod).unwrap();
    assert!(of_pod.len() > 100, "{}", of_pod.len());
}

#[test]
fn a_kind_of_somebody_else_is_not_known() {
    let mut parts = Map::new();
    assert_eq!(schema(&GroupKind::new("example.com", "Pod"), &mut parts), None);
    assert!(parts.is_empty());
}
