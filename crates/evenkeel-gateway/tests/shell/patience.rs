//! Who is waited for, and for how long.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use evenkeel_gateway::shell::Limits;

use crate::script::{Act, Bench, OK, read_all, statuses};
use crate::{wait, wait_until};

const SHORT: Duration = Duration::from_millis(100);
const LONG: Duration = Duration::from_hours(1);
const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

/// All limits are far away.
pub(crate) fn patient() -> Limits {
    Limits {
        idle: LONG,
        head: LONG,
        body: LONG,
        response: LONG,
        answer: LONG,
        stall: LONG,
        opening: LONG,
        draining: LONG,
    }
}

fn bench(limits: Limits) -> Bench {
    Bench::with(limits, vec![Act::Say(OK.to_owned())])
}

/// Sends bytes and waits for the gateway to close. What came.
fn until_closed(bench: &Bench, bytes: &str) -> String {
    let mut stream = bench.connect();
    stream.write_all(bytes.as_bytes()).unwrap();
    read_all(stream)
}

#[test]
fn a_head_that_does_not_end_is_cut_off() {
    let bench = bench(Limits { head: SHORT, ..patient() });
    let came = until_closed(&bench, "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    assert_eq!(statuses(&came), "408 close");
    assert!(
        came.contains("\r\ndate: ")
            && came.ends_with("\r\n\r\nthe request's head did not arrive in time\n"),
        "{came}"
    );
    // Also after a good request.
    let mut stream = bench.connect();
    stream.write_all(GET.as_bytes()).unwrap();
    let mut first = [0; 15];
    stream.read_exact(&mut first).unwrap();
    assert_eq!(&first, b"HTTP/1.1 200 OK");
    stream.write_all(b"GET /").unwrap();
    assert_eq!(statuses(&read_all(stream)), "408 close");
    // A trickle does not make it longer.
    let mut stream = bench.connect();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n").unwrap();
    let mut trickle = stream.try_clone().unwrap();
    let feeder = std::thread::spawn(move || {
        while trickle.write_all(b"X: 1\r\n").is_ok() {
            std::thread::yield_now();
        }
    });
    let came = read_some(&mut stream);
    // Or it is too large before it is too late.
    assert!(["408 close", "431 close"].contains(&statuses(&came).as_str()), "{came}");
    stream.shutdown(Shutdown::Both).unwrap_or_default();
    feeder.join().unwrap();
}

/// Reads until the end or a reset.
fn read_some(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap_or_default();
    String::from_utf8(bytes).unwrap()
}

#[test]
fn an_idle_connection_is_closed_without_a_word() {
    let bench = bench(Limits { idle: SHORT, ..patient() });
    assert_eq!(until_closed(&bench, ""), "");
    assert_eq!(statuses(&until_closed(&bench, GET)), "200");
}

#[test]
fn a_body_that_does_not_come_is_the_clients_fault() {
    let bench = bench(Limits { body: SHORT, ..patient() });
    let small = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nabc";
    assert_eq!(statuses(&until_closed(&bench, small)), "408 close");
    assert_eq!(bench.seen(), "");
    // Too large to be kept: it is on its way when it stops coming.
    let large = format!(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 500000\r\n\r\n{}",
        "x".repeat(70_000)
    );
    // Five failures in a row would put an endpoint out of use.
    for _ in 0..6 {
        assert_eq!(statuses(&until_closed(&bench, &large)), "408 close");
        assert_eq!(bench.gateway.in_flight(bench.endpoint), 0);
    }
    assert_eq!(bench.play(GET), "200 | GET / a");
    let metrics = bench.gateway.metrics().render();
    let blamed = |line: &&str| {
        line.contains("\"UT\"") || (line.contains("ejections_total{") && !line.ends_with(" 0"))
    };
    assert_eq!(metrics.lines().find(blamed), None);
}

#[test]
fn an_answer_that_goes_silent_is_broken_off() {
    let begun = "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this".to_owned();
    let bench =
        Bench::with(Limits { answer: SHORT, ..patient() }, vec![Act::Say(begun), Act::Wait]);
    let came = until_closed(&bench, GET);
    assert!(came.ends_with("\r\n\r\nonly this"), "{came}");
    wait_until(|| bench.gateway.in_flight(bench.endpoint) == 0);
}

/// More than all buffers on the way can hold.
fn flood() -> Vec<Act> {
    let bytes = "x".repeat(1 << 20);
    let mut acts = vec![Act::Say("HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n".to_owned())];
    acts.extend(std::iter::repeat_n(Act::Say(bytes), 64));
    acts
}

#[test]
fn a_client_that_takes_nothing_is_left() {
    let bench = Bench::with(Limits { stall: SHORT, ..patient() }, flood());
    let mut stream = bench.connect();
    stream.write_all(GET.as_bytes()).unwrap();
    stream.read_exact(&mut [0; 16]).unwrap();
    wait_until(|| bench.gateway.in_flight(bench.endpoint) == 0);
    assert!(read_some(&mut stream).len() < 64 << 20);
}

#[test]
fn a_client_that_takes_nothing_does_not_hold_up_a_drain() {
    let mut bench = Bench::with(Limits { draining: SHORT, ..patient() }, flood());
    let mut stuck = bench.connect();
    stuck.write_all(GET.as_bytes()).unwrap();
    stuck.read_exact(&mut [0; 16]).unwrap();
    assert_eq!(bench.gateway.in_flight(bench.endpoint), 1);
    bench.drain();
    wait(&bench.gateway, |gateway| gateway.in_flight(bench.endpoint) == 0);
}

#[test]
fn an_upload_may_take_longer_than_an_answer() {
    let bench = bench(Limits { response: SHORT * 5, ..patient() });
    let pieces = 40;
    let head = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", pieces * 4_000);
    let mut stream = bench.connect();
    stream.write_all(head.as_bytes()).unwrap();
    let begin = Instant::now();
    for piece in 0..pieces {
        stream.write_all(&[b'x'; 4_000]).unwrap();
        // The pace is what is tested: each piece in time, all of them not.
        while begin.elapsed() < SHORT * piece / 5 {
            std::thread::yield_now();
        }
    }
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&read_all(stream)), "200");
}
