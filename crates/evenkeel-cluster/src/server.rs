use std::sync::Arc;

use evenkeel_api::{GroupKind, Key, Kind, Obj, Revision};
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
    journal::{Flusher, Journal, JournalError, Kept, Receipt},
    request::{DeleteRequest, Deleted, Fields, Write, WriteContext, Written},
    resource::{Resource, Service},
    state::{OWN_NAMESPACES, Shared, State},
    watch::{Cursor, EveryFeed, Feed, Opened},
};

/// A Kubernetes API server in memory, with or without a journal.
///
/// In-process users go through [`Store`], `kubectl` and node agents through [`crate::http::serve`].
/// Nothing in here sleeps or spawns: every call works on the state under one short lock, and
/// watches are woken by writes, so it runs on any executor and under virtual time. Only writers with
/// a journal wait, for it. Equal calls in equal order give equal objects, including names and uids.
pub struct ApiServer {
    pub(crate) shared: Arc<Shared>,
    clock: Arc<dyn Clock>,
}

impl ApiServer {
    /// An empty cluster that nothing is kept of. `rng` gives uids and generated names, so it must
    /// not be seeded with anything secret.
    pub fn new(clock: Arc<dyn Clock>, rng: Rng) -> Arc<Self> {
        Self::over(State::new(rng), clock)
    }

    /// The cluster that is in a journal, which keeps it from now on: an answer is given, and a
    /// change is seen, only when it is safe there. Events and renewals of Leases are seen at once,
    /// and safe within a second. Revisions and uids go on: none is used twice, whatever the seed.
    ///
    /// Nothing is answered unless the result is told to write: see [`Flusher::start`].
    ///
    /// **Errors**: the journal cannot be read or written.
    pub fn open(
        clock: Arc<dyn Clock>,
        rng: Rng,
        mut journal: impl Journal,
    ) -> Result<(Arc<Self>, Flusher), JournalError> {
        let mut state = State::new(rng);
        state.resume(journal.read()?);
        let server = Self::over(state, clock);
        let mut flusher = Flusher::new(server.shared.clone(), Box::new(journal));
        // Also when nothing is new: that revisions were left out must be known to the next one.
        flusher.flush()?;
        Ok((server, flusher))
    }

    fn over(state: State, clock: Arc<dyn Clock>) -> Arc<Self> {
        let server = Arc::new(Self { shared: Arc::new(Shared::new(state)), clock });
        let namespaces = server.resource(&Key::new(GroupKind::new("", "Namespace"), "", ""));
        let namespaces = namespaces.expect("namespaces are served");
        let now = server.now();
        for name in OWN_NAMESPACES {
            let body = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            let context = WriteContext::default();
            let write = Write { now, resource: &namespaces, context: &context };
            server.shared.with(|state| {
                if state.find(&Key::new(namespaces.kind.id.clone(), "", name)).is_none() {
                    state.create(write, "", body).expect("the namespace is well formed");
                }
            });
        }
        server
    }

    /// Gives Services addresses of `a.b.0.0/16` from now on, instead of loopback addresses.
    pub fn use_service_network(&self, network: [u8; 2]) {
        self.shared.with(|state| state.move_services_to(network));
    }

    /// Everything as readers see it at one moment, for a copy.
    pub fn kept(&self) -> Kept {
        self.shared.with(|state| state.kept())
    }

    /// This server as the port that controllers use.
    pub fn store(self: &Arc<Self>) -> Arc<dyn Store> {
        self.clone()
    }

    /// Every kind it knows and what it does with it, ordered by group and kind.
    pub fn kinds(&self) -> Vec<(Kind, Service)> {
        self.shared.with(|state| {
            let known = state.shown_registry().iter();
            known.map(|known| (known.kind.clone(), known.service)).collect()
        })
    }

    /// Revision of the whole store.
    pub fn revision(&self) -> Revision {
        self.shared.with(|state| state.shown).into()
    }

    /// Every kind with all that is known of it, ordered by group and kind.
    pub(crate) fn resources(&self) -> Vec<Arc<Resource>> {
        self.shared.with(|state| state.shown_registry().iter().cloned().collect())
    }

    /// The kind behind a URL.
    pub(crate) fn resource_at(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Option<Arc<Resource>> {
        self.shared.with(|state| state.shown_registry().by_url(group, version, plural).cloned())
    }

    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// The kind of a key, unless its objects are refused.
    pub(crate) fn resource(&self, key: &Key) -> Result<Arc<Resource>, ApiError> {
        let found = self.shared.with(|state| state.shown_registry().get(&key.kind).cloned());
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
            .with(|state| state.find_shown(key).cloned())
            .ok_or_else(|| ApiError::not_found(resource.group(), resource.plural(), &key.name))
    }

    pub(crate) fn list_now(&self, query: &ListQuery) -> Result<Listed, ApiError> {
        self.resource(&Key::new(query.kind.clone(), "", ""))?;
        Ok(self.shared.with(|state| {
            let namespace = query.namespace.as_deref();
            let found = state.shown_objects(&query.kind, namespace);
            let items = found.filter(|obj| query.matches(obj)).cloned().collect();
            Listed { items, revision: state.shown.into() }
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
            let revision = state.shown;
            let Some(since) = since else {
                let namespace = query.namespace.as_deref();
                let found = state.shown_objects(kind, namespace);
                let initial: Vec<Arc<Obj>> =
                    found.filter(|obj| query.matches(obj)).cloned().collect();
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

    /// Changes the state. Whatever the answer, it is based on all changes so far, so it waits
    /// until they are safe; without a journal it does not wait at all.
    async fn write<R>(
        &self,
        work: impl FnOnce(&mut State) -> Result<R, ApiError>,
    ) -> Result<R, ApiError> {
        let (answer, receipt) = self.begin(work);
        receipt.settled().await?;
        answer
    }

    /// The same, to be waited for later.
    fn begin<R>(
        &self,
        work: impl FnOnce(&mut State) -> Result<R, ApiError>,
    ) -> (Result<R, ApiError>, Receipt) {
        self.shared.with(|state| {
            let answer = state.check_room().and_then(|()| work(state));
            (answer, state.receipt())
        })
    }

    /// Creates an object of a kind; its name may still be left to the server.
    pub(crate) async fn create_body(
        &self,
        resource: &Resource,
        namespace: &str,
        body: Value,
        context: &WriteContext,
    ) -> Result<Written, ApiError> {
        let write = Write { now: self.now(), resource, context };
        self.write(|state| state.create(write, namespace, body)).await
    }

    /// Server-side apply; also says whether the object is new.
    pub(crate) async fn apply_body(
        &self,
        key: &Key,
        body: Value,
        force: bool,
        context: &WriteContext,
    ) -> Result<(Written, bool), ApiError> {
        let resource = self.resource(key)?;
        let write = Write { now: self.now(), resource: &resource, context };
        let apply = |state: &mut State| {
            let is_new = state.find(key).is_none();
            Ok((state.apply(write, key, body, force)?, is_new))
        };
        self.write(apply).await
    }

    pub(crate) async fn patch_object(
        &self,
        key: &Key,
        patch: &Patch,
        context: &WriteContext,
    ) -> Result<Written, ApiError> {
        let resource = self.resource(key)?;
        let write = Write { now: self.now(), resource: &resource, context };
        self.write(|state| state.patch(write, key, patch)).await
    }

    pub(crate) async fn delete_object(
        &self,
        key: &Key,
        request: &DeleteRequest,
    ) -> Result<Deleted, ApiError> {
        let (answer, receipt) = self.begin_delete(key, request)?;
        receipt.settled().await?;
        answer
    }

    /// A deletion, to be waited for later: many together take one turn of the journal.
    pub(crate) fn begin_delete(
        &self,
        key: &Key,
        request: &DeleteRequest,
    ) -> Result<(Result<Deleted, ApiError>, Receipt), ApiError> {
        let resource = self.resource(key)?;
        let now = self.now();
        Ok(self.begin(|state| state.delete(now, &resource, key, request)))
    }

    pub(crate) async fn post_body(
        &self,
        key: &Key,
        subresource: Subresource,
        body: &Value,
        context: &WriteContext,
    ) -> Result<(), ApiError> {
        let resource = self.resource(key)?;
        let write = Write { now: self.now(), resource: &resource, context };
        self.write(|state| state.post(write, key, subresource, body)).await
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
            let key = obj.key();
            let refused = |error: ApiError| error.to_store_error(key);
            let resource = self.resource(key).map_err(refused)?;
            let (body, context) = (obj.json().clone(), inside(options));
            let written = self.create_body(&resource, obj.namespace(), body, &context).await;
            Ok(settled(key, written.map_err(refused)?))
        })
    }

    fn patch<'a>(
        &'a self,
        key: &'a Key,
        patch: &'a Patch,
        options: &'a WriteOptions,
    ) -> BoxFuture<'a, Result<Arc<Obj>, StoreError>> {
        Box::pin(async move {
            let written = self.patch_object(key, patch, &inside(options)).await;
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
            let deleted = self.delete_object(key, &request).await;
            deleted.map(drop).map_err(|error| error.to_store_error(key))
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
            let posted = self.post_body(key, subresource, body, &context).await;
            posted.map_err(|error| error.to_store_error(key))
        })
    }
}
