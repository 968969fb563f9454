//! The loop everything runs in: look, decide, ask the door, act.
//!
//! ```text
//! Read/Metrics/Replies --observe--> View --decide--> Plan --Door--> Cleared --perform--> Write,
//!                                                                               Effector
//! ```
//! A [`Controller`] is a pure `decide` with an `observe` in front. [`RunLoop`] drives any number
//! of them over plain futures; the [`Host`] brings the store, the time and the executor. Every
//! [`Action`] of a [`Plan`] is judged (a [`Judge`] per kind computes which way it moves the risk)
//! and passes the [`Door`]; only the loop can make the [`Cleared`] that performing needs. Status,
//! Events and Leases bypass the door, actions never do.
//!
//! Not here: any concrete store, door or clock.
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod action;
mod busy;
mod conditions;
mod controller;
mod door;
mod effect;
mod endings;
mod host;
mod judge;
mod lease;
mod memo;
mod notices;
mod observer;
mod pass;
mod perform;
mod plan;
mod ports;
mod predict;
mod predictions;
mod provider;
mod queue;
mod recorder;
pub mod redact;
mod repeats;
mod retry;
mod run;
mod standing;
mod step;
mod store;

pub use action::{Action, RouteWeight};
pub use conditions::is_condition_of;
pub use controller::{Controller, Digest, DynController, Interest, ObserveError, Trigger, Wakes};
pub use door::{
    AuditId, Door, Objection, OpenDoor, Outcome, OwnHold, Petition, Prediction, Verdict,
};
pub use effect::{ClearedEffect, EffectCall, EffectError, Effected, Effector, Reversal};
pub use endings::{Ending, Endings};
pub use host::Host;
pub use judge::{Change, Direction, Judge, Judged, bookkeeping, workload};
pub use lease::LeaseSettings;
pub use memo::Memo;
pub use notices::{HookCall, NOTIFY, Notices, Notification, Webhooks};
pub use observer::{Activity, NoObserver, Observer, Pass};
pub use perform::Cleared;
pub use plan::{EventNote, EventType, HeldWords, Plan, StatusWrite, Withheld};
pub use ports::{
    HookError, HookReply, Hooks, HostPorts, Metrics, MetricsError, NoHooks, NoMetrics, NoNotifier,
    Notifier, Ports, Replies, Sample, Series, Span, Timer,
};
pub use provider::{Provider, ProviderForm, ProviderTarget};
pub use queue::PANIC_PAUSE_MAX;
pub use recorder::{create_event, event_name};
pub use retry::Retry;
pub use run::RunLoop;
pub use standing::{DefinedBy, Manage, Neighbour, Seen, Standing, Steward, Stewards};
pub use store::{
    DeleteOptions, HostWrites, IsKept, ListQuery, Listed, NO_KIND, Patch, Propagation, Read,
    Reread, Store, StoreError, Subresource, Watch, WatchEvent, Write, WriteOptions,
};

use std::time::Duration;

use futures::future::{Either, select};

/// A future in a box, for object-safe ports.
pub type BoxFuture<'a, T> = futures::future::BoxFuture<'a, T>;
/// A stream in a box, for object-safe ports.
pub type BoxStream<'a, T> = futures::stream::BoxStream<'a, T>;

/// What `future` gives, or `None` when that takes longer than `limit`. No timer is started for a
/// future that is ready at once.
async fn within<T>(
    timer: &dyn Timer,
    limit: Duration,
    future: impl Future<Output = T>,
) -> Option<T> {
    let mut future = std::pin::pin!(future);
    if let std::task::Poll::Ready(value) = futures::poll!(&mut future) {
        return Some(value);
    }
    match select(future, timer.sleep(limit)).await {
        Either::Left((value, _)) => Some(value),
        Either::Right(_) => None,
    }
}
