//! The SLO controller over the real API server and the real series store, in virtual time: rules,
//! states, the ledger, and what a Canary may do.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

#[path = "budget/clock.rs"]
mod clock;
#[path = "budget/refused.rs"]
mod refused;
#[path = "budget/strict.rs"]
mod strict;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use evenkeel_api::{
    GroupKind, Key, Obj,
    canary::Canary,
    slo::{ErrorBudgetPolicy, PrometheusRule, PrometheusServiceLevel},
};
use evenkeel_base::{Clock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    BoxFuture, DeleteOptions, DynController, Host, ListQuery, Listed, Patch, Read, RunLoop, Store,
    StoreError, Subresource, Watch, Write, WriteOptions,
};
use evenkeel_promql::labels::Labels;
use evenkeel_sim::world::VirtualTime;
use evenkeel_slo::controller::{
    AnswerController, PolicyController, Settings, SloController, install,
};
use evenkeel_telemetry::{Limits, Telemetry};
use jiff::SignedDuration;
use serde_json::{Value, json};

const NS: &str = "production";
const EVERY: Duration = Duration::from_secs(5);
const WRITE: WriteOptions = WriteOptions { subresource: None, expect: None, manager: "test" };
const STATUS: WriteOptions =
    WriteOptions { subresource: Some(Subresource::Status), expect: None, manager: "test" };

/// Counts the requests that controllers make.
struct Counting {
    store: Arc<dyn Store>,
    reads: AtomicU64,
    writes: AtomicU64,
    /// Objects of this kind may not be read.
    refused: Mutex<Option<GroupKind>>,
}

impl Counting {
    fn allow(&self, kind: &GroupKind, object: String) -> Result<(), StoreError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if self.refused.lock().unwrap_or_else(PoisonError::into_inner).as_ref() != Some(kind) {
            return Ok(());
        }
        let problem = "this user may not read it".to_owned();
        Err(StoreError::Refused { object, problem })
    }
}

impl Read for Counting {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            self.allow(&key.kind, key.to_string())?;
            self.store.get(key).await
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move {
            self.allow(&query.kind, query.kind.to_string())?;
            self.store.list(query).await
        })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        self.store.watch(query)
    }
}

impl Write for Counting {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.store.create(obj, options)
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.store.patch(key, patch, options)
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.writes.fetch_add(1, Ordering::Relaxed);
        self.store.delete(key, options)
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        self.store.post(key, subresource, body)
    }
}

struct World {
    asked: Arc<Counting>,
    store: Arc<dyn Store>,
    telemetry: Telemetry,
    time: Arc<VirtualTime>,
    controllers: tokio::task::JoinHandle<()>,
    good: f64,
    bad: f64,
    /// A series store takes no sample from before the last one.
    clock_was_set: bool,
}

impl World {
    async fn new(objects: &[Value]) -> Self {
        let time = Arc::new(VirtualTime::begin());
        let store = ApiServer::new(time.clone(), Rng::new(1)).store();
        let telemetry = Telemetry::new(Limits::default());
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}});
        let crds = evenkeel_api::crds();
        for object in crds.iter().chain([&namespace]).chain(objects) {
            store.create(&Obj::from_json(object.clone()).unwrap(), &WRITE).await.unwrap();
        }
        let (reads, writes) = (AtomicU64::new(0), AtomicU64::new(0));
        let refused = Mutex::default();
        let asked = Arc::new(Counting { store: store.clone(), reads, writes, refused });
        let controllers = start(asked.clone(), &telemetry, &time);
        Self {
            asked,
            store,
            telemetry,
            time,
            controllers,
            good: 0.0,
            bad: 0.0,
            clock_was_set: false,
        }
    }

    /// Reads and writes of the controllers since the last time.
    fn requests(&self) -> (u64, u64) {
        let of = |count: &AtomicU64| count.swap(0, Ordering::Relaxed);
        (of(&self.asked.reads), of(&self.asked.writes))
    }

    /// The controllers die and come back; what they only had in memory is gone.
    fn restart(&mut self) {
        self.controllers.abort();
        self.controllers = start(self.asked.clone(), &self.telemetry, &self.time);
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
                    let taken = self.telemetry.append(&labels, self.time.now(), value);
                    assert!(taken.is_ok() || self.clock_was_set, "{taken:?}");
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
    store: Arc<Counting>,
    telemetry: &Telemetry,
    time: &Arc<VirtualTime>,
) -> tokio::task::JoinHandle<()> {
    let store: Arc<dyn Store> = store;
    let host =
        Host::new(&store, time.clone(), time.clone()).with_metrics(Arc::new(telemetry.clone()));
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
    assert_eq!(world.ledger().await, "Canary/production/api-service@abcdef01 3000");

    // What fails without a release is nobody's.
    world.run(60, 5.0).await;
    world.run(30, 0.0).await;
    let ledger = "Canary/production/api-service@abcdef01 3000\nunexplained 300";
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

/// The reason of a condition of the SLO, with its status.
fn condition(status: &Value, kind: &str) -> String {
    let all = status["conditions"].as_array().unwrap().iter();
    let found = all.clone().find(|c| c["type"] == kind).unwrap();
    format!("{} {}: {}", found["status"], found["reason"], found["message"]).replace('"', "")
}

#[tokio::test(start_paused = true)]
async fn no_series_is_said_and_a_service_without_traffic_may_begin() {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    tokio::time::sleep(EVERY * 2).await;
    let said = condition(&world.slo().await, "MetricsAvailable");
    let query = "app_request_duration_seconds_count{service=\\api\\}";
    assert!(
        said.starts_with(&format!("False NoSeries: spec.slos[0]: no series matches {query}")),
        "{said}"
    );
    assert_eq!(world.permission().await, "approve BudgetUnknown");

    // Its pods are scraped: there is nothing to count yet, and that is known.
    let up = |world: &World, value: f64| {
        let labels = Labels::from_pairs([("__name__", "up"), ("namespace", NS), ("pod", "api-0")]);
        world.telemetry.append(&labels, world.time.now(), value).unwrap();
    };
    up(&world, 1.0);
    tokio::time::sleep(EVERY * 2).await;
    let said = condition(&world.slo().await, "MetricsAvailable");
    assert!(said.starts_with("False NoSeries"), "the query is still named: {said}");
    assert_eq!(world.state().await, "healthy quiet");
    assert_eq!(world.permission().await, "allow NoTrafficYet");
    // They are down, so nobody would see.
    for _ in 0..80 {
        up(&world, 0.0);
        tokio::time::sleep(EVERY).await;
    }
    assert_eq!(world.state().await, "unknown stale");
    assert_eq!(world.permission().await, "approve BudgetUnknown");

    // It has traffic, and then its counters vanish: that is not "no traffic yet".
    world.run(60, 0.0).await;
    assert_eq!(world.permission().await, "allow BudgetHealthy");
    for _ in 0..160 {
        up(&world, 1.0);
        tokio::time::sleep(EVERY).await;
    }
    assert_eq!(world.permission().await, "approve BudgetUnknown");
    world.restart();
    for _ in 0..4 {
        up(&world, 1.0);
        tokio::time::sleep(EVERY).await;
    }
    assert_eq!(world.permission().await, "approve BudgetUnknown");
}

/// The article's SLO under another name; its queries find the same counters.
fn named(name: &str, objective: f64) -> Value {
    let mut other = slo();
    other["metadata"]["name"] = name.into();
    other["spec"]["slos"][0]["name"] = name.into();
    other["spec"]["slos"][0]["objective"] = objective.into();
    other
}

#[tokio::test(start_paused = true)]
async fn of_several_slos_the_strictest_answers_and_nobody_writes_in_turn() {
    let mut world = World::new(&[slo(), named("strict", 99.99), canary(), policy()]).await;
    world.run(300, 0.02).await;
    let budget = world.json::<Canary>("api-service").await["status"]["errorBudget"].clone();
    // The worst case fits into one of the two budgets only.
    assert_eq!(budget["slo"], "production/strict/api-strict");
    let listed = |budget: &Value| {
        let all = budget["slos"].as_array().unwrap().iter();
        let one = |s: &Value| format!("{} {} {}", s["slo"], s["permission"], s["reason"]);
        all.map(one).collect::<Vec<_>>().join("\n").replace('"', "")
    };
    insta::assert_snapshot!(listed(&budget), @"
    production/strict/api-strict deny CostExceedsBudget
    production/api-service-slo/api-requests-availability allow BudgetHealthy
    ");
    world.requests();
    world.run(600, 0.02).await;
    let (reads, writes) = world.requests();
    // Every four minutes each object once.
    assert!(writes <= 10, "{writes} writes in ten minutes");
    assert!(reads <= 2 * 120 * 6 + 100, "{reads} reads in ten minutes");
    // 15 in a thousand fail: too much for the stricter objective.
    world.run(400, 1.5).await;
    let budget = world.json::<Canary>("api-service").await["status"]["errorBudget"].clone();
    insta::assert_snapshot!(listed(&budget), @"
    production/strict/api-strict deny BudgetBurning
    production/api-service-slo/api-requests-availability allow BudgetHealthy
    ");
    let message = budget["message"].as_str().unwrap();
    assert!(
        message.contains("times as fast as it may over 1h") && message.contains("14.4"),
        "{message}"
    );
}

#[tokio::test(start_paused = true)]
async fn an_slo_that_is_gone_takes_its_rules_and_its_word_with_it() {
    let mut pinned = canary();
    pinned["metadata"]["name"] = "pinned".into();
    pinned["metadata"]["annotations"] = json!({"evenkeel.dev/slos": "api-service-slo"});
    let mut world = World::new(&[slo(), canary(), pinned, policy()]).await;
    world.run(60, 0.0).await;
    let rules = Key::of::<PrometheusRule>(NS, "api-service-slo");
    assert!(world.store.get(&rules).await.unwrap().is_some());
    let key = Key::of::<PrometheusServiceLevel>(NS, "api-service-slo");
    world.store.delete(&key, &DeleteOptions::default()).await.unwrap();
    tokio::time::sleep(EVERY).await;
    assert!(world.store.get(&rules).await.unwrap().is_none(), "its rules go on firing");
    let budget = world.json::<Canary>("api-service").await["status"]["errorBudget"].clone();
    assert_eq!(budget, Value::Null, "nobody keeps it up to date");
    let budget = world.json::<Canary>("pinned").await["status"]["errorBudget"].clone();
    assert_eq!(budget["reason"], "SloMissing");
    assert!(budget["message"].as_str().unwrap().contains("names api-service-slo"), "{budget}");
    let selected = world.json::<ErrorBudgetPolicy>("api").await["status"]["slos"].clone();
    assert_eq!(selected, 0, "it is not one of its policy's any more");
    // Without any policy nothing is held.
    let key = Key::of::<ErrorBudgetPolicy>(NS, "api");
    world.store.delete(&key, &DeleteOptions::default()).await.unwrap();
    tokio::time::sleep(EVERY).await;
    let budget = world.json::<Canary>("pinned").await["status"]["errorBudget"].clone();
    assert_eq!((&budget["permission"], &budget["reason"]), (&"allow".into(), &"NoPolicy".into()));
}

#[test]
fn the_prometheus_operator_need_not_be_there() {
    let all: [&dyn DynController; 3] =
        [&SloController::default(), &AnswerController::default(), &PolicyController];
    for controller in all {
        let rules = GroupKind::of::<PrometheusRule>();
        let interests = controller.interests().into_iter();
        let mut followed = interests.filter(|interest| interest.query.kind == rules);
        assert!(followed.all(|interest| interest.is_optional), "{}", controller.name());
    }
}

#[tokio::test(start_paused = true)]
async fn many_canaries_and_slos_of_one_namespace_at_rest_cost_little() {
    const EACH: u64 = 12;
    let mut objects = vec![policy()];
    for n in 0..EACH {
        objects.push(named(&format!("slo-{n}"), 99.9));
        let mut canary = canary();
        canary["metadata"]["name"] = format!("canary-{n}").into();
        objects.push(canary);
    }
    let mut world = World::new(&objects).await;
    world.run(240, 0.0).await;
    world.requests();
    world.run(240, 0.0).await;
    let (reads, writes) = world.requests();
    // An SLO is read for every five seconds here, a Canary every minute; each is written every two
    // minutes. Neither knows how many there are of the other.
    assert!(writes <= 2 * EACH * 3, "{writes} writes in four minutes");
    assert!(reads <= EACH * 48 * 5 + EACH * 12 * 5, "{reads} reads in four minutes");
}

impl World {
    /// A release that fails for so long, and is rolled back.
    async fn release(&mut self, revision: &str, seconds: u32, failing_per_second: f64) {
        self.canary("Progressing", 10, revision).await;
        self.run(seconds, failing_per_second).await;
        self.canary("Failed", 0, revision).await;
    }

    /// Changes the spec of the SLO's object.
    async fn edit(&self, change: impl Fn(&mut Value)) {
        let mut object = self.json::<PrometheusServiceLevel>("api-service-slo").await;
        change(&mut object["spec"]);
        let key = Key::of::<PrometheusServiceLevel>(NS, "api-service-slo");
        let patch = Patch::Merge(json!({"spec": object["spec"]}));
        self.store.patch(&key, &patch, &WRITE).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn releases_that_follow_each_other_are_each_charged_what_failed_under_them() {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    world.run(120, 0.0).await;
    world.release("evenkeel-00000001", 30, 10.0).await;
    world.run(10, 0.0).await;
    world.release("evenkeel-00000002", 35, 7.0).await;
    world.run(10, 0.0).await;
    // One that begins while the last failures of the one before may still show up.
    world.release("evenkeel-00000003", 25, 3.0).await;
    world.run(60, 0.0).await;
    let ledger = "Canary/production/api-service@00000001 300\n\
        Canary/production/api-service@00000002 245\n\
        Canary/production/api-service@00000003 75";
    assert_eq!(world.ledger().await, ledger);
    // Counted again after hours, when old times are looked at coarsely, it is the same.
    world.run(3 * 3600, 0.0).await;
    world.restart();
    world.run(90, 0.0).await;
    assert_eq!(world.ledger().await, ledger);
}

#[tokio::test(start_paused = true)]
async fn what_was_charged_stays_charged_when_the_slo_is_edited() {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    world.run(120, 0.0).await;
    world.release("evenkeel-00000001", 30, 10.0).await;
    world.run(7200, 0.0).await;
    let ledger = "Canary/production/api-service@00000001 300";
    assert_eq!(world.ledger().await, ledger);
    let settled = world.slo().await["slos"][0]["account"]["settled"].clone();
    assert_eq!(settled[0][0], "Canary/production/api-service@00000001");

    let edits = [("description", "text".into()), ("objective", json!(99.5)), ("name", "n1".into())];
    for (field, value) in edits {
        world.edit(|spec| spec["slos"][0][field] = value.clone()).await;
        world.run(30, 0.0).await;
        assert_eq!(world.ledger().await, ledger, "{field}");
        let status = world.slo().await;
        assert_eq!(status["slos"][0]["account"]["settled"], settled, "{field}");
        assert_eq!(status["former"], json!([]), "{field}");
    }
    let state = &world.slo().await["slos"][0];
    assert_eq!((&state["objective"], &state["id"]), (&json!(99.5), &json!("api-n1")));

    // A slip of the pen, and its correction.
    world.edit(|spec| spec["slos"][0]["objective"] = json!(995)).await;
    world.run(30, 0.0).await;
    let status = world.slo().await;
    assert_eq!(status["slos"], json!([]));
    assert_eq!(status["former"][0]["ledger"][0]["failures"], 300);
    world.edit(|spec| spec["slos"][0]["objective"] = json!(99.5)).await;
    world.run(30, 0.0).await;
    assert_eq!(world.ledger().await, ledger);
    assert_eq!(world.slo().await["slos"][0]["account"]["settled"], settled);
    assert_eq!(world.slo().await["former"], json!([]));

    // Another query is another count; what was charged by the one before is kept with it.
    let query = "sum(rate(app_request_duration_seconds_count{service=\"api\",status=\"503\"}[5m]))";
    world.edit(|spec| spec["slos"][0]["sli"]["events"]["error_query"] = json!(query)).await;
    world.run(60, 0.0).await;
    assert_eq!(world.ledger().await, "");
    let former = world.slo().await["former"][0].clone();
    assert_eq!(former["ledger"][0]["failures"], 300);
    assert!(former["query"].as_str().unwrap().contains("5.."), "{former}");
    assert_eq!(world.slo().await["slos"][0]["account"]["settled"], settled);
}

#[tokio::test(start_paused = true)]
async fn a_rename_amid_a_release_is_the_same_count_and_another_grouping_is_another() {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    world.run(120, 0.0).await;
    world.canary("Progressing", 10, "evenkeel-00000001").await;
    world.run(15, 10.0).await;
    let made = |status: &Value| {
        let reserved = &status["slos"][0]["account"]["reservations"];
        reserved["Canary/production/api-service@00000001"]["made"].clone()
    };
    let before = made(&world.slo().await);
    assert!(before.is_string(), "{before}");
    world.edit(|spec| spec["slos"][0]["name"] = "n1".into()).await;
    // The process that sees it counts all of it again.
    world.restart();
    world.run(15, 10.0).await;
    assert_eq!(made(&world.slo().await), before);
    world.canary("Failed", 0, "evenkeel-00000001").await;
    world.run(3600, 0.0).await;
    let status = world.slo().await;
    assert_eq!(world.ledger().await, "Canary/production/api-service@00000001 300");
    assert_eq!(status["slos"][0]["account"]["settled"].as_array().unwrap().len(), 1);
    assert_eq!((&status["former"], &status["slos"][0]["id"]), (&json!([]), &json!("api-n1")));

    world.edit(|spec| spec["slos"][0]["groupBy"] = json!(["status"])).await;
    world.run(60, 0.0).await;
    let status = world.slo().await;
    assert_eq!(status["former"][0]["ledger"][0]["failures"], 300);
    let query = status["queries"][0]["query"].as_str().unwrap();
    assert!(query.ends_with(" by (status)"), "{query}");
}

#[tokio::test(start_paused = true)]
async fn a_misspelled_field_is_said_on_the_object_and_a_maintenance_with_one_excludes_nothing() {
    let mut misspelled = slo();
    misspelled["spec"]["slos"][0]["descripton"] = "99.9%".into();
    let mut world = World::new(&[misspelled]).await;
    world.run(30, 0.0).await;
    let status = world.slo().await;
    let said = condition(&status, "UnknownField");
    assert!(said.contains("spec.slos[0].descripton"), "{said}");
    assert_eq!(status["promOpRulesGenerated"], true, "Sloth takes it");

    let now = world.time.now();
    let mut maintenance = json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "SloMaintenance",
        "metadata": {"name": "night", "namespace": NS}, "spec": {"reason": "database", "author":
        "ana", "from": now, "to": now + SignedDuration::from_mins(30), "servces": ["other"]}});
    let create = |body: &Value| Obj::from_json(body.clone()).unwrap();
    let refused = world.store.create(&create(&maintenance), &WRITE).await.unwrap_err();
    let refused = refused.to_string();
    assert!(refused.contains("unknown field \"spec.servces\""), "{refused}");
    // Where no definition with a schema is installed, the controller says it.
    let spec = maintenance["spec"].take();
    let error = evenkeel_slo::budget::Exclusion::from_spec(&spec).unwrap_err().to_string();
    assert_eq!(error, "spec.servces is not a field: remove it or correct its name");
}
