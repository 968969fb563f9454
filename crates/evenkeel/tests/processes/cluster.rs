//! An API server in this process, what plays the cluster around it, and what is looked at there.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use evenkeel_api::{Key, Obj, canary::Canary, httproute::HttpRoute, json::merge};
use evenkeel_base::{Clock as _, Rng};
use evenkeel_cluster::{
    ApiServer, NoExec, NoLogs,
    http::{self, HttpOptions},
};
use evenkeel_control::{ListQuery, Patch, Store, WatchEvent, WriteOptions};
use evenkeel_live::RealTime;
use evenkeel_sim::world::{Troubles, canary_weight, play_plant};
use futures::{StreamExt as _, executor::block_on};
use k8s_openapi::api::{apps::v1::Deployment, coordination::v1::Lease};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};
use tokio::sync::watch;

use crate::{
    line::Line,
    prometheus::Prometheus,
    receiver::{Answer, Receiver},
    secrets::{container, refuse},
};

/// The token of every process, and more (`secrets.rs`). It must not come up anywhere else.
pub(crate) const PLANTED: &str = "pl4ntedX";
/// How long something may take that has to happen; generous, for machines that do much else.
const PATIENCE: Duration = Duration::from_mins(3);
const PAUSE: Duration = Duration::from_millis(50);

pub(crate) struct Cluster {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) line: Line,
    pub(crate) prometheus: Prometheus,
    pub(crate) receiver: Receiver,
    pub(crate) home: PathBuf,
    weights: Weights,
    runtime: tokio::runtime::Runtime,
    _serving: http::Serving,
    /// None is told; the cluster is played as long as it is held.
    _troubles: watch::Sender<Troubles>,
}

/// The weights of each route's canary, in the order in which they were set.
type Weights = Arc<Mutex<BTreeMap<String, Vec<i64>>>>;

impl Cluster {
    /// A cluster with the files of the test of this name.
    pub(crate) fn start(name: &str) -> Self {
        let home = Path::new(env!("CARGO_TARGET_TMPDIR")).join("processes").join(name);
        if home.exists() {
            fs::remove_dir_all(&home).unwrap();
        }
        fs::create_dir_all(&home).unwrap();
        let time = Arc::new(RealTime::start());
        let seed = u64::try_from(time.now().as_millisecond()).unwrap();
        let server = ApiServer::new(time, Rng::new(seed));
        let store = server.store();
        for crd in evenkeel_api::crds() {
            block_on(store.create(&Obj::from_json(crd).unwrap(), &WriteOptions::default()))
                .unwrap();
        }
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.unwrap();
        let options = HttpOptions {
            addr: ([127, 0, 0, 1], 0).into(),
            tokens: BTreeMap::from([(PLANTED.to_owned(), "admin".to_owned())]),
            logs: Arc::new(NoLogs),
            exec: Arc::new(NoExec),
            tls_dir: None,
        };
        let receiver = Receiver::start(runtime.handle(), refuse);
        let (serving, line, prometheus) = runtime.block_on(async {
            let serving = http::serve(server, options).await.unwrap();
            let direct = http::kubeconfig(&serving, PLANTED);
            fs::write(home.join("direct.kubeconfig"), &direct).unwrap();
            let line = Line::start(client(&direct).await).await;
            let address = format!("https://{}", serving.addr);
            let through = direct.replace(&address, &format!("http://{}", line.addr));
            fs::write(home.join("kubeconfig"), through).unwrap();
            (serving, line, Prometheus::start().await)
        });
        let weights = Weights::default();
        let (troubles, told) = watch::channel(Troubles::default());
        runtime.spawn(play_plant(store.clone(), told));
        runtime.spawn(follow_weights(store.clone(), weights.clone()));
        Self {
            store,
            line,
            prometheus,
            receiver,
            home,
            weights,
            runtime,
            _serving: serving,
            _troubles: troubles,
        }
    }

    /// Somebody else who is sent webhooks, until the cluster is dropped.
    pub(crate) fn receive(&self, answer: Answer) -> Receiver {
        Receiver::start(self.runtime.handle(), answer)
    }

    pub(crate) fn create(&self, body: Value) {
        block_on(self.store.create(&Obj::from_json(body).unwrap(), &WriteOptions::default()))
            .unwrap();
    }

    pub(crate) fn namespace(&self, ns: &str) {
        let meta = json!({"name": ns});
        self.create(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": meta}));
    }

    /// A service with its Canary: steps of 10 % up to `weight_max`, a check every ten seconds.
    pub(crate) fn install(&self, ns: &str, name: &str, weight_max: u32) {
        let meta = json!({"name": name, "namespace": ns});
        self.create(json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": meta,
            "spec": {"replicas": 2, "selector": {"matchLabels": {"app": name}},
                "template": {"metadata": {"labels": {"app": name}},
                    "spec": {"containers": [container(name, 1)]}}}}));
        let metric = json!({"name": "request-success-rate", "interval": "30s",
            "thresholdRange": {"min": 99}});
        let mut analysis = json!({"interval": "10s", "threshold": 1, "maxWeight": weight_max,
            "stepWeight": 10, "metrics": [metric]});
        merge(&mut analysis, &self.plant(ns, name));
        self.create(
            json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary", "metadata": meta,
            "spec": {"targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": name},
                "service": {"port": 80, "targetPort": 8080}, "analysis": analysis}}),
        );
    }

    /// A new version of a service.
    pub(crate) fn release(&self, ns: &str, name: &str, version: u32) {
        let patch = json!({"spec": {"template": {"spec": {
            "containers": [container(name, version)]}}}});
        let key = Key::of::<Deployment>(ns, name);
        block_on(self.store.patch(&key, &Patch::Merge(patch), &WriteOptions::default())).unwrap();
    }

    /// Changes a Canary as a person would.
    pub(crate) fn patch_canary(&self, ns: &str, name: &str, patch: Value) {
        let key = Key::of::<Canary>(ns, name);
        block_on(self.store.patch(&key, &Patch::Merge(patch), &WriteOptions::default())).unwrap();
    }

    fn object(&self, key: &Key) -> Value {
        block_on(self.store.get(key)).unwrap().map(|obj| obj.json().clone()).unwrap_or_default()
    }

    pub(crate) fn canary(&self, ns: &str, name: &str) -> Value {
        self.object(&Key::of::<Canary>(ns, name))
    }

    pub(crate) fn phase(&self, ns: &str, name: &str) -> String {
        self.canary(ns, name)["status"]["phase"].as_str().unwrap_or_default().to_owned()
    }

    /// Waits until a release is that far.
    pub(crate) fn reach(&self, ns: &str, name: &str, phase: &str) {
        let tell = || format!("{name} is not {phase}: {}", self.canary(ns, name)["status"]);
        soon_or(|| self.phase(ns, name) == phase, tell);
    }

    /// The loop's own conditions on a Canary: type, reason and message of each.
    pub(crate) fn flags(&self, ns: &str, name: &str) -> Vec<[String; 3]> {
        let canary = self.canary(ns, name);
        let all = canary["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let texts = |condition: &Value| {
            ["type", "reason", "message"]
                .map(|field| condition[field].as_str().unwrap_or_default().to_owned())
        };
        let ours = |flag: &[String; 3]| ["Held", "Stalled"].contains(&flag[0].as_str());
        all.iter().map(texts).filter(ours).collect()
    }

    /// The weights of a route's canary so far.
    pub(crate) fn weights(&self, ns: &str, name: &str) -> Vec<i64> {
        self.weights.lock().unwrap().get(&format!("{ns}/{name}")).cloned().unwrap_or_default()
    }

    pub(crate) fn reach_weight(&self, ns: &str, name: &str, weight: i64) {
        let tell = || format!("{name}: {:?} without {weight}", self.weights(ns, name));
        soon_or(|| self.weights(ns, name).last() == Some(&weight), tell);
    }

    /// The spec of the Lease of the releases.
    pub(crate) fn lease(&self) -> Value {
        self.object(&Key::of::<Lease>("default", "evenkeel-delivery"))["spec"].clone()
    }

    /// Who leads the releases.
    pub(crate) fn leader(&self) -> String {
        self.lease()["holderIdentity"].as_str().unwrap_or_default().to_owned()
    }

    /// Whether a release has sent requests to a canary.
    pub(crate) fn has_released(&self) -> bool {
        self.weights.lock().unwrap().values().any(|weights| weights.len() > 1)
    }

    /// All Canaries, as `namespace/name`.
    pub(crate) fn canaries(&self) -> Vec<String> {
        let all = block_on(self.store.list(&ListQuery::of::<Canary>())).unwrap().items;
        all.iter().map(|canary| format!("{}/{}", canary.namespace(), canary.name())).collect()
    }
}

async fn client(kubeconfig: &str) -> kube::Client {
    let kubeconfig = Kubeconfig::from_yaml(kubeconfig).unwrap();
    let options = KubeConfigOptions::default();
    let mut config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await.unwrap();
    // Not what the environment of a developer says.
    config.proxy_url = None;
    kube::Client::try_from(config).unwrap()
}

async fn follow_weights(store: Arc<dyn Store>, weights: Weights) {
    let mut events = store.watch(ListQuery::of::<HttpRoute>());
    while let Some(event) = events.next().await {
        let Ok(WatchEvent::Applied(route)) = event else { continue };
        let Some(weight) = canary_weight(route.json()) else { continue };
        let mut weights = weights.lock().unwrap();
        let place = format!("{}/{}", route.namespace(), route.name());
        let weights = weights.entry(place).or_default();
        // A change of the route's status is none of its weights.
        if weights.last() != Some(&weight) {
            weights.push(weight);
        }
    }
}

/// Waits until something is so.
pub(crate) fn soon(check: impl Fn() -> bool) {
    soon_or(check, || "did not happen".to_owned());
}

fn soon_or(check: impl Fn() -> bool, tell: impl Fn() -> String) {
    let began = Instant::now();
    while !check() {
        assert!(began.elapsed() < PATIENCE, "{} within {PATIENCE:?}", tell());
        std::thread::sleep(PAUSE);
    }
}
