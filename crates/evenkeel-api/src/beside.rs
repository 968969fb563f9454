//! What evenkeel writes on objects, and on definitions, of a cluster on which others work, too.

use serde_json::Value;

use crate::{
    Obj,
    canary::{Canary, Phase},
};

/// Annotation by which a person hands an object over to evenkeel: `"true"`. Taking it away hands
/// the object back.
pub const MANAGED: &str = "evenkeel.dev/managed";

/// Annotation with the part of a status that the object's `CustomResourceDefinition` does not keep.
///
/// **Shape**: JSON with `version`, `uid` of the object, and `status`: fields of the status by name,
/// each whole; `null` for one that is not there.
pub const STATUS: &str = "evenkeel.dev/status";

/// Whether an annotation is about who acts on an object, and not a part of what it says.
pub fn is_bookkeeping(annotation: &str) -> bool {
    [MANAGED, STATUS].contains(&annotation)
}

/// Label of the `CustomResourceDefinition`s that evenkeel brings, with the value `"true"`.
pub const DEFINITION: &str = "evenkeel.dev/definition";

/// Whether an object was handed over to evenkeel.
pub fn is_handed_over(object: &Value) -> bool {
    annotation(object, MANAGED) == Some("true")
}

/// The value of [`MANAGED`] on an object when it hands nothing over and hardly means to say so:
/// anything but `"true"`, `"false"` and nothing.
pub fn misread_hand(object: &Value) -> Option<&str> {
    annotation(object, MANAGED).filter(|value| !matches!(*value, "true" | "false" | ""))
}

/// An annotation of an object.
pub fn annotation<'a>(object: &'a Value, name: &str) -> Option<&'a str> {
    object.get("metadata")?.get("annotations")?.get(name)?.as_str()
}

/// How evenkeel names versions in a status: other controllers use a bare hash.
pub const REVISION_PREFIX: &str = "ek1-";

/// Whether a version in a status was named by evenkeel.
pub fn is_our_revision(revision: &str) -> bool {
    revision.starts_with(REVISION_PREFIX)
}

/// What an object says about who is to act on it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Marks {
    /// Whether a person has handed it over.
    pub hand: Hand,
    /// `spec.suspend`, the switch of the controller that an object is handed over from; `None`
    /// where the kind has none.
    pub suspend: Option<bool>,
    /// It is being deleted.
    pub deleting: bool,
    /// Whose release is under way.
    pub release: Release,
}

/// Whether an object is handed over to evenkeel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Hand {
    /// Nobody says so.
    #[default]
    Never,
    /// By [`MANAGED`].
    Over,
    /// It was so, and the annotation was taken away: a person wants it back.
    Back,
}

/// Whose release is under way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Release {
    /// None is.
    #[default]
    None,
    /// Evenkeel began it; or the object is deleted, and was released by evenkeel last.
    Ours,
    /// Another controller began it.
    Theirs,
}

impl Marks {
    /// Those of an object. What cannot be read counts as not there.
    pub fn of(obj: &Obj) -> Self {
        let body = obj.json();
        let flag = |path: &str| body.pointer(path).and_then(Value::as_bool) == Some(true);
        // Of a Canary, and of an SLO.
        let noted = flag("/status/evenkeel/handedOver") || flag("/status/handedOver");
        let hand = if is_handed_over(body) {
            Hand::Over
        } else if noted {
            Hand::Back
        } else {
            Hand::Never
        };
        let deleting = obj.is_deleting();
        let mut marks = Self { hand, deleting, ..Self::default() };
        if !obj.key().kind.is::<Canary>() {
            return marks;
        }
        marks.suspend = Some(flag("/spec/suspend"));
        let text = |path: &str| body.pointer(path).and_then(Value::as_str).unwrap_or_default();
        let applied = text("/status/lastAppliedSpec");
        let runs = Phase::parse(text("/status/phase")).is_some_and(Phase::is_release);
        marks.release = match (is_our_revision(applied), runs) {
            (true, runs) if runs || deleting => Release::Ours,
            (false, true) if !applied.is_empty() => Release::Theirs,
            _ => Release::None,
        };
        marks
    }
}

/// Whether a `CustomResourceDefinition` says that it is one of evenkeel's.
pub fn is_our_definition(crd: &Value) -> bool {
    let labels = crd.get("metadata").and_then(|metadata| metadata.get("labels"));
    labels.and_then(|labels| labels.get(DEFINITION)).and_then(Value::as_str) == Some("true")
}
