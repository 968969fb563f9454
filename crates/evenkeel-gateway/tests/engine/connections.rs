//! Where connections go that are carried as bytes.

use std::fmt::Write as _;
use std::net::IpAddr;

use evenkeel_gateway::engine::{
    Board, Carried, Dial, Direction, Metrics, Protocol, ServicePort, TCP_CONNECTS,
};

use super::*;

const NOW: Duration = Duration::from_secs(1);
const CLIENT: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 1));

const OWN: ServicePort = ServicePort { protocol: Protocol::Detect, pool: 0, sticky: false };

/// A Service's port before what a Gateway would serve.
fn at_port(mut snapshot: Snapshot, port: ServicePort) -> Snapshot {
    snapshot.listeners =
        snapshot.listeners.into_iter().map(|(at, one)| (at, one.at_port(port))).collect();
    snapshot
}

/// The Service's own endpoints, without a route.
fn own(size: u16) -> Snapshot {
    let mut snapshot = ready(&[(size, 1)]);
    snapshot.listeners = [(LISTEN, Listener::new("shop", "db", vec![Rule::to_pool(0)]))].into();
    at_port(snapshot, OWN)
}

/// Pools of these sizes; pool 0 is the Service's own.
fn with_route(pools: &[(u16, u32)], rules: Vec<Rule>) -> Snapshot {
    let mut snapshot = ready(pools);
    snapshot.listeners = [(LISTEN, Listener::new("shop", "db", rules))].into();
    at_port(snapshot, OWN)
}

fn split(backends: &[(usize, u32)]) -> Rule {
    let backends = backends.iter().map(|(pool, weight)| Backend::new(*pool, *weight)).collect();
    Rule { route: "shop/r".into(), backends, splits_bytes: true, ..Rule::default() }
}

/// Connects; the first endpoints refuse as often as said.
fn connect(engine: &mut Engine, client: IpAddr, refusals: usize) -> (Option<Carried>, String) {
    let (mut carried, mut dial) = engine.connect(NOW, LISTEN, client);
    let mut shown = String::new();
    for left in (0..=refusals).rev() {
        let Dial::To(endpoint) = dial else { break };
        write!(shown, "{} ", endpoint.port()).unwrap();
        if left == 0 {
            engine.connected(NOW, &mut carried);
            return (Some(carried), shown.trim_end().to_owned());
        }
        dial = engine.refused(NOW, &mut carried);
    }
    shown.push_str("reset");
    (None, shown)
}

fn once(snapshot: Snapshot, refusals: usize) -> String {
    connect(&mut engine(snapshot), CLIENT, refusals).1
}

/// How often each endpoint was the one, over as many connections that stay open.
fn shares(engine: &mut Engine, connections: usize) -> (Vec<Carried>, BTreeMap<String, usize>) {
    let mut shares = BTreeMap::new();
    let mut open = Vec::new();
    for _ in 0..connections {
        let (carried, shown) = connect(engine, CLIENT, 0);
        open.extend(carried);
        *shares.entry(shown).or_default() += 1;
    }
    (open, shares)
}

#[test]
fn only_the_port_of_a_service_is_anything_but_http() {
    assert_eq!(engine(ready(&[(1, 1)])).protocol(LISTEN), Protocol::Http);
    assert_eq!(engine(own(1)).protocol(LISTEN), Protocol::Detect);
    let bytes = ServicePort { protocol: Protocol::Bytes, ..OWN };
    assert_eq!(engine(at_port(own(1), bytes)).protocol(LISTEN), Protocol::Bytes);
}

#[test]
fn an_endpoint_that_does_not_take_a_connection_is_followed_by_another() {
    assert_snapshot!(once(own(3), 0), @"101");
    assert_snapshot!(once(own(3), 1), @"101 102");
    assert_snapshot!(once(own(3), 3), @"101 102 103 reset");
    assert_snapshot!(once(own(9), 9), @"101 102 103 104 105 reset");
    assert_snapshot!(once(own(0), 0), @"reset");
    let switches = Switches { retries: false, ..Switches::default() };
    let mut plain = Engine::new(Surroundings { switches, ..Surroundings::default() });
    plain.apply(Duration::ZERO, Arc::new(own(3)));
    assert_snapshot!(connect(&mut plain, CLIENT, 1).1, @"101 reset");
}

#[test]
fn what_refused_is_left_alone_for_a_while() {
    let mut engine = engine(own(3));
    assert_eq!(connect(&mut engine, CLIENT, 1).1, "101 102");
    let (_, shares) = shares(&mut engine, 6);
    assert_eq!(shares.keys().collect::<Vec<_>>(), ["102", "103"]);
}

#[test]
fn the_endpoint_with_the_fewest_connections_is_chosen_over_all_workers() {
    let board = Arc::<Board>::default();
    let mut workers: Vec<Engine> = (0..2)
        .map(|seed| {
            let board = Arc::clone(&board);
            let mut engine = Engine::new(Surroundings { board, seed, ..Surroundings::default() });
            engine.apply(Duration::ZERO, Arc::new(own(4)));
            engine
        })
        .collect();
    let (first, counts) = shares(&mut workers[0], 5);
    assert_eq!(counts.values().sum::<usize>(), 5);
    assert_eq!(counts["101"], 2, "{counts:?}");
    let (_second, counts) = shares(&mut workers[1], 3);
    assert!(!counts.contains_key("101") && counts.len() == 3, "{counts:?}");
    // They count until they end, wherever that is noticed.
    drop(first);
    let (_third, counts) = shares(&mut workers[1], 1);
    assert_eq!(counts.keys().collect::<Vec<_>>(), ["101"]);
}

#[test]
fn connections_hold_up_no_drain_and_outlive_their_endpoint() {
    let board = Arc::<Board>::default();
    let mut engine =
        Engine::new(Surroundings { board: Arc::clone(&board), ..Surroundings::default() });
    engine.apply(Duration::ZERO, Arc::new(own(2)));
    let (open, counts) = shares(&mut engine, 4);
    assert_eq!(counts.len(), 2);
    assert_eq!((board.in_flight(endpoint(101)), board.in_flight(endpoint(102))), (0, 0));
    let state = |of_101| {
        let all =
            snapshot(&[(2, 1)], |n| if n == 101 { of_101 } else { Some(EndpointState::Ready) });
        let mut all = at_port(all, OWN);
        all.generation = 2;
        Arc::new(all)
    };
    for of_101 in [Some(EndpointState::Draining), Some(EndpointState::Terminating), None] {
        engine.apply(NOW, state(of_101));
        assert_eq!(shares(&mut engine, 3).1.keys().collect::<Vec<_>>(), ["102"], "{of_101:?}");
    }
    assert!(!engine.take_emptied());
    drop(open);
}

#[test]
fn terminating_endpoints_are_a_last_resort_and_draining_ones_are_none() {
    let all = |state| once(at_port(snapshot(&[(2, 1)], |_| state), OWN), 0);
    assert_snapshot!(all(Some(EndpointState::Terminating)), @"101");
    assert_snapshot!(all(Some(EndpointState::Draining)), @"reset");
}

#[test]
fn the_first_rule_that_speaks_of_every_request_splits_connections() {
    let pools = [(1, 0), (1, 0), (1, 0)];
    let to = |rules: Vec<Rule>| once(with_route(&pools, rules), 0);
    let path = |path| Match { path: Some(path), ..Match::default() };
    let with = |matches| Rule { matches, ..split(&[(1, 1)]) };
    assert_snapshot!(to(vec![split(&[(1, 1)]), split(&[(2, 1)])]), @"201");
    assert_snapshot!(to(vec![with(vec![path(PathMatch::Prefix("/".into()))])]), @"201");
    assert_snapshot!(to(vec![with(vec![path(PathMatch::Prefix("/a".into()))]), split(&[(2, 1)])]), @"301");
    // With conditions only, or another port in mind, the Service's own.
    assert_snapshot!(to(vec![with(vec![path(PathMatch::Exact("/".into()))])]), @"101");
    let get = Match { method: Some(Method::GET), ..Match::default() };
    assert_snapshot!(to(vec![with(vec![get])]), @"101");
    let redirect = Filters { redirect: Some(Redirect::default()), ..Filters::default() };
    assert_snapshot!(to(vec![Rule { filters: redirect, ..split(&[(1, 1)]) }]), @"101");
    assert_snapshot!(to(vec![Rule { splits_bytes: false, ..split(&[(1, 1)]) }]), @"101");
    // Nobody's share is reset, as a request would be answered 500.
    assert_snapshot!(to(vec![split(&[])]), @"reset");
    assert_snapshot!(to(vec![split(&[(1, 0)])]), @"reset");
    let nowhere = Backend { pool: None, ..Backend::new(0, 1) };
    assert_snapshot!(to(vec![Rule { backends: vec![nowhere], ..split(&[]) }]), @"reset");
}

#[test]
fn weights_hold_exactly_and_a_share_without_endpoints_goes_to_the_others() {
    let mut nine_to_one = engine(with_route(&[(1, 0), (1, 0)], vec![split(&[(0, 9), (1, 1)])]));
    let (_open, counts) = shares(&mut nine_to_one, 20);
    assert_eq!((counts["101"], counts["201"]), (18, 2));
    // Another configuration with the same weights goes on where the last one was.
    let rules = vec![split(&[(0, 9), (1, 1)])];
    let again = Snapshot { generation: 2, ..with_route(&[(1, 0), (1, 0)], rules) };
    let mut in_between = engine(again.clone());
    shares(&mut in_between, 5);
    in_between.apply(NOW, Arc::new(again));
    assert_eq!(shares(&mut in_between, 5).1["201"], 1);
    assert_snapshot!(once(with_route(&[(0, 0), (1, 0)], vec![split(&[(0, 1), (1, 1)])]), 0), @"201");
    assert_snapshot!(once(with_route(&[(1, 0), (1, 0)], vec![split(&[(0, 1), (1, 1)])]), 1), @"101 201");
    assert_snapshot!(once(with_route(&[(1, 0), (1, 0)], vec![split(&[(0, 1), (1, 0)])]), 1), @"101 reset");
}

#[test]
fn another_configuration_counts_for_the_next_try() {
    let mut engine = engine(own(1));
    let (mut carried, dial) = engine.connect(NOW, LISTEN, CLIENT);
    assert_eq!(dial, Dial::To(endpoint(101)));
    let other = Snapshot { generation: 2, ..with_route(&[(0, 0), (1, 0)], vec![split(&[(1, 1)])]) };
    engine.apply(NOW, Arc::new(other));
    assert_eq!(engine.refused(NOW, &mut carried), Dial::To(endpoint(201)));
    engine.apply(NOW, Arc::new(Snapshot { generation: 3, ..Snapshot::default() }));
    assert_eq!(engine.refused(NOW, &mut carried), Dial::Reset);
}

#[test]
fn with_affinity_a_client_keeps_its_endpoint_and_only_its_end_moves_it() {
    let sticky = ServicePort { sticky: true, ..OWN };
    let mut one = engine(at_port(own(4), sticky));
    let mut other = engine(at_port(own(4), sticky));
    let mut fewer = engine(at_port(own(3), sticky));
    let clients = (0..64).map(|n| IpAddr::from([10, 0, 1, n]));
    let mut used = BTreeMap::<String, usize>::new();
    for client in clients {
        let to = connect(&mut one, client, 0).1;
        assert_eq!(connect(&mut one, client, 0).1, to);
        assert_eq!(connect(&mut other, client, 0).1, to);
        if to != "104" {
            assert_eq!(connect(&mut fewer, client, 0).1, to);
        }
        *used.entry(to).or_default() += 1;
    }
    assert_eq!(used.len(), 4, "{used:?}");
    assert!(used.values().all(|count| *count >= 6), "{used:?}");
    // One that does not take it is followed by another one, always the same.
    assert_eq!(connect(&mut one, CLIENT, 1).1, connect(&mut other, CLIENT, 1).1);
}

#[test]
fn connections_are_counted_by_service_and_by_workload() {
    let metrics = Arc::<Metrics>::default();
    let surroundings = Surroundings { metrics: Arc::clone(&metrics), ..Surroundings::default() };
    let mut engine = Engine::new(surroundings);
    engine.apply(Duration::ZERO, Arc::new(own(2)));
    let first = connect(&mut engine, CLIENT, 0).0.unwrap();
    let second = connect(&mut engine, CLIENT, 1).0.unwrap();
    first.passed(Direction::In, 3);
    second.passed(Direction::Out, 4);
    drop(first);
    let rendered = || {
        let text = metrics.render();
        let lines = text.lines().filter(|line| line.contains("_tcp_"));
        let lines = lines.map(|line| line.replace("evenkeel_gateway_tcp_", ""));
        lines.collect::<Vec<_>>().join("\n")
    };
    assert_snapshot!(rendered(), @r#"
    # TYPE connections_total counter
    connections_total{namespace="shop",service="db",flag="-"} 2
    connections_total{namespace="shop",service="db",flag="UF"} 0
    connections_total{namespace="shop",service="db",flag="UH"} 0
    # TYPE connections_open gauge
    connections_open{namespace="shop",service="db"} 1
    # TYPE bytes_total counter
    bytes_total{namespace="shop",service="db",direction="in"} 3
    bytes_total{namespace="shop",service="db",direction="out"} 4
    # TYPE connects_total counter
    connects_total{reporter="destination",destination_workload="app-0",destination_workload_namespace="shop",destination_service_name="svc-0",destination_service_namespace="shop"} 2
    # TYPE connect_failures_total counter
    connect_failures_total{reporter="destination",destination_workload="app-0",destination_workload_namespace="shop",destination_service_name="svc-0",destination_service_namespace="shop"} 1
    "#);
    drop(second);
    engine.apply(NOW, Arc::new(Snapshot { generation: 2, ..own(0) }));
    assert_eq!(connect(&mut engine, CLIENT, 0).1, "reset");
    let wanted = ["open", "UH"];
    let left: Vec<String> = rendered()
        .lines()
        .filter(|line| wanted.iter().any(|word| line.contains(word)))
        .map(str::to_owned)
        .collect();
    assert_snapshot!(left.join("\n"), @r#"
    connections_total{namespace="shop",service="db",flag="UH"} 1
    # TYPE connections_open gauge
    connections_open{namespace="shop",service="db"} 0
    "#);
    let mut connects = 0.0;
    metrics.samples(|sample| {
        if sample.name == TCP_CONNECTS {
            connects += sample.value;
        }
    });
    assert_eq!(connects.to_string(), "2");
}
