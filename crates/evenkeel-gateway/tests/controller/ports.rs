//! Ports of Services: which are HTTP, what routes do to the others, and what is not served.

use std::net::IpAddr;

use evenkeel_gateway::{View, decide};
use k8s_openapi::api::core::v1::Service;

use crate::stage::Stage;

const SERVICES: &str = r"
apiVersion: v1
kind: Service
metadata: {name: app, namespace: shop}
spec:
  clusterIP: 127.9.0.1
  ports:
  - {name: http, port: 80}
  - {name: web, port: 8080}
  - {name: grpc, port: 9090}
  - {name: api, port: 9091, appProtocol: kubernetes.io/h2c}
---
apiVersion: v1
kind: Service
metadata: {name: cache, namespace: shop}
spec:
  clusterIP: 127.9.0.2
  sessionAffinity: ClientIP
  ports: [{name: redis, port: 6379}]
---
apiVersion: v1
kind: Service
metadata: {name: headless, namespace: shop}
spec:
  clusterIP: None
  ports: [{port: 80}]";

const ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: r, namespace: shop, generation: 1}
spec:
  parentRefs: [{group: '', kind: Service, name: app}]
  rules: [{backendRefs: [{name: cache, port: 6379}]}]";

/// The listeners with this route, and what its status says.
fn with_route(change: impl Fn(&str) -> String) -> String {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.apply(&change(ROUTE));
    stage.sync();
    stage.acknowledge(1);
    let all = stage.configuration();
    let listeners = all.lines().filter(|line| line.contains(" -> "));
    let listeners: Vec<&str> = listeners.map(|line| line.trim_start_matches("1: ")).collect();
    let said = stage.writes();
    let (_, accepted) = said.split_once("Accepted=").unwrap();
    let accepted = accepted.split_once(", ResolvedRefs").unwrap().0;
    format!("{}\n{accepted}", listeners.join("\n"))
}

#[test]
fn every_tcp_port_is_served_as_what_it_is_declared() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.sync();
    let all = stage.configuration();
    let listeners: Vec<&str> = all.lines().filter(|line| line.contains(" -> ")).collect();
    insta::assert_snapshot!(listeners.join("\n"), @r"
    1: 127.9.0.1:80 shop/app -> shop/app:80=1
    127.9.0.1:8080 shop/app Detect -> shop/app:8080=1
    127.9.0.1:9090 shop/app Bytes -> shop/app:9090=1
    127.9.0.1:9091 shop/app Bytes -> shop/app:9091=1
    127.9.0.2:6379 shop/cache Bytes sticky -> shop/cache:6379=1
    ");
}

#[test]
fn a_route_splits_bytes_where_it_means_the_port() {
    insta::assert_snapshot!(with_route(str::to_owned), @r"
    127.9.0.1:80 shop/app -> shop/cache:6379=1
    127.9.0.1:8080 shop/app Detect -> shop/cache:6379=1
    127.9.0.1:9090 shop/app Bytes -> shop/app:9090=1
    127.9.0.1:9091 shop/app Bytes -> shop/app:9091=1
    127.9.0.2:6379 shop/cache Bytes sticky -> shop/cache:6379=1
    True Accepted@1
    ");
    insta::assert_snapshot!(with_route(|r| r.replace("name: app", "name: app, port: 9090")), @r"
    127.9.0.1:80 shop/app -> shop/app:80=1
    127.9.0.1:8080 shop/app Detect -> shop/app:8080=1
    127.9.0.1:9090 shop/app Bytes split -> shop/cache:6379=1
    127.9.0.1:9091 shop/app Bytes -> shop/app:9091=1
    127.9.0.2:6379 shop/cache Bytes sticky -> shop/cache:6379=1
    True Accepted@1 (port 9090 of Service/shop/app is not HTTP by its name or appProtocol: connections are split, by the weights of the first rule without matches)
    ");
    insta::assert_snapshot!(with_route(|r| r.replace("name: app", "name: cache")), @r"
    127.9.0.1:80 shop/app -> shop/app:80=1
    127.9.0.1:8080 shop/app Detect -> shop/app:8080=1
    127.9.0.1:9090 shop/app Bytes -> shop/app:9090=1
    127.9.0.1:9091 shop/app Bytes -> shop/app:9091=1
    127.9.0.2:6379 shop/cache Bytes sticky split -> shop/cache:6379=1
    True Accepted@1 (port 6379 of Service/shop/cache is not HTTP by its name or appProtocol: connections are split, by the weights of the first rule without matches)
    ");
    insta::assert_snapshot!(with_route(|r| r.replace("name: app", "name: headless")), @r"
    127.9.0.1:80 shop/app -> shop/app:80=1
    127.9.0.1:8080 shop/app Detect -> shop/app:8080=1
    127.9.0.1:9090 shop/app Bytes -> shop/app:9090=1
    127.9.0.1:9091 shop/app Bytes -> shop/app:9091=1
    127.9.0.2:6379 shop/cache Bytes sticky -> shop/cache:6379=1
    False NoMatchingParent@1 (Service/shop/headless with such a TCP port and a cluster IP does not exist)
    ");
}

#[test]
fn what_is_not_tcp_is_known_not_to_be_served() {
    let service = |ip: &str| -> Service {
        let text = format!(
            "{{spec: {{clusterIP: {ip}, ports: [{{port: 53, protocol: UDP}}, {{port: 53}}, \
             {{port: 132, protocol: SCTP}}, {{port: 80, protocol: TCP}}]}}}}"
        );
        serde_saphyr::from_str(&text).unwrap()
    };
    let mut view = View::empty(true, IpAddr::from([127, 0, 0, 1]));
    for (name, ip) in [("dns", "127.9.0.1"), ("headless", "None")] {
        view.services.insert(("shop".into(), name.into()), service(ip).into());
    }
    let unserved = |view: &View| -> Vec<String> {
        let all = decide(view).unserved;
        let all =
            all.iter().map(|((name, port), protocol)| format!("{} {port} {protocol}", name.1));
        all.collect()
    };
    assert_eq!(unserved(&view), ["dns 53 UDP", "dns 132 SCTP"]);
    assert_eq!(decide(&view).snapshot.listeners.len(), 2);
    view.serves_services = false;
    assert!(unserved(&view).is_empty(), "somebody else serves them");
}
