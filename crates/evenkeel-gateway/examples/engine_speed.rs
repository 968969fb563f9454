//! How long one request takes in the engine alone: what a simulation pays. `engine_speed [REQUESTS]`.

use std::error::Error;
use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use evenkeel_gateway::engine::{
    Attempted, Backend, End, Endpoint, EndpointState, Engine, Listener, Meta, Outcome, Pool,
    PoolKey, Rule, Snapshot, Step, Surroundings,
};
use http::{HeaderMap, Method};

fn main() -> Result<(), Box<dyn Error>> {
    let requests: u32 = std::env::args().nth(1).map_or(Ok(5_000_000), |text| text.parse())?;
    let listen = SocketAddr::from(([127, 9, 0, 1], 80));
    let pool = |name: &str, net: u8| Pool {
        key: PoolKey::new("shop", name, 80),
        endpoints: (1..=3)
            .map(|host| Endpoint {
                address: SocketAddr::from(([127, 1, net, host], 8080)),
                workload: name.into(),
                state: EndpointState::Ready,
            })
            .collect(),
    };
    let backends = vec![Backend::new(0, 90), Backend::new(1, 10)];
    let rule = Rule { route: "shop/api".into(), backends, ..Rule::default() };
    let snapshot = Snapshot {
        generation: 1,
        pools: vec![pool("primary", 1), pool("canary", 2)],
        listeners: [(listen, Listener::new("shop", "api", vec![rule]))].into(),
    };
    let mut engine = Engine::new(Surroundings::default());
    engine.apply(Duration::ZERO, Arc::new(snapshot));
    let headers = HeaderMap::new();
    let meta = Meta { method: &Method::GET, path: "/", query: None, host: None, headers: &headers };
    let begin = Instant::now();
    let mut attempts = 0_u64;
    for index in 0..requests {
        let now = Duration::from_millis(u64::from(index));
        let (mut request, mut step) = engine.start(now, listen, &meta);
        while let Step::Attempt(attempt) = step {
            attempts += 1;
            // One attempt in a hundred fails, on the canary.
            let canary = attempt.endpoint.ip() == SocketAddr::from(([127, 1, 2, 1], 0)).ip();
            let status = if canary && index % 3 == 0 { 500 } else { 200 };
            let outcome = Outcome::Head { status };
            step = engine.on_result(now, &mut request, Attempted { outcome, replayable: true });
        }
        engine.finish(now, &mut request, End::Complete);
    }
    let per_request = begin.elapsed().as_secs_f64() * 1e9 / f64::from(requests);
    writeln!(std::io::stdout(), "{per_request:.0} ns per request, {attempts} attempts")?;
    Ok(())
}
