//! `evenkeel slo status` against a metrics server on loopback.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

use std::{path::Path, process::Command, sync::Arc};

use evenkeel_base::Clock as _;
use evenkeel_live::RealTime;
use evenkeel_promql::labels::Labels;
use evenkeel_telemetry::{Limits, Telemetry, shell::Server};
use jiff::SignedDuration;

/// A service that answered 100 requests per second for twenty minutes, until two minutes ago; this
/// many failed.
fn served(failing_per_second: f64) -> Telemetry {
    let telemetry = Telemetry::new(Limits::default());
    let start = RealTime::start().now() - SignedDuration::from_mins(22);
    for step in 0..=80 {
        let seconds = f64::from(step) * 15.0;
        let at = start + SignedDuration::from_secs(i64::from(step) * 15);
        for (status, rate) in [("200", 100.0 - failing_per_second), ("500", failing_per_second)] {
            let labels = Labels::from_pairs([
                ("__name__", "app_request_duration_seconds_count"),
                ("service", "api"),
                ("status", status),
            ]);
            telemetry.append(&labels, at, rate * seconds).unwrap();
        }
    }
    telemetry
}

/// Standard output and exit code of `slo status` over this service.
async fn status(telemetry: Telemetry, file: &Path, output: &str) -> (String, Option<i32>) {
    let (text, code, _) = status_and_words(telemetry, file, output).await;
    (text, code)
}

/// The same with standard error.
async fn status_and_words(
    telemetry: Telemetry,
    file: &Path,
    output: &str,
) -> (String, Option<i32>, String) {
    let time = Arc::new(RealTime::start());
    let server = Server::bind(([127, 0, 0, 1], 0).into(), telemetry, time).await.unwrap();
    let url = format!("http://{}", server.address().unwrap());
    let serving = tokio::spawn(server.run());
    let mut command = Command::new(env!("CARGO_BIN_EXE_evenkeel"));
    command.args(["slo", "status", "--prometheus", &url, "--output", output]).arg(file);
    let ran = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    serving.abort();
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
    (text(ran.stdout), ran.status.code(), text(ran.stderr))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_budget_is_shown_and_the_exit_code_says_whether_all_are_met() {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slo.yaml"));
    let (table, code) = status(served(0.02), file, "table").await;
    // How much the window allows depends on how long this test takes.
    let allowed = table.split_whitespace().rev().nth(7).unwrap().to_owned();
    insta::assert_snapshot!(table.replace(&allowed, "NNNNNN"), @"
    SERVICE  SLO                    OBJECTIVE  WINDOW  STATE    BAD  TOTAL   ALLOWED  LEFT    SLOTH  BURN 5m  BURN 1h  BURN 6h  GONE  BUDGET
    api      requests-availability  99.9%      30d     Healthy  24   120000  NNNNNN   99.99%  -      0.2      0.2      0.2      -     ████████████████████
    ");
    assert_eq!(code, Some(0));
    let (json, code) = status(served(20.0), file, "json").await;
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let slo = &json["slos"][0];
    assert_eq!((&slo["state"], &slo["bad"]), (&"burning".into(), &24_000.0.into()));
    assert_eq!((&slo["forecast"]["forecast"], code), (&"at".into(), Some(0)));
    // 22 minutes of 43,200 have data: that many times as much may come, and one in a thousand fail.
    let allowed = slo["allowed"].as_f64().unwrap();
    assert!((allowed / 120_000.0 / (43_200.0 / 22.0) * 1000.0 - 1.0).abs() < 0.1, "{allowed}");
    assert_eq!(slo["total"], 120_000.0);
    assert_eq!(slo["slothLeft"], serde_json::Value::Null, "its rules are not evaluated here");
    let left = slo["budgetLeft"].as_f64().unwrap();
    // A fifth failing for 20 minutes of 30 days: 200 times the allowed rate.
    assert!((left - (1.0 - 200.0 * 20.0 / 43_200.0)).abs() < 0.01, "{left}");
    let (empty, code) = status(Telemetry::new(Limits::default()), file, "table").await;
    insta::assert_snapshot!(empty, @"
    SERVICE  SLO                    OBJECTIVE  WINDOW  STATE    BAD  TOTAL  ALLOWED  LEFT     SLOTH  BURN 5m  BURN 1h  BURN 6h  GONE  BUDGET
    api      requests-availability  99.9%      30d     Unknown  0    0      0        unknown  -      -        -        -        ?     ····················
    ");
    assert_eq!(code, Some(1));
}

/// Traffic through a Gateway is counted for the Gateway, not for the Service behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_that_matches_no_series_is_not_healthy_and_the_series_with_events_are_named() {
    let file = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/slo.yaml"));
    let telemetry = Telemetry::new(Limits::default());
    let start = RealTime::start().now() - SignedDuration::from_mins(2);
    for step in 0..=8 {
        let at = start + SignedDuration::from_secs(i64::from(step) * 15);
        for (name, service) in
            [("app_request_duration_seconds_count", "web"), ("other_total", "api")]
        {
            let labels = Labels::from_pairs([("__name__", name), ("service", service)]);
            telemetry.append(&labels, at, f64::from(step + 1) * 100.0).unwrap();
        }
    }
    let (table, code, words) = status_and_words(telemetry, file, "table").await;
    assert_eq!(code, Some(1), "{table}{words}");
    assert!(table.contains("Unknown") && !table.contains("Healthy"), "{table}");
    let hint = "with service=\"web\" app_request_duration_seconds_count has events";
    assert!(words.contains(hint), "{words}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_slo_that_cannot_be_read_or_counted_is_no_good_answer() {
    let good = include_str!("slo.yaml");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join("slo_status");
    std::fs::create_dir_all(&folder).unwrap();
    let refused =
        good.replace("api-service-slo", "bad1").replace("objective: 99.9", "objective: x");
    let uncounted = good
        .replace("api-service-slo", "bad2")
        .replace("requests-availability", "broken")
        .replace("service=\"api\"}[5m]", "service=\"{{.nothing}}\"}[5m]");
    for (name, bad, said) in [
        ("refused", refused, "PrometheusServiceLevel/bad1 spec.slos[0].objective"),
        ("uncounted", uncounted, "api-broken: its budget cannot be counted: query "),
    ] {
        let file = folder.join(format!("{name}.yaml"));
        std::fs::write(&file, format!("{good}\n---\n{bad}")).unwrap();
        let (table, code, words) = status_and_words(served(0.02), &file, "table").await;
        assert!(table.contains("Healthy"), "{name}: {table}{words}");
        assert_eq!(code, Some(1), "{name}: {table}{words}");
        assert!(words.contains(said), "{name}: {words}");
    }
}
