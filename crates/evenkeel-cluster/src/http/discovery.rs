use std::{collections::BTreeMap, sync::Arc};

use serde_json::{Value, json};

use super::{
    reply::{self, Reply},
    review::REVIEWS,
};
use crate::{ApiServer, error::ApiError, resource::Resource};

/// The Kubernetes release whose behaviour is reproduced.
const RELEASE: (&str, &str, &str) = ("1", "33", "v1.33.0+evenkeel");

const VERBS: [&str; 8] =
    ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];
const PART_VERBS: [&str; 3] = ["get", "patch", "update"];

type ByVersion = BTreeMap<String, Vec<Arc<Resource>>>;
/// Kinds by group and version; built-in groups first, versions best first.
type Versions = Vec<(String, Vec<Arc<Resource>>)>;
type Groups = Vec<(String, Versions)>;

pub(super) fn version() -> Value {
    let (major, minor, release) = RELEASE;
    json!({"major": major, "minor": minor, "gitVersion": release, "gitCommit": "",
        "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": format!("{}/{}", std::env::consts::OS, architecture())})
}

/// The machine's name in Go's words, as clients expect it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// How good a version is: general availability before beta before alpha, then the higher number.
fn rank(version: &str) -> (u8, u64, u64) {
    let number = |text: &str| text.parse::<u64>().unwrap_or_default();
    let rest = version.strip_prefix('v').unwrap_or_default();
    if let Some((major, minor)) = rest.split_once("beta") {
        (1, number(major), number(minor))
    } else if let Some((major, minor)) = rest.split_once("alpha") {
        (0, number(major), number(minor))
    } else {
        (2, number(rest), 0)
    }
}

fn all(server: &ApiServer) -> Groups {
    let known = server.resources();
    let mut groups: BTreeMap<(bool, String), ByVersion> = BTreeMap::new();
    for resource in known {
        let custom = resource.custom().is_some();
        for version in &resource.kind.versions {
            groups
                .entry((custom, resource.group().to_owned()))
                .or_default()
                .entry(version.to_string())
                .or_default()
                .push(resource.clone());
        }
    }
    for (group, _, _) in REVIEWS {
        let group = groups.entry((false, group.to_owned())).or_default();
        group.entry("v1".to_owned()).or_default();
    }
    groups
        .into_iter()
        .map(|((_, group), versions)| {
            let mut versions: Vec<_> = versions.into_iter().collect();
            versions.sort_by_key(|(version, _)| std::cmp::Reverse(rank(version)));
            (group, versions)
        })
        .collect()
}

/// Group, version and kinds of every group version.
pub(super) fn group_versions(server: &ApiServer) -> Vec<(String, String, Vec<Arc<Resource>>)> {
    let groups = all(server).into_iter();
    groups
        .flat_map(|(group, versions)| {
            versions.into_iter().map(move |(version, kinds)| (group.clone(), version, kinds))
        })
        .collect()
}

fn api_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// A part of an object with an endpoint of its own: name, group, version and kind of what it
/// takes, and its verbs.
struct Part {
    name: &'static str,
    group: String,
    version: String,
    kind: String,
    verbs: Vec<&'static str>,
}

fn parts(resource: &Resource, version: &str) -> Vec<Part> {
    let own = |name: &'static str, verbs: &[&'static str]| Part {
        name,
        group: resource.group().to_owned(),
        version: version.to_owned(),
        kind: resource.kind.id.kind.to_string(),
        verbs: verbs.to_vec(),
    };
    let other = |name: &'static str, of: [&str; 3], verbs: &[&'static str]| Part {
        name,
        group: of[0].to_owned(),
        version: of[1].to_owned(),
        kind: of[2].to_owned(),
        verbs: verbs.to_vec(),
    };
    let mut parts = Vec::new();
    if resource.is("", "Pod") {
        parts.push(other("binding", ["", "v1", "Binding"], &["create"]));
        parts.push(other("eviction", ["policy", "v1", "Eviction"], &["create"]));
        parts.push(own("log", &["get"]));
    }
    if resource.kind.has_scale {
        parts.push(other("scale", ["autoscaling", "v1", "Scale"], &PART_VERBS));
    }
    if resource.kind.has_status {
        parts.push(own("status", &PART_VERBS));
    }
    parts
}

/// The aggregated document: all groups and kinds in one answer.
pub(super) fn aggregated(server: &ApiServer, core: bool) -> Reply {
    let items: Vec<Value> = all(server)
        .into_iter()
        .filter(|(group, _)| group.is_empty() == core)
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .into_iter()
                .map(|(version, kinds)| {
                    let mut list: Vec<Value> =
                        kinds.iter().map(|kind| aggregated_kind(kind, &version)).collect();
                    list.extend(reviews(&group).map(|(plural, kind)| {
                        json!({"resource": plural, "scope": "Cluster", "verbs": ["create"],
                            "singularResource": kind.to_lowercase(),
                            "responseKind": {"group": group, "version": version, "kind": kind}})
                    }));
                    json!({"version": version, "freshness": "Current", "resources": list})
                })
                .collect();
            let meta = if core {
                json!({"creationTimestamp": null})
            } else {
                json!({"name": group, "creationTimestamp": null})
            };
            json!({"metadata": meta, "versions": versions})
        })
        .collect();
    let body = json!({"kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    reply::bytes(
        200,
        "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
        body.to_string(),
    )
}

fn reviews(group: &str) -> impl Iterator<Item = (&'static str, &'static str)> {
    let group = group.to_owned();
    let here = REVIEWS.iter().filter(move |(known, _, _)| *known == group);
    here.map(|(_, plural, kind)| (*plural, *kind))
}

fn aggregated_kind(resource: &Resource, version: &str) -> Value {
    let kind = |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({"resource": resource.plural(),
        "responseKind": kind(resource.group(), version, &resource.kind.id.kind),
        "scope": if resource.is_namespaced() { "Namespaced" } else { "Cluster" },
        "singularResource": &*resource.kind.singular, "verbs": VERBS});
    for (field, names) in
        [("shortNames", &resource.kind.short_names), ("categories", &resource.kind.categories)]
    {
        if !names.is_empty() {
            entry[field] = names.iter().map(|name| json!(&**name)).collect();
        }
    }
    let parts: Vec<Value> = parts(resource, version)
        .iter()
        .map(|part| {
            json!({"subresource": part.name, "verbs": part.verbs,
                "responseKind": kind(&part.group, &part.version, &part.kind)})
        })
        .collect();
    if !parts.is_empty() {
        entry["subresources"] = Value::Array(parts);
    }
    entry
}

pub(super) fn core_versions() -> Value {
    json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []})
}

fn group_entry(group: &str, versions: &[(String, Vec<Arc<Resource>>)]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(
            |(version, _)| json!({"groupVersion": api_version(group, version), "version": version}),
        )
        .collect();
    json!({"name": group, "versions": versions, "preferredVersion": versions.first()})
}

pub(super) fn groups(server: &ApiServer) -> Value {
    let groups: Vec<Value> = all(server)
        .iter()
        .filter(|(group, _)| !group.is_empty())
        .map(|(group, versions)| group_entry(group, versions))
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

pub(super) fn group(server: &ApiServer, name: &str) -> Result<Reply, ApiError> {
    let groups = all(server);
    let (group, versions) =
        groups.iter().find(|(group, _)| group == name).ok_or_else(ApiError::no_resource)?;
    let mut entry = json!({"kind": "APIGroup", "apiVersion": "v1"});
    if let (Some(entry), Value::Object(found)) =
        (entry.as_object_mut(), group_entry(group, versions))
    {
        entry.extend(found);
    }
    Ok(reply::json(200, &entry))
}

/// The kinds of one group version, as clients without aggregated discovery read them.
pub(super) fn resources(server: &ApiServer, group: &str, version: &str) -> Result<Reply, ApiError> {
    let found = group_versions(server)
        .into_iter()
        .find(|(known, served, _)| known == group && served == version);
    let (_, _, kinds) = found.ok_or_else(ApiError::no_resource)?;
    let mut list = Vec::new();
    for resource in &kinds {
        let mut entry = json!({"name": resource.plural(),
            "singularName": &*resource.kind.singular, "namespaced": resource.is_namespaced(),
            "kind": &*resource.kind.id.kind, "verbs": VERBS});
        for (field, names) in
            [("shortNames", &resource.kind.short_names), ("categories", &resource.kind.categories)]
        {
            if !names.is_empty() {
                entry[field] = names.iter().map(|name| json!(&**name)).collect();
            }
        }
        list.push(entry);
        list.extend(parts(resource, version).iter().map(|part| {
            json!({"name": format!("{}/{}", resource.plural(), part.name), "singularName": "",
                "namespaced": resource.is_namespaced(), "group": part.group,
                "version": part.version, "kind": part.kind, "verbs": part.verbs})
        }));
    }
    list.extend(reviews(group).map(|(plural, kind)| {
        json!({"name": plural, "singularName": kind.to_lowercase(), "namespaced": false,
            "kind": kind, "verbs": ["create"]})
    }));
    Ok(reply::json(
        200,
        &json!({"kind": "APIResourceList", "apiVersion": "v1",
        "groupVersion": api_version(group, version), "resources": list}),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn better_versions_come_first() {
        let mut versions = ["v1alpha1", "v2", "v1beta2", "v1", "v1beta10"];
        versions.sort_by_key(|version| std::cmp::Reverse(rank(version)));
        assert_eq!(versions, ["v2", "v1", "v1beta10", "v1beta2", "v1alpha1"]);
    }
}
