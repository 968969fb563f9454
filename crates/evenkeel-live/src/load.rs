use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_control::{HookCall, HookReply, Store};
use evenkeel_delivery::loadtester::{LoadPlan, plan};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;

use crate::hooks::{HttpClient, resolve};

/// The load tester that Flagger's manifests call at `http://flagger-loadtester/`, built in.
///
/// It understands `hey` command lines and runs them itself: no shell, no program. As with
/// Flagger's, a command runs in the background, the answer is 202 at once, and the same command
/// of the same canary is not started twice while it runs.
pub(crate) struct LoadTester {
    client: HttpClient,
    store: Arc<dyn Store>,
    running: Arc<Mutex<BTreeSet<String>>>,
}

impl LoadTester {
    pub(crate) fn new(client: HttpClient, store: Arc<dyn Store>) -> Self {
        Self { client, store, running: Arc::default() }
    }

    /// Answers one webhook call.
    pub(crate) fn answer(&self, uri: &Uri, call: &HookCall) -> HookReply {
        let reply = |status, body: String| HookReply { status, body };
        match uri.path() {
            "/healthz" | "/gate/approve" => return reply(200, "approved".to_owned()),
            "/gate/halt" => return reply(403, "halted".to_owned()),
            "/" | "" => {}
            other => {
                let known = "/, /healthz, /gate/approve and /gate/halt";
                return reply(404, format!("the built-in load tester has {known}, not {other}"));
            }
        }
        let metadata = call.body.get("metadata");
        let field = |name: &str| metadata.and_then(|all| all.get(name)).and_then(Value::as_str);
        match field("type").unwrap_or("cmd") {
            "cmd" => {}
            other => {
                let help = "only `cmd` with a hey command line is run, nothing through a shell";
                return reply(400, format!("metadata.type {other:?}: {help}"));
            }
        }
        let Some(command) = field("cmd") else {
            return reply(400, "metadata.cmd is missing: write a hey command line".to_owned());
        };
        match plan(command) {
            Ok(plan) => {
                self.start(&call.owner, command, plan, &call.namespace);
                reply(202, "started".to_owned())
            }
            Err(error) => reply(400, error.to_string()),
        }
    }

    fn start(&self, owner: &str, command: &str, plan: LoadPlan, namespace: &str) {
        let name = format!("{owner} {command}");
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        if !running.insert(name.clone()) {
            return;
        }
        let (client, store) = (self.client.clone(), self.store.clone());
        let (running, namespace) = (self.running.clone(), namespace.to_owned());
        tokio::spawn(async move {
            run(&client, store.as_ref(), &plan, &namespace).await;
            running.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
        });
    }
}

async fn run(client: &HttpClient, store: &dyn Store, plan: &LoadPlan, namespace: &str) {
    let target = match plan.url.parse::<Uri>() {
        Ok(uri) => resolve(store, &uri, namespace).await.ok().flatten(),
        Err(_) => None,
    };
    let Some(target) = target else {
        tracing::warn!(url = plan.url, "load test: no such Service, nothing was sent");
        return;
    };
    let workers = (0..plan.workers).map(|_| worker(client, plan, &target));
    futures::future::join_all(workers).await;
}

async fn worker(client: &HttpClient, plan: &LoadPlan, target: &Uri) {
    let started = tokio::time::Instant::now();
    let mut pace = plan
        .rate_per_worker
        .filter(|rate| *rate > 0.0)
        .map(|rate| tokio::time::interval(Duration::from_secs_f64(1.0 / rate)));
    let share = plan.requests.map(|all| all.div_ceil(u64::from(plan.workers.max(1))));
    let mut sent = 0_u64;
    while share.is_none_or(|share| sent < share) && started.elapsed() < plan.duration {
        if let Some(pace) = &mut pace {
            pace.tick().await;
        }
        let mut request = Request::builder().method(plan.method.as_str()).uri(target.clone());
        for (name, value) in &plan.headers {
            request = request.header(name, value);
        }
        let Ok(request) = request.body(Full::new(Bytes::from(plan.body.clone()))) else { return };
        sent += 1;
        // What becomes of each request is measured by the gateway, not here.
        let exchange = async {
            if let Ok(answer) = client.request(request).await {
                answer.into_body().collect().await.map(drop).unwrap_or_default();
            }
        };
        if tokio::time::timeout(plan.timeout, exchange).await.is_err() {
            tracing::trace!("load test: a request timed out");
        }
    }
}
