//! One service under release as anybody sees it from outside, and what must hold of it.
//!
//! It sees what users asked for (the Canary's spec), what is in the cluster (Deployments, the
//! route, endpoints) and how good the new version really is. It sees no status of a Canary.

use std::{collections::BTreeMap, time::Duration};

use evenkeel_api::{Obj, canary::Canary, httproute::HttpRoute, labels::SERVICE_NAME};
use evenkeel_base::parse_duration;
use k8s_openapi::api::{apps::v1::Deployment, discovery::v1::EndpointSlice};
use serde_json::Value;

/// A write that was begun for the version before lands within this time of a new version.
const SETTLE: Duration = Duration::from_mins(1);
/// For so long after the primary was seen unready all traffic may be moved to the canary.
const HURT: Duration = Duration::from_mins(5);
/// With all checks that its threshold allows, and two, a bad version meets no user any more
/// within this time of calm: whatever was wrong before is found to be right again by then.
const ROLLED_BACK_SLACK: Duration = Duration::from_secs(150);

/// What is true besides the objects.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Truth {
    /// Time since the beginning.
    pub(super) at: Duration,
    /// Since when the new version fails its users; `None` when it does not.
    pub(super) bad_since: Option<Duration>,
    /// Since when nothing is wrong but perhaps the version, and no process rests from a panic;
    /// `None` when something is.
    pub(super) calm_since: Option<Duration>,
    /// When a process last may have read an old state, or none; `None` when none ever did.
    pub(super) stale_at: Option<Duration>,
    /// Whether pods of this service are kept from becoming ready.
    pub(super) broken: bool,
}

/// The service an object is of: its own name, or that of which it is the primary or the canary.
pub(super) fn service_of(obj: &Obj) -> &str {
    let name = obj.label(SERVICE_NAME).unwrap_or(obj.name());
    let stem = name.strip_suffix("-primary").or_else(|| name.strip_suffix("-canary"));
    stem.unwrap_or(name)
}

/// What a Canary asks for.
#[derive(Debug)]
struct Asked {
    weight_max: i64,
    step: i64,
    interval: Duration,
    rolled_back_within: Duration,
    deleting: bool,
}

/// A Deployment.
#[derive(Debug, Default, Clone, PartialEq)]
struct Pods {
    image: String,
    wanted: i64,
    ready: i64,
}

/// A route's weight for the canary.
#[derive(Debug)]
struct Weight {
    pct: i64,
    since: Duration,
    /// Since when the gateway says that it routes by it.
    confirmed_at: Option<Duration>,
}

/// Where a version is on its way to its users.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The weight is still that of a version before it.
    Inherited,
    /// It may be given weight.
    #[default]
    Open,
    /// It was given weight, and lost it again.
    Fell,
}

/// A service, its Canary, and what became of its versions.
#[derive(Debug, Default)]
pub(super) struct Watched {
    asked: Option<Asked>,
    target: Option<Pods>,
    primary: Option<Pods>,
    primary_hurt_at: Option<Duration>,
    weight: Option<Weight>,
    /// Ready endpoints by slice, with the Service that they are of.
    endpoints: BTreeMap<String, (String, usize)>,
    /// When the target's version was new, or its pods were last not ready.
    fresh_at: Duration,
    /// Where the target's version is on its way.
    way: Way,
    /// Versions that had the whole weight that the Canary asks for, and since when.
    passed: BTreeMap<String, Duration>,
    /// Whether users found a pod when it was last looked at.
    served: bool,
    too_late: bool,
    /// The weights in the order in which they were set.
    pub(super) weights: Vec<i64>,
}

impl Watched {
    /// An object is there, has changed or is gone; returns what must not have been.
    pub(super) fn see(&mut self, obj: &Obj, gone: bool, truth: &Truth) -> Vec<String> {
        let mut wrong = Vec::new();
        let kind = &obj.key().kind;
        if kind.is::<Canary>() {
            self.asked = (!gone).then(|| Asked::read(obj));
        } else if kind.is::<EndpointSlice>() {
            self.endpoints.remove(obj.name());
            if !gone {
                let service = obj.label(SERVICE_NAME).unwrap_or(obj.name()).to_owned();
                self.endpoints.insert(obj.name().to_owned(), (service, ready_endpoints(obj)));
            }
        } else if kind.is::<HttpRoute>() {
            let weight = if gone { None } else { canary_weight(obj.json()) };
            self.see_weight(weight, truth, &mut wrong);
            if let Some(weight) = self.weight.as_mut().filter(|_| is_confirmed(obj)) {
                weight.confirmed_at.get_or_insert(truth.at);
            }
        } else if kind.is::<Deployment>() {
            let pods = (!gone).then(|| Pods::read(obj));
            if obj.name().ends_with("-primary") {
                self.see_primary(pods, truth, &mut wrong);
            } else {
                self.see_target(pods, truth);
            }
        }
        self.look(truth, &mut wrong);
        if let Some(asked) = &self.asked
            && !asked.deleting
            && let Some(weight) = &self.weight
            && weight.pct > 0
            && self.target.as_ref().is_none_or(|target| target.wanted == 0)
        {
            wrong.push(format!("{} % go to nobody", weight.pct));
        }
        wrong
    }

    /// Time has passed.
    pub(super) fn look(&mut self, truth: &Truth, wrong: &mut Vec<String>) {
        let finds = self.users_find_a_pod();
        if self.served && !finds && !truth.broken {
            wrong.push("users find no pod".to_owned());
        }
        // An outage excused by a fault does not count against the moment after its end.
        self.served = finds && !truth.broken;
        let (Some(asked), Some(weight)) = (&self.asked, &self.weight) else { return };
        // A promotion that failed leaves all traffic with the canary until the next version.
        let exposed = weight.pct > 0 && weight.pct <= asked.weight_max;
        let began = truth.bad_since.zip(truth.calm_since).map(|(bad, calm)| bad.max(calm));
        let late = began
            .is_some_and(|began| truth.at > began.max(weight.since) + asked.rolled_back_within);
        if exposed && late && !self.too_late {
            wrong.push(format!("a bad version still has {} %", weight.pct));
        }
        self.too_late = exposed && late;
    }

    fn see_weight(&mut self, pct: Option<i64>, truth: &Truth, wrong: &mut Vec<String>) {
        let Some(pct) = pct else {
            self.weight = None;
            return;
        };
        let before = self.weight.take();
        let last = before.as_ref().map(|weight| weight.pct);
        if last == Some(pct) {
            self.weight = before;
            return;
        }
        self.weights.push(pct);
        if let Some(asked) = self.asked.as_ref().filter(|asked| !asked.deleting) {
            let from = last.unwrap_or_default();
            let hurt = self.primary_hurt_at.is_some_and(|hurt| truth.at <= hurt + HURT);
            if pct > from && !(pct == 100 && hurt) {
                wrong.extend(self.wrong_step(asked, before.as_ref(), pct, truth));
            }
            if pct >= asked.weight_max
                && let Some(target) = &self.target
            {
                self.passed.entry(target.image.clone()).or_insert(truth.at);
            }
            self.way = match self.way {
                // Perhaps for the version before, by a process that did not know of this one.
                Way::Open if pct > from && !self.is_settled(truth) => Way::Inherited,
                Way::Open if pct == 0 && from > 0 && self.is_settled(truth) => Way::Fell,
                Way::Inherited if pct == 0 => Way::Open,
                now => now,
            };
        }
        self.weight = Some(Weight { pct, since: truth.at, confirmed_at: None });
    }

    fn wrong_step(
        &self,
        asked: &Asked,
        before: Option<&Weight>,
        pct: i64,
        truth: &Truth,
    ) -> Vec<String> {
        let mut wrong = Vec::new();
        let from = before.map_or(0, |weight| weight.pct);
        if pct > asked.weight_max {
            wrong.push(format!("weight {pct} is more than {}", asked.weight_max));
        }
        if pct - from != asked.step && pct != asked.weight_max || pct - from > asked.step {
            wrong.push(format!("jumps from {from} to {pct} in steps of {}", asked.step));
        }
        if self.way == Way::Fell && self.is_settled(truth) {
            wrong.push(format!("goes up again to {pct} with the version that was taken back"));
        }
        let Some(before) = before.filter(|weight| weight.pct > 0) else { return wrong };
        if truth.bad_since.is_some_and(|bad| bad <= before.since) {
            wrong.push(format!("steps from {from} to {pct} while the version is bad"));
        }
        match before.confirmed_at {
            None => wrong.push(format!("steps to {pct} before the gateway confirmed {from}")),
            Some(confirmed) if truth.at < confirmed + asked.interval => {
                let after = truth.at.saturating_sub(confirmed);
                wrong.push(format!("steps to {pct} {after:?} after {from} was confirmed"));
            }
            Some(_) => {}
        }
        wrong
    }

    /// Whether everybody knows by now of the target's version, and that its pods are ready. Who
    /// reads an old state, however old, may take a version back for another's sake, and go on.
    fn is_settled(&self, truth: &Truth) -> bool {
        truth.at > self.fresh_at.max(truth.stale_at.unwrap_or_default()) + SETTLE
    }

    fn see_target(&mut self, pods: Option<Pods>, truth: &Truth) {
        let image = |pods: &Option<Pods>| pods.as_ref().map(|pods| pods.image.clone());
        let unready = |pods: &Option<Pods>| pods.as_ref().is_some_and(|p| p.ready < p.wanted);
        let unready = unready(&self.target) || unready(&pods);
        let new = image(&self.target) != image(&pods);
        if new || unready {
            self.fresh_at = truth.at;
            if self.way == Way::Fell {
                self.way = Way::Open;
            }
        }
        if new {
            let weighs = self.weight.as_ref().is_some_and(|weight| weight.pct > 0);
            self.way = if weighs { Way::Inherited } else { Way::Open };
        }
        let max = self.asked.as_ref().map_or(100, |asked| asked.weight_max);
        let all = self.weight.as_ref().is_some_and(|weight| weight.pct > max);
        if new
            && all
            && let Some(image) = image(&pods)
        {
            self.passed.insert(image, truth.at);
        }
        self.target = pods;
    }

    fn see_primary(&mut self, pods: Option<Pods>, truth: &Truth, wrong: &mut Vec<String>) {
        if pods.as_ref().is_some_and(|pods| pods.ready < pods.wanted) {
            self.primary_hurt_at = Some(truth.at);
        }
        if let (Some(old), Some(new)) = (&self.primary, &pods)
            && old.image != new.image
        {
            let image = &new.image;
            let is_newest = self.target.as_ref().is_some_and(|target| target.image == *image);
            let bad_since = truth.bad_since.filter(|_| is_newest);
            match self.passed.get(image) {
                None => wrong.push(format!("{image} is promoted without all its steps")),
                Some(passed) if bad_since.is_some_and(|bad| bad <= *passed) => {
                    wrong.push(format!("{image} is promoted while it is bad"));
                }
                Some(_) => {}
            }
        }
        self.primary = pods;
    }

    fn users_find_a_pod(&self) -> bool {
        let behind = |fits: fn(&str) -> bool| {
            self.endpoints.values().any(|(service, ready)| fits(service) && *ready > 0)
        };
        let primary = |service: &str| service.ends_with("-primary");
        let canary = |service: &str| service.ends_with("-canary");
        match self.weight.as_ref().map(|weight| weight.pct) {
            None => {
                behind(|service| !service.ends_with("-primary") && !service.ends_with("-canary"))
            }
            Some(0) => behind(primary),
            Some(100) => behind(canary),
            Some(_) => behind(primary) && behind(canary),
        }
    }
}

impl Asked {
    fn read(canary: &Obj) -> Self {
        let analysis = canary.json().pointer("/spec/analysis");
        let field = |name: &str| analysis.and_then(|analysis| analysis.get(name));
        let number = |name: &str, default| field(name).and_then(Value::as_i64).unwrap_or(default);
        let interval = field("interval").and_then(Value::as_str).map(parse_duration);
        let interval = interval.and_then(Result::ok).unwrap_or_default();
        let checks = u32::try_from(number("threshold", 1)).unwrap_or(u32::MAX).saturating_add(2);
        Self {
            weight_max: number("maxWeight", 100),
            step: number("stepWeight", 100),
            interval,
            rolled_back_within: interval.saturating_mul(checks) + ROLLED_BACK_SLACK,
            deleting: canary.is_deleting(),
        }
    }
}

impl Pods {
    fn read(deployment: &Obj) -> Self {
        let number = |path| deployment.json().pointer(path).and_then(Value::as_i64);
        let image = deployment.json().pointer("/spec/template/spec/containers/0/image");
        Self {
            image: image.and_then(Value::as_str).unwrap_or_default().to_owned(),
            wanted: number("/spec/replicas").unwrap_or(1),
            ready: number("/status/readyReplicas").unwrap_or_default(),
        }
    }
}

fn ready_endpoints(slice: &Obj) -> usize {
    let endpoints = slice.json().get("endpoints").and_then(Value::as_array);
    let ready = |endpoint: &&Value| endpoint["conditions"]["ready"] != Value::Bool(false);
    endpoints.into_iter().flatten().filter(ready).count()
}

/// Whether the gateway says that it routes by this generation of a route.
fn is_confirmed(route: &Obj) -> bool {
    let parents = route.json().pointer("/status/parents").and_then(Value::as_array);
    let conditions = parents.into_iter().flatten().filter_map(|p| p["conditions"].as_array());
    conditions.flatten().any(|condition| {
        condition["type"] == "Programmed"
            && condition["status"] == "True"
            && condition["observedGeneration"].as_i64() == Some(route.generation())
    })
}

/// The weight of the canary in an HTTPRoute; `None` when it has no such backend.
pub fn canary_weight(route: &Value) -> Option<i64> {
    let backends = route.pointer("/spec/rules/0/backendRefs")?.as_array()?;
    let canary =
        backends.iter().find(|b| b["name"].as_str().is_some_and(|n| n.ends_with("-canary")))?;
    Some(canary.get("weight").and_then(Value::as_i64).unwrap_or(1))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A service `shop` at rest: steps of 10 % up to 50 %, a check every 30 seconds.
    struct Shop {
        watched: Watched,
        truth: Truth,
        wrong: Vec<String>,
    }

    impl Shop {
        fn new() -> Self {
            let truth = Truth { calm_since: Some(Duration::ZERO), ..Truth::default() };
            let mut shop = Self { watched: Watched::default(), truth, wrong: Vec::new() };
            shop.see(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
                "metadata": {"name": "shop", "namespace": "default"},
                "spec": {"analysis": {"interval": "30s", "threshold": 3, "maxWeight": 50,
                    "stepWeight": 10}}}));
            shop.pods("shop", "v1", 2).pods("shop-primary", "v1", 2);
            shop.endpoints("shop-primary", 2).endpoints("shop-canary", 2).weight(0, true);
            shop.pods("shop", "v2", 2);
            // Nothing of the version before is under way any more.
            shop.truth.at = 2 * SETTLE;
            shop
        }

        fn see(&mut self, body: Value) {
            let obj = Obj::from_json(body).unwrap();
            self.wrong.extend(self.watched.see(&obj, false, &self.truth));
        }

        fn pods(&mut self, name: &str, image: &str, replicas: i64) -> &mut Self {
            self.see(json!({"apiVersion": "apps/v1", "kind": "Deployment",
                "metadata": {"name": name, "namespace": "default"},
                "spec": {"replicas": replicas, "selector": {},
                    "template": {"spec": {"containers": [{"name": "app", "image": image}]}}},
                "status": {"readyReplicas": replicas}}));
            self
        }

        fn endpoints(&mut self, service: &str, count: usize) -> &mut Self {
            let endpoint = json!({"addresses": ["127.64.0.1"], "conditions": {"ready": true}});
            self.see(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "addressType": "IPv4", "endpoints": vec![endpoint; count],
                "metadata": {"name": service, "namespace": "default",
                    "labels": {SERVICE_NAME: service}}}));
            self
        }

        fn weight(&mut self, pct: i64, confirmed: bool) -> &mut Self {
            let generation = i64::from(confirmed);
            self.see(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
                "metadata": {"name": "shop", "namespace": "default", "generation": 1},
                "spec": {"rules": [{"backendRefs": [
                    {"name": "shop-primary", "weight": 100 - pct},
                    {"name": "shop-canary", "weight": pct}]}]},
                "status": {"parents": [{"conditions": [{"type": "Programmed", "status": "True",
                    "observedGeneration": generation}]}]}}));
            self
        }

        /// A weight, its confirmation, and an interval.
        fn steps(&mut self, weights: &[i64]) -> &mut Self {
            for pct in weights {
                self.weight(*pct, true).after(30);
            }
            self
        }

        fn after(&mut self, seconds: u64) -> &mut Self {
            self.truth.at += Duration::from_secs(seconds);
            self
        }

        fn bad(&mut self) -> &mut Self {
            self.truth.bad_since = Some(self.truth.at);
            self
        }

        fn told(&self) -> String {
            self.wrong.join("; ")
        }
    }

    #[test]
    fn a_release_as_it_should_be_is_fine() {
        let mut shop = Shop::new();
        shop.steps(&[10, 20, 30, 40, 50]).pods("shop-primary", "v2", 2);
        shop.steps(&[0]).endpoints("shop-canary", 0).pods("shop", "v2", 0);
        assert_eq!(shop.told(), "");
        assert_eq!(shop.watched.weights, [0, 10, 20, 30, 40, 50, 0]);
        let mut shop = Shop::new();
        shop.steps(&[10, 20]).bad().after(60).steps(&[0]);
        assert_eq!(shop.told(), "");
    }

    #[test]
    fn what_must_not_be_is_told() {
        let mut table = Vec::new();
        let mut tell = |play: &dyn Fn(&mut Shop)| {
            let mut shop = Shop::new();
            play(&mut shop);
            table.push(shop.told());
        };
        tell(&|shop| _ = shop.steps(&[10, 30]));
        tell(&|shop| _ = shop.steps(&[10, 20, 30, 40, 50, 60]));
        tell(&|shop| _ = shop.steps(&[100]));
        tell(&|shop| _ = shop.steps(&[10, 20, 0, 10]));
        tell(&|shop| _ = shop.bad().steps(&[10, 20]));
        tell(&|shop| _ = shop.weight(10, false).after(90).weight(20, true));
        tell(&|shop| _ = shop.weight(10, true).after(29).weight(20, true));
        tell(&|shop| _ = shop.steps(&[10, 20]).pods("shop-primary", "v2", 2));
        tell(&|shop| {
            shop.steps(&[10, 20, 30, 40]).bad().steps(&[50]);
            shop.pods("shop-primary", "v2", 2);
        });
        tell(&|shop| _ = shop.pods("shop", "v2", 0).steps(&[10]));
        tell(&|shop| _ = shop.endpoints("shop-primary", 0));
        tell(&|shop| _ = shop.steps(&[10]).bad().after(400).endpoints("shop-canary", 2));
        insta::assert_snapshot!(table.join("\n"), @r"
        jumps from 10 to 30 in steps of 10
        weight 60 is more than 50
        weight 100 is more than 50; jumps from 0 to 100 in steps of 10
        goes up again to 10 with the version that was taken back
        steps from 10 to 20 while the version is bad
        steps to 20 before the gateway confirmed 10
        steps to 20 29s after 10 was confirmed
        v2 is promoted without all its steps
        v2 is promoted while it is bad
        10 % go to nobody
        users find no pod
        a bad version still has 10 %
        ");
    }
}
