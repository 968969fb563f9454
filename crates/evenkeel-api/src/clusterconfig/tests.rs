use std::fmt::Write as _;

use insta::assert_snapshot;

use super::*;

/// One line per node, then the warnings.
fn told(text: &str) -> String {
    let config = match ClusterConfig::parse(text) {
        Ok(config) => config,
        Err(error) => return error.to_string(),
    };
    let mut told = format!("{} {}", config.name, config.region);
    for node in &config.nodes {
        let capacity = node.capacity;
        let taints: Vec<String> = node
            .taints
            .iter()
            .map(|t| format!("{}={}:{}", t.key, t.value.as_deref().unwrap_or(""), t.effect))
            .collect();
        write!(
            told,
            "\n{} {} {} {} {}m {}Mi {} pods{}{}{}",
            node.index,
            node.name,
            node.zone,
            node.instance_type,
            capacity.cpu_millis,
            capacity.memory_mib,
            capacity.pods,
            if node.spot { " spot" } else { "" },
            if taints.is_empty() { "" } else { " " },
            taints.join(",")
        )
        .unwrap();
    }
    for warning in &config.warnings {
        write!(told, "\nwarning: {warning}").unwrap();
    }
    told
}

/// A minimal file with these lines below `nodeGroups`.
fn with_group(lines: &str) -> String {
    let lines: String = lines.lines().fold(String::new(), |all, line| format!("{all}    {line}\n"));
    format!(
        "apiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\nmetadata: {{name: c, region: eu-west-1}}\n\
         nodeGroups:\n  - name: g\n{lines}"
    )
}

#[test]
fn the_articles_file_gives_nine_nodes_and_says_what_eksctl_would_refuse() {
    assert_snapshot!(told(include_str!("../../tests/eksctl/article.yaml")), @r"
    production-cluster us-east-1
    0 system-nodes-0 us-east-1a t3.large 2000m 8192Mi 35 pods CriticalAddonsOnly=true:NoSchedule
    1 system-nodes-1 us-east-1b t3.large 2000m 8192Mi 35 pods CriticalAddonsOnly=true:NoSchedule
    2 system-nodes-2 us-east-1c t3.large 2000m 8192Mi 35 pods CriticalAddonsOnly=true:NoSchedule
    3 application-nodes-0 us-east-1a c5.2xlarge 8000m 16384Mi 58 pods spot
    4 application-nodes-1 us-east-1b c5.2xlarge 8000m 16384Mi 58 pods spot
    5 application-nodes-2 us-east-1c c5.2xlarge 8000m 16384Mi 58 pods spot
    6 application-nodes-3 us-east-1a c5.2xlarge 8000m 16384Mi 58 pods spot
    7 application-nodes-4 us-east-1b c5.2xlarge 8000m 16384Mi 58 pods spot
    8 application-nodes-5 us-east-1c c5.2xlarge 8000m 16384Mi 58 pods spot
    warning: nodeGroup application-nodes: field spot: eksctl refuses it in nodeGroups; spot instances are assumed as meant; move the group to managedNodeGroups, or write instancesDistribution: {instanceTypes: [c5.2xlarge, ...], onDemandBaseCapacity: 0, onDemandPercentageAboveBaseCapacity: 0, spotInstancePools: 3}, without instanceType
    warning: nodeGroup application-nodes: field spotInstancePools: eksctl refuses it here; write instancesDistribution: {instanceTypes: [c5.2xlarge, ...], onDemandBaseCapacity: 0, onDemandPercentageAboveBaseCapacity: 0, spotInstancePools: 3}, without instanceType
    ");
}

#[test]
fn eksctls_own_examples_are_read_without_complaint() {
    for (name, text) in [
        ("03", include_str!("../../tests/eksctl/03-two-nodegroups.yaml")),
        ("05", include_str!("../../tests/eksctl/05-advanced-nodegroups.yaml")),
        ("08", include_str!("../../tests/eksctl/08-spot-instances.yaml")),
        ("09", include_str!("../../tests/eksctl/09-nat-gateways.yaml")),
        ("15", include_str!("../../tests/eksctl/15-managed-nodes.yaml")),
        ("23", include_str!("../../tests/eksctl/23-kubeflow-spot-instance.yaml")),
        ("24", include_str!("../../tests/eksctl/24-nodegroup-subnets.yaml")),
        ("26", include_str!("../../tests/eksctl/26-managed-nodegroup-spot-instances.yaml")),
        ("29", include_str!("../../tests/eksctl/29-cluster-with-karpenter.yaml")),
        ("33", include_str!("../../tests/eksctl/33-local-zones.yaml")),
        ("34", include_str!("../../tests/eksctl/34-taints.yaml")),
        ("41", include_str!("../../tests/eksctl/41-zonal-shift.yaml")),
        ("44", include_str!("../../tests/eksctl/44-node-repair.yaml")),
        ("45", include_str!("../../tests/eksctl/45-upgrade-policy-example.yaml")),
    ] {
        let config = ClusterConfig::parse(text).unwrap_or_else(|error| panic!("{name}: {error}"));
        let refusals: Vec<String> = config
            .warnings
            .iter()
            .filter(|warning| warning.problem.contains("eksctl refuses"))
            .map(ToString::to_string)
            .collect();
        assert!(refusals.is_empty(), "{name}: {refusals:?}");
    }
}

#[test]
fn both_kinds_of_groups_and_both_forms_of_taints_are_read() {
    assert_snapshot!(told(include_str!("../../tests/eksctl/34-taints.yaml")), @r"
    taints-1 us-west-1
    0 ng1-public-0 us-west-1a m5.xlarge 4000m 16384Mi 58 pods your.domain.com/db=true:NoSchedule,your.domain.com/production=true:NoExecute
    1 ng1-public-1 us-west-1b m5.xlarge 4000m 16384Mi 58 pods your.domain.com/db=true:NoSchedule,your.domain.com/production=true:NoExecute
    2 ng2-private-0 us-west-1a m5.xlarge 4000m 16384Mi 58 pods your.domain.com/sensitive-information=true:NoSchedule
    3 ng2-private-1 us-west-1b m5.xlarge 4000m 16384Mi 58 pods your.domain.com/sensitive-information=true:NoSchedule
    4 ng3-public-0 us-west-1a m5.xlarge 4000m 16384Mi 58 pods
    5 ng3-public-1 us-west-1b m5.xlarge 4000m 16384Mi 58 pods
    6 mng1-public-0 us-west-1a m5.large 2000m 8192Mi 29 pods your.domain.com/memory-pressure=true:PreferNoSchedule,your.domain.com/needs-auth=true:NoExecute
    7 mng1-public-1 us-west-1b m5.large 2000m 8192Mi 29 pods your.domain.com/memory-pressure=true:PreferNoSchedule,your.domain.com/needs-auth=true:NoExecute
    ");
    let map = with_group("minSize: 1\ntaints: {dedicated: 'db:NoSchedule', special: ':NoExecute'}");
    assert_snapshot!(told(&map), @r"
    c eu-west-1
    0 g-0 eu-west-1a m5.large 2000m 8192Mi 29 pods dedicated=db:NoSchedule,special=:NoExecute
    ");
}

#[test]
fn sizes_default_as_in_eksctl() {
    let count = |lines: &str| ClusterConfig::parse(&with_group(lines)).unwrap().nodes.len();
    assert_eq!(count(""), 2);
    assert_eq!(count("minSize: 3"), 3);
    assert_eq!(count("minSize: 1\ndesiredCapacity: 4\nmaxSize: 5"), 4);
    assert_eq!(count("desiredCapacity: 0"), 0);
}

#[test]
fn what_makes_no_sense_names_object_field_and_fix() {
    let fails = |lines: &str| told(&with_group(lines));
    assert_snapshot!(fails("desiredCapacity: many"), @r#"nodeGroup g: field desiredCapacity: "many" is not a whole number from 0 on; write for example desiredCapacity: 3"#);
    assert_snapshot!(fails("desiredCapacity: 1\nminSize: 3"), @"nodeGroup g: field desiredCapacity: 1 is less than minSize 3; write at least 3");
    assert_snapshot!(fails("desiredCapacity: 9\nmaxSize: 3"), @"nodeGroup g: field desiredCapacity: 9 is more than maxSize 3; write at most 3");
    assert_snapshot!(fails("desiredCapacity: 500"), @"nodeGroup g: field desiredCapacity: the cluster would have 500 nodes, here 128 can be; ask for fewer nodes");
    assert_snapshot!(fails("taints: [{key: a, effect: Never}]"), @r#"nodeGroup g: field taints[0].effect: "Never" is no effect of a taint; write NoSchedule, PreferNoSchedule or NoExecute"#);
    assert_snapshot!(fails("taints: [{key: a, value: true, effect: NoSchedule}]"), @r#"nodeGroup g: field taints[0].value: true is not text; write value: "true""#);
    assert_snapshot!(fails("labels: [a]"), @r#"nodeGroup g: field labels: ["a"] is not a map; write labels: followed by key: value lines"#);
    assert_snapshot!(told("kind: ClusterConfig"), @r#"cluster file: field apiVersion: version "" is not known; write apiVersion: eksctl.io/v1alpha5"#);
    assert_snapshot!(told("kind: [ClusterConfig"), @r"
    the cluster file is not valid YAML: error: line 1 column 7: unclosed bracket '['
     --> <input>:1:7
      |
    1 | kind: [ClusterConfig
      |       ^ unclosed bracket '['
    ");
    let head = "apiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\n";
    assert_snapshot!(told(&format!("{head}metadata: {{name: c}}")), @"cluster c: field metadata.region: is missing; write for example region: us-east-1");
    let unnamed = "metadata: {name: c, region: r}\nnodeGroups: [{minSize: 1}]";
    assert_snapshot!(told(&format!("{head}{unnamed}")), @"nodeGroups[0]: field name: is missing; give every group a name of its own");
    let twice =
        "metadata: {name: c, region: r}\nnodeGroups: [{name: a}]\nmanagedNodeGroups: [{name: a}]";
    assert_snapshot!(told(&format!("{head}{twice}")), @"managedNodeGroup a: field name: another group has this name; give every group a name of its own");
}

#[test]
fn what_eksctl_would_refuse_is_a_warning_with_the_fix() {
    let warns = |lines: &str| {
        let config = ClusterConfig::parse(&with_group(lines)).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(warns("labels: {spare: true}"), @r#"nodeGroup g: field labels.spare: eksctl refuses true as a label's value; write spare: "true""#);
    assert_snapshot!(warns("instancetype: m5.large"), @"nodeGroup g: field instancetype: eksctl refuses this field here; write instanceType");
    assert_snapshot!(warns("instanceType: q9.huge"), @"nodeGroup g: field instanceType: instance type q9.huge is not known here; 2 processors and 8 GiB are assumed: write a type of the m, c, r or t families");
    assert_snapshot!(warns("availabilityZones: [us-east-1a]"), @"nodeGroup g: field availabilityZones: zone us-east-1a is not in region eu-west-1; name zones such as eu-west-1a");
    assert_snapshot!(warns("flavour: mild"), @"nodeGroup g: field flavour: eksctl refuses this field here; remove it");
}

#[test]
fn a_node_object_has_addresses_capacity_and_what_is_left_for_pods() {
    let text = include_str!("../../tests/eksctl/article.yaml");
    let config = ClusterConfig::parse(text).unwrap();
    let node = serde_json::to_string_pretty(&config.nodes[4].to_node()).unwrap();
    assert_snapshot!(node, @r#"
    {
      "apiVersion": "v1",
      "kind": "Node",
      "metadata": {
        "labels": {
          "alpha.eksctl.io/cluster-name": "production-cluster",
          "alpha.eksctl.io/nodegroup-name": "application-nodes",
          "kubernetes.io/arch": "amd64",
          "kubernetes.io/hostname": "application-nodes-1",
          "kubernetes.io/os": "linux",
          "node-lifecycle": "spot",
          "node.kubernetes.io/instance-type": "c5.2xlarge",
          "role": "application",
          "topology.kubernetes.io/region": "us-east-1",
          "topology.kubernetes.io/zone": "us-east-1b"
        },
        "name": "application-nodes-1"
      },
      "spec": {
        "podCIDR": "127.68.0.0/16",
        "podCIDRs": [
          "127.68.0.0/16"
        ],
        "providerID": "evenkeel:///us-east-1b/application-nodes-1"
      },
      "status": {
        "allocatable": {
          "cpu": "7910m",
          "ephemeral-storage": "80Gi",
          "memory": "15391Mi",
          "pods": "58"
        },
        "capacity": {
          "cpu": "8",
          "ephemeral-storage": "80Gi",
          "memory": "16384Mi",
          "pods": "58"
        }
      }
    }
    "#);
}

#[test]
fn common_instance_types_are_known() {
    let known = |name: &str| {
        let found = instances::capacity(name)?;
        Some((found.cpu_millis / 1_000, found.memory_mib / 1_024, found.pods))
    };
    assert_eq!(known("t3.large"), Some((2, 8, 35)));
    assert_eq!(known("t3.medium"), Some((2, 4, 17)));
    assert_eq!(known("c5.2xlarge"), Some((8, 16, 58)));
    assert_eq!(known("m5.large"), Some((2, 8, 29)));
    assert_eq!(known("r6i.4xlarge"), Some((16, 128, 234)));
    assert_eq!(known("m6g.medium"), Some((1, 4, 8)));
    assert_eq!(known("m5.medium"), None);
    assert_eq!(known("p3dn.24xlarge"), Some((96, 768, 737)));
    assert_eq!(known("m5.1000xlarge"), None);
    assert!(instances::is_arm("c7g.large") && !instances::is_arm("g5.xlarge"));
}
