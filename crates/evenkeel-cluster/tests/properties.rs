//! Properties that hold for any sequence of calls.
#![expect(clippy::unwrap_used, reason = "helpers of tests")]

use std::{collections::BTreeMap, sync::Arc};

use evenkeel_api::{GroupKind, Key, LabelSelector, Obj};
use evenkeel_base::{FixedClock, Rng};
use evenkeel_cluster::ApiServer;
use evenkeel_control::{
    DeleteOptions, ListQuery, Patch, Read as _, Watch, WatchEvent, Write as _, WriteOptions,
};
use futures::{FutureExt as _, StreamExt as _, executor::block_on};
use proptest::prelude::*;
use serde_json::json;

#[derive(Debug, Clone)]
enum Step {
    Create {
        name: usize,
        label: bool,
    },
    Write {
        name: usize,
        value: u8,
    },
    Label {
        name: usize,
        label: bool,
    },
    Delete {
        name: usize,
    },
    /// Lets the watcher read this many events.
    Read {
        events: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let name = 0..4_usize;
    prop_oneof![
        (name.clone(), any::<bool>()).prop_map(|(name, label)| Step::Create { name, label }),
        (name.clone(), 0..3_u8).prop_map(|(name, value)| Step::Write { name, value }),
        (name.clone(), any::<bool>()).prop_map(|(name, label)| Step::Label { name, label }),
        name.prop_map(|name| Step::Delete { name }),
        (0..4_usize).prop_map(|events| Step::Read { events }),
    ]
}

fn key(name: usize) -> Key {
    Key::new(GroupKind::new("", "ConfigMap"), "default", &format!("c{name}"))
}

fn labels(label: bool) -> serde_json::Value {
    json!({"metadata": {"labels": {"on": if label { "yes" } else { "no" }}}})
}

/// What a watcher knows, from the events alone.
#[derive(Default)]
struct Replica {
    objects: BTreeMap<Key, Arc<Obj>>,
    last: u64,
    is_synced: bool,
    problems: Vec<String>,
}

impl Replica {
    fn hear(&mut self, event: WatchEvent) {
        match event {
            WatchEvent::Synced => self.is_synced = true,
            WatchEvent::Applied(obj) => {
                let revision: u64 = obj.revision().0.parse().unwrap();
                if self.is_synced && revision <= self.last {
                    self.problems.push(format!("{obj:?} came after revision {}", self.last));
                }
                self.last = self.last.max(revision);
                self.objects.insert(obj.key().clone(), obj);
            }
            WatchEvent::Deleted(obj) => {
                if self.objects.remove(obj.key()).is_none() {
                    self.problems.push(format!("{obj:?} was deleted and never sent"));
                }
            }
        }
    }

    fn read(&mut self, watch: &mut Watch, events: usize) {
        for _ in 0..events {
            let Some(Some(event)) = watch.next().now_or_never() else { return };
            self.hear(event.unwrap());
        }
    }
}

fn perform(store: &ApiServer, step: &Step) {
    let options = WriteOptions::default();
    // Refusals (exists, not found) are part of the sequence.
    let patch = |name: usize, patch| {
        drop(block_on(store.patch(&key(name), &Patch::Merge(patch), &options)));
    };
    match step {
        Step::Create { name, label } => {
            let mut body = labels(*label);
            body["apiVersion"] = json!("v1");
            body["kind"] = json!("ConfigMap");
            body["metadata"]["name"] = json!(&*key(*name).name);
            body["metadata"]["namespace"] = json!("default");
            drop(block_on(store.create(&Obj::from_json(body).unwrap(), &options)));
        }
        Step::Write { name, value } => patch(*name, json!({"data": {"v": value.to_string()}})),
        Step::Label { name, label } => patch(*name, labels(*label)),
        Step::Delete { name } => {
            drop(block_on(store.delete(&key(*name), &DeleteOptions::default())));
        }
        Step::Read { .. } => {}
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn replaying_a_watch_gives_the_list(
        steps in proptest::collection::vec(step(), 0..60),
        selective in any::<bool>(),
    ) {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let store = ApiServer::new(Arc::new(FixedClock(now)), Rng::new(1));
        let mut query = ListQuery::all(GroupKind::new("", "ConfigMap"));
        if selective {
            query = query.with_labels(LabelSelector::parse("on=yes").unwrap());
        }
        let mut watch = store.watch(query.clone());
        let mut replica = Replica::default();
        for step in &steps {
            perform(&store, step);
            if let Step::Read { events } = step {
                replica.read(&mut watch, *events);
            }
        }
        replica.read(&mut watch, usize::MAX);
        let listed = block_on(store.list(&query)).unwrap();
        let seen: Vec<_> = replica.objects.values().map(|obj| format!("{obj:?}")).collect();
        let there: Vec<_> = listed.items.iter().map(|obj| format!("{obj:?}")).collect();
        prop_assert_eq!(seen, there);
        prop_assert!(replica.problems.is_empty(), "{:?}", replica.problems);
    }

    #[test]
    fn a_merge_patch_applied_twice_changes_nothing_the_second_time(
        value in "[a-z]{0,4}", name in "[a-z]{1,3}",
    ) {
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        let store = ApiServer::new(Arc::new(FixedClock(now)), Rng::new(1));
        perform(&store, &Step::Create { name: 0, label: true });
        let patch = Patch::Merge(json!({"data": {name: value}}));
        let options = WriteOptions::default();
        let first = block_on(store.patch(&key(0), &patch, &options)).unwrap();
        let second = block_on(store.patch(&key(0), &patch, &options)).unwrap();
        prop_assert!(Arc::ptr_eq(&first, &second));
    }
}
