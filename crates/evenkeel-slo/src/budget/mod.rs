//! The error budget: exact counts, windows, states.

mod objective;

pub use objective::Objective;
