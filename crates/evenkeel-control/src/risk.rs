use evenkeel_api::Obj;
use serde_json::Value;

use crate::{Action, RouteWeight};

/// Which way an action moves the risk for users.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Direction {
    /// Back to what was known to work, or out of the way: never blocked.
    Safer,
    /// Changes nothing that serves.
    Neutral,
    /// Something new meets traffic, or capacity goes: asks the budget.
    Riskier,
}

/// Computes the direction from the target as it is and the action; nobody declares it.
///
/// A weight is judged by its backend: by Flagger's convention the one that ends in `-canary` is
/// the new one. Less weight there is safer, as is taking down replicas that get no traffic.
pub fn direction(before: Option<&Obj>, action: &Action) -> Direction {
    match action {
        Action::SetWeights { weights, .. } => weights_direction(before, weights),
        Action::Scale { replicas, .. } => {
            let spec = before.and_then(|obj| obj.json().pointer("/spec/replicas"));
            let now = spec.and_then(Value::as_i64).unwrap_or(1);
            if i64::from(*replicas) >= now { Direction::Neutral } else { Direction::Riskier }
        }
        Action::Create(_) | Action::Notify { .. } | Action::RunHook(_) | Action::Bind { .. } => {
            Direction::Neutral
        }
        Action::Apply(_) if before.is_none() => Direction::Neutral,
        Action::Apply(_) | Action::Patch { .. } | Action::Delete { .. } | Action::Evict { .. } => {
            Direction::Riskier
        }
    }
}

fn weights_direction(before: Option<&Obj>, weights: &[RouteWeight]) -> Direction {
    let is_new = |name: &str| name.ends_with("-canary");
    let after: i64 =
        weights.iter().filter(|w| is_new(&w.backend)).map(|w| i64::from(w.weight)).sum();
    let Some(before) = before else { return Direction::Riskier };
    let rules = before.json().pointer("/spec/rules").and_then(Value::as_array);
    let now = rules
        .into_iter()
        .flatten()
        .filter_map(|rule| rule.get("backendRefs")?.as_array())
        .map(|backends| {
            let canary = backends
                .iter()
                .filter(|backend| backend.get("name").and_then(Value::as_str).is_some_and(is_new));
            canary
                .map(|backend| backend.get("weight").and_then(Value::as_i64).unwrap_or(1))
                .sum::<i64>()
        })
        .max()
        .unwrap_or_default();
    match after.cmp(&now) {
        std::cmp::Ordering::Less => Direction::Safer,
        // Also when it is so already: a repeated rollback must never be blocked.
        std::cmp::Ordering::Equal if after == 0 => Direction::Safer,
        std::cmp::Ordering::Equal => Direction::Neutral,
        std::cmp::Ordering::Greater => Direction::Riskier,
    }
}

#[cfg(test)]
mod tests {
    use evenkeel_api::{Key, httproute::HttpRoute};
    use serde_json::json;

    use super::*;

    fn to(canary: i32, before: Option<i32>) -> Direction {
        let route = before.map(|weight| {
            Obj::from_json(json!({"apiVersion": "gateway.networking.k8s.io/v1",
                "kind": "HTTPRoute", "metadata": {"name": "api", "namespace": "shop"},
                "spec": {"rules": [{"backendRefs": [
                    {"name": "api-primary", "weight": 100 - weight},
                    {"name": "api-canary", "weight": weight}]}]}}))
            .unwrap()
        });
        let weight = |name: &str, weight| RouteWeight { backend: name.to_owned(), weight };
        let action = Action::SetWeights {
            route: Key::of::<HttpRoute>("shop", "api"),
            weights: vec![weight("api-primary", 100 - canary), weight("api-canary", canary)],
        };
        direction(route.as_ref(), &action)
    }

    #[test]
    fn less_canary_is_safer_and_more_is_riskier() {
        assert_eq!(to(20, Some(10)), Direction::Riskier);
        assert_eq!(to(10, Some(20)), Direction::Safer);
        assert_eq!(to(0, Some(0)), Direction::Safer);
        assert_eq!(to(20, Some(20)), Direction::Neutral);
        assert_eq!(to(10, None), Direction::Riskier);
    }
}
