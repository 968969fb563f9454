//! Whose an object is, on a cluster on which other controllers look after the same kinds.
//!
//! Who acts is decided in two steps, both pure and without a memory: [`Steward::of`] of a kind, and
//! [`Standing::of`] of an object. The test `standing` of
//! this crate has a row for every case.

use std::sync::Arc;

use evenkeel_api::{
    GroupKind, Obj,
    beside::{Hand, Marks, Release},
};

use crate::{BoxFuture, StoreError};

/// Knows who looks after the objects of a kind.
pub trait Stewards: Send + Sync {
    /// Who does.
    ///
    /// **Errors**: that cannot be found out now; nothing is done with such objects meanwhile.
    fn of<'a>(&'a self, kind: &'a GroupKind) -> BoxFuture<'a, Result<Steward, StoreError>>;
}

/// Which objects are acted on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Manage {
    /// All.
    All,
    /// Those that were handed over.
    Annotated,
    /// Where another controller looks after a kind, those that were handed over; else all.
    Auto,
}

/// Whose the definition of a kind is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DefinedBy {
    /// Evenkeel's.
    Us,
    /// Another project's.
    Another,
    /// It cannot be read.
    Unknown,
}

/// What was seen of the Deployment of another controller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Seen {
    /// It has pods, or wants some: it may act at any moment.
    Running {
        /// Which Deployment.
        deployment: String,
    },
    /// It has no pods and wants none.
    WithoutReplicas,
    /// There is none.
    NotFound,
    /// There is none in the one namespace that is looked at.
    NotFoundHere,
    /// Deployments may not be listed.
    CannotLook,
}

/// What is known of the controller that looks after a kind elsewhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// As people call it.
    pub name: &'static str,
    /// Name of the definition of the kind.
    pub crd: String,
    /// Whose it is.
    pub definition: DefinedBy,
    /// What was seen of it.
    pub seen: Seen,
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
        /// Both signs say so, or one does and the other cannot be read. Of one sign alone it may be a
        /// mistake, or malice: anybody can make a Deployment with a name.
        sure: bool,
    },
}

impl Steward {
    /// Who looks after a kind.
    ///
    /// **Errors**: what is to be done, in words, where that cannot be found out: nothing is acted on.
    pub fn of(neighbour: &Neighbour, manage: Manage) -> Result<Self, String> {
        let Neighbour { name, crd, definition, seen } = neighbour;
        let (unread, foreign) = match definition {
            DefinedBy::Us => (false, false),
            DefinedBy::Another => (false, true),
            DefinedBy::Unknown => (true, false),
        };
        let hidden = matches!(seen, Seen::CannotLook | Seen::NotFoundHere);
        let why = match (seen, manage) {
            (_, Manage::All) => return Ok(Self::Evenkeel),
            _ if foreign => format!("the CustomResourceDefinition {crd} is {name}'s"),
            (_, Manage::Auto) if unread => {
                return Err(format!(
                    "its CustomResourceDefinition cannot be read, so it may be {name}'s: allow to \
                     get, list and watch customresourcedefinitions, or run with --manage all"
                ));
            }
            (Seen::Running { deployment }, _) => format!("{name} runs here ({deployment})"),
            (Seen::CannotLook, Manage::Auto) => {
                return Err(format!(
                    "Deployments cannot be listed, so {name} may run here: allow to list and watch \
                     deployments, or run with --manage all"
                ));
            }
            (_, Manage::Auto) => return Ok(Self::Evenkeel),
            (_, Manage::Annotated) if unread || hidden => {
                format!("evenkeel runs with --manage annotated, and {name} may be there, too")
            }
            (_, Manage::Annotated) => {
                let why = "evenkeel runs with --manage annotated".into();
                return Ok(Self::Consent { why });
            }
        };
        let sure = (foreign || unread) && (hidden || matches!(seen, Seen::Running { .. }));
        Ok(Self::Other { name, why: why.into(), sure })
    }
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
    /// It looks after it, and a person wants nothing done.
    Suspended,
    /// It looks after it: a person handed it over from this controller, which is there, too.
    HandedOver(&'static str),
    /// It was handed over from this controller, which acts on it all the same: nothing is done.
    InBothHands(&'static str),
    /// It was handed over amid a release by this controller: nothing is done.
    ReleaseOfAnother(&'static str),
    /// It only looks at it.
    Observed {
        /// Why, for people.
        why: Arc<str>,
        /// What is ours on it is taken off: a person wants it back, or another controller has it.
        give_back: bool,
    },
}

impl Standing {
    /// What a steward leaves to evenkeel of an object.
    ///
    /// Of two controllers one acts, and what evenkeel has begun it ends, unless somebody else surely
    /// goes on with it.
    pub fn of(steward: Steward, marks: &Marks) -> Self {
        let (over, back) = (marks.hand == Hand::Over, marks.hand == Hand::Back);
        let begun = marks.release == Release::Ours;
        // On an object that was handed over, `suspend` is what stops the other controller.
        let suspended = marks.suspend == Some(true) && !over && !marks.deleting;
        let ours = if suspended { Self::Suspended } else { Self::Ours };
        match steward {
            Steward::Evenkeel => ours,
            Steward::Consent { .. } if over || begun => ours,
            Steward::Consent { why } => Self::Observed { why, give_back: back },
            Steward::Other { name, sure, .. } if over => {
                if marks.suspend == Some(false) {
                    // Whoever else is there writes a version of its own, and it is ours no more.
                    let goes_on = begun && !sure && !marks.deleting;
                    if goes_on { Self::Ours } else { Self::InBothHands(name) }
                } else if marks.release == Release::Theirs && !marks.deleting {
                    Self::ReleaseOfAnother(name)
                } else {
                    Self::HandedOver(name)
                }
            }
            Steward::Other { sure: false, .. } if begun && !back => ours,
            Steward::Other { why, sure, .. } => Self::Observed { why, give_back: sure || back },
        }
    }

    /// As [`Self::of`], of an object as it is.
    pub fn of_object(steward: Steward, obj: &Obj) -> Self {
        Self::of(steward, &Marks::of(obj))
    }

    /// Whether nothing of the object may be changed.
    pub fn is_observed(&self) -> bool {
        matches!(self, Self::Observed { .. })
    }
}
