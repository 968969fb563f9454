//! The same code under virtual time, and the demo's script that both worlds run.
//!
//! ```text
//! world          time, a store with faults, a cluster of paper, checkers that know no controller
//! demo::script   what happens, in which order, and what must come of it
//! demo::report   the table and the JSON, and what counts as fine
//! ```
//! Not here: any decision about releases; those are `delivery`'s, the same in both worlds.

pub mod demo;
pub mod world;
