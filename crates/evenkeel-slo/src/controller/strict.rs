//! An SLO that several policies select: each judges it by its own thresholds, and the strictest one
//! decides.

use std::{cmp::Reverse, collections::BTreeMap};

use super::status::{PolicyState, SloState};
use crate::{
    budget::{History, Standing},
    duration::PromDuration,
    policy::{ActionClass, ErrorBudgetPolicy, Memory, Permission, Signal, State, step},
};

/// How an SLO stands.
pub(super) struct Judged {
    /// The policy that decides; none: the built-in one, which only shows the state.
    pub(super) policy: Option<String>,
    /// The state by that policy.
    pub(super) stands: Memory,
    /// By the others, the stricter ones first.
    pub(super) others: Vec<PolicyState>,
    /// Burn rates that any of them asks for.
    pub(super) burns: BTreeMap<PromDuration, f64>,
}

/// The state of an SLO by each of its policies, those by name, and by the built-in one if it has
/// none. Between policies that allow a release equally much the worse state comes first, then the
/// name.
pub(super) fn judge(
    policies: &[&ErrorBudgetPolicy],
    before: Option<&SloState>,
    (history, standing): (&History, &Standing),
) -> Judged {
    let mut burns = BTreeMap::new();
    let mut stands = |policy: &ErrorBudgetPolicy, name: Option<&str>| {
        let signal = Signal::observe(policy, history, standing);
        let memory = before.map(|old| old.by_policy(name));
        let stands = step(policy, memory, &signal, standing.now);
        burns.extend(signal.burns);
        stands
    };
    let mut all: Vec<(Strictness, PolicyState)> = Vec::new();
    for policy in policies {
        let Memory { state, since } = stands(policy, Some(policy.name()));
        let rank = (policy.permission(ActionClass::Deploy, state), Reverse(state));
        all.push((rank, PolicyState { policy: policy.name().to_owned(), state, since }));
    }
    // Stable: those that are equally strict stay in the order of their names.
    all.sort_by_key(|(rank, _)| *rank);
    let mut all = all.into_iter().map(|(_, by)| by);
    if let Some(PolicyState { policy, state, since }) = all.next() {
        let (policy, stands) = (Some(policy), Memory { state, since });
        return Judged { policy, stands, others: all.collect(), burns };
    }
    let stands = stands(&ErrorBudgetPolicy::built_in(), None);
    Judged { policy: None, stands, others: Vec::new(), burns }
}

/// How little a policy allows, the strictest first.
type Strictness = (Permission, Reverse<State>);

impl SloState {
    /// The state by each policy, the one that decides first.
    pub(super) fn by_policies(&self) -> impl Iterator<Item = (&str, Memory)> {
        let others = self.other_policies.iter();
        let others = others.map(|by| (&*by.policy, Memory { state: by.state, since: by.since }));
        self.policy.iter().map(|name| (&**name, self.memory())).chain(others)
    }

    /// The state by one policy; by the one that decided, where that policy is new.
    fn by_policy(&self, name: Option<&str>) -> Memory {
        let found = self.by_policies().find(|(policy, _)| Some(*policy) == name);
        found.map_or_else(|| self.memory(), |(_, memory)| memory)
    }

    fn memory(&self) -> Memory {
        Memory { state: self.state, since: self.since }
    }
}
