use std::sync::Arc;

use evenkeel_api::{ApiObject, Obj};
use evenkeel_control::Action;
use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::testing::{Cluster, at, node};

fn seen<T: ApiObject>(body: Value) -> Seen<T> {
    Seen::of(Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

fn service(spec: Value) -> Value {
    let mut body = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "web", "namespace": "shop", "uid": "svc", "labels": {"tier": "front"}},
        "spec": {"selector": {"app": "web"}, "ports": [
            {"name": "http", "port": 80, "targetPort": "http", "protocol": "TCP"}]}});
    let Value::Object(fields) = spec else { panic!("{spec}") };
    for (name, value) in fields {
        body["spec"][name] = value;
    }
    body
}

/// `name ready|unready|leaving port`, on node n1.
fn pod(row: &str) -> Seen<Pod> {
    let words: Vec<&str> = row.split_whitespace().collect();
    let number: u32 = words[0].bytes().map(u32::from).sum();
    let port: i32 = words.get(2).map_or(8080, |port| port.parse().unwrap());
    let ready = if words[1] == "unready" { "False" } else { "True" };
    let mut body = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": words[0], "namespace": "shop", "uid": words[0], "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "main",
            "ports": [{"name": "http", "containerPort": port}]}]},
        "status": {"phase": "Running", "podIP": format!("127.64.{}.{}", number / 250, number % 250),
            "conditions": [{"type": "Ready", "status": ready}]}});
    if words[1] == "leaving" {
        body["metadata"]["deletionTimestamp"] = at(0).to_string().into();
    }
    seen(body)
}

fn view(spec: Value, pods: &[&str], slices: Vec<Value>) -> View {
    View {
        service: seen(service(spec)),
        pods: pods.iter().map(|row| pod(row)).collect(),
        zones: BTreeMap::from([("n1".to_owned(), "us-east-1a".to_owned())]),
        slices: slices.into_iter().map(seen).collect(),
    }
}

/// What the plan makes of its slices: `create 8080: a(ready) b(serving terminating)`.
fn show(plan: &Plan) -> String {
    let mut lines = vec![plan.reason.to_owned()];
    for action in &plan.actions {
        let body = match action {
            Action::Create(slice) => slice.json(),
            Action::Patch { patch, .. } => patch,
            _ => &Value::Null,
        };
        let ports = body["ports"].as_array().cloned().unwrap_or_default();
        let ports: Vec<String> = ports.iter().map(|port| port["port"].to_string()).collect();
        let endpoint = |endpoint: &Value| {
            let flags = ["ready", "serving", "terminating"];
            let flags = flags.into_iter().filter(|flag| endpoint["conditions"][flag] == true);
            let name = endpoint["targetRef"]["name"].as_str().unwrap_or_default();
            format!("{name}({})", flags.collect::<Vec<_>>().join(" "))
        };
        let all = body["endpoints"].as_array().cloned().unwrap_or_default();
        let all: Vec<String> = all.iter().map(endpoint).collect();
        let line = format!("{} {}: {}", action.verb(), ports.join(","), all.join(" "));
        lines.push(line.trim_end().to_owned());
    }
    lines.join("\n")
}

/// The slice that a plan creates, as stored under this name.
fn created(plan: &Plan, name: &str) -> Value {
    let mut slices = plan.actions.iter().filter_map(|action| match action {
        Action::Create(slice) => Some(slice.json().clone()),
        _ => None,
    });
    let mut slice = slices.next_back().unwrap();
    slice["metadata"]["name"] = name.into();
    slice["metadata"]["uid"] = name.into();
    slice
}

#[test]
fn a_slice_names_addresses_ports_zone_and_pods() {
    let plan = decide(&view(json!({}), &["a ready"], vec![]));
    let slice = created(&plan, "web-x");
    assert_snapshot!(serde_json::to_string_pretty(&slice).unwrap(), @r#"
    {
      "addressType": "IPv4",
      "endpoints": [
        {
          "addresses": [
            "127.64.0.97"
          ],
          "conditions": {
            "ready": true,
            "serving": true,
            "terminating": false
          },
          "nodeName": "n1",
          "targetRef": {
            "kind": "Pod",
            "name": "a",
            "namespace": "shop",
            "uid": "a"
          },
          "zone": "us-east-1a"
        }
      ],
      "ports": [
        {
          "name": "http",
          "port": 8080,
          "protocol": "TCP"
        }
      ],
      "metadata": {
        "labels": {
          "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
          "kubernetes.io/service-name": "web",
          "tier": "front"
        },
        "name": "web-x",
        "generateName": "web-",
        "namespace": "shop",
        "ownerReferences": [
          {
            "apiVersion": "v1",
            "blockOwnerDeletion": true,
            "controller": true,
            "kind": "Service",
            "name": "web",
            "uid": "svc"
          }
        ],
        "uid": "web-x"
      },
      "apiVersion": "discovery.k8s.io/v1",
      "kind": "EndpointSlice"
    }
    "#);
}

#[test]
fn ready_serving_and_terminating_are_distinguished() {
    let rows = ["a ready", "b unready", "c leaving"];
    assert_snapshot!(show(&decide(&view(json!({}), &rows, vec![]))), @r"
    EndpointsChanged
    create 8080: a(ready serving) b() c(serving terminating)
    ");
    let published = json!({"publishNotReadyAddresses": true});
    assert_snapshot!(show(&decide(&view(published, &rows, vec![]))), @r"
    EndpointsChanged
    create 8080: a(ready serving) b(ready) c(ready serving terminating)
    ");
}

#[test]
fn pods_that_serve_a_named_port_elsewhere_get_their_own_slice() {
    let rows = ["a ready 8080", "b ready 9090", "c ready 8080"];
    assert_snapshot!(show(&decide(&view(json!({}), &rows, vec![]))), @r"
    EndpointsChanged
    create 8080: a(ready serving) c(ready serving)
    create 9090: b(ready serving)
    ");
}

#[test]
fn nothing_changes_when_nothing_changed_and_one_pod_is_one_patch() {
    let first = decide(&view(json!({}), &["a ready", "b ready"], vec![]));
    let slice = created(&first, "web-x");
    let same = decide(&view(json!({}), &["a ready", "b ready"], vec![slice.clone()]));
    assert_snapshot!(show(&same), @"Settled");
    let gone = decide(&view(json!({}), &["b unready", "c ready"], vec![slice]));
    assert_snapshot!(show(&gone), @r"
    EndpointsChanged
    patch : b() c(ready serving)
    ");
}

#[test]
fn a_service_without_pods_keeps_one_empty_slice() {
    let first = decide(&view(json!({}), &[], vec![]));
    assert_snapshot!(show(&first), @r"
    EndpointsChanged
    create :
    ");
    let slice = created(&first, "web-x");
    assert_snapshot!(show(&decide(&view(json!({}), &[], vec![slice.clone()]))), @"Settled");
    assert_snapshot!(show(&decide(&view(json!({}), &["a ready"], vec![slice.clone()]))), @r"
    EndpointsChanged
    patch 8080: a(ready serving)
    ");
    let filled = created(&decide(&view(json!({}), &["a ready"], vec![])), "web-y");
    assert_snapshot!(show(&decide(&view(json!({}), &[], vec![filled, slice]))), @r"
    EndpointsChanged
    patch :
    delete :
    ");
}

#[test]
fn services_without_selector_and_external_names_are_left_alone() {
    assert_snapshot!(show(&decide(&view(json!({"selector": null}), &[], vec![]))), @"NotManaged");
    let external = json!({"type": "ExternalName", "externalName": "x"});
    assert_snapshot!(show(&decide(&view(external, &["a ready"], vec![]))), @"NotManaged");
}

#[test]
fn a_hundred_endpoints_fill_a_slice() {
    let rows: Vec<String> = (0..250).map(|number| format!("p{number:03} ready")).collect();
    let rows: Vec<&str> = rows.iter().map(String::as_str).collect();
    let plan = decide(&view(json!({}), &rows, vec![]));
    let sizes: Vec<usize> = plan
        .actions
        .iter()
        .map(|action| match action {
            Action::Create(slice) => slice.json()["endpoints"].as_array().unwrap().len(),
            _ => 0,
        })
        .collect();
    assert_eq!(sizes, [100, 100, 50]);
}

#[test]
fn a_pod_that_gets_ready_is_in_the_slice_at_once() {
    let mut cluster = Cluster::new(1);
    cluster.world.apply(node("n1", "us-east-1a", ("4", "8Gi")));
    cluster.world.apply(service(json!({})));
    cluster.settle();
    let mut pod = pod("a ready").obj.json().clone();
    pod["status"] = json!({});
    cluster.world.apply(pod);
    cluster.settle();
    let pod = cluster.world.all("Pod").remove(0);
    cluster.world.run_pod(&pod, true);
    cluster.settle();
    let slices = cluster.world.all("EndpointSlice");
    assert_eq!(slices.len(), 1);
    let ready = slices[0].json().pointer("/endpoints/0/conditions/ready");
    assert_eq!(ready, Some(&Value::Bool(true)));
}
