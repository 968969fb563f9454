//! The gateway of simulations: same engines, other time.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Waker};
use std::time::Duration;

use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Timer};
use evenkeel_gateway::engine::{End, Meta, Outcome, Switches};
use evenkeel_gateway::simulated::{Reply, Sent, Simulated, Simulation};
use evenkeel_gateway::standalone::Standalone;
use evenkeel_gateway::{DataPlane, Lag, Progress};
use http::{HeaderMap, Method};
use jiff::{SignedDuration, Timestamp};

/// Seconds that pass when the test says so.
#[derive(Default)]
struct Steps(Mutex<i64>);

impl Clock for Steps {
    fn now(&self) -> Timestamp {
        Timestamp::from_second(1_000 + *self.0.lock().unwrap()).unwrap()
    }
}

/// Sleeps by moving the clock: whoever sleeps first decides.
struct Jump(Arc<Steps>);

impl Timer for Jump {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        let clock = Arc::clone(&self.0);
        Box::pin(async move {
            *clock.0.lock().unwrap() += SignedDuration::try_from(wait).unwrap().as_secs();
        })
    }
}

fn listen() -> SocketAddr {
    SocketAddr::from(([127, 9, 0, 1], 80))
}

fn scene(lag: Option<Lag>) -> (Simulated, Vec<SocketAddr>) {
    let clock = Arc::new(Steps::default());
    let timer = Arc::new(Jump(Arc::clone(&clock)));
    let switches = Switches::default();
    let gateway = Simulated::new(Simulation { clock, timer, workers: 2, switches, lag });
    let endpoints: Vec<SocketAddr> =
        (1..=3).map(|n| SocketAddr::from(([127, 1, 0, n], 80))).collect();
    gateway.apply(&Standalone::new(listen(), &endpoints).snapshot(1));
    (gateway, endpoints)
}

fn get(gateway: &Simulated, worker: usize, down: Option<SocketAddr>) -> Sent {
    let headers = HeaderMap::new();
    let meta = Meta { method: &Method::GET, path: "/", query: None, host: None, headers: &headers };
    gateway.send(worker, listen(), &meta, |endpoint, _| Reply {
        outcome: if down == Some(endpoint) {
            Outcome::Refused
        } else {
            Outcome::Head { status: 200 }
        },
        took: Duration::from_millis(5),
        end: End::Complete,
    })
}

#[test]
fn requests_pass_retry_and_take_their_time() {
    let (gateway, endpoints) = scene(None);
    let first = get(&gateway, 0, Some(endpoints[0]));
    assert_eq!((first.status, first.attempts, first.whole), (200, 2, true));
    assert_eq!(first.took, Duration::from_millis(10));
    assert_eq!(first.endpoint, Some(endpoints[1]));
    let text = gateway.metrics().render();
    assert!(text.contains("response_code=\"503\",response_flags=\"UF\"} 1\n"), "{text}");
    assert!(text.contains("evenkeel_gateway_requests_total{namespace=\"default\",service=\"static\",code=\"200\",flag=\"-\"} 1\n"), "{text}");
}

#[test]
fn a_late_worker_runs_the_old_configuration_until_it_does_not() {
    let lag = Some(Lag { worker: 1, delay: Duration::from_secs(45) });
    let (gateway, endpoints) = scene(lag);
    let mut cx = Context::from_waker(Waker::noop());
    assert_eq!(gateway.progress(), Progress::default());
    assert_eq!((get(&gateway, 0, None).status, get(&gateway, 1, None).status), (200, 404));
    // Waiting for it lets the time pass.
    assert!(pin!(gateway.progressed(Progress::default())).poll(&mut cx).is_ready());
    assert_eq!((gateway.now().as_secs(), gateway.progress().acknowledged), (45, 1));
    gateway.apply(&Standalone::new(listen(), &endpoints[..1]).snapshot(2));
    assert_eq!(get(&gateway, 0, None).endpoint, Some(endpoints[0]));
    assert_eq!(get(&gateway, 1, None).endpoint, Some(endpoints[1]));
    assert_eq!(gateway.progress().acknowledged, 1);
}
