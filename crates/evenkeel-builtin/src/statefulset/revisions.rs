//! The present template and the one before, and which pods get which.

use evenkeel_control::Plan;
use k8s_openapi::api::apps::v1::StatefulSet;
use serde_json::Value;

use super::{View, identity};
use crate::{
    history::{self, Draft, History, Update},
    seen::Seen,
};

/// Label with the hash in a revision's name.
const HASH: &str = "controller.kubernetes.io/hash";

/// The revision that pods are to have, and the one that they had.
pub(crate) struct Revisions {
    pub(crate) update: Update,
    /// Name of the current revision.
    pub(crate) current: String,
    present: Value,
    current_template: Value,
}

impl Revisions {
    /// Finds or makes the revision of the present template. **Source**:
    /// `getStatefulSetRevisions`.
    pub(crate) fn of(view: &View, history: &History<'_>) -> Option<Self> {
        let set = &view.set;
        let present = set.obj.json().pointer("/spec/template")?.clone();
        let patch = history::patch_of(&present);
        let labels = present.pointer("/metadata/labels").and_then(Value::as_object);
        let status = set.status.as_ref();
        let collisions = status.and_then(|status| status.collision_count).unwrap_or_default();
        let draft = Draft {
            patch: &patch,
            labels: labels.cloned().unwrap_or_default(),
            hash_label: HASH,
            hash: &|collisions| hash(&patch, collisions),
        };
        let update = history.update(&draft, collisions);
        let named = status.and_then(|status| status.current_revision.as_deref());
        let found = history.own.iter().find(|one| Some(one.name()) == named);
        let found = found.and_then(|one| Some((one.name(), history::template_of(one)?)));
        let (current, current_template) = match found {
            Some((name, template)) => (name.to_owned(), template),
            None => (update.name.clone(), present.clone()),
        };
        Some(Self { update, current, present, current_template })
    }

    /// Template and revision of the pod that an ordinal lacks. **Source**:
    /// `newVersionedStatefulSetPod`.
    pub(crate) fn for_ordinal(&self, set: &Seen<StatefulSet>, ordinal: i64) -> (&Value, &str) {
        let is_old = strategy(set).is_rolling && ordinal < first_updated(set);
        if is_old {
            (&self.current_template, &self.current)
        } else {
            (&self.present, &self.update.name)
        }
    }

    /// Forgets what is beyond the history limit. **Source**: `truncateHistory`.
    pub(crate) fn truncate(&self, history: &History<'_>, view: &View, mut plan: Plan) -> Plan {
        let limit = view.set.spec.as_ref().and_then(|spec| spec.revision_history_limit);
        let is_live = |name: &str| {
            name == self.update.name
                || name == self.current
                || view.pods.iter().any(|pod| pod.obj.label(identity::REVISION) == Some(name))
        };
        plan.then.extend(history.truncate(limit.unwrap_or(10), is_live));
        plan
    }
}

/// The first ordinal that gets the present template.
fn first_updated(set: &Seen<StatefulSet>) -> i64 {
    let status = set.status.as_ref();
    let current = status.and_then(|status| status.current_replicas).map_or(0, i64::from);
    identity::start(set) + strategy(set).partition.unwrap_or(current)
}

/// How pods of an old revision are replaced.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Strategy {
    pub(crate) is_rolling: bool,
    /// The first ordinal to be updated, counted from the first one of all.
    pub(crate) partition: Option<i64>,
}

pub(crate) fn strategy(set: &StatefulSet) -> Strategy {
    let strategy = set.spec.as_ref().and_then(|spec| spec.update_strategy.as_ref());
    let kind = strategy.and_then(|strategy| strategy.type_.as_deref());
    let rolling = strategy.and_then(|strategy| strategy.rolling_update.as_ref());
    Strategy {
        is_rolling: kind != Some("OnDelete"),
        partition: rolling.map(|rolling| rolling.partition.map_or(0, i64::from)),
    }
}

/// The hash in a revision's name: the very one of upstream, which hashes the patch as Go writes it.
///
/// **Source**: `HashControllerRevision`.
fn hash(patch: &Value, collisions: i32) -> String {
    let text = patch.to_string();
    // Go escapes what could end a script in a page.
    let text = text.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let text = text.replace('\u{2028}', "\\u2028").replace('\u{2029}', "\\u2029");
    history::encoded(history::fnv32(format!("{text}{collisions}").as_bytes()))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn go_escapes_are_hashed_as_go_writes_them() {
        let of = |image: &str| hash(&json!({"spec": {"template": image}}), 0);
        assert_ne!(of("a<b"), of("a\\u003cb"));
        assert_ne!(of("a"), of("b"));
    }
}
