//! From objects to configurations, status and drained pods; without sockets and without a clock.
#![expect(clippy::unwrap_used, reason = "tests")]

mod ports;
mod stage;

use stage::Stage;

const SERVICES: &str = r"
apiVersion: v1
kind: Service
metadata: {name: api, namespace: shop}
spec:
  clusterIP: 127.9.0.1
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: api-primary, namespace: shop}
spec:
  clusterIP: 127.9.0.2
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: api-canary, namespace: shop}
spec:
  clusterIP: 127.9.0.3
  ports: [{name: http, port: 80}]
---
apiVersion: v1
kind: Service
metadata: {name: db, namespace: shop}
spec:
  clusterIP: 127.9.0.4
  ports: [{name: postgres, port: 5432}, {name: metrics, port: 9187}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-primary-1, namespace: shop, labels: {kubernetes.io/service-name: api-primary}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints:
- {addresses: [127.1.0.2], conditions: {ready: true}, targetRef: {kind: Pod, name: api-primary-6c9f-b}}
- {addresses: [127.1.0.1], conditions: {ready: true}, targetRef: {kind: Pod, name: api-primary-6c9f-a}}
- {addresses: [127.1.0.3], conditions: {ready: false, serving: true, terminating: true}}
- {addresses: [127.1.0.4], conditions: {ready: false, serving: false, terminating: false}}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: api-canary-1, namespace: shop, labels: {kubernetes.io/service-name: api-canary}}
addressType: IPv4
ports: [{name: http, port: 8080}]
endpoints: [{addresses: [127.1.0.9], conditions: {ready: true}}]
---
apiVersion: v1
kind: Pod
metadata:
  name: api-primary-6c9f-a
  namespace: shop
  uid: pod-a
  labels: {pod-template-hash: 6c9f}
  annotations: {evenkeel.dev/termination-gate: gateway}
  ownerReferences: [{apiVersion: apps/v1, kind: ReplicaSet, name: api-primary-6c9f, uid: u, controller: true}]
status: {podIP: 127.1.0.1}
";

const ROUTE: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: api, namespace: shop, generation: 3, resourceVersion: '10'}
spec:
  parentRefs: [{group: '', kind: Service, name: api, port: 80}]
  rules:
  - backendRefs:
    - {name: api-primary, port: 80, weight: 90}
    - {name: api-canary, port: 80, weight: 10}
";

#[test]
fn services_and_routes_become_listeners() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    assert_eq!(stage.configuration(), "", "nothing before everything was seen once");
    stage.sync();
    insta::assert_snapshot!(stage.configuration(), @r"
    1: 127.9.0.1:80 shop/api -> shop/api:80=1
    127.9.0.2:80 shop/api-primary -> shop/api-primary:80=1
    127.9.0.3:80 shop/api-canary -> shop/api-canary:80=1
    127.9.0.4:5432 shop/db Bytes -> shop/db:5432=1
    127.9.0.4:9187 shop/db Detect -> shop/db:9187=1
    pool shop/api:80
    pool shop/api-canary:80 127.1.0.9:8080 Ready (api-canary)
    pool shop/api-primary:80 127.1.0.1:8080 Ready (api-primary), 127.1.0.2:8080 Ready (api-primary), 127.1.0.3:8080 Terminating (api-primary)
    pool shop/db:5432
    pool shop/db:9187
    ");
    stage.apply(ROUTE);
    let first = stage.configuration();
    assert!(
        first.starts_with(
            "2: 127.9.0.1:80 shop/api -> shop/api-primary:80=90 shop/api-canary:80=10\n"
        ),
        "{first}"
    );
    // What changes nothing is not a new configuration.
    stage.apply(&SERVICES.replace("resourceVersion: '10'", "resourceVersion: '11'"));
    assert_eq!(stage.configuration(), first);
}

#[test]
fn a_route_is_reported_when_every_worker_runs_it() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.apply(ROUTE);
    stage.sync();
    assert_eq!(stage.writes(), "", "nobody runs it yet");
    stage.acknowledge(1);
    insta::assert_snapshot!(stage.writes(), @"HTTPRoute/shop/api status api: Accepted=True Accepted@3, ResolvedRefs=True ResolvedRefs@3, Programmed=True Programmed@3");
    // The next generation counts only when it runs.
    stage.apply(
        &ROUTE.replace("generation: 3", "generation: 4").replace("weight: 10", "weight: 20"),
    );
    assert_eq!(stage.writes(), "");
    stage.acknowledge(2);
    insta::assert_snapshot!(stage.writes(), @"HTTPRoute/shop/api status api: Accepted=True Accepted@4, ResolvedRefs=True ResolvedRefs@4, Programmed=True Programmed@4");
}

#[test]
fn what_is_wrong_with_a_route_is_said_and_answered_with_errors() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.sync();
    stage.acknowledge(1);
    let mut say = |change: &dyn Fn(&str) -> String| {
        stage.apply(&change(ROUTE));
        stage.acknowledge_all();
        let line = stage.configuration().lines().next().unwrap_or_default().to_owned();
        format!("{}\n{}", stage.writes(), line.split_once("-> ").map_or("", |(_, rules)| rules))
    };
    insta::assert_snapshot!(say(&|r| r.replace("name: api-canary", "name: nobody")), @r"
    HTTPRoute/shop/api status api: Accepted=True Accepted@3, ResolvedRefs=False BackendNotFound@3 (Service/shop/nobody with port 80 does not exist; create it or correct the route), Programmed=True Programmed@3
    shop/api-primary:80=90 nowhere=10
    ");
    insta::assert_snapshot!(say(&|r| r.replace("name: api-canary,", "name: api-canary, namespace: other,")), @r"
    HTTPRoute/shop/api status api: Accepted=True Accepted@3, ResolvedRefs=False RefNotPermitted@3 (Service/other/api-canary is in another namespace and no ReferenceGrant there lets HTTPRoutes of shop use it; create one), Programmed=True Programmed@3
    shop/api-primary:80=90 nowhere=10
    ");
    insta::assert_snapshot!(say(&|r| r.replace("- backendRefs", "- filters: [{type: RequestMirror}]\n    backendRefs")), @r"
    HTTPRoute/shop/api status api: Accepted=False UnsupportedValue@3 (spec.rules[0]: filter RequestMirror is not supported; change or remove it), ResolvedRefs=True ResolvedRefs@3, Programmed=False UnsupportedValue@3 (spec.rules[0]: filter RequestMirror is not supported; change or remove it)
    nothing
    ");
    let smuggle = r#"- filters: [{type: URLRewrite, urlRewrite: {path: {replaceFullPath: "/ HTTP/1.1\r\n"}}}]
    backendRefs"#;
    insta::assert_snapshot!(say(&|r| r.replace("- backendRefs", smuggle)), @r#"
    HTTPRoute/shop/api status api: Accepted=False UnsupportedValue@3 (spec.rules[0]: "/ HTTP/1.1\r\n" has characters that no path or host name has; change or remove it), ResolvedRefs=True ResolvedRefs@3, Programmed=False UnsupportedValue@3 (spec.rules[0]: "/ HTTP/1.1\r\n" has characters that no path or host name has; change or remove it)
    nothing
    "#);
    insta::assert_snapshot!(say(&|r| r.replace("name: api, port: 80", "name: db, port: 5433")), @r"
    HTTPRoute/shop/api status db: Accepted=False NoMatchingParent@3 (Service/shop/db with such a TCP port and a cluster IP does not exist), ResolvedRefs=True ResolvedRefs@3, Programmed=False NoMatchingParent@3 (Service/shop/db with such a TCP port and a cluster IP does not exist)
    shop/api:80=1
    ");
}

#[test]
fn what_is_served_otherwise_than_asked_is_said() {
    let mut stage = Stage::new();
    stage.apply(&SERVICES.replace("clusterIP:", "sessionAffinity: ClientIP\n  clusterIP:"));
    stage.sync();
    stage.acknowledge(1);
    let retry = "- retry: {attempts: 2, backoff: 1s}\n    backendRefs";
    stage.apply(&ROUTE.replace("- backendRefs", retry));
    stage.acknowledge_all();
    insta::assert_snapshot!(stage.writes(), @"HTTPRoute/shop/api status api: Accepted=True Accepted@3 (spec.rules[0].retry.backoff is not used: a retry goes to another endpoint at once), ResolvedRefs=True ResolvedRefs@3 (sessionAffinity ClientIP of Service/shop/api-primary is not used: requests are spread over all its endpoints; sessionAffinity ClientIP of Service/shop/api-canary is not used: requests are spread over all its endpoints), Programmed=True Programmed@3");
}

#[test]
fn a_gated_pod_is_emptied_and_then_said_to_be() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.sync();
    stage.acknowledge(1);
    stage.in_flight("127.1.0.1", 2);
    stage.delete_softly("Pod", "shop", "api-primary-6c9f-a");
    assert!(stage.configuration().contains("127.1.0.1:8080 Draining"), "{}", stage.configuration());
    stage.in_flight("127.1.0.1", 0);
    assert_eq!(stage.writes(), "", "a worker may still send there");
    stage.in_flight("127.1.0.1", 1);
    stage.acknowledge(2);
    assert_eq!(stage.writes(), "", "one request is left");
    stage.in_flight("127.1.0.1", 0);
    assert_eq!(stage.writes(), "Pod/shop/api-primary-6c9f-a evenkeel.dev/drained=pod-a");
    stage.acknowledge(3);
    assert_eq!(stage.writes(), "", "said once");
}

#[test]
fn a_pod_is_not_said_to_be_empty_in_place_of_its_namesake() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.sync();
    stage.acknowledge(1);
    stage.in_flight("127.1.0.1", 1);
    stage.delete_softly("Pod", "shop", "api-primary-6c9f-a");
    stage.acknowledge(2);
    stage.replace_unseen("Pod", "shop", "api-primary-6c9f-a");
    stage.in_flight("127.1.0.1", 0);
    assert_eq!(stage.writes(), "");
}

#[test]
fn a_pod_gated_for_somebody_else_is_not_emptied() {
    let mut stage = Stage::new();
    stage.apply(&SERVICES.replace("termination-gate: gateway", "termination-gate: backup"));
    stage.sync();
    stage.acknowledge(1);
    stage.delete_softly("Pod", "shop", "api-primary-6c9f-a");
    assert!(stage.configuration().contains("127.1.0.1:8080 Ready"), "{}", stage.configuration());
    stage.acknowledge_all();
    assert_eq!(stage.writes(), "");
}

#[test]
fn one_kind_that_is_refused_does_not_stand_for_another() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    for _ in 0..9 {
        stage.refuse("HTTPRoute");
    }
    stage.sync_only(|kind| !["EndpointSlice", "HTTPRoute"].contains(&kind));
    assert_eq!(stage.configuration(), "", "the endpoints are not known yet");
    for _ in 0..9 {
        stage.refuse("EndpointSlice");
    }
    assert_eq!(stage.configuration(), "", "no endpoints is not the same as none known");
    stage.sync_only(|kind| kind == "EndpointSlice");
    assert!(stage.configuration().contains("pool shop/api-canary:80 127.1.0.9:8080"));
}

#[test]
fn gateways_serve_by_host_name() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.apply(
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 1, resourceVersion: '5'}
spec:
  gatewayClassName: evenkeel
  listeners:
  - {name: web, port: 8000, protocol: HTTP, hostname: '*.example.com'}
  - {name: tls, port: 8443, protocol: HTTPS}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: shop, namespace: shop, generation: 1, resourceVersion: '6'}
spec:
  parentRefs: [{name: edge, sectionName: web}]
  hostnames: [shop.example.com, other.org]
  rules:
  - matches: [{path: {value: /api}}, {headers: [{name: X-Beta, value: '1'}]}]
    filters: [{type: URLRewrite, urlRewrite: {path: {type: ReplacePrefixMatch, replacePrefixMatch: /}}}]
    timeouts: {request: 2s}
    backendRefs: [{name: api-primary, port: 80}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: lost, namespace: shop, generation: 1, resourceVersion: '7'}
spec:
  parentRefs: [{name: edge, sectionName: web}]
  hostnames: [other.org]
  rules: [{backendRefs: [{name: api-primary, port: 80}]}]
",
    );
    stage.sync();
    stage.acknowledge(1);
    let configuration = stage.configuration();
    let line = configuration.lines().next();
    let want = "1: 127.0.0.1:8000 shop/edge -> [shop.example.com] shop/api-primary:80=1 within 2s";
    assert_eq!(line, Some(want));
    insta::assert_snapshot!(stage.writes(), @r"
    HTTPRoute/shop/lost status edge: Accepted=False NoMatchingListenerHostname@1 (Gateway/shop/edge listener web serves none of the host names), ResolvedRefs=True ResolvedRefs@1, Programmed=False NoMatchingListenerHostname@1 (Gateway/shop/edge listener web serves none of the host names)
    HTTPRoute/shop/shop status edge: Accepted=True Accepted@1, ResolvedRefs=True ResolvedRefs@1, Programmed=True Programmed@1
    Gateway/shop/edge at 127.0.0.1 status Accepted=True ListenersNotValid@1 (listener tls: protocol HTTPS is not served, only HTTP), Programmed=True Programmed@1
      web HTTPRoute=1
      tls HTTPRoute=0 Accepted=False UnsupportedProtocol@1 (protocol HTTPS is not served, only HTTP), Programmed=False Invalid@1 (protocol HTTPS is not served, only HTTP)
    ");
}

const TWO_GATEWAYS: &str = r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: young, namespace: shop, generation: 1, creationTimestamp: '2026-01-02T00:00:00Z'}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: web, port: 80, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: old, namespace: team, generation: 1, creationTimestamp: '2026-01-01T00:00:00Z'}
spec:
  gatewayClassName: evenkeel
  listeners: [{name: web, port: 80, protocol: HTTP}, {name: more, port: 81, protocol: HTTP}]
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: young, namespace: shop, generation: 1}
spec:
  parentRefs: [{name: young}]
  rules: [{backendRefs: [{name: api-primary, port: 80}]}]
";

/// The lines of a configuration that are about Gateways.
fn gateways(stage: &Stage) -> String {
    let configuration = stage.configuration();
    let lines =
        configuration.lines().map(|line| line.split_once(": ").map_or(line, |(_, rest)| rest));
    let lines = lines.filter(|line| !line.starts_with("127.9.") && !line.starts_with("pool "));
    lines.map(str::trim_end).collect::<Vec<_>>().join("\n")
}

#[test]
fn two_gateways_on_one_port_have_addresses_of_their_own() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.apply(TWO_GATEWAYS);
    stage.sync();
    stage.acknowledge(1);
    insta::assert_snapshot!(gateways(&stage), @r"
    127.0.0.1:80 team/old ->
    127.0.0.1:81 team/old ->
    127.191.0.1:80 shop/young -> shop/api-primary:80=1
    ");
    insta::assert_snapshot!(stage.writes(), @r"
    HTTPRoute/shop/young status young: Accepted=True Accepted@1, ResolvedRefs=True ResolvedRefs@1, Programmed=True Programmed@1
    Gateway/shop/young at 127.191.0.1 status Accepted=True Accepted@1, Programmed=True Programmed@1
      web HTTPRoute=1
    Gateway/team/old at 127.0.0.1 status Accepted=True Accepted@1, Programmed=True Programmed@1
      web HTTPRoute=0
      more HTTPRoute=0
    ");
    // An address once given stays, also when the common one becomes free.
    stage.remove("Gateway", "team", "old");
    insta::assert_snapshot!(gateways(&stage), @"127.191.0.1:80 shop/young -> shop/api-primary:80=1");
}

#[test]
fn a_gateway_that_asks_for_an_address_in_use_is_refused_and_told_by_whom() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    let addresses = "addresses: [{type: IPAddress, value: 127.0.0.1}]\n  listeners";
    stage.apply(&TWO_GATEWAYS.replace("listeners", addresses));
    stage.apply(&TWO_GATEWAYS.split("---").next().unwrap().replace("young", "greedy").replace(
        "listeners: [",
        "addresses: [{value: 127.9.0.2}, {value: 127.0.0.9}]
  listeners: [{name: twin, port: 8080, protocol: HTTP, hostname: A.org},
    {name: twin2, port: 8080, protocol: HTTP, hostname: a.org},
    {name: tls, port: 443, protocol: HTTPS},
    {name: grpc, port: 90, protocol: HTTP, allowedRoutes: {kinds: [{kind: GRPCRoute}]}},
    {name: odd, port: 91, protocol: HTTP, allowedRoutes: {namespaces: {from: Selector}}},
    ",
    ));
    stage.sync();
    stage.acknowledge(1);
    insta::assert_snapshot!(gateways(&stage), @r"
    127.0.0.1:80 team/old ->
    127.0.0.1:81 team/old ->
    127.0.0.9:80 shop/greedy ->
    127.0.0.9:90 shop/greedy ->
    127.0.0.9:8080 shop/greedy ->
    ");
    insta::assert_snapshot!(stage.writes(), @r"
    HTTPRoute/shop/young status young: Accepted=False NoMatchingParent@1 (Gateway/shop/young listener web: port 80 of 127.0.0.1 belongs to Gateway/team/old, which was there before; choose another port, or another address in spec.addresses), ResolvedRefs=True ResolvedRefs@1, Programmed=False NoMatchingParent@1 (Gateway/shop/young listener web: port 80 of 127.0.0.1 belongs to Gateway/team/old, which was there before; choose another port, or another address in spec.addresses)
    Gateway/shop/greedy at 127.9.0.2 127.0.0.9 status Accepted=True ListenersNotValid@1 (listener twin2: listener twin has the same port and host name; listener tls: protocol HTTPS is not served, only HTTP; listener odd: allowedRoutes.namespaces.selector is missing; listener web: port 80 of 127.9.0.2 belongs to Service/shop/api-primary, which was there before; choose another port, or another address in spec.addresses), Programmed=True Programmed@1
      twin HTTPRoute=0
      twin2 HTTPRoute=0 Accepted=False HostnameConflict@1, Programmed=False Invalid@1, Conflicted=True HostnameConflict@1 (listener twin has the same port and host name)
      tls HTTPRoute=0 Accepted=False UnsupportedProtocol@1 (protocol HTTPS is not served, only HTTP), Programmed=False Invalid@1 (protocol HTTPS is not served, only HTTP)
      grpc =0 ResolvedRefs=False InvalidRouteKinds@1 (allowedRoutes.kinds: GRPCRoute is not served, only HTTPRoute)
      odd HTTPRoute=0 Accepted=False Invalid@1 (allowedRoutes.namespaces.selector is missing), Programmed=False Invalid@1 (allowedRoutes.namespaces.selector is missing)
      web HTTPRoute=0 Accepted=False PortUnavailable@1 (port 80 of 127.9.0.2 belongs to Service/shop/api-primary, which was there before; choose another port, or another address in spec.addresses), Programmed=False Invalid@1 (port 80 of 127.9.0.2 belongs to Service/shop/api-primary, which was there before; choose another port, or another address in spec.addresses)
    Gateway/shop/young at  status Accepted=False ListenersNotValid@1 (listener web: port 80 of 127.0.0.1 belongs to Gateway/team/old, which was there before; choose another port, or another address in spec.addresses), Programmed=False Invalid@1 (listener web: port 80 of 127.0.0.1 belongs to Gateway/team/old, which was there before; choose another port, or another address in spec.addresses)
      web HTTPRoute=0 Accepted=False PortUnavailable@1 (port 80 of 127.0.0.1 belongs to Gateway/team/old, which was there before; choose another port, or another address in spec.addresses), Programmed=False Invalid@1 (port 80 of 127.0.0.1 belongs to Gateway/team/old, which was there before; choose another port, or another address in spec.addresses)
    Gateway/team/old at 127.0.0.1 status Accepted=True Accepted@1, Programmed=True Programmed@1
      web HTTPRoute=0
      more HTTPRoute=0
    ");
}

#[test]
fn listeners_of_a_gateway_keep_to_themselves() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.apply(
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 1}
spec:
  gatewayClassName: evenkeel
  listeners:
  - {name: any, port: 80, protocol: HTTP}
  - {name: iso, port: 80, protocol: HTTP, hostname: '*.iso.test'}
  - {name: foo, port: 80, protocol: HTTP, hostname: foo.iso.test}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: all, namespace: shop, generation: 1}
spec:
  parentRefs: [{name: edge}]
  hostnames: [bar.com, '*.iso.test']
  rules: [{backendRefs: [{name: api-primary, port: 80}]}]
",
    );
    stage.sync();
    stage.acknowledge(1);
    insta::assert_snapshot!(gateways(&stage), @"127.0.0.1:80 shop/edge -> [bar.com *.iso.test] shop/api-primary:80=1; [foo.iso.test] shop/api-primary:80=1; [*.iso.test] shop/api-primary:80=1");
    insta::assert_snapshot!(stage.writes(), @r"
    HTTPRoute/shop/all status edge: Accepted=True Accepted@1, ResolvedRefs=True ResolvedRefs@1, Programmed=True Programmed@1
    Gateway/shop/edge at 127.0.0.1 status Accepted=True Accepted@1, Programmed=True Programmed@1
      any HTTPRoute=1
      iso HTTPRoute=1
      foo HTTPRoute=1
    ");
}

#[test]
fn routes_of_other_namespaces_need_labels_and_grants() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.apply(
        r"
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: edge, namespace: shop, generation: 1}
spec:
  gatewayClassName: evenkeel
  listeners:
  - name: web
    port: 80
    protocol: HTTP
    allowedRoutes: {namespaces: {from: Selector, selector: {matchLabels: {team: web}}}}
---
apiVersion: v1
kind: Namespace
metadata: {name: team, labels: {team: backend}}
---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {name: team, namespace: team, generation: 1}
spec:
  parentRefs: [{name: edge, namespace: shop}]
  rules: [{backendRefs: [{name: api-primary, namespace: shop, port: 80}]}]
",
    );
    stage.sync();
    let mut say = |manifest: &str| {
        if !manifest.is_empty() {
            stage.apply(manifest);
        }
        stage.acknowledge_all();
        format!("{}\n{}", stage.writes(), gateways(&stage))
    };
    insta::assert_snapshot!(say(""), @r"
    HTTPRoute/team/team status edge: Accepted=False NotAllowedByListeners@1 (Gateway/shop/edge listener web: the labels of namespace team do not fit allowedRoutes.namespaces.selector), ResolvedRefs=False RefNotPermitted@1 (Service/shop/api-primary is in another namespace and no ReferenceGrant there lets HTTPRoutes of team use it; create one), Programmed=False NotAllowedByListeners@1 (Gateway/shop/edge listener web: the labels of namespace team do not fit allowedRoutes.namespaces.selector)
    Gateway/shop/edge at 127.0.0.1 status Accepted=True Accepted@1, Programmed=True Programmed@1
      web HTTPRoute=0
    127.0.0.1:80 shop/edge ->
    ");
    let labelled = "{apiVersion: v1, kind: Namespace, metadata: {name: team, labels: {team: web}}}";
    insta::assert_snapshot!(say(labelled), @r"
    HTTPRoute/team/team status edge: Accepted=True Accepted@1, ResolvedRefs=False RefNotPermitted@1 (Service/shop/api-primary is in another namespace and no ReferenceGrant there lets HTTPRoutes of team use it; create one), Programmed=True Programmed@1
    Gateway/shop/edge at 127.0.0.1 status Accepted=True Accepted@1, Programmed=True Programmed@1
      web HTTPRoute=1
    127.0.0.1:80 shop/edge -> nowhere=1
    ");
    let grant = "
apiVersion: gateway.networking.k8s.io/v1beta1
kind: ReferenceGrant
metadata: {name: web, namespace: shop}
spec:
  from: [{group: gateway.networking.k8s.io, kind: HTTPRoute, namespace: team}]
  to: [{group: '', kind: Service, name: api-primary}]";
    insta::assert_snapshot!(say(grant), @r"
    HTTPRoute/team/team status edge: Accepted=True Accepted@1, ResolvedRefs=True ResolvedRefs@1, Programmed=True Programmed@1
    127.0.0.1:80 shop/edge -> shop/api-primary:80=1
    ");
    // Withdrawn, it counts no more.
    stage.remove("ReferenceGrant", "shop", "web");
    stage.acknowledge_all();
    insta::assert_snapshot!(stage.writes(), @"HTTPRoute/team/team status edge: Accepted=True Accepted@1, ResolvedRefs=False RefNotPermitted@1 (Service/shop/api-primary is in another namespace and no ReferenceGrant there lets HTTPRoutes of team use it; create one), Programmed=True Programmed@1");
}

#[test]
fn filters_of_backends_count_or_are_refused() {
    let mut stage = Stage::new();
    stage.apply(SERVICES);
    stage.sync();
    stage.acknowledge(1);
    let mut say = |filters: &str| {
        let canary = format!("name: api-canary, filters: [{filters}],");
        stage.apply(&ROUTE.replace("name: api-canary,", &canary));
        stage.acknowledge_all();
        let line = stage.configuration().lines().next().unwrap_or_default().to_owned();
        format!("{}\n{}", stage.writes(), line.split_once("-> ").map_or("", |(_, rules)| rules))
    };
    let rewrite = "{type: URLRewrite, urlRewrite: {path: {replacePrefixMatch: /new}}}";
    insta::assert_snapshot!(say(rewrite), @r#"
    HTTPRoute/shop/api status api: Accepted=True Accepted@3, ResolvedRefs=True ResolvedRefs@3, Programmed=True Programmed@3
    shop/api-primary:80=90 shop/api-canary:80=10 Rewrite { hostname: None, path: Some(Prefix("/new")) }
    "#);
    let redirect = "{type: RequestRedirect, requestRedirect: {path: {replaceFullPath: /gone}}}";
    insta::assert_snapshot!(say(redirect), @r#"
    HTTPRoute/shop/api status api: Accepted=True Accepted@3, ResolvedRefs=True ResolvedRefs@3, Programmed=True Programmed@3
    shop/api-primary:80=90 shop/api-canary:80=10 Redirect { scheme: None, hostname: None, path: Some(Full("/gone")), port: None, status: 302 }
    "#);
    insta::assert_snapshot!(say("{type: RequestMirror}"), @r"
    HTTPRoute/shop/api status api: Accepted=False UnsupportedValue@3 (spec.rules[0]: backend api-canary: filter RequestMirror is not supported; change or remove it), ResolvedRefs=True ResolvedRefs@3, Programmed=False UnsupportedValue@3 (spec.rules[0]: backend api-canary: filter RequestMirror is not supported; change or remove it)
    shop/api-primary:80=90 nowhere=10
    ");
    insta::assert_snapshot!(say(&format!("{rewrite}, {rewrite}")), @r"
    HTTPRoute/shop/api status api: Accepted=False UnsupportedValue@3 (spec.rules[0]: backend api-canary: filter URLRewrite is there twice; change or remove it), ResolvedRefs=True ResolvedRefs@3, Programmed=False UnsupportedValue@3 (spec.rules[0]: backend api-canary: filter URLRewrite is there twice; change or remove it)
    shop/api-primary:80=90 nowhere=10
    ");
}

#[test]
fn beside_others_only_gateways_of_its_class_are_served_and_told_about() {
    let mut stage = Stage::with(|controller| controller.of_class("evenkeel"));
    stage.apply(SERVICES);
    let gateway = |name: &str, class: &str, port: u16| {
        format!(
            "apiVersion: gateway.networking.k8s.io/v1\nkind: Gateway\nmetadata: {{name: {name}, \
             namespace: shop, generation: 1, resourceVersion: '1'}}\nspec: {{gatewayClassName: \
             {class}, listeners: [{{name: web, port: {port}, protocol: HTTP}}]}}"
        )
    };
    stage.apply(&gateway("ours", "evenkeel", 80));
    stage.apply(&gateway("theirs", "istio", 81));
    let parents = "[{group: '', kind: Service, name: api, port: 80}, {name: ours}, \
                   {name: theirs}, {name: nobodys}]";
    stage.apply(&ROUTE.replace("[{group: '', kind: Service, name: api, port: 80}]", parents));
    stage.sync();
    stage.acknowledge_all();
    insta::assert_snapshot!(gateways(&stage), @"127.0.0.1:80 shop/ours -> shop/api-primary:80=90 shop/api-canary:80=10");
    insta::assert_snapshot!(stage.configuration().matches("127.9.").count(), @"0");
    insta::assert_snapshot!(stage.writes(), @r"
    HTTPRoute/shop/api status ours: Accepted=True Accepted@3, ResolvedRefs=True ResolvedRefs@3, Programmed=True Programmed@3
    Gateway/shop/ours at 127.0.0.1 status Accepted=True Accepted@1, Programmed=True Programmed@1
      web HTTPRoute=1
    ");
}
