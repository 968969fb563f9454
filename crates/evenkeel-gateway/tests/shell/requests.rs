//! What clients may send: RFC 9110 and 9112 as a table of bytes.

use std::io::{Read as _, Write as _};
use std::net::Shutdown;

use crate::script::{Act, Bench, OK, fields, read_all, statuses};

/// Rows of bytes (`~` is CRLF, the empty line at the end is added) and what comes of them.
fn check(bench: &Bench, rows: &[(&str, &str)]) {
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|(bytes, want)| {
            let bytes = format!("{bytes}~~").replace('~', "\r\n");
            let got = bench.play(&bytes);
            (got != *want).then(|| format!("{bytes:?}\n  gave {got}\n  not  {want}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_request_has_one_host_that_is_one() {
    let bench = Bench::new(OK);
    check(
        &bench,
        &[
            ("GET / HTTP/1.1~Host: a.test", "200 | GET / a.test"),
            ("GET / HTTP/1.1~Host: a.test:8080", "200 | GET / a.test:8080"),
            ("GET / HTTP/1.1~Host: [::1]:80", "200 | GET / [::1]:80"),
            ("GET / HTTP/1.1~Host:", "200 | GET / "),
            ("GET / HTTP/1.1", "400 close | "),
            ("GET / HTTP/1.1~Host: a.test~Host: a.test", "400 close | "),
            ("GET / HTTP/1.1~Host: a b", "400 close | "),
            ("GET / HTTP/1.1~Host: a.test/x", "400 close | "),
            ("GET / HTTP/1.1~Host: a.test, b.test", "400 close | "),
            ("GET / HTTP/1.1~Host: a.test,b.test", "400 close | "),
            ("GET / HTTP/1.1~Host: u@a.test", "400 close | "),
            ("GET / HTTP/1.1~Host: a.test:http", "400 close | "),
            // HTTP/1.0 knows no Host; the endpoint speaks HTTP/1.1 and must get one.
            ("GET / HTTP/1.0", "200 | GET / LISTENER"),
            ("GET / HTTP/1.0~Host: a.test", "200 | GET / a.test"),
            ("GET / HTTP/1.0~Host: a.test~Host: b.test", "400 close | "),
        ],
    );
}

#[test]
fn targets_are_paths_or_whole_addresses() {
    let bench = Bench::new(OK);
    check(
        &bench,
        &[
            ("GET x HTTP/1.1~Host: a", "400 close | "),
            ("GET a:80 HTTP/1.1~Host: a", "400 close | "),
            ("GET ?q HTTP/1.1~Host: a", "400 close | "),
            ("GET * HTTP/1.1~Host: a", "400 close | "),
            ("OPTIONS * HTTP/1.1~Host: a", "200 | OPTIONS * a"),
            ("CONNECT a:80 HTTP/1.1~Host: a", "405 close | "),
            ("GET http://two.test/p?q=1 HTTP/1.1~Host: one.test", "200 | GET /p?q=1 two.test"),
            ("GET HTTP://two.test:8080 HTTP/1.1~Host: one.test", "200 | GET / two.test:8080"),
            ("GET http://two.test/ HTTP/1.0", "200 | GET / two.test"),
            ("GET http://two.test/ HTTP/1.1", "400 close | "),
            ("GET http://two.test/ HTTP/1.1~Host: a b", "400 close | "),
            ("GET http://u:p@two.test/ HTTP/1.1~Host: a", "400 close | "),
            ("GET https://two.test/ HTTP/1.1~Host: a", "421 close | "),
            ("GET ftp://two.test/ HTTP/1.1~Host: a", "400 close | "),
            ("GET /a b HTTP/1.1~Host: a", "400 close | "),
        ],
    );
    // The target's host is also the one that routes go by.
    bench.serve_hosts(&["two.test"]);
    check(
        &bench,
        &[
            ("GET http://two.test/ HTTP/1.1~Host: one.test", "200 | GET / two.test"),
            ("GET http://one.test/ HTTP/1.1~Host: two.test", "404 | "),
            ("GET / HTTP/1.1~Host: two.test", "200 | GET / two.test"),
        ],
    );
}

#[test]
fn a_body_ends_in_one_way_only() {
    let bench = Bench::new(OK);
    let post = |rest: &str| {
        bench.play(&format!("POST / HTTP/1.1\r\nHost: a\r\n{rest}").replace('~', "\r\n"))
    };
    let refused = "400 close | ";
    assert_eq!(post("Content-Length: 3~~abc"), "200 | POST / a \"abc\"");
    assert_eq!(post("Transfer-Encoding: Chunked~~3~abc~0~~"), "200 | POST / a \"abc\"");
    assert_eq!(
        post("Content-Length: 3~Content-Length: 3~~abc"),
        "200 | POST / a \"abc\"",
        "said twice, and the same"
    );
    // Both: the chunks hold, and the connection ends (RFC 9112, 6.3).
    assert_eq!(
        post("Content-Length: 4~Transfer-Encoding: chunked~~3~abc~0~~"),
        "200 close | POST / a \"abc\""
    );
    assert_eq!(
        post("Transfer-Encoding: chunked~Content-Length: 4~~3~abc~0~~"),
        "200 close | POST / a \"abc\""
    );
    for lengths in [
        "Content-Length: 3~Content-Length: 4~~abcd",
        "Content-Length: +3~~abc",
        "Content-Length: -3~~abc",
        "Content-Length: 0x3~~abc",
        "Content-Length: 3, 4~~abc",
        "Content-Length: ~~abc",
        "Content-Length: 3 3~~abc",
        "Content-Length: 99999999999999999999999~~abc",
    ] {
        assert_eq!(post(lengths), refused, "{lengths}");
    }
    for coding in
        ["gzip, chunked", "gzip~Transfer-Encoding: chunked", "x, chunked", "chunked;q=1, chunked"]
    {
        assert_eq!(
            post(&format!("Transfer-Encoding: {coding}~~3~abc~0~~")),
            "501 close | ",
            "{coding}"
        );
    }
    for coding in [
        "gzip",
        "chunked, gzip",
        "xchunked",
        "chunked, chunked",
        "chunked~Transfer-Encoding: chunked",
        "\"chunked\"",
    ] {
        let said = post(&format!("Transfer-Encoding: {coding}~~3~abc~0~~"));
        assert_eq!(said, refused, "{coding}");
    }
    let old =
        "POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    assert_eq!(bench.play(old), refused);
}

#[test]
fn malformed_chunks_are_answered_and_get_nowhere() {
    let bench = Bench::new(OK);
    let chunks = |rest: &str| {
        bench.play(&format!(
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{rest}"
        ))
    };
    for bad in [
        "x\r\nabc\r\n0\r\n\r\n",
        "-3\r\nabc\r\n0\r\n\r\n",
        "3\r\nabcd\r\n0\r\n\r\n",
        "3\r\nabc0\r\n\r\n",
        "fffffffffffffffff\r\nabc\r\n",
        "3\r\nab",
        "3\r\nabc\r\n",
    ] {
        assert_eq!(chunks(bad), "400 close | ", "{bad:?}");
    }
    // Too large to be kept: the endpoint has seen the head, and never takes the rest for a request.
    let big = "x".repeat(70_000);
    let head = "POST /big HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n";
    let came = bench.raw(format!("{head}{:x}\r\n{big}\r\nnonsense\r\n", big.len()).as_bytes());
    assert_eq!((statuses(&came).as_str(), bench.seen().as_str()), ("400 close", ""), "{came}");
    let sized = format!("POST /big HTTP/1.1\r\nHost: a\r\nContent-Length: 80000\r\n\r\n{big}");
    let came = bench.raw(sized.as_bytes());
    assert_eq!((statuses(&came).as_str(), bench.seen().as_str()), ("400 close", ""), "{came}");
    // The endpoint is not blamed for clients.
    for _ in 0..10 {
        bench.raw(sized.as_bytes());
    }
    assert_eq!(bench.play("GET / HTTP/1.1\r\nHost: a\r\n\r\n"), "200 | GET / a");
}

#[test]
fn heads_that_two_readers_could_read_differently_are_refused() {
    let bench = Bench::new(OK);
    let refused = "400 close | ";
    check(
        &bench,
        &[
            ("GET / HTTP/1.1~Host: a~X: 1~ folded", refused),
            ("GET / HTTP/1.1~Host: a~X : 1", refused),
            ("GET / HTTP/1.1~Host: a~: 1", refused),
            ("GET / HTTP/1.1~Host: a~X: 1\0", refused),
            ("GET / HTTP/1.1~Host: a~X\0: 1", refused),
            ("GET / HTTP/1.1~Host: a~X: 1\rY: 2", refused),
            ("GET /\r HTTP/1.1~Host: a", refused),
            ("GET / HTTP/1.1~Host: a~X Y: 1", refused),
            ("GET / HTTP/2.0~Host: a", refused),
            ("GET / HTTP/1.1 ~Host: a", refused),
            ("G@T / HTTP/1.1~Host: a", refused),
            ("nonsense", refused),
            ("GET / HTTP/1.1~Host: a~X: \u{e4}", "200 | GET / a"),
        ],
    );
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    assert_eq!(bench.play(preface), refused);
    assert_eq!(bench.play(&format!("{preface}\0\0\0\u{4}\0\0\0\0\0")), refused);
    let long = "x".repeat(70_000);
    assert_eq!(bench.play(&format!("GET /{long} HTTP/1.1\r\nHost: a\r\n\r\n")), "414 close | ");
    let wide = format!("GET / HTTP/1.1\r\nHost: a\r\nX: {}\r\n\r\n", "x".repeat(600_000));
    assert_eq!(bench.play(&wide), "431 close | ");
    let many = format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "X: 1\r\n".repeat(101));
    assert_eq!(bench.play(&many), "431 close | ");
}

#[test]
fn requests_follow_each_other_on_a_connection() {
    let bench = Bench::new(OK);
    check(
        &bench,
        &[
            (
                "GET /1 HTTP/1.1~Host: a~~POST /2 HTTP/1.1~Host: a~Content-Length: 1~~xGET /3 HTTP/1.1~Host: a",
                "200 200 200 | GET /1 a; POST /2 a \"x\"; GET /3 a",
            ),
            (
                "GET /1 HTTP/1.1~Host: a~Connection: close~~GET /2 HTTP/1.1~Host: a",
                "200 close | GET /1 a",
            ),
            ("GET /1 HTTP/1.0~~GET /2 HTTP/1.0", "200 | GET /1 LISTENER"),
            (
                "GET /1 HTTP/1.0~Connection: keep-alive~~GET /2 HTTP/1.0",
                "200 200 | GET /1 LISTENER; GET /2 LISTENER",
            ),
            // One that is refused ends it: what follows may be part of it.
            (
                "GET /1 HTTP/1.1~Host: a~~GET /2 HTTP/1.1~~GET /3 HTTP/1.1~Host: a",
                "200 400 close | GET /1 a",
            ),
        ],
    );
    let hello = bench.raw(b"HEAD /1 HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(
        hello.to_lowercase().contains("content-length: 2\r\n") && hello.ends_with("\r\n\r\n"),
        "{hello}"
    );
    bench.seen();
    for bodiless in [
        "204 No Content\r\n",
        "304 Not Modified\r\nContent-Length: 7\r\n",
        "304 Not Modified\r\nETag: 1\r\n",
    ] {
        bench.act(&[Act::Say(format!("HTTP/1.1 {bodiless}\r\n"))]);
        let two = "GET /1 HTTP/1.1\r\nHost: a\r\n\r\nGET /2 HTTP/1.1\r\nHost: a\r\n\r\n";
        let status = bodiless.split(' ').next().unwrap();
        assert_eq!(bench.play(two), format!("{status} {status} | GET /1 a; GET /2 a"));
    }
}

#[test]
fn what_concerns_one_hop_stays_on_it() {
    let bench = Bench::new(
        "HTTP/1.1 200 OK\r\nConnection: x-hop, keep-alive\r\nX-Hop: 1\r\nKeep-Alive: timeout=5\r\n\
         Proxy-Connection: close\r\nTrailer: x\r\nX-Own: 2\r\nContent-Length: 0\r\n\r\n",
    );
    let came = bench.raw(
        b"GET /head HTTP/1.1\r\nHost: a\r\nConnection: X-Mine, TE\r\nX-Mine: 1\r\nTE: trailers\r\nKeep-Alive: 5\r\n\
          Proxy-Connection: x\r\nTrailer: x\r\nUpgrade: h2c\r\nExpect: 100-continue\r\nX-Forwarded-For: 10.0.0.9\r\n\
          X-Forwarded-For: 10.0.0.8\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: shop\r\nEvenkeel-Attempt: 9\r\nX-Own: 3\r\n\r\n",
    );
    assert_eq!(
        bench.seen(),
        "GET /head HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 10.0.0.9, 10.0.0.8, 127.0.0.1\r\n\
         x-forwarded-proto: https\r\nx-forwarded-host: shop\r\nx-own: 3\r\n\r\n"
    );
    let (head, _) = came.split_once("\r\n\r\n").unwrap();
    let fields = fields(head);
    for gone in ["connection", "x-hop", "keep-alive", "proxy-connection", "trailer"] {
        assert_eq!(&fields[gone], "", "{gone}");
    }
    assert_eq!(&fields["x-own"], "2");
    // Who does not say where it comes from is named.
    bench.raw(b"GET /head HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(bench.seen(), "GET /head HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 127.0.0.1\r\n\r\n");
}

#[test]
fn a_client_that_waits_to_be_asked_is_asked() {
    let bench = Bench::new(OK);
    let mut stream = bench.connect();
    let head = "POST /1 HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut asked = [0; 25];
    stream.read_exact(&mut asked).unwrap();
    assert_eq!(&asked, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"abc").unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(statuses(&read_all(stream)), "200");
    assert_eq!(bench.seen(), "POST /1 a \"abc\"");
    // One that is refused is not.
    assert_eq!(bench.play(&head.replace("Host: a\r\n", "")), "400 close | ");
}

#[test]
fn a_client_that_closes_its_side_gets_its_answer() {
    // The endpoint answers when the client has closed for sure: it is asked twice, and the second
    // request comes after the end of the first connection's sending side.
    let bench = Bench::new(OK);
    for request in [
        "GET /1 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(),
        "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc".to_owned(),
        format!(
            "POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 90000\r\n\r\n{}",
            "x".repeat(90_000)
        ),
    ] {
        bench.act(&[Act::Hold, Act::Say(OK.to_owned())]);
        let mut stream = bench.connect();
        stream.write_all(request.as_bytes()).unwrap();
        bench.wait_held();
        stream.shutdown(Shutdown::Write).unwrap();
        // Another request goes all the way through the same worker in the meantime.
        bench.act(&[Act::Say(OK.to_owned())]);
        let other = bench.raw(b"GET /2 HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(statuses(&other), "200");
        bench.release();
        assert_eq!(statuses(&read_all(stream)), "200");
    }
}
