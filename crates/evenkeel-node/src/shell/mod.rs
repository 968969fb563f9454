//! Containers as processes of this machine.
//!
//! ```text
//! agent --spawn--> shim (own session, no runtime) --spawn--> program (own process group)
//!   |               | state.json: pids and start times        | stdout, stderr
//!   |<- pidfd ------+ exit.json: code and time                v
//!   +--- logs: read_logs <----------- output.log (CRI lines, rotated) <- shim
//! ```
//! A shim outlives the agent, so a restarted agent finds everything by what lies in the files and
//! kills only what still has the recorded start time. Linux only: `/proc`, pidfds, subreapers.
//!
//! In a cluster with a network of its own, what the shim starts is this executable again: it moves
//! into the pod's network and into mount and host name namespaces of the container, becomes the
//! container's user, and lets the program take its place.

mod checks;
mod command;
mod enter;
mod exec;
mod files;
mod identity;
mod listener;
mod logfile;
mod logs;
mod process;
mod sandbox;
mod shim;
mod view;

pub use exec::{ExecQuery, Executed, Resize, execute};
pub use logs::{LogQuery, LogsError, read_logs};
pub use process::{ProcessRuntime, ProcessSettings, stop_all};
pub use shim::shim_main;
