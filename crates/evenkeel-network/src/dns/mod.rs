//! The cluster's names: a zone of its own, everything else from the host's name servers.

mod answer;
mod server;
mod zone;

pub use server::{Answers, Server};
pub use zone::{Record, Target, Zone};
