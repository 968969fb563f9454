//! How much a pod asks for. **Source**: `k8s.io/component-helpers/resource`.

use std::collections::BTreeMap;

use evenkeel_api::Quantity;
use k8s_openapi::{
    api::core::v1::{Container, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Text,
};

/// Amounts by resource name.
pub(crate) type Amounts = BTreeMap<String, Quantity>;

/// What scoring assumes of a container that asks for nothing: 100 millicores, 200 MB.
const ASSUMED: [(&str, i128); 2] = [("cpu", 100), ("memory", 200 * 1024 * 1024 * 1_000)];

/// The amounts of a list; what cannot be read (the server refuses it) counts as nothing.
pub(crate) fn amounts(list: Option<&BTreeMap<String, Text>>) -> Amounts {
    let read =
        |(name, text): (&String, &Text)| Some((name.clone(), Quantity::parse(&text.0).ok()?));
    list.into_iter().flatten().filter_map(read).collect()
}

/// Adds `more` to `sum`.
pub(crate) fn add(sum: &mut Amounts, more: &Amounts) {
    for (name, amount) in more {
        let entry = sum.entry(name.clone()).or_default();
        *entry = *entry + *amount;
    }
}

fn raise(most: &mut Amounts, other: &Amounts) {
    for (name, amount) in other {
        let entry = most.entry(name.clone()).or_default();
        *entry = (*entry).max(*amount);
    }
}

/// What the pod needs at its greediest moment: all containers and sidecars together, or one init
/// container with the sidecars started before it; plus overhead.
pub(crate) fn of_pod(spec: &PodSpec) -> Amounts {
    sum_up(spec, of_container)
}

/// The same for scoring, where a container without requests is assumed to use a little.
pub(crate) fn assumed_of_pod(spec: &PodSpec) -> Amounts {
    sum_up(spec, |container| {
        let mut asked = of_container(container);
        for (name, millis) in ASSUMED {
            asked.entry(name.to_owned()).or_insert(Quantity { millis });
        }
        asked
    })
}

fn of_container(container: &Container) -> Amounts {
    let resources = container.resources.as_ref();
    let mut asked = amounts(resources.and_then(|r| r.requests.as_ref()));
    // The server fills missing requests in from limits; a pod made by others may lack them.
    for (name, limit) in amounts(resources.and_then(|r| r.limits.as_ref())) {
        asked.entry(name).or_insert(limit);
    }
    asked
}

fn sum_up(spec: &PodSpec, ask: impl Fn(&Container) -> Amounts) -> Amounts {
    let mut total = Amounts::new();
    for container in &spec.containers {
        add(&mut total, &ask(container));
    }
    let mut sidecars = Amounts::new();
    let mut init_most = Amounts::new();
    for container in spec.init_containers.iter().flatten() {
        let asked = ask(container);
        if container.restart_policy.as_deref() == Some("Always") {
            add(&mut sidecars, &asked);
            raise(&mut init_most, &sidecars);
        } else {
            let mut moment = sidecars.clone();
            add(&mut moment, &asked);
            raise(&mut init_most, &moment);
        }
    }
    add(&mut total, &sidecars);
    raise(&mut total, &init_most);
    add(&mut total, &amounts(spec.overhead.as_ref()));
    total
}

#[cfg(test)]
mod tests {
    use serde::Deserialize as _;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_pod_asks_for_its_greediest_moment() {
        let container = |cpu: &str| json!({"name": "c", "resources": {"requests": {"cpu": cpu}}});
        let mut sidecar = container("100m");
        sidecar["restartPolicy"] = "Always".into();
        let spec = |init: serde_json::Value| -> PodSpec {
            let body = json!({"containers": [container("200m"), container("300m")],
                "initContainers": init, "overhead": {"cpu": "10m"}});
            PodSpec::deserialize(&body).unwrap()
        };
        let cpu = |init| of_pod(&spec(init))["cpu"].millis;
        assert_eq!(cpu(json!([])), 510);
        assert_eq!(cpu(json!([container("400m")])), 510);
        assert_eq!(cpu(json!([container("2")])), 2_010);
        assert_eq!(cpu(json!([sidecar])), 610);
        assert_eq!(cpu(json!([sidecar, container("2")])), 2_110);
        assert_eq!(cpu(json!([container("2"), sidecar])), 2_010);
    }
}
