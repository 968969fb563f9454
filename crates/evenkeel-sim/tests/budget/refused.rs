//! Rights that are taken away: what may not be read is not taken to be absent.

use evenkeel_api::slo::{BreakGlass, SloMaintenance};

use super::*;

/// A service of which a release is held: its budget burns.
async fn held() -> World {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    world.run(180, 0.0).await;
    world.run(300, 10.0).await;
    assert_eq!(world.permission().await, "deny BudgetBurning");
    world
}

fn kinds() -> Vec<GroupKind> {
    vec![
        GroupKind::of::<PrometheusServiceLevel>(),
        GroupKind::of::<ErrorBudgetPolicy>(),
        GroupKind::of::<SloMaintenance>(),
        GroupKind::of::<BreakGlass>(),
        GroupKind::of::<PrometheusRule>(),
        GroupKind::of::<Canary>(),
    ]
}

#[tokio::test(start_paused = true)]
async fn no_right_that_is_taken_away_opens_the_budget() {
    for kind in kinds() {
        let mut world = held().await;
        *world.asked.refused.lock().unwrap() = Some(kind.clone());
        for _ in 0..4 {
            world.run(30, 10.0).await;
            assert_eq!(world.permission().await, "deny BudgetBurning", "{kind}");
        }
        // What is not looked at any more is too old to be believed in the end.
        world.run(12 * 60, 10.0).await;
        let budget = world.json::<Canary>("api-service").await["status"]["errorBudget"].clone();
        let age = world.time.now().as_second() - budget["observedAt"].as_i64().unwrap();
        let permission = world.permission().await;
        assert!(permission.starts_with("deny Budget"), "{kind}: {permission}");
        let old = age > evenkeel_api::slo::ErrorBudget::FRESH_SECONDS;
        assert_eq!(old, kind != GroupKind::of::<PrometheusRule>(), "{kind}: {age}");
        *world.asked.refused.lock().unwrap() = None;
        world.run(20 * 60, 10.0).await;
        assert!(world.permission().await.starts_with("deny Budget"), "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_canary_of_which_no_slo_may_be_read_does_not_count_as_one_without() {
    for kind in [GroupKind::of::<PrometheusServiceLevel>(), GroupKind::of::<ErrorBudgetPolicy>()] {
        let mut world = World::new(&[slo(), policy()]).await;
        world.run(60, 0.0).await;
        *world.asked.refused.lock().unwrap() = Some(kind.clone());
        let canary = Obj::from_json(canary()).unwrap();
        world.store.create(&canary, &WRITE).await.unwrap();
        world.run(30, 0.0).await;
        assert_eq!(world.permission().await, "approve SloUnreadable", "{kind}");
        let budget = world.json::<Canary>("api-service").await["status"]["errorBudget"].clone();
        let said = budget["message"].as_str().unwrap();
        assert!(said.contains("this user may not read it: allow to get, list"), "{said}");
        *world.asked.refused.lock().unwrap() = None;
        world.run(15 * 60, 0.0).await;
        assert_eq!(world.permission().await, "allow BudgetHealthy", "{kind}");
    }
}

#[tokio::test(start_paused = true)]
async fn rules_that_may_not_be_read_are_not_said_to_be_of_an_unknown_kind() {
    let mut world = held().await;
    *world.asked.refused.lock().unwrap() = Some(GroupKind::of::<PrometheusRule>());
    world.run(120, 10.0).await;
    let said = condition(&world.slo().await, "RulesInstalled");
    insta::assert_snapshot!(said, @"False RulesUnread: PrometheusRule/production/api-service-slo: cannot be read: this user may not read it; allow to get, list and watch prometheusrules");
    assert_eq!(world.state().await, "burning measured");
    *world.asked.refused.lock().unwrap() = None;
    world.run(120, 10.0).await;
    assert!(condition(&world.slo().await, "RulesInstalled").starts_with("True Installed"));
}

#[tokio::test(start_paused = true)]
async fn the_rules_of_an_object_that_is_gone_are_taken_away_when_they_may_be_read_again() {
    let mut world = held().await;
    *world.asked.refused.lock().unwrap() = Some(GroupKind::of::<PrometheusRule>());
    let key = Key::of::<PrometheusServiceLevel>(NS, "api-service-slo");
    world.store.delete(&key, &DeleteOptions::default()).await.unwrap();
    world.run(60, 0.0).await;
    let rules = Key::of::<PrometheusRule>(NS, "api-service-slo");
    assert!(world.store.get(&rules).await.unwrap().is_some());
    *world.asked.refused.lock().unwrap() = None;
    world.run(15 * 60, 0.0).await;
    assert!(world.store.get(&rules).await.unwrap().is_none());
}
