//! The door's keeper: the append-only audit record, its verification, and policies.
//!
//! ```text
//! Petition --policy--> verdict --record--> Sink (files or memory) --> the run loop acts --> outcome
//! ```
//! [`FileDoor`] writes DATA-DIR/audit/: one line before an effect, one with its outcome. Every
//! line carries the SHA-256 of the line before it, and a HEAD file names the last one, so that
//! [`verify`] finds an edited, deleted, inserted, moved or cut line. **What it cannot find**: a
//! rewrite of the whole record together with HEAD by somebody who can write the folder; copy HEAD
//! elsewhere to rule that out. **Durability**: a line and HEAD are synced to disk (`fdatasync`)
//! before the effect happens. [`MemoryDoor`] keeps the same lines in memory, for virtual time.
//!
//! Laws: an action that makes things safer is never blocked. When it cannot be recorded it happens
//! all the same, and its lines follow later, marked `late`. Everything else fails closed.

mod budget;
mod describe;
mod files;
mod keeper;
mod memory;
mod policy;
mod record;
mod verify;

pub use budget::BudgetGate;
pub use files::{FileSink, OpenError};
pub use keeper::{FileDoor, Keeper, MemoryDoor, Sink};
pub use memory::MemorySink;
pub use policy::{AllowAll, Opinion, Policy};
pub use record::{Entry, Line, State};
pub use verify::{Summary, Tampering, read, verify};
