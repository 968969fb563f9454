//! Passive health of one endpoint: what it answers decides whether it is asked.

use std::time::Duration;

/// Failed answers in a row after which an endpoint is ejected.
const FAILURES_IN_A_ROW_MAX: u32 = 5;
/// First ejection; each further one takes twice as long.
const EJECTION_BASE: Duration = Duration::from_secs(1);
/// An endpoint that is back is found within this time.
const EJECTION_MAX: Duration = Duration::from_secs(32);

/// What an attempt says about the endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sign {
    /// An answer that is not a server error.
    Good,
    /// A server error, a broken fresh connection or no answer in time.
    Bad,
    /// Nothing listens on the port.
    Refused,
}

/// Counts and the ejection that follows from them.
#[derive(Debug, Clone, Default)]
pub(super) struct Health {
    failures_in_a_row: u32,
    ejections: u32,
    ejected_until: Option<Duration>,
}

impl Health {
    /// Whether the endpoint is out at `now`.
    pub(super) fn ejected(&self, now: Duration) -> bool {
        self.ejected_until.is_some_and(|until| now < until)
    }

    /// Whether the endpoint comes back from an ejection and has not answered well since: it gets one
    /// request at a time.
    pub(super) fn on_probation(&self) -> bool {
        self.ejected_until.is_some()
    }

    /// Takes note of one attempt. `may_eject` is asked only when it matters; true is returned when
    /// the endpoint was ejected now.
    pub(super) fn note(
        &mut self,
        now: Duration,
        sign: Sign,
        may_eject: impl FnOnce() -> bool,
    ) -> bool {
        let eject = match sign {
            Sign::Good => {
                // An answer to a request that was sent before the ejection proves nothing.
                if !self.ejected(now) {
                    *self = Self::default();
                }
                return false;
            }
            Sign::Bad => {
                self.failures_in_a_row += 1;
                self.failures_in_a_row >= FAILURES_IN_A_ROW_MAX || self.on_probation()
            }
            Sign::Refused => true,
        };
        if !eject || self.ejected(now) || !may_eject() {
            return false;
        }
        let factor = 1_u32.checked_shl(self.ejections).unwrap_or(u32::MAX);
        self.ejected_until = Some(now + EJECTION_BASE.saturating_mul(factor).min(EJECTION_MAX));
        self.ejections = (self.ejections + 1).min(16);
        self.failures_in_a_row = 0;
        true
    }
}
