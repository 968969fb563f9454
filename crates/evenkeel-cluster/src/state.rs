use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use evenkeel_api::{GroupKind, Key, Obj};
use evenkeel_base::Rng;
use jiff::{SignedDuration, Timestamp};

use crate::{
    addresses::Addresses,
    journal::{Entry, Queue},
    resource::Registry,
};

/// Changes kept per kind for watchers that resume. A watcher of a busy kind that is further behind
/// lists again; more would only keep old bodies in memory.
const HISTORY_MAX: usize = 1_000;
/// Age beyond which a change is forgotten at the next write, as the API server does by default.
const HISTORY_AGE: SignedDuration = SignedDuration::from_mins(5);

/// Namespaces that exist from the start and cannot be deleted.
pub(crate) const OWN_NAMESPACES: [&str; 4] =
    ["default", "kube-system", "kube-public", "kube-node-lease"];

/// Namespace and name of an object inside its kind; sorts in this order.
pub(crate) type Name = (Arc<str>, Arc<str>);

pub(crate) fn name_of(key: &Key) -> Name {
    (key.namespace.clone(), key.name.clone())
}

/// One change of one object, as watchers see it.
#[derive(Clone)]
pub(crate) struct Change {
    pub(crate) revision: u64,
    at: Timestamp,
    /// The object before; `None` when it is new.
    pub(crate) before: Option<Arc<Obj>>,
    /// The object now; of a removed one its last state at the revision of its removal.
    pub(crate) obj: Arc<Obj>,
    pub(crate) removed: bool,
}

/// All objects of a kind, their recent changes, and the watchers that wait for more.
#[derive(Default)]
pub(crate) struct Table {
    pub(crate) objects: BTreeMap<Name, Arc<Obj>>,
    /// What readers see of objects whose latest change may not be seen yet.
    pub(crate) hidden: BTreeMap<Name, Option<Arc<Obj>>>,
    log: VecDeque<Change>,
    /// Number of changes that have left the log.
    dropped: u64,
    /// Revision of the youngest change that has left the log.
    dropped_revision: u64,
    waiting: BTreeMap<u64, Waker>,
}

impl Table {
    /// Where a watcher that has seen everything up to `revision` continues; `None` when too old.
    pub(crate) fn position_after(&self, revision: u64) -> Option<u64> {
        if revision < self.dropped_revision {
            return None;
        }
        let seen = self.log.partition_point(|change| change.revision <= revision);
        Some(self.dropped + u64::try_from(seen).unwrap_or_default())
    }

    /// The change at a position: `Err` when it is no longer kept, `Ok(None)` when none yet that may
    /// be seen.
    pub(crate) fn change_at(
        &self,
        position: u64,
        shown: u64,
    ) -> Result<Option<&Change>, Forgotten> {
        let Some(index) = position.checked_sub(self.dropped) else { return Err(Forgotten) };
        let found = usize::try_from(index).ok().and_then(|index| self.log.get(index));
        Ok(found.filter(|change| change.revision <= shown))
    }

    /// Objects in order, as readers see them.
    fn shown(&self, from: Name) -> impl Iterator<Item = (&Name, &Arc<Obj>)> {
        let mut latest = self.objects.range(from.clone()..).peekable();
        let mut hidden = self.hidden.range(from..).peekable();
        std::iter::from_fn(move || {
            loop {
                let Some((name, before)) = hidden.peek() else { return latest.next() };
                if let Some(found) = latest.next_if(|(next, _)| next < name) {
                    return Some(found);
                }
                latest.next_if(|(next, _)| next == name);
                let (name, before) = (*name, before.as_ref());
                hidden.next();
                if let Some(before) = before {
                    return Some((name, before));
                }
            }
        })
    }

    /// Takes back the changes after a revision.
    pub(crate) fn forget_after(&mut self, revision: u64) {
        while self.log.pop_back_if(|change| change.revision > revision).is_some() {}
    }

    /// Whether there never was an object.
    fn is_new(&self) -> bool {
        self.objects.is_empty() && self.log.is_empty() && self.dropped == 0
    }

    pub(crate) fn wait(&mut self, watcher: u64, waker: &Waker) {
        match self.waiting.get_mut(&watcher) {
            Some(old) => old.clone_from(waker),
            None => {
                self.waiting.insert(watcher, waker.clone());
            }
        }
    }

    pub(crate) fn leave(&mut self, watcher: u64) {
        self.waiting.remove(&watcher);
    }

    fn take_waiting(&mut self) -> impl Iterator<Item = Waker> + use<> {
        std::mem::take(&mut self.waiting).into_values()
    }

    /// Adds a change; what watchers have not been able to see is never dropped.
    fn push(&mut self, change: Change, shown: u64) {
        let oldest = change.at.checked_sub(HISTORY_AGE).unwrap_or(Timestamp::MIN);
        self.log.push_back(change);
        loop {
            let is_long = self.log.len() > HISTORY_MAX;
            let gone = self
                .log
                .pop_front_if(|first| first.revision <= shown && (is_long || first.at < oldest));
            let Some(gone) = gone else { break };
            self.dropped += 1;
            self.dropped_revision = gone.revision;
        }
    }
}

/// A watcher's position has left the history.
pub(crate) struct Forgotten;

/// Everything the server holds. One lock, short critical sections, no waiting inside.
pub(crate) struct State {
    /// Of the latest change, which may not be seen yet.
    pub(crate) revision: u64,
    /// Up to which changes may be seen.
    pub(crate) shown: u64,
    /// Before which nothing is known of any change.
    pub(crate) oldest: u64,
    pub(crate) registry: Registry,
    /// The kinds that readers see, while a change of them may not be seen yet.
    pub(crate) shown_registry: Option<Registry>,
    /// On the way to the journal; `None` without one.
    pub(crate) queue: Option<Queue>,
    pub(crate) addresses: Addresses,
    pub(crate) rng: Rng,
    /// Events ever created; says when to look for old ones.
    pub(crate) events_created: u64,
    tables: BTreeMap<GroupKind, Table>,
    watchers: u64,
    /// Watchers of every kind that wait for a kind that had no objects before.
    waiting_for_kinds: BTreeMap<u64, Waker>,
    woken: Vec<Waker>,
}

impl State {
    pub(crate) fn new(rng: Rng) -> Self {
        Self {
            revision: 1,
            shown: 1,
            oldest: 0,
            registry: Registry::builtin(),
            shown_registry: None,
            queue: None,
            addresses: Addresses::default(),
            rng,
            events_created: 0,
            tables: BTreeMap::new(),
            watchers: 0,
            waiting_for_kinds: BTreeMap::new(),
            woken: Vec::new(),
        }
    }

    /// The latest state of an object, for writers.
    pub(crate) fn find(&self, key: &Key) -> Option<&Arc<Obj>> {
        self.tables.get(&key.kind)?.objects.get(&name_of(key))
    }

    /// An object as readers see it.
    pub(crate) fn find_shown(&self, key: &Key) -> Option<&Arc<Obj>> {
        let (table, name) = (self.tables.get(&key.kind)?, name_of(key));
        match table.hidden.get(&name) {
            Some(before) => before.as_ref(),
            None => table.objects.get(&name),
        }
    }

    pub(crate) fn table_mut(&mut self, kind: &GroupKind) -> &mut Table {
        table_of(&mut self.tables, kind)
    }

    pub(crate) fn new_watcher(&mut self) -> u64 {
        self.watchers += 1;
        self.watchers
    }

    /// Where a watcher that has seen everything up to a revision continues; `None` when that is too
    /// long ago.
    pub(crate) fn position_after(&mut self, kind: &GroupKind, revision: u64) -> Option<u64> {
        let is_known = revision >= self.oldest;
        self.table_mut(kind).position_after(revision).filter(|_| is_known)
    }

    /// Where a watcher that has seen all that may be seen continues.
    pub(crate) fn position_now(&mut self, kind: &GroupKind) -> u64 {
        let shown = self.shown;
        let table = self.table_mut(kind);
        // Only what may be seen is ever dropped.
        table.position_after(shown).unwrap_or(table.dropped)
    }

    /// Objects of a kind as readers see them, ordered by namespace and name.
    pub(crate) fn shown_objects<'a>(
        &'a self,
        kind: &GroupKind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Obj>> + use<'a> {
        let from: Name = (namespace.unwrap_or_default().into(), "".into());
        self.tables
            .get(kind)
            .into_iter()
            .flat_map(move |table| table.shown(from.clone()))
            .take_while(move |((ns, _), _)| namespace.is_none_or(|wanted| **ns == *wanted))
            .map(|(_, obj)| obj)
    }

    /// Every object as readers see it.
    pub(crate) fn all_shown(&self) -> impl Iterator<Item = &Arc<Obj>> {
        let first: Name = ("".into(), "".into());
        self.tables.values().flat_map(move |table| table.shown(first.clone())).map(|(_, obj)| obj)
    }

    /// Objects of a kind, in a namespace or in all of them, ordered by namespace and name: the
    /// latest, for writers.
    pub(crate) fn objects<'a>(
        &'a self,
        kind: &GroupKind,
        namespace: Option<&'a str>,
    ) -> impl Iterator<Item = &'a Arc<Obj>> + use<'a> {
        let from: Name = (namespace.unwrap_or_default().into(), "".into());
        self.tables
            .get(kind)
            .into_iter()
            .flat_map(move |table| table.objects.range(from.clone()..))
            .take_while(move |((ns, _), _)| namespace.is_none_or(|wanted| **ns == *wanted))
            .map(|(_, obj)| obj)
    }

    /// Whether any object of any kind lives in the namespace.
    pub(crate) fn is_namespace_in_use(&self, namespace: &str) -> bool {
        self.tables.keys().any(|kind| self.objects(kind, Some(namespace)).next().is_some())
    }

    /// Every kind that has or had objects.
    pub(crate) fn kinds_in_use(&self) -> Vec<GroupKind> {
        let used = self.tables.iter().filter(|(_, table)| !table.is_new());
        used.map(|(kind, _)| kind.clone()).collect()
    }

    /// Wakes a watcher when a kind gets its first object.
    pub(crate) fn wait_for_kinds(&mut self, watcher: u64, waker: &Waker) {
        self.waiting_for_kinds.insert(watcher, waker.clone());
    }

    /// Forgets a watcher of every kind.
    pub(crate) fn leave_kinds(&mut self, watcher: u64) {
        self.waiting_for_kinds.remove(&watcher);
    }

    /// Stores an object (its revision is set already) and notifies the watchers.
    pub(crate) fn put(&mut self, obj: Arc<Obj>, now: Timestamp) {
        self.change(obj, false, now);
    }

    /// The same for a removal; `last` is the final state at the revision of the removal.
    pub(crate) fn remove(&mut self, last: Arc<Obj>, now: Timestamp) {
        self.change(last, true, now);
    }

    /// The one place where something is changed.
    fn change(&mut self, obj: Arc<Obj>, removed: bool, now: Timestamp) {
        let (revision, shown) = (self.revision, self.shown);
        let table = table_of(&mut self.tables, &obj.key().kind);
        if table.is_new() {
            self.woken.extend(std::mem::take(&mut self.waiting_for_kinds).into_values());
        }
        let name = name_of(obj.key());
        let after = (!removed).then(|| obj.clone());
        let before = match &after {
            Some(after) => table.objects.insert(name.clone(), after.clone()),
            None => table.objects.remove(&name),
        };
        let key = obj.key().clone();
        let change = Change { revision, at: now, before: before.clone(), obj, removed };
        table.push(change, shown);
        self.enqueue(name, Entry { key, before, after });
    }

    /// Wakes the watchers of a kind.
    pub(crate) fn wake(&mut self, kind: &GroupKind) {
        let table = table_of(&mut self.tables, kind);
        self.woken.extend(table.take_waiting());
    }
}

fn table_of<'a>(tables: &'a mut BTreeMap<GroupKind, Table>, kind: &GroupKind) -> &'a mut Table {
    tables.entry(kind.clone()).or_default()
}

/// The state behind its lock.
pub(crate) struct Shared {
    state: Mutex<State>,
    /// Tells the keeper of the journal that there is something to do.
    pub(crate) work: Condvar,
}

impl Shared {
    pub(crate) fn new(state: State) -> Self {
        Self { state: Mutex::new(state), work: Condvar::new() }
    }

    /// The bare state.
    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic inside left at worst one request half done in plain maps; to keep serving is
        // safer than to disconnect all clients.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Works on the state; watchers are woken after the lock is released, in the order of their
    /// creation, and writers are told that their changes are safe.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut State) -> R) -> R {
        let mut state = self.lock();
        let result = work(&mut state);
        let woken = std::mem::take(&mut state.woken);
        let told = state.queue.as_mut().map(|queue| std::mem::take(&mut queue.told));
        let is_fresh =
            state.queue.as_mut().is_some_and(|queue| std::mem::take(&mut queue.is_fresh));
        drop(state);
        for waker in woken {
            waker.wake();
        }
        for (writer, answer) in told.into_iter().flatten() {
            // One that has gone away does not wait for its answer.
            writer.send(answer).unwrap_or_default();
        }
        if is_fresh {
            self.work.notify_one();
        }
        result
    }
}
