//! A world for one Canary in virtual time: the real run loop, observation and performing over a
//! small store; Deployments, endpoints and the gateway follow at once, or as the test says.
//!
//! What must hold of every release whatever happens is checked in `evenkeel_sim::world`, from
//! outside and among many more faults. Here is what takes a look inside, after every single step:
//! what the Canary's status, its conditions, Events, queries and webhooks say, and a death after
//! each write in turn.

mod host;
mod store;

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{
    GroupKind, Key, Obj, canary::Canary, httproute::HttpRoute, weighted::virtual_service,
};
use evenkeel_base::Clock;
use evenkeel_control::{BoxFuture, HookCall, Host, RunLoop, Steward, Stewards, Store, StoreError};
use evenkeel_delivery::{Settings, install};
use futures::{executor::LocalPool, task::LocalSpawnExt as _};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::Deployment,
    core::v1::{Event, Pod, Service},
    discovery::v1::EndpointSlice,
};
use serde_json::{Value, json};

use host::{Called, Gate, Mailbox, Messages, Rule, Time};

pub(crate) use host::{Answers, Asked, Traffic};
pub(crate) use store::{MemStore, PAGE};

pub(crate) const NS: &str = "shop";

pub(crate) struct World {
    pub(crate) store: MemStore,
    pub(crate) traffic: Arc<Mutex<Traffic>>,
    pub(crate) queries: Arc<Mutex<Vec<String>>>,
    pub(crate) scrape_s: Arc<Mutex<i64>>,
    pub(crate) answers: Arc<Mutex<Answers>>,
    pub(crate) calls: Arc<Mutex<Vec<HookCall>>>,
    /// Why notifications are not accepted.
    pub(crate) mail_problem: Arc<Mutex<Option<String>>>,
    /// Notifications, as `severity message`.
    pub(crate) mail: Arc<Mutex<Vec<String>>>,
    /// What was sent to the door, to webhooks and to people.
    pub(crate) messages: Messages,
    rule: Arc<Mutex<Rule>>,
    /// Deployments whose pods do not become ready.
    pub(crate) broken: BTreeSet<String>,
    /// Deployments of which one pod does not become ready.
    pub(crate) limping: BTreeSet<String>,
    /// Whether the gateway follows the routes.
    pub(crate) confirming: bool,
    /// Another client that keeps changing things back.
    pub(crate) meddler: Option<fn(&MemStore)>,
    /// What must hold always does not hold where the world itself is broken.
    pub(crate) unchecked: bool,
    /// Who else looks after Canaries, for the next process.
    pub(crate) others: Option<Arc<dyn Stewards>>,
    /// Highest weight that the spec allows.
    pub(crate) weight_max: i64,
    time: Arc<Time>,
    pool: LocalPool,
    settings: Settings,
    start: Timestamp,
    seen: Option<String>,
    pub(crate) log: Arc<Mutex<Vec<String>>>,
    served: bool,
    pub(crate) deaths: u32,
}

impl World {
    /// A target with 3 replicas and this Canary, before any controller runs.
    pub(crate) fn new(canary: Value, settings: Settings) -> Self {
        let time = Arc::new(Time::default());
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        *time.now.lock().unwrap() = start;
        let max = canary.pointer("/spec/analysis/maxWeight").and_then(Value::as_i64);
        let mut world = Self {
            store: MemStore::new(time.clone()),
            traffic: Arc::new(Mutex::new(Traffic {
                error_ratio: Some(0.0),
                p99_ms: 20.0,
                down: false,
            })),
            queries: Arc::default(),
            scrape_s: Arc::new(Mutex::new(1)),
            answers: Arc::default(),
            calls: Arc::default(),
            mail_problem: Arc::default(),
            mail: Arc::default(),
            messages: Arc::default(),
            rule: Arc::default(),
            broken: BTreeSet::new(),
            limping: BTreeSet::new(),
            confirming: true,
            meddler: None,
            unchecked: false,
            others: None,
            weight_max: max.unwrap_or(100),
            time,
            pool: LocalPool::new(),
            settings,
            start,
            seen: None,
            log: Arc::default(),
            served: false,
            deaths: 0,
        };
        world.store.create_now(deployment("api-service", "1"));
        world.store.create_now(canary);
        world.boot();
        world
    }

    /// Lets nothing through that brings more traffic to a canary, as a budget that is burning.
    pub(crate) fn burn(&mut self) {
        *self.rule.lock().unwrap() = Rule::Budget;
    }

    /// Lets nothing through that makes things riskier.
    pub(crate) fn freeze(&mut self) {
        *self.rule.lock().unwrap() = Rule::Freeze;
    }

    /// Lets nothing through but what makes things safer, as a full disk or a person.
    pub(crate) fn stop(&mut self) {
        *self.rule.lock().unwrap() = Rule::Stop;
    }

    /// Lets everything through again.
    pub(crate) fn resume(&mut self) {
        *self.rule.lock().unwrap() = Rule::Nothing;
    }

    /// Starts the controller, as a new process.
    pub(crate) fn boot(&mut self) {
        self.pool = LocalPool::new();
        self.time.alarms.lock().unwrap().clear();
        let store: Arc<dyn Store> = Arc::new(self.store.clone());
        let host = Host::new(&store, self.time.clone(), self.time.clone())
            .with_metrics(Arc::new(Asked {
                traffic: self.traffic.clone(),
                queries: self.queries.clone(),
                scrape_s: self.scrape_s.clone(),
            }))
            .with_hooks(Arc::new(Called {
                answers: self.answers.clone(),
                log: self.calls.clone(),
                messages: self.messages.clone(),
                replies: Mutex::default(),
                time: self.time.clone(),
            }));
        let host = host
            .with_notifier(Arc::new(Mailbox {
                problem: self.mail_problem.clone(),
                mail: self.mail.clone(),
                messages: self.messages.clone(),
            }))
            .with_door(Arc::new(Gate { rule: self.rule.clone(), messages: self.messages.clone() }));
        let host = match &self.others {
            Some(others) => host.with_stewards(others.clone()),
            None => host,
        };
        let run = install(RunLoop::new(host), self.settings.clone());
        self.pool.spawner().spawn_local(run.run()).unwrap();
    }

    /// Kills the controller.
    pub(crate) fn kill(&mut self) {
        self.pool = LocalPool::new();
        self.time.alarms.lock().unwrap().clear();
    }

    /// Lets everything happen that happens without time passing.
    pub(crate) fn settle(&mut self) {
        for _ in 0..10_000 {
            self.pool.run_until_stalled();
            self.check();
            let before = self.store.revision();
            self.react();
            self.check();
            if self.store.revision() == before {
                return;
            }
        }
        unreachable!("does not come to rest: {:?}", self.log.lock().unwrap().last());
    }

    pub(crate) fn run_for(&mut self, duration: Duration) {
        let end = self.time.now().checked_add(SignedDuration::try_from(duration).unwrap()).unwrap();
        while self.leap(end) {}
        *self.time.now.lock().unwrap() = end;
        self.settle();
    }

    /// Runs on until the phase is one of these; panics after a simulated day.
    pub(crate) fn run_until(&mut self, phases: &[&str]) {
        let end = self.time.now().checked_add(SignedDuration::from_hours(24)).unwrap();
        loop {
            self.settle();
            if phases.contains(&self.phase().as_str()) {
                return;
            }
            assert!(self.leap(end), "never reached {phases:?}: {}", self.timeline());
        }
    }

    /// As [`Self::run_until`]; a controller that has died is started anew three seconds later.
    pub(crate) fn live_until(&mut self, phases: &[&str]) {
        let end = self.time.now().checked_add(SignedDuration::from_hours(24)).unwrap();
        loop {
            self.settle();
            if self.store.is_dead() {
                self.kill();
                self.store.die_after(None);
                self.deaths += 1;
                self.run_for(Duration::from_secs(3));
                self.boot();
                continue;
            }
            if phases.contains(&self.phase().as_str()) {
                return;
            }
            assert!(self.leap(end), "never reached {phases:?}: {}", self.timeline());
        }
    }

    /// Goes on to the next alarm, if there is one before `end`.
    fn leap(&mut self, end: Timestamp) -> bool {
        self.settle();
        let next = {
            let mut alarms = self.time.alarms.lock().unwrap();
            alarms.retain(|(_, to)| !to.is_canceled());
            let first = alarms.iter().enumerate().min_by_key(|(_, (at, _))| *at);
            match first {
                Some((index, (at, _))) if *at <= end => Some(alarms.remove(index)),
                _ => None,
            }
        };
        let Some((at, to)) = next else { return false };
        let mut now = self.time.now.lock().unwrap();
        *now = at.max(*now);
        drop(now);
        to.send(()).unwrap_or_default();
        true
    }

    pub(crate) fn release(&self, version: &str) {
        self.store.change(&deployment_key("api-service"), |body| {
            body["spec"]["template"]["spec"]["containers"][0]["image"] =
                format!("evenkeel/demo:{version}").into();
        });
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.time.now()
    }

    pub(crate) fn phase(&self) -> String {
        let Some(canary) = self.store.find(&Key::of::<Canary>(NS, "api-service")) else {
            return "gone".to_owned();
        };
        let phase = canary.json().pointer("/status/phase").and_then(Value::as_str);
        phase.unwrap_or_default().to_owned()
    }

    pub(crate) fn canary(&self) -> Arc<Obj> {
        self.store.find(&Key::of::<Canary>(NS, "api-service")).unwrap()
    }

    /// `Status Reason: message` of a condition of the Canary, or `none`.
    pub(crate) fn condition(&self, kind: &str) -> String {
        let canary = self.canary();
        let all = canary.json().pointer("/status/conditions").and_then(Value::as_array);
        let found = all.into_iter().flatten().find(|c| c["type"] == kind);
        let text = |c: &Value, field: &str| c[field].as_str().unwrap_or_default().to_owned();
        found.map_or("none".to_owned(), |c| {
            format!("{} {}: {}", text(c, "status"), text(c, "reason"), text(c, "message"))
        })
    }

    pub(crate) fn image(&self, deployment: &str) -> String {
        let found = self.store.find(&deployment_key(deployment)).unwrap();
        let image = found.json().pointer("/spec/template/spec/containers/0/image").cloned();
        image.unwrap().as_str().unwrap().replace("evenkeel/demo:", "")
    }

    /// What was shown when, one line per change.
    pub(crate) fn timeline(&self) -> String {
        self.log.lock().unwrap().join("\n")
    }

    /// All events, oldest first.
    pub(crate) fn events(&self) -> String {
        let mut events: Vec<_> = self
            .store
            .all()
            .into_iter()
            .filter(|obj| obj.key().kind.is::<Event>())
            .map(|obj| {
                let text = |field: &str| obj.json()[field].as_str().unwrap_or_default().to_owned();
                let uid: u64 = obj.uid().trim_start_matches("uid-").parse().unwrap();
                let count = obj.json()["count"].as_i64().unwrap_or(1);
                let times = if count > 1 { format!(" (x{count})") } else { String::new() };
                (uid, format!("{} {}{times}", text("type"), text("message")))
            })
            .collect();
        events.sort();
        events.into_iter().map(|(_, line)| line).collect::<Vec<_>>().join("\n")
    }

    pub(crate) fn replicas(&self, name: &str) -> Option<i64> {
        self.store.find(&deployment_key(name))?.json().pointer("/spec/replicas")?.as_i64()
    }

    pub(crate) fn weight(&self) -> Option<i64> {
        let mesh = Key::new(virtual_service(), NS, "api-service");
        let routes = [Key::of::<HttpRoute>(NS, "api-service"), mesh];
        let route = routes.iter().find_map(|key| self.store.find(key))?;
        let paths = ["/spec/rules/0/backendRefs/1/weight", "/spec/http/0/route/1/weight"];
        paths.iter().find_map(|path| route.json().pointer(path)?.as_i64())
    }

    fn available(deployment: &Obj) -> i64 {
        let count = deployment.json().pointer("/status/availableReplicas");
        count.and_then(Value::as_i64).unwrap_or_default()
    }

    /// Notes what is shown and checks what must hold always.
    fn check(&mut self) {
        let Some(canary) = self.store.find(&Key::of::<Canary>(NS, "api-service")) else { return };
        let status = &canary.json()["status"];
        let weight = self.weight();
        let target = self.replicas("api-service").unwrap_or_default();
        let shown = format!(
            "{} shown={} failed={} route={} target={target}",
            status["phase"].as_str().unwrap_or_default(),
            status["canaryWeight"],
            status["failedChecks"],
            weight.map_or_else(|| self.shared().unwrap_or("-".to_owned()), |w| w.to_string()),
        );
        if self.seen.as_ref() != Some(&shown) {
            let at = self.time.now().duration_since(self.start).as_secs();
            self.log.lock().unwrap().push(format!("{at:>4}s {shown}"));
            self.seen = Some(shown);
        }
        if self.unchecked {
            return;
        }
        let weight = weight.unwrap_or_default();
        // A promotion that failed leaves all traffic with the canary.
        if self.broken.contains("api-service-primary") {
            self.weight_max = 100;
        }
        assert!(
            weight <= self.weight_max || canary.is_deleting(),
            "weight {weight}: {}",
            self.timeline()
        );
        self.check_pods();
        assert!(weight == 0 || target > 0, "traffic without pods: {}", self.timeline());
        // From the first ready pod on, users always find one: by the route, or without it.
        let ready = self.users_find_a_pod();
        let fair = self.broken.is_empty();
        assert!(ready || !self.served || !fair, "no pod behind the apex: {}", self.timeline());
        // An outage excused by a fault does not count against the moment after its end.
        self.served = ready && fair;
    }

    /// Whether there are pods, which share requests of a plain Service; elsewhere nobody needs them.
    fn has_pods(&self) -> bool {
        let canary = self.store.find(&Key::of::<Canary>(NS, "api-service"));
        canary.is_some_and(|canary| canary.json()["spec"]["provider"] == "kubernetes")
            || self.store.all().iter().any(|obj| is_placed(obj))
    }

    /// Pods behind the apex: the canary's, and all.
    pub(crate) fn behind_apex(&self) -> (usize, usize) {
        let slice = self.store.find(&Key::of::<EndpointSlice>(NS, "api-service"));
        let pods = slice.and_then(|slice| slice.json()["endpoints"].as_array().cloned());
        let pods = pods.unwrap_or_default();
        let of_canary = |pod: &&Value| {
            let name = pod["targetRef"]["name"].as_str().unwrap_or_default();
            !name.starts_with("api-service-primary-")
        };
        (pods.iter().filter(of_canary).count(), pods.len())
    }

    /// The share that the apex Service was asked for; `None` when its selector knows no shares.
    fn asked(&self) -> Option<i64> {
        let apex = self.store.find(&Key::of::<Service>(NS, "api-service"))?;
        apex.json()["spec"]["selector"].get("evenkeel.dev/service")?;
        let asked = &apex.json()["metadata"]["annotations"]["evenkeel.dev/canary-weight"];
        Some(asked.as_str().unwrap_or_default().parse().unwrap())
    }

    /// The share in force, as `canary/all` pods.
    fn shared(&self) -> Option<String> {
        self.asked()?;
        let (canary, all) = self.behind_apex();
        Some(format!("{canary}/{all}"))
    }

    /// No more pods of the canary may get requests than the share that was asked for, but for one,
    /// and all pods of the primary do: there is room as before.
    fn check_pods(&self) {
        let Some(asked) = self.asked() else { return };
        let primary = self.replicas("api-service-primary").unwrap_or_default();
        let marked = |obj: &&Arc<Obj>| {
            obj.key().kind.is::<Pod>()
                && !obj.name().starts_with("api-service-primary-")
                && obj.label("evenkeel.dev/service").is_some()
        };
        let canary = i64::try_from(self.store.all().iter().filter(marked).count()).unwrap();
        let most = (primary * asked / (100 - asked)).max(1) + 1;
        assert!(asked <= self.weight_max, "asked for {asked}: {}", self.timeline());
        assert!(canary <= most, "{canary} pods for {asked} %: {}", self.timeline());
        let (of_canary, all) = self.behind_apex();
        let of_primary = i64::try_from(all - of_canary).unwrap();
        let ready = self.store.find(&deployment_key("api-service-primary"));
        let ready = ready.map_or(0, |primary| Self::available(&primary));
        assert!(of_primary == ready, "{of_primary} of {ready} pods: {}", self.timeline());
    }

    fn users_find_a_pod(&self) -> bool {
        let behind = |service: &str| {
            let slice = self.store.find(&Key::of::<EndpointSlice>(NS, service));
            slice.is_some_and(|slice| {
                slice.json()["endpoints"].as_array().is_some_and(|e| !e.is_empty())
            })
        };
        match self.weight() {
            None => behind("api-service"),
            Some(0) => behind("api-service-primary"),
            Some(100) => behind("api-service-canary"),
            Some(_) => behind("api-service-primary") || self.broken.contains("api-service-primary"),
        }
    }

    /// What the rest of the cluster does.
    fn react(&mut self) {
        if let Some(meddle) = self.meddler {
            meddle(&self.store);
        }
        for obj in self.store.all() {
            if obj.key().kind.is::<Deployment>() {
                self.roll(&obj);
                if self.has_pods() {
                    self.place(&obj);
                }
            }
        }
        for obj in self.store.all() {
            if obj.key().kind.is::<Service>() {
                self.select(&obj);
            } else if obj.key().kind.is::<HttpRoute>() && self.confirming {
                let condition = json!({"type": "Programmed", "status": "True", "reason": "x",
                    "message": "", "lastTransitionTime": "2024-01-01T00:00:00Z",
                    "observedGeneration": obj.generation()});
                self.store.change(obj.key(), |body| {
                    body["status"] = json!({"parents": [{
                        "parentRef": {"name": "api-service", "kind": "Service", "group": ""},
                        "controllerName": "evenkeel.dev/gateway", "conditions": [condition]}]});
                });
            }
        }
    }

    fn roll(&self, deployment: &Obj) {
        let wanted = deployment.json()["spec"]["replicas"].as_i64().unwrap_or(1);
        let limps = i64::from(self.limping.contains(deployment.name()));
        let broken = self.broken.contains(deployment.name());
        let available = if broken { 0 } else { (wanted - limps).max(0) };
        self.store.change(deployment.key(), |body| {
            body["status"] = json!({"observedGeneration": deployment.generation(),
                "replicas": wanted, "updatedReplicas": wanted, "readyReplicas": available,
                "availableReplicas": available});
        });
    }

    /// Pods as the Deployment's template makes them, each with what others wrote on it later.
    fn place(&self, deployment: &Obj) {
        let template = &deployment.json()["spec"]["template"];
        let image = template["spec"]["containers"][0]["image"].as_str().unwrap_or_default();
        let version = image.rsplit(':').next().unwrap_or_default();
        let wanted = deployment.json()["spec"]["replicas"].as_i64().unwrap_or(1);
        let base = format!("{}-{version}", deployment.name());
        let names: Vec<_> = (0..wanted).map(|n| format!("{base}-{n}")).collect();
        let labels = template["metadata"]["labels"].as_object().cloned().unwrap_or_default();
        let kept = |pod: &Obj| {
            names.iter().any(|name| name == pod.name())
                && labels.iter().all(|(name, value)| pod.label(name) == value.as_str())
        };
        for pod in self.pods_of(deployment) {
            if is_placed(&pod) && !kept(&pod) {
                self.store.remove(pod.key());
            }
        }
        for name in &names {
            if self.store.find(&Key::of::<Pod>(NS, name)).is_none() {
                self.store.create_now(json!({"apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": name, "namespace": NS, "labels": labels},
                    "spec": {"nodeName": NODE, "containers": []}}));
            }
        }
    }

    fn pods_of(&self, deployment: &Obj) -> Vec<Arc<Obj>> {
        let selector = &deployment.json()["spec"]["selector"]["matchLabels"];
        let pods = self.store.all().into_iter().filter(|obj| obj.key().kind.is::<Pod>());
        let fits = |pod: &Arc<Obj>| {
            let mut labels = selector.as_object().into_iter().flatten();
            labels.all(|(name, value)| pod.label(name) == value.as_str())
        };
        pods.filter(fits).collect()
    }

    /// Ready pods that a Service selects, by their labels.
    fn ready_pods(&self, selector: &serde_json::Map<String, Value>) -> Vec<Value> {
        let deployments = self.store.all();
        let deployments = deployments.iter().filter(|obj| obj.key().kind.is::<Deployment>());
        let mut pods = Vec::new();
        for deployment in deployments {
            let available = usize::try_from(Self::available(deployment)).unwrap();
            let ready = self.pods_of(deployment).into_iter().take(available);
            pods.extend(ready.filter(|pod| {
                selector.iter().all(|(name, value)| pod.label(name) == value.as_str())
            }));
        }
        let endpoint = |pod: &Arc<Obj>| {
            json!({"addresses": ["127.64.0.1"], "conditions": {"ready": true},
                "targetRef": {"kind": "Pod", "name": pod.name()}})
        };
        pods.iter().map(endpoint).collect()
    }

    fn select(&self, service: &Obj) {
        let selector = service.json()["spec"]["selector"].as_object().cloned().unwrap_or_default();
        let mut pods = Vec::new();
        for deployment in self.store.all().iter().filter(|obj| obj.key().kind.is::<Deployment>()) {
            let labels = &deployment.json()["spec"]["template"]["metadata"]["labels"];
            if selector.iter().all(|(name, value)| labels.get(name) == Some(value)) {
                let pod = |n| {
                    json!({"addresses": ["127.64.0.1"], "conditions": {"ready": true},
                    "targetRef": {"kind": "Pod", "name": format!("{}-5d9-{n}", deployment.name())}})
                };
                pods.extend((0..Self::available(deployment)).map(pod));
            }
        }
        if self.has_pods() {
            pods = self.ready_pods(&selector);
        }
        let key = Key::of::<EndpointSlice>(NS, service.name());
        if self.store.find(&key).is_none() {
            self.store.create_now(json!({"apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice", "addressType": "IPv4", "endpoints": [],
                "metadata": {"name": service.name(), "namespace": NS,
                    "labels": {"kubernetes.io/service-name": service.name()}}}));
        }
        self.store.change(&key, |body| body["endpoints"] = pods.into());
    }
}

/// A cluster on which Canaries are Flagger's.
pub(crate) struct Flaggers;

impl Stewards for Flaggers {
    fn of<'a>(&'a self, _: &'a GroupKind) -> BoxFuture<'a, Result<Steward, StoreError>> {
        Box::pin(async { Ok(flaggers()) })
    }
}

/// Flagger, beyond doubt.
/// Where the world's own pods run; what a test makes runs nowhere.
const NODE: &str = "world";

fn is_placed(obj: &Obj) -> bool {
    obj.key().kind.is::<Pod>() && obj.json()["spec"]["nodeName"] == NODE
}

pub(crate) fn flaggers() -> Steward {
    Steward::Other { name: "Flagger", why: "Flagger runs here".into(), sure: true }
}

/// A cluster on which that changes.
pub(crate) struct Told(pub(crate) Arc<Mutex<Steward>>);

impl Stewards for Told {
    fn of<'a>(&'a self, _: &'a GroupKind) -> BoxFuture<'a, Result<Steward, StoreError>> {
        let steward = self.0.lock().unwrap().clone();
        Box::pin(async { Ok(steward) })
    }
}

pub(crate) fn deployment_key(name: &str) -> Key {
    Key::new(GroupKind::of::<Deployment>(), NS, name)
}

pub(crate) fn deployment(name: &str, version: &str) -> Value {
    json!({"apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": {"name": name, "namespace": NS},
        "spec": {"replicas": 3, "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name, "tier": "web"},
                    "annotations": {"evenkeel.dev/termination-gate": "gateway"}},
                "spec": {"containers": [{"name": "app",
                    "image": format!("evenkeel/demo:{version}"),
                    "ports": [{"containerPort": 8080}]}],
                    "topologySpreadConstraints": [{"maxSkew": 1,
                        "topologyKey": "topology.kubernetes.io/zone",
                        "whenUnsatisfiable": "DoNotSchedule",
                        "labelSelector": {"matchLabels": {"app": name}}}]}}}})
}
