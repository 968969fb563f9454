//! Maintenance: time that does not count, with a reason and somebody who answers for it.

use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

use crate::model::Slo;

/// A span whose events do not touch the budget. They stay visible as excluded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Exclusion {
    /// Start.
    pub from: Timestamp,
    /// End.
    pub to: Timestamp,
    /// Why.
    pub reason: String,
    /// Who decided it.
    pub author: String,
}

/// Why an exclusion is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ExclusionError {
    /// A text is missing.
    #[error("spec.{field} is required: an exclusion needs a reason and an author")]
    Missing {
        /// Which one.
        field: &'static str,
    },
    /// A field that is none, such as `service`: what it was meant to say is not known.
    #[error("spec.{field} is not a field: remove it or correct its name")]
    Unknown {
        /// Which one.
        field: String,
    },
    /// Not a list of names.
    #[error("spec.services must be a list of services, such as [api]")]
    Services,
    /// Not a point in time.
    #[error("spec.{field} {text:?} is not a time such as 2026-01-31T22:00:00Z")]
    NotATime {
        /// Which one.
        field: &'static str,
        /// As written.
        text: String,
    },
    /// Ends before it starts.
    #[error("spec.to {to} is not after spec.from {from}")]
    Empty {
        /// Start.
        from: Timestamp,
        /// End.
        to: Timestamp,
    },
    /// So long that it hides an SLO instead of a maintenance.
    #[error("an exclusion lasts at most {max_hours} hours, this one {hours}")]
    TooLong {
        /// Its length.
        hours: i64,
        /// [`Exclusion::HOURS_MAX`].
        max_hours: i64,
    },
}

impl Exclusion {
    /// Longest exclusion: a week. What lasts longer is a change of the objective.
    pub const HOURS_MAX: i64 = 7 * 24;

    /// Checks an exclusion.
    pub fn checked(self) -> Result<Self, ExclusionError> {
        for (field, text) in [("reason", &self.reason), ("author", &self.author)] {
            if text.trim().is_empty() {
                return Err(ExclusionError::Missing { field });
            }
        }
        if self.to <= self.from {
            return Err(ExclusionError::Empty { from: self.from, to: self.to });
        }
        let hours = (self.to.as_second() - self.from.as_second()) / 3600;
        if hours > Self::HOURS_MAX {
            return Err(ExclusionError::TooLong { hours, max_hours: Self::HOURS_MAX });
        }
        Ok(self)
    }

    /// Whether a `spec` names the SLO's service, or none in particular.
    pub fn concerns(spec: &Value, slo: &Slo) -> bool {
        let services = spec.get("services").and_then(Value::as_array);
        services.is_none_or(|all| all.is_empty() || all.iter().any(|s| s == slo.service.as_str()))
    }

    /// Reads the `spec` of an `evenkeel.dev/v1alpha1 SloMaintenance`:
    /// `{from, to, reason, author, services}`.
    pub fn from_spec(spec: &Value) -> Result<Self, ExclusionError> {
        let known = ["from", "to", "reason", "author", "services"];
        let mut given = spec.as_object().into_iter().flat_map(|fields| fields.keys());
        if let Some(field) = given.find(|field| !known.contains(&field.as_str())) {
            return Err(ExclusionError::Unknown { field: field.clone() });
        }
        let names = |all: &Vec<Value>| all.iter().all(Value::is_string);
        if !spec.get("services").is_none_or(|all| all.as_array().is_some_and(names)) {
            return Err(ExclusionError::Services);
        }
        let text = |field| spec.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
        let time = |field| {
            let text = text(field);
            text.parse::<Timestamp>().map_err(|_| ExclusionError::NotATime { field, text })
        };
        let made = Self {
            from: time("from")?,
            to: time("to")?,
            reason: text("reason"),
            author: text("author"),
        };
        made.checked()
    }
}

/// All exclusions of one SLO.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    list: Vec<Exclusion>,
}

impl Exclusions {
    /// In order of start.
    pub fn new(mut list: Vec<Exclusion>) -> Self {
        list.sort_by(|a, b| (a.from, a.to, &a.reason).cmp(&(b.from, b.to, &b.reason)));
        Self { list }
    }

    /// The exclusion that covers a whole span. A span that is partly outside counts whole.
    pub fn covering(&self, from: Timestamp, to: Timestamp) -> Option<&Exclusion> {
        self.list.iter().take_while(|e| e.from <= from).find(|e| to <= e.to)
    }

    /// All of them.
    pub fn list(&self) -> &[Exclusion] {
        &self.list
    }
}
