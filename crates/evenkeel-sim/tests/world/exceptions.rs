//! Releases that the error budget holds, and people who let them go ahead: both are on record.

use evenkeel_api::slo::BreakGlass;
use evenkeel_base::Clock as _;
use evenkeel_guard::{Asked, Entry};
use jiff::SignedDuration;

use super::{
    endings::{budget, budget_is, policy},
    *,
};

/// What was asked for a Canary, no safer things: action, verdict, and what policies said.
fn asked(world: &World, service: &str) -> Vec<String> {
    let object = format!("Canary/default/{service}");
    let row = |asked: &Asked| {
        let said = asked
            .objections
            .iter()
            .map(|one| format!(" | {} {}: {}", one.policy, one.verdict, one.reason));
        format!("{} {}{}", asked.verb, asked.verdict, said.collect::<String>())
    };
    let asks = world.record().into_iter().filter_map(|line| match line.entry {
        Entry::Ask(asked) if asked.object == object && asked.direction != "safer" => {
            Some(row(&asked))
        }
        _ => None,
    });
    asks.collect()
}

fn glass(world: &World, minutes: i64) -> Value {
    let now = world.time.now();
    json!({"apiVersion": "evenkeel.dev/v1alpha1", "kind": "BreakGlass",
        "metadata": {"name": "fix", "namespace": "default"},
        "spec": {"reason": "payments fail", "author": "kim", "classes": ["deploy"],
            "granted": now, "expires": now + SignedDuration::from_mins(minutes)}})
}

#[test]
fn a_start_that_is_held_and_one_that_a_break_glass_opens_are_on_record() {
    play(async |mut world, _| {
        world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        world.create(policy()).await.unwrap();
        world.create(service_level("requests")).await.unwrap();
        budget_is(&world, "shop", "BudgetUnknown").await;
        let before = asked(&world, "shop").len();
        releases::release(&world, "shop", "evenkeel/demo:v2").await.unwrap();
        reach(&world, "shop", "Waiting", 5 * MINUTE).await;
        tokio::time::sleep(30 * MINUTE).await;
        let held = asked(&world, "shop").split_off(before);
        let [line] = &held[..] else { panic!("once for each reason: {held:?}") };
        let start = "start hold | budget hold: BudgetUnknown: default/requests/requests-requests: ";
        assert!(line.starts_with(start), "{line}");

        world.create(glass(&world, 60)).await.unwrap();
        reach(&world, "shop", "Succeeded", 30 * MINUTE).await;
        let went = asked(&world, "shop").split_off(before + 1);
        let by = "| budget allow: default/requests/requests-requests: BreakGlass/fix by kim until ";
        let scaled = went.iter().find(|row| row.starts_with("scale allow "));
        assert!(scaled.is_some_and(|row| row.contains(by)), "{went:?}");
        assert!(scaled.is_some_and(|row| row.ends_with(": payments fail")), "{went:?}");
        let steps: Vec<_> = went.iter().filter(|row| row.starts_with("set-weights")).collect();
        assert!(!steps.is_empty() && steps.iter().all(|row| row.contains(by)), "{went:?}");
        // Who did not need it is not said to have used it.
        assert_eq!(asked(&world, "shop-api").iter().find(|row| row.contains("BreakGlass")), None);

        // When it is over, the next version waits again, and that is on record again.
        tokio::time::sleep(60 * MINUTE).await;
        assert_eq!(budget(&world, "shop").await["breakGlass"], Value::Null);
        let before = asked(&world, "shop").len();
        releases::release(&world, "shop", "evenkeel/demo:v3").await.unwrap();
        reach(&world, "shop", "Waiting", 5 * MINUTE).await;
        let held = asked(&world, "shop").split_off(before);
        assert!(held.len() == 1 && held[0].starts_with(start), "{held:?}");
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn a_break_glass_that_is_over_opens_nothing_from_that_moment_on() {
    play(async |mut world, _| {
        world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        world.create(policy()).await.unwrap();
        world.create(service_level("requests")).await.unwrap();
        budget_is(&world, "shop", "BudgetUnknown").await;
        let glass = glass(&world, 10);
        let expires: jiff::Timestamp = glass["spec"]["expires"].as_str().unwrap().parse().unwrap();
        world.create(glass).await.unwrap();
        budget_is(&world, "shop", "BreakGlass").await;
        let used = budget(&world, "shop").await["breakGlass"].clone();
        assert_eq!((&used["name"], &used["author"]), (&"fix".into(), &"kim".into()));
        while budget(&world, "shop").await["reason"] == "BreakGlass" {
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
        let late = world.time.now().duration_since(expires);
        assert!(late <= SignedDuration::from_secs(5), "{late:?} after it has expired");
        let key = Key::of::<BreakGlass>("default", "fix");
        assert!(world.store.get(&key).await.unwrap().is_some());
    });
}
