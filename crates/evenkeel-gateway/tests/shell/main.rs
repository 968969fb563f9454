//! The gateway on real sockets: clients, endpoints and faults between them.
#![expect(clippy::unwrap_used, reason = "tests")]

mod answers;
mod backend;
mod client;
mod patience;
mod programs;
mod requests;
mod script;
mod tcp;

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use backend::Backend;
use client::{Client, Reply};
use evenkeel_gateway::engine::{EndpointState, Switches};
use evenkeel_gateway::shell::{BindError, Gateway, Lag, Settings};
use evenkeel_gateway::standalone::Standalone;

/// A gateway in front of backends, and how to reach it.
struct Scene {
    gateway: Gateway,
    served: Standalone,
    generation: u64,
    address: SocketAddr,
}

impl Scene {
    fn new(backends: &[&Backend]) -> Self {
        Self::with(Settings::default(), backends)
    }

    fn with(settings: Settings, backends: &[&Backend]) -> Self {
        let endpoints: Vec<SocketAddr> = backends.iter().map(|backend| backend.address).collect();
        let served = Standalone::new(SocketAddr::from(([127, 0, 0, 1], 0)), &endpoints);
        let gateway = Gateway::start(settings).unwrap();
        let mut scene =
            Self { gateway, served, generation: 0, address: SocketAddr::from(([0; 4], 0)) };
        scene.apply();
        scene.address = scene.gateway.addresses()[&scene.served.listen];
        scene
    }

    /// Applies what is served now and waits until every worker runs it.
    fn apply(&mut self) {
        self.generation += 1;
        let errors = self.gateway.apply(&self.served.snapshot(self.generation));
        assert!(errors.is_empty(), "{errors:?}");
        let generation = self.generation;
        wait(&self.gateway, |gateway| gateway.acknowledged() >= generation);
    }

    fn client(&self) -> Client {
        Client::connect(self.address)
    }
}

/// Waits for something that progress brings.
fn wait(gateway: &Gateway, done: impl Fn(&Gateway) -> bool) {
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let mut progress = gateway.progress();
    runtime.block_on(progress.wait_for(|_| done(gateway))).unwrap();
}

#[test]
fn requests_and_answers_pass_unchanged_except_for_the_hop() {
    let backend = Backend::start();
    let scene = Scene::new(&[&backend]);
    let mut client = scene.client();
    let reply = client.send(
        "PUT /echo?x=1 HTTP/1.1\r\nHost: shop.example\r\nX-Own: 1\r\nConnection: x-hop\r\nX-Hop: 2\r\n\
         X-Forwarded-For: 10.0.0.9\r\nContent-Length: 5\r\n\r\nhello",
    );
    assert_eq!(reply.status, 200);
    let seen = reply.text();
    assert!(seen.starts_with("PUT /echo?x=1 HTTP/1.1\r\nhost: shop.example\r\n"), "{seen}");
    assert!(seen.contains("\r\nx-own: 1\r\n") && !seen.contains("x-hop"), "{seen}");
    assert!(seen.contains("\r\nx-forwarded-for: 10.0.0.9, 127.0.0.1\r\n"), "{seen}");
    assert!(seen.ends_with("\r\n\r\nhello"), "{seen}");
    assert_eq!(reply.header("x-backend"), Some(backend.address.to_string().as_str()));
    assert_eq!(reply.header("keep-alive"), None);
    // Errors of the application reach the client as they are.
    assert_eq!(client.get("/status/404").status, 404);
    let own = client.get("/status/500");
    assert_eq!((own.status, own.text().as_str()), (500, "status 500"));
    // Without a body, and asked for without one.
    assert_eq!(client.get("/status/204").status, 204);
    let head = client.send("HEAD /echo HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!((head.status, head.body.len()), (200, 0));
    assert!(head.header("content-length").is_some());
}

#[test]
fn large_and_chunked_bodies_stream_both_ways() {
    let backend = Backend::start();
    let scene = Scene::new(&[&backend]);
    let mut client = scene.client();
    let big = "0123456789".repeat(50_000);
    let sized =
        format!("POST /count HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n{big}", big.len());
    assert_eq!(client.send(&sized).text(), "500000");
    let mut chunked =
        "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_owned();
    for part in big.as_bytes().chunks(7_001) {
        let part = std::str::from_utf8(part).unwrap();
        write!(chunked, "{:x}\r\n{part}\r\n", part.len()).unwrap();
    }
    chunked.push_str("0\r\n\r\n");
    assert_eq!(client.send(&chunked).text(), "500000");
    let small = "POST /count HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(client.send(small).text(), "3");
    for kind in ["sized", "chunked", "closed"] {
        let reply = client.get(&format!("/big/{kind}"));
        assert_eq!((reply.status, reply.body.len()), (200, 300_000), "{kind}");
    }
}

#[test]
fn connections_to_endpoints_are_kept_and_stale_ones_do_no_harm() {
    let backend = Backend::start();
    let scene = Scene::with(Settings { workers: 1, ..Settings::default() }, &[&backend]);
    let mut client = scene.client();
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
    }
    assert_eq!(backend.connections(), 1);
    // The endpoint closes it while it is idle: the next request must not notice, whatever its method.
    for method in ["GET", "POST"] {
        backend.close_connections();
        let reply = client.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(reply.status, 200, "{method}");
    }
    // The endpoint says it will close: not used again.
    let before = backend.connections();
    client.get("/close");
    client.get("/");
    assert_eq!(backend.connections(), before + 1);
}

#[test]
fn a_backend_that_dies_in_a_request_costs_no_get_and_no_keyed_post() {
    let dying = Backend::start();
    let living = Backend::start();
    let scene = Scene::new(&[&dying, &living]);
    let mut client = scene.client();
    dying.die_in_requests(true);
    for _ in 0..20 {
        assert_eq!(client.get("/").status, 200);
        let keyed =
            "POST / HTTP/1.1\r\nHost: a\r\nIdempotency-Key: 7\r\nContent-Length: 2\r\n\r\nhi";
        assert_eq!(client.send(keyed).status, 200);
    }
    // An unkeyed POST is lost exactly when it was sent to the dying one, and never repeated.
    let before = (dying.requests(), living.requests());
    let plain = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nhi";
    let statuses: Vec<u16> = (0..10).map(|_| client.send(plain).status).collect();
    let lost = u32::try_from(statuses.iter().filter(|status| **status == 502).count()).unwrap();
    assert_eq!(dying.requests() - before.0, lost, "{statuses:?}");
    assert_eq!(living.requests() - before.1, 10 - lost, "{statuses:?}");
}

#[test]
fn a_backend_that_is_gone_costs_nothing_at_all() {
    let gone = Backend::start();
    let there = Backend::start();
    let scene = Scene::new(&[&gone, &there]);
    let mut client = scene.client();
    for _ in 0..4 {
        assert_eq!(client.get("/").status, 200);
    }
    gone.stop();
    for index in 0..50 {
        let method = if index % 2 == 0 { "GET" } else { "POST" };
        let reply =
            client.send(&format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx"));
        assert_eq!(reply.status, 200, "{method} {index}");
    }
    there.stop();
    let reply = client.get("/");
    assert_eq!((reply.status, reply.header("retry-after")), (503, Some("1")));
}

#[test]
fn an_answer_that_breaks_off_is_not_passed_off_as_whole() {
    let backend = Backend::start();
    let scene = Scene::new(&[&backend]);
    for path in ["/cut/sized", "/cut/chunked"] {
        let mut client = scene.client();
        client.write(&format!("GET {path} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert!(client.read().is_none(), "{path}");
    }
    // Nonsense instead of HTTP is a bad gateway, not a hang.
    assert_eq!(scene.client().get("/nonsense").status, 502);
}

#[test]
fn a_silent_backend_is_given_up_after_the_timeout() {
    let silent = Backend::start();
    let mut scene = Scene::new(&[&silent]);
    let mut snapshot = (*scene.served.snapshot(2)).clone();
    let listener = snapshot.listeners.values_mut().next().unwrap();
    let mut rule = listener.rules()[0].clone();
    rule.timeout = Some(Duration::from_millis(50));
    *listener = evenkeel_gateway::engine::Listener::new("default", "static", vec![rule]);
    scene.generation = 2;
    scene.gateway.apply(&Arc::new(snapshot));
    wait(&scene.gateway, |gateway| gateway.acknowledged() == 2);
    assert_eq!(scene.client().get("/silent").status, 504);
    assert_eq!(scene.client().get("/").status, 200);
}

#[test]
fn configurations_change_under_load_without_loss() {
    let backends: Vec<Backend> = (0..4).map(|_| Backend::start()).collect();
    let mut scene = Scene::new(&backends.iter().collect::<Vec<_>>());
    let stop = Arc::new(AtomicBool::new(false));
    let failed = Arc::new(AtomicU32::new(0));
    let served = Arc::new(AtomicU32::new(0));
    let clients: Vec<_> = ["GET", "POST", "GET", "POST"]
        .into_iter()
        .map(|method| {
            let (stop, failed, served) = (stop.clone(), failed.clone(), served.clone());
            let mut client = scene.client();
            std::thread::spawn(move || {
                while !stop.load(Ordering::SeqCst) {
                    let request =
                        format!("{method} / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
                    let status = client.send(&request).status;
                    served.fetch_add(1, Ordering::SeqCst);
                    failed.fetch_add(u32::from(status != 200), Ordering::SeqCst);
                }
            })
        })
        .collect();
    for round in 0..40_usize {
        let endpoints: Vec<SocketAddr> =
            (0..2).map(|n| backends[(round + n) % 4].address).collect();
        scene.served = Standalone::new(scene.served.listen, &endpoints);
        scene.apply();
        // Every worker has confirmed: nobody else is asked from here on.
        let before: u32 = backends.iter().map(Backend::requests).sum();
        while backends.iter().map(Backend::requests).sum::<u32>() < before + 10 {
            std::thread::yield_now();
        }
    }
    stop.store(true, Ordering::SeqCst);
    for client in clients {
        client.join().unwrap();
    }
    assert!(served.load(Ordering::SeqCst) >= 400);
    assert_eq!(failed.load(Ordering::SeqCst), 0);
}

#[test]
fn a_drained_backend_is_empty_and_stays_so() {
    let leaving = Backend::start();
    let staying = Backend::start();
    let mut scene = Scene::new(&[&leaving, &staying]);
    // Long requests: half of them on the one that leaves.
    let mut waiting: Vec<Client> = (0..6).map(|_| scene.client()).collect();
    for client in &mut waiting {
        client.write("POST /hold HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    }
    while leaving.held() + staying.held() < 6 {
        std::thread::yield_now();
    }
    let held = leaving.held();
    assert!(held > 0);
    scene.served.endpoints[0].1 = EndpointState::Draining;
    scene.apply();
    assert_eq!(scene.gateway.in_flight(leaving.address), held);
    let before = leaving.requests();
    for _ in 0..20 {
        assert_eq!(scene.client().get("/").status, 200);
    }
    assert_eq!(leaving.requests(), before, "a draining backend got a new request");
    leaving.release();
    staying.release();
    wait(&scene.gateway, |gateway| gateway.in_flight(leaving.address) == 0);
    // Now it can go, with its connections, and nobody notices.
    leaving.stop();
    for mut client in waiting {
        assert_eq!(client.read().unwrap().status, 200);
    }
    assert_eq!(scene.client().get("/").status, 200);
}

#[test]
fn a_late_worker_holds_back_the_confirmation() {
    let (old, new) = (Backend::start(), Backend::start());
    let lag = Some(Lag { worker: 1, delay: Duration::from_millis(300) });
    let mut scene = Scene::with(Settings { lag, ..Settings::default() }, &[&old]);
    scene.served = Standalone::new(scene.served.listen, &[new.address]);
    scene.generation += 1;
    scene.gateway.apply(&scene.served.snapshot(scene.generation));
    assert_eq!(scene.gateway.acknowledged(), 1);
    wait(&scene.gateway, |gateway| gateway.acknowledged() == 2);
    let before = old.requests();
    for _ in 0..20 {
        assert_eq!(scene.client().get("/").status, 200);
    }
    assert_eq!(old.requests(), before);
}

#[test]
fn websockets_and_other_upgrades_pass() {
    let backend = Backend::start();
    let scene = Scene::new(&[&backend]);
    let mut client = scene.client();
    client.write(
        "GET /upgrade HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    );
    let reply = client.read_head();
    assert!(reply.starts_with("HTTP/1.1 101 "), "{reply}");
    assert!(reply.contains("upgrade: websocket"), "{reply}");
    client.write("ping");
    assert_eq!(client.read_exactly(8), b"pongping");
    assert_eq!(scene.gateway.in_flight(backend.address), 1);
    drop(client);
    wait_until(|| scene.gateway.in_flight(backend.address) == 0);
}

#[test]
fn clients_are_sent_away_with_an_answer_not_without_one() {
    let backend = Backend::start();
    let scene = Scene::new(&[&backend]);
    let mut client = scene.client();
    assert_eq!(client.get("/").header("connection"), None);
    scene.gateway.close_clients();
    wait_until(|| scene.client().get("/").header("connection") == Some("close"));
    // The idle connection was left alone; its next request is answered.
    let Reply { status, .. } = client.get("/");
    assert_eq!(status, 200);
}

#[test]
fn an_address_in_use_is_said_and_tried_again() {
    let other = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap();
    let backend = Backend::start();
    let gateway = Gateway::start(Settings::default()).unwrap();
    let served = Standalone::new(taken, &[backend.address]);
    assert_eq!(gateway.apply(&served.snapshot(1))[&taken], BindError::InUse(taken));
    drop(other);
    assert!(gateway.apply(&served.snapshot(2)).is_empty());
    wait(&gateway, |gateway| gateway.acknowledged() == 2);
    assert_eq!(Client::connect(taken).get("/").status, 200);
    // An address that is no longer configured is closed.
    let nothing = evenkeel_gateway::engine::Snapshot { generation: 3, ..Default::default() };
    gateway.apply(&Arc::new(nothing));
    wait(&gateway, |gateway| gateway.acknowledged() == 3);
    wait_until(|| std::net::TcpStream::connect(taken).is_err());
}

#[test]
fn without_retries_failures_are_seen() {
    let (dying, living) = (Backend::start(), Backend::start());
    let switches = Switches { retries: false, ..Switches::default() };
    let scene = Scene::with(Settings { switches, ..Settings::default() }, &[&dying, &living]);
    dying.die_in_requests(true);
    let statuses: Vec<u16> = (0..4).map(|_| scene.client().get("/").status).collect();
    assert!(statuses.contains(&502), "{statuses:?}");
}

/// For what no watch reports: the system closing sockets, tasks ending.
fn wait_until(done: impl Fn() -> bool) {
    while !done() {
        std::thread::yield_now();
    }
}
