use evenkeel_control::Petition;
use jiff::Timestamp;

/// A rule that riskier actions must satisfy: a budget, a freeze, an approval.
///
/// It is never asked about actions that make things safer, nor about neutral ones.
pub trait Policy: Send + Sync {
    /// What it says about this action now. Must not block.
    fn judge(&self, petition: &Petition<'_>) -> Opinion;
}

/// What a [`Policy`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Opinion {
    /// Nothing against it.
    Allow,
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

/// The policy of a host that has none: the record alone guards the door.
pub struct AllowAll;

impl Policy for AllowAll {
    fn judge(&self, _petition: &Petition<'_>) -> Opinion {
        Opinion::Allow
    }
}
