//! The door's keeper: the append-only, signed audit record, its verification, and policies.
//!
//! ```text
//! Petition --policies--> verdict --record--> Sink (files or memory) --> the run loop acts --> outcome
//! ```
//! [`RecordDoor`] writes DATA-DIR/audit/, or a record that several processes share (see
//! [`LineStore`]): one line before an effect, one with its outcome. Every
//! line carries the SHA-256 of the line before it and an Ed25519 signature; the private key lies
//! outside the folder. [`verify`] with the public key finds an edited, deleted, inserted, moved or
//! cut line and a record that was rewritten as a whole. **What it cannot find**: that somebody put
//! the whole folder back to an older state; keep copies of HEAD elsewhere to rule that out.
//!
//! **Durability**: a line is synced to disk before its effect happens, by a thread of its own that
//! takes all lines of a moment together. Outcomes and refusals are synced with the next batch, or
//! within a second.
//!
//! Laws: an action that makes things safer is never blocked. When it cannot be recorded it happens
//! all the same, and its lines follow later, marked `late`. Everything else fails closed.

mod book;
mod counters;
mod describe;
mod end;
mod files;
mod follow;
mod head;
mod health;
mod keeper;
mod key;
mod memory;
mod mirror;
mod policy;
mod recent;
mod record;
mod redact;
mod regular;
mod retention;
mod segment;
mod shared;
mod verify;
mod writer;

pub use files::{FileSink, OpenError};
pub use follow::Follow;
pub use head::copy_of_head;
pub use health::Health;
pub use keeper::{Keeper, MemoryDoor, RecordDoor, Settings, Stats};
pub use key::{KeyError, PublicKey, SigningKey};
pub use memory::MemorySink;
pub use mirror::Mirror;
pub use policy::{BudgetGate, Opinion, Policy, RateLimit, Switch, TargetSanity};
pub use record::{Asked, Dropped, Entry, Line, Objected, State};
pub use retention::{Keep, KeepError};
pub use shared::{Batch, Doubt, LineStore, StoredEnd, StoredFile, StoredLine};
pub use verify::{Check, Summary, Tampering, Torn, Unsound, read, verify};
pub use writer::{Inline, Record, Writer};
