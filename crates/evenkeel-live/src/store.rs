use std::{borrow::Cow, sync::Arc};

use bytes::Bytes;
use evenkeel_api::{GroupKind, Key, Obj, ObjError, Revision};
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Propagation, Read, StoreError, Subresource,
    Watch, Write, WriteOptions,
};
use http::{
    Method, Request,
    header::{ACCEPT, CONTENT_TYPE},
};
use kube::{Config, client::Body};
use serde_json::{Value, json};

use crate::{
    annex,
    answer::Failure,
    client::{ApiClient, ClientError, Generation},
    counts::{ApiCounts, Verb},
    fits::{self, Asked},
    informer::{self, Detail},
    kinds::{Kinds, Route},
    page::Page,
    settings::LiveSettings,
    url::{escape, push_selectors},
};

/// `Read` and `Write` over a Kubernetes API. Cheap to clone.
#[derive(Clone)]
pub struct KubeStore {
    pub(crate) client: ApiClient,
    kinds: Arc<Kinds>,
}

impl KubeStore {
    /// A store over the cluster of `config`.
    ///
    /// **Errors**: TLS cannot be set up, the credentials cannot be read, or a proxy is asked for.
    pub fn new(config: Config, settings: LiveSettings) -> Result<Self, ClientError> {
        Ok(Self { client: ApiClient::new(config, settings)?, kinds: Arc::new(Kinds::new()) })
    }

    /// Whether the API answers.
    pub async fn is_ready(&self) -> bool {
        match Request::get("/readyz").body(Vec::new()) {
            Ok(request) => self.client.exchange(Verb::Get, request).await.is_ok(),
            Err(_) => false,
        }
    }

    /// What the API answers to a GET of a path that is no object's.
    pub async fn fetch(&self, path: &str) -> Result<Bytes, StoreError> {
        let invalid = |error: http::Error| StoreError::Invalid {
            object: path.to_owned(),
            problem: error.to_string(),
        };
        let request = Request::get(path).body(Vec::new()).map_err(invalid)?;
        let answer = self.client.exchange(Verb::Get, request).await;
        answer.map_err(|failure| Refused::of(failure, path).error)
    }

    /// What a kind is called in paths and by kubectl, as the server's discovery has it (`canaries`);
    /// `None` when it is not known.
    pub async fn resource(&self, kind: &GroupKind) -> Option<String> {
        let route = self.kinds.find(&self.client, kind).await.ok().flatten();
        route.map(|route| route.plural)
    }

    /// What a pod answers to a GET, by way of the API server: it reaches pods where others do not.
    /// That takes the right to get `pods/proxy`.
    pub async fn ask_pod(&self, pod: &Key, port: u16, path: &str) -> Result<Bytes, StoreError> {
        let (namespace, name) = (escape(&pod.namespace), escape(&pod.name));
        let uri = format!("/api/v1/namespaces/{namespace}/pods/{name}:{port}/proxy{path}");
        let invalid = |error: http::Error| StoreError::Invalid {
            object: pod.to_string(),
            problem: error.to_string(),
        };
        let request = Request::get(uri).body(Vec::new()).map_err(invalid)?;
        let answer = self.client.exchange(Verb::Get, request).await;
        answer.map_err(|failure| Refused::of(failure, &pod.to_string()).error)
    }

    /// An object as the server answers it, `managedFields` included; `None` when there is none.
    pub async fn raw(&self, key: &Key) -> Result<Option<Value>, StoreError> {
        let call = Call::one(Verb::Get, key, None);
        match self.send(&call).await.map_err(StoreError::from) {
            Ok(answer) => {
                let body = answer.json()?;
                call.is_answered_by(&body, &answer.route)?;
                Ok(Some(body))
            }
            Err(StoreError::NotFound { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How a kind is reached; `None` when the server does not have it.
    pub(crate) async fn find(&self, kind: &GroupKind) -> Result<Option<Route>, StoreError> {
        self.kinds.find(&self.client, kind).await
    }

    /// The schemas of one group and version, as the server publishes them to every user; `None` when
    /// it does not, or not to this one.
    ///
    /// **Errors**: it does not answer.
    pub(crate) async fn published(&self, route: &Route) -> Result<Option<Value>, StoreError> {
        let path = format!("/openapi/v3/apis/{}", route.api_version);
        let request = Request::get(&path).header(ACCEPT, JSON).body(Vec::new());
        let unclear = |problem: String| StoreError::Unreachable { object: path.clone(), problem };
        let request = request.map_err(|error| unclear(error.to_string()))?;
        match self.client.exchange(Verb::Get, request).await {
            Ok(body) => {
                let parsed: Result<Value, _> = serde_json::from_slice(&body);
                let parsed = parsed.map_err(|error| unclear(error.to_string()))?;
                if !parsed.pointer("/components/schemas").is_some_and(Value::is_object) {
                    return Err(unclear("the answer has no schemas".to_owned()));
                }
                Ok(Some(parsed))
            }
            Err(failure) => match Refused::of(failure, &path).error {
                StoreError::NotFound { .. } | StoreError::Refused { .. } => Ok(None),
                error => Err(error),
            },
        }
    }

    /// What has been asked of the server so far.
    pub fn counts(&self) -> ApiCounts {
        self.client.counts.snapshot()
    }

    async fn route(&self, call: &Call<'_>) -> Result<Route, StoreError> {
        let found = self.kinds.find(&self.client, call.kind).await;
        found?.ok_or_else(|| StoreError::NoKind { object: call.object(), kind: call.kind.clone() })
    }

    /// Makes a call. A server that does not know the path may serve another version of the kind
    /// by now, or a proxy has answered in its place: then the list of kinds is read again, and the
    /// call made once more.
    async fn send(&self, call: &Call<'_>) -> Result<Answer, Refused> {
        let route = self.route(call).await?;
        let failure = match self.client.exchange(call.verb, call.request(&route)?).await {
            Ok(body) => return Ok(Answer { body, route }),
            Err(failure) => failure,
        };
        if !failure.is_unknown_path() {
            return Err(call.failed(failure));
        }
        self.kinds.doubt(call.kind, &route);
        let again = self.route(call).await?;
        // A subresource may not be there although the kind is.
        if again == route && call.subresource.is_some() {
            return Err(call.failed(failure));
        }
        let body = self.client.exchange(call.verb, call.request(&again)?).await;
        Ok(Answer { body: body.map_err(|failure| call.failed(failure))?, route: again })
    }

    /// One page of a list, whose objects are handed to `keep` one by one; `from` continues an
    /// earlier page.
    pub(crate) async fn list_page(
        &self,
        query: &ListQuery,
        detail: Detail,
        from: Option<&str>,
        mut keep: impl FnMut(Obj),
    ) -> Result<Page, Refused> {
        let mut parameters = format!("?limit={}", self.client.settings.page);
        push_selectors(&mut parameters, query);
        if let Some(from) = from {
            parameters.push_str("&continue=");
            parameters.push_str(&escape(from));
        }
        let call =
            Call { accept: detail.accept(true), ..Call::list(Verb::List, query, parameters) };
        let answer = self.send(&call).await?;
        let page = Page::read(&answer.body, &mut |item| {
            if let Some(obj) = detail.read_or_pass_over(item, &query.kind, &answer.route) {
                keep(obj);
            }
        });
        Ok(page.map_err(|error| answer.is_not_json(&error))?)
    }

    /// Opens a watch from a revision on.
    pub(crate) async fn open_watch(
        &self,
        query: &ListQuery,
        detail: Detail,
        revision: &Revision,
    ) -> Result<(Body, Generation, Route), Refused> {
        let seconds = self.client.settings.watch.as_secs().max(1);
        let mut parameters = format!(
            "?watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}\
             &resourceVersion={revision}"
        );
        push_selectors(&mut parameters, query);
        let accept = detail.accept(false);
        let call = Call { accept, ..Call::list(Verb::Watch, query, parameters) };
        let route = self.route(&call).await?;
        let opened = self.client.open(call.verb, call.request(&route)?).await;
        let (body, generation) = opened.map_err(|failure| {
            if failure.is_unknown_path() {
                self.kinds.doubt(&query.kind, &route);
            }
            call.failed(failure)
        })?;
        Ok((body, generation, route))
    }

    async fn one(&self, call: &Call<'_>) -> Result<Arc<Obj>, StoreError> {
        let answer = self.send(call).await?;
        let body = answer.json()?;
        call.is_answered_by(&body, &answer.route)?;
        // The answer to a scale is a Scale.
        Ok(Arc::new(match call.subresource {
            Some(Subresource::Scale) => Obj::from_json(body)?,
            _ => object(body, call.kind, &answer.route)?,
        }))
    }

    /// Deletes an object, and returns the result.
    pub(crate) async fn delete_now(
        &self,
        key: &Key,
        options: &DeleteOptions,
    ) -> Result<Deleted, StoreError> {
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
        let call = Call { body: Some(&body), ..Call::one(Verb::Delete, key, None) };
        let answer = self.send(&call).await?;
        let body = answer.json()?;
        if fits::kind_of(&body) == "Status" {
            fits::is_success(&body).map_err(|problem| call.unanswered(problem))?;
            let uid = body.pointer("/details/uid").and_then(Value::as_str);
            return Ok(Deleted::Gone(uid.unwrap_or_default().to_owned()));
        }
        call.is_answered_by(&body, &answer.route)?;
        Ok(Deleted::Marked(Arc::new(object(body, &key.kind, &answer.route)?)))
    }
}

/// The result of a deletion.
#[derive(Debug)]
pub(crate) enum Deleted {
    /// It had this uid and is gone.
    Gone(String),
    /// It is still there: finalizers or a grace period hold it.
    Marked(Arc<Obj>),
}

/// Why a call gave nothing: the error of the port, and what a watch wants to know besides.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) error: StoreError,
    /// The server has forgotten our place in its history.
    pub(crate) is_gone: bool,
    /// Only a person can change it.
    pub(crate) is_refusal: bool,
    pub(crate) retry_after: Option<std::time::Duration>,
}

impl Refused {
    pub(crate) fn of(failure: Failure, object: &str) -> Self {
        Self {
            is_gone: failure.is_gone(),
            is_refusal: failure.is_refusal(),
            retry_after: failure.retry_after(),
            error: failure.translate(object),
        }
    }
}

impl From<StoreError> for Refused {
    fn from(error: StoreError) -> Self {
        let is_refusal = matches!(error, StoreError::Refused { .. } | StoreError::NoKind { .. });
        Self { error, is_gone: false, is_refusal, retry_after: None }
    }
}

impl From<Refused> for StoreError {
    fn from(refused: Refused) -> Self {
        refused.error
    }
}

/// A good answer, and the version of the kind it is in.
struct Answer {
    body: Bytes,
    route: Route,
}

impl Answer {
    fn json(&self) -> Result<Value, StoreError> {
        serde_json::from_slice(&self.body).map_err(|error| self.is_not_json(&error))
    }

    fn is_not_json(&self, error: &serde_json::Error) -> StoreError {
        StoreError::Unreachable {
            object: self.route.plural.clone(),
            problem: format!("the answer is not JSON: {error}"),
        }
    }
}

/// One request to the API, before it is known in which version.
struct Call<'a> {
    verb: Verb,
    kind: &'a GroupKind,
    namespace: Option<&'a str>,
    name: Option<&'a str>,
    /// The name is that of an object that is not there yet.
    to_collection: bool,
    subresource: Option<Subresource>,
    /// The URL's query part, with its question mark.
    parameters: Cow<'a, str>,
    accept: &'static str,
    content_type: &'static str,
    body: Option<&'a Value>,
}

impl<'a> Call<'a> {
    fn one(verb: Verb, key: &'a Key, subresource: Option<Subresource>) -> Self {
        Self {
            verb,
            kind: &key.kind,
            namespace: Some(&key.namespace),
            name: Some(&key.name),
            to_collection: false,
            subresource,
            parameters: Cow::Borrowed(""),
            accept: JSON,
            content_type: JSON,
            body: None,
        }
    }

    fn list(verb: Verb, query: &'a ListQuery, parameters: String) -> Self {
        Self {
            verb,
            kind: &query.kind,
            namespace: query.namespace.as_deref(),
            name: None,
            to_collection: false,
            subresource: None,
            parameters: parameters.into(),
            accept: JSON,
            content_type: JSON,
            body: None,
        }
    }

    fn object(&self) -> String {
        match (self.namespace.filter(|ns| !ns.is_empty()), self.name) {
            (Some(namespace), Some(name)) => format!("{}/{namespace}/{name}", self.kind.kind),
            (None, Some(name)) => format!("{}/{name}", self.kind.kind),
            (_, None) => self.kind.to_string(),
        }
    }

    fn request(&self, route: &Route) -> Result<Request<Vec<u8>>, StoreError> {
        let invalid = |problem: String| StoreError::Invalid { object: self.object(), problem };
        let body = match self.body {
            Some(body) => serde_json::to_vec(&*self.in_version(body, route))
                .map_err(|error| invalid(error.to_string()))?,
            None => Vec::new(),
        };
        let mut path = route.path(self.namespace, self.name.filter(|_| !self.to_collection));
        if let Some(subresource) = self.subresource {
            path.push('/');
            path.push_str(subresource.segment());
        }
        path.push_str(&self.parameters);
        let method = match self.verb {
            Verb::Create => Method::POST,
            Verb::Update => Method::PUT,
            Verb::Patch => Method::PATCH,
            Verb::Delete => Method::DELETE,
            Verb::Get | Verb::List | Verb::Watch | Verb::Discovery => Method::GET,
        };
        let request = Request::builder().method(method).uri(path).header(ACCEPT, self.accept);
        let request = request.header(CONTENT_TYPE, self.content_type).body(body);
        request.map_err(|error| invalid(error.to_string()))
    }

    /// A new object in the version of its kind that is spoken with this server.
    fn in_version<'b>(&self, body: &'b Value, route: &Route) -> Cow<'b, Value> {
        let creates = self.verb == Verb::Create && self.subresource.is_none();
        if !creates || body["apiVersion"] == *route.api_version {
            return Cow::Borrowed(body);
        }
        let mut body = body.clone();
        body["apiVersion"] = json!(route.api_version);
        Cow::Owned(body)
    }

    /// Whether an answer is the object that this call is about.
    fn is_answered_by(&self, body: &Value, route: &Route) -> Result<(), StoreError> {
        let scale = GroupKind::new("autoscaling", "Scale");
        let asked = Asked {
            kind: if self.subresource == Some(Subresource::Scale) { &scale } else { self.kind },
            namespace: self.namespace.filter(|_| route.namespaced),
            name: self.name.unwrap_or_default(),
        };
        asked.check(body).map_err(|problem| self.unanswered(problem))
    }

    /// Something else answered than the API server, or not to this call.
    fn unanswered(&self, problem: String) -> StoreError {
        StoreError::Unreachable { object: self.object(), problem }
    }

    /// A failure of this call. A path that stays unknown although the kind is known is the
    /// subresource, or an aggregated server that is away.
    fn failed(&self, failure: Failure) -> Refused {
        Refused::of(failure, &self.object())
    }
}

const JSON: &str = "application/json";

/// Reads an object out of an answer. List items lack `apiVersion` and `kind`, and answers without
/// bodies have those of the envelope, so they are given. `managedFields` are dropped: nothing here
/// reads them, and they are often half of an object. What the status has no place for is put back.
pub(crate) fn object(mut body: Value, kind: &GroupKind, route: &Route) -> Result<Obj, ObjError> {
    if let Some(fields) = body.as_object_mut() {
        fields.insert("apiVersion".to_owned(), json!(route.api_version));
        fields.insert("kind".to_owned(), json!(&*kind.kind));
        if let Some(Value::Object(metadata)) = fields.get_mut("metadata") {
            metadata.shift_remove("managedFields");
        }
    }
    annex::overlay(&mut body);
    Obj::from_json(body)
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
            match self.one(&Call::one(Verb::Get, key, None)).await {
                Ok(found) => Ok(Some(found)),
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
                let keep = |obj| listed.items.push(Arc::new(obj));
                let page = self.list_page(query, Detail::Whole, from.as_deref(), keep).await?;
                listed.revision = page.revision;
                match page.next {
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
            let parameters = format!("?fieldManager={}", escape(options.manager)).into();
            let call = Call::one(Verb::Create, obj.key(), None);
            let body = Some(obj.json());
            self.one(&Call { to_collection: true, parameters, body, ..call }).await
        })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            let (content_type, body) = with_expectation(patch, options.expect.as_ref());
            let replaces = matches!(patch, Patch::Replace(_));
            let verb = if replaces { Verb::Update } else { Verb::Patch };
            let parameters = format!("?fieldManager={}", escape(options.manager)).into();
            let call = Call::one(verb, key, options.subresource);
            self.one(&Call { content_type, parameters, body: Some(&body), ..call }).await
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move { self.delete_now(key, options).await.map(drop) })
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let call = Call::one(Verb::Create, key, Some(subresource));
            let call = Call { body: Some(body), ..call };
            let answer = self.send(&call).await?;
            fits::is_success(&answer.json()?).map_err(|problem| call.unanswered(problem))
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
}
