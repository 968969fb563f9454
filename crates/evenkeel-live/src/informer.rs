//! A watch that never ends: it resumes where it was, lists again when the server has forgotten
//! that place or has ended a watch before it told anything, and then tells what changed or
//! vanished meanwhile.
//!
//! It is not kube-runtime's watcher. That one is generic over kinds (each compiles its own copy),
//! has no limit on a request that gets no answer, pauses by a back-off that any event resets, and
//! keeps its store apart from its stream; here the answers of writes go into the same store.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use evenkeel_api::{GroupKind, Obj, ObjError, Revision};
use evenkeel_control::{ListQuery, StoreError, Watch, WatchEvent};
use futures::{StreamExt as _, stream};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    answer::Failure,
    client::Generation,
    counts::Tally,
    fits,
    kinds::Route,
    lines::Lines,
    packed::{Packed, Recent},
    settings::LiveSettings,
    shelf::{Shelf, Update},
    store::{KubeStore, Refused, object},
};

/// A server may ask for a pause; not for one longer than this.
const RETRY_AFTER_MAX: Duration = Duration::from_mins(1);

/// What `kubectl apply` last applied, content included.
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// How much of each object is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Detail {
    Whole,
    /// Name, labels, annotations, owners; no content.
    Metadata,
}

impl Detail {
    pub(crate) fn accept(self, is_list: bool) -> &'static str {
        match (self, is_list) {
            (Self::Whole, _) => "application/json",
            (Self::Metadata, true) => {
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json"
            }
            (Self::Metadata, false) => {
                "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1,application/json"
            }
        }
    }

    /// Reads an object; of one that came whole although only metadata was asked for, no more than
    /// that is kept.
    fn read(self, mut body: Value, kind: &GroupKind, route: &Route) -> Result<Obj, ObjError> {
        self.strip(&mut body);
        object(body, kind, route)
    }

    /// Reads one object of many. One that cannot be read must not hold up all others; it is said in
    /// the log.
    pub(crate) fn read_or_pass_over(
        self,
        body: Value,
        kind: &GroupKind,
        route: &Route,
    ) -> Option<Obj> {
        let read = self.read(body, kind, route);
        read.inspect_err(|error| tracing::error!(%error, "skipping an unreadable object")).ok()
    }

    /// So much of an object that is known whole.
    pub(crate) fn cut(self, obj: &Obj) -> Result<Obj, ObjError> {
        let mut body = obj.json().clone();
        self.strip(&mut body);
        Obj::from_json(body)
    }

    fn strip(self, body: &mut Value) {
        let keeps = |field: &str| matches!(field, "apiVersion" | "kind" | "metadata");
        if let (Self::Metadata, Some(fields)) = (self, body.as_object_mut()) {
            fields.retain(|field, _| keeps(field));
            // kubectl apply keeps a copy of the whole object in an annotation.
            if let Some(annotations) = body.pointer_mut("/metadata/annotations") {
                annotations.as_object_mut().map(|all| all.shift_remove(LAST_APPLIED));
            }
        }
    }
}

/// What a server says about the objects of one query.
#[derive(Debug)]
pub(crate) enum Change {
    /// All of them, at this revision.
    Listed(Vec<Arc<Packed>>, Revision),
    /// One is there, new or changed.
    Applied(Arc<Packed>),
    /// One is gone; its last state.
    Deleted(Arc<Packed>),
    /// Nothing has changed until this revision.
    At(Revision),
    /// The watch is open: the server is alive.
    Open,
}

/// Follows one query forever.
pub(crate) struct Informer {
    store: KubeStore,
    query: ListQuery,
    detail: Detail,
    revision: Option<Revision>,
    open: Option<Open>,
    pauses: Pauses,
    /// Its watches are no use: the next attempt, a list and a watch, waits for its turn.
    awaits_turn: bool,
}

struct Open {
    lines: Lines,
    generation: Generation,
    route: Route,
    since: Instant,
    /// Whether it has sent anything.
    has_sent: bool,
}

impl Informer {
    pub(crate) fn new(store: KubeStore, query: ListQuery, detail: Detail) -> Self {
        let pauses = Pauses::default();
        Self { store, query, detail, revision: None, open: None, pauses, awaits_turn: false }
    }

    /// The next change. After an error the next call pauses first, then goes on. Not cancel-safe: a
    /// call that is dropped while it pauses does not pause again.
    pub(crate) async fn next(&mut self) -> Result<Change, StoreError> {
        loop {
            if self.open.is_none() {
                tokio::time::sleep(self.pauses.take()).await;
                if std::mem::take(&mut self.awaits_turn) {
                    self.store.client.relists.turn().await;
                }
            }
            match self.step().await {
                Ok(Some(change)) => return Ok(change),
                Ok(None) => {
                    if self.ended(None) {
                        return Err(self.useless());
                    }
                }
                Err(refused) => {
                    let will_list = self.ended(Some(&refused));
                    if !refused.is_gone {
                        return Err(refused.error);
                    }
                    // Nothing is wrong, the server has just forgotten our place.
                    if !will_list {
                        self.list_again();
                    }
                }
            }
        }
    }

    /// Decides how long to pause before the next attempt. Whether a watch was open, ended early and
    /// told nothing: then the next attempt is a list, or nobody would hear of changes while a proxy
    /// ends each watch at once. **Source**: client-go's reflector ("very short watch").
    fn ended(&mut self, refused: Option<&Refused>) -> bool {
        let settings = &self.store.client.settings;
        let open = self.open.take();
        let lived = open.as_ref().map_or(Duration::ZERO, |open| open.since.elapsed());
        let is_useless = open.is_some_and(|open| !open.has_sent) && lived < settings.settled;
        // Once is an accident: nobody waits for others because of it.
        self.awaits_turn = is_useless && self.pauses.are_growing();
        self.pauses.failed(settings, lived, refused);
        if is_useless {
            self.list_again();
        }
        is_useless
    }

    fn list_again(&mut self) {
        self.revision = None;
        self.store.client.counts.tally(Tally::WatchRelisted);
    }

    fn useless(&self) -> StoreError {
        StoreError::Unreachable {
            object: self.query.kind.to_string(),
            problem: "the watch ended at once and told nothing; listing again".to_owned(),
        }
    }

    /// One change; `None` when the server has ended the watch.
    async fn step(&mut self) -> Result<Option<Change>, Refused> {
        let Some(revision) = self.revision.clone() else { return self.list().await.map(Some) };
        let kind = self.query.kind.to_string();
        let Some(open) = self.open.as_mut() else {
            return self.watch(&revision).await.map(Some);
        };
        let line = match open.lines.next().await {
            Ok(line) => line,
            Err(failure) => {
                if matches!(failure, Failure::Silent(_)) {
                    self.store.client.reset(open.generation);
                }
                return Err(Refused::of(failure, &kind));
            }
        };
        let Some(line) = line else { return Ok(None) };
        let change = read(line, self.detail, &self.query.kind, &open.route)?;
        open.has_sent = true;
        self.revision = Some(match &change {
            Change::Applied(obj) | Change::Deleted(obj) => Revision(obj.revision().into()),
            Change::At(revision) | Change::Listed(_, revision) => revision.clone(),
            Change::Open => revision,
        });
        Ok(Some(change))
    }

    async fn watch(&mut self, revision: &Revision) -> Result<Change, Refused> {
        let settings = self.store.client.settings.clone();
        let opened = self.store.open_watch(&self.query, self.detail, revision).await?;
        let (body, generation, route) = opened;
        let lines = Lines::new(body, settings.watch + settings.watch_grace);
        self.store.client.counts.tally(Tally::WatchOpened);
        let since = Instant::now();
        self.open = Some(Open { lines, generation, route, since, has_sent: false });
        Ok(Change::Open)
    }

    async fn list(&mut self) -> Result<Change, Refused> {
        let mut all = Vec::new();
        let mut from: Option<String> = None;
        loop {
            let keep = |obj: Obj| all.push(Packed::of(&obj, &self.query.kind));
            let page = self.store.list_page(&self.query, self.detail, from.as_deref(), keep);
            let page = page.await?;
            from = page.next;
            if from.is_none() {
                self.revision = Some(page.revision.clone());
                return Ok(Change::Listed(all, page.revision));
            }
        }
    }
}

/// Takes one event apart.
fn read(
    mut event: Value,
    detail: Detail,
    kind: &GroupKind,
    route: &Route,
) -> Result<Change, Refused> {
    let body = event.get_mut("object").map(Value::take).unwrap_or_default();
    let odd = |problem: String| Refused::of(Failure::Broken(problem), &kind.to_string());
    let revision = body.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let revision = revision.map(|revision| Revision(revision.into()));
    let at = || {
        let revision = revision.ok_or_else(|| odd("an event has no resourceVersion".to_owned()));
        revision.map(Change::At)
    };
    match event.get("type").and_then(Value::as_str).unwrap_or_default() {
        kind_of_event @ ("ADDED" | "MODIFIED" | "DELETED") => {
            fits::is_of(&body, kind).and_then(|()| fits::has_revision(&body)).map_err(odd)?;
            let Some(obj) = detail.read_or_pass_over(body, kind, route) else { return at() };
            let (is_gone, obj) = (kind_of_event == "DELETED", Packed::of(&obj, kind));
            Ok(if is_gone { Change::Deleted(obj) } else { Change::Applied(obj) })
        }
        "BOOKMARK" => at(),
        "ERROR" => Err(Refused::of(Failure::event(&body), &kind.to_string())),
        other => Err(odd(format!("an event is of the unknown type {other:?}"))),
    }
}

/// How long to wait between attempts: longer and longer, until a watch has lived for a while. That
/// a watch was opened, or that an event came, proves nothing: a server, or a proxy before it, may
/// end each one at once.
#[derive(Debug, Default)]
struct Pauses {
    last: Duration,
    next: Duration,
}

impl Pauses {
    /// The pause before this attempt.
    fn take(&mut self) -> Duration {
        std::mem::take(&mut self.next)
    }

    /// Whether the attempt before failed too.
    fn are_growing(&self) -> bool {
        !self.last.is_zero()
    }

    fn failed(&mut self, settings: &LiveSettings, lived: Duration, refused: Option<&Refused>) {
        if lived >= settings.settled {
            (self.last, self.next) = (Duration::ZERO, Duration::ZERO);
            return;
        }
        let is_refusal = refused.is_some_and(|refused| refused.is_refusal);
        let max = if is_refusal { settings.pause_refused_max } else { settings.pause_max };
        self.last = (self.last * 2).clamp(settings.pause_min, max);
        let asked = refused.and_then(|refused| refused.retry_after).unwrap_or_default();
        self.next = self.last.max(asked.min(RETRY_AFTER_MAX));
    }
}

/// A watch of its own, shared with nobody.
pub(crate) fn watch(store: KubeStore, query: ListQuery) -> Watch {
    struct Alone {
        informer: Informer,
        shelf: Shelf,
        recent: Recent,
        ready: VecDeque<WatchEvent>,
    }
    let shelf = Shelf::new(query.clone());
    let informer = Informer::new(store, query, Detail::Whole);
    let alone = Alone { informer, shelf, recent: Recent::default(), ready: VecDeque::new() };
    stream::unfold(alone, |mut alone| async move {
        loop {
            if let Some(event) = alone.ready.pop_front() {
                return Some((Ok(event), alone));
            }
            let change = match alone.informer.next().await {
                Ok(change) => change,
                Err(error) => return Some((Err(error), alone)),
            };
            let is_first_list = matches!(change, Change::Listed(..)) && !alone.shelf.is_synced();
            let told = alone.shelf.take(change).into_iter().map(|told| match told {
                Update::Applied { new, .. } => WatchEvent::Applied(alone.recent.open(&new)),
                Update::Deleted(old) => WatchEvent::Deleted(alone.recent.open(&old)),
            });
            alone.ready.extend(told);
            if is_first_list {
                alone.ready.push_back(WatchEvent::Synced);
            }
        }
    })
    .boxed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_until_a_watch_has_lived_for_a_while() {
        let settings = LiveSettings::default();
        let mut pauses = Pauses::default();
        let mut ended_after = |lived: u64| {
            pauses.failed(&settings, Duration::from_secs(lived), None);
            pauses.take().as_millis()
        };
        let early: Vec<_> = [0, 1, 0, 9, 0, 0, 0, 0, 0].map(&mut ended_after).into();
        assert_eq!(early, [200, 400, 800, 1600, 3200, 6400, 12800, 15000, 15000]);
        assert_eq!([50, 0, 0].map(&mut ended_after), [0, 200, 400]);
    }

    #[test]
    fn a_refusal_is_asked_about_less_often_and_a_busy_server_is_heard() {
        let settings = LiveSettings::default();
        let refused = |is_refusal, seconds| Refused {
            error: StoreError::Refused { object: String::new(), problem: String::new() },
            is_gone: false,
            is_refusal,
            retry_after: Some(Duration::from_secs(seconds)),
        };
        let mut pauses = Pauses::default();
        for _ in 0..20 {
            pauses.failed(&settings, Duration::ZERO, Some(&refused(true, 0)));
        }
        assert_eq!(pauses.take(), settings.pause_refused_max);
        let mut pauses = Pauses::default();
        for (asked, waits) in [(7, 7), (3600, 60)] {
            pauses.failed(&settings, Duration::ZERO, Some(&refused(false, asked)));
            assert_eq!(pauses.take(), Duration::from_secs(waits));
        }
    }

    #[test]
    fn an_object_that_came_whole_is_cut_down_to_its_metadata() {
        let route =
            Route { api_version: "v1".to_owned(), plural: "secrets".to_owned(), namespaced: true };
        let body = serde_json::json!({"kind": "Secret", "apiVersion": "v1",
            "metadata": {"name": "a", "managedFields": [],
                "annotations": {LAST_APPLIED: "{\"data\": {\"password\": \"eA==\"}}"}},
            "data": {"password": "eA=="}});
        let kind = GroupKind::new("", "Secret");
        let read = |detail: Detail| detail.read(body.clone(), &kind, &route).unwrap();
        let cut = read(Detail::Metadata);
        assert_eq!(cut.json().to_string().find("password"), None);
        assert_eq!((cut.name(), &*cut.key().kind.kind), ("a", "Secret"));
        assert!(read(Detail::Whole).json().to_string().contains("password"));
    }
}
