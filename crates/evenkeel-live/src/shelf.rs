use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{Key, Revision};
use evenkeel_control::ListQuery;

use crate::{informer::Change, packed::Packed};

/// Deletions of ours that the watch has not confirmed yet; beyond it, a read may see the object a
/// moment longer.
const GONE_MAX: usize = 4096;

/// What is known of the objects of one query. Fed by a watch, and by the answers of our own
/// writes, which the watch may not have seen yet: the newer of both wins.
///
/// Revisions are compared as numbers, which they are on every Kubernetes (and by promise from 1.35
/// on). Where one is not a number, the watch alone decides, and a read may miss a write of ours
/// for as long as the watch takes.
pub(crate) struct Shelf {
    query: ListQuery,
    objects: BTreeMap<Key, Arc<Packed>>,
    /// What we have deleted, with uid, until the watch has reported it.
    gone: BTreeMap<Key, String>,
    revision: Revision,
    is_synced: bool,
}

/// A change of what is known.
#[derive(Debug, Clone)]
pub(crate) enum Update {
    /// An object is there; `old` is what was known of it before.
    Applied { old: Option<Arc<Packed>>, new: Arc<Packed> },
    /// An object is gone; this was known of it.
    Deleted(Arc<Packed>),
}

/// Whether revision `a` is later than `b`; `None` when they cannot be compared.
fn is_later(a: &str, b: &str) -> Option<bool> {
    Some(a.parse::<u64>().ok()? > b.parse::<u64>().ok()?)
}

impl Shelf {
    pub(crate) fn new(query: ListQuery) -> Self {
        Self {
            query,
            objects: BTreeMap::new(),
            gone: BTreeMap::new(),
            revision: Revision::default(),
            is_synced: false,
        }
    }

    /// Whether all that exists has been seen once.
    pub(crate) fn is_synced(&self) -> bool {
        self.is_synced
    }

    pub(crate) fn revision(&self) -> &Revision {
        &self.revision
    }

    pub(crate) fn get(&self, key: &Key) -> Option<&Arc<Packed>> {
        self.objects.get(key)
    }

    pub(crate) fn len(&self) -> usize {
        self.objects.len()
    }

    /// Bytes that they take, about.
    pub(crate) fn bytes(&self) -> usize {
        self.objects.values().map(|obj| obj.size()).sum()
    }

    /// The objects of a query that is a part of this one, by namespace and name.
    pub(crate) fn list(&self, query: &ListQuery) -> Vec<Arc<Packed>> {
        let fits = |obj: &&Arc<Packed>| obj.is_in(query);
        let Some(namespace) = &query.namespace else {
            return self.objects.values().filter(fits).cloned().collect();
        };
        let from = Key::new(query.kind.clone(), namespace, "");
        let inside = self.objects.range(from..).map(|(_, obj)| obj);
        let inside = inside.take_while(|obj| obj.key().namespace == *namespace);
        inside.filter(fits).cloned().collect()
    }

    /// Takes a change from the watch, and returns what is new in it.
    pub(crate) fn take(&mut self, change: Change) -> Vec<Update> {
        match change {
            Change::Listed(objects, revision) => self.listed(objects, revision),
            Change::Applied(obj) => {
                self.revision = Revision(obj.revision().into());
                self.applied(obj)
            }
            Change::Deleted(obj) => {
                self.revision = Revision(obj.revision().into());
                self.deleted(obj).into_iter().collect()
            }
            Change::At(revision) => {
                self.revision = revision;
                Vec::new()
            }
            Change::Open => Vec::new(),
        }
    }

    /// Takes the answer of a write of ours, unless the watch is past it already.
    pub(crate) fn written(&mut self, obj: &Arc<Packed>) -> Option<Update> {
        let key = obj.key();
        if self.gone.get(key).is_some_and(|uid| uid == obj.uid()) {
            return None;
        }
        let old = self.objects.get(key);
        let known = old.map_or(&*self.revision.0, |old| old.revision());
        if is_later(obj.revision(), known) != Some(true) {
            return None;
        }
        if !obj.is_in(&self.query) {
            return self.objects.remove(key).map(Update::Deleted);
        }
        let old = self.objects.insert(key.clone(), obj.clone());
        Some(Update::Applied { old, new: obj.clone() })
    }

    /// Takes a deletion of ours after which the object with this uid does not exist any more.
    pub(crate) fn unmade(&mut self, key: &Key, uid: &str) -> Option<Update> {
        if uid.is_empty() || self.objects.get(key).is_none_or(|old| old.uid() != uid) {
            return None;
        }
        if self.gone.len() < GONE_MAX {
            self.gone.insert(key.clone(), uid.to_owned());
        }
        self.objects.remove(key).map(Update::Deleted)
    }

    fn applied(&mut self, obj: Arc<Packed>) -> Vec<Update> {
        let key = obj.key().clone();
        if self.gone.get(&key).is_some_and(|uid| uid == obj.uid()) {
            return Vec::new();
        }
        self.gone.remove(&key);
        if let Some(old) = self.objects.get(&key) {
            let (known, new) = (old.revision(), obj.revision());
            if known == new || is_later(known, new) == Some(true) {
                return Vec::new();
            }
        }
        self.put(obj)
    }

    fn put(&mut self, obj: Arc<Packed>) -> Vec<Update> {
        let old = self.objects.insert(obj.key().clone(), obj.clone());
        // An object of the same name with another uid: the old one went first.
        let (old, went) = match old {
            Some(old) if old.uid() != obj.uid() => (None, Some(old)),
            old => (old, None),
        };
        went.map(Update::Deleted).into_iter().chain([Update::Applied { old, new: obj }]).collect()
    }

    fn deleted(&mut self, obj: Arc<Packed>) -> Option<Update> {
        let key = obj.key();
        if self.gone.get(key).is_some_and(|uid| uid == obj.uid()) {
            self.gone.remove(key);
        }
        if self.objects.get(key).is_none_or(|old| old.uid() != obj.uid()) {
            return None;
        }
        self.objects.remove(key);
        Some(Update::Deleted(obj))
    }

    fn listed(&mut self, objects: Vec<Arc<Packed>>, revision: Revision) -> Vec<Update> {
        let listed: BTreeMap<&Key, &str> =
            objects.iter().map(|obj| (obj.key(), obj.uid())).collect();
        // No list is answered from the past, as none asks for a revision, so this is another
        // history: the cluster's store was put back to an older state, and revisions that are known
        // here may come again.
        let is_restored = is_later(&self.revision.0, &revision.0) == Some(true);
        let vanished = |key: &Key, old: &Arc<Packed>| {
            let is_there = listed.get(key).is_some_and(|uid| *uid == old.uid());
            // What we wrote after the list was made is not in it.
            let is_newer = !is_restored && is_later(old.revision(), &revision.0) == Some(true);
            !is_there && !is_newer
        };
        let mut updates = Vec::new();
        self.objects.retain(|key, old| {
            let goes = vanished(key, old);
            if goes {
                updates.push(Update::Deleted(old.clone()));
            }
            !goes
        });
        // A list from before a deletion of ours: the watch will report it.
        self.gone.retain(|key, uid| listed.get(key).is_some_and(|listed| listed == uid));
        if is_restored {
            self.gone.clear();
        }
        for obj in objects {
            updates.extend(if is_restored { self.put(obj) } else { self.applied(obj) });
        }
        self.revision = revision;
        self.is_synced = true;
        updates
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::{GroupKind, LabelSelector, Obj};
    use serde_json::json;

    use super::*;

    /// `name@revision`, with a uid after a colon and a label after a slash where it matters.
    fn obj(text: &str) -> Arc<Packed> {
        let (rest, label) = text.split_once('/').unwrap_or((text, ""));
        let (rest, uid) = rest.split_once(':').unwrap_or((rest, "1"));
        let (name, revision) = rest.split_once('@').unwrap();
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
            "name": name, "namespace": "x", "uid": uid, "resourceVersion": revision,
            "labels": {"app": label}}});
        Packed::of(&Obj::from_json(body).unwrap(), &GroupKind::new("", "ConfigMap"))
    }

    fn list(revision: u64, objects: &[&str]) -> Change {
        Change::Listed(objects.iter().map(|text| obj(text)).collect(), Revision::from(revision))
    }

    fn show(updates: impl IntoIterator<Item = Update>) -> String {
        let one = |update| match update {
            Update::Applied { new, .. } => format!("+{}@{}", new.key().name, new.revision()),
            Update::Deleted(old) => format!("-{}@{}", old.key().name, old.revision()),
        };
        updates.into_iter().map(one).collect::<Vec<_>>().join(" ")
    }

    fn known(shelf: &Shelf) -> String {
        let one = |obj: &Arc<Packed>| format!("{}@{}", obj.key().name, obj.revision());
        shelf.objects.values().map(one).collect::<Vec<_>>().join(" ")
    }

    fn shelf(revision: u64, objects: &[&str]) -> Shelf {
        let mut shelf = Shelf::new(ListQuery::all(GroupKind::new("", "ConfigMap")));
        shelf.take(list(revision, objects));
        shelf
    }

    #[test]
    fn a_list_after_a_gap_shows_what_changed_and_what_vanished() {
        let mut shelf = shelf(9, &["a@1", "b@2", "c@3", "d@4"]);
        let updates = shelf.take(list(20, &["a@1", "b@12", "d@15:2"]));
        assert_eq!(show(updates), "-c@3 -d@4 +b@12 +d@15");
        assert_eq!(known(&shelf), "a@1 b@12 d@15");
    }

    #[test]
    fn a_write_of_ours_is_seen_at_once_and_reported_once() {
        let mut shelf = shelf(9, &["a@1"]);
        assert_eq!(show(shelf.written(&obj("a@12"))), "+a@12");
        assert_eq!(known(&shelf), "a@12");
        assert_eq!(show(shelf.take(Change::Applied(obj("a@11")))), "", "older than our write");
        assert_eq!(show(shelf.take(Change::Applied(obj("a@12")))), "", "our write itself");
        assert_eq!(known(&shelf), "a@12");
        assert_eq!(show(shelf.take(Change::Applied(obj("a@13")))), "+a@13");
    }

    #[test]
    fn an_answer_that_comes_late_does_not_undo_newer_events() {
        let mut shelf = shelf(9, &["a@1"]);
        shelf.take(Change::Applied(obj("a@15")));
        assert_eq!(show(shelf.written(&obj("a@12"))), "");
        // Created by us, deleted by another, and the watch was faster than our answer.
        shelf.take(Change::Applied(obj("b@16")));
        shelf.take(Change::Deleted(obj("b@17")));
        assert_eq!(show(shelf.written(&obj("b@16"))), "");
        assert_eq!(known(&shelf), "a@15");
    }

    #[test]
    fn a_list_from_before_our_write_does_not_undo_it() {
        let mut shelf = shelf(9, &["a@1", "b@2"]);
        shelf.written(&obj("a@12"));
        shelf.written(&obj("new@13"));
        assert_eq!(show(shelf.take(list(11, &["a@1", "b@2"]))), "");
        assert_eq!(known(&shelf), "a@12 b@2 new@13");
        assert_eq!(show(shelf.take(list(20, &["b@2"]))), "-a@12 -new@13");
    }

    #[test]
    fn a_cluster_put_back_to_an_older_state_is_believed() {
        let mut shelf = shelf(9, &["a@1", "b@2", "d@3"]);
        shelf.take(Change::Applied(obj("a@25")));
        shelf.take(Change::Applied(obj("new@26")));
        shelf.unmade(obj("d@3").key(), "1");
        let updates = shelf.take(list(20, &["a@12", "b@2", "d@3"]));
        assert_eq!(show(updates), "-new@26 +a@12 +b@2 +d@3");
        assert_eq!(show(shelf.written(&obj("a@21"))), "+a@21");
        assert_eq!(show(shelf.take(Change::Applied(obj("b@22")))), "+b@22");
        assert_eq!(known(&shelf), "a@21 b@22 d@3");
    }

    #[test]
    fn what_we_deleted_does_not_come_back_but_a_new_object_of_that_name_may() {
        let mut shelf = shelf(9, &["a@1"]);
        let key = obj("a@1").key().clone();
        assert_eq!(show(shelf.unmade(&key, "1")), "-a@1");
        assert_eq!(show(shelf.take(Change::Applied(obj("a@10")))), "", "before our deletion");
        assert_eq!(show(shelf.take(list(10, &["a@10"]))), "", "before our deletion");
        assert_eq!(show(shelf.take(Change::Deleted(obj("a@11")))), "", "reported already");
        assert_eq!(show(shelf.take(Change::Applied(obj("a@14:2")))), "+a@14");
        // Our answer comes late, and is about the old one.
        assert_eq!(show(shelf.unmade(&key, "1")), "");
        assert_eq!(known(&shelf), "a@14");
    }

    #[test]
    fn a_write_may_take_an_object_out_of_a_selection() {
        let labels = LabelSelector::parse("app=web").unwrap();
        let query = ListQuery::all(GroupKind::new("", "ConfigMap")).with_labels(labels);
        let mut shelf = Shelf::new(query);
        shelf.take(list(9, &["a@1/web"]));
        assert_eq!(show(shelf.written(&obj("a@12/old"))), "-a@1");
        assert_eq!(show(shelf.written(&obj("b@13/old"))), "");
        assert_eq!(known(&shelf), "");
    }

    #[test]
    fn revisions_that_are_not_numbers_are_left_to_the_watch() {
        let mut shelf = shelf(9, &["a@x"]);
        assert_eq!(show(shelf.written(&obj("a@y"))), "");
        assert_eq!(show(shelf.take(Change::Applied(obj("a@y")))), "+a@y");
    }
}
