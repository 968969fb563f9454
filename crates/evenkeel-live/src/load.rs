use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use evenkeel_control::{HookCall, HookReply, Read, redact};
use evenkeel_delivery::loadtester::{LoadPlan, plan};
use http::{Request, Uri, header::USER_AGENT};
use http_body_util::{BodyExt as _, Full};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    hooks::{HttpClient, resolve},
    settings::AGENT,
};

/// Load tests at once: one per Canary of a large cluster, not one per mistake in a manifest.
const RUNNING_MAX: usize = 64;

/// Names of the tests that run: Canary and command.
type Running = Arc<Mutex<BTreeSet<String>>>;

/// The load tester that Flagger's manifests call at `http://flagger-loadtester/`, built in.
///
/// It understands `hey` command lines and runs them itself: no shell, no program. As with
/// Flagger's, a command runs in the background, the answer is 202 at once, and the same command
/// of the same canary is not started twice while it runs.
pub(crate) struct LoadTester {
    client: HttpClient,
    read: Arc<dyn Read>,
    running: Running,
}

impl LoadTester {
    pub(crate) fn new(client: HttpClient, read: Arc<dyn Read>) -> Self {
        Self { client, read, running: Arc::default() }
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
            Ok(plan) => self.start(call, command, plan),
            Err(error) => reply(400, error.to_string()),
        }
    }

    fn start(&self, call: &HookCall, command: &str, plan: LoadPlan) -> HookReply {
        let with_limits = |word: &str| {
            let mut words = vec![word.to_owned()];
            words.extend(plan.limits.iter().cloned());
            words.join("; ")
        };
        let name = format!("{} {command}", call.owner);
        let slot = match Slot::take(&self.running, name) {
            Taken::Free(slot) => slot,
            Taken::Running => {
                return HookReply { status: 202, body: with_limits("it runs already") };
            }
            Taken::Full => {
                let body = format!("{RUNNING_MAX} load tests run already; wait for one to end");
                return HookReply { status: 429, body };
            }
        };
        let body = with_limits("started");
        let (client, read) = (self.client.clone(), self.read.clone());
        let namespace = call.namespace.clone();
        tokio::spawn(async move {
            run(&client, read.as_ref(), &plan, &namespace).await;
            drop(slot);
        });
        HookReply { status: 202, body }
    }
}

/// The place of a running test; free again when it is dropped, however the test ended.
struct Slot {
    running: Running,
    name: String,
}

enum Taken {
    Free(Slot),
    Running,
    Full,
}

impl Slot {
    fn take(running: &Running, name: String) -> Taken {
        let mut names = running.lock().unwrap_or_else(PoisonError::into_inner);
        if names.contains(&name) {
            return Taken::Running;
        }
        if names.len() >= RUNNING_MAX {
            return Taken::Full;
        }
        names.insert(name.clone());
        Taken::Free(Self { running: running.clone(), name })
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.name);
    }
}

async fn run(client: &HttpClient, read: &dyn Read, plan: &LoadPlan, namespace: &str) {
    let url = redact::url(&plan.url);
    let target = match plan.url.parse::<Uri>() {
        Ok(uri) => resolve(read, &uri, namespace).await,
        Err(error) => Err(error.to_string()),
    };
    let target = match target {
        Ok(Some(target)) => target,
        Ok(None) => {
            tracing::warn!(url, "load test: no such Service, nothing was sent");
            return;
        }
        Err(error) => {
            tracing::warn!(url, error, "load test: nothing was sent");
            return;
        }
    };
    let left = plan.requests.map(AtomicU64::new);
    let workers = (0..plan.workers).map(|_| worker(client, plan, &target, left.as_ref()));
    futures::future::join_all(workers).await;
}

async fn worker(client: &HttpClient, plan: &LoadPlan, target: &Uri, left: Option<&AtomicU64>) {
    let end = Instant::now() + plan.duration;
    let pause = plan.rate_per_worker.and_then(|rate| Duration::try_from_secs_f64(1.0 / rate).ok());
    let mut pace = pause.filter(|pause| !pause.is_zero()).map(tokio::time::interval);
    let took_one = |left: &AtomicU64| {
        let ordering = Ordering::Relaxed;
        left.fetch_update(ordering, ordering, |left| left.checked_sub(1)).is_ok()
    };
    while Instant::now() < end {
        if let Some(pace) = &mut pace
            && tokio::time::timeout_at(end, pace.tick()).await.is_err()
        {
            return;
        }
        if !left.is_none_or(took_one) {
            return;
        }
        let Some(request) = request(plan, target) else { return };
        // The gateway measures the result of each request, not the load tester.
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

fn request(plan: &LoadPlan, target: &Uri) -> Option<Request<Full<Bytes>>> {
    let mut request = Request::builder().method(plan.method.as_str()).uri(target.clone());
    let names_agent = plan.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("user-agent"));
    if !names_agent {
        request = request.header(USER_AGENT, AGENT);
    }
    for (name, value) in &plan.headers {
        request = request.header(name, value);
    }
    match request.body(Full::new(Bytes::from(plan.body.clone()))) {
        Ok(request) => Some(request),
        Err(error) => {
            tracing::warn!(url = redact::url(&plan.url), %error, "load test: not a request, nothing was sent");
            None
        }
    }
}
