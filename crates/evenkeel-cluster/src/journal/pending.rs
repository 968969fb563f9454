//! The state's side of the journal: what is queued, what may be seen, and the way back.

use std::sync::Arc;

use evenkeel_api::{GroupKind, Obj};
use futures::channel::oneshot;
use serde_json::Value;

use super::{
    Batch, Counters, Entry, JournalError, Kept,
    queue::{Pending, Queue, Told},
};
use crate::{
    crd::{self, CRD},
    error::ApiError,
    resource::Registry,
    state::{Name, State, name_of},
    value::{list_at, text_at},
};

/// Changes that may be seen before they are kept. Hours of Leases and Events when a disk is full;
/// beyond it they wait for the disk as everything else does.
const LAZY_MAX: usize = 10_000;
/// Changes that wait in total; writers beyond it are refused. A disk that takes a batch of this
/// size has to hang for long to be so far behind.
const QUEUE_MAX: usize = 20_000;
/// Revisions that a restarted server leaves out: no more than this many can have been seen without
/// being kept, so no revision that was seen is used again.
const REVISIONS_SKIPPED: u64 = 20_000;

/// Ready when the state that an answer is based on may be seen; without a value it may already.
pub(crate) struct Receipt(Option<oneshot::Receiver<Told>>);

impl Receipt {
    /// Waits for it.
    pub(crate) async fn settled(self) -> Result<(), ApiError> {
        let Some(told) = self.0 else { return Ok(()) };
        match told.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err((&error).into()),
            Err(oneshot::Canceled) => Err((&JournalError::Stopped).into()),
        }
    }
}

/// Whether a change may be lost with the last second: Events, and renewals of a Lease. Who holds a
/// Lease may not be: two holders at once would be the result.
fn is_lazy(entry: &Entry) -> bool {
    let kind = &entry.key.kind;
    match (&*kind.group, &*kind.kind) {
        ("", "Event") => true,
        ("coordination.k8s.io", "Lease") => {
            let holder = |obj: &Option<Arc<Obj>>| {
                let body = obj.as_ref()?.json();
                Some(text_at(body, "/spec/holderIdentity").to_owned())
            };
            let (before, after) = (holder(&entry.before), holder(&entry.after));
            before.is_some() && before == after
        }
        _ => false,
    }
}

impl State {
    /// Takes a change into the queue; without a journal everybody sees it at once.
    pub(crate) fn enqueue(&mut self, name: Name, entry: Entry) {
        let revision = self.revision;
        let kind = entry.key.kind.clone();
        let Some(queue) = &mut self.queue else {
            self.shown = revision;
            self.wake(&kind);
            return;
        };
        let is_lazy = is_lazy(&entry) && queue.entries.len() < LAZY_MAX;
        let before = entry.before.clone();
        queue.is_fresh |= !is_lazy || queue.entries.is_empty();
        queue.entries.push_back(Pending { revision, entry, is_lazy });
        if is_lazy && self.shown + 1 == revision {
            self.shown = revision;
            self.wake(&kind);
        } else {
            self.table_mut(&kind).hidden.entry(name).or_insert(before);
        }
    }

    /// Whether another write is taken.
    pub(crate) fn check_room(&self) -> Result<(), ApiError> {
        match &self.queue {
            Some(queue) if queue.is_stopped => Err((&JournalError::Stopped).into()),
            Some(queue) if queue.entries.len() >= QUEUE_MAX => Err(ApiError::new(
                503,
                "ServiceUnavailable",
                format!("nothing was changed: {QUEUE_MAX} changes wait for the disk; is it slow?"),
            )),
            _ => Ok(()),
        }
    }

    /// For an answer that is based on the present state.
    pub(crate) fn receipt(&mut self) -> Receipt {
        let revision = self.revision;
        let is_shown = self.shown >= revision;
        Receipt(self.queue.as_mut().filter(|_| !is_shown).map(|queue| {
            let (sender, receiver) = oneshot::channel();
            queue.waiting.push_back((revision, sender));
            receiver
        }))
    }

    /// Whether somebody waits for the journal.
    pub(crate) fn is_urgent(&self) -> bool {
        self.shown < self.revision
    }

    /// Whether anything is not kept yet.
    pub(crate) fn is_unkept(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.entries.is_empty())
    }

    /// Whether [`State::stop_writing`] was called.
    pub(crate) fn is_stopped(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_stopped)
    }

    /// Takes no more writes.
    pub(crate) fn stop_writing(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.is_stopped = true;
        }
    }

    /// Everything that is queued. It stays there until [`State::settle`] or [`State::undo`].
    pub(crate) fn batch(&self) -> Batch {
        let queued = self.queue.iter().flat_map(|queue| &queue.entries);
        Batch {
            revision: self.revision,
            counters: self.addresses.counters(),
            changes: queued.map(|pending| pending.entry.clone()).collect(),
        }
    }

    /// Everything up to a revision is kept: shows it, and what may follow at once.
    pub(crate) fn settle(&mut self, revision: u64) {
        let Some(mut queue) = self.queue.take() else { return };
        while let Some(pending) = queue.entries.pop_front_if(|first| first.revision <= revision) {
            self.reveal(&pending);
        }
        self.shown = self.shown.max(revision);
        for pending in &queue.entries {
            if pending.revision > self.shown {
                if !pending.is_lazy {
                    break;
                }
                self.reveal(pending);
                self.shown = pending.revision;
            }
        }
        let shown = self.shown;
        while let Some((_, writer)) = queue.waiting.pop_front_if(|(wanted, _)| *wanted <= shown) {
            queue.told.push((writer, Ok(())));
        }
        let unseen = queue.entries.iter().filter(|pending| pending.revision > shown);
        if !unseen.into_iter().any(|pending| is_definition(&pending.entry.key.kind)) {
            self.shown_registry = None;
        }
        self.queue = Some(queue);
    }

    /// Makes one change visible.
    fn reveal(&mut self, pending: &Pending) {
        if pending.revision <= self.shown {
            // Seen before it was kept.
            return;
        }
        let entry = &pending.entry;
        if is_definition(&entry.key.kind)
            && let Some(shown) = &mut self.shown_registry
        {
            follow(shown, entry);
        }
        let table = self.table_mut(&entry.key.kind);
        let name = name_of(&entry.key);
        let latest = table.objects.get(&name);
        let is_latest = match (latest, &entry.after) {
            (Some(latest), Some(after)) => Arc::ptr_eq(latest, after),
            (None, None) => true,
            _ => false,
        };
        if is_latest {
            table.hidden.remove(&name);
        } else {
            table.hidden.insert(name, entry.after.clone());
        }
        self.wake(&entry.key.kind);
    }

    /// Goes back to what everybody has seen, and tells those who wait why.
    pub(crate) fn undo(&mut self, error: &JournalError) {
        let Some(mut queue) = self.queue.take() else { return };
        let shown = self.shown;
        let mut are_services_touched = false;
        while let Some(pending) = queue.entries.pop_back_if(|last| last.revision > shown) {
            let Entry { key, before, .. } = pending.entry;
            are_services_touched |= is_service(&key.kind);
            let table = self.table_mut(&key.kind);
            let name = name_of(&key);
            table.hidden.remove(&name);
            match before {
                Some(before) => table.objects.insert(name, before),
                None => table.objects.remove(&name),
            };
            table.forget_after(shown);
        }
        self.revision = shown;
        if let Some(shown) = self.shown_registry.take() {
            self.registry = shown;
        }
        if are_services_touched {
            let counters = self.addresses.counters();
            self.claim_addresses(counters);
        }
        for (_, writer) in queue.waiting.drain(..) {
            queue.told.push((writer, Err(error.clone())));
        }
        self.queue = Some(queue);
    }

    /// The kinds for a change of them: readers keep those of before until it may be seen.
    pub(crate) fn registry_mut(&mut self) -> &mut Registry {
        if self.queue.is_some() {
            self.shown_registry.get_or_insert_with(|| self.registry.clone());
        }
        &mut self.registry
    }

    /// The kinds that readers see.
    pub(crate) fn shown_registry(&self) -> &Registry {
        self.shown_registry.as_ref().unwrap_or(&self.registry)
    }

    /// Takes over what an earlier process has kept.
    pub(crate) fn resume(&mut self, kept: Kept) {
        if kept.revision > 0 {
            self.revision = kept.revision + REVISIONS_SKIPPED;
            // What was drawn before is not drawn again, whatever the seed.
            self.rng = self.rng.child(&format!("from revision {}", self.revision));
        }
        (self.shown, self.oldest) = (self.revision, self.revision);
        for obj in kept.objects {
            if is_definition(&obj.key().kind)
                && let Some(defined) = crd::resource(&obj)
            {
                self.registry.insert(defined);
            }
            let name = name_of(obj.key());
            self.table_mut(&obj.key().kind).objects.insert(name, obj);
        }
        self.claim_addresses(kept.counters);
        self.queue = Some(Queue::default());
    }

    /// What everybody sees, for a copy.
    pub(crate) fn kept(&self) -> Kept {
        let objects = self.all_shown().cloned().collect();
        Kept { revision: self.shown, counters: self.addresses.counters(), objects }
    }

    /// Gives Services addresses of another network from now on.
    pub(crate) fn move_services_to(&mut self, network: [u8; 2]) {
        self.addresses.move_to(network);
        self.claim_addresses(self.addresses.counters());
    }

    /// Makes the addresses and ports of the present Services the ones that are taken.
    fn claim_addresses(&mut self, counters: Counters) {
        self.addresses.restart(counters);
        let services: Vec<Arc<Obj>> =
            self.objects(&GroupKind::new("", "Service"), None).cloned().collect();
        for service in services {
            // Headless ones have none, and those of another range are nobody's here.
            self.addresses.claim(text_at(service.json(), "/spec/clusterIP")).unwrap_or_default();
            let ports = list_at(service.json(), "/spec/ports").iter();
            let ports = ports.filter_map(|port| port.get("nodePort").and_then(Value::as_u64));
            for port in ports.filter_map(|port| u16::try_from(port).ok()) {
                self.addresses.claim_port(port);
            }
        }
    }
}

fn is_definition(kind: &GroupKind) -> bool {
    (&*kind.group, &*kind.kind) == CRD
}

fn is_service(kind: &GroupKind) -> bool {
    (&*kind.group, &*kind.kind) == ("", "Service")
}

/// Brings the kinds that readers see up to date with a change of a definition.
fn follow(registry: &mut Registry, entry: &Entry) {
    match (&entry.before, &entry.after) {
        (_, Some(after)) => {
            if let Some(defined) = crd::resource(after) {
                registry.insert(defined);
            }
        }
        (Some(before), None) => {
            if let Some(defined) = crd::resource(before) {
                registry.remove(&defined.kind.id);
            }
        }
        (None, None) => {}
    }
}
