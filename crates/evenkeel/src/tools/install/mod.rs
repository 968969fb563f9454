//! `evenkeel install`: the objects that run the controllers on a cluster.

mod chart;
mod parts;
mod place;
mod template;
pub(crate) mod uninstall;

use anyhow::Context as _;
use evenkeel_telemetry::shell::PrometheusClient;
use serde_json::json;

use self::{
    parts::{grants, labels, lease_rules, resources, rule},
    place::Place,
    template::Filling,
};
use crate::{install_flags::InstallArgs, io, manage::ManageArg};

pub(crate) use chart::write as write_chart;

pub(crate) fn run(args: &InstallArgs) -> anyhow::Result<()> {
    // It would be refused at the start of the process otherwise.
    PrometheusClient::new(&args.prometheus).context("--prometheus")?;
    let crds = if args.crds { evenkeel_api::crds_yaml(false) } else { String::new() };
    io::print(&(crds + &manifest(args)?));
    Ok(())
}

fn manifest(args: &InstallArgs) -> anyhow::Result<String> {
    let place = Place::of(&args.place)?;
    let mut grants = grants();
    grants.retain(|grant| {
        grant.is_for(&place) && (place.watched.is_none() || grant.is_of_a_namespace())
    });
    let rules = grants.iter().map(|grant| rule(&grant.right)).collect::<Vec<_>>().join("\n");
    let class = args.storage_class.clone();
    let texts = vec![
        ("namespace", place.namespace.clone()),
        ("name", place.name()),
        ("role", place.cluster_role()),
        ("watched", place.watched.clone().unwrap_or_default()),
        ("only", place.only.join(",")),
        ("manage", word(args.manage)),
        ("labels", labels(&place.name())),
        ("rules", rules.clone()),
        ("rules_within", rules),
        ("lease_rules", lease_rules()),
        ("prometheus", json!(format!("--prometheus={}", args.prometheus)).to_string()),
        ("image", args.image.clone()),
        ("replicas", args.replicas.to_string()),
        ("resources", resources().to_string()),
        ("storage", args.storage.clone()),
        ("storage_class", class.clone().unwrap_or_default()),
        ("record", args.record_secret.clone().unwrap_or_default()),
    ];
    let conditions = vec![
        ("cluster", place.watched.is_none().into()),
        ("watched", place.watched.is_some().into()),
        ("only", (!place.only.is_empty()).into()),
        ("manage", (args.manage != ManageArg::Auto).into()),
        ("service_monitor", args.service_monitor.into()),
        ("storage_class", class.is_some().into()),
        ("shared", args.record_secret.is_some().into()),
        ("files", args.record_secret.is_none().into()),
    ];
    Ok(Filling { texts, conditions }.manifest())
}

/// As the flag spells it.
fn word(manage: ManageArg) -> String {
    let value = clap::ValueEnum::to_possible_value(&manage);
    value.map(|value| value.get_name().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use evenkeel_yaml::split;
    use serde_json::Value;

    use super::*;
    use crate::install_flags::PlaceArgs;

    fn args(only: &[&str]) -> InstallArgs {
        InstallArgs {
            place: PlaceArgs {
                namespace: Some("ops".to_owned()),
                only: only.iter().map(|&name| name.to_owned()).collect(),
                watch_namespace: None,
            },
            image: "registry.example.com/evenkeel:1.0".to_owned(),
            prometheus: "http://prometheus.monitoring:9090".to_owned(),
            manage: ManageArg::Auto,
            replicas: 2,
            storage: "2Gi".to_owned(),
            storage_class: None,
            record_secret: None,
            service_monitor: false,
            crds: false,
        }
    }

    fn objects(args: &InstallArgs) -> Vec<Value> {
        let text = manifest(args).unwrap();
        let documents = split(&text).unwrap();
        documents.iter().map(|document| document.parse().unwrap().json().unwrap()).collect()
    }

    fn kinds(objects: &[Value]) -> BTreeSet<&str> {
        objects.iter().map(|object| object["kind"].as_str().unwrap()).collect()
    }

    fn find<'a>(objects: &'a [Value], kind: &str) -> &'a Value {
        objects.iter().find(|object| object["kind"] == kind).unwrap()
    }

    fn container(objects: &[Value]) -> &Value {
        &find(objects, "StatefulSet")["spec"]["template"]["spec"]["containers"][0]
    }

    /// Kind, namespace and name.
    fn names(objects: &[Value]) -> BTreeSet<String> {
        let name = |object: &Value| {
            let meta = &object["metadata"];
            format!("{} {} {}", object["kind"], meta["namespace"], meta["name"])
        };
        objects.iter().map(name).collect()
    }

    #[test]
    fn every_object_is_whole_and_in_the_namespace() {
        let objects = objects(&args(&[]));
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
        assert_eq!(kinds(&objects), BTreeSet::from(wanted));
        for object in &objects {
            let namespace = &object["metadata"]["namespace"];
            assert!(namespace.is_null() || namespace == "ops", "{object}");
            assert_eq!(object["metadata"]["labels"]["app.kubernetes.io/part-of"], "evenkeel");
        }
        let container = container(&objects);
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
        let claim = &find(&objects, "StatefulSet")["spec"]["volumeClaimTemplates"][0]["spec"];
        assert_eq!(claim["resources"], json!({"requests": {"storage": "2Gi"}}));
        assert!(claim["storageClassName"].is_null(), "{claim}");
    }

    #[test]
    fn which_objects_are_acted_on_is_passed_on() {
        let mut args = args(&[]);
        args.manage = ManageArg::Annotated;
        let objects = objects(&args);
        let words = container(&objects)["args"].as_array().unwrap();
        assert!(words.contains(&json!("--manage=annotated")), "{words:?}");
    }

    #[test]
    fn a_shared_record_needs_no_volume() {
        let mut args = args(&[]);
        args.record_secret = Some("evenkeel-record".to_owned());
        let objects = objects(&args);
        let set = &find(&objects, "StatefulSet")["spec"];
        assert!(set["volumeClaimTemplates"].is_null(), "{set}");
        let container = container(&objects);
        let has = |words: &str| container["args"].as_array().unwrap().contains(&json!(words));
        assert!(has("--audit-key=/record/audit.key"));
        // A flag would show the password in every list of the node's processes.
        assert!(!container["args"].to_string().contains("RECORD"));
        assert_eq!(
            container["env"][1]["valueFrom"]["secretKeyRef"],
            json!({"name": "evenkeel-record", "key": "url"})
        );
        let volumes = &set["template"]["spec"]["volumes"];
        assert_eq!(volumes[1]["secret"]["secretName"], "evenkeel-record");
        assert_eq!(container["volumeMounts"][1]["mountPath"], "/record");
    }

    #[test]
    fn a_group_gets_its_own_rights_and_objects_only() {
        let (slo, delivery) = (objects(&args(&["slo"])), objects(&args(&["delivery"])));
        let role = find(&slo, "ClusterRole").to_string();
        assert!(role.contains("prometheusrules") && !role.contains("secrets"), "{role}");
        let role = find(&delivery, "ClusterRole").to_string();
        assert!(!role.contains("prometheusrules") && role.contains("secrets"), "{role}");
        let arguments = container(&slo)["args"].to_string();
        assert!(arguments.contains("--only=slo"), "{arguments}");
        let all = objects(&args(&[]));
        assert!(names(&slo).is_disjoint(&names(&delivery)));
        assert!(names(&slo).is_disjoint(&names(&all)));
        // Nor does one select the pods of another.
        let selects = |objects: &[Value]| {
            let of = |kind: &str, path: &str| find(objects, kind).pointer(path).unwrap().clone();
            let set = of("StatefulSet", "/spec/selector/matchLabels");
            assert_eq!(set, of("Service", "/spec/selector"));
            assert_eq!(set, of("PodDisruptionBudget", "/spec/selector/matchLabels"));
            assert_eq!(set, of("NetworkPolicy", "/spec/podSelector/matchLabels"));
            set
        };
        assert_eq!(selects(&slo), json!({"app.kubernetes.io/name": "evenkeel-slo"}));
        assert_eq!(selects(&all), json!({"app.kubernetes.io/name": "evenkeel"}));
    }

    #[test]
    fn for_one_namespace_nothing_is_asked_outside_of_it() {
        let mut args = args(&[]);
        args.place.namespace = None;
        args.place.watch_namespace = Some("team".to_owned());
        let inside = objects(&args);
        assert!(inside.iter().all(|object| object["metadata"]["namespace"] == "team"));
        assert!(!kinds(&inside).contains("ClusterRole"));
        let arguments = container(&inside)["args"].to_string();
        assert!(arguments.contains("--watch-namespace=team"), "{arguments}");
        assert!(arguments.contains("--lease-namespace=team"), "{arguments}");
        let role = find(&inside, "Role").to_string();
        assert!(role.contains("leases") && role.contains("canaries"), "{role}");

        args.place.namespace = Some("ops".to_owned());
        let outside = objects(&args);
        assert_eq!(find(&outside, "Role")["metadata"]["namespace"], "team");
        assert_eq!(find(&outside, "StatefulSet")["metadata"]["namespace"], "ops");
        let subject = &find(&outside, "RoleBinding")["subjects"][0];
        assert_eq!(
            (&subject["namespace"], &subject["name"]),
            (&json!("ops"), &json!("evenkeel-ns-team"))
        );
    }

    #[test]
    fn what_not_every_cluster_has_is_there_on_request() {
        let mut args = args(&[]);
        args.service_monitor = true;
        args.storage_class = Some("fast".to_owned());
        args.replicas = 3;
        let objects = objects(&args);
        let monitor = find(&objects, "ServiceMonitor");
        let selected = monitor.pointer("/spec/selector/matchLabels").unwrap();
        assert_eq!(
            selected["app.kubernetes.io/name"],
            find(&objects, "Service")["metadata"]["labels"]["app.kubernetes.io/name"]
        );
        let spec = &find(&objects, "StatefulSet")["spec"];
        assert_eq!(spec["replicas"], 3);
        assert_eq!(spec["volumeClaimTemplates"][0]["spec"]["storageClassName"], "fast");
    }
}
