use std::fmt::Write as _;

use insta::assert_snapshot;

use super::*;

/// One line per node, then the warnings.
fn shown(text: &str) -> String {
    let config = match ClusterConfig::parse(text) {
        Ok(config) => config,
        Err(error) => return error.to_string(),
    };
    let mut out = format!("{} {}", config.name, config.region);
    for node in &config.nodes {
        let capacity = node.capacity;
        let taints: Vec<String> = node
            .taints
            .iter()
            .map(|t| format!("{}={}:{}", t.key, t.value.as_deref().unwrap_or(""), t.effect))
            .collect();
        write!(
            out,
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
        write!(out, "\nwarning: {warning}").unwrap();
    }
    out
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
    assert_snapshot!(shown(include_str!("../../tests/eksctl/article.yaml")), @r#"
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
    warning: line 7: cluster production-cluster: field metadata.version: the embedded cluster is Kubernetes 1.33, and its nodes report v1.33.0, not 1.28; write "1.33", or leave it out
    warning: line 33: nodeGroup application-nodes: field spot: eksctl refuses it in nodeGroups; spot instances are assumed as meant; move the group to managedNodeGroups, or write instancesDistribution: {instanceTypes: [c5.2xlarge, ...], onDemandBaseCapacity: 0, onDemandPercentageAboveBaseCapacity: 0, spotInstancePools: 3}, without instanceType
    warning: line 34: nodeGroup application-nodes: field spotInstancePools: eksctl refuses it here; write instancesDistribution: {instanceTypes: [c5.2xlarge, ...], onDemandBaseCapacity: 0, onDemandPercentageAboveBaseCapacity: 0, spotInstancePools: 3}, without instanceType
    "#);
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
    assert_snapshot!(shown(include_str!("../../tests/eksctl/34-taints.yaml")), @r"
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
    assert_snapshot!(shown(&map), @r"
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
    let fails = |lines: &str| shown(&with_group(lines));
    assert_snapshot!(fails("desiredCapacity: many"), @r#"line 6: nodeGroup g: field desiredCapacity: must be a whole number, 0 or more, not the text "many"; write for example desiredCapacity: 3"#);
    assert_snapshot!(fails("desiredCapacity: y"), @"line 6: nodeGroup g: field desiredCapacity: must be a whole number, 0 or more, not y, which YAML reads as the boolean true; write for example desiredCapacity: 3");
    assert_snapshot!(fails("instanceType: 010"), @r#"line 6: nodeGroup g: field instanceType: must be text, not the number 010; write instanceType: "010""#);
    assert_snapshot!(fails("availabilityZones: a"), @r#"line 6: nodeGroup g: field availabilityZones: must be a list, not the text "a"; write availabilityZones: ["one", "two"]"#);
    assert_snapshot!(fails("instanceSelector: small"), @r#"line 6: nodeGroup g: field instanceSelector: must be a mapping, not the text "small"; write vCPUs and memory below it"#);
    assert_snapshot!(shown("kind: ClusterConfig\napiVersion: eksctl.io/v1alpha5\nmetadata:\n  name: n"), @r#"line 4: cluster file: field metadata.name: must be text, not n, which YAML reads as the boolean false; write name: "n""#);
    assert_snapshot!(shown("kind: ClusterConfig\nkind: ClusterConfig"), @"the cluster file is not valid YAML: line 2: field kind: is given twice, first in line 1");
    assert_snapshot!(fails("desiredCapacity: 1\nminSize: 3"), @"line 6: nodeGroup g: field desiredCapacity: 1 is less than minSize 3; write at least 3");
    assert_snapshot!(fails("desiredCapacity: 9\nmaxSize: 3"), @"line 6: nodeGroup g: field desiredCapacity: 9 is more than maxSize 3; write at most 3");
    assert_snapshot!(fails("desiredCapacity: 500"), @"line 6: nodeGroup g: field desiredCapacity: the cluster would have 500 nodes, here 128 can be; ask for fewer nodes");
    assert_snapshot!(fails("taints: [{key: a, effect: Never}]"), @r#"line 6: nodeGroup g: field taints[0].effect: "Never" is not an effect that a taint can have; write NoSchedule, PreferNoSchedule or NoExecute"#);
    assert_snapshot!(fails("taints: [{key: a, value: true, effect: NoSchedule}]"), @r#"line 6: nodeGroup g: field taints[0].value: must be text, not the boolean true; write value: "true""#);
    assert_snapshot!(fails("labels: [a]"), @"line 6: nodeGroup g: field labels: must be a mapping, not a list; write labels: followed by key: value lines");
    assert_snapshot!(shown("kind: ClusterConfig"), @r#"line 1: cluster file: field apiVersion: version "" is not known; write apiVersion: eksctl.io/v1alpha5"#);
    assert_snapshot!(shown("kind: [ClusterConfig"), @"the cluster file is not valid YAML: line 1: field kind[0]: unclosed bracket '['");
    let head = "apiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\n";
    assert_snapshot!(shown(&format!("{head}metadata: {{name: c}}")), @"line 3: cluster c: field metadata.region: is missing; write for example region: us-east-1");
    let unnamed = "metadata: {name: c, region: r}\nnodeGroups: [{minSize: 1}]";
    assert_snapshot!(shown(&format!("{head}{unnamed}")), @"line 4: nodeGroups[0]: field name: is missing; give every group a name of its own");
    let twice =
        "metadata: {name: c, region: r}\nnodeGroups: [{name: a}]\nmanagedNodeGroups: [{name: a}]";
    assert_snapshot!(shown(&format!("{head}{twice}")), @"line 5: managedNodeGroup a: field name: another group has this name; give every group a name of its own");
}

#[test]
fn what_eksctl_would_refuse_is_a_warning_with_the_fix() {
    let warns = |lines: &str| {
        let config = ClusterConfig::parse(&with_group(lines)).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(warns("labels: {spare: true}"), @r#"line 6: nodeGroup g: field labels.spare: eksctl refuses a label whose value is the boolean true; write spare: "true""#);
    assert_snapshot!(warns("instancetype: m5.large"), @"line 6: nodeGroup g: field instancetype: eksctl refuses this field here; write instanceType");
    assert_snapshot!(warns("instanceType: q9.huge"), @"line 6: nodeGroup g: field instanceType: instance type q9.huge is not known here; 2 processors and 8 GiB are assumed: write a type of the m, c, r or t families");
    assert_snapshot!(warns("availabilityZones: [us-east-1a]"), @"line 6: nodeGroup g: field availabilityZones: zone us-east-1a is not in region eu-west-1; name zones such as eu-west-1a");
    assert_snapshot!(warns("instanceSelector: {vCPUs: 4, memory: 16GiB}"), @"line 6: nodeGroup g: field instanceSelector: EC2 cannot be asked for a type here: machines of 4 processors and 16 GiB are made, which call themselves m5.large; write instanceType to say which machine you mean");
    assert_snapshot!(warns("instanceSelector: {cpuArchitecture: arm64}"), @"line 6: nodeGroup g: field instanceSelector: EC2 cannot be asked for a type here: machines of 2 processors and 8 GiB are made, which call themselves m5.large; write instanceType to say which machine you mean");
    assert_snapshot!(warns("labels: {spare: y, zero: 010, none: }"), @r#"
    line 6: nodeGroup g: field labels.spare: eksctl refuses a label whose value is y, which YAML reads as the boolean true; write spare: "y"
    line 6: nodeGroup g: field labels.zero: eksctl refuses a label whose value is the number 010; write zero: "010"
    "#);
    assert_snapshot!(warns("flavour: mild"), @"line 6: nodeGroup g: field flavour: eksctl refuses this field here; remove it");
}

#[test]
fn what_has_no_effect_here_is_a_warning_by_name() {
    let warns = |lines: &str| {
        let head = "apiVersion: eksctl.io/v1alpha5\nkind: ClusterConfig\n";
        let group = "nodeGroups: [{name: g, desiredCapacity: 1}]";
        let text = format!("{head}metadata: {{name: c, region: eu-west-1}}\n{lines}\n{group}\n");
        let config = ClusterConfig::parse(&text).unwrap();
        config.warnings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(warns("fargateProfiles: [{name: fp-dev, selectors: [{namespace: dev}]}]"), @"line 4: cluster c: field fargateProfiles: Fargate is not supported: pods of fp-dev run on the nodes of the groups; give a node group that has room for them");
    assert_snapshot!(warns("karpenter: {version: 1.0.0}"), @"line 4: cluster c: field karpenter: no nodes are made as pods need them: only those of the groups are there; give a node group with the desiredCapacity that you need");
    assert_snapshot!(warns("autoModeConfig: {enabled: true}"), @"line 4: cluster c: field autoModeConfig: no nodes are made as pods need them: only those of the groups are there; give a node group with the desiredCapacity that you need");
    assert_snapshot!(warns("autoModeConfig: {enabled: false}\nfargateProfiles: []"), @"");
    let version = |version: &str| {
        let text = with_group("")
            .replace("region: eu-west-1", &format!("region: eu-west-1, version: {version}"));
        let config = ClusterConfig::parse(&text).unwrap();
        let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
        format!("{:?}: {}", config.version, warnings.join("\n"))
    };
    assert_snapshot!(version("\"1.33\""), @r#"Some("1.33"):"#);
    assert_snapshot!(version("\"1.28\""), @r#"Some("1.28"): line 3: cluster c: field metadata.version: the embedded cluster is Kubernetes 1.33, and its nodes report v1.33.0, not 1.28; write "1.33", or leave it out"#);
    assert_snapshot!(version("1.30"), @r#"
    Some("1.30"): line 3: cluster c: field metadata.version: eksctl refuses 1.30 without quotes (1.30 would be 1.3); write it in quotes
    line 3: cluster c: field metadata.version: the embedded cluster is Kubernetes 1.33, and its nodes report v1.33.0, not 1.30; write "1.33", or leave it out
    "#);
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
