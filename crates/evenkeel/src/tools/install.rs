//! `evenkeel install`: the objects that run the controllers on a cluster.

use anyhow::Context as _;
use evenkeel_assembly::{COMMON, LEASES, Right, domains};
use evenkeel_telemetry::shell::PrometheusClient;
use serde_json::json;

use crate::{cli::InstallArgs, io};

/// The objects, with the places that differ in braces.
const TEMPLATE: &str = include_str!("install.yaml");

pub(crate) fn run(args: &InstallArgs) -> anyhow::Result<()> {
    // It would be refused at the start of the process otherwise.
    PrometheusClient::new(&args.prometheus).context("--prometheus")?;
    io::print(&manifest(args));
    Ok(())
}

fn manifest(args: &InstallArgs) -> String {
    let mut command = vec![
        "run".to_owned(),
        format!("--prometheus={}", args.prometheus),
        "--data-dir=/data".to_owned(),
        format!("--lease-namespace={}", args.namespace),
        // Also on loopback, for `kubectl port-forward`.
        "--listen=[::]:9091".to_owned(),
        // The Lease says where its holder answers.
        "--advertise=$(POD_IP)".to_owned(),
    ];
    if !args.only.is_empty() {
        command.push(format!("--only={}", args.only.join(",")));
    }
    fill(&[
        ("{rules}", &rules(&granted(&args.only))),
        ("{lease_rules}", &rules(LEASES)),
        ("{namespace}", &args.namespace),
        ("{args}", &json!(command).to_string()),
        ("{image}", &args.image),
    ])
}

/// The template with these values. What is put in is not looked at again.
fn fill(values: &[(&str, &str)]) -> String {
    let (mut text, mut rest) = (String::new(), TEMPLATE);
    let first = |rest: &str| {
        let places =
            values.iter().filter_map(|(name, value)| Some((rest.find(name)?, *name, *value)));
        places.min()
    };
    while let Some((_, name, value)) = first(rest) {
        let Some((before, after)) = rest.split_once(name) else { break };
        text.push_str(before);
        text.push_str(value);
        rest = after;
    }
    text + rest
}

/// What the domains with these names ask for; none named means all.
fn granted(only: &[String]) -> Vec<Right> {
    let mut rights = COMMON.to_vec();
    for domain in domains() {
        if only.is_empty() || only.iter().any(|name| name == domain.name) {
            rights.extend_from_slice(domain.rights);
        }
    }
    // Two domains may ask for the same.
    let mut once: Vec<Right> = Vec::with_capacity(rights.len());
    for right in rights {
        if !once.contains(&right) {
            once.push(right);
        }
    }
    once
}

fn rules(rights: &[Right]) -> String {
    let line = |right: &Right| {
        let group = if right.group.is_empty() { "\"\"" } else { right.group };
        let (resources, verbs) = (right.resources.join(", "), right.verbs.join(", "));
        format!("- {{apiGroups: [{group}], resources: [{resources}], verbs: [{verbs}]}}")
    };
    rights.iter().map(line).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use evenkeel_yaml::split;
    use serde_json::Value;

    use super::*;

    fn args(only: &[&str]) -> InstallArgs {
        InstallArgs {
            namespace: "ops".to_owned(),
            image: "registry.example.com/evenkeel:1.0".to_owned(),
            prometheus: "http://prometheus.monitoring:9090".to_owned(),
            only: only.iter().map(|&name| name.to_owned()).collect(),
        }
    }

    fn objects(text: &str) -> Vec<Value> {
        let documents = split(text).unwrap();
        documents.iter().map(|document| document.parse().unwrap().json().unwrap()).collect()
    }

    fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
        objects.iter().find(|object| object["kind"] == kind).unwrap()
    }

    #[test]
    fn every_object_is_whole_and_in_the_namespace() {
        let text = manifest(&args(&[]));
        let objects = objects(&text);
        let kinds: BTreeSet<_> =
            objects.iter().map(|object| object["kind"].as_str().unwrap()).collect();
        let wanted = [
            "ClusterRole",
            "ClusterRoleBinding",
            "NetworkPolicy",
            "PodDisruptionBudget",
            "Role",
            "RoleBinding",
            "Service",
            "ServiceAccount",
            "StatefulSet",
        ];
        assert_eq!(kinds, BTreeSet::from(wanted));
        for object in &objects {
            let namespace = &object["metadata"]["namespace"];
            assert!(namespace.is_null() || namespace == "ops", "{object}");
        }
        let container =
            find(&objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0].clone();
        assert_eq!(container["image"], "registry.example.com/evenkeel:1.0");
        assert_eq!(
            container["args"],
            json!([
                "run",
                "--prometheus=http://prometheus.monitoring:9090",
                "--data-dir=/data",
                "--lease-namespace=ops",
                "--listen=[::]:9091",
                "--advertise=$(POD_IP)"
            ])
        );
    }

    #[test]
    fn a_group_gets_its_own_rights_only() {
        let text = manifest(&args(&["slo"]));
        let objects = objects(&text);
        let role = find(&objects, "ClusterRole").to_string();
        assert!(role.contains("prometheusrules") && !role.contains("secrets"), "{role}");
        assert!(text.contains("--only=slo"), "{text}");
    }
}
