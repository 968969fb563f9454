use std::sync::Arc;

use evenkeel_api::{Key, Kind, Obj, Revision};
use evenkeel_base::{Clock, Rng};
use evenkeel_control::{
    BoxFuture, DeleteOptions, ListQuery, Listed, Patch, Store, StoreError, Subresource, Watch,
    WriteOptions,
};
use futures::StreamExt as _;
use jiff::Timestamp;
use serde_json::{Value, json};

use crate::{
    error::ApiError,
    request::{DeleteRequest, Deleted, Fields, Write, WriteContext, Written},
    resource::{Resource, Service},
    state::{OWN_NAMESPACES, Shared, State},
    watch::{Cursor, EveryFeed, Feed, Opened},
};

/// A Kubernetes API server in memory.
///
/// In-process users go through [`Store`], `kubectl` and node agents through [`crate::http::serve`].
/// Nothing in here waits, sleeps or spawns: every call works on the state under one short lock, and
/// watches are woken by writes, so it runs on any executor and under virtual time. Equal calls in
/// equal order give equal objects, including names and uids.
pub struct ApiServer {
    shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

impl ApiServer {
    /// An empty cluster. `rng` gives uids and generated names, so it must not be seeded with
    /// anything secret.
    pub fn new(clock: Arc<dyn Clock>, rng: Rng) -> Arc<Self> {
        let shared = Arc::new(Shared::new(State::new(rng)));
        let server = Arc::new(Self { shared, clock });
        for name in OWN_NAMESPACES {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let namespace = Obj::from_json(body).expect("the body is well formed");
            server.create_now(&namespace, &WriteContext::default()).expect("the store is empty");
        }
        server
    }

    /// Gives Services addresses of `a.b.0.0/16` from now on, instead of loopback addresses.
    pub fn use_service_network(&self, network: [u8; 2]) {
        self.shared.with(|state| state.addresses.move_to(network));
    }

    /// This server as the port that controllers use.
    pub fn store(self: &Arc<Self>) -> Arc<dyn Store> {
        self.clone()
    }

    /// Every kind it knows and what it does with it, ordered by group and kind.
    pub fn kinds(&self) -> Vec<(Kind, Service)> {
        self.shared.with(|state| {
            state.registry.iter().map(|known| (known.kind.clone(), known.service)).collect()
        })
    }

    /// Revision of the whole store.
    pub fn revision(&self) -> Revision {
        self.shared.with(|state| state.revision).into()
    }

    /// Every kind with all that is known of it, ordered by group and kind.
    pub(crate) fn resources(&self) -> Vec<Arc<Resource>> {
        self.shared.with(|state| state.registry.iter().cloned().collect())
    }

    /// The kind behind a URL.
    pub(crate) fn resource_at(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Option<Arc<Resource>> {
        self.shared.with(|state| state.registry.by_url(group, version, plural).cloned())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The kind of a key, unless its objects are refused.
    pub(crate) fn resource(&self, key: &Key) -> Result<Arc<Resource>, ApiError> {
        let found = self.shared.with(|state| state.registry.get(&key.kind).cloned());
        let resource = found.ok_or_else(|| ApiError::no_kind(&key.kind))?;
        match resource.service {
            Service::Refused(why) => Err(ApiError::method_not_allowed(format!(
                "{} is not served: {why}",
                resource.kind.id
            ))),
            Service::Served | Service::Passive => Ok(resource),
        }
    }

    pub(crate) fn get_now(&self, key: &Key) -> Result<Arc<Obj>, ApiError> {
        let resource = self.resource(key)?;
        self.shared
            .with(|state| state.find(key).cloned())
            .ok_or_else(|| ApiError::not_found(resource.group(), resource.plural(), &key.name))
    }

    pub(crate) fn list_now(&self, query: &ListQuery) -> Result<Listed, ApiError> {
        self.resource(&Key::new(query.kind.clone(), "", ""))?;
        Ok(self.shared.with(|state| {
            let namespace = query.namespace.as_deref();
            let items = state.objects(&query.kind, namespace).filter(|obj| query.matches(obj));
            Listed { items: items.cloned().collect(), revision: state.revision.into() }
        }))
    }

    /// Opens a watch behind a revision; without one, behind the present objects.
    pub(crate) fn watch_since(
        &self,
        query: &ListQuery,
        since: Option<u64>,
    ) -> Result<Opened, ApiError> {
        let kind = &query.kind;
        self.shared.with(|state| {
            let revision = state.revision;
            let Some(since) = since else {
                let namespace = query.namespace.as_deref();
                let found = state.objects(kind, namespace).filter(|obj| query.matches(obj));
                let initial: Vec<Arc<Obj>> = found.cloned().collect();
                return Ok(Opened {
                    cursor: Cursor::now(&self.shared, state, kind),
                    initial,
                    revision,
                });
            };
            // A client that knows more than this server: it was restarted since.
            let known = since <= revision;
            let cursor = known.then(|| Cursor::after(&self.shared, state, kind, since)).flatten();
            let cursor = cursor.ok_or_else(|| ApiError::expired(since))?;
            Ok(Opened { cursor, initial: Vec::new(), revision })
        })
    }

    fn create_now(&self, obj: &Obj, context: &WriteContext) -> Result<Written, ApiError> {
        let resource = self.resource(obj.key())?;
        self.create_body(&resource, obj.namespace(), obj.json().clone(), context)
    }

    /// Creates an object of a kind; its name may still be left to the server.
    pub(crate) fn create_body(
        &self,
        resource: &Resource,
        namespace: &str,
        body: Value,
        context: &WriteContext,
    ) -> Result<Written, ApiError> {
        let write = Write { now: self.now(), resource, context };
        self.shared.with(|state| state.create(write, namespace, body))
    }

    /// Server-side apply; also says whether the object is new.
    pub(crate) fn apply_now(
        &self,
        key: &Key,
        body: Value,
        force: bool,
        context: &WriteContext,
    ) -> Result<(Written, bool), ApiError> {
        let resource = self.resource(key)?;
        let write = Write { now: self.now(), resource: &resource, context };
        self.shared.with(|state| {
            let is_new = state.find(key).is_none();
            Ok((state.apply(write, key, body, force)?, is_new))
        })
    }

    pub(crate) fn patch_now(
        &self,
        key: &Key,
        patch: &Patch,
        context: &WriteContext,
    ) -> Result<Written, ApiError> {
        let resource = self.resource(key)?;
        let now = self.now();
        self.shared
            .with(|state| state.patch(Write { now, resource: &resource, context }, key, patch))
    }

    pub(crate) fn delete_now(
        &self,
        key: &Key,
        request: &DeleteRequest,
    ) -> Result<Deleted, ApiError> {
        let resource = self.resource(key)?;
        let now = self.now();
        self.shared.with(|state| state.delete(now, &resource, key, request))
    }

    pub(crate) fn post_now(
        &self,
        key: &Key,
        subresource: Subresource,
        body: &Value,
        context: &WriteContext,
    ) -> Result<(), ApiError> {
        let resource = self.resource(key)?;
        let now = self.now();
        self.shared.with(|state| {
            state.post(Write { now, resource: &resource, context }, key, subresource, body)
        })
    }
}

fn inside(options: &WriteOptions) -> WriteContext {
    WriteContext {
        subresource: options.subresource,
        expect: options.expect.clone(),
        manager: options.manager.to_owned(),
        dry_run: false,
        fields: Fields::Strict,
        is_trusted: true,
        ..WriteContext::default()
    }
}

/// Warnings that a person at a terminal would see go to the log for in-process writers.
fn settled(key: &Key, written: Written) -> Arc<Obj> {
    for warning in &written.warnings {
        tracing::debug!(object = %key, warning, "the API server warns");
    }
    written.obj
}

impl evenkeel_control::Read for ApiServer {
    fn get<'a>(&'a self, key: &'a Key) -> BoxFuture<'a, Result<Option<Arc<Obj>>, StoreError>> {
        Box::pin(async move {
            match self.get_now(key) {
                Ok(obj) => Ok(Some(obj)),
                Err(error) => match error.to_store_error(key) {
                    StoreError::NotFound { .. } => Ok(None),
                    error => Err(error),
                },
            }
        })
    }

    fn list<'a>(&'a self, query: &'a ListQuery) -> BoxFuture<'a, Result<Listed, StoreError>> {
        Box::pin(async move {
            let all = Key::new(query.kind.clone(), query.namespace.as_deref().unwrap_or("*"), "*");
            self.list_now(query).map_err(|error| error.to_store_error(&all))
        })
    }

    fn watch(&self, query: ListQuery) -> Watch {
        if query.kind.is_every() {
            return EveryFeed::new(self.shared.clone(), query).boxed();
        }
        Feed::new(self.shared.clone(), query).boxed()
    }
}

impl evenkeel_control::Write for ApiServer {
    fn create<'a>(
        &'a self,
        obj: &'a Obj,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            let written = self.create_now(obj, &inside(options));
            let written = written.map_err(|error| error.to_store_error(obj.key()))?;
            Ok(settled(obj.key(), written))
        })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            let written = self.patch_now(key, patch, &inside(options));
            Ok(settled(key, written.map_err(|error| error.to_store_error(key))?))
        })
    }

    fn delete<'a>(
        &'a self,
        key: &'a Key,
        options: &'a DeleteOptions,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let request = DeleteRequest {
                uid: options.uid.clone(),
                revision: options.expect.as_ref().map(ToString::to_string),
                grace_seconds: options.grace_seconds,
                propagation: Some(options.propagation),
                dry_run: false,
            };
            self.delete_now(key, &request).map(drop).map_err(|error| error.to_store_error(key))
        })
    }

    fn post<'a>(
        &'a self,
        key: &'a Key,
        subresource: Subresource,
        body: &'a Value,
    ) -> BoxFuture<'a, Result<(), StoreError>> {
        Box::pin(async move {
            let context = WriteContext { is_trusted: true, ..WriteContext::default() };
            self.post_now(key, subresource, body, &context)
                .map_err(|error| error.to_store_error(key))
        })
    }
}
