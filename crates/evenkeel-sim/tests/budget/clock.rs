//! Budgets and ledgers while a person or NTP sets the wall clock.

use super::*;

/// A release of one minute, of which 600 requests fail, and in the middle of which the clock is set;
/// then two hours. Also how many requests were counted.
async fn played(step: SignedDuration) -> (World, u64) {
    let mut world = World::new(&[slo(), canary(), policy()]).await;
    world.run(2 * 3600, 0.0).await;
    world.canary("Progressing", 10, "evenkeel-00000001").await;
    world.run(30, 10.0).await;
    world.clock_was_set = true;
    world.time.step(step);
    world.run(30, 10.0).await;
    world.canary("Failed", 0, "evenkeel-00000001").await;
    world.run(2 * 3600, 0.0).await;
    let total = world.slo().await["slos"][0]["total"].as_u64().unwrap();
    (world, total)
}

#[tokio::test(start_paused = true)]
async fn no_failure_is_counted_twice_or_lost_when_the_wall_clock_is_set() {
    let (_, undisturbed) = played(SignedDuration::ZERO).await;
    let mut table = Vec::new();
    for step in [
        SignedDuration::from_secs(26),
        SignedDuration::from_hours(-1),
        SignedDuration::from_hours(24),
    ] {
        let (mut world, total) = played(step).await;
        // The edges of what was counted lie elsewhere, by the minutes between two writes of a status.
        assert!(undisturbed.abs_diff(total) < undisturbed / 50, "{step}: {total}");
        let (state, permission) = (world.state().await, world.permission().await);
        table.push(format!("{step}: {}; {state}; {permission}", world.ledger().await));
        // Counted again by a process that did not look on, it is the same.
        world.restart();
        world.run(120, 0.0).await;
        table.push(format!("again: {}", world.ledger().await));
    }
    insta::assert_snapshot!(table.join("\n"), @r"
    PT26S: Canary/production/api-service@00000001 600; healthy measured; allow BudgetHealthy
    again: Canary/production/api-service@00000001 600
    -PT1H: Canary/production/api-service@00000001 600; healthy measured; allow BudgetHealthy
    again: Canary/production/api-service@00000001 600
    PT24H: Canary/production/api-service@00000001 600; healthy measured; allow BudgetHealthy
    again: Canary/production/api-service@00000001 600
    ");
}
