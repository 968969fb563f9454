//! Releases while a person or NTP sets the wall clock.

use jiff::SignedDuration;

use super::*;

const STEPS: [SignedDuration; 3] =
    [SignedDuration::from_secs(26), SignedDuration::from_hours(-1), SignedDuration::from_hours(24)];

/// A release of `shop` has this weight for seven seconds.
async fn at_weight(world: &World, pct: i64) {
    releases::release(world, "shop", "evenkeel/demo:v2").await.unwrap();
    while world.checks.weights("shop").last() != Some(&pct) {
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    tokio::time::sleep(Duration::from_secs(7)).await;
}

#[test]
fn a_good_release_goes_on_step_by_step_while_the_wall_clock_is_set() {
    for step in STEPS {
        for pct in [0, 10, 50] {
            play(async |mut world, _| {
                world.start();
                both(&world, "Initialized", 30 * MINUTE).await;
                at_weight(&world, pct).await;
                world.time.step(step);
                let set = world.time.elapsed();
                reach(&world, "shop", "Succeeded", 15 * MINUTE).await;
                let took = world.time.elapsed().saturating_sub(set);
                assert!(took < 6 * MINUTE, "{step}, {pct} %: {took:?}");
                assert_eq!(world.checks.weights("shop"), [0, 10, 20, 30, 40, 50, 0], "{step}");
                assert_eq!(world.checks.breaches(), [], "{step}, {pct} %");
                // And back again, at rest: nothing happens.
                world.time.step(-step);
                tokio::time::sleep(10 * MINUTE).await;
                assert_eq!(releases::phase(&world, "shop").await, "Succeeded");
                assert_eq!(flag(&world, "shop").await, "");
            });
        }
    }
}

#[test]
fn a_bad_version_is_taken_back_in_time_while_the_wall_clock_is_set() {
    for step in STEPS {
        for kills in [false, true] {
            play(async |mut world, traffic| {
                let process = world.start();
                both(&world, "Initialized", 30 * MINUTE).await;
                world.checks.forbid_image("evenkeel/demo:v2");
                at_weight(&world, 20).await;
                traffic.set("shop", releases::BAD);
                world.time.step(step);
                if kills {
                    // The next one does not know that it was set.
                    world.kill(process);
                    world.start();
                }
                reach(&world, "shop", "Failed", 15 * MINUTE).await;
                assert_eq!(world.checks.weights("shop"), [0, 10, 20, 0], "{step}, {kills}");
                assert_eq!(world.checks.breaches(), [], "{step}, {kills}");
            });
        }
    }
}

#[test]
fn a_process_that_did_not_see_the_clock_set_back_waits_one_more_interval() {
    play(async |mut world, _| {
        let process = world.start();
        both(&world, "Initialized", 30 * MINUTE).await;
        at_weight(&world, 20).await;
        world.time.step(SignedDuration::from_hours(-1));
        world.kill(process);
        world.start();
        let set = world.time.elapsed();
        while world.checks.weights("shop").last() != Some(&30) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let took = world.time.elapsed().saturating_sub(set);
        // The Lease of the other one, and an interval.
        assert!(took < LEASE + Duration::from_secs(40), "{took:?}");
        reach(&world, "shop", "Succeeded", 15 * MINUTE).await;
        assert_eq!(world.checks.breaches(), []);
    });
}

#[test]
fn a_canary_is_deleted_while_the_wall_clock_is_set() {
    for step in STEPS {
        for seconds in [0, 1, 3] {
            play(async |mut world, _| {
                world.start();
                both(&world, "Initialized", 30 * MINUTE).await;
                at_weight(&world, 10).await;
                world.delete(&Key::of::<Canary>("default", "shop")).await.unwrap();
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                world.time.step(step);
                tokio::time::sleep(5 * MINUTE).await;
                assert_eq!(releases::taken_away(&world, "shop").await, Ok(()), "{step}");
                assert_eq!(world.checks.breaches(), [], "{step}");
            });
        }
    }
}
