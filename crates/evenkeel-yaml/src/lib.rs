//! YAML as kubectl, Sloth and promtool read it: the one reader for files that people write.
//!
//! ```text
//! text --split--> Document --parse--> Node --json--> Value   as sigs.k8s.io/yaml, for Kubernetes
//!                                      |
//!                                      +-----read--> T       as go-yaml fills a struct
//! ```
//! Both ways know YAML 1.1 (`yes`, `on` and `n` are booleans, `017` is 15). They differ where Go
//! differs: a field of type string keeps the text as it was written (`1.10` stays `1.10`), JSON
//! has the resolved value.
//!
//! Stricter than Go in two places, because Go silently loses data there: a key given twice is an
//! error, and so is text after the end of the document.
//!
//! Not here: writing YAML, comments, `!!binary`.
//!
//! **Source**: resolve.go and decode.go of go.yaml.in/yaml/v2, yaml.go of sigs.k8s.io/yaml.
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod compose;
mod error;
mod node;
mod read;
mod scalar;
mod split;

pub use error::Error;
pub use node::{Entry, Node, Place};
pub use split::{Document, split};

use serde::de::DeserializeOwned;

/// Reads a text of one document into a Rust type.
///
/// **Errors**: not YAML, or a field that is unknown, missing or of another type.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, Error> {
    Node::parse(text)?.read()
}
