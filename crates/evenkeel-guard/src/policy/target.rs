use evenkeel_api::Key;
use evenkeel_control::{Action, Petition};

use crate::{Opinion, Policy};

/// Refuses an action whose target is empty or cannot name one object: it never means "everything".
pub struct TargetSanity;

impl Policy for TargetSanity {
    fn name(&self) -> &'static str {
        "target-sanity"
    }

    fn judge(&self, petition: &Petition<'_>) -> Opinion {
        let problem = object_problem(petition.action).or_else(|| content_problem(petition.action));
        problem.map_or(Opinion::Allow, |problem| Opinion::Deny {
            reason: format!("{problem}: refused: an empty target never means all objects"),
        })
    }

    fn binds_safer(&self) -> bool {
        true
    }
}

fn object_problem(action: &Action) -> Option<String> {
    if let Action::Effect(call) = action {
        return call.target.is_empty().then(|| format!("the {} effect has no target", call.port));
    }
    let key = action.target()?;
    let named_by_server =
        matches!(action, Action::Create(obj) if obj.meta().generate_name.is_some());
    if key.kind.kind.is_empty() {
        return Some("the target has no kind".to_owned());
    }
    if key.name.is_empty() && !named_by_server {
        return Some(format!("the target, a {}, has no name", key.kind.kind));
    }
    bad_name(key).map(|part| format!("`{part}` of the target {key} is not a name"))
}

/// The part of a key that cannot name one object. Names are not restricted further here: kinds
/// differ in what they allow, and the API server knows.
fn bad_name(key: &Key) -> Option<&str> {
    let bad = |text: &&str| text.contains(|c: char| c.is_whitespace() || "*?/\\%".contains(c));
    [&*key.namespace, &*key.name].into_iter().find(bad)
}

fn content_problem(action: &Action) -> Option<String> {
    match action {
        Action::Delete { key, uid, .. } | Action::Evict { key, uid } if uid.is_empty() => {
            Some(format!("no uid says which {key} is meant"))
        }
        Action::Patch { key, patch } if !patch.is_object() => {
            Some(format!("the patch would replace {key} whole"))
        }
        Action::Scale { key, replicas } if *replicas < 0 => {
            Some(format!("{replicas} is not a number of replicas for {key}"))
        }
        Action::Bind { pod, node } if node.is_empty() => {
            Some(format!("no node is named for {pod}"))
        }
        Action::SetWeights { route, weights } => {
            let nobody = weights.iter().all(|share| share.weight == 0);
            let wrong = weights.iter().any(|share| share.backend.is_empty() || share.weight < 0);
            if nobody {
                Some(format!("no backend of {route} would get traffic"))
            } else {
                wrong.then(|| format!("a share of {route} has no backend or is negative"))
            }
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::{canary::Canary, httproute::HttpRoute};
    use evenkeel_control::{Direction, Propagation, RouteWeight};
    use jiff::Timestamp;
    use k8s_openapi::api::core::v1::Pod;
    use serde_json::json;

    use super::*;

    fn judged(action: &Action) -> String {
        let opinion = TargetSanity.judge(&Petition {
            controller: "delivery",
            object: &Key::of::<Canary>("shop", "api"),
            action,
            text: "",
            after: None,
            reason: "Test",
            before: None,
            direction: Direction::Safer,
            now: Timestamp::UNIX_EPOCH,
        });
        match opinion {
            Opinion::Deny { reason } => reason.split(": refused").next().unwrap().to_owned(),
            other => format!("{other:?}"),
        }
    }

    fn weights(shares: &[(&str, i32)]) -> Action {
        let share = |(backend, weight): &(&str, i32)| RouteWeight {
            backend: (*backend).to_owned(),
            weight: *weight,
        };
        let route = Key::of::<HttpRoute>("shop", "api");
        Action::SetWeights { route, weights: shares.iter().map(share).collect() }
    }

    #[test]
    fn a_target_names_one_object() {
        let pod = |name: &str| Key::of::<Pod>("shop", name);
        let delete = |name: &str, uid: &str| Action::Delete {
            key: pod(name),
            uid: uid.to_owned(),
            propagation: Propagation::Background,
        };
        assert_eq!(judged(&delete("a", "u")), "Allow");
        assert_eq!(judged(&delete("a", "")), "no uid says which Pod/shop/a is meant");
        assert_eq!(judged(&delete("", "u")), "the target, a Pod, has no name");
        assert_eq!(judged(&delete("*", "u")), "`*` of the target Pod/shop/* is not a name");
        let patch = |patch| judged(&Action::Patch { key: pod("a"), patch });
        assert_eq!(patch(json!({})), "Allow");
        assert_eq!(patch(json!(null)), "the patch would replace Pod/shop/a whole");
        assert_eq!(
            judged(&Action::Scale { key: pod("a"), replicas: -1 }),
            "-1 is not a number of replicas for Pod/shop/a"
        );
        let bind = Action::Bind { pod: pod("a"), node: String::new() };
        assert_eq!(judged(&bind), "no node is named for Pod/shop/a");
    }

    #[test]
    fn traffic_goes_somewhere() {
        let nowhere = "no backend of HTTPRoute/shop/api would get traffic";
        assert_eq!(judged(&weights(&[("a", 100), ("b", 0)])), "Allow");
        assert_eq!(judged(&weights(&[("a", 0), ("b", 0)])), nowhere);
        assert_eq!(judged(&weights(&[])), nowhere);
        let wrong = "a share of HTTPRoute/shop/api has no backend or is negative";
        assert_eq!(judged(&weights(&[("", 100)])), wrong);
        assert_eq!(judged(&weights(&[("a", 100), ("b", -1)])), wrong);
    }
}
