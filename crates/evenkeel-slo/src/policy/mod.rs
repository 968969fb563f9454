//! The error-budget policy: what automation may do with the budget that is left.
//!
//! ```text
//! Standing + burn rates --step--> State --decide--> Decision
//!                                            ^
//!             expected cost, reservations, forecast, break-glass
//! ```
//!
//! Three laws hold for every policy that is accepted:
//! less budget never allows more; without data nothing risky goes ahead by itself; what lowers
//! the risk (rollback, abort, un-drain) is never held up.

mod account;
mod canary;
mod decide;
mod spec;
mod state;

pub use account::{Account, AccountError, Reservation, Settlement};
pub use canary::{CanaryPlan, WorstCase};
pub use decide::{
    Ask, BREAK_GLASS, BreakGlass, BreakGlassError, Decision, Situation, Traffic, combine, decide,
};
pub use spec::{
    ActionClass, ActionTable, BreakGlassLimits, BurnCondition, BurnConditions, Costs,
    ErrorBudgetPolicy, Hysteresis, Permission, PolicyError, PolicySpec, SloSelector, State,
    Thresholds,
};
pub use state::{Memory, Signal, step};
