use std::sync::Arc;

use evenkeel_api::{ApiObject, Obj};
use insta::assert_snapshot;
use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Cluster, at, deployment, node, words};

fn seen<T: ApiObject>(body: Value) -> Seen<T> {
    Seen::of(Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

fn pod(name: &str, spec: Value) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "main"}]}, "status": {"phase": "Pending"}});
    let Value::Object(fields) = spec else { panic!("{spec}") };
    for (field, value) in fields {
        body["spec"][field] = value;
    }
    body
}

fn asks(cpu: &str, memory: &str) -> Value {
    json!({"containers": [{"name": "main",
        "resources": {"requests": {"cpu": cpu, "memory": memory}}}]})
}

fn on(node: &str, mut spec: Value) -> Value {
    spec["nodeName"] = node.into();
    spec
}

fn view(nodes: &[Value], pods: &[Value]) -> View {
    View {
        now: at(0),
        nodes: nodes.iter().cloned().map(seen).collect(),
        pods: pods.iter().cloned().map(seen).collect(),
        namespaces: BTreeMap::from([
            ("shop".to_owned(), BTreeMap::new()),
            ("lab".to_owned(), BTreeMap::from([("team".to_owned(), "lab".to_owned())])),
        ]),
        storage: Storage::default(),
    }
}

/// `pod -> node` for each bound pod, `pod: why` for the others.
fn placed(nodes: &[Value], pods: &[Value]) -> String {
    let plan = decide(&view(nodes, pods));
    let mut lines: Vec<String> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Bind { pod, node } => format!("{} -> {node}", pod.name),
            other => other.to_string(),
        })
        .collect();
    for event in plan.events.iter().filter(|event| event.kind == EventType::Warning) {
        lines.push(format!("{}: {}", event.about.name, event.message));
    }
    lines.join("\n")
}

fn three() -> Vec<Value> {
    [("n1", "a"), ("n2", "b"), ("n3", "c")]
        .map(|(name, zone)| node(name, zone, ("4", "8Gi")))
        .into()
}

/// The article's nine nodes: three tainted small ones, six large ones.
fn nine() -> Vec<Value> {
    let text = include_str!("../../../evenkeel-api/tests/eksctl/article.yaml");
    let config = evenkeel_api::clusterconfig::ClusterConfig::parse(text).unwrap();
    let node = |node: &evenkeel_api::clusterconfig::NodeSpec| {
        let mut body = serde_json::to_value(node.to_node()).unwrap();
        body["apiVersion"] = "v1".into();
        body["kind"] = "Node".into();
        body
    };
    config.nodes.iter().map(node).collect()
}

fn anti(topology_key: &str) -> Value {
    json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
        {"labelSelector": web(), "topologyKey": topology_key}]}}})
}

fn web() -> Value {
    json!({"matchLabels": {"app": "web"}})
}

fn spread(when: &str, topology_key: &str) -> Value {
    json!({"topologySpreadConstraints": [{"maxSkew": 1, "topologyKey": topology_key,
        "whenUnsatisfiable": when, "labelSelector": web()}]})
}

const HOST: &str = "kubernetes.io/hostname";
const ZONE: &str = "topology.kubernetes.io/zone";

#[test]
fn what_does_not_fit_says_why_node_by_node() {
    assert_snapshot!(placed(&nine(), &[pod("big", asks("16", "1Gi"))]), @"big: 0/9 nodes are available: 3 node(s) had untolerated taint {CriticalAddonsOnly: true}, 6 Insufficient cpu.");
    assert_snapshot!(placed(&nine(), &[pod("huge", asks("16", "100Gi"))]), @"huge: 0/9 nodes are available: 3 node(s) had untolerated taint {CriticalAddonsOnly: true}, 6 Insufficient cpu, 6 Insufficient memory.");
    assert_snapshot!(placed(&[], &[pod("a", json!({}))]), @"a: no nodes available to schedule pods");
    assert_snapshot!(placed(&three(), &[pod("a", json!({"nodeSelector": {"role": "db"}}))]), @"a: 0/3 nodes are available: 3 node(s) didn't match Pod's node affinity/selector.");
    let mut cordoned = three();
    cordoned[0]["spec"]["unschedulable"] = true.into();
    cordoned[1]["metadata"]["labels"] = json!({});
    let hard = spread("DoNotSchedule", ZONE);
    let mut pods: Vec<Value> = vec![pod("a", hard)];
    pods.push(pod("x", on("n3", json!({}))));
    cordoned[2]["status"]["allocatable"]["pods"] = "1".into();
    assert_snapshot!(placed(&cordoned, &pods), @"a: 0/3 nodes are available: 1 Too many pods, 1 node(s) didn't match pod topology spread constraints (missing required label), 1 node(s) were unschedulable.");
}

#[test]
fn the_whole_answer_is_a_condition_and_an_event_and_said_once() {
    let plan = decide(&view(&nine(), &[pod("big", asks("16", "1Gi"))]));
    assert_snapshot!(words(&plan), @r#"
    Unschedulable
    status Pod/shop/big {"conditions":[{"lastTransitionTime":"2023-11-14T22:13:20Z","message":"0/9 nodes are available: 3 node(s) had untolerated taint {CriticalAddonsOnly: true}, 6 Insufficient cpu.","reason":"Unschedulable","status":"False","type":"PodScheduled"}]}
    event Pod/shop/big FailedScheduling: 0/9 nodes are available: 3 node(s) had untolerated taint {CriticalAddonsOnly: true}, 6 Insufficient cpu.
    "#);
    let mut marked = pod("big", asks("16", "1Gi"));
    marked["status"] = plan.status[0].status.clone();
    assert_snapshot!(words(&decide(&view(&nine(), &[marked]))), @"Unschedulable");
}

#[test]
fn pods_spread_over_nodes_by_what_they_ask() {
    let pods: Vec<Value> =
        (0..4).map(|number| pod(&format!("p{number}"), asks("1", "1Gi"))).collect();
    assert_snapshot!(placed(&three(), &pods), @r"
    p0 -> n1
    p1 -> n2
    p2 -> n3
    p3 -> n1
    ");
}

#[test]
fn terminating_pods_still_occupy_and_ended_ones_do_not() {
    let nodes = [node("n1", "a", ("1", "1Gi"))];
    let mut leaving = pod("leaving", on("n1", asks("1", "1Mi")));
    leaving["metadata"]["deletionTimestamp"] = at(0).to_string().into();
    assert_snapshot!(placed(&nodes, &[leaving, pod("a", asks("1", "1Mi"))]), @"a: 0/1 nodes are available: 1 Insufficient cpu.");
    let mut cluster = Cluster::new(1);
    cluster.world.apply(nodes[0].clone());
    let mut done = pod("done", on("n1", asks("1", "1Mi")));
    done["status"]["phase"] = "Succeeded".into();
    cluster.world.apply(done);
    cluster.world.apply(pod("a", asks("1", "1Mi")));
    cluster.settle();
    let placed = cluster.world.find(&Key::of::<Pod>("shop", "a")).unwrap();
    assert_eq!(placed.json().pointer("/spec/nodeName"), Some(&json!("n1")));
}

#[test]
fn taints_repel_unless_tolerated() {
    let mut nodes = three();
    let taint = |key: &str, value: &str, effect: &str| json!([{"key": key, "value": value, "effect": effect}]);
    nodes[0]["spec"]["taints"] = taint("dedicated", "db", "NoSchedule");
    nodes[1]["spec"]["taints"] = taint("flaky", "", "NoExecute");
    nodes[2]["spec"]["taints"] = taint("slow", "", "PreferNoSchedule");
    assert_snapshot!(placed(&nodes, &[pod("plain", json!({}))]), @"plain -> n3");
    let tolerates = |toleration: Value| pod("a", json!({"tolerations": [toleration]}));
    let by_value = tolerates(json!({"key": "dedicated", "value": "db", "effect": "NoSchedule"}));
    assert_snapshot!(placed(&nodes, &[by_value]), @"a -> n1");
    let by_key = tolerates(json!({"key": "flaky", "operator": "Exists"}));
    assert_snapshot!(placed(&nodes, &[by_key]), @"a -> n2");
    let wrong = tolerates(json!({"key": "dedicated", "value": "web"}));
    assert_snapshot!(placed(&nodes[..1], &[wrong]), @"a: 0/1 nodes are available: 1 node(s) had untolerated taint {dedicated: db}.");
    let all = tolerates(json!({"operator": "Exists"}));
    assert_snapshot!(placed(&nodes[..1], &[all]), @"a -> n1");
}

#[test]
fn nodes_that_are_not_ready_repel_as_their_taint_would() {
    let mut nodes = three();
    nodes[0]["status"]["conditions"] = json!([{"type": "Ready", "status": "False"}]);
    nodes[1]["status"]["conditions"] = json!([{"type": "Ready", "status": "Unknown"}]);
    assert_snapshot!(placed(&nodes[..2], &[pod("a", json!({}))]), @"a: 0/2 nodes are available: 1 node(s) had untolerated taint {node.kubernetes.io/not-ready: }, 1 node(s) had untolerated taint {node.kubernetes.io/unreachable: }.");
}

#[test]
fn node_affinity_terms_are_alternatives_and_their_expressions_all_hold() {
    let mut nodes = three();
    nodes[0]["metadata"]["labels"]["gpu"] = "4".into();
    nodes[1]["metadata"]["labels"]["gpu"] = "1".into();
    let needs = |terms: Value| {
        pod(
            "a",
            json!({"affinity": {"nodeAffinity": {
            "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}}),
        )
    };
    let expression = |key: &str, operator: &str, values: Value| json!({"key": key, "operator": operator, "values": values});
    let more = needs(json!([{"matchExpressions": [expression("gpu", "Gt", json!(["2"]))]}]));
    assert_snapshot!(placed(&nodes, &[more]), @"a -> n1");
    let both = needs(json!([{"matchExpressions": [expression("gpu", "Exists", json!([])),
        expression(ZONE, "In", json!(["b", "c"]))]}]));
    assert_snapshot!(placed(&nodes, &[both]), @"a -> n2");
    let either = needs(json!([{"matchExpressions": [expression("none", "Exists", json!([]))]},
        {"matchFields": [expression("metadata.name", "In", json!(["n3"]))]}]));
    assert_snapshot!(placed(&nodes, &[either]), @"a -> n3");
    let prefers = pod(
        "a",
        json!({"affinity": {"nodeAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "preference":
            {"matchExpressions": [expression(ZONE, "In", json!(["c"]))]}}]}}}),
    );
    assert_snapshot!(placed(&nodes, &[prefers]), @"a -> n3");
}

#[test]
fn anti_affinity_keeps_pods_apart_and_is_symmetric() {
    let apart = anti(HOST);
    let pods: Vec<Value> = (0..4).map(|n| pod(&format!("p{n}"), apart.clone())).collect();
    assert_snapshot!(placed(&three(), &pods), @r"
    p0 -> n1
    p1 -> n2
    p2 -> n3
    p3: 0/3 nodes are available: 3 node(s) didn't match pod anti-affinity rules.
    ");
    // The new pod has no constraints, but a pod that is there excludes it.
    let nodes = &three()[..1];
    let hermit = pod("hermit", on("n1", anti(HOST)));
    assert_snapshot!(placed(nodes, &[hermit, pod("guest", json!({}))]), @"guest: 0/1 nodes are available: 1 node(s) didn't satisfy existing pods anti-affinity rules.");
    let mut elsewhere = pod("hermit", on("n1", anti(HOST)));
    elsewhere["metadata"]["namespace"] = "lab".into();
    assert_snapshot!(placed(nodes, &[elsewhere, pod("guest", json!({}))]), @"guest -> n1");
}

#[test]
fn affinity_seeks_company_and_the_first_of_a_group_may_go_anywhere() {
    let together = |key: &str, app: &str| {
        json!({"affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [
            {"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key}]}}})
    };
    let db = |spec: Value| {
        let mut db = pod("db", spec);
        db["metadata"]["labels"] = json!({"app": "db"});
        db
    };
    let near = pod("a", together(ZONE, "db"));
    assert_snapshot!(placed(&three(), &[db(on("n2", json!({}))), near.clone()]), @"a -> n2");
    assert_snapshot!(placed(&three(), &[near]), @"a: 0/3 nodes are available: 3 node(s) didn't match pod affinity rules.");
    let first = pod("a", together(ZONE, "web"));
    let second = pod("b", together(ZONE, "web"));
    assert_snapshot!(placed(&three(), &[first, second]), @r"
    a -> n1
    b -> n1
    ");
}

#[test]
fn a_namespace_selector_reaches_other_namespaces() {
    let mut apart = anti(HOST);
    let term = "/affinity/podAntiAffinity/requiredDuringSchedulingIgnoredDuringExecution/0";
    apart.pointer_mut(term).unwrap()["namespaceSelector"] = json!({"matchLabels": {"team": "lab"}});
    let mut other = pod("other", on("n1", json!({})));
    other["metadata"]["namespace"] = "lab".into();
    assert_snapshot!(placed(&three()[..1], &[other, pod("a", apart)]), @"a: 0/1 nodes are available: 1 node(s) didn't match pod anti-affinity rules.");
}

#[test]
fn hard_spread_never_exceeds_its_skew_and_soft_spread_only_prefers() {
    let nodes = || {
        vec![
            node("a1", "a", ("4", "8Gi")),
            node("a2", "a", ("4", "8Gi")),
            node("b1", "b", ("4", "8Gi")),
        ]
    };
    let there = |name: &str, node: &str| pod(name, on(node, json!({})));
    let crowd = [there("x", "b1"), there("y", "b1")];
    let with = |spec: Value| [&crowd[..], &[pod("p", spec)]].concat();
    assert_snapshot!(placed(&nodes(), &with(spread("DoNotSchedule", ZONE))), @"p -> a1");
    // Only zone b can take it by its node selector, which then is the only domain there is.
    let mut stuck = spread("DoNotSchedule", ZONE);
    stuck["nodeSelector"] = json!({ZONE: "b"});
    assert_snapshot!(placed(&nodes(), &with(stuck.clone())), @"p -> b1");
    stuck["topologySpreadConstraints"][0]["nodeAffinityPolicy"] = "Ignore".into();
    assert_snapshot!(placed(&nodes(), &with(stuck.clone())), @"p: 0/3 nodes are available: 1 node(s) didn't match pod topology spread constraints, 2 node(s) didn't match Pod's node affinity/selector.");
    stuck["topologySpreadConstraints"][0]["whenUnsatisfiable"] = "ScheduleAnyway".into();
    assert_snapshot!(placed(&nodes(), &with(stuck)), @"p -> b1");
    let mut few = spread("DoNotSchedule", ZONE);
    few["topologySpreadConstraints"][0]["minDomains"] = 3.into();
    let balanced = [there("x", "b1"), there("y", "a1"), pod("p", few)];
    assert_snapshot!(placed(&nodes(), &balanced), @"p: 0/3 nodes are available: 3 node(s) didn't match pod topology spread constraints.");
}

#[test]
fn spread_counts_only_pods_of_the_same_template_if_configured() {
    let mut spec = spread("DoNotSchedule", HOST);
    spec["topologySpreadConstraints"][0]["matchLabelKeys"] = json!(["pod-template-hash"]);
    let labelled = |name: &str, hash: &str, spec: Value| {
        let mut pod = pod(name, spec);
        pod["metadata"]["labels"]["pod-template-hash"] = hash.into();
        pod
    };
    let nodes = three();
    let old = [
        labelled("o1", "old", on("n1", asks("1", "1Gi"))),
        labelled("o2", "old", on("n1", asks("1", "1Gi"))),
        labelled("n", "new", on("n2", json!({}))),
        labelled("q", "new", on("n3", json!({}))),
        labelled("p", "new", spec),
    ];
    assert_snapshot!(placed(&nodes, &old), @"p -> n1");
}

#[test]
fn replicas_of_one_owner_spread_over_zones_by_default() {
    let mut cluster = Cluster::new(3);
    for node in nine() {
        cluster.world.apply(node);
    }
    cluster.world.apply(deployment("web", "web:1", &json!({"replicas": 3})));
    cluster.bring_up();
    let zone = |pod: &Arc<Obj>| {
        let name = pod.json().pointer("/spec/nodeName")?.as_str()?.to_owned();
        cluster.world.find(&Key::of::<Node>("", &name))?.label(ZONE).map(str::to_owned)
    };
    let mut zones: Vec<String> = cluster.world.all("Pod").iter().filter_map(zone).collect();
    zones.sort();
    assert_eq!(zones, ["us-east-1a", "us-east-1b", "us-east-1c"]);
}

#[test]
fn higher_priority_and_then_age_decide_who_is_placed_first() {
    let nodes = [node("n1", "a", ("1", "1Gi"))];
    let made = |name: &str, second: i64, priority: i32| {
        let mut spec = asks("1", "1Mi");
        spec["priority"] = priority.into();
        let mut pod = pod(name, spec);
        pod["metadata"]["creationTimestamp"] = at(second).to_string().into();
        pod
    };
    let pods = [made("young", 5, 0), made("old", 1, 0)];
    assert_snapshot!(placed(&nodes, &pods), @r"
    old -> n1
    young: 0/1 nodes are available: 1 Insufficient cpu.
    ");
    let pods = [made("young", 5, 10), made("old", 1, 0)];
    assert_snapshot!(placed(&nodes, &pods), @r"
    young -> n1
    old: 0/1 nodes are available: 1 Insufficient cpu.
    ");
}

#[test]
fn host_ports_clash_on_one_node() {
    let spec = json!({"containers": [{"name": "main",
        "ports": [{"containerPort": 80, "hostPort": 80}]}]});
    let pods = [pod("a", spec.clone()), pod("b", spec)];
    assert_snapshot!(placed(&three()[..1], &pods), @r"
    a -> n1
    b: 0/1 nodes are available: 1 node(s) didn't have free ports for the requested pod ports.
    ");
}

#[test]
fn pods_of_other_schedulers_and_gated_pods_are_left_alone() {
    let other = pod("other", json!({"schedulerName": "mine"}));
    let gated = pod("gated", json!({"schedulingGates": [{"name": "wait"}]}));
    assert_snapshot!(placed(&three(), &[other, gated]), @"");
}

#[test]
fn what_did_not_fit_is_tried_again_when_something_changes() {
    let mut cluster = Cluster::new(1);
    cluster.world.apply(node("n1", "a", ("1", "1Gi")));
    cluster.world.apply(pod("first", asks("1", "1Mi")));
    cluster.settle();
    cluster.world.apply(pod("second", asks("1", "1Mi")));
    cluster.settle();
    let second = Key::of::<Pod>("shop", "second");
    let placed = |cluster: &Cluster| {
        let pod = cluster.world.find(&second).unwrap();
        pod.json().pointer("/spec/nodeName").and_then(Value::as_str).map(str::to_owned)
    };
    assert_eq!(placed(&cluster), None);
    let first = cluster.world.find(&Key::of::<Pod>("shop", "first")).unwrap();
    cluster.world.delete(first.key(), &evenkeel_control::DeleteOptions::default());
    let first = cluster.world.find(first.key()).unwrap();
    cluster.world.run_pod(&first, true);
    cluster.settle();
    assert_eq!(placed(&cluster), Some("n1".to_owned()));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_node_is_given_more_than_it_has_and_no_pods_that_shun_each_other(
        cores in prop::collection::vec(1..8_u32, 1..6),
        pods in prop::collection::vec((1..30_u32, any::<bool>()), 1..25),
    ) {
        let nodes: Vec<Value> = cores.iter().enumerate().map(|(number, cores)| {
            node(&format!("n{number}"), "a", (&cores.to_string(), "8Gi"))
        }).collect();
        let pending: Vec<Value> = pods.iter().enumerate().map(|(number, (tenths, exclusive))| {
            let mut spec = asks(&format!("{}m", tenths * 100), "1Mi");
            if *exclusive {
                spec["affinity"] = anti(HOST)["affinity"].clone();
            }
            pod(&format!("p{number:02}"), spec)
        }).collect();
        let plan = decide(&view(&nodes, &pending));
        let mut used: BTreeMap<String, (u32, usize, bool)> = BTreeMap::new();
        for action in &plan.actions {
            let Action::Bind { pod, node } = action else { panic!("{action}") };
            let number: usize = pod.name.trim_start_matches('p').parse().unwrap();
            let entry = used.entry(node.clone()).or_default();
            entry.0 += pods[number].0;
            entry.1 += 1;
            entry.2 |= pods[number].1;
        }
        for (name, (tenths, count, exclusive)) in used {
            let number: usize = name.trim_start_matches('n').parse().unwrap();
            prop_assert!(tenths <= cores[number] * 10);
            prop_assert!(!exclusive || count == 1, "{} pods beside an exclusive one", count);
        }
        // The same view gives the same plan.
        prop_assert_eq!(plan, decide(&view(&nodes, &pending)));
    }
}
