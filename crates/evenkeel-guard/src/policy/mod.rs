//! The chain of small rules that an action must satisfy.

mod budget;
mod rate;
mod switch;
mod target;

use evenkeel_control::{Direction, Objection, Petition};
use jiff::Timestamp;

pub use budget::BudgetGate;
pub use rate::RateLimit;
pub use switch::Switch;
pub use target::TargetSanity;

use crate::record::Objected;

/// A rule of the door: a budget, a freeze, an approval.
///
/// It sees every action, whatever its direction. Against one that makes things safer its word is
/// recorded and does not count, unless [`Policy::binds_safer`].
pub trait Policy: Send + Sync {
    /// Its name in the record, in `kebab-case`.
    fn name(&self) -> &'static str;

    /// What it says about this action now. Must not block.
    fn judge(&self, petition: &Petition<'_>) -> Opinion;

    /// Hears of every action that the whole chain let through.
    fn allowed(&self, _petition: &Petition<'_>) {}

    /// Whether it also binds actions that make things safer. Only for what can never be meant,
    /// such as an action without a target.
    fn binds_safer(&self) -> bool {
        false
    }
}

/// What a [`Policy`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// Nothing against it.
    Allow,
    /// Nothing against it, by an exception that somebody made: its line in the record says so.
    AllowBecause {
        /// Which exception, whose, until when, and why.
        reason: String,
    },
    /// Not now.
    Hold {
        /// When to ask again; `None` leaves that to the loop.
        until: Option<Timestamp>,
        /// Why, and who can change it.
        reason: String,
    },
    /// Not at all.
    Deny {
        /// Why.
        reason: String,
    },
}

/// Policies in order. All are asked; the first that does not allow decides.
pub(crate) struct Chain(Vec<Box<dyn Policy>>);

/// What a chain says.
pub(crate) struct Judgement {
    /// The opinion that decides.
    pub(crate) opinion: Opinion,
    /// Everything that counts against the action, the decisive one first.
    pub(crate) objections: Vec<Objection>,
    /// Everything that was said against it, whether it counts or not, and the exceptions.
    pub(crate) said: Vec<Objected>,
}

impl Chain {
    pub(crate) fn new() -> Self {
        Self(vec![Box::new(TargetSanity)])
    }

    pub(crate) fn push(&mut self, policy: impl Policy + 'static) {
        self.0.push(Box::new(policy));
    }

    pub(crate) fn judge(&self, petition: &Petition<'_>) -> Judgement {
        let safer = petition.direction == Direction::Safer;
        let (mut decisive, mut objections, mut said) = (Opinion::Allow, Vec::new(), Vec::new());
        for policy in &self.0 {
            let opinion = policy.judge(petition);
            let (verdict, reason) = match &opinion {
                Opinion::Allow => continue,
                // What makes things safer needs no exception.
                Opinion::AllowBecause { .. } if safer => continue,
                Opinion::AllowBecause { reason } => ("allow", reason.clone()),
                Opinion::Hold { reason, .. } => ("hold", reason.clone()),
                Opinion::Deny { reason } => ("deny", reason.clone()),
            };
            said.push(Objected {
                policy: policy.name().to_owned(),
                verdict: verdict.to_owned(),
                reason: reason.clone(),
            });
            if verdict == "allow" || (safer && !policy.binds_safer()) {
                continue;
            }
            objections.push(Objection { policy: policy.name(), reason });
            if decisive == Opinion::Allow {
                decisive = opinion;
            }
        }
        Judgement { opinion: decisive, objections, said }
    }

    pub(crate) fn allowed(&self, petition: &Petition<'_>) {
        self.0.iter().for_each(|policy| policy.allowed(petition));
    }
}
