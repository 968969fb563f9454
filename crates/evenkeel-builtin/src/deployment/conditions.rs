//! Conditions of a Deployment.

use k8s_openapi::api::apps::v1::DeploymentCondition;

/// The condition of a type.
pub(crate) fn condition<'a>(
    all: &'a [DeploymentCondition],
    kind: &str,
) -> Option<&'a DeploymentCondition> {
    all.iter().find(|condition| condition.type_ == kind)
}

/// Writes a condition unless its status and reason stand already. The new one goes last, as
/// upstream orders them.
pub(crate) fn set_condition(all: &mut Vec<DeploymentCondition>, mut new: DeploymentCondition) {
    if let Some(old) = condition(all, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time = old.last_transition_time.clone();
        }
    }
    all.retain(|condition| condition.type_ != new.type_);
    all.push(new);
}
