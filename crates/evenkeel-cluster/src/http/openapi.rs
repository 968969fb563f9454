use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Map, Value, json};

use super::{
    discovery::group_versions,
    reply::{self, Reply},
    request::Request,
};
use crate::{
    ApiServer, crd,
    error::ApiError,
    resource::{Body, Resource},
};

/// Which document describes which group version.
pub(super) fn index(server: &ApiServer) -> Value {
    let mut paths = Map::new();
    for (group, version, kinds) in group_versions(server) {
        let path = path_of(&group, &version);
        let text = rendered(&group, &version, &kinds);
        let hash = evenkeel_base::stable_hash(text.as_bytes());
        let url = format!("/openapi/v3/{path}?hash={hash:016X}");
        paths.insert(path, json!({"serverRelativeURL": url}));
    }
    json!({"paths": paths})
}

pub(super) fn document(server: &ApiServer, group: &str, version: &str) -> Result<Reply, ApiError> {
    let found = group_versions(server)
        .into_iter()
        .find(|(known, served, _)| known == group && served == version);
    let (_, _, kinds) = found.ok_or_else(ApiError::no_resource)?;
    Ok(reply::bytes(200, "application/json", rendered(group, version, &kinds).to_string()))
}

/// Documents of built-in kinds by path: the same in every server, and large.
static BUILT_IN: Mutex<BTreeMap<String, Arc<str>>> = Mutex::new(BTreeMap::new());

fn rendered(group: &str, version: &str, kinds: &[Arc<Resource>]) -> Arc<str> {
    if kinds.iter().any(|resource| resource.custom().is_some()) {
        return render(group, version, kinds).to_string().into();
    }
    let mut known = BUILT_IN.lock().unwrap_or_else(PoisonError::into_inner);
    let text = known.entry(path_of(group, version));
    text.or_insert_with(|| render(group, version, kinds).to_string().into()).clone()
}

/// Media type of the only form in which clients read version 2.
const VERSION_TWO: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

/// The version 2 document, without kinds. `kubectl` reads it when version 3 does not name a kind:
/// with an empty document it reports that the kind does not exist, without one its error says less.
pub(super) fn version_two(request: &Request) -> Result<Reply, ApiError> {
    let accept = request.headers.get(http::header::ACCEPT).and_then(|value| value.to_str().ok());
    if !accept.is_some_and(|accept| accept.contains("proto-openapi")) {
        return Err(ApiError::not_served(
            "/openapi/v2 is served as protobuf, for kubectl only: see /openapi/v3",
        ));
    }
    // swagger = "2.0"; info = {title, version}; paths and definitions empty.
    let body = b"\x0a\x032.0\x12\x13\x0a\x0aKubernetes\x12\x05v1.33\x42\x00\x4a\x00";
    Ok(reply::bytes(200, VERSION_TWO, &body[..]))
}

fn path_of(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// The document of one group version. Built-in kinds have the fields of their Rust type, without
/// descriptions; custom kinds have their real schema.
fn render(group: &str, version: &str, kinds: &[Arc<Resource>]) -> Value {
    let (mut paths, mut schemas) = (Map::new(), Map::new());
    for resource in kinds {
        let kind = &resource.kind.id.kind;
        let gvk = json!({"group": group, "version": version, "kind": &**kind});
        let component = component(group, version, kind);
        let schema = schema(resource, version, &gvk, &mut schemas);
        schemas.insert(component.clone(), schema);
        let base = format!("/{}", path_of(group, version));
        let plural = resource.plural();
        let collection = if resource.is_namespaced() {
            format!("{base}/namespaces/{{namespace}}/{plural}")
        } else {
            format!("{base}/{plural}")
        };
        let body = json!({"$ref": format!("#/components/schemas/{component}")});
        let action = |name: &str, writes: bool, media: &[&str]| {
            let mut operation = json!({"x-kubernetes-action": name,
                "x-kubernetes-group-version-kind": gvk,
                "responses": {"200": {"description": "OK",
                    "content": {"application/json": {"schema": body}}}}});
            if writes {
                operation["parameters"] = ["dryRun", "fieldManager", "fieldValidation", "force"]
                    .iter()
                    .map(|name| {
                        json!({"name": name, "in": "query",
                            "schema": {"type": "string", "uniqueItems": true}})
                    })
                    .collect();
                let content: Map<String, Value> = media
                    .iter()
                    .map(|media| ((*media).to_owned(), json!({"schema": body})))
                    .collect();
                operation["requestBody"] = json!({"content": content});
            }
            operation
        };
        let plain = ["application/json", "application/yaml"];
        // Without the strategic merge patch in this list kubectl takes the merge keys of the
        // built-in kinds from its own tables.
        let patches = [
            "application/apply-patch+yaml",
            "application/json-patch+json",
            "application/merge-patch+json",
        ];
        paths.insert(
            collection.clone(),
            json!({"get": action("list", false, &[]), "post": action("post", true, &plain)}),
        );
        paths.insert(
            format!("{collection}/{{name}}"),
            json!({"get": action("get", false, &[]), "put": action("put", true, &plain),
                "patch": action("patch", true, &patches),
                "delete": action("delete", true, &plain)}),
        );
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.33.0"},
        "paths": paths, "components": {"schemas": schemas}})
}

/// Name of a schema: the group backwards, then version and kind.
fn component(group: &str, version: &str, kind: &str) -> String {
    match group {
        "" => format!("io.k8s.api.core.{version}.{kind}"),
        group if !group.contains('.') => format!("io.k8s.api.{group}.{version}.{kind}"),
        group => {
            let backwards: Vec<&str> = group.split('.').rev().collect();
            format!("{}.{version}.{kind}", backwards.join("."))
        }
    }
}

fn schema(
    resource: &Resource,
    version: &str,
    gvk: &Value,
    parts: &mut Map<String, Value>,
) -> Value {
    let empty = || json!({"type": "object"});
    let mut schema = match &resource.body {
        Body::Typed(_) => evenkeel_openapi::schema(&resource.kind.id, parts).unwrap_or_else(empty),
        Body::Custom(custom) => custom
            .version(version)
            .map_or_else(empty, |version| crd::schema_or_empty(&version.schema)),
    };
    schema["x-kubernetes-group-version-kind"] = json!([gvk]);
    schema
}
