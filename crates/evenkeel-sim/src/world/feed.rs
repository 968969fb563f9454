//! One watch through a store that misbehaves.
//!
//! What a real API server and its client do: a connection may be late, repeat an event, end,
//! or fall mute. It is then opened anew, and what happened meanwhile is sent as the difference
//! between what was sent and what is: steps in between are lost, outcomes never.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{ListQuery, Store, StoreError, Watch, WatchEvent};
use futures::{
    FutureExt as _, StreamExt as _, future::BoxFuture, stream, stream::FuturesUnordered,
};

use super::{
    menu::{Shared, unreadable, wait},
    time::locked,
};

/// After this long an event is sent again.
const AGAIN_AFTER: Duration = Duration::from_secs(10);
/// How long a watch is mute until its client opens it anew.
const MUTE_FOR: Duration = Duration::from_secs(45);
/// Pause before a watch that is refused is asked for again.
const REFUSED_FOR: Duration = Duration::from_secs(5);

/// A watch, and what its reader knows from it.
pub(super) struct Feed {
    store: Arc<dyn Store>,
    shared: Arc<Mutex<Shared>>,
    query: ListQuery,
    /// `None` while it is refused.
    events: Option<Watch>,
    /// Events that come later.
    late: FuturesUnordered<BoxFuture<'static, WatchEvent>>,
    /// Events that come next.
    next: VecDeque<Result<WatchEvent, StoreError>>,
    told: BTreeMap<Key, Arc<Obj>>,
    /// What was sent before it fell mute, and has not been seen again since.
    before: Option<BTreeMap<Key, Arc<Obj>>>,
    is_synced: bool,
}

impl Feed {
    /// A watch of `store`.
    pub(super) fn open(
        store: Arc<dyn Store>,
        shared: Arc<Mutex<Shared>>,
        query: ListQuery,
    ) -> Watch {
        let mut feed = Self {
            store,
            shared,
            query,
            events: None,
            late: FuturesUnordered::new(),
            next: VecDeque::new(),
            told: BTreeMap::new(),
            before: None,
            is_synced: false,
        };
        if let Err(refused) = feed.connect() {
            feed.next.push_back(Err(refused));
        }
        let step = |feed: Option<Self>| async {
            let mut feed = feed?;
            let (event, goes_on) = feed.step().await?;
            Some((event, goes_on.then_some(feed)))
        };
        stream::unfold(Some(feed), step).boxed()
    }

    fn connect(&mut self) -> Result<(), StoreError> {
        {
            let mut shared = locked(&self.shared);
            shared.requests.watches += 1;
            if shared.menu.unreadable.contains(&self.query.kind) {
                return Err(unreadable(self.query.kind.to_string()));
            }
        }
        self.events = Some(self.store.watch(self.query.clone()));
        Ok(())
    }

    /// The next event, and whether more will come.
    async fn step(&mut self) -> Option<(Result<WatchEvent, StoreError>, bool)> {
        loop {
            if let Some(event) = self.next.pop_front() {
                return Some((event.map(|event| self.tell(event)), true));
            }
            if self.events.is_none() {
                tokio::time::sleep(REFUSED_FOR).await;
                if let Err(refused) = self.connect() {
                    return Some((Err(refused), true));
                }
            }
            let events = self.events.as_mut()?;
            let event = futures::select_biased! {
                event = self.late.select_next_some() => return Some((Ok(self.tell(event)), true)),
                event = events.next().fuse() => event?,
            };
            let Ok(event) = event else { return Some((event, true)) };
            let Some(event) = self.is_news(event) else { continue };
            if let Some(event) = self.pass_on(event).await {
                let ends = self.is_synced && locked(&self.shared).menu.watches_end;
                return Some((Ok(self.tell(event)), !ends));
            }
        }
    }

    /// The event as it comes now; `None` when it comes later or never.
    async fn pass_on(&mut self, event: WatchEvent) -> Option<WatchEvent> {
        let (silent, delay, again, dropped) = {
            let mut shared = locked(&self.shared);
            let (again, dropped) = (shared.menu.told_twice_pct, shared.menu.dropped_pct);
            let silent = shared.dead || shared.menu.silent;
            (silent, shared.delay(), shared.hits(again), shared.hits(dropped))
        };
        if dropped && self.is_synced {
            self.fall_mute().await;
            return None;
        }
        // What a silent connection did not bring comes with the next one.
        if silent || again {
            let (shared, event) = (self.shared.clone(), event.clone());
            self.late.push(
                async move {
                    tokio::time::sleep(AGAIN_AFTER).await;
                    while locked(&shared).menu.silent {
                        tokio::time::sleep(AGAIN_AFTER).await;
                    }
                    event
                }
                .boxed(),
            );
        }
        if silent {
            return None;
        }
        wait(delay).await;
        if matches!(event, WatchEvent::Synced) {
            self.is_synced = true;
        }
        Some(event)
    }

    /// Nothing comes for a while; then the client opens the watch anew.
    async fn fall_mute(&mut self) {
        self.events = None;
        self.late.clear();
        tokio::time::sleep(MUTE_FOR).await;
        self.is_synced = false;
        self.before = Some(std::mem::take(&mut self.told));
        // Should it be refused, it is asked for again.
        self.connect().unwrap_or_default();
    }

    /// The event of a reopened watch, if it has not been sent yet.
    fn is_news(&mut self, event: WatchEvent) -> Option<WatchEvent> {
        let Some(before) = &mut self.before else { return Some(event) };
        match event {
            WatchEvent::Applied(obj) => {
                let old = before.remove(obj.key());
                if old.is_some_and(|old| old.revision() == obj.revision()) {
                    self.told.insert(obj.key().clone(), obj);
                    return None;
                }
                Some(WatchEvent::Applied(obj))
            }
            WatchEvent::Deleted(obj) => {
                before.remove(obj.key());
                Some(WatchEvent::Deleted(obj))
            }
            WatchEvent::Synced => {
                let gone = self.before.take().into_iter().flat_map(BTreeMap::into_values);
                self.next.extend(gone.map(|obj| Ok(WatchEvent::Deleted(obj))));
                self.is_synced = true;
                None
            }
        }
    }

    /// Records what is sent to the reader.
    fn tell(&mut self, event: WatchEvent) -> WatchEvent {
        match &event {
            WatchEvent::Applied(obj) => drop(self.told.insert(obj.key().clone(), obj.clone())),
            WatchEvent::Deleted(obj) => drop(self.told.remove(obj.key())),
            WatchEvent::Synced => {}
        }
        event
    }
}
