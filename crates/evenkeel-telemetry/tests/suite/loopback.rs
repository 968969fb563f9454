//! Real HTTP on loopback: scraping, serving, asking, and Debian's promtool as a client.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use crate::common::{EPOCH_S, TokioTime};
use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, Metrics, MetricsError, Sample, Span};
use evenkeel_promql::labels::Labels;
use evenkeel_telemetry::{
    Limits, ScrapeSettings, Scraper, Target, Telemetry,
    shell::{HttpFetch, PrometheusClient, Server},
};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

/// Serves fixed answers by path; counts connections.
async fn exporter() -> (SocketAddr, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let connections = Arc::new(AtomicU32::new(0));
    let counter = Arc::clone(&connections);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            counter.fetch_add(1, Ordering::Relaxed);
            tokio::spawn(async move {
                let mut buffer = vec![0; 4096];
                while let Ok(n @ 1..) = stream.read(&mut buffer).await {
                    let head = String::from_utf8_lossy(&buffer[..n]).into_owned();
                    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
                    let (status, body) = match path.as_str() {
                        "/metrics" => {
                            ("200 OK", "# TYPE a counter\na{code=\"200\"} 1\n".to_owned())
                        }
                        "/huge" => ("200 OK", "a 1\n".repeat(100_000)),
                        "/broken" => ("200 OK", "a{ 1\n".to_owned()),
                        "/hang" => std::future::pending().await,
                        _ => ("404 Not Found", String::new()),
                    };
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}",
                        body.len()
                    );
                    if stream.write_all(answer.as_bytes()).await.is_err() {
                        return;
                    }
                }
            });
        }
    });
    (address, connections)
}

async fn wait_until(is_so: impl Fn() -> bool) {
    let mut tries = 0;
    while !is_so() {
        tries += 1;
        assert!(tries < 2000, "the condition never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn targets_are_scraped_over_kept_connections_and_failures_say_why() {
    let (address, connections) = exporter().await;
    let (bad, _) = exporter().await;
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let time = Arc::new(TokioTime::start());
    let telemetry = Telemetry::new(Limits::default());
    let settings = ScrapeSettings {
        // Long enough for a machine under load; it makes this test last a second.
        timeout: Duration::from_millis(300),
        body_bytes_max: 100_000,
        ..ScrapeSettings::every(Duration::from_millis(300))
    };
    let fetch = Arc::new(HttpFetch::new(&settings));
    let mut scraper =
        Scraper::new(telemetry.clone(), settings, fetch, Arc::<TokioTime>::clone(&time), time);
    scraper = scraper.with_target(Target::fixed("metrics", &format!("http://{address}/metrics")));
    for path in ["huge", "broken", "hang", "absent"] {
        scraper = scraper.with_target(Target::fixed(path, &format!("http://{bad}/{path}")));
    }
    scraper = scraper.with_target(Target::fixed("closed", &format!("http://{closed}/metrics")));
    let running = tokio::spawn(scraper.run());
    let samples = |expr: &str| {
        let at = telemetry.read().newest(&Labels::from_pairs([
            ("__name__", "up"),
            ("job", "metrics"),
            ("instance", &address.to_string()),
        ]));
        at.and_then(|(at_ms, _)| {
            let value = telemetry.instant(expr, at_ms).ok()?.to_json();
            value.pointer("/result/0/value/1")?.as_str()?.parse::<f64>().ok()
        })
    };
    wait_until(|| samples("count_over_time(a{job=\"metrics\"}[1h])") >= Some(3.0)).await;
    wait_until(|| telemetry.targets().iter().all(|t| t.last_scrape.is_some())).await;
    assert_eq!(connections.load(Ordering::Relaxed), 1, "the connection is not kept");
    let rows: Vec<String> = telemetry
        .targets()
        .iter()
        .map(|t| format!("{}: {} {}", t.target.job, t.health.as_str(), t.last_error))
        .collect();
    insta::assert_snapshot!(rows.join("\n"), @r#"
    absent: down server returned HTTP status 404
    broken: down the exposition is malformed: line 1, column 4: expected a label name, found `1`
    closed: down no answer: client error (Connect): tcp connect error: Connection refused (os error 111)
    hang: down no answer within 300ms
    huge: down the exposition has more than 100000 bytes
    metrics: up
    "#);
    running.abort();
}

async fn served() -> (SocketAddr, tokio::task::JoinHandle<()>) {
    let telemetry = Telemetry::new(Limits::default());
    for (code, value) in [("200", 99.0), ("500", 1.0)] {
        let labels = Labels::from_pairs([("__name__", "hits"), ("code", code)]);
        for step in 0..10 {
            let at = Timestamp::from_second(EPOCH_S - 90 + step * 10).unwrap();
            telemetry.append(&labels, at, value).unwrap();
        }
    }
    let clock = Arc::new(TokioTime::start());
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(address, telemetry, clock).await.unwrap();
    (server.address().unwrap(), tokio::spawn(server.run()))
}

#[tokio::test]
async fn the_client_reads_what_the_server_writes() {
    let (address, server) = served().await;
    let client = PrometheusClient::new(&format!("http://{address}/")).unwrap();
    let at = Timestamp::from_second(EPOCH_S).unwrap();
    let samples = client.query("hits / ignoring(code) group_left sum(hits)", at).await.unwrap();
    let values: Vec<String> =
        samples.iter().map(|s| format!("{}={}", s.labels["code"], s.value)).collect();
    assert_eq!(values, ["200=0.99", "500=0.01"]);
    assert_eq!(client.query("absent_here", at).await.unwrap(), []);
    let scalar = client.query("scalar(sum(hits)) > bool 1", at).await.unwrap();
    assert_eq!((scalar.len(), scalar[0].labels.len()), (1, 0));
    let error = client.query("sum(", at).await.unwrap_err();
    insta::assert_snapshot!(error, @r#"query "sum(": invalid parameter "query": 1:5: parse error: unexpected end of input"#);
    let error = client.query("hits[5m]", at).await.unwrap_err();
    insta::assert_snapshot!(error, @r#"query "hits[5m]": it gives a matrix, not one number per series"#);
    // Both ways to ask over time, and asking step by step, give the same.
    let span = Span { first: at - jiff::SignedDuration::from_secs(20), last: at, step: STEP };
    let over_http = client.query_range("sum by (code) (hits)", span).await.unwrap();
    let values: Vec<String> = over_http
        .iter()
        .map(|s| {
            format!("{} {:?}", s.labels["code"], s.points.iter().map(|p| p.1).collect::<Vec<_>>())
        })
        .collect();
    assert_eq!(values, ["200 [99.0, 99.0, 99.0]", "500 [1.0, 1.0, 1.0]"]);
    let stepwise = Stepwise(&client).query_range("sum by (code) (hits)", span).await.unwrap();
    assert_eq!(over_http, stepwise);
    assert_eq!(client.query_range("absent_here", span).await.unwrap(), []);
    server.abort();
}

const STEP: Duration = Duration::from_secs(10);

/// Has only instant queries.
struct Stepwise<'c>(&'c PrometheusClient);

impl Metrics for Stepwise<'_> {
    fn query<'a>(
        &'a self,
        expr: &'a str,
        at: Timestamp,
    ) -> BoxFuture<'a, Result<Vec<Sample>, MetricsError>> {
        self.0.query(expr, at)
    }
}

#[tokio::test]
async fn a_client_without_server_says_so() {
    let at = Timestamp::from_second(EPOCH_S).unwrap();
    let closed = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let client = PrometheusClient::new(&format!("http://{closed}")).unwrap();
    let refused = client.query("up", at).await.unwrap_err();
    assert!(
        matches!(&refused, MetricsError::Unreachable { problem } if problem.contains("refused"))
    );
    let (address, _) = exporter().await;
    let client = PrometheusClient::new(&format!("http://{address}")).unwrap();
    insta::assert_snapshot!(client.query("up", at).await.unwrap_err(), @"metrics server: HTTP status 404 without a JSON answer");
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let client = PrometheusClient::new(&format!("http://{}", silent.local_addr().unwrap()))
        .unwrap()
        .with_timeout(Duration::from_millis(50));
    insta::assert_snapshot!(client.query("up", at).await.unwrap_err(), @"metrics server: no answer within 50ms");
    let wrong = |url: &str| PrometheusClient::new(url).err().unwrap().to_string();
    insta::assert_snapshot!(wrong("prometheus:9090"), @r#""prometheus:9090" is not an address that can be asked: the http:// in front is missing (write it like http://prometheus:9090)"#);
    insta::assert_snapshot!(wrong("ftp://p"), @r#""ftp://p" is not an address that can be asked: ftp is not supported, only http(s) is (write it like http://prometheus:9090)"#);
    insta::assert_snapshot!(wrong("https://me:secret@p"), @r#""https://***@p" is not an address that can be asked: it must not have a user and password (write it like http://prometheus:9090)"#);
}

#[tokio::test]
async fn large_forms_are_refused() {
    let (address, server) = served().await;
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let size = 2 << 20;
    let head = format!("POST /api/v1/query HTTP/1.1\r\nhost: x\r\ncontent-length: {size}\r\n\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = vec![0; 64];
    let n = stream.read(&mut answer).await.unwrap();
    let line = String::from_utf8_lossy(&answer[..n]).lines().next().unwrap_or_default().to_owned();
    assert_eq!(line, "HTTP/1.1 413 Payload Too Large");
    server.abort();
}

/// Tells when somebody asks it, which the server does right before a query.
struct Telling(TokioTime, tokio::sync::watch::Sender<u32>);

impl Clock for Telling {
    fn now(&self) -> Timestamp {
        self.1.send_modify(|asked| *asked += 1);
        self.0.now()
    }
}

async fn get(address: SocketAddr, path: &str) -> String {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

/// The runtime of this test has one thread: whoever waits on it stops everybody.
#[tokio::test(flavor = "current_thread")]
async fn a_query_that_waits_for_the_series_holds_up_no_other_request() {
    let telemetry = Telemetry::new(Limits::default());
    let at = Timestamp::from_second(EPOCH_S).unwrap();
    telemetry.append(&Labels::from_pairs([("__name__", "hits")]), at, 42.0).unwrap();
    let (asked, mut told) = tokio::sync::watch::channel(0);
    let clock = Arc::new(Telling(TokioTime::start(), asked));
    let address = SocketAddr::from(([127, 0, 0, 1], 0));
    let server = Server::bind(address, telemetry.clone(), clock).await.unwrap();
    let address = server.address().unwrap();
    let server = tokio::spawn(server.run());
    // Somebody writes for as long as nobody else was answered, or much too long.
    let (locked, writing) = tokio::sync::oneshot::channel();
    let (answered, done) = std::sync::mpsc::channel();
    let writer = std::thread::spawn(move || {
        let _writing = telemetry.write();
        locked.send(()).unwrap();
        done.recv_timeout(Duration::from_secs(30)).is_ok()
    });
    writing.await.unwrap();
    let slow = tokio::spawn(get(address, "/api/v1/query?query=hits"));
    told.wait_for(|asked| *asked == 1).await.unwrap();
    let other = get(address, "/nothing").await;
    assert!(other.starts_with("HTTP/1.1 404 "), "{other}");
    assert!(!slow.is_finished());
    // Where the query stopped this thread, the writer has given up by now.
    answered.send(()).unwrap_or_default();
    let slow = slow.await.unwrap();
    assert!(slow.contains("\"42\""), "{slow}");
    assert!(writer.join().unwrap(), "the query was waited for on the thread of the others");
    server.abort();
}

/// Runs promtool; `None` where it is not installed.
async fn promtool(args: Vec<String>) -> Option<String> {
    let run = tokio::process::Command::new("promtool").args(&args).output().await;
    let output = run.ok()?;
    let (out, err) = (output.stdout, output.stderr);
    Some(format!("{}{}", String::from_utf8_lossy(&out), String::from_utf8_lossy(&err)))
}

#[tokio::test]
async fn promtool_is_a_client() {
    let (address, server) = served().await;
    let run = async |args: &[&str], rest: &[&str]| {
        let url = format!("http://{address}");
        let args = args.iter().copied().chain([url.as_str()]).chain(rest.iter().copied());
        promtool(args.map(str::to_owned).collect()).await
    };
    let Some(instant) =
        run(&["query", "instant", "--time=1700000000"], &["sum by (code) (hits)"]).await
    else {
        return;
    };
    insta::assert_snapshot!(instant, @r#"
    {code="200"} => 99 @[1700000000]
    {code="500"} => 1 @[1700000000]
    "#);
    let range = ["query", "range", "--start=1699999980", "--end=1700000000", "--step=10s"];
    insta::assert_snapshot!(run(&range, &["sum(hits)"]).await.unwrap(), @r#"
    {} =>
    100 @[1699999980]
    100 @[1699999990]
    100 @[1700000000]
    "#);
    let series = ["query", "series", "--match=hits", "--start=1699999980", "--end=1700000000"];
    insta::assert_snapshot!(run(&series, &[]).await.unwrap(), @r#"
    {__name__="hits", code="200"}
    {__name__="hits", code="500"}
    "#);
    insta::assert_snapshot!(run(&["query", "labels"], &["code"]).await.unwrap(), @r#"
    200
    500
    "#);
    insta::assert_snapshot!(run(&["query", "instant"], &["sum("]).await.unwrap(), @r#"query error: bad_data: invalid parameter "query": 1:5: parse error: unexpected end of input"#);
    server.abort();
}
