//! Alerts on their way to an Alertmanager that fails, is slow, and comes back.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_promql::{labels::Labels, rules::Notice};
use evenkeel_telemetry::{AlertSink as _, AlertUpdate, shell::Alertmanager};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
    sync::mpsc,
};

type Got = Arc<Mutex<Vec<(String, Value)>>>;

/// Answers with these statuses, then 200; signals each answer on the channel.
async fn receiver(answers: &'static [&'static str]) -> (SocketAddr, Got, mpsc::Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (got, (done, answered)) = (Got::default(), mpsc::channel(64));
    let seen = got.clone();
    tokio::spawn(async move {
        let mut answers = answers.iter();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = Vec::new();
            let (path, alerts) = loop {
                assert!(stream.read_buf(&mut bytes).await.unwrap() > 0, "broken off");
                let text = String::from_utf8_lossy(&bytes).into_owned();
                let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                if let Ok(alerts) = serde_json::from_str(body) {
                    break (head.split(' ').nth(1).unwrap().to_owned(), alerts);
                }
            };
            seen.lock().unwrap().push((path, alerts));
            let status = answers.next().unwrap_or(&"200 OK");
            let head = "content-length: 0\r\nconnection: close";
            let answer = format!("HTTP/1.1 {status}\r\n{head}\r\n\r\n");
            stream.write_all(answer.as_bytes()).await.unwrap();
            done.send(()).await.unwrap();
        }
    });
    (address, got, answered)
}

fn update(job: &str, resolved: bool) -> AlertUpdate {
    let labels = Labels::from_pairs([("alertname", "Down"), ("job", job)]);
    let annotations = BTreeMap::from([("summary".to_owned(), "it is down".to_owned())]);
    let ends_ms = if resolved { 60_000 } else { 300_000 };
    let expr = "up == 0".to_owned();
    let notice = Notice { labels, annotations, starts_ms: 1_000, ends_ms, resolved, expr };
    AlertUpdate { source: "PrometheusRule/shop/api".to_owned(), notice }
}

fn manager(address: SocketAddr) -> Alertmanager {
    let url = format!("http://{address}/am/");
    Alertmanager::new(&url, "http://console").unwrap().pausing(Duration::from_millis(1))
}

#[tokio::test]
async fn what_fails_is_sent_again_and_a_newer_state_replaces_an_older_one() {
    let (address, got, mut answered) = receiver(&["503 Unavailable", "500 Error"]).await;
    let manager = manager(address);
    manager.send(&[update("api", false), update("web", false)]);
    manager.send(&[update("api", true)]);
    let sending = tokio::spawn(manager.clone().run());
    for _ in 0..3 {
        answered.recv().await.unwrap();
    }
    manager.send(&[update("web", true)]);
    answered.recv().await.unwrap();
    sending.abort();
    let got = got.lock().unwrap();
    let words: Vec<_> = got
        .iter()
        .map(|(path, alerts)| {
            assert_eq!(path, "/am/api/v2/alerts");
            let word = |alert: &Value| format!("{} {}", alert["labels"]["job"], alert["endsAt"]);
            alerts.as_array().unwrap().iter().map(word).collect::<Vec<_>>().join(", ")
        })
        .collect();
    let both = r#""api" "1970-01-01T00:01:00Z", "web" "1970-01-01T00:05:00Z""#;
    let last = r#""web" "1970-01-01T00:01:00Z""#;
    assert_eq!(words, [both, both, both, last]);
    let alert = &got[0].1[0];
    assert_eq!(alert["startsAt"], "1970-01-01T00:00:01Z");
    assert_eq!(alert["annotations"]["summary"], "it is down");
    assert_eq!(alert["generatorURL"], "http://console/graph?g0.expr=up%20%3D%3D%200&g0.tab=1");
    let metrics = manager.metrics();
    assert!(metrics.contains("evenkeel_alertmanager_alerts_failed_total 4\n"), "{metrics}");
}

#[tokio::test]
async fn an_alert_that_is_refused_does_not_hold_up_others() {
    let (address, got, mut answered) = receiver(&["400 Bad Request", "422 Wrong", "200 OK"]).await;
    let manager = manager(address);
    manager.send(&[update("bad", false), update("good", false)]);
    let sending = tokio::spawn(manager.clone().run());
    for _ in 0..3 {
        answered.recv().await.unwrap();
    }
    // What is sent now comes when all before it is settled.
    manager.send(&[update("next", false)]);
    answered.recv().await.unwrap();
    sending.abort();
    let jobs = |alerts: &Value| {
        let jobs = alerts.as_array().unwrap().iter().map(|alert| alert["labels"]["job"].clone());
        jobs.map(|job| job.as_str().unwrap().to_owned()).collect::<Vec<_>>().join(" ")
    };
    let got: Vec<_> = got.lock().unwrap().iter().map(|(_, alerts)| jobs(alerts)).collect();
    assert_eq!(got, ["bad good", "bad", "good", "next"]);
    let metrics = manager.metrics();
    assert!(metrics.contains("evenkeel_alertmanager_alerts_refused_total 1\n"), "{metrics}");
}

#[tokio::test]
async fn too_many_are_dropped_and_counted() {
    let (address, ..) = receiver(&[]).await;
    let manager = manager(address);
    let updates: Vec<_> = (0..10_003).map(|n| update(&format!("job-{n}"), n < 2)).collect();
    manager.send(&updates);
    let metrics = manager.metrics();
    assert!(metrics.contains("evenkeel_alertmanager_alerts_dropped_total 3\n"), "{metrics}");
}

#[test]
fn an_address_that_cannot_be_used_is_refused_with_an_example() {
    let wrong = |url: &str| Alertmanager::new(url, "http://console").err().unwrap().to_string();
    insta::assert_snapshot!(wrong("alertmanager:9093"), @r#""alertmanager:9093" is not an address that can be asked: the http:// in front is missing (write it like http://alertmanager:9093)"#);
}
