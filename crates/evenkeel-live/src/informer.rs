//! A watch that never ends: it resumes where it was, lists again when the server has forgotten
//! that place, and then tells what changed or vanished meanwhile.

use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use evenkeel_api::{GroupKind, Key, Obj, Revision};
use evenkeel_control::{ListQuery, StoreError, Watch, WatchEvent};
use futures::{Stream, StreamExt as _, stream};
use http::Request;
use kube::core::WatchEvent as KubeEvent;
use serde_json::Value;

use crate::store::{KubeStore, object, push_selectors, translate};

/// The server ends a watch after this long; client-go asks for 5 to 10 minutes.
const WATCH_SECONDS: u32 = 290;
/// First pause after a failure; doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(200);
/// Longest pause between attempts.
const PAUSE_MAX: Duration = Duration::from_secs(15);

type Events = Pin<Box<dyn Stream<Item = Result<KubeEvent<Value>, kube::Error>> + Send>>;
type Page = (Vec<Arc<Obj>>, Revision, Option<String>);

/// Takes a list answer apart: items, revision, continue token.
pub(crate) fn split_page(mut page: Value, kind: &GroupKind) -> Result<Page, StoreError> {
    let text = |value: &Value, path: &str| {
        value.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let api_version = text(&page, "/apiVersion");
    let revision = Revision(text(&page, "/metadata/resourceVersion").into());
    let next = Some(text(&page, "/metadata/continue")).filter(|token| !token.is_empty());
    let items = match page.get_mut("items").map(Value::take) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    };
    let items: Result<Vec<_>, _> = items
        .into_iter()
        .map(|item| object(item, &kind.kind, &api_version).map(Arc::new))
        .collect();
    Ok((items?, revision, next))
}

struct Informer {
    store: KubeStore,
    query: ListQuery,
    known: BTreeMap<Key, Arc<Obj>>,
    revision: Option<Revision>,
    events: Option<Events>,
    ready: VecDeque<Result<WatchEvent, StoreError>>,
    pause: Duration,
    synced: bool,
}

/// See the module.
pub(crate) fn watch(store: KubeStore, query: ListQuery) -> Watch {
    let informer = Informer {
        store,
        query,
        known: BTreeMap::new(),
        revision: None,
        events: None,
        ready: VecDeque::new(),
        pause: Duration::ZERO,
        synced: false,
    };
    stream::unfold(informer, |mut informer| async move {
        let event = informer.next().await;
        Some((event, informer))
    })
    .boxed()
}

impl Informer {
    async fn next(&mut self) -> Result<WatchEvent, StoreError> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return event;
            }
            if let Err(error) = self.step().await {
                self.events = None;
                let doubled = self.pause.saturating_mul(2);
                self.pause = doubled.clamp(PAUSE_MIN, PAUSE_MAX);
                if matches!(error, StoreError::Conflict { .. }) {
                    // 410 Gone: nothing is wrong, the server has just forgotten our place.
                    self.revision = None;
                    continue;
                }
                tokio::time::sleep(self.pause).await;
                return Err(error);
            }
        }
    }

    async fn step(&mut self) -> Result<(), StoreError> {
        let Some(revision) = self.revision.clone() else { return self.list().await };
        if self.events.is_none() {
            self.events = Some(open(&self.store, &self.query, &revision).await?);
        }
        let Some(events) = self.events.as_mut() else { return Ok(()) };
        match events.next().await {
            None => self.events = None,
            Some(Err(error)) => return Err(translate(&self.query.kind.to_string(), &error)),
            Some(Ok(event)) => {
                self.pause = Duration::ZERO;
                self.take(event)?;
            }
        }
        Ok(())
    }

    async fn list(&mut self) -> Result<(), StoreError> {
        let mut fresh = BTreeMap::new();
        let mut from: Option<String> = None;
        let revision = loop {
            let page = self.store.list_page(&self.query, from.as_deref()).await?;
            let (items, revision, next) = split_page(page, &self.query.kind)?;
            fresh.extend(items.into_iter().map(|obj| (obj.key().clone(), obj)));
            match next {
                Some(next) => from = Some(next),
                None => break revision,
            }
        };
        for (key, obj) in &fresh {
            let same = self.known.get(key).is_some_and(|old| old.revision() == obj.revision());
            if !same {
                self.ready.push_back(Ok(WatchEvent::Applied(obj.clone())));
            }
        }
        for (key, old) in &self.known {
            if fresh.get(key).is_none_or(|new| new.uid() != old.uid()) {
                // A namesake with another uid: the old one went first.
                self.ready.push_front(Ok(WatchEvent::Deleted(old.clone())));
            }
        }
        if !self.synced {
            self.synced = true;
            self.ready.push_back(Ok(WatchEvent::Synced));
        }
        self.known = fresh;
        self.revision = Some(revision);
        Ok(())
    }

    fn take(&mut self, event: KubeEvent<Value>) -> Result<(), StoreError> {
        match event {
            KubeEvent::Added(body) | KubeEvent::Modified(body) => {
                let obj = Arc::new(Obj::from_json(body)?);
                self.revision = Some(obj.revision());
                self.known.insert(obj.key().clone(), obj.clone());
                self.ready.push_back(Ok(WatchEvent::Applied(obj)));
            }
            KubeEvent::Deleted(body) => {
                let obj = Arc::new(Obj::from_json(body)?);
                self.revision = Some(obj.revision());
                self.known.remove(obj.key());
                self.ready.push_back(Ok(WatchEvent::Deleted(obj)));
            }
            KubeEvent::Bookmark(bookmark) => {
                self.revision = Some(Revision(bookmark.metadata.resource_version.into()));
            }
            KubeEvent::Error(status) => {
                let error = kube::Error::Api(status);
                return Err(translate(&self.query.kind.to_string(), &error));
            }
        }
        Ok(())
    }
}

async fn open(
    store: &KubeStore,
    query: &ListQuery,
    revision: &Revision,
) -> Result<Events, StoreError> {
    let kind = query.kind.to_string();
    let route = store.route(&kind, query).await?;
    let mut path = format!(
        "{}?watch=true&allowWatchBookmarks=true&timeoutSeconds={WATCH_SECONDS}\
         &resourceVersion={revision}",
        route.path(query.namespace.as_deref(), None),
    );
    push_selectors(&mut path, query);
    let request = Request::get(&path).body(Vec::new()).map_err(|error| StoreError::Invalid {
        object: kind.clone(),
        problem: error.to_string(),
    })?;
    let events = store.client.request_events::<Value>(request).await;
    Ok(events.map_err(|error| translate(&kind, &error))?.boxed())
}
