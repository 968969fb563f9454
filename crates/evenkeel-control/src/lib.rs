//! The loop everything runs in: look, decide, ask the door, act.
//!
//! ```text
//! Store/Metrics/Hooks --observe--> View --decide--> Plan --Door--> Cleared --perform--> Store
//! ```
//! A [`Controller`] is a pure `decide` with an `observe` in front. [`RunLoop`] drives any number
//! of them over plain futures; the host brings the [`Store`], the time and the executor. Every
//! [`Action`] of a [`Plan`] passes the [`Door`]; only the loop can make the [`Cleared`] that
//! performing needs. Status, Events and Leases bypass the door, actions never do.
//!
//! Not here: any concrete store, door or clock.
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod action;
mod controller;
mod door;
mod perform;
mod plan;
mod ports;
mod queue;
mod recorder;
mod risk;
mod run;
mod store;

pub use action::{Action, HookCall, RouteWeight};
pub use controller::{Controller, DynController, Interest, ObserveError, Trigger, Wakes};
pub use door::{AuditId, Door, OpenDoor, Outcome, Petition, Verdict};
pub use perform::{Cleared, PerformError, Retry};
pub use plan::{EventNote, EventType, Plan, StatusWrite};
pub use ports::{
    HookError, HookReply, Hooks, Host, HostPorts, Metrics, MetricsError, NoHooks, NoMetrics, Ports,
    Sample, Series, Span, Timer,
};
pub use recorder::{create_event, event_name};
pub use risk::{Direction, direction};
pub use run::RunLoop;
pub use store::{
    DeleteOptions, HostWrites, ListQuery, Listed, Patch, Propagation, Read, Store, StoreError,
    Subresource, Watch, WatchEvent, Write, WriteOptions,
};

/// A future in a box, for object-safe ports.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;
/// A stream in a box, for object-safe ports.
pub type BoxStream<'a, T> = futures::stream::BoxStream<'a, T>;
