//! The scrape loop under virtual time: pods come, fail, hang and go.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use crate::common::{EPOCH_S, TokioTime, pod, pod_store};
use evenkeel_control::{BoxFuture, Metrics as _, WatchEvent};
use evenkeel_promql::exposition::Format;
use evenkeel_telemetry::{
    Fetch, FetchError, Fetched, Limits, ScrapeSettings, Scraper, Source, Target, Telemetry,
};
use jiff::Timestamp;

/// Pods that answer with a counter of their scrapes, unless set to fail or hang.
#[derive(Default)]
struct Pods {
    mood: Mutex<BTreeMap<String, &'static str>>,
    hits: Mutex<BTreeMap<String, u32>>,
}

impl Fetch for Pods {
    fn fetch<'a>(
        &'a self,
        target: &'a Target,
        _: &'a ScrapeSettings,
    ) -> BoxFuture<'a, Result<Fetched, FetchError>> {
        let name = target.labels.get("pod").to_owned();
        let mood = self.mood.lock().unwrap().get(&name).copied().unwrap_or("fine");
        Box::pin(async move {
            match mood {
                "hang" => std::future::pending().await,
                "fail" => Err(FetchError::Status { status: 503 }),
                _ => {
                    let mut hits = self.hits.lock().unwrap();
                    let n = hits.entry(name).or_default();
                    *n += 1;
                    Ok(Fetched { text: format!("hits_total {n}\n"), format: Format::Text })
                }
            }
        })
    }
}

struct Gateway;

impl Source for Gateway {
    fn expose(&self) -> String {
        "requests{job=\"api\"} 7\n".to_owned()
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(EPOCH_S + second).unwrap()
}

async fn until(second: u64, from: TokioTime) {
    let passed = evenkeel_base::Clock::now(&from).duration_since(at(0));
    let passed = Duration::try_from(passed).unwrap();
    tokio::time::sleep(Duration::from_secs(second).saturating_sub(passed)).await;
}

/// `labels value` per sample, in order.
async fn ask(telemetry: &Telemetry, expr: &str, second: i64) -> String {
    let samples = telemetry.query(expr, at(second)).await.unwrap();
    let row = |s: &evenkeel_control::Sample| {
        let labels: Vec<&str> = s.labels.values().map(String::as_str).collect();
        format!("{} {}", labels.join(","), s.value)
    };
    samples.iter().map(row).collect::<Vec<_>>().join(" | ")
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn pods_are_scraped_from_their_start_to_their_end() {
    let time = TokioTime::start();
    let telemetry = Telemetry::new(Limits::default());
    let pods = Arc::new(Pods::default());
    let (events, store) = pod_store();
    let scraper = Scraper::new(
        telemetry.clone(),
        ScrapeSettings::every(Duration::from_secs(10)),
        pods.clone(),
        Arc::new(time),
        Arc::new(time),
    )
    .with_pods(store)
    .with_source("gateway", "gateway", Arc::new(Gateway));
    let running = tokio::spawn(scraper.run());
    let expr = "sum by (pod) (hits_total)";

    events.unbounded_send(WatchEvent::Applied(pod("a", "127.64.0.1", 80))).unwrap();
    events.unbounded_send(WatchEvent::Applied(pod("b", "127.64.0.2", 80))).unwrap();
    until(30, time).await;
    insta::assert_snapshot!(ask(&telemetry, expr, 30).await, @"b 4 | a 3");
    insta::assert_snapshot!(ask(&telemetry, "sum by (pod, job, instance) (up)", 30).await, @"127.64.0.2:80,kubernetes-pods,b 1 | gateway,gateway 1 | 127.64.0.1:80,kubernetes-pods,a 1");
    insta::assert_snapshot!(ask(&telemetry, "sum by (job) (requests)", 30).await, @"api 7");

    // One fails, the other hangs: both end at once, not after the lookback of five minutes.
    pods.mood.lock().unwrap().extend([("a".to_owned(), "fail"), ("b".to_owned(), "hang")]);
    until(60, time).await;
    insta::assert_snapshot!(ask(&telemetry, expr, 60).await, @"");
    insta::assert_snapshot!(ask(&telemetry, "sum by (pod) (up)", 60).await, @"b 0 |  1 | a 0");
    let targets = telemetry.targets();
    let row = |t: &evenkeel_telemetry::TargetStatus| {
        format!("{} {} {:?} {}", t.target.id, t.health.as_str(), t.took, t.last_error)
    };
    let rows: Vec<String> = targets.iter().map(row).collect();
    insta::assert_snapshot!(rows.join("\n"), @r#"
    gateway/gateway up 0ns 
    kubernetes-pods/shop/a down 0ns server returned HTTP status 503
    kubernetes-pods/shop/b down 10s no answer within 10s
    "#);

    // One recovers, the other is deleted while a scrape of it hangs.
    pods.mood.lock().unwrap().remove("a");
    events.unbounded_send(WatchEvent::Deleted(pod("b", "127.64.0.2", 80))).unwrap();
    until(90, time).await;
    insta::assert_snapshot!(ask(&telemetry, expr, 90).await, @"a 6");
    insta::assert_snapshot!(ask(&telemetry, "sum by (pod) (up)", 90).await, @" 1 | a 1");
    insta::assert_snapshot!(telemetry.targets().len(), @"2");

    // The same pod at a new address is a new target: its old series ends.
    events.unbounded_send(WatchEvent::Applied(pod("a", "127.64.0.9", 80))).unwrap();
    until(120, time).await;
    insta::assert_snapshot!(ask(&telemetry, "sum by (instance) (hits_total)", 120).await, @"127.64.0.9:80 9");
    running.abort();
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn old_samples_go_after_the_retention() {
    let time = TokioTime::start();
    let limits = Limits { retention: Duration::from_mins(2), ..Limits::default() };
    let telemetry = Telemetry::new(limits);
    let scraper = Scraper::new(
        telemetry.clone(),
        ScrapeSettings::every(Duration::from_secs(1)),
        Arc::new(Pods::default()),
        Arc::new(time),
        Arc::new(time),
    )
    .with_source("gateway", "gateway", Arc::new(Gateway));
    let running = tokio::spawn(scraper.run());
    until(3600, time).await;
    let samples = ask(&telemetry, "count_over_time(requests[1h])", 3600).await;
    let kept: f64 = samples.split(' ').next_back().unwrap().parse().unwrap();
    // The retention, the minute between two prunings, and a block of 128 samples that goes whole.
    assert!((120.0..=308.0).contains(&kept), "{samples}");
    running.abort();
}

#[test]
fn memory_is_bounded_by_forgetting_early() {
    let limits = Limits { memory_bytes_max: 100_000, ..Limits::default() };
    let telemetry = Telemetry::new(limits);
    let labels = evenkeel_promql::labels::Labels::named("x");
    for second in 0..20_000 {
        telemetry.append(&labels, at(second), 1.0).unwrap();
    }
    telemetry.prune(at(20_000));
    assert!((1000..100_000).contains(&telemetry.memory_bytes()), "{}", telemetry.memory_bytes());
}

/// Ten requests a second, half of which fail from second 20 on.
struct Failing(TokioTime);

impl Source for Failing {
    fn expose(&self) -> String {
        let passed = evenkeel_base::Clock::now(&self.0).duration_since(at(0)).as_secs();
        let failed = (passed - 20).max(0) * 5;
        let mut text = format!(
            "# TYPE requests_total counter\nrequests_total{{status=\"200\"}} {}\n",
            passed * 10 - failed
        );
        // As most libraries, it shows a counter when it has counted once.
        if failed > 0 {
            writeln!(text, "requests_total{{status=\"500\"}} {failed}").unwrap();
        }
        text
    }
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn the_first_errors_count_at_the_first_scrape_that_shows_them() {
    let time = TokioTime::start();
    let telemetry = Telemetry::new(Limits::default());
    let settings = ScrapeSettings::every(Duration::from_secs(15));
    let none = Arc::new(Pods::default());
    let scraper = Scraper::new(telemetry.clone(), settings, none, Arc::new(time), Arc::new(time))
        .with_source("gateway", "gateway", Arc::new(Failing(time)));
    let running = tokio::spawn(scraper.run());
    // One scrape with errors lies in the window.
    until(36, time).await;
    let scrapes = "count_over_time(requests_total{status=\"500\"}[16s])";
    insta::assert_snapshot!(ask(&telemetry, scrapes, 36).await, @"gateway,gateway,500 1");
    // 40 of the last 150, less what is not extrapolated beyond zero.
    let share = "sum(rate(requests_total{status=\"500\"}[30s])) / sum(rate(requests_total[30s]))";
    insta::assert_snapshot!(ask(&telemetry, share, 36).await, @" 0.2133267220993211");
    running.abort();
}
