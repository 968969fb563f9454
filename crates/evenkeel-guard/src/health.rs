use std::{
    fmt::Write as _,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use crate::counters::Counters;

/// How the record of a running system is: for `/readyz` and `/metrics`.
#[derive(Debug, Clone)]
pub struct Health {
    /// Where the record lies, without secrets.
    pub(crate) name: String,
    /// Others write it too, in a store that may be away.
    pub(crate) is_shared: bool,
    /// What is wrong with the record that was found.
    pub(crate) damage: Option<String>,
    pub(crate) counters: Arc<Counters>,
}

impl Health {
    /// Why nothing can be recorded in a shared store now, in words for a person; `None` when the
    /// last attempt succeeded, and for a record in files: whether those can be written again shows
    /// only when there is something to write.
    pub fn away(&self) -> Option<String> {
        if !self.is_shared {
            return None;
        }
        if let Some(damage) = &self.damage {
            return Some(format!("{}: {damage}", self.name));
        }
        let trouble = self.counters.trouble()?;
        Some(format!(
            "the audit record in {} is away since {:.0}: {}; only what makes things safer is done, \
             and is recorded when it is back",
            self.name, trouble.since, trouble.error
        ))
    }

    /// The same in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let is_away = self.damage.is_some() || self.counters.trouble().is_some();
        let name = self.name.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', " ");
        let mut out = String::new();
        // Writing into a string cannot fail.
        write!(
            out,
            "# HELP evenkeel_audit_record_away Whether the audit record could not be written or \
             reached at the last attempt.\n\
             # TYPE evenkeel_audit_record_away gauge\n\
             evenkeel_audit_record_away{{record=\"{name}\"}} {}\n\
             # HELP evenkeel_audit_late_lines Lines that wait for the audit record.\n\
             # TYPE evenkeel_audit_late_lines gauge\n\
             evenkeel_audit_late_lines {}\n",
            u8::from(is_away),
            self.counters.late.load(Relaxed)
        )
        .unwrap_or_default();
        out
    }
}
