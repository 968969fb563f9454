use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::Key;
use evenkeel_control::{ListQuery, StoreError, WatchEvent};
use tokio::sync::Notify;

use crate::{
    packed::{Packed, Recent},
    shelf::Update,
};

/// One watch of a controller: what it has yet to be told.
///
/// **Shape**: at most one deletion and one state per object, so that a reader that sleeps costs no
/// more than what it reads.
pub(super) struct Reader {
    query: ListQuery,
    recent: Arc<Recent>,
    pending: Mutex<Pending>,
    wake: Notify,
}

#[derive(Default)]
struct Pending {
    order: VecDeque<Item>,
    changes: BTreeMap<Key, Waiting>,
}

enum Item {
    Object(Key),
    Synced,
    Failed(StoreError),
}

/// News of one object: it went, and is there (again).
#[derive(Default)]
struct Waiting {
    deleted: Option<Arc<Packed>>,
    applied: Option<Arc<Packed>>,
}

/// A [`WatchEvent`], packed.
enum News {
    Applied(Arc<Packed>),
    Deleted(Arc<Packed>),
    Synced,
}

impl Reader {
    pub(super) fn new(query: ListQuery, recent: Arc<Recent>) -> Self {
        Self { query, recent, pending: Mutex::default(), wake: Notify::new() }
    }

    fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a change of the cache, as far as it is one for this reader.
    pub(super) fn tell(&self, told: &Update) {
        match told {
            Update::Applied { new, .. } if new.is_in(&self.query) => {
                self.put(new, |waiting| waiting.applied = Some(new.clone()));
            }
            // It does not fit any more: gone, as far as this reader knows.
            Update::Applied { old: Some(gone), .. } | Update::Deleted(gone)
                if gone.is_in(&self.query) =>
            {
                self.put(gone, |waiting| {
                    *waiting = Waiting { deleted: Some(gone.clone()), applied: None };
                });
            }
            Update::Applied { .. } | Update::Deleted(_) => {}
        }
    }

    fn put(&self, obj: &Packed, change: impl FnOnce(&mut Waiting)) {
        let mut guard = self.pending();
        let pending = &mut *guard;
        let waiting = pending.changes.entry(obj.key().clone()).or_insert_with(|| {
            pending.order.push_back(Item::Object(obj.key().clone()));
            Waiting::default()
        });
        change(waiting);
        drop(guard);
        self.wake.notify_one();
    }

    /// All that existed at the start has been told.
    pub(super) fn synced(&self) {
        self.pending().order.push_back(Item::Synced);
        self.wake.notify_one();
    }

    /// The watch does not get on, for now. Only the latest reason is kept.
    pub(super) fn failed(&self, error: StoreError) {
        let mut pending = self.pending();
        pending.order.retain(|item| !matches!(item, Item::Failed(_)));
        pending.order.push_back(Item::Failed(error));
        drop(pending);
        self.wake.notify_one();
    }

    pub(super) async fn next(&self) -> Result<WatchEvent, StoreError> {
        loop {
            // A wake-up that comes between the look and the wait is kept by the Notify.
            let news = self.pending().pop();
            if let Some(news) = news {
                return news.map(|news| self.opened(&news));
            }
            self.wake.notified().await;
        }
    }

    fn opened(&self, news: &News) -> WatchEvent {
        match news {
            News::Applied(obj) => WatchEvent::Applied(self.recent.open(obj)),
            News::Deleted(obj) => WatchEvent::Deleted(self.recent.open(obj)),
            News::Synced => WatchEvent::Synced,
        }
    }
}

impl Pending {
    fn pop(&mut self) -> Option<Result<News, StoreError>> {
        loop {
            let key = match self.order.pop_front()? {
                Item::Synced => return Some(Ok(News::Synced)),
                Item::Failed(error) => return Some(Err(error)),
                Item::Object(key) => key,
            };
            let Some(waiting) = self.changes.get_mut(&key) else { continue };
            if let Some(gone) = waiting.deleted.take() {
                if waiting.applied.is_some() {
                    self.order.push_front(Item::Object(key));
                } else {
                    self.changes.remove(&key);
                }
                return Some(Ok(News::Deleted(gone)));
            }
            let applied = self.changes.remove(&key).and_then(|waiting| waiting.applied);
            if let Some(obj) = applied {
                return Some(Ok(News::Applied(obj)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::{GroupKind, LabelSelector, Obj};
    use serde_json::json;

    use super::*;

    fn obj(name: &str, revision: u64, app: &str) -> Arc<Packed> {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name,
            "namespace": "x", "resourceVersion": revision.to_string(), "labels": {"app": app}}});
        Packed::of(&Obj::from_json(body).unwrap(), &GroupKind::new("", "Pod"))
    }

    fn applied(name: &str, revision: u64) -> Update {
        Update::Applied { old: None, new: obj(name, revision, "web") }
    }

    fn reader() -> Reader {
        let labels = LabelSelector::parse("app=web").unwrap();
        let pods = ListQuery::all(GroupKind::new("", "Pod"));
        Reader::new(pods.with_labels(labels), Arc::default())
    }

    fn drain(reader: &Reader) -> String {
        let mut all = Vec::new();
        while let Some(event) = reader.pending().pop() {
            all.push(match event {
                Ok(News::Applied(obj)) => format!("+{}@{}", obj.key().name, obj.revision()),
                Ok(News::Deleted(obj)) => format!("-{}@{}", obj.key().name, obj.revision()),
                Ok(News::Synced) => "synced".to_owned(),
                Err(error) => error.to_string(),
            });
        }
        all.join(" ")
    }

    #[test]
    fn a_slow_reader_sees_the_latest_state_of_each_object() {
        let reader = reader();
        for told in [applied("a", 1), applied("b", 2), applied("a", 3)] {
            reader.tell(&told);
        }
        reader.synced();
        reader.tell(&applied("a", 4));
        assert_eq!(drain(&reader), "+a@4 +b@2 synced");
        reader.tell(&applied("a", 5));
        reader.tell(&Update::Deleted(obj("a", 6, "web")));
        assert_eq!(drain(&reader), "-a@6");
        reader.tell(&Update::Deleted(obj("a", 6, "web")));
        reader.tell(&applied("a", 8));
        reader.tell(&applied("a", 9));
        assert_eq!(drain(&reader), "-a@6 +a@9");
        assert!(reader.pending().changes.is_empty());
    }

    #[test]
    fn what_no_longer_fits_is_gone_and_what_never_did_is_not_told() {
        let reader = reader();
        let relabelled = Update::Applied { old: Some(obj("a", 1, "web")), new: obj("a", 2, "old") };
        reader.tell(&relabelled);
        reader.tell(&Update::Applied { old: Some(obj("b", 1, "old")), new: obj("b", 2, "old") });
        reader.tell(&Update::Deleted(obj("c", 1, "old")));
        assert_eq!(drain(&reader), "-a@1");
    }

    #[test]
    fn only_the_latest_failure_is_kept() {
        let reader = reader();
        for problem in ["one", "two"] {
            let (object, problem) = ("Pod".to_owned(), problem.to_owned());
            reader.failed(StoreError::Refused { object, problem });
        }
        assert_eq!(drain(&reader), "Pod: two");
    }
}
