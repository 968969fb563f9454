//! What is wrong with a primary that has traffic: no pod serves, or it is not what was promoted.
//!
//! Nothing is done about either. A person scales the primary or edits it on purpose, perhaps in an
//! emergency; what they must not do is forget it.

use evenkeel_api::canary::Phase;
use serde_json::Value;

use crate::{CanaryView, draft::Trouble, reasons, workload::Workload};

/// Lists of a pod spec whose elements have a name and an image.
const CONTAINERS: [&str; 2] = ["initContainers", "containers"];
/// Fields of a container that make a version. Others (resources, probes, mounts) are set by tools
/// that tune workloads, too.
const FIELDS: [&str; 3] = ["image", "command", "args"];

/// Whether the primary can answer the requests that go to it.
pub(crate) fn unavailable(view: &CanaryView) -> Trouble {
    let made = !matches!(view.status.phase, Phase::New | Phase::Initializing);
    if view.unread.primary {
        return Trouble::Unknown;
    }
    let share = 100 - view.pct();
    let serves = made && share > 0;
    // That it is gone is said elsewhere.
    let Some(primary) = view.primary.as_ref().filter(|_| serves) else { return Trouble::None };
    let named = format!("{} gets {share} % of the traffic", primary.obj.key());
    if primary.replicas() == 0 {
        let message = format!("{named} and has no replicas: scale it up");
        return Trouble::some(reasons::NO_REPLICAS, message);
    }
    match primary.is_out() {
        None => Trouble::Unknown,
        Some(false) => Trouble::None,
        Some(true) => {
            let cause = view.stuck_pods.get(&view.names.target_primary);
            let cause = cause.map(|cause| format!(": {cause}")).unwrap_or_default();
            let wanted = primary.replicas();
            let message = format!("{named}, and 0 of its {wanted} pods are available{cause}");
            Trouble::some(reasons::PRIMARY_UNREADY, message)
        }
    }
}

/// Whether the primary runs what was promoted. Only known while the target is at that version, too.
pub(crate) fn differing(view: &CanaryView, target: &Workload) -> Trouble {
    let at_rest = matches!(
        view.status.phase,
        Phase::Initialized | Phase::Succeeded | Phase::Failed | Phase::Waiting
    );
    let known = at_rest && target.revision == view.status.last_promoted_spec;
    let Some(primary) = view.primary.as_ref().filter(|_| known) else {
        return Trouble::Unknown;
    };
    let fields = differences(target, primary);
    if fields.is_empty() {
        return Trouble::None;
    }
    let message = format!(
        "{} does not run the version that was promoted: {}. It stays as it is, and a release that \
         fails goes back to it. Set it back by hand, or release a version, which writes over it",
        primary.obj.key(),
        fields.join(", ")
    );
    Trouble::some(reasons::PRIMARY_DIFFERS, message)
}

/// In which fields the containers of the target are others in the primary. What a tool adds (a
/// container, a variable, an annotation) is none.
fn differences(target: &Workload, primary: &Workload) -> Vec<String> {
    let mut found = Vec::new();
    for list in CONTAINERS {
        for want in named(target.template(), &format!("/spec/{list}")) {
            let name = text(want, "name");
            let mut all = named(primary.template(), &format!("/spec/{list}"));
            let Some(have) = all.find(|one| text(one, "name") == name) else {
                found.push(format!("container {name} is missing"));
                continue;
            };
            for field in FIELDS {
                if is_alike(have.get(field), want.get(field), field) {
                    continue;
                }
                found.push(match field {
                    "image" => format!(
                        "container {name} has image {}, not {}",
                        text(have, field),
                        text(want, field)
                    ),
                    _ => format!("container {name} differs in {field}"),
                });
            }
            found.extend(
                variables(have, want)
                    .map(|variable| format!("container {name} differs in variable {variable}")),
            );
        }
    }
    found
}

/// Variables with a plain value that both containers have, and not the same: those that come from
/// configs come from the primary's copies.
fn variables<'a>(have: &'a Value, want: &'a Value) -> impl Iterator<Item = &'a str> {
    named(want, "/env").filter_map(|variable| {
        let value = variable.get("value")?;
        let name = text(variable, "name");
        let other = named(have, "/env").find(|one| text(one, "name") == name)?.get("value")?;
        (!is_alike(Some(other), Some(value), name)).then_some(name)
    })
}

/// Whether two values mean the same. The name of the workload may be in it, as some tools write it
/// there, but not in an image.
fn is_alike(have: Option<&Value>, want: Option<&Value>, field: &str) -> bool {
    let plain = |value: Option<&Value>| {
        value.map(|value| value.to_string().replace("-primary", "")).unwrap_or_default()
    };
    have == want || (field != "image" && plain(have) == plain(want))
}

fn named<'a>(of: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> + use<'a> {
    of.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(of: &'a Value, field: &str) -> &'a str {
    of.get(field).and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use evenkeel_api::Obj;
    use serde_json::json;

    use super::*;

    /// A Deployment of three replicas with so many available, as its conditions have it.
    fn is_out(strategy: &str, available: i32, minimum: Option<&str>, progress: &str) -> bool {
        let (status, reason) = progress.split_once(' ').unwrap();
        let mut conditions = vec![json!({"type": "Progressing", "status": status,
            "reason": reason})];
        conditions.extend(minimum.map(|status| json!({"type": "Available", "status": status})));
        let deployment = json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "api-primary", "namespace": "shop", "generation": 1},
            "spec": {"replicas": 3, "strategy": {"type": strategy},
                "selector": {"matchLabels": {"app": "api"}}, "template": {}},
            "status": {"observedGeneration": 1, "replicas": 3, "availableReplicas": available,
                "conditions": conditions}});
        let workload = Workload::of(Arc::new(Obj::from_json(deployment).unwrap())).unwrap();
        workload.is_out().unwrap()
    }

    #[test]
    fn a_primary_is_out_without_a_pod_unless_its_rollout_may_stop_all() {
        let (rolls, done) = ("True ReplicaSetUpdated", "True NewReplicaSetAvailable");
        let late = "False ProgressDeadlineExceeded";
        for (strategy, available, minimum, progress, out) in [
            ("RollingUpdate", 3, Some("True"), done, false),
            ("RollingUpdate", 2, Some("True"), rolls, false),
            // With `maxUnavailable: 100%`.
            ("RollingUpdate", 0, Some("True"), rolls, false),
            ("RollingUpdate", 0, Some("True"), done, true),
            ("RollingUpdate", 1, Some("False"), rolls, false),
            // A healthy one that is scaled up.
            ("RollingUpdate", 2, Some("False"), done, false),
            ("RollingUpdate", 0, Some("False"), done, true),
            ("Recreate", 0, Some("False"), rolls, false),
            ("Recreate", 0, Some("False"), late, true),
            ("Recreate", 0, Some("False"), done, true),
            ("RollingUpdate", 0, None, done, true),
            ("RollingUpdate", 1, None, done, false),
        ] {
            let found = is_out(strategy, available, minimum, progress);
            assert_eq!(found, out, "{strategy} {available} {minimum:?} {progress}");
        }
    }
}
