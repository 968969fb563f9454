//! Whose an object is, on a cluster on which other controllers look after the same kinds.

use std::sync::Arc;

use evenkeel_api::{GroupKind, Obj, beside};

use crate::{BoxFuture, StoreError};

/// Knows who looks after the objects of a kind.
pub trait Stewards: Send + Sync {
    /// Who does.
    ///
    /// **Errors**: that cannot be found out now; nothing is done with such objects meanwhile.
    fn of<'a>(&'a self, kind: &'a GroupKind) -> BoxFuture<'a, Result<Steward, StoreError>>;
}

/// Who looks after the objects of a kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Steward {
    /// Evenkeel, all of them.
    Evenkeel,
    /// Evenkeel those that were handed over, nobody else the others.
    Consent {
        /// Why not all of them, for people.
        why: Arc<str>,
    },
    /// Evenkeel those that were handed over, another controller the others.
    Other {
        /// Who, as people call it.
        name: &'static str,
        /// How that is known, for people.
        why: Arc<str>,
    },
}

/// Evenkeel alone works on this cluster.
pub(crate) struct NoOthers;

impl Stewards for NoOthers {
    fn of<'a>(&'a self, _: &'a GroupKind) -> BoxFuture<'a, Result<Steward, StoreError>> {
        Box::pin(async { Ok(Steward::Evenkeel) })
    }
}

/// What evenkeel may do with one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Standing {
    /// It looks after it, and nobody else does.
    #[default]
    Ours,
    /// It looks after it: a person handed it over from this controller, which is there, too.
    HandedOver(&'static str),
    /// It only looks at it.
    Observed {
        /// Why, for people.
        why: Arc<str>,
    },
}

impl Standing {
    /// What a steward leaves to evenkeel of an object.
    pub fn of(steward: Steward, obj: &Obj) -> Self {
        let handed_over = beside::is_handed_over(obj.json());
        match steward {
            Steward::Evenkeel => Self::Ours,
            Steward::Consent { .. } if handed_over => Self::Ours,
            Steward::Other { name, .. } if handed_over => Self::HandedOver(name),
            Steward::Consent { why } | Steward::Other { why, .. } => Self::Observed { why },
        }
    }

    /// Whether nothing of the object may be changed.
    pub fn is_observed(&self) -> bool {
        matches!(self, Self::Observed { .. })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn an_object_is_touched_only_where_it_is_ours_or_was_handed_over() {
        let why: Arc<str> = "why".into();
        let other = || Steward::Other { name: "Flagger", why: why.clone() };
        let consent = || Steward::Consent { why: why.clone() };
        let observed = || Standing::Observed { why: why.clone() };
        for (steward, annotation, standing) in [
            (Steward::Evenkeel, "", Standing::Ours),
            (Steward::Evenkeel, "false", Standing::Ours),
            (consent(), "true", Standing::Ours),
            (consent(), "", observed()),
            (other(), "true", Standing::HandedOver("Flagger")),
            (other(), "", observed()),
            (other(), "yes", observed()),
            (other(), "false", observed()),
        ] {
            let body = json!({"apiVersion": "x/v1", "kind": "A", "metadata": {"name": "a",
                "annotations": {beside::MANAGED: annotation}}});
            let obj = Obj::from_json(body).unwrap();
            assert_eq!(Standing::of(steward.clone(), &obj), standing, "{steward:?} {annotation}");
        }
    }
}
