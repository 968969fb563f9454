//! Wakes that a change must earn: most writes to an object say what was said before.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
};

use evenkeel_api::{Key, Obj};
use evenkeel_base::stable_hash;
use evenkeel_control::Wakes;

/// Objects that are remembered; beyond that a change counts as news.
const OBJECTS_MAX: usize = 10_000;

/// Wakes the namespace when `digest` of an object differs from what it was, and not otherwise.
///
/// That an object is gone cannot be seen from here. Whoever depends on that learns it in another
/// way.
pub(super) fn news(
    digest: impl Fn(&Obj) -> String + Send + Sync + 'static,
) -> impl Fn(&Obj) -> Wakes + Send + Sync + 'static {
    let known: Mutex<BTreeMap<Key, u64>> = Mutex::default();
    move |obj| {
        let now = stable_hash(digest(obj).as_bytes());
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= OBJECTS_MAX {
            known.clear();
        }
        if known.insert(obj.key().clone(), now) == Some(now) {
            return Wakes::These(Vec::new());
        }
        Wakes::Namespace(obj.namespace().to_owned())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_same_again_wakes_nobody() {
        let wakes = news(|obj| obj.json()["spec"].to_string());
        let obj = |spec: i32, revision: &str| {
            Obj::from_json(json!({"apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": "a", "namespace": "shop", "resourceVersion": revision},
                "spec": spec}))
            .unwrap()
        };
        let woken = |obj: &Obj| matches!(wakes(obj), Wakes::Namespace(ns) if ns == "shop");
        assert!(woken(&obj(1, "1")));
        assert!(!woken(&obj(1, "2")));
        assert!(woken(&obj(2, "3")));
    }
}
