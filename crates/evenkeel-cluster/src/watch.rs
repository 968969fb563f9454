use std::{
    collections::{BTreeMap, VecDeque},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use evenkeel_api::{GroupKind, Obj};
use evenkeel_control::{ListQuery, StoreError, WatchEvent};
use futures::Stream;

use crate::state::{Change, Forgotten, Name, Shared, State, name_of};

/// A reader of one kind's changes. Holds a number, not a queue: a slow reader costs nothing.
pub(crate) struct Cursor {
    shared: Arc<Shared>,
    kind: GroupKind,
    watcher: u64,
    position: u64,
}

/// A watch that begins.
pub(crate) struct Opened {
    pub(crate) cursor: Cursor,
    /// What is there already, for a watcher that has seen nothing.
    pub(crate) initial: Vec<Arc<Obj>>,
    /// The store's revision at that moment.
    pub(crate) revision: u64,
}

impl Cursor {
    /// A cursor behind the present state. Call while the lock is held.
    pub(crate) fn now(shared: &Arc<Shared>, state: &mut State, kind: &GroupKind) -> Self {
        let watcher = state.new_watcher();
        let position = state.position_now(kind);
        Self { shared: shared.clone(), kind: kind.clone(), watcher, position }
    }

    /// A cursor behind `revision`; `None` when that is too long ago.
    pub(crate) fn after(
        shared: &Arc<Shared>,
        state: &mut State,
        kind: &GroupKind,
        revision: u64,
    ) -> Option<Self> {
        let watcher = state.new_watcher();
        let position = state.position_after(kind, revision)?;
        Some(Self { shared: shared.clone(), kind: kind.clone(), watcher, position })
    }

    /// The next change, and the store's revision when there is none.
    pub(crate) fn poll_change(&mut self, cx: &mut Context<'_>) -> Poll<Result<Change, Forgotten>> {
        let (watcher, position) = (self.watcher, self.position);
        let found = self.shared.with(|state| {
            let shown = state.shown;
            let table = state.table_mut(&self.kind);
            match table.change_at(position, shown) {
                Ok(Some(change)) => Some(Ok(change.clone())),
                Ok(None) => {
                    table.wait(watcher, cx.waker());
                    None
                }
                Err(forgotten) => Some(Err(forgotten)),
            }
        });
        match found {
            None => Poll::Pending,
            Some(found) => {
                self.position += 1;
                Poll::Ready(found)
            }
        }
    }
}

impl Cursor {
    /// The store's revision, if this reader has seen every change up to it.
    pub(crate) fn caught_up(&self) -> Option<u64> {
        self.shared
            .with(|state| (state.position_now(&self.kind) == self.position).then_some(state.shown))
    }
}

impl Drop for Cursor {
    fn drop(&mut self) {
        let watcher = self.watcher;
        self.shared.with(|state| state.table_mut(&self.kind).leave(watcher));
    }
}

/// What [`evenkeel_control::Store::watch`] returns: never ends, lists again by itself.
pub(crate) struct Feed {
    shared: Arc<Shared>,
    query: ListQuery,
    cursor: Option<Cursor>,
    /// What the reader has been sent, to report what vanished in a gap.
    known: BTreeMap<Name, Arc<Obj>>,
    pending: VecDeque<WatchEvent>,
    synced: bool,
}

impl Feed {
    pub(crate) fn new(shared: Arc<Shared>, query: ListQuery) -> Self {
        Self {
            shared,
            query,
            cursor: None,
            known: BTreeMap::new(),
            pending: VecDeque::new(),
            synced: false,
        }
    }

    /// Compares what is there with what the reader knows, and continues from here.
    fn relist(&mut self) -> Cursor {
        let (query, shared) = (&self.query, &self.shared);
        let (found, cursor) = shared.with(|state| {
            let namespace = query.namespace.as_deref();
            let found: BTreeMap<Name, Arc<Obj>> = state
                .shown_objects(&query.kind, namespace)
                .filter(|obj| query.matches(obj))
                .map(|obj| (name_of(obj.key()), obj.clone()))
                .collect();
            (found, Cursor::now(shared, state, &query.kind))
        });
        let gone = |(key, last): (&Name, &Arc<Obj>)| {
            (!found.contains_key(key)).then(|| WatchEvent::Deleted(last.clone()))
        };
        self.pending.extend(self.known.iter().filter_map(gone));
        let fresh = |(key, obj): (&Name, &Arc<Obj>)| {
            let same = self.known.get(key).is_some_and(|old| old.revision() == obj.revision());
            (!same).then(|| WatchEvent::Applied(obj.clone()))
        };
        self.pending.extend(found.iter().filter_map(fresh));
        self.known = found;
        if !self.synced {
            self.synced = true;
            self.pending.push_back(WatchEvent::Synced);
        }
        cursor
    }

    fn event_of(&mut self, change: &Change) -> Option<WatchEvent> {
        let key = name_of(change.obj.key());
        if !change.removed && self.query.matches(&change.obj) {
            self.known.insert(key, change.obj.clone());
            return Some(WatchEvent::Applied(change.obj.clone()));
        }
        self.known.remove(&key)?;
        Some(WatchEvent::Deleted(change.obj.clone()))
    }
}

impl Stream for Feed {
    type Item = Result<WatchEvent, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.pending.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            let Some(cursor) = self.cursor.as_mut() else {
                let cursor = self.relist();
                self.cursor = Some(cursor);
                continue;
            };
            match cursor.poll_change(cx) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(Err(Forgotten)) => self.cursor = None,
                Poll::Ready(Ok(change)) => {
                    if let Some(event) = self.event_of(&change) {
                        return Poll::Ready(Some(Ok(event)));
                    }
                }
            }
        }
    }
}

/// Follows the objects of every kind, also of kinds that are defined later.
pub(crate) struct EveryFeed {
    shared: Arc<Shared>,
    query: ListQuery,
    watcher: u64,
    feeds: BTreeMap<GroupKind, Feed>,
    synced: bool,
}

impl EveryFeed {
    pub(crate) fn new(shared: Arc<Shared>, query: ListQuery) -> Self {
        let watcher = shared.with(State::new_watcher);
        Self { shared, query, watcher, feeds: BTreeMap::new(), synced: false }
    }

    /// Follows the kinds that have come into use.
    fn follow_new(&mut self) {
        for kind in self.shared.with(|state| state.kinds_in_use()) {
            self.feeds.entry(kind).or_insert_with_key(|kind| {
                let query = ListQuery { kind: kind.clone(), ..self.query.clone() };
                Feed::new(self.shared.clone(), query)
            });
        }
    }
}

impl Stream for EveryFeed {
    type Item = Result<WatchEvent, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let watcher = self.watcher;
        // First, so that a kind that comes into use meanwhile wakes again.
        self.shared.with(|state| state.wait_for_kinds(watcher, cx.waker()));
        self.follow_new();
        for feed in self.feeds.values_mut() {
            loop {
                match Pin::new(&mut *feed).poll_next(cx) {
                    // Sent once, for all kinds together.
                    Poll::Ready(Some(Ok(WatchEvent::Synced))) => {}
                    Poll::Ready(event) => return Poll::Ready(event),
                    Poll::Pending => break,
                }
            }
        }
        if !self.synced {
            self.synced = true;
            return Poll::Ready(Some(Ok(WatchEvent::Synced)));
        }
        Poll::Pending
    }
}

impl Drop for EveryFeed {
    fn drop(&mut self) {
        let watcher = self.watcher;
        self.shared.with(|state| state.leave_kinds(watcher));
    }
}
