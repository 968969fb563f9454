//! Objects as a cache keeps them: packed, and the latest ones opened as well.
//!
//! An object as it is used (`Obj`: metadata, JSON tree, typed view) takes four to ten times its
//! JSON. Most are looked at twice a minute, so a cache has them all as bytes, and opens one when it
//! is read. Nothing is left out: what is opened is what was packed.

use std::{
    collections::VecDeque,
    fmt, mem,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_control::ListQuery;

use crate::codec;

/// Objects that stay open, by the sum of their packed bytes: some 70 MB in use. All of a cluster with
/// 300 Canaries; in a larger one those that passes share (the Canaries of a namespace are looked at
/// for each of its SLOs every 15 s), and those of the passes under way. 1,000 Canaries and as many SLOs
/// are 5 MB.
const OPEN_BYTES_MAX: usize = 6 << 20;
/// Larger ones are opened for each reader: what is large, such as the rules of an SLO, is read alone
/// and seldom, and would take the room of many that are read in lists again and again.
const KEPT_OPEN_MAX: usize = 4 << 10;

/// Between the labels' names and values, neither of which can contain it.
const END: char = '\0';

/// One object, packed. What queries and caches ask for is readable without opening it.
pub(crate) struct Packed {
    key: Key,
    uid: Box<str>,
    revision: Box<str>,
    /// **Shape**: name, [`END`], value, [`END`], and so on.
    labels: Box<str>,
    body: Box<[u8]>,
    open: Mutex<Option<Arc<Obj>>>,
    /// Whether it was read since its turn to be closed came last.
    is_used: AtomicBool,
}

impl Packed {
    /// Packs an object; `kind` is its kind, shared by all that are of it.
    pub(crate) fn of(obj: &Obj, kind: &GroupKind) -> Arc<Self> {
        let mut key = obj.key().clone();
        if key.kind == *kind {
            key.kind = kind.clone();
        }
        let mut labels = String::new();
        for (name, value) in obj.labels() {
            for part in [name, value] {
                labels.push_str(part);
                labels.push(END);
            }
        }
        let revision = obj.meta().resource_version.as_deref().unwrap_or_default();
        Arc::new(Self {
            key,
            uid: obj.uid().into(),
            revision: revision.into(),
            labels: labels.into(),
            body: codec::pack(obj.json()),
            open: Mutex::default(),
            is_used: AtomicBool::default(),
        })
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn uid(&self) -> &str {
        &self.uid
    }

    pub(crate) fn revision(&self) -> &str {
        &self.revision
    }

    /// Bytes that it takes while it is closed, about.
    pub(crate) fn size(&self) -> usize {
        let texts = self.uid.len() + self.revision.len() + self.labels.len();
        size_of::<Self>() + texts + self.body.len()
    }

    fn label(&self, name: &str) -> Option<&str> {
        let mut parts = self.labels.split_terminator(END);
        let mut pairs = std::iter::from_fn(|| Some((parts.next()?, parts.next()?)));
        pairs.find(|(own, _)| *own == name).map(|(_, value)| value)
    }

    /// Whether a query asks for it.
    pub(crate) fn is_in(&self, query: &ListQuery) -> bool {
        // What costs least comes first.
        let fields = &query.fields.requirements;
        let is_name = |path: &str| path == "metadata.name";
        let name_is = |(path, name, equal): &(String, String, bool)| {
            !is_name(path) || (**name == *self.key.name) == *equal
        };
        self.key.kind == query.kind
            && query.namespace.as_ref().is_none_or(|ns| **ns == *self.key.namespace)
            && fields.iter().all(name_is)
            && query.labels.matches_by(|name| self.label(name))
            && (fields.iter().all(|(path, ..)| is_name(path))
                || query.fields.matches(&self.opened()))
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Obj>>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it holds, opened for the caller alone.
    fn opened(&self) -> Obj {
        codec::unpack(&self.body)
            .and_then(|body| Obj::from_json(body).ok())
            .expect("what was packed was an object, and unpacks to what it was")
    }
}

/// Shows no content.
impl fmt::Debug for Packed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.key, self.revision)
    }
}

/// The objects that were read last, opened. One for all caches of a process.
#[derive(Default)]
pub(crate) struct Recent {
    open: Mutex<Open>,
    unpacked: AtomicU64,
}

#[derive(Default)]
struct Open {
    /// In the order in which they were opened. One that was read again meanwhile gets a second
    /// turn.
    turns: VecDeque<Arc<Packed>>,
    bytes: usize,
}

impl Recent {
    /// An object, opened unless it is open.
    pub(crate) fn open(&self, packed: &Arc<Packed>) -> Arc<Obj> {
        if let Some(obj) = &*packed.slot() {
            packed.is_used.store(true, Ordering::Relaxed);
            return obj.clone();
        }
        let obj = Arc::new(packed.opened());
        self.unpacked.fetch_add(1, Ordering::Relaxed);
        if packed.size() <= KEPT_OPEN_MAX {
            self.hold(packed, &obj);
        }
        obj
    }

    /// Objects that were opened so far.
    pub(crate) fn unpacked(&self) -> u64 {
        self.unpacked.load(Ordering::Relaxed)
    }

    /// Keeps `obj` open, which is what `packed` holds.
    fn hold(&self, packed: &Arc<Packed>, obj: &Arc<Obj>) {
        if packed.slot().replace(obj.clone()).is_some() {
            return;
        }
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.bytes += packed.size();
        open.turns.push_back(packed.clone());
        // An end also where all are read while this goes round.
        for _ in 0..=2 * open.turns.len() {
            if open.bytes <= OPEN_BYTES_MAX {
                break;
            }
            let Some(oldest) = open.turns.pop_front() else { break };
            // One that is known nowhere else has been replaced by a newer state.
            let is_known = Arc::strong_count(&oldest) > 1;
            if is_known && oldest.is_used.swap(false, Ordering::Relaxed) {
                open.turns.push_back(oldest);
            } else {
                open.bytes -= oldest.size();
                mem::take(&mut *oldest.slot());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::{FieldSelector, LabelSelector};
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, note: &str) -> Obj {
        let body = json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name,
            "namespace": "x", "uid": "u", "resourceVersion": "7", "annotations": {"note": note},
            "labels": {"app": "web", "empty": "", "tier": "front"}}, "spec": {"nodeName": "n"}});
        Obj::from_json(body).unwrap()
    }

    fn kind() -> GroupKind {
        GroupKind::new("", "Pod")
    }

    #[test]
    fn a_packed_object_answers_queries_as_the_object_does() {
        let obj = pod("a", "");
        let packed = Packed::of(&obj, &kind());
        let seen = (packed.key(), packed.uid(), packed.revision());
        assert_eq!(seen, (obj.key(), "u", "7"));
        let all = ListQuery::all(kind());
        let labels = |text: &str| all.clone().with_labels(LabelSelector::parse(text).unwrap());
        let fields = |text: &str| all.clone().with_fields(FieldSelector::parse(text).unwrap());
        let queries = [
            all.clone(),
            all.clone().within("x"),
            all.clone().within("y"),
            ListQuery::all(GroupKind::new("", "Node")),
            labels("app=web,tier in (front),empty="),
            labels("app=api"),
            labels("!old,empty"),
            labels("!empty"),
            fields("metadata.name=a"),
            fields("metadata.name=b"),
            fields("metadata.name!=a"),
            fields("metadata.name=a,spec.nodeName=n"),
            fields("spec.nodeName!=n"),
        ];
        let answers: Vec<bool> = queries.iter().map(|query| query.matches(&obj)).collect();
        assert_eq!(answers.iter().filter(|fits| **fits).count(), 6);
        let packed: Vec<bool> = queries.iter().map(|query| packed.is_in(query)).collect();
        assert_eq!(packed, answers);
    }

    #[test]
    fn an_object_is_opened_once_while_it_is_read_again_and_again() {
        let recent = Recent::default();
        let packed = Packed::of(&pod("a", "first"), &kind());
        let first = recent.open(&packed);
        assert_eq!(*first, pod("a", "first"));
        assert!(Arc::ptr_eq(&first, &recent.open(&packed)));
        // A thousand others pass by, each looked at once.
        let others: Vec<_> =
            (0..1000).map(|n| pod(&format!("b{n}"), &"x".repeat(10_000))).collect();
        for other in &others {
            recent.open(&Packed::of(other, &kind()));
            recent.open(&packed);
        }
        assert!(Arc::ptr_eq(&first, &recent.open(&packed)), "it was in use all the time");
    }

    #[test]
    fn what_stays_open_is_bounded_and_what_was_closed_is_opened_again() {
        let recent = Recent::default();
        let of = |name: &str, len: usize| Packed::of(&pod(name, &"x".repeat(len)), &kind());
        let all: Vec<_> = (0..3_000).map(|n| of(&format!("a{n}"), 3_000)).collect();
        for packed in &all {
            recent.open(packed);
            recent.open(packed);
        }
        let is_open = |packed: &&Arc<Packed>| packed.slot().is_some();
        let bytes: usize = all.iter().filter(is_open).map(|packed| packed.size()).sum();
        assert!(bytes <= OPEN_BYTES_MAX && bytes > OPEN_BYTES_MAX / 2, "{bytes}");
        assert!(all[0].slot().is_none());
        assert_eq!(recent.open(&all[0]).name(), "a0");
        let large = of("large", KEPT_OPEN_MAX);
        assert_eq!(recent.open(&large).name(), "large");
        assert!(large.slot().is_none());
    }

    /// Every kind that has a definition here, and the built-in ones as the API server writes them.
    #[test]
    fn objects_of_all_kinds_unpack_to_what_they_were() {
        let mut bodies: Vec<Value> = evenkeel_api::crds();
        bodies.push(pod("a", "\u{0}\n\"ä").into_json());
        for body in bodies {
            let obj = Obj::from_json(body).unwrap();
            let opened = Packed::of(&obj, &obj.key().kind).opened();
            assert_eq!(opened.json().to_string(), obj.json().to_string());
            assert_eq!((opened.key(), opened.meta()), (obj.key(), obj.meta()));
        }
    }
}
