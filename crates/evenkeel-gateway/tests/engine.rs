//! Decisions of the engine, as tables and properties.
#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

#[path = "engine/connections.rs"]
mod connections;
#[path = "engine/protocol.rs"]
mod protocol;
#[path = "engine/routing.rs"]
mod routing;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use evenkeel_gateway::engine::{
    Answer, Attempted, Backend, Connection, End, Endpoint, EndpointState, Engine, Filters,
    Listener, Match, Meta, Outcome, PathChange, PathMatch, Pattern, Pool, PoolKey, Redirect,
    Request, Rewrite, Rule, Section, SmoothWeights, Snapshot, Step, Surroundings, Switches,
    TextMatch,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use insta::assert_snapshot;
use proptest::prelude::*;

const LISTEN: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 80);

fn endpoint(port: u16) -> SocketAddr {
    SocketAddr::from(([127, 0, 1, 1], port))
}

/// One rule over pools of these sizes with these weights; pool p has endpoints p*100+1, p*100+2 ...
fn snapshot(pools: &[(u16, u32)], state: impl Fn(u16) -> Option<EndpointState>) -> Snapshot {
    let mut backends = Vec::new();
    let mut all = Vec::new();
    for (index, (size, weight)) in pools.iter().enumerate() {
        let base = (u16::try_from(index).unwrap() + 1) * 100;
        let endpoints = (1..=*size).filter_map(|n| {
            let state = state(base + n)?;
            Some(Endpoint {
                address: endpoint(base + n),
                workload: format!("app-{index}").into(),
                state,
            })
        });
        let key = PoolKey::new("shop", &format!("svc-{index}"), 80);
        all.push(Pool { key, endpoints: endpoints.collect() });
        backends.push(Backend::new(index, *weight));
    }
    let rule = Rule { route: "shop/r".into(), backends, ..Rule::default() };
    let listener = Listener::new("shop", "api", vec![rule]);
    Snapshot { generation: 1, pools: all, listeners: [(LISTEN, listener)].into() }
}

fn ready(pools: &[(u16, u32)]) -> Snapshot {
    snapshot(pools, |_| Some(EndpointState::Ready))
}

fn engine(snapshot: Snapshot) -> Engine {
    let mut engine = Engine::new(Surroundings::default());
    engine.apply(Duration::ZERO, Arc::new(snapshot));
    engine
}

fn with_rules(rules: Vec<Rule>) -> Engine {
    let mut snapshot = ready(&[(1, 1), (1, 1), (1, 1), (1, 1), (1, 1), (1, 1)]);
    snapshot.listeners = [(LISTEN, Listener::new("shop", "api", rules))].into();
    engine(snapshot)
}

fn start(engine: &mut Engine, now: Duration, method: &Method, keyed: bool) -> (Request, Step) {
    let mut headers = HeaderMap::new();
    if keyed {
        headers.insert("idempotency-key", HeaderValue::from_static("1"));
    }
    let meta = Meta { method, path: "/", query: None, host: None, headers: &headers };
    engine.start(now, LISTEN, &meta)
}

/// Plays a request whose attempts end as `script` says: `refused`, `unsent`, `cut` (sent, then
/// broken), `stale` (an idle connection that was closed), `late`, or a status. `!` after a word: the
/// body cannot be sent again. Returns the endpoints' ports and the end.
fn play(engine: &mut Engine, request: &str, script: &str) -> String {
    let (method, keyed) = match request.strip_suffix("+key") {
        Some(method) => (method, true),
        None => (request, false),
    };
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let now = Duration::from_secs(1);
    let (mut request, mut step) = start(engine, now, &method, keyed);
    let mut shown = Vec::new();
    let mut words = script.split_whitespace();
    loop {
        match step {
            Step::Attempt(attempt) => {
                let fresh = if attempt.connection == Connection::Validated { "v" } else { "" };
                let word = words.next().unwrap_or("200");
                shown.push(format!("{}{fresh}", attempt.endpoint.port()));
                let (word, replayable) = match word.strip_suffix('!') {
                    Some(word) => (word, false),
                    None => (word, true),
                };
                let outcome = match word {
                    "refused" => Outcome::Refused,
                    "unsent" => Outcome::Broken { sent: false, reused: true },
                    "cut" => Outcome::Broken { sent: true, reused: false },
                    "stale" => Outcome::Broken { sent: true, reused: true },
                    "late" => Outcome::TimedOut,
                    status => Outcome::Head { status: status.parse().unwrap() },
                };
                step = engine.on_result(now, &mut request, Attempted { outcome, replayable });
            }
            Step::Respond => {
                engine.finish(now, &mut request, End::Complete);
                shown.push("pass".to_owned());
                return shown.join(" ");
            }
            Step::Answer(answer) => {
                shown.push(format!("answer {}", answer.status()));
                return shown.join(" ");
            }
        }
    }
}

#[test]
fn what_is_safe_is_repeated_elsewhere_and_nothing_else_is() {
    let one = |request: &str, script: &str| play(&mut engine(ready(&[(3, 1)])), request, script);
    // GET: everything before the head, and server errors, while another endpoint is left.
    assert_snapshot!(one("GET", "refused"), @"101 102v pass");
    assert_snapshot!(one("GET", "cut"), @"101 102v pass");
    assert_snapshot!(one("GET", "stale"), @"101 102v pass");
    assert_snapshot!(one("GET", "late"), @"101 102v pass");
    assert_snapshot!(one("GET", "503 500"), @"101 102v 103v pass");
    assert_snapshot!(one("GET", "500 500 500"), @"101 102v 103v pass");
    assert_snapshot!(one("GET", "refused refused refused"), @"101 102v 103v answer 503");
    assert_snapshot!(one("GET", "cut cut cut"), @"101 102v 103v answer 502");
    assert_snapshot!(one("GET", "404"), @"101 pass");
    assert_snapshot!(one("GET", "501"), @"101 pass");
    // POST: only what was provably not processed.
    assert_snapshot!(one("POST", "refused"), @"101v 102v pass");
    assert_snapshot!(one("POST", "unsent"), @"101v 102v pass");
    assert_snapshot!(one("POST", "cut"), @"101v answer 502");
    assert_snapshot!(one("POST", "500"), @"101v pass");
    assert_snapshot!(one("POST", "late"), @"101v answer 504");
    // A key makes it safe; a body that is gone makes it impossible.
    assert_snapshot!(one("POST+key", "cut"), @"101 102v pass");
    assert_snapshot!(one("POST+key", "500"), @"101 102v pass");
    assert_snapshot!(one("PUT", "cut!"), @"101 answer 502");
    assert_snapshot!(one("PUT", "500!"), @"101 pass");
}

#[test]
fn a_server_error_is_tried_on_another_version_first() {
    let mut both = engine(ready(&[(2, 50), (2, 50)]));
    assert_snapshot!(play(&mut both, "GET", "500"), @"101 201v pass");
    assert_snapshot!(play(&mut both, "GET", "refused"), @"202 201v pass");
    // A backend without weight is not an alternative.
    let mut one = engine(ready(&[(1, 100), (2, 0)]));
    assert_snapshot!(play(&mut one, "GET", "500"), @"101 pass");
}

#[test]
fn an_empty_share_goes_to_the_others_and_nothing_at_all_is_503() {
    let mut half = engine(ready(&[(1, 50), (0, 50)]));
    assert_snapshot!(play(&mut half, "POST", ""), @"101v pass");
    assert_snapshot!(play(&mut half, "POST", ""), @"101v pass");
    assert_snapshot!(play(&mut engine(ready(&[(0, 1)])), "GET", ""), @"answer 503");
    let invalid =
        Rule { backends: vec![Backend { pool: None, ..Backend::new(0, 1) }], ..Rule::default() };
    assert_snapshot!(play(&mut with_rules(vec![invalid]), "GET", ""), @"answer 500");
    assert_snapshot!(play(&mut with_rules(vec![Rule::default()]), "GET", ""), @"answer 500");
    assert_snapshot!(play(&mut with_rules(vec![]), "GET", ""), @"answer 404");
}

#[test]
fn without_retries_the_first_attempt_is_the_last() {
    let switches = Switches { retries: false, ..Switches::default() };
    let mut engine = Engine::new(Surroundings { switches, ..Surroundings::default() });
    engine.apply(Duration::ZERO, Arc::new(ready(&[(3, 1), (1, 1)])));
    assert_snapshot!(play(&mut engine, "GET", "refused"), @"101 answer 503");
    assert_snapshot!(play(&mut engine, "GET", "500"), @"201 pass");
}

#[test]
fn terminating_endpoints_are_the_last_resort_and_draining_ones_none() {
    use EndpointState::{Draining, Ready, Terminating};
    let states = |a, b| snapshot(&[(2, 1)], move |n| Some(if n == 101 { a } else { b }));
    let four = |snapshot| {
        let mut engine = engine(snapshot);
        (0..4).map(|_| play(&mut engine, "GET", "")).collect::<Vec<_>>().join(", ")
    };
    assert_snapshot!(four(states(Ready, Terminating)), @"101 pass, 101 pass, 101 pass, 101 pass");
    assert_snapshot!(four(states(Draining, Terminating)), @"102 pass, 102 pass, 102 pass, 102 pass");
    assert_snapshot!(four(states(Draining, Draining)), @"answer 503, answer 503, answer 503, answer 503");
}

#[test]
fn a_refusing_endpoint_is_out_for_a_second_then_twice_as_long() {
    let mut engine = engine(ready(&[(3, 1)]));
    let mut asked = Vec::new();
    for tenth in 0..60_u32 {
        let now = Duration::from_millis(100) * tenth;
        let (mut request, step) = start(&mut engine, now, &Method::GET, false);
        let Step::Attempt(attempt) = step else { panic!("{step:?}") };
        let refused = attempt.endpoint == endpoint(102);
        if refused {
            asked.push(tenth);
        }
        let outcome = if refused { Outcome::Refused } else { Outcome::Head { status: 200 } };
        let step = engine.on_result(now, &mut request, Attempted { outcome, replayable: true });
        if let Step::Attempt(_) = step {
            let outcome = Outcome::Head { status: 200 };
            engine.on_result(now, &mut request, Attempted { outcome, replayable: true });
        }
        engine.finish(now, &mut request, End::Complete);
    }
    // In tenths of a second: at once, after 1 s, after 2 s more.
    assert_snapshot!(format!("{asked:?}"), @"[1, 11, 31]");
}

#[test]
fn ejection_stops_at_half_of_a_pool() {
    let mut engine = engine(ready(&[(4, 1)]));
    for _ in 0..40 {
        play(&mut engine, "POST", "500");
    }
    // All four fail; two are out, two are still asked.
    let mut asked: Vec<String> = (0..8).map(|_| play(&mut engine, "POST", "500")).collect();
    asked.sort();
    asked.dedup();
    assert_eq!(asked.len(), 2, "{asked:?}");
}

#[test]
fn retries_stay_within_their_budget() {
    let mut engine = engine(ready(&[(3, 1)]));
    let mut attempts = 0;
    for _ in 0..1_000 {
        attempts += play(&mut engine, "GET", "500 500 500 500").split(' ').count() - 1;
    }
    // 1000 requests, 10 retries to begin with, 10 for the first second, a fifth of the requests.
    assert!((1_180..=1_225).contains(&attempts), "{attempts}");
}

#[test]
fn a_new_endpoint_starts_slowly() {
    let mut engine = engine(snapshot(&[(3, 1)], |n| (n != 103).then_some(EndpointState::Ready)));
    engine.apply(Duration::from_secs(100), Arc::new(ready(&[(3, 1)])));
    let mut share = |second: u64| {
        let mut hits = 0;
        for _ in 0..300 {
            let now = Duration::from_secs(100 + second);
            let (mut request, step) = start(&mut engine, now, &Method::GET, false);
            let Step::Attempt(attempt) = step else { panic!("{step:?}") };
            hits += u32::from(attempt.endpoint == endpoint(103));
            let outcome = Outcome::Head { status: 200 };
            engine.on_result(now, &mut request, Attempted { outcome, replayable: true });
            engine.finish(now, &mut request, End::Complete);
        }
        hits
    };
    let shares: Vec<u32> = [0, 5, 10].into_iter().map(&mut share).collect();
    assert_snapshot!(format!("{shares:?}"), @"[14, 60, 100]");
}

#[test]
fn a_drained_endpoint_reports_when_it_is_empty() {
    let mut engine = engine(ready(&[(2, 1)]));
    let now = Duration::from_secs(1);
    let (mut first, _) = start(&mut engine, now, &Method::GET, false);
    assert_eq!((engine.in_flight(endpoint(101)), engine.in_flight(endpoint(102))), (1, 0));
    let draining = |n| Some(if n == 101 { EndpointState::Draining } else { EndpointState::Ready });
    engine.apply(now, Arc::new(snapshot(&[(2, 1)], draining)));
    assert!(!engine.in_use(endpoint(101)) && !engine.take_emptied());
    for _ in 0..5 {
        assert_eq!(play(&mut engine, "GET", ""), "102 pass");
    }
    engine.on_result(
        now,
        &mut first,
        Attempted { outcome: Outcome::Head { status: 200 }, replayable: true },
    );
    assert_eq!(engine.in_flight(endpoint(101)), 1);
    engine.finish(now, &mut first, End::Complete);
    assert_eq!(engine.in_flight(endpoint(101)), 0);
    assert!(engine.take_emptied() && !engine.take_emptied());
}

#[test]
fn a_retry_finds_endpoints_that_came_later() {
    let mut engine = engine(ready(&[(1, 1)]));
    let now = Duration::from_secs(1);
    let (mut request, _) = start(&mut engine, now, &Method::GET, false);
    // Meanwhile the only pod was replaced.
    let replaced = snapshot(&[(2, 1)], |n| (n == 102).then_some(EndpointState::Ready));
    engine.apply(now, Arc::new(replaced));
    let cut = Outcome::Broken { sent: true, reused: false };
    let step = engine.on_result(now, &mut request, Attempted { outcome: cut, replayable: true });
    let Step::Attempt(attempt) = step else { panic!("{step:?}") };
    assert_eq!(attempt.endpoint, endpoint(102));
}

#[test]
fn attempts_and_requests_are_counted_apart() {
    let surroundings = Surroundings::default();
    let metrics = Arc::clone(&surroundings.metrics);
    let mut engine = Engine::new(surroundings);
    engine.apply(Duration::ZERO, Arc::new(ready(&[(1, 1), (1, 1)])));
    play(&mut engine, "GET", "500");
    play(&mut engine, "GET", "200");
    let counters = |name: &str| {
        let mut lines = String::new();
        metrics.samples(|sample| {
            if sample.name == name {
                let labels: Vec<&str> =
                    sample.labels.iter().map(|(_, value)| value.as_str()).collect();
                writeln!(lines, "{} {}", labels.join(" "), sample.value).unwrap();
            }
        });
        lines
    };
    assert_snapshot!(counters("istio_requests_total"), @r"
    destination app-0 shop svc-0 shop http 500 - 1
    destination app-1 shop svc-1 shop http 200 - 2
    ");
    assert_snapshot!(counters("evenkeel_gateway_requests_total"), @"shop api 200 - 2");
    assert_snapshot!(counters("evenkeel_gateway_retries_total"), @"shop api 1");
    let text = metrics.render();
    assert!(text.contains("# TYPE istio_request_duration_milliseconds histogram\n"), "{text}");
    assert!(text.contains(",le=\"500\"} 2\n"), "{text}");
}

proptest! {
    #[test]
    fn shares_are_exact_in_every_period(weights in prop::collection::vec(0_u32..20, 1..5), skip in 0_usize..50) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let mut choice = SmoothWeights::new(weights.clone());
        for _ in 0..skip {
            choice.choose();
        }
        let mut counts = vec![0; weights.len()];
        for _ in 0..total {
            counts[choice.choose().unwrap()] += 1;
        }
        prop_assert_eq!(counts, weights);
    }

    #[test]
    fn ten_percent_is_one_in_every_ten(skip in 0_usize..100) {
        let mut engine = engine(ready(&[(3, 90), (2, 10)]));
        let canary = |engine: &mut Engine| play(engine, "GET", "").starts_with('2');
        for _ in 0..skip {
            canary(&mut engine);
        }
        prop_assert_eq!((0..10).filter(|_| canary(&mut engine)).count(), 1);
    }

    /// Whatever happens: no endpoint twice, an unsafe request never again after a byte was sent, the
    /// client gets one answer, and nothing stays in flight.
    #[test]
    fn retries_keep_their_rules(
        sizes in prop::collection::vec(0_u16..4, 1..3),
        post in any::<bool>(),
        keyed in any::<bool>(),
        script in prop::collection::vec(0_u8..7, 0..8),
        drained in prop::option::of(101_u16..104),
    ) {
        let pools: Vec<(u16, u32)> = sizes.iter().map(|size| (*size, 1)).collect();
        let mut engine = engine(ready(&pools));
        let method = if post { Method::POST } else { Method::GET };
        let now = Duration::from_secs(1);
        let (mut request, mut step) = start(&mut engine, now, &method, keyed);
        let mut asked: BTreeMap<SocketAddr, u32> = BTreeMap::new();
        let mut sent_before = false;
        let mut script = script.into_iter();
        let mut responds = 0;
        while let Step::Attempt(attempt) = step {
            *asked.entry(attempt.endpoint).or_default() += 1;
            prop_assert!(!sent_before || !post || keyed, "an unsafe request was repeated");
            prop_assert_eq!(engine.in_flight(attempt.endpoint), 1);
            let outcome = match script.next().unwrap_or(0) {
                0 => Outcome::Head { status: 200 },
                1 => Outcome::Refused,
                2 => Outcome::Broken { sent: true, reused: false },
                3 => Outcome::Broken { sent: false, reused: true },
                4 => Outcome::Head { status: 500 },
                5 => Outcome::TimedOut,
                _ => Outcome::Head { status: 503 },
            };
            sent_before |= !matches!(outcome, Outcome::Refused | Outcome::Broken { sent: false, .. });
            if let Some(drained) = drained {
                let state = |n| Some(if n == drained { EndpointState::Draining } else { EndpointState::Ready });
                engine.apply(now, Arc::new(snapshot(&pools, state)));
            }
            step = engine.on_result(now, &mut request, Attempted { outcome, replayable: true });
            if let (Step::Attempt(next), Some(drained)) = (&step, drained) {
                prop_assert_ne!(next.endpoint, endpoint(drained));
            }
            responds += u32::from(step == Step::Respond);
        }
        prop_assert!(responds <= 1);
        prop_assert!(asked.values().all(|times| *times == 1), "{:?}", asked);
        engine.finish(now, &mut request, End::Complete);
        for address in asked.keys() {
            prop_assert_eq!(engine.in_flight(*address), 0);
        }
    }
}
