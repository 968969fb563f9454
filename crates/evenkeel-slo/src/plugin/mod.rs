//! Sloth's plugins by id, built in. Sloth loads Go sources; a plugin that is not listed here is
//! refused with its id, never skipped.

mod chain;
mod sli;

pub use chain::SLO_PLUGIN_IDS;
pub(crate) use chain::{ExhaustedAlert, RemoveLabels, SloPlugin, resolve_chain};
pub use sli::SLI_PLUGIN_IDS;
pub(crate) use sli::{SliContext, sli_query};

use crate::reasons;

/// Why a plugin cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum PluginError {
    /// Not in the list.
    #[error("plugin {id:?} is not built in")]
    Unknown {
        /// The id as written.
        id: String,
        /// The ids there are.
        known: &'static [&'static str],
    },
    /// The plugin does not accept its options or configuration.
    #[error("plugin {id:?} execution error: {message}")]
    Refused {
        /// The id as written.
        id: String,
        /// What it says.
        message: String,
    },
}

impl PluginError {
    /// The reason for a finding.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => reasons::UNKNOWN_PLUGIN,
            Self::Refused { .. } => reasons::PLUGIN_REFUSED,
        }
    }

    /// What to do about it.
    pub(crate) fn fix(&self) -> String {
        match self {
            Self::Unknown { id, known } => {
                let mut near: Vec<_> = known.iter().map(|k| (shared_words(k, id), *k)).collect();
                near.retain(|(shared, _)| *shared > 0);
                near.sort_by_key(|(shared, _)| std::cmp::Reverse(*shared));
                let near: Vec<_> = near.into_iter().take(3).map(|(_, k)| k).collect();
                if near.is_empty() {
                    "write the query itself, or use a built-in id: evenkeel slo plugins".to_owned()
                } else {
                    format!("use one of the built-in ids, such as {}", near.join(", "))
                }
            }
            Self::Refused { .. } => "correct the plugin's options".to_owned(),
        }
    }
}

fn shared_words(known: &str, id: &str) -> usize {
    let words = |text: &str| -> Vec<String> {
        text.split(['/', '_', '-', '.'])
            .filter(|w| w.len() > 2 && !matches!(*w, "sloth" | "common" | "dev"))
            .map(str::to_owned)
            .collect()
    };
    let known = words(known);
    words(id).iter().filter(|w| known.contains(w)).count()
}
