use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use evenkeel_api::Key;
use evenkeel_control::{BoxFuture, HookCall, HookError, HookReply, Hooks, Replies, Store};
use http::{Request, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use k8s_openapi::api::core::v1::Service;

use crate::load::LoadTester;

/// Replies kept for the next observation; older ones are forgotten (the hook is then called again).
const REPLIES_MAX: usize = 1024;
/// Bytes of a reply's body that are kept: it is shown to people, not parsed.
const BODY_MAX: usize = 4096;
/// Host name under which Flagger's manifests expect the load tester.
const LOAD_TESTER: &str = "flagger-loadtester";

pub(crate) type HttpClient = Client<hyper_rustls::HttpsConnector<HttpConnector>, Full<Bytes>>;

type Reply = Result<HookReply, HookError>;

/// Webhooks over HTTP. Service names are looked up in the cluster; the load tester is built in
/// wherever no Service of its name exists.
pub struct HttpHooks {
    client: HttpClient,
    store: Arc<dyn Store>,
    load: LoadTester,
    replies: Mutex<Kept>,
}

#[derive(Default)]
struct Kept {
    by_id: BTreeMap<String, Reply>,
    order: VecDeque<String>,
}

impl HttpHooks {
    /// Hooks that resolve names through `store`.
    ///
    /// **Errors**: the platform's certificates cannot be read.
    pub fn new(store: Arc<dyn Store>) -> std::io::Result<Self> {
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_native_roots()?
            .https_or_http()
            .enable_http1()
            .build();
        let client = Client::builder(TokioExecutor::new()).build(connector);
        let load = LoadTester::new(client.clone(), store.clone());
        Ok(Self { client, store, load, replies: Mutex::default() })
    }

    async fn attempt(&self, call: &HookCall) -> Reply {
        let fail = |problem: String| HookError { url: call.url.clone(), problem };
        let uri: Uri = call.url.parse().map_err(|error| fail(format!("not a URL: {error}")))?;
        let target = resolve(self.store.as_ref(), &uri, &call.namespace).await.map_err(&fail)?;
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
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(body)))
            .map_err(|error| fail(error.to_string()))?;
        let exchange = async {
            let answer = self.client.request(request).await.map_err(|e| fail(e.to_string()))?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), BODY_MAX).collect().await;
            // A body that is too long or broken off does not change what the status said.
            let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
            Ok(HookReply { status, body: String::from_utf8_lossy(&body).into_owned() })
        };
        match tokio::time::timeout(call.timeout, exchange).await {
            Ok(reply) => reply,
            Err(_) => Err(fail(format!("no answer within {:?}", call.timeout))),
        }
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
            let mut reply = self.attempt(call).await;
            for attempt in 0..call.retries {
                if reply.as_ref().is_ok_and(|reply| (200..=202).contains(&reply.status)) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(500 << attempt.min(4))).await;
                reply = self.attempt(call).await;
            }
            self.keep(&call.id, reply.clone());
            reply
        })
    }
}

impl Replies for HttpHooks {
    fn reply(&self, id: &str) -> Option<Reply> {
        let replies = self.replies.lock().unwrap_or_else(PoisonError::into_inner);
        replies.by_id.get(id).cloned()
    }
}

fn host_is(uri: &Uri, name: &str) -> bool {
    uri.host().and_then(|host| host.split('.').next()) == Some(name)
}

/// Turns an in-cluster URL into one with the Service's address. Hosts that cannot be Services
/// (addresses, names with other suffixes) are returned as they are; `None` means that a name
/// that must be a Service is not one.
pub(crate) async fn resolve(
    store: &dyn Store,
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
        _ if is_address || host == "localhost" => return Ok(Some(uri.clone())),
        [name] => (*name, namespace),
        [name, namespace] | [name, namespace, "svc", ..] => (*name, *namespace),
        _ => return Ok(Some(uri.clone())),
    };
    let key = Key::of::<Service>(namespace, name);
    let found = store.get(&key).await.map_err(|error| error.to_string())?;
    let Some(found) = found else {
        // `example.com` has the shape of `name.namespace` and is not ours to refuse.
        return Ok((parts.len() == 2).then(|| uri.clone()));
    };
    let service = found.get::<Service>().map_err(|error| error.to_string())?;
    let address = service.spec.as_ref().and_then(|spec| spec.cluster_ip.clone());
    let Some(address) = address.filter(|ip| ip != "None" && !ip.is_empty()) else {
        return Err(format!("{key} has no cluster IP"));
    };
    let port = uri.port_u16().unwrap_or(80);
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let scheme = uri.scheme_str().unwrap_or("http");
    format!("{scheme}://{address}:{port}{path}").parse().map(Some).map_err(|e| format!("{e}"))
}
