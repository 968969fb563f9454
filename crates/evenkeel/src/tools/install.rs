//! `evenkeel install`: the objects that run the controllers on a cluster.

use anyhow::Context as _;
use evenkeel_assembly::{COMMON, LEASES, Right, domains};
use evenkeel_telemetry::shell::PrometheusClient;
use serde_json::json;

use crate::{cli::InstallArgs, io};

/// Where the controllers and their Leases are, unless another namespace is named.
pub(crate) const NAMESPACE: &str = "evenkeel";
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

/// The name of a namespace, as Kubernetes allows it.
pub(crate) fn namespace(text: &str) -> Result<String, String> {
    let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    let is_edge = |byte: Option<&u8>| byte.is_some_and(|byte| is_inner(*byte) && *byte != b'-');
    let bytes = text.as_bytes();
    let fits = bytes.len() <= 63
        && bytes.iter().all(|byte| is_inner(*byte))
        && is_edge(bytes.first())
        && is_edge(bytes.last());
    if fits {
        return Ok(text.to_owned());
    }
    Err("must be lower case letters, digits and '-', at most 63, with a letter or digit at both \
         ends"
        .to_owned())
}

/// A reference to an image: what may stand in one, so that it cannot end the text it stands in.
pub(crate) fn image(text: &str) -> Result<String, String> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"._-/:@".contains(&byte);
    if !text.is_empty() && text.bytes().all(fits) {
        return Ok(text.to_owned());
    }
    Err("must be an image, such as registry.example.com/evenkeel:1.0".to_owned())
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

    #[test]
    fn no_flag_can_end_the_text_it_stands_in() {
        for bad in ["", "Ops", "a\"", "-a", "a-", "a b", "a\n", &"a".repeat(64)] {
            assert!(namespace(bad).is_err(), "{bad}");
        }
        for bad in ["", "a b", "a\"", "a\n---"] {
            assert!(image(bad).is_err(), "{bad}");
        }
        assert_eq!(namespace("evenkeel-2"), Ok("evenkeel-2".to_owned()));
        assert!(image("localhost:5000/a/b@sha256:0123").is_ok());
    }
}
