//! The SLO controller over the real API server and the real series store, in virtual time: rules,
//! states, the ledger, and what a Canary may do.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

use std::{sync::Arc, time::Duration};

use evenkeel_api::{
    Key, Obj,
    canary::Canary,
    slo::{ErrorBudgetPolicy, PrometheusRule, PrometheusServiceLevel},
};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, DeleteOptions, Host, Patch, RunLoop, Store, Subresource, Timer, WriteOptions,
};
use evenkeel_promql::labels::Labels;
use evenkeel_slo::controller::{Settings, install};
use evenkeel_telemetry::{Limits, Telemetry};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

const NS: &str = "production";
const EVERY: Duration = Duration::from_secs(5);
const WRITE: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "test" };
const STATUS: WriteOptions =
    WriteOptions { subresource: Some(Subresource::Status), expect: None, manager: "test" };

/// tokio's paused time, counted from a fixed date.
struct Paused(tokio::time::Instant);

impl Clock for Paused {
    fn now(&self) -> Timestamp {
        let passed = SignedDuration::try_from(self.0.elapsed()).unwrap();
        Timestamp::from_second(1_700_000_000).unwrap() + passed
    }
}

impl Timer for Paused {
    fn sleep(&self, wait: Duration) -> BoxFuture<'static, ()> {
        Box::pin(tokio::time::sleep(wait))
    }
}

struct World {
    store: Arc<dyn Store>,
    telemetry: Telemetry,
    time: Arc<Paused>,
    controllers: tokio::task::JoinHandle<()>,
    good: f64,
    bad: f64,
}

impl World {
    async fn new(objects: &[Value]) -> Self {
        let time = Arc::new(Paused(tokio::time::Instant::now()));
        let store = ApiServer::new(time.clone(), Rng::new(1)).store();
        let telemetry = Telemetry::new(Limits::default());
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}});
        let crds = evenkeel_api::crds();
        for object in crds.iter().chain([&namespace]).chain(objects) {
            store.create(&Obj::from_json(object.clone()).unwrap(), &WRITE).await.unwrap();
        }
        let controllers = start(&store, &telemetry, &time);
        Self { store, telemetry, time, controllers, good: 0.0, bad: 0.0 }
    }

    /// The controllers die and come back; what they only had in memory is gone.
    fn restart(&mut self) {
        self.controllers.abort();
        self.controllers = start(&self.store, &self.telemetry, &self.time);
    }

    /// Traffic at 100 requests per second, of which so many fail, scraped every 5 s.
    async fn run(&mut self, seconds: u32, failing_per_second: f64) {
        for _ in 0..seconds / 5 {
            tokio::time::sleep(EVERY).await;
            self.good += (100.0 - failing_per_second) * 5.0;
            self.bad += failing_per_second * 5.0;
            for (status, value) in [("200", self.good), ("500", self.bad)] {
                let labels = Labels::from_pairs([
                    ("__name__", "app_request_duration_seconds_count"),
                    ("service", "api"),
                    ("status", status),
                ]);
                // A counter of errors appears with the first error.
                if value > 0.0 {
                    self.telemetry.append(&labels, self.time.now(), value).unwrap();
                }
            }
        }
    }

    async fn json<T: evenkeel_api::ApiObject>(&self, name: &str) -> Value {
        let found = self.store.get(&Key::of::<T>(NS, name)).await.unwrap();
        found.unwrap().json().clone()
    }

    async fn slo(&self) -> Value {
        self.json::<PrometheusServiceLevel>("api-service-slo").await["status"].clone()
    }

    async fn state(&self) -> String {
        let slo = self.slo().await["slos"][0].clone();
        format!("{} {}", slo["state"].as_str().unwrap(), slo["coverage"].as_str().unwrap())
    }

    /// `cause failures`, one per line.
    async fn ledger(&self) -> String {
        let slo = self.slo().await["slos"][0].clone();
        let lines = slo["ledger"].as_array().unwrap().clone();
        let line = |l: &Value| format!("{} {}", l["cause"].as_str().unwrap(), l["failures"]);
        lines.iter().map(line).collect::<Vec<_>>().join("\n")
    }

    /// What the Canary may do, and why.
    async fn permission(&self) -> String {
        let budget = self.json::<Canary>("api-service").await["status"]["errorBudget"].clone();
        format!("{} {}", budget["permission"], budget["reason"]).replace('"', "")
    }

    async fn canary(&self, phase: &str, weight: i32, revision: &str) {
        let status = json!({"status": {"phase": phase, "canaryWeight": weight,
            "lastAppliedSpec": revision}});
        let key = Key::of::<Canary>(NS, "api-service");
        self.store.patch(&key, &Patch::Merge(status), &STATUS).await.unwrap();
    }
}

fn start(
    store: &Arc<dyn Store>,
    telemetry: &Telemetry,
    time: &Arc<Paused>,
) -> tokio::task::JoinHandle<()> {
    let host =
        Host::new(store, time.clone(), time.clone()).with_metrics(Arc::new(telemetry.clone()));
    tokio::spawn(install(RunLoop::new(host), Settings { every: EVERY }).run())
}

/// The article's SLO as written, in a namespace.
fn slo() -> Value {
    json!({"apiVersion": "sloth.slok.dev/v1", "kind": "PrometheusServiceLevel",
        "metadata": {"name": "api-service-slo", "namespace": NS},
        "spec": {"service": "api", "labels": {"team": "platform"}, "slos": [{
            "name": "requests-availability", "objective": 99.9,
            "description": "99.9% of requests should be successful",
            "sli": {"events": {
                "error_query": "sum(rate(app_request_duration_seconds_count{service=\"api\",status=~\"5..\"}[5m]))\n",
                "total_query": "sum(rate(app_request_duration_seconds_count{service=\"api\"}[5m]))\n"}},
            "alerting": {"name": "APIServiceHighErrorRate",
                "page_alert": {"labels": {"severity": "critical"}},
                "ticket_alert": {"labels": {"severity": "warning"}}}}]}})
}

fn canary() -> Value {
    json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
        "metadata": {"name": "api-service", "namespace": NS},
        "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment",
                "name": "api-service"},
            "service": {"port": 80},
            "analysis": {"interval": "1m", "threshold": 10, "maxWeight": 50, "stepWeight": 10}}})
}

fn policy() -> Value {
    json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "ErrorBudgetPolicy",
        "metadata": {"name": "api", "namespace": NS}, "spec": {"selector": {"services": ["api"]}}})
}

#[tokio::test(start_paused = true)]
async fn a_release_that_burns_the_budget_is_found_priced_and_held() {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    world.run(180, 0.0).await;
    assert_eq!(world.state().await, "healthy measured");
    let rules = world.json::<PrometheusRule>("api-service-slo").await;
    let groups = rules["spec"]["groups"].as_array().unwrap();
    assert_eq!(groups.iter().map(|g| g["rules"].as_array().unwrap().len()).sum::<usize>(), 17);
    let status = world.slo().await;
    let condition = |kind: &str| {
        let all = status["conditions"].as_array().unwrap().iter();
        all.clone().find(|c| c["type"] == kind).map_or("none", |c| c["status"].as_str().unwrap())
    };
    assert_eq!(status["promOpRulesGenerated"], true);
    assert_eq!(condition("Valid"), "True");
    assert_eq!(condition("WindowInferred"), "True", "the article's literal [5m] is told");
    assert_eq!(condition("MetricsAvailable"), "True");
    let policy = world.json::<ErrorBudgetPolicy>("api").await;
    assert_eq!(policy["status"]["slos"], 1);

    // 150 % x 1 m, then ten checks at 50 %: 6.5 minutes of all traffic, of 43.2 allowed.
    let budget = world.json::<Canary>("api-service").await["status"]["errorBudget"].clone();
    assert_eq!(budget["worstCaseRequests"], 39_000);
    assert!((budget["worstCasePercent"].as_f64().unwrap() - 15.05).abs() < 0.05, "{budget}");
    assert_eq!(world.permission().await, "allow BudgetHealthy");

    // A release at 10 %, all of it failing.
    world.canary("Progressing", 10, "evenkeel-abcdef01").await;
    world.run(300, 10.0).await;
    assert_eq!(world.state().await, "burning measured");
    assert_eq!(world.permission().await, "deny BudgetBurning");
    world.canary("Failed", 0, "evenkeel-abcdef01").await;
    world.run(60, 0.0).await;
    assert_eq!(world.ledger().await, "Canary/production/api-service@abcdef01 3000.0");

    // What fails without a release is nobody's.
    world.run(60, 5.0).await;
    world.run(30, 0.0).await;
    let ledger = "Canary/production/api-service@abcdef01 3000.0\nunexplained 300.0";
    assert_eq!(world.ledger().await, ledger);
    let settled = world.slo().await["slos"][0]["account"]["settled"].clone();
    assert_eq!(settled[0][0], "Canary/production/api-service@abcdef01");

    // A restart loses nothing.
    world.restart();
    world.run(90, 0.0).await;
    assert_eq!(world.ledger().await, ledger);
    let total = world.slo().await["slos"][0]["total"].as_f64().unwrap();
    assert!(total > 50_000.0, "{total}");
}

#[tokio::test(start_paused = true)]
async fn no_data_is_no_leave_and_a_break_glass_is() {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    tokio::time::sleep(EVERY * 2).await;
    assert_eq!(world.state().await, "unknown missing");
    assert_eq!(world.permission().await, "approve BudgetUnknown");
    world.run(60, 0.0).await;
    assert_eq!(world.permission().await, "allow BudgetHealthy");
    // Nothing is scraped any more.
    tokio::time::sleep(Duration::from_mins(30)).await;
    assert_eq!(world.state().await, "unknown stale");
    assert_eq!(world.permission().await, "approve BudgetUnknown");
    let now = world.time.now();
    let glass = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "BreakGlass",
        "metadata": {"name": "hotfix", "namespace": NS},
        "spec": {"reason": "the metrics server is down", "author": "ana", "granted": now,
            "expires": now + SignedDuration::from_mins(30), "classes": ["deploy"]}});
    world.store.create(&Obj::from_json(glass).unwrap(), &WRITE).await.unwrap();
    tokio::time::sleep(EVERY * 2).await;
    assert_eq!(world.permission().await, "allow BreakGlass");
    tokio::time::sleep(Duration::from_mins(31)).await;
    assert_eq!(world.permission().await, "approve BudgetUnknown");
}

#[tokio::test(start_paused = true)]
async fn what_is_wrong_is_a_condition_and_hurts_nobody_else() {
    let mut broken = slo();
    broken["metadata"]["name"] = "broken".into();
    broken["spec"]["slos"][0]["objective"] = 120.into();
    let mut empty = policy();
    empty["metadata"]["name"] = "empty".into();
    empty["spec"] = json!({"selector": {}});
    let mut world = World::new(&[broken, slo(), canary(), empty]).await;
    world.run(60, 0.0).await;
    let broken = world.json::<PrometheusServiceLevel>("broken").await["status"].clone();
    assert_eq!(broken["promOpRulesGenerated"], false);
    let message = broken["conditions"].to_string();
    assert!(message.contains("objective"), "{message}");
    let empty = world.json::<ErrorBudgetPolicy>("empty").await["status"].clone();
    assert!(empty["conditions"].to_string().contains("selects nothing"), "{empty}");
    assert_eq!(world.state().await, "healthy measured");
    // A policy that is not valid may have been for this SLO: it holds rather than opens.
    assert_eq!(world.permission().await, "approve PolicyInvalid");
    let key = Key::of::<ErrorBudgetPolicy>(NS, "empty");
    world.store.delete(&key, &DeleteOptions::default()).await.unwrap();
    tokio::time::sleep(EVERY * 2).await;
    assert_eq!(world.permission().await, "allow NoPolicy");
}
