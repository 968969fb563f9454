//! The server and the load client against each other, over real sockets.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

use std::{cell::RefCell, net::SocketAddr, path::Path, rc::Rc, time::Duration};

use evenkeel_workload::{
    Settings, executions,
    load::{Command, Line, LoadSettings, PhaseReport, drive},
    serve,
};
use jiff::Timestamp;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    task::LocalSet,
};

fn settings(text: &str, ledger: Option<&Path>) -> Settings {
    let env = |name: &str| {
        text.split_whitespace()
            .filter_map(|pair| pair.split_once('='))
            .find(|(key, _)| *key == name)
            .map(|(_, value)| value.to_owned())
    };
    let mut settings = Settings::parse(env, Timestamp::now()).unwrap();
    settings.ledger = ledger.map(Path::to_owned);
    settings
}

/// Runs `client` beside a server with these settings.
fn beside<T>(settings: Settings, client: impl AsyncFnOnce(SocketAddr) -> T) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let server = tokio::task::spawn_local(serve(settings, listener));
        let result = client(addr).await;
        server.abort();
        result
    })
}

async fn raw(addr: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = request.replace('\n', "\r\n");
    let text = format!("{head}\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(text.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn load_on(target: SocketAddr) -> LoadSettings {
    LoadSettings {
        target,
        host: "api".to_owned(),
        path: "/orders".to_owned(),
        gets_per_s: 200,
        posts_per_s: 50,
        post_bytes: 100,
        run: "t".to_owned(),
        phase: "first".to_owned(),
        timeout: Duration::from_secs(10),
    }
}

/// Two phases of `requests` each, cut by what has been sent, not by time.
async fn two_phases(load: LoadSettings) -> Vec<Line> {
    let (commands, receiver) = mpsc::unbounded_channel();
    let lines = Rc::new(RefCell::new(Vec::new()));
    let (seen, mut seconds) = (lines.clone(), 0);
    let sink = Box::new(move |line: &Line| {
        seen.borrow_mut().push(line.clone());
        if matches!(line, Line::Second(_)) {
            seconds += 1;
            let command =
                if seconds == 1 { Command::Mark("second".to_owned()) } else { Command::Stop };
            commands.send(command).unwrap_or_default();
        }
    });
    drive(load, receiver, sink).await;
    lines.take()
}

fn phases(lines: &[Line]) -> Vec<PhaseReport> {
    let phase = |line: &Line| match line {
        Line::Phase(report) => Some(report.clone()),
        _ => None,
    };
    lines.iter().filter_map(phase).collect()
}

// Two seconds of load: a rate can only be seen over time.
#[test]
fn everything_sent_is_answered_and_every_post_is_executed_once() {
    let dir = tempdir("ledger");
    let ledger = dir.join("ledger");
    let lines = beside(settings("VERSION=7 POST_MS=1", Some(&ledger)), async |addr| {
        two_phases(load_on(addr)).await
    });
    let phases = phases(&lines);
    assert_eq!(phases.iter().map(|p| p.name.as_str()).collect::<Vec<_>>(), ["first", "second"]);
    for phase in &phases {
        assert_eq!((phase.failed, phase.answered), (0, phase.sent), "{phase:?}");
        assert!(phase.sent > 100 && phase.versions["7"] == phase.sent, "{phase:?}");
    }
    let mut keys: Vec<_> = executions(&ledger).unwrap().into_iter().map(|line| line.key).collect();
    let posts: u64 = phases.iter().map(|phase| phase.sent_post).sum();
    assert_eq!(keys.len() as u64, posts);
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len() as u64, posts);
    std::fs::remove_dir_all(dir).unwrap();
}

#[test]
fn failures_are_reported_with_kind_and_who_answered() {
    let lines = beside(settings("VERSION=8 ERROR_RATE=0.5 POD_NAME=p", None), async |addr| {
        two_phases(load_on(addr)).await
    });
    let failures = lines.iter().filter_map(|line| match line {
        Line::Failure(failure) => Some(failure),
        _ => None,
    });
    let mut count = 0;
    for failure in failures {
        count += 1;
        assert_eq!(failure.status, Some(500));
        assert_eq!(failure.endpoint.as_deref(), Some("p"));
        assert_eq!(failure.key.is_some(), failure.method == "POST");
    }
    let phases = phases(&lines);
    assert!(count > 50);
    assert_eq!(count, phases.iter().map(|phase| phase.failed).sum::<u64>());
    assert!(phases.iter().all(|phase| phase.sent == phase.answered + phase.failed));
}

#[test]
fn a_port_without_listener_is_a_failure_of_kind_connect() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let lines = LocalSet::new().block_on(&runtime, async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        drop(listener);
        two_phases(load_on(addr)).await
    });
    let kinds: Vec<_> = phases(&lines).into_iter().map(|phase| phase.kinds).collect();
    assert!(kinds.iter().all(|kinds| kinds.len() == 1), "{kinds:?}");
    assert!(format!("{kinds:?}").contains("Connect"));
}

#[test]
fn a_key_executes_once_and_a_failing_release_not_at_all() {
    let dir = tempdir("once");
    let ledger = dir.join("ledger");
    beside(settings("POST_MS=0", Some(&ledger)), async |addr| {
        let post = "POST /pay HTTP/1.1\nIdempotency-Key: a-1\nContent-Length: 0";
        let first = raw(addr, post).await;
        assert!(first.starts_with("HTTP/1.1 200") && !first.contains("replay"), "{first}");
        let again = raw(addr, post).await;
        assert!(again.starts_with("HTTP/1.1 200"), "{again}");
        assert!(again.contains("idempotent-replay: true"), "{again}");
        let bad = raw(addr, "POST /pay HTTP/1.1\nIdempotency-Key: a b\nContent-Length: 0").await;
        assert!(bad.starts_with("HTTP/1.1 400"), "{bad}");
        let metrics = raw(addr, "GET /metrics HTTP/1.1").await;
        for line in [
            r#"app_request_duration_seconds_count{service="api",method="POST",endpoint="/pay",status="200"} 2"#,
            r#"app_business_transactions_total{service="api",transaction_type="order",status="200"} 1"#,
        ] {
            assert!(metrics.contains(line), "{metrics}");
        }
    });
    beside(settings("ERROR_RATE=1", Some(&ledger)), async |addr| {
        let failed = raw(addr, "POST /pay HTTP/1.1\nIdempotency-Key: a-2\nContent-Length: 0").await;
        assert!(failed.starts_with("HTTP/1.1 500"), "{failed}");
        assert!(raw(addr, "GET /health HTTP/1.1").await.starts_with("HTTP/1.1 200"));
    });
    let executed = executions(&ledger).unwrap();
    assert_eq!(executed.len(), 1, "{executed:?}");
    std::fs::remove_dir_all(dir).unwrap();
}

fn tempdir(name: &str) -> std::path::PathBuf {
    let dir = std::env::temp_dir().join(format!("evenkeel-{name}-{}", std::process::id()));
    std::fs::create_dir_all(&dir).unwrap();
    dir
}
