use std::{collections::BTreeMap, fmt, sync::Arc};

use evenkeel_api::{GroupKind, Key, Obj};
use serde_json::Value;

use crate::{BoxFuture, Read};

/// Which way an action moves the risk for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Back to what was known to work, or out of traffic: never blocked.
    Safer,
    /// Changes nothing that serves.
    Neutral,
    /// Something new gets traffic, or capacity is removed: asks the budget.
    Riskier,
}

impl Direction {
    /// As records and metrics write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Safer => "safer",
            Self::Neutral => "neutral",
            Self::Riskier => "riskier",
        }
    }
}

/// One object before and after. `Debug` does not show what it holds.
#[derive(Clone, Copy)]
pub struct Change<'a> {
    /// Which object.
    pub key: &'a Key,
    /// As it is; `None` when there is none.
    pub before: Option<&'a Obj>,
    /// As it will be; `None` when it will be gone.
    pub after: Option<&'a Value>,
    /// The object on whose behalf it is changed.
    pub owner: &'a Key,
}

impl fmt::Debug for Change<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let change = match (self.before, self.after) {
            (None, _) => "made",
            (Some(_), Some(_)) => "changed",
            (Some(_), None) => "removed",
        };
        write!(f, "{} {change} for {}", self.key, self.owner)
    }
}

/// Judges changes of one kind. The direction is computed from the object before and after, never
/// declared by the caller.
pub trait Judge: Send + Sync {
    /// Which way this change moves the risk. `read` is for what the object alone does not say,
    /// such as whether a backend has endpoints; when it cannot be read, answer
    /// [`Direction::Riskier`].
    fn direction<'a>(&'a self, change: Change<'a>, read: &'a dyn Read) -> BoxFuture<'a, Direction>;
}

/// A judge that needs nothing but the change.
pub struct Judged<F>(pub F);

impl<F> Judge for Judged<F>
where
    F: Fn(Change<'_>) -> Direction + Send + Sync,
{
    fn direction<'a>(&'a self, change: Change<'a>, _: &'a dyn Read) -> BoxFuture<'a, Direction> {
        let direction = (self.0)(change);
        Box::pin(std::future::ready(direction))
    }
}

/// The judges of a run loop, by kind. A kind without one is riskier.
#[derive(Clone, Default)]
pub(crate) struct Judges(BTreeMap<GroupKind, Arc<dyn Judge>>);

impl Judges {
    pub(crate) fn add(&mut self, kind: GroupKind, judge: Arc<dyn Judge>) {
        self.0.insert(kind, judge);
    }

    /// The direction, and whether a judge computed it: an object that was judged is written only as
    /// it was judged.
    pub(crate) async fn direction(&self, change: Change<'_>, read: &dyn Read) -> (Direction, bool) {
        match self.0.get(&change.key.kind) {
            Some(judge) => (judge.direction(change, read).await, true),
            None => (Direction::Riskier, false),
        }
    }
}

/// Judges objects that do not serve users (rules, bookkeeping): every change is neutral.
pub fn bookkeeping(_: Change<'_>) -> Direction {
    Direction::Neutral
}

/// Judges workloads by their replicas and their template.
///
/// Creating one or adding replicas is neutral: nothing new gets traffic by it. Fewer replicas,
/// another template and a deletion are riskier, except for something that has no replicas.
pub fn workload(change: Change<'_>) -> Direction {
    let Some(before) = change.before.map(Obj::json) else { return Direction::Neutral };
    let replicas = |obj: &Value| obj.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let Some(after) = change.after else {
        let idle = replicas(before) == 0;
        return if idle { Direction::Neutral } else { Direction::Riskier };
    };
    let same = |path| before.pointer(path) == after.pointer(path);
    if !same("/spec/template") && replicas(after) > 0 {
        return Direction::Riskier;
    }
    if replicas(after) < replicas(before) { Direction::Riskier } else { Direction::Neutral }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use serde_json::json;

    use super::*;

    fn judged(before: Option<Value>, after: Option<&Value>) -> Direction {
        let key = Key::of::<Deployment>("shop", "web");
        let before = before.map(|mut body| {
            body["apiVersion"] = json!("apps/v1");
            body["kind"] = json!("Deployment");
            body["metadata"] = json!({"name": "web", "namespace": "shop"});
            Obj::from_json(body).unwrap()
        });
        workload(Change { key: &key, before: before.as_ref(), after, owner: &key })
    }

    #[test]
    fn workloads_are_judged_by_replicas_and_template() {
        let size = |n: i64, image: &str| json!({"spec": {"replicas": n, "template": image}});
        let cases = [
            (None, Some(size(3, "a")), Direction::Neutral),
            (Some(size(3, "a")), Some(size(5, "a")), Direction::Neutral),
            (Some(size(3, "a")), Some(size(2, "a")), Direction::Riskier),
            (Some(size(3, "a")), Some(size(3, "b")), Direction::Riskier),
            (Some(size(0, "a")), Some(size(0, "b")), Direction::Neutral),
            (Some(size(3, "a")), None, Direction::Riskier),
            (Some(size(0, "a")), None, Direction::Neutral),
        ];
        for (before, after, expected) in cases {
            assert_eq!(judged(before.clone(), after.as_ref()), expected, "{before:?} {after:?}");
        }
    }
}
