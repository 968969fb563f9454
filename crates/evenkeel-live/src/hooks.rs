use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_api::Key;
use evenkeel_base::format_duration;
use evenkeel_control::{
    BoxFuture, HookCall, HookError, HookReply, Hooks, Read, Replies, StoreError,
};
use http::{Request, Uri, header};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::{
    client::legacy::Client,
    rt::{TokioExecutor, TokioTimer},
};
use k8s_openapi::api::core::v1::Service;
use tokio::time::Instant;

use crate::{
    connector::{Bounded, Everywhere, OtherNetwork, tcp},
    load::LoadTester,
    settings::{AGENT, LiveSettings},
    words::chain,
};

/// Replies kept for the next observation; older ones are forgotten (the hook is then called again).
const REPLIES_MAX: usize = 1024;
/// Bytes of a reply's body that are kept: it is shown to people, not parsed.
const BODY_MAX: usize = 4096;
/// Longest wait for one answer: a webhook that runs tests for longer should answer at once, and be
/// asked again (a gate).
const TIMEOUT_MAX: Duration = Duration::from_mins(10);
/// Attempts after the first: with the pauses between them, they outlast a restart of the receiver.
const RETRIES_MAX: u32 = 10;
/// Longest time for one call with all its attempts: the controller waits for it, but for no effect
/// longer than 15 minutes.
const CALL_MAX: Duration = Duration::from_mins(14);
/// First pause between two attempts; it doubles up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two attempts.
const PAUSE_MAX: Duration = Duration::from_secs(8);
/// Host name under which Flagger's manifests expect the load tester.
const LOAD_TESTER: &str = "flagger-loadtester";

pub(crate) type HttpClient = Client<Bounded<HttpsConnector<Everywhere>>, Full<Bytes>>;

type Reply = Result<HookReply, HookError>;

/// Webhooks over HTTP. Service names are looked up in the cluster; the load tester is built in
/// wherever no Service of its name exists.
pub struct HttpHooks {
    client: HttpClient,
    read: Arc<dyn Read>,
    load: LoadTester,
    replies: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_id: BTreeMap<String, Reply>,
    order: VecDeque<String>,
}

impl HttpHooks {
    /// Hooks that resolve names through `read`.
    ///
    /// **Errors**: the platform's certificates cannot be read.
    pub fn new(read: Arc<dyn Read>) -> std::io::Result<Self> {
        Self::over(read, None)
    }

    /// The same for a cluster whose Services have addresses in a network of their own.
    pub fn over(
        read: Arc<dyn Read>,
        there: Option<Arc<dyn OtherNetwork>>,
    ) -> std::io::Result<Self> {
        let client = http_client(there)?;
        let load = LoadTester::new(client.clone(), read.clone());
        Ok(Self { client, read, load, replies: Mutex::default() })
    }

    /// All attempts of a call, within its limits.
    async fn attempts(&self, call: &HookCall) -> Reply {
        let limits = Limits::of(call);
        if !limits.cut.is_empty() {
            tracing::warn!(object = call.owner, "webhook: {}", limits.cut);
        }
        let end = Instant::now() + CALL_MAX;
        let mut pause = PAUSE;
        let mut attempt = 0;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let reply = self.attempt(call, limits.timeout.min(left)).await;
            let is_good = reply.as_ref().is_ok_and(|reply| (200..=202).contains(&reply.status));
            if is_good || attempt == limits.retries || left <= pause {
                return reply.map_err(|error| limits.explain(error));
            }
            tokio::time::sleep(pause).await;
            attempt += 1;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    async fn attempt(&self, call: &HookCall, timeout: Duration) -> Reply {
        let late = || HookError {
            url: call.url.clone(),
            problem: format!("no answer within {}", format_duration(timeout)),
        };
        tokio::time::timeout(timeout, self.exchange(call)).await.unwrap_or_else(|_| Err(late()))
    }

    async fn exchange(&self, call: &HookCall) -> Reply {
        let fail = |problem: String| HookError { url: call.url.clone(), problem };
        let uri: Uri = call.url.parse().map_err(|error| fail(format!("not a URL: {error}")))?;
        let target = resolve(self.read.as_ref(), &uri, &call.namespace).await.map_err(&fail)?;
        let Some(target) = target else {
            if host_is(&uri, LOAD_TESTER) {
                return Ok(self.load.answer(&uri, call));
            }
            return Err(fail(format!(
                "no Service {:?} in the cluster: create it, or correct the url",
                uri.host().unwrap_or_default()
            )));
        };
        let body = serde_json::to_vec(&call.body).map_err(|error| fail(error.to_string()))?;
        let request = Request::post(target)
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::USER_AGENT, AGENT)
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| fail(error.to_string()))?;
        let answer = self.client.request(request).await.map_err(|error| fail(chain(&error)))?;
        let status = answer.status().as_u16();
        let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
        // A body that is too long or broken off does not change what the status said.
        let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
        Ok(HookReply { status, body: String::from_utf8_lossy(&body).into_owned() })
    }

    fn keep(&self, id: &str, reply: Reply) {
        let mut replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        if replies.by_id.insert(id.to_owned(), reply).is_none() {
            replies.order.push_back(id.to_owned());
        }
        while replies.order.len() > REPLIES_MAX {
            if let Some(oldest) = replies.order.pop_front() {
                replies.by_id.remove(&oldest);
            }
        }
    }
}

impl Hooks for HttpHooks {
    fn call<'a>(&'a self, call: &'a HookCall) -> BoxFuture<'a, Reply> {
        Box::pin(async move {
            let mut under_way = UnderWay { hooks: self, call, reply: None };
            let reply = self.attempts(call).await;
            under_way.reply = Some(reply.clone());
            reply
        })
    }

    fn longest(&self, call: &HookCall) -> Duration {
        Limits::of(call).longest()
    }
}

/// A call that keeps its reply when it is dropped: without a reply, a failure is kept, or it would
/// be made forever.
struct UnderWay<'a> {
    hooks: &'a HttpHooks,
    call: &'a HookCall,
    reply: Option<Reply>,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        let given_up = || {
            let problem = "given up before it had answered".to_owned();
            Err(HookError { url: self.call.url.clone(), problem })
        };
        let reply = self.reply.take().unwrap_or_else(given_up);
        self.hooks.keep(&self.call.id, reply);
    }
}

impl Replies for HttpHooks {
    fn reply(&self, id: &str) -> Option<Reply> {
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.by_id.get(id).cloned()
    }
}

/// A client for receivers outside of the API: connects within a limit, trusts what the platform
/// trusts.
pub(crate) fn http_client(there: Option<Arc<dyn OtherNetwork>>) -> std::io::Result<HttpClient> {
    let settings = LiveSettings::default();
    let tls = hyper_rustls::HttpsConnectorBuilder::new()
        .with_native_roots()?
        .https_or_http()
        .enable_http1()
        .wrap_connector(Everywhere { here: tcp(&settings), there });
    let connector = Bounded { connector: tls, limit: settings.connect };
    let client = Client::builder(TokioExecutor::new())
        .timer(TokioTimer::new())
        .pool_timer(TokioTimer::new())
        .build(connector);
    Ok(client)
}

/// The limits of one call: those of the manifest, up to ours.
struct Limits {
    timeout: Duration,
    retries: u32,
    /// What was cut, as text.
    cut: String,
}

impl Limits {
    fn of(call: &HookCall) -> Self {
        let mut cut = Vec::new();
        if call.timeout > TIMEOUT_MAX {
            let (asked, max) = (format_duration(call.timeout), format_duration(TIMEOUT_MAX));
            cut.push(format!("its timeout {asked} is cut to {max}"));
        }
        if call.retries > RETRIES_MAX {
            cut.push(format!("its {} retries are cut to {RETRIES_MAX}", call.retries));
        }
        Self {
            timeout: call.timeout.min(TIMEOUT_MAX),
            retries: call.retries.min(RETRIES_MAX),
            cut: cut.join(", "),
        }
    }

    /// All attempts at their longest, and the pauses between them.
    fn longest(&self) -> Duration {
        let pauses = std::iter::successors(Some(PAUSE), |pause| Some((*pause * 2).min(PAUSE_MAX)));
        let retries = usize::try_from(self.retries).unwrap_or(usize::MAX);
        let pauses = pauses.take(retries).sum::<Duration>();
        let attempts = self.timeout.saturating_mul(self.retries.saturating_add(1));
        attempts.saturating_add(pauses).min(CALL_MAX)
    }

    fn explain(&self, mut error: HookError) -> HookError {
        if !self.cut.is_empty() {
            error.problem = format!("{} ({})", error.problem, self.cut);
        }
        error
    }
}

fn host_is(uri: &Uri, name: &str) -> bool {
    uri.host().and_then(|host| host.split('.').next()) == Some(name)
}

/// Turns an in-cluster URL into one with the Service's address. Hosts that cannot be Services
/// (addresses, names with other suffixes) are returned as they are; `None` means that a name
/// that must be a Service is not one.
pub(crate) async fn resolve(
    read: &dyn Read,
    uri: &Uri,
    namespace: &str,
) -> Result<Option<Uri>, String> {
    let host = uri.host().unwrap_or_default();
    if host.is_empty() {
        return Err("the URL names no host".to_owned());
    }
    let parts: Vec<_> = host.split('.').collect();
    let is_address = host.parse::<std::net::IpAddr>().is_ok() || host.starts_with('[');
    let (name, namespace) = match parts.as_slice() {
        _ if is_address || host == "localhost" => return without_user(uri).map(Some),
        [name] => (*name, namespace),
        [name, namespace] | [name, namespace, "svc", ..] => (*name, *namespace),
        _ => return without_user(uri).map(Some),
    };
    let key = Key::of::<Service>(namespace, name);
    let found = match read.get(&key).await {
        // Who may look into one namespace only asks the cluster's DNS for the others.
        Err(StoreError::Refused { .. }) if parts.len() > 1 => return without_user(uri).map(Some),
        found => found.map_err(|error| error.to_string())?,
    };
    let Some(found) = found else {
        // `example.com` has the shape of `name.namespace` and is not ours to refuse.
        return (parts.len() == 2).then(|| without_user(uri)).transpose();
    };
    let service = found.get::<Service>().map_err(|error| error.to_string())?;
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    let Some(address) = address.filter(|ip| ip != "None" && !ip.is_empty()) else {
        return Err(format!("{key} has no cluster IP"));
    };
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let scheme = uri.scheme_str().unwrap_or("http");
    let port = uri.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
    format!("{scheme}://{address}:{port}{path}").parse().map(Some).map_err(|e| format!("{e}"))
}

/// A URL without user and password: the client does not send them, but its log names them.
fn without_user(uri: &Uri) -> Result<Uri, String> {
    let mut parts = uri.clone().into_parts();
    if let Some((_, host)) = uri.authority().and_then(|place| place.as_str().rsplit_once('@')) {
        parts.authority = Some(host.parse().map_err(|_| "the URL names no host".to_owned())?);
    }
    Uri::from_parts(parts).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_that_are_too_large_are_cut_and_the_error_says_so() {
        let call = |timeout: Duration, retries: u32| HookCall {
            owner: "Canary/x/a".to_owned(),
            id: String::new(),
            url: "http://gate/".to_owned(),
            namespace: "x".to_owned(),
            body: BTreeMap::new(),
            timeout,
            retries,
            way_back: false,
        };
        let error = || HookError { url: "http://gate/".to_owned(), problem: "refused".to_owned() };
        let longest = |seconds, retries| {
            Limits::of(&call(Duration::from_secs(seconds), retries)).longest().as_millis()
        };
        assert_eq!((longest(1, 0), longest(1, 7), longest(1, 10)), (1_000, 39_500, 66_500));
        assert_eq!(longest(86_400, u32::MAX), 840_000);
        let usual = Limits::of(&call(Duration::from_mins(5), 3));
        assert_eq!((usual.timeout, usual.retries), (Duration::from_mins(5), 3));
        assert_eq!(usual.explain(error()).problem, "refused");
        let absurd = Limits::of(&call(Duration::from_hours(24), u32::MAX));
        assert_eq!((absurd.timeout, absurd.retries), (TIMEOUT_MAX, RETRIES_MAX));
        assert_eq!(
            absurd.explain(error()).problem,
            "refused (its timeout 24h is cut to 10m, its 4294967295 retries are cut to 10)"
        );
    }
}
