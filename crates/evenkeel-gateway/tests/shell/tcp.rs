//! Connections through a Service's port that are not HTTP.

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Barrier, mpsc};
use std::time::Duration;

use evenkeel_gateway::engine::{EndpointState, Protocol};
use evenkeel_gateway::shell::{Gateway, Limits, Settings};
use evenkeel_gateway::standalone::Standalone;
use rustix::net::sockopt::set_socket_linger;

use crate::backend::Backend;
use crate::client::Client;
use crate::patience::patient;
use crate::{wait, wait_until};

const MB_10: usize = 10 << 20;

/// An endpoint whose connections a function serves, each in a thread of its own.
struct Peer {
    address: SocketAddr,
    connections: Arc<AtomicU32>,
}

impl Peer {
    fn start(serve: impl Fn(TcpStream) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicU32::new(0));
        let (serve, counter) = (Arc::new(serve), Arc::clone(&connections));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (serve, stream) = (Arc::clone(&serve), stream.unwrap());
                counter.fetch_add(1, Ordering::SeqCst);
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { address, connections }
    }

    /// Sends back what comes, to the end.
    fn echo() -> Self {
        Self::start(|mut stream| {
            let mut sink = stream.try_clone().unwrap();
            std::io::copy(&mut stream, &mut sink).unwrap_or_default();
            sink.shutdown(Shutdown::Write).unwrap_or_default();
        })
    }

    fn connections(&self) -> u32 {
        self.connections.load(Ordering::SeqCst)
    }
}

/// A port that nothing listens on.
fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// A gateway that serves a Service's port.
pub(crate) struct Service {
    gateway: Gateway,
    served: Standalone,
    generation: u64,
    pub(crate) address: SocketAddr,
}

impl Service {
    pub(crate) fn start(protocol: Protocol, endpoints: &[SocketAddr]) -> Self {
        Self::with(patient(), protocol, endpoints)
    }

    fn with(limits: Limits, protocol: Protocol, endpoints: &[SocketAddr]) -> Self {
        let gateway = Gateway::start(Settings { limits, ..Settings::default() }).unwrap();
        let mut served = Standalone::new(SocketAddr::from(([127, 0, 0, 1], 0)), endpoints);
        served.protocol = protocol;
        let address = served.listen;
        let mut service = Self { gateway, served, generation: 0, address };
        service.apply();
        service.address = service.gateway.addresses()[&service.served.listen];
        service
    }

    fn apply(&mut self) {
        self.generation += 1;
        assert!(self.gateway.apply(&self.served.snapshot(self.generation)).is_empty());
        let generation = self.generation;
        wait(&self.gateway, |gateway| gateway.acknowledged() >= generation);
    }

    fn connect(&self) -> TcpStream {
        TcpStream::connect(self.address).unwrap()
    }

    /// Lines of the metrics that contain this, without the rest of the names.
    fn counted(&self, what: &str) -> Vec<String> {
        let text = self.gateway.metrics().render();
        let lines = text.lines().filter(|line| line.contains(what) && !line.starts_with('#'));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.to_owned()).collect()
    }
}

/// Asks and reads to the end.
fn whole(mut stream: TcpStream, say: &[u8]) -> Vec<u8> {
    stream.write_all(say).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).unwrap();
    answer
}

fn reset_of(stream: &mut TcpStream) -> ErrorKind {
    match stream.read(&mut [0; 64]) {
        Ok(count) => unreachable!("{count} bytes instead of a reset"),
        Err(error) => error.kind(),
    }
}

#[test]
fn bytes_are_carried_at_once_and_unchanged() {
    let echo = Peer::echo();
    // Nobody waits here: the patience for a client's first byte is an hour.
    let service = Service::start(Protocol::Detect, &[echo.address]);
    for say in [
        b"*1\r\n$4\r\nPING\r\n".as_slice(),
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x00\x00\x00\x08\x04\xd2\x16\x2f",
        b"CONNECT db:5432 HTTP/1.1\r\n\r\n",
        b"",
    ] {
        assert_eq!(whole(service.connect(), say), say, "{say:?}");
    }
}

#[test]
fn a_server_that_speaks_first_is_heard() {
    let greeting = |mut stream: TcpStream| {
        stream.write_all(b"220 hello\r\n").unwrap();
        let mut line = [0; 6];
        stream.read_exact(&mut line).unwrap();
        stream.write_all(&line).unwrap();
    };
    let peer = Peer::start(greeting);
    let limits = Limits { opening: Duration::from_millis(20), ..patient() };
    for (limits, protocol) in [(limits, Protocol::Detect), (patient(), Protocol::Bytes)] {
        let service = Service::with(limits, protocol, &[peer.address]);
        let mut stream = service.connect();
        let mut line = [0; 11];
        stream.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"220 hello\r\n");
        // The first bytes of the client were not taken for anything.
        stream.write_all(b"GET /\n").unwrap();
        let mut rest = String::new();
        stream.read_to_string(&mut rest).unwrap();
        assert_eq!(rest, "GET /\n", "{protocol:?}");
    }
}

#[test]
fn each_side_ends_on_its_own() {
    // The endpoint ends first, and still gets what the client sends afterwards.
    let (send, received) = mpsc::channel();
    let peer = Peer::start(move |mut stream| {
        stream.write_all(b"bye").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).unwrap();
        send.send(rest).unwrap();
    });
    let service = Service::start(Protocol::Bytes, &[peer.address]);
    let mut stream = service.connect();
    let mut bye = Vec::new();
    stream.read_to_end(&mut bye).unwrap();
    assert_eq!(bye, b"bye");
    assert!(received.try_recv().is_err(), "the client has not ended");
    stream.write_all(b"and later").unwrap();
    drop(stream);
    assert_eq!(received.recv().unwrap(), b"and later");
    wait_until(|| service.counted("tcp_connections_open") == ["0"]);
}

#[test]
fn ten_megabytes_pass_both_ways_at_once() {
    let echo = Peer::echo();
    let service = Service::start(Protocol::Detect, &[echo.address]);
    let mut stream = service.connect();
    let bytes: Vec<u8> = (0..MB_10).map(|n| u8::try_from(n * 7 % 251).unwrap()).collect();
    let mut sink = stream.try_clone().unwrap();
    let said = bytes.clone();
    let saying = std::thread::spawn(move || {
        sink.write_all(&said).unwrap();
        sink.shutdown(Shutdown::Write).unwrap();
    });
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    saying.join().unwrap();
    assert!(heard == bytes, "{} of {MB_10} bytes", heard.len());
    let size = MB_10.to_string();
    assert_eq!(service.counted("tcp_bytes_total"), [size.clone(), size]);
}

#[test]
fn a_side_that_does_not_read_stops_the_other() {
    const MUCH: usize = 256 << 20;
    let (send, sent) = mpsc::channel();
    let peer = Peer::start(move |mut stream| {
        let chunk = vec![b'x'; 1 << 20];
        // Not for ever: what fits into the system's buffers, and the gateway's, is taken.
        stream.set_write_timeout(Some(Duration::from_millis(200))).unwrap();
        let mut total = 0;
        while total < MUCH {
            match stream.write(&chunk) {
                Ok(count) => total += count,
                Err(_) => break,
            }
        }
        send.send(total).unwrap();
    });
    let service = Service::start(Protocol::Bytes, &[peer.address]);
    let mut stream = service.connect();
    let total = sent.recv().unwrap();
    assert!(total < MUCH, "all {total} bytes were taken, and nobody read");
    let mut heard = Vec::new();
    stream.read_to_end(&mut heard).unwrap();
    assert_eq!(heard.len(), total);
}

#[test]
fn an_endpoint_that_refuses_is_followed_by_the_next() {
    let echo = Peer::echo();
    let service = Service::start(Protocol::Detect, &[nobody(), echo.address, nobody()]);
    for _ in 0..4 {
        assert_eq!(whole(service.connect(), b"hello"), b"hello");
    }
    assert_eq!(service.counted("tcp_connections_total"), ["4", "0", "0"]);
    assert_eq!(service.counted("tcp_connects_total"), ["4"]);
    // At most one of the three is left alone after that: never more than half.
    let failed: u32 = service.counted("tcp_connect_failures_total")[0].parse().unwrap();
    assert!((1..=8).contains(&failed), "{failed}");
}

/// Takes a second: the time that a connection attempt may take.
#[test]
fn an_endpoint_that_does_not_answer_is_followed_by_the_next() {
    let echo = Peer::echo();
    // Nobody accepts, and there is no room for more.
    let full = TcpListener::bind("127.0.0.1:0").unwrap();
    rustix::net::listen(&full, 0).unwrap();
    let silent = full.local_addr().unwrap();
    let moment = Duration::from_millis(50);
    let mut waiting = Vec::new();
    while let Ok(stream) = TcpStream::connect_timeout(&silent, moment) {
        waiting.push(stream);
    }
    let service = Service::start(Protocol::Detect, &[silent, echo.address]);
    for _ in 0..2 {
        assert_eq!(whole(service.connect(), b"hello"), b"hello");
    }
    assert_eq!(service.counted("tcp_connects_total"), ["2"]);
    assert_ne!(service.counted("tcp_connect_failures_total"), ["0"]);
}

#[test]
fn without_an_endpoint_the_connection_is_reset() {
    let service = Service::start(Protocol::Bytes, &[]);
    assert_eq!(reset_of(&mut service.connect()), ErrorKind::ConnectionReset);
    assert_eq!(service.counted("tcp_connections_total"), ["0", "0", "1"]);
    let refused = Service::start(Protocol::Bytes, &[nobody(), nobody()]);
    assert_eq!(reset_of(&mut refused.connect()), ErrorKind::ConnectionReset);
    assert_eq!(refused.counted("tcp_connections_total"), ["0", "1", "0"]);
}

#[test]
fn a_reset_is_passed_on_as_a_reset() {
    let peer = Peer::start(|mut stream| {
        stream.read_exact(&mut [0; 4]).unwrap();
        set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    });
    let service = Service::start(Protocol::Bytes, &[peer.address]);
    let mut stream = service.connect();
    stream.write_all(b"quit").unwrap();
    assert_eq!(reset_of(&mut stream), ErrorKind::ConnectionReset);
    // And the other way.
    let (send, seen) = mpsc::channel();
    let peer = Peer::start(move |mut stream| {
        stream.write_all(b"hi").unwrap();
        send.send(reset_of(&mut stream)).unwrap();
    });
    let service = Service::start(Protocol::Bytes, &[peer.address]);
    let mut stream = service.connect();
    stream.read_exact(&mut [0; 2]).unwrap();
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    assert_eq!(seen.recv().unwrap(), ErrorKind::ConnectionReset);
}

#[test]
fn a_client_that_is_lost_after_its_end_is_noticed() {
    let (send, ended) = mpsc::channel();
    let done = Arc::new(Barrier::new(2));
    let finish = Arc::clone(&done);
    // It says nothing, so that only the client's connection can tell.
    let peer = Peer::start(move |mut stream| {
        send.send(stream.read_to_end(&mut Vec::new()).unwrap()).unwrap();
        finish.wait();
    });
    let service = Service::start(Protocol::Bytes, &[peer.address]);
    let stream = service.connect();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(ended.recv().unwrap(), 0);
    set_socket_linger(&stream, Some(Duration::ZERO)).unwrap();
    drop(stream);
    wait_until(|| service.counted("tcp_connections_open") == ["0"]);
    done.wait();
}

#[test]
fn http_is_still_balanced_by_request_on_the_same_port() {
    let backends = [Backend::start(), Backend::start()];
    let endpoints = backends.each_ref().map(|one| one.address);
    for protocol in [Protocol::Detect, Protocol::Http] {
        let service = Service::start(protocol, &endpoints);
        let before = backends.each_ref().map(Backend::requests);
        let mut client = Client::connect(service.address);
        for _ in 0..10 {
            assert_eq!(client.get("/").status, 200);
        }
        let after = backends.each_ref().map(Backend::requests);
        assert_eq!([after[0] - before[0], after[1] - before[1]], [5, 5], "{protocol:?}");
        assert!(service.counted("tcp_").is_empty());
    }
}

#[test]
fn a_request_that_arrives_in_pieces_is_http() {
    let backends = [Backend::start(), Backend::start()];
    let service = Service::start(Protocol::Detect, &backends.each_ref().map(|one| one.address));
    let mut client = Client::connect(service.address);
    // Each piece is there on its own: the next one follows when another connection was served.
    for piece in ["D", "ELETE", " ", "/ HTT", "P/1.1\r\nHost: a\r\n\r\n"] {
        assert_eq!(Client::connect(service.address).get("/").status, 200);
        client.write(piece);
    }
    assert_eq!(client.read().unwrap().status, 200);
    assert_eq!(client.get("/").status, 200);
    assert!(service.counted("tcp_").is_empty());
}

#[test]
fn a_client_that_ends_before_it_has_told_is_carried_and_holds_up_nobody() {
    let echo = Peer::echo();
    let service = Service::start(Protocol::Detect, &[echo.address]);
    for say in [b"G".as_slice(), b"GE", b"DELETE "] {
        let stream = service.connect();
        // Where the worker is stuck, the test must not be.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        assert_eq!(whole(stream, say), say, "{say:?}");
        // The end may also come when what there is has been looked at.
        let mut stream = service.connect();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(say).unwrap();
        assert_eq!(whole(service.connect(), b"hello"), b"hello");
        assert_eq!(whole(stream, b""), say, "{say:?}");
    }
}

#[test]
fn a_client_that_says_too_little_to_tell_and_waits_is_heard() {
    let echo = Peer::echo();
    let limits = Limits { opening: Duration::from_millis(20), ..patient() };
    let service = Service::with(limits, Protocol::Detect, &[echo.address]);
    let mut stream = service.connect();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream.write_all(b"P").unwrap();
    let mut heard = [0; 1];
    stream.read_exact(&mut heard).unwrap();
    assert_eq!(&heard, b"P");
}

#[test]
fn where_http_is_declared_bytes_are_refused() {
    let echo = Peer::echo();
    let service = Service::start(Protocol::Http, &[echo.address]);
    let answer = whole(service.connect(), b"*1\r\n$4\r\nPING\r\n");
    assert!(answer.starts_with(b"HTTP/1.1 400 "), "{}", String::from_utf8_lossy(&answer));
    assert_eq!(echo.connections(), 0);
}

#[test]
fn an_endpoint_that_leaves_keeps_its_connections_and_is_not_held() {
    let (leaving, staying) = (Peer::echo(), Peer::echo());
    let mut service = Service::start(Protocol::Detect, &[leaving.address, staying.address]);
    let mut open: Vec<TcpStream> = (0..2).map(|_| service.connect()).collect();
    let mut ping = |stream: &mut TcpStream| {
        stream.write_all(b"ping").unwrap();
        let mut heard = [0; 4];
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"ping");
    };
    open.iter_mut().for_each(&mut ping);
    assert_eq!((leaving.connections(), staying.connections()), (1, 1));
    service.served.endpoints[0].1 = EndpointState::Draining;
    service.apply();
    assert_eq!(service.gateway.in_flight(leaving.address), 0);
    open.iter_mut().for_each(&mut ping);
    service.served.endpoints.remove(0);
    service.apply();
    open.iter_mut().for_each(&mut ping);
    assert_eq!(service.counted("tcp_connections_open"), ["2"]);
    for _ in 0..3 {
        assert_eq!(whole(service.connect(), b"x"), b"x");
    }
    assert_eq!((leaving.connections(), staying.connections()), (1, 4));
    drop(open);
    wait_until(|| service.counted("tcp_connections_open") == ["0"]);
}
