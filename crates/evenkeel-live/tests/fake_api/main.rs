//! The client of a cluster against a server on loopback that misbehaves as networks do.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

mod annex;
mod cache;
mod credentials;
mod hooks;
mod neighbours;
mod notify;
mod scope;
mod silence;
mod strangers;
mod support;
