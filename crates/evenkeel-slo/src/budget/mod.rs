//! The error budget: exact counts, rolling windows, exclusions, and who spent it.
//!
//! Everything is whole numbers: events in millionths, ratios in 10^-12. Slices of time are
//! counted once and summed, so what the ledger attributes is exactly what the budget lost.

mod count;
mod counters;
mod exclusion;
mod history;
mod ledger;
mod objective;
mod slices;
mod sources;

pub use count::{Events, Slice, Tally};
pub use counters::{CountError, Counters, Reading, SeriesId};
pub use exclusion::{Exclusion, ExclusionError, Exclusions};
pub use history::{Book, Coverage, Forecast, History, HistoryError, SloKey, Standing};
pub use ledger::{Cause, CauseKind, Ledger, LedgerEntry, LedgerLine};
pub use objective::{Objective, PARTS};
pub use sources::{CounterSources, counter_sources};
