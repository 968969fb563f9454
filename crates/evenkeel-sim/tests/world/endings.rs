//! Canaries that are deleted while something is wrong with what is known of them.

use evenkeel_control::{Patch, Subresource, WriteOptions};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use super::*;

const STATUS: WriteOptions =
    WriteOptions { subresource: Some(Subresource::Status), expect: None, manager: "another" };

/// Another client writes this into a Canary's status.
async fn write_status(world: &World, service: &str, status: &Value) {
    let key = Key::of::<Canary>("default", service);
    let patch = Patch::Merge(json!({ "status": status }));
    world.store.patch(&key, &patch, &STATUS).await.unwrap();
}

async fn delete(world: &World, service: &str) {
    world.delete(&Key::of::<Canary>("default", service)).await.unwrap();
}

/// Waits until a Canary is gone and its target serves as before.
async fn is_taken_away(world: &World, service: &str) {
    let end = world.time.elapsed() + 5 * MINUTE;
    while let Err(problem) = releases::taken_away(world, service).await {
        if world.time.elapsed() > end {
            let canary = releases::canary(world, service).await;
            let status = canary.map(|canary| canary.json()["status"].clone());
            panic!("{service} after five minutes: {problem}; {status:?}");
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn until_weight(world: &World, service: &str, pct: i64) {
    let end = world.time.elapsed() + 15 * MINUTE;
    while world.checks.weights(service).last() != Some(&pct) {
        assert!(world.time.elapsed() < end, "{:?}", world.checks.weights(service));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn a_canary_goes_without_an_outage_though_what_it_gives_back_may_not_be_read_for_a_while() {
    for kind in [
        GroupKind::of::<Deployment>(),
        GroupKind::of::<HttpRoute>(),
        GroupKind::of::<Service>(),
        GroupKind::of::<EndpointSlice>(),
    ] {
        for amid in [false, true] {
            play(async |mut world, _| {
                world.domains = vec!["delivery".to_owned()];
                world.start();
                both(&world, "Initialized", 30 * MINUTE).await;
                if amid {
                    releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
                    until_weight(&world, "shop", 20).await;
                }
                let unreadable = BTreeSet::from([kind.clone()]);
                world.set_all(&Menu { unreadable, ..Menu::default() });
                delete(&world, "shop").await;
                tokio::time::sleep(10 * MINUTE).await;
                let canary = releases::canary(&world, "shop").await;
                assert!(canary.is_some(), "{kind}: it is gone, and nothing was given back");
                world.set_all(&Menu::default());
                is_taken_away(&world, "shop").await;
                assert_eq!(world.checks.breaches(), [], "{kind}");
            });
        }
    }
}

pub(crate) async fn budget(world: &World, service: &str) -> Value {
    let canary = releases::canary(world, service).await.unwrap();
    canary.json()["status"]["errorBudget"].clone()
}

#[test]
fn a_canary_is_deleted_whatever_others_wrote_into_its_status() {
    let spoilt = [
        json!({"errorBudget": {"permission": "perhaps"}}),
        json!({"errorBudget": {"slo": "default/shop/x"}}),
        json!({"evenkeel": {"tick": -1}}),
        json!({"errorBudget": {"permission": "perhaps"}, "evenkeel": {"tick": -1}}),
    ];
    for status in spoilt {
        for amid in [false, true] {
            play(async |mut world, _| {
                // Without the controller that would write the budget again.
                world.domains = vec!["delivery".to_owned()];
                world.start();
                both(&world, "Initialized", 30 * MINUTE).await;
                if amid {
                    releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
                    until_weight(&world, "shop", 20).await;
                }
                write_status(&world, "shop", &status).await;
                delete(&world, "shop").await;
                is_taken_away(&world, "shop").await;
                assert_eq!(world.checks.breaches(), [], "{status}");
            });
        }
    }
}

#[test]
fn a_budget_that_cannot_be_read_hides_no_bad_version_and_is_written_anew() {
    play(async |mut world, traffic| {
        world.domains = vec!["delivery".to_owned()];
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        releases::release(&world, "shop", "evenkeel/demo:bad").await.unwrap();
        until_weight(&world, "shop", 20).await;
        traffic.set("shop", releases::BAD);
        world.checks.forbid_image("evenkeel/demo:bad");
        write_status(&world, "shop", &json!({"errorBudget": {"permission": "perhaps"}})).await;
        reach(&world, "shop", "Failed", 15 * MINUTE).await;
        assert_eq!(world.checks.weights("shop"), [0, 10, 20, 0]);
        // The next version does not begin on it.
        traffic.set("shop", releases::GOOD);
        releases::release(&world, "shop", "evenkeel/demo:v3").await.unwrap();
        reach(&world, "shop", "Waiting", 5 * MINUTE).await;
        let canary = releases::canary(&world, "shop").await.unwrap();
        let said = canary.json()["status"]["conditions"].to_string();
        assert!(said.contains("BudgetUnreadable"), "{said}");
        // Who writes it is there again.
        world.kill(process);
        world.domains.clear();
        world.start();
        reach(&world, "shop", "Succeeded", 30 * MINUTE).await;
        assert_eq!(budget(&world, "shop").await, Value::Null, "no SLO asks for one");
        assert_eq!(world.checks.breaches(), []);
    });
}

pub(crate) fn policy() -> Value {
    json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "ErrorBudgetPolicy",
        "metadata": {"name": "all", "namespace": "default"},
        "spec": {"selector": {"services": ["requests"]}}})
}

pub(crate) async fn budget_is(world: &World, service: &str, reason: &str) {
    let end = world.time.elapsed() + 5 * MINUTE;
    while budget(world, service).await["reason"] != reason {
        assert!(world.time.elapsed() < end, "{}", budget(world, service).await);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

#[test]
fn a_canary_is_deleted_while_nothing_is_known_of_its_budget() {
    for amid in [false, true] {
        play(async |mut world, _| {
            world.start();
            both(&world, "Initialized", 30 * MINUTE).await;
            if amid {
                releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
                until_weight(&world, "shop", 10).await;
            }
            world.create(policy()).await.unwrap();
            world.create(service_level("requests")).await.unwrap();
            budget_is(&world, "shop", "BudgetUnknown").await;
            if amid {
                // The door holds the next step forever.
                tokio::time::sleep(10 * MINUTE).await;
                assert_eq!(flag(&world, "shop").await, "Held ActionHeld");
                assert_eq!(world.checks.weights("shop").last(), Some(&10));
            } else {
                releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
                reach(&world, "shop", "Waiting", 5 * MINUTE).await;
                tokio::time::sleep(10 * MINUTE).await;
                assert_eq!(world.checks.weights("shop"), [0]);
            }
            delete(&world, "shop").await;
            is_taken_away(&world, "shop").await;
            // The other one was asked nothing.
            assert_eq!(releases::phase(&world, "shop-api").await, "Initialized");
            assert_eq!(world.checks.breaches(), []);
        });
    }
}
