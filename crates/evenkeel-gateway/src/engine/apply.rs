//! What an engine remembers between requests, and how it survives a new configuration.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use super::Engine;
use super::choose::Ring;
use super::connections::Split;
use super::metrics::Recorder;
use super::retry::Budget;
use super::sample::Subject;
use super::snapshot::{Listener, PoolKey, Snapshot};
use super::weights::SmoothWeights;

/// What a listener remembers between requests.
#[derive(Debug)]
pub(super) struct ListenerState {
    pub(super) rules: Vec<SmoothWeights>,
    pub(super) split: Option<Split>,
    pub(super) budget: Budget,
    pub(super) recorder: usize,
}

/// What a pool remembers between requests.
#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) ring: Ring,
    /// Per member.
    pub(super) recorders: Vec<usize>,
}

impl Engine {
    /// Takes over a configuration. Requests under way finish with the one they began with, except
    /// that their retries go to endpoints of the new one.
    pub fn apply(&mut self, now: Duration, snapshot: Arc<Snapshot>) {
        let members = self.slots.apply(now, &snapshot);
        let mut turn: BTreeMap<&PoolKey, usize> = BTreeMap::new();
        for (pool, state) in self.snapshot.pools.iter().zip(&self.pools) {
            turn.insert(&pool.key, state.ring.cursor());
        }
        let turn: Vec<usize> = snapshot
            .pools
            .iter()
            .map(|pool| turn.get(&pool.key).copied().unwrap_or(self.seed))
            .collect();
        let mut pools = Vec::with_capacity(members.len());
        for ((pool, members), turn) in snapshot.pools.iter().zip(members).zip(turn) {
            let recorders = pool.endpoints.iter().map(|endpoint| {
                self.recorder(Subject::Attempts {
                    namespace: Arc::clone(&pool.key.namespace),
                    service: Arc::clone(&pool.key.service),
                    workload: Arc::clone(&endpoint.workload),
                })
            });
            let recorders = recorders.collect();
            pools.push(PoolState { ring: Ring::new(members, turn), recorders });
        }
        self.pools = pools;
        self.apply_listeners(now, &snapshot);
        self.snapshot = snapshot;
    }

    fn apply_listeners(&mut self, now: Duration, snapshot: &Snapshot) {
        let mut before = std::mem::take(&mut self.listeners);
        for (address, listener) in &snapshot.listeners {
            let old = before.remove(address);
            let old_rules = self.snapshot.listeners.get(address).map_or(&[][..], Listener::rules);
            let rules = listener.rules().iter().map(|rule| {
                let weights: Vec<u32> = rule.backends.iter().map(|one| one.weight).collect();
                // Shares keep counting across changes elsewhere, and start over when they change.
                let same =
                    old_rules.iter().position(|r| r.route == rule.route && r.index == rule.index);
                let kept = same.and_then(|at| old.as_ref()?.rules.get(at));
                match kept.filter(|kept| kept.weights() == weights) {
                    Some(kept) => kept.clone(),
                    None => SmoothWeights::new(weights),
                }
            });
            let rules = rules.collect();
            let split = Split::of(listener, old.as_ref().and_then(|old| old.split.as_ref()));
            let budget = old.as_ref().map_or_else(|| Budget::new(now), |old| old.budget.clone());
            let recorder = self.recorder(Subject::Requests {
                namespace: Arc::clone(&listener.namespace),
                service: Arc::clone(&listener.service),
            });
            self.listeners.insert(*address, ListenerState { rules, split, budget, recorder });
        }
    }

    fn recorder(&mut self, subject: Subject) -> usize {
        if let Some(index) = self.recorder_of.get(&subject) {
            return *index;
        }
        self.recorders.push(Recorder::new(Arc::clone(&self.metrics), subject.clone()));
        self.recorder_of.insert(subject, self.recorders.len() - 1);
        self.recorders.len() - 1
    }
}
