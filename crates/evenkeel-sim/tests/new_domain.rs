//! A domain that nothing here knows, among faults: the one of the assembly's tests.
#![expect(clippy::unwrap_used, reason = "a step that fails fails the test")]

#[path = "../../evenkeel-assembly/tests/new_domain/decide.rs"]
mod decide;
#[path = "../../evenkeel-assembly/tests/new_domain/greeter.rs"]
mod greeter;
#[path = "../../evenkeel-assembly/tests/new_domain/view.rs"]
mod view;

use std::{collections::BTreeSet, time::Duration};

use evenkeel_api::{GroupKind, Key};
use evenkeel_sim::world::{Menu, World};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

use greeter::GREETER;

const MINUTE: Duration = Duration::from_mins(1);

fn key(name: &str) -> Key {
    Key::of::<ConfigMap>("default", name)
}

async fn ask(world: &World, name: &str) {
    let asks = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": "default"}, "data": {"name": name}});
    world.create(asks).await.unwrap();
}

async fn is_greeted(world: &World, name: &str) -> bool {
    let found = world.store.get(&key(&format!("{name}-greeting"))).await.unwrap();
    found.is_some()
}

/// Everything that may go wrong, each with the name of who asks meanwhile.
fn menus() -> Vec<(&'static str, Menu)> {
    let configs = BTreeSet::from([GroupKind::of::<ConfigMap>()]);
    let menu = Menu::default;
    vec![
        ("silent", Menu { silent: true, ..menu() }),
        ("stale", Menu { stale_pct: 50, ..menu() }),
        ("slow", Menu { slow_pct: 50, ..menu() }),
        ("conflict", Menu { conflict_pct: 50, ..menu() }),
        ("lost", Menu { lost_answer_pct: 100, ..menu() }),
        ("twice", Menu { told_twice_pct: 100, ..menu() }),
        ("dropped", Menu { dropped_pct: 100, ..menu() }),
        ("ends", Menu { watches_end: true, ..menu() }),
        ("forbidden", Menu { forbidden: configs.clone(), ..menu() }),
        ("invalid", Menu { invalid: configs.clone(), ..menu() }),
        ("unreadable", Menu { unreadable: configs, ..menu() }),
        ("panics", Menu { panics_on: BTreeSet::from([key("panics")]), ..menu() }),
        ("dies", Menu { dies_after: Some(0), ..menu() }),
    ]
}

#[test]
fn a_new_domain_heals_from_every_fault() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut world = World::new(7).await.unwrap();
        // Nothing but what is added.
        world.domains = vec!["greeter".to_owned()];
        world.add_domain(GREETER);
        world.start();
        world.start();
        for (name, menu) in menus() {
            world.set_all(&menu);
            ask(&world, name).await;
            tokio::time::sleep(3 * MINUTE).await;
            for _ in 0..world.bury() {
                world.start();
            }
            world.set_all(&Menu::default());
            let end = world.time.elapsed() + 15 * MINUTE;
            while !is_greeted(&world, name).await {
                assert!(world.time.elapsed() < end, "{name} is not greeted");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        }
        assert_ne!(world.leader("greeter").await.unwrap(), "");
    });
}
