//! What endpoints may answer.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use evenkeel_gateway::shell::Limits;

use crate::script::{Act, Bench, OK, fields, read_all, statuses};
use crate::wait_until;

const GET: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

fn say(text: &str) -> Act {
    Act::Say(text.to_owned())
}

#[test]
fn interim_answers_come_before_the_answer() {
    let hints = "HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\nConnection: x\r\nX: 1\r\n\r\n";
    let working = "HTTP/1.1 102 Processing\r\n\r\n";
    // In one piece and in several.
    for acts in
        [vec![say(&format!("{hints}{working}{OK}"))], vec![say(hints), say(working), say(OK)]]
    {
        let bench = Bench::with(Limits::default(), acts);
        let came = bench.raw(format!("{GET}{GET}").as_bytes());
        assert_eq!(statuses(&came), "103 102 200 103 102 200", "{came}");
        assert!(
            came.starts_with("HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\nHTTP/1.1 102 "),
            "{came}"
        );
        // HTTP/1.0 knows none.
        assert_eq!(statuses(&bench.raw(b"GET / HTTP/1.0\r\n\r\n")), "200");
    }
    // The client sees one while the endpoint still works.
    let bench = Bench::with(Limits::default(), vec![say(hints), Act::Hold, say(OK)]);
    let mut stream = bench.connect();
    stream.write_all(GET.as_bytes()).unwrap();
    let mut early = vec![0; "HTTP/1.1 103 Early Hints\r\nlink: </s.css>\r\n\r\n".len()];
    stream.read_exact(&mut early).unwrap();
    bench.release();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&read_all(stream)), "200");
    // What nobody waits for is not passed on: who waits to be asked is asked by the gateway.
    let bench = Bench::new(&format!("HTTP/1.1 100 Continue\r\n\r\n{OK}"));
    assert_eq!(statuses(&bench.raw(GET.as_bytes())), "200");
}

#[test]
fn answers_that_are_none_are_said_to_be_and_why() {
    let bench = Bench::new(OK);
    let many = "X: 1\r\n".repeat(101);
    for (answer, why) in [
        (format!("HTTP/1.1 200 OK\r\n{many}\r\n"), "it has more than 100 header fields"),
        (
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok".to_owned(),
            "it has two different Content-Lengths",
        ),
        ("HTTP/1.1 200 OK\r\nX: 1\r\n more\r\n\r\n".to_owned(), "it has a folded header line"),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n".to_owned(),
            "it has a transfer coding other than chunked",
        ),
        ("SSH-2.0-OpenSSH\r\n\r\n".to_owned(), "its head is malformed"),
        (
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n".to_owned(),
            "it switches to a protocol that nobody asked for",
        ),
    ] {
        bench.act(&[Act::Say(answer), Act::Wait]);
        let came = bench.raw(GET.as_bytes());
        assert_eq!(statuses(&came), "502", "{why}");
        let said = format!("\r\n\r\nthe endpoint's answer is not HTTP/1.1: {why}\n");
        assert!(came.ends_with(&said), "{came}");
    }
    // The connection to such an endpoint is not used again.
    bench.act(&[say(OK)]);
    assert_eq!(statuses(&bench.raw(GET.as_bytes())), "200");
    // A broken connection is one, and nothing else.
    bench.act(&[Act::Close]);
    let came = bench.raw(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n");
    assert!(
        came.ends_with("\r\n\r\nthe endpoint closed the connection before it answered\n"),
        "{came}"
    );
}

#[test]
fn protocols_switch_when_both_sides_want_it() {
    let ask = "GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n";
    let switch = |to: &str| {
        format!("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: {to}\r\n\r\n")
    };
    let bench =
        Bench::with(Limits::default(), vec![Act::Say(switch("WebSocket") + "hi"), Act::Echo]);
    // What the client sends along with its request belongs to the other protocol, too.
    let came = bench.raw(format!("{ask}early").as_bytes());
    assert!(came.starts_with("HTTP/1.1 101 ") && came.ends_with("\r\n\r\nhiearly"), "{came}");
    wait_until(|| bench.gateway.in_flight(bench.endpoint) == 0);
    // An endpoint that wants something else, or does not say what.
    for answer in [switch("chat"), "HTTP/1.1 101 Switching Protocols\r\n\r\n".to_owned()] {
        bench.act(&[Act::Say(answer), Act::Wait]);
        assert_eq!(statuses(&bench.raw(ask.as_bytes())), "502");
    }
    // One that does not want to.
    bench.act(&[say("HTTP/1.1 426 Upgrade Required\r\nContent-Length: 0\r\n\r\n")]);
    assert_eq!(statuses(&bench.raw(format!("{ask}{GET}").as_bytes())), "426 426");
    // HTTP/1.0 cannot ask, and HTTP/2 must not bypass routing.
    for request in [ask.replace("HTTP/1.1", "HTTP/1.0"), ask.replace("websocket", "h2c")] {
        bench.act(&[Act::Say(switch("websocket")), Act::Wait]);
        assert_eq!(statuses(&bench.raw(request.as_bytes())), "502");
    }
}

#[test]
fn every_answer_has_a_date() {
    let bench = Bench::new(OK);
    let date = |request: &str| {
        let came = bench.raw(request.as_bytes());
        fields(came.split_once("\r\n\r\n").unwrap().0)["date"].to_owned()
    };
    let bad = ["GET / HTTP/1.1\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "nonsense\r\n\r\n"];
    for request in [GET].into_iter().chain(bad) {
        let date = date(request);
        assert!(date.len() == 29 && date.ends_with(" GMT"), "{request:?} {date:?}");
    }
    let own = "Sun, 06 Nov 1994 08:49:37 GMT";
    bench.act(&[Act::Say(format!("HTTP/1.1 200 OK\r\nDate: {own}\r\nContent-Length: 0\r\n\r\n"))]);
    assert_eq!(date(GET), own);
}
