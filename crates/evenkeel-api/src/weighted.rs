//! What all kinds that split traffic have in common: rules with weighted destinations.
//!
//! ```text
//! HTTPRoute        spec.rules[].backendRefs[]   name, weight (default 1)
//! VirtualService   spec.http[].route[]          destination.host, weight
//!                  spec.tcp[].route[]           (default 100 where it is alone, else 0)
//! ```
//! A `VirtualService` is `networking.istio.io`'s; it is read as it stands, in whatever version.

use serde_json::Value;

use crate::GroupKind;

/// Fields of a spec that are lists of rules, each with the field that holds its destinations.
pub const RULES: [(&str, &str); 3] =
    [("rules", "backendRefs"), ("http", "route"), ("tcp", "route")];

/// Group of Istio's kinds.
pub const ISTIO: &str = "networking.istio.io";

/// Istio's route.
pub fn virtual_service() -> GroupKind {
    GroupKind::new(ISTIO, "VirtualService")
}

/// Istio's rules for connections to one Service.
pub fn destination_rule() -> GroupKind {
    GroupKind::new(ISTIO, "DestinationRule")
}

/// The Service that a destination names; of a host name the first label.
pub fn backend(destination: &Value) -> Option<&str> {
    let host = || destination.pointer("/destination/host")?.as_str()?.split('.').next();
    destination.get("name").and_then(Value::as_str).or_else(host)
}

/// The destinations of each rule with their weights, read leniently.
pub fn shares(route: &Value) -> impl Iterator<Item = Vec<(&str, i64)>> {
    RULES.into_iter().flat_map(move |(rules, destinations)| {
        let rules = route.pointer(&format!("/spec/{rules}")).and_then(Value::as_array);
        let lists = rules.into_iter().flatten();
        let lists = lists.filter_map(move |rule| rule.get(destinations)?.as_array());
        lists.map(move |list| {
            let default = match (destinations, list.len()) {
                ("backendRefs", _) => 1,
                (_, 1) => 100,
                _ => 0,
            };
            let share = |it| {
                let weight = Value::get(it, "weight");
                let weight = weight.map_or(Some(default), Value::as_i64).unwrap_or(0);
                Some((backend(it)?, weight))
            };
            list.iter().filter_map(share).collect()
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn destinations_of_all_kinds_are_read() {
        let route = json!({"spec": {"rules": [
            {"backendRefs": [{"name": "a", "weight": 3}, {"name": "b"}, {"weight": "x"}]}, {}]}});
        assert_eq!(shares(&route).collect::<Vec<_>>(), [vec![("a", 3), ("b", 1)]]);
        let to = |host: &str| json!({"destination": {"host": host}});
        let mesh = json!({"spec": {"http": [{"route": [to("a.shop.svc.cluster.local")]}],
            "tcp": [{"route": [to("a"), to("b")]}, {"match": []}]}});
        let all: Vec<_> = shares(&mesh).collect();
        assert_eq!(all, [vec![("a", 100)], vec![("a", 0), ("b", 0)]]);
    }
}
