use std::{fmt::Write as _, path::Path, sync::Arc};

use evenkeel_api::{Key, Obj, ObjError, Revision};
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Propagation, Read, StoreError, Subresource,
    Watch, Write, WriteOptions,
};
use http::{Method, Request};
use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::{Value, json};

use crate::{
    informer,
    kinds::{Kinds, Route},
};

/// Objects per page of a list: what kubectl asks for.
const PAGE: usize = 500;

/// Why there is no connection to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The kubeconfig cannot be used.
    #[error("kubeconfig {path}: {problem}")]
    Config {
        /// Its path, or where it was looked for.
        path: String,
        /// The reader's words.
        problem: String,
    },
    /// TLS or the like could not be set up.
    #[error("client for {path}: {problem}")]
    Client {
        /// Path of the kubeconfig.
        path: String,
        /// The library's words.
        problem: String,
    },
}

/// Connects with a kubeconfig file, or with what the environment offers (`KUBECONFIG`, the home
/// folder, a pod's service account) when there is none.
pub async fn connect(kubeconfig: Option<&Path>) -> Result<KubeStore, ConnectError> {
    let path = kubeconfig.map_or("from the environment".into(), |p| p.display().to_string());
    let config = match kubeconfig {
        Some(file) => {
            let bad = |problem: String| ConnectError::Config { path: path.clone(), problem };
            let read = Kubeconfig::read_from(file).map_err(|error| bad(error.to_string()))?;
            let options = KubeConfigOptions::default();
            Config::from_custom_kubeconfig(read, &options)
                .await
                .map_err(|error| bad(error.to_string()))?
        }
        None => Config::infer().await.map_err(|error| ConnectError::Config {
            path: path.clone(),
            problem: error.to_string(),
        })?,
    };
    let client = Client::try_from(config)
        .map_err(|error| ConnectError::Client { path, problem: error.to_string() })?;
    Ok(KubeStore::new(client))
}

/// [`Store`] over a Kubernetes API. Cheap to clone.
#[derive(Clone)]
pub struct KubeStore {
    pub(crate) client: Client,
    pub(crate) kinds: Arc<Kinds>,
}

impl KubeStore {
    /// A store over an existing client.
    pub fn new(client: Client) -> Self {
        Self { client, kinds: Arc::new(Kinds::new()) }
    }

    /// Whether the API answers.
    pub async fn is_ready(&self) -> bool {
        let request = Request::get("/readyz").body(Vec::new());
        match request {
            Ok(request) => self.client.request_text(request).await.is_ok(),
            Err(_) => false,
        }
    }

    pub(crate) async fn route(&self, object: &str, key: &ListQuery) -> Result<Route, StoreError> {
        let found = self.kinds.find(&self.client, &key.kind).await;
        found.map_err(|error| translate(object, &error))?.ok_or_else(|| StoreError::Refused {
            object: object.to_owned(),
            problem: format!(
                "the server has no kind {}: install its CRD first (evenkeel crds --all prints it)",
                key.kind
            ),
        })
    }

    async fn path(&self, key: &Key, subresource: Option<&str>) -> Result<String, StoreError> {
        let object = key.to_string();
        let route = self.route(&object, &ListQuery::all(key.kind.clone())).await?;
        let mut path = route.path(Some(&key.namespace), Some(&key.name));
        if let Some(segment) = subresource {
            path.push('/');
            path.push_str(segment);
        }
        Ok(path)
    }

    pub(crate) async fn send(&self, object: &str, call: Call<'_>) -> Result<Value, StoreError> {
        let bytes = match call.body {
            Some(body) => serde_json::to_vec(body).map_err(|error| StoreError::Invalid {
                object: object.to_owned(),
                problem: error.to_string(),
            })?,
            None => Vec::new(),
        };
        let request = Request::builder()
            .method(call.method)
            .uri(call.path)
            .header(http::header::ACCEPT, "application/json")
            .header(http::header::CONTENT_TYPE, call.content_type)
            .body(bytes)
            .map_err(|error| StoreError::Invalid {
                object: object.to_owned(),
                problem: error.to_string(),
            })?;
        self.client.request::<Value>(request).await.map_err(|error| translate(object, &error))
    }

    pub(crate) async fn list_page(
        &self,
        query: &ListQuery,
        from: Option<&str>,
    ) -> Result<Value, StoreError> {
        let object = query.kind.to_string();
        let route = self.route(&object, query).await?;
        let mut path = format!("{}?limit={PAGE}", route.path(query.namespace.as_deref(), None));
        push_selectors(&mut path, query);
        if let Some(from) = from {
            path.push_str("&continue=");
            path.push_str(&escape(from));
        }
        self.send(&object, Call::json(Method::GET, &path, None)).await
    }
}

/// One request to the API.
pub(crate) struct Call<'a> {
    method: Method,
    path: &'a str,
    content_type: &'a str,
    body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    pub(crate) fn json(method: Method, path: &'a str, body: Option<&'a Value>) -> Self {
        Self { method, path, content_type: "application/json", body }
    }
}

/// Adds a query's selectors to a URL that has a query part already.
pub(crate) fn push_selectors(path: &mut String, query: &ListQuery) {
    let labels: Vec<_> = query.labels.requirements.iter().map(selector_text).collect();
    if !labels.is_empty() {
        path.push_str("&labelSelector=");
        path.push_str(&escape(&labels.join(",")));
    }
    let field = |(path, value, equal): &(String, String, bool)| {
        format!("{path}{}{value}", if *equal { "=" } else { "!=" })
    };
    let fields: Vec<_> = query.fields.requirements.iter().map(field).collect();
    if !fields.is_empty() {
        path.push_str("&fieldSelector=");
        path.push_str(&escape(&fields.join(",")));
    }
}

fn selector_text(requirement: &evenkeel_api::Requirement) -> String {
    use evenkeel_api::Requirement;
    match requirement {
        Requirement::In(key, values) => format!("{key} in ({})", values.join(",")),
        Requirement::NotIn(key, values) => format!("{key} notin ({})", values.join(",")),
        Requirement::Exists(key) => key.clone(),
        Requirement::Absent(key) => format!("!{key}"),
    }
}

/// Percent-encodes everything but unreserved characters.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            write!(out, "%{byte:02X}").expect("a string takes every character");
        }
    }
    out
}

/// Reads an object out of an answer; list items lack `apiVersion` and `kind`, so they are given.
pub(crate) fn object(mut body: Value, kind: &str, api_version: &str) -> Result<Obj, ObjError> {
    if let Some(fields) = body.as_object_mut() {
        fields.entry("apiVersion").or_insert_with(|| json!(api_version));
        fields.entry("kind").or_insert_with(|| json!(kind));
    }
    Obj::from_json(body)
}

/// Kubernetes' answer in our words.
pub(crate) fn translate(object: &str, error: &kube::Error) -> StoreError {
    let object = object.to_owned();
    let kube::Error::Api(status) = error else {
        return StoreError::Unreachable { object, problem: chain(error) };
    };
    let problem = status.message.clone();
    match (status.code, status.reason.as_str()) {
        (404, _) => StoreError::NotFound { object },
        (409, "AlreadyExists") => StoreError::Exists { object },
        (409 | 410, _) => StoreError::Conflict { object, problem },
        (400 | 422, _) => StoreError::Invalid { object, problem },
        (429, _) => StoreError::Busy { object, problem },
        (code, _) if code >= 500 => StoreError::Unreachable { object, problem },
        _ => StoreError::Refused { object, problem },
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

fn with_expectation(patch: &Patch, expect: Option<&Revision>) -> (&'static str, Value) {
    let revision = expect.map(|revision| json!(&*revision.0));
    let merged = |body: &Value| {
        let mut body = body.clone();
        if let (Some(revision), Some(fields)) = (&revision, body.as_object_mut()) {
            let meta = fields.entry("metadata").or_insert_with(|| json!({}));
            meta["resourceVersion"] = revision.clone();
        }
        body
    };
    match patch {
        Patch::Merge(body) => ("application/merge-patch+json", merged(body)),
        Patch::Strategic(body) => ("application/strategic-merge-patch+json", merged(body)),
        Patch::Replace(body) => ("application/json", merged(body)),
        Patch::Json(body) => {
            let mut operations = body.as_array().cloned().unwrap_or_default();
            if let Some(revision) = revision {
                let path = "/metadata/resourceVersion";
                operations.insert(0, json!({"op": "test", "path": path, "value": revision}));
            }
            ("application/json-patch+json", Value::Array(operations))
        }
    }
}

impl Read for KubeStore {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            let path = self.path(key, None).await?;
            let object = key.to_string();
            match self.send(&object, Call::json(Method::GET, &path, None)).await {
                Ok(body) => Ok(Some(Arc::new(Obj::from_json(body)?))),
                Err(StoreError::NotFound { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move {
            let mut listed = Listed::default();
            let mut from: Option<String> = None;
            loop {
                let page = self.list_page(query, from.as_deref()).await?;
                let (items, revision, next) = informer::split_page(page, &query.kind)?;
                listed.items.extend(items);
                listed.revision = revision;
                match next {
                    Some(next) => from = Some(next),
                    None => break,
                }
            }
            listed.items.sort_by(|a, b| a.key().cmp(b.key()));
            Ok(listed)
        })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        informer::watch(self.clone(), query)
    }
}

impl Write for KubeStore {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            let name = obj.key().to_string();
            let route = self.route(&name, &ListQuery::all(obj.key().kind.clone())).await?;
            let path = format!(
                "{}?fieldManager={}",
                route.path(Some(obj.namespace()), None),
                escape(options.manager)
            );
            let body = Some(obj.json());
            let made = self.send(&name, Call::json(Method::POST, &path, body)).await?;
            Ok(Arc::new(Obj::from_json(made)?))
        })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            let segment = options.subresource.map(Subresource::segment);
            let path = self.path(key, segment).await?;
            let path = format!("{path}?fieldManager={}", escape(options.manager));
            let (content_type, body) = with_expectation(patch, options.expect.as_ref());
            let replaces = matches!(patch, Patch::Replace(_));
            let method = if replaces { Method::PUT } else { Method::PATCH };
            let object = key.to_string();
            let call = Call { content_type, ..Call::json(method, &path, Some(&body)) };
            let made = self.send(&object, call).await?;
            Ok(Arc::new(Obj::from_json(made)?))
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let path = self.path(key, None).await?;
            let policy = match options.propagation {
                Propagation::Background => "Background",
                Propagation::Foreground => "Foreground",
                Propagation::Orphan => "Orphan",
            };
            let mut body = json!({"apiVersion": "v1", "kind": "DeleteOptions",
                "propagationPolicy": policy});
            if let Some(seconds) = options.grace_seconds {
                body["gracePeriodSeconds"] = json!(seconds);
            }
            if let Some(uid) = &options.uid {
                body["preconditions"]["uid"] = json!(uid);
            }
            if let Some(revision) = &options.expect {
                body["preconditions"]["resourceVersion"] = json!(&*revision.0);
            }
            let object = key.to_string();
            let body = Some(&body);
            self.send(&object, Call::json(Method::DELETE, &path, body)).await.map(drop)
        })
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let path = self.path(key, Some(subresource.segment())).await?;
            let object = key.to_string();
            let body = Some(body);
            self.send(&object, Call::json(Method::POST, &path, body)).await.map(drop)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expected_revision_travels_in_every_kind_of_patch() {
        let at = Revision::from(7);
        let (_, merge) = with_expectation(&Patch::Merge(json!({"spec": {}})), Some(&at));
        assert_eq!(merge, json!({"spec": {}, "metadata": {"resourceVersion": "7"}}));
        let (_, operations) = with_expectation(&Patch::Json(json!([])), Some(&at));
        assert_eq!(operations[0]["value"], json!("7"));
        let (_, plain) = with_expectation(&Patch::Merge(json!({"spec": {}})), None);
        assert_eq!(plain, json!({"spec": {}}));
    }

    #[test]
    fn selectors_become_url_text() {
        let labels = evenkeel_api::LabelSelector::parse("app in (a,b),!old").unwrap();
        let query = ListQuery::all(evenkeel_api::GroupKind::new("", "Pod")).with_labels(labels);
        let mut path = String::from("/x?limit=1");
        push_selectors(&mut path, &query);
        assert_eq!(path, "/x?limit=1&labelSelector=app%20in%20%28a%2Cb%29%2C%21old");
    }
}
