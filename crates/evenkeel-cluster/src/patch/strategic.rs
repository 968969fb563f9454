use serde_json::{Map, Value};

use crate::error::ApiError;

/// How a list of a built-in kind merges. What is not named here is replaced whole.
///
/// **Source**: the `patchStrategy` and `patchMergeKey` tags in `k8s.io/api`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Merge {
    /// Elements with the same value in this field are the same element.
    ByKey(&'static str),
    /// A set of plain values.
    Set,
}

/// The strategy of list `field` below `parent` (the name of the field that holds it; list elements
/// have the name of their list).
pub(crate) fn strategy(parent: &str, field: &str) -> Option<Merge> {
    let in_container = matches!(parent, "containers" | "initContainers" | "ephemeralContainers");
    Some(match (field, parent) {
        ("containers" | "initContainers" | "ephemeralContainers", _)
        | ("volumes" | "imagePullSecrets" | "resourceClaims" | "schedulingGates", "spec")
        | ("imagePullSecrets" | "secrets", "") => Merge::ByKey("name"),
        ("env", _) if in_container => Merge::ByKey("name"),
        ("ports", _) if in_container => Merge::ByKey("containerPort"),
        ("ports", "spec") => Merge::ByKey("port"),
        ("volumeMounts", _) if in_container => Merge::ByKey("mountPath"),
        ("volumeDevices", _) if in_container => Merge::ByKey("devicePath"),
        ("hostAliases", "spec") | ("podIPs" | "hostIPs", "status") => Merge::ByKey("ip"),
        ("topologySpreadConstraints", "spec") => Merge::ByKey("topologyKey"),
        ("ownerReferences", "metadata") => Merge::ByKey("uid"),
        ("conditions" | "addresses", "status") => Merge::ByKey("type"),
        ("finalizers", "metadata") | ("podCIDRs", "spec") => Merge::Set,
        _ => return None,
    })
}

const DIRECTIVE: &str = "$patch";
const ORDER: &str = "$setElementOrder/";
const DELETE: &str = "$deleteFromPrimitiveList/";
const RETAIN: &str = "$retainKeys";

/// Kubernetes' strategic merge patch.
pub(super) fn apply(old: &Value, patch: &Value) -> Result<Value, ApiError> {
    let (Value::Object(old), Value::Object(patch)) = (old, patch) else {
        return Err(ApiError::bad_request("a strategic merge patch is an object"));
    };
    merge_map(old, patch, "").map(Value::Object).map_err(|problem| {
        ApiError::bad_request(format!("the strategic merge patch cannot be applied: {problem}"))
    })
}

fn merge_map(
    old: &Map<String, Value>,
    patch: &Map<String, Value>,
    parent: &str,
) -> Result<Map<String, Value>, String> {
    match patch.get(DIRECTIVE).and_then(Value::as_str) {
        Some("replace") => {
            let rest = patch.iter().filter(|(name, _)| *name != DIRECTIVE);
            return Ok(rest.map(|(name, value)| (name.clone(), value.clone())).collect());
        }
        Some("delete") => return Ok(Map::new()),
        Some("merge") | None => {}
        Some(other) => return Err(format!("unknown $patch directive {other:?}")),
    }
    let mut new = old.clone();
    if let Some(kept) = patch.get(RETAIN).and_then(Value::as_array) {
        let keep = |name: &String| kept.iter().any(|kept| kept == name);
        let gone: Vec<String> = new.keys().filter(|name| !keep(name)).cloned().collect();
        for name in gone {
            new.shift_remove(&name);
        }
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE) {
            delete_plain(&mut new, list, value);
        } else if let Some(list) = name.strip_prefix(ORDER) {
            // Only when the list itself is not in the patch: else the merge below does it.
            if !patch.contains_key(list) {
                reorder(&mut new, parent, list, value);
            }
        } else if name == DIRECTIVE || name == RETAIN {
        } else {
            let order = patch.get(&format!("{ORDER}{name}"));
            merge_field(&mut new, parent, name, value, order)?;
        }
    }
    Ok(new)
}

fn merge_field(
    new: &mut Map<String, Value>,
    parent: &str,
    name: &str,
    value: &Value,
    order: Option<&Value>,
) -> Result<(), String> {
    let merged = match (new.get(name), value) {
        (_, Value::Null) => {
            new.shift_remove(name);
            return Ok(());
        }
        (Some(Value::Object(old)), Value::Object(patch)) => {
            Value::Object(merge_map(old, patch, name)?)
        }
        (None, Value::Object(patch)) => Value::Object(merge_map(&Map::new(), patch, name)?),
        (old, Value::Array(patch)) => {
            let none = Vec::new();
            let old = old.and_then(Value::as_array).unwrap_or(&none);
            match strategy(parent, name) {
                None => Value::Array(patch.clone()),
                Some(merge) => Value::Array(merge_list(old, patch, merge, name, order)?),
            }
        }
        (_, value) => value.clone(),
    };
    new.insert(name.to_owned(), merged);
    Ok(())
}

fn delete_plain(new: &mut Map<String, Value>, list: &str, gone: &Value) {
    let gone = gone.as_array().map_or(&[][..], Vec::as_slice);
    if let Some(Value::Array(items)) = new.get_mut(list) {
        items.retain(|item| !gone.contains(item));
    }
}

fn reorder(new: &mut Map<String, Value>, parent: &str, list: &str, order: &Value) {
    let Some(merge) = strategy(parent, list) else { return };
    if let Some(Value::Array(items)) = new.get_mut(list) {
        let old = items.clone();
        *items = ordered(std::mem::take(items), &old, merge, order);
    }
}

fn merge_list(
    old: &[Value],
    patch: &[Value],
    merge: Merge,
    name: &str,
    order: Option<&Value>,
) -> Result<Vec<Value>, String> {
    let mut new = old.to_vec();
    // Without a wanted order, that of the patch is it.
    let implied = Value::Array(patch.to_vec());
    let Merge::ByKey(key) = merge else {
        let fresh: Vec<Value> = patch.iter().filter(|item| !old.contains(item)).cloned().collect();
        new.extend(fresh);
        return Ok(ordered(new, old, merge, order.unwrap_or(&implied)));
    };
    let directive = |item: &Value| item.get(DIRECTIVE).and_then(Value::as_str).map(str::to_owned);
    if patch.iter().any(|item| directive(item).as_deref() == Some("replace")) {
        let rest = patch.iter().filter(|item| directive(item).is_none());
        return Ok(rest.cloned().collect());
    }
    for item in patch {
        let Value::Object(fields) = item else {
            return Err(format!("an element of {name} is not an object"));
        };
        let Some(id) = fields.get(key) else {
            return Err(format!("an element of {name} has no {key}, which identifies it"));
        };
        let at = new.iter().position(|have| have.get(key) == Some(id));
        match (directive(item).as_deref(), at) {
            (Some("delete"), Some(at)) => {
                new.remove(at);
            }
            (Some("delete"), None) => {}
            (_, Some(at)) => {
                let old = new[at].as_object().cloned().unwrap_or_default();
                new[at] = Value::Object(merge_map(&old, fields, name)?);
            }
            (_, None) => new.push(Value::Object(merge_map(&Map::new(), fields, name)?)),
        }
    }
    Ok(ordered(new, old, merge, order.unwrap_or(&implied)))
}

/// Sorts by the wanted order; elements that it does not name keep their place relative to their
/// old neighbours.
fn ordered(items: Vec<Value>, old: &[Value], merge: Merge, order: &Value) -> Vec<Value> {
    let same = |a: &Value, b: &Value| match merge {
        Merge::Set => a == b,
        Merge::ByKey(key) => a.get(key).is_some() && a.get(key) == b.get(key),
    };
    let order = order.as_array().map_or(&[][..], Vec::as_slice);
    let wanted = |item: &Value| order.iter().position(|want| same(want, item));
    let was = |item: &Value| old.iter().position(|had| same(had, item));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| wanted(item).is_some());
    named.sort_by_key(|item| wanted(item));
    let mut sorted = Vec::new();
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(left), Some(right)) = (named.peek(), others.peek()) {
        let left_first = match (was(left), was(right)) {
            (Some(left), Some(right)) => left < right,
            // New elements come as early as their order allows.
            (None, _) => true,
            (_, None) => false,
        };
        sorted.extend(if left_first { named.next() } else { others.next() });
    }
    sorted.extend(named);
    sorted.extend(others);
    sorted
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn spec(old: &Value, patch: &Value) -> String {
        let old = json!({"spec": old});
        let patch = json!({"spec": patch});
        match apply(&old, &patch) {
            Ok(new) => new["spec"].to_string().replace('"', ""),
            Err(error) => error.message,
        }
    }

    #[test]
    fn lists_merge_by_their_key_and_directives_are_followed() {
        let two = json!({"containers": [{"name": "a", "image": "x"}, {"name": "b", "image": "y"}]});
        let rows = [
            (
                json!({"containers": [{"name": "b", "image": "z"}]}),
                "{containers:[{name:a,image:x},{name:b,image:z}]}",
            ),
            (
                json!({"containers": [{"name": "a", "$patch": "delete"}]}),
                "{containers:[{name:b,image:y}]}",
            ),
            (
                json!({"containers": [{"name": "c"}, {"$patch": "replace"}]}),
                "{containers:[{name:c}]}",
            ),
            (
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}],
                    "containers": [{"name": "a", "image": null}]}),
                "{containers:[{name:b,image:y},{name:a}]}",
            ),
            (
                json!({"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}),
                "{containers:[{name:b,image:y},{name:a,image:x}]}",
            ),
            (
                json!({"containers": [{"image": "z"}]}),
                "the strategic merge patch cannot be applied: an element of containers has no \
                 name, which identifies it",
            ),
            (json!({"containers": null}), "{}"),
            (json!({"$patch": "replace", "a": 1}), "{a:1}"),
        ];
        for (patch, outcome) in rows {
            assert_eq!(spec(&two, &patch), outcome, "{patch}");
        }
    }

    #[test]
    fn ports_merge_by_the_key_of_their_place() {
        let old = json!({"ports": [{"port": 80, "name": "web"}], "tolerations": [{"key": "a"}]});
        assert_eq!(
            spec(&old, &json!({"ports": [{"port": 81}], "tolerations": [{"key": "b"}]})),
            "{ports:[{port:81},{port:80,name:web}],tolerations:[{key:b}]}"
        );
        let old = json!({"containers": [{"name": "a", "ports": [{"containerPort": 1}]}]});
        let patch = json!({"containers": [{"name": "a", "ports": [{"containerPort": 2}]}]});
        assert_eq!(
            spec(&old, &patch),
            "{containers:[{name:a,ports:[{containerPort:2},{containerPort:1}]}]}"
        );
    }

    #[test]
    fn sets_grow_and_shrink_and_retained_keys_stay_alone() {
        let old = json!({"metadata": {"finalizers": ["a", "b"]}});
        let patch = json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"],
            "finalizers": ["c"], "$setElementOrder/finalizers": ["c", "b"]}});
        let new = apply(&old, &patch).unwrap();
        assert_eq!(new["metadata"]["finalizers"], json!(["c", "b"]));
        let old = json!({"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}});
        let patch = json!({"strategy": {"$retainKeys": ["type"], "type": "Recreate"}});
        assert_eq!(spec(&old, &patch), "{strategy:{type:Recreate}}");
    }
}
