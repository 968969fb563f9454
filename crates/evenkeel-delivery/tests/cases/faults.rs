//! Whatever happens, a release stays safe and heals.

use proptest::prelude::*;

use super::*;

/// Kills the controller between any two writes of a life: initialization, a release that is
/// promoted, one that is rolled back, deletion. It always ends the same way, and what must hold
/// always holds (the world checks it after every step). Takes seconds: it lives 100 whole lives.
#[test]
fn a_controller_that_dies_between_any_two_writes_goes_on_where_it_was() {
    die_between_writes(&with(&json!({"analysis": {"threshold": 2, "stepWeight": 50}})));
}

#[test]
fn a_controller_that_dies_between_any_two_writes_goes_on_with_istio() {
    die_between_writes(&routers::istio(&json!({"analysis": {"threshold": 2, "stepWeight": 50}})));
}

#[test]
fn a_controller_that_dies_between_any_two_writes_goes_on_with_plain_services() {
    die_between_writes(&routers::plain(&json!({"analysis": {"threshold": 2, "iterations": 1}})));
}

pub(super) fn die_between_writes(canary: &Value) {
    let mut lives = 0;
    for writes in 0..1000 {
        let mut world = World::new(canary.clone(), Settings::default());
        answer(&world, &[("load-test", 202)]);
        world.store.die_after(Some(writes));
        let key = Key::of::<Canary>(NS, "api-service");
        world.live_until(&["Initialized"]);
        world.release("2");
        world.live_until(&["Succeeded"]);
        world.traffic.lock().unwrap().error_ratio = Some(0.5);
        world.release("3");
        world.live_until(&["Failed"]);
        assert_eq!(world.image("api-service-primary"), "2", "died after {writes} writes");
        world.store.change(&key, |body| {
            body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
        });
        world.live_until(&["gone"]);
        lives += 1;
        if world.deaths == 0 {
            break;
        }
    }
    // Every write of a whole life was the last one once.
    assert!((30..200).contains(&lives), "{lives}");
}

/// Something that happens to a release.
#[derive(Debug, Clone)]
enum Happening {
    Release(u8),
    Errors(bool),
    Confirming(bool),
    CanaryBroken(bool),
    PrimaryBroken(bool),
    Reboot,
    Pass(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (2_u8..6).prop_map(Happening::Release),
        any::<bool>().prop_map(Happening::Errors),
        any::<bool>().prop_map(Happening::Confirming),
        any::<bool>().prop_map(Happening::CanaryBroken),
        any::<bool>().prop_map(Happening::PrimaryBroken),
        Just(Happening::Reboot),
        (1_u16..400).prop_map(Happening::Pass),
        (1_u16..400).prop_map(Happening::Pass),
    ]
}

fn happen(world: &mut World, happening: &Happening) {
    let mut broken = |name: &str, is: bool| {
        if is {
            world.broken.insert(name.to_owned());
        } else {
            world.broken.remove(name);
        }
    };
    match happening {
        Happening::Release(version) => world.release(&version.to_string()),
        Happening::Errors(on) => {
            world.traffic.lock().unwrap().error_ratio = Some(if *on { 0.5 } else { 0.0 });
        }
        Happening::Confirming(on) => world.confirming = *on,
        Happening::CanaryBroken(is) => broken("api-service", *is),
        Happening::PrimaryBroken(is) => broken("api-service-primary", *is),
        Happening::Reboot => {
            world.kill();
            world.boot();
        }
        Happening::Pass(seconds) => world.run_for(Duration::from_secs(u64::from(*seconds))),
    }
    world.settle();
}

#[test]
fn the_next_weight_that_was_set_and_not_noted_is_a_step_and_another_one_is_found() {
    for (weight, event) in [
        (20, "Advance api-service.shop canary weight 20"),
        (15, "Found canary weight 15 of api-service.shop in the route, going on from there"),
    ] {
        let mut world = initialized(article());
        world.release("2");
        world.run_for(minutes(1) + Duration::from_secs(30));
        world.kill();
        world.store.change(&Key::of::<HttpRoute>(NS, "api-service"), |body| {
            let backends = &mut body["spec"]["rules"][0]["backendRefs"];
            backends[0]["weight"] = (100 - weight).into();
            backends[1]["weight"] = weight.into();
        });
        world.boot();
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.weight(), Some(weight));
        assert!(world.events().contains(event), "{}", world.events());
        assert_eq!(world.events().contains("Found"), weight == 15, "{}", world.events());
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 16, failure_persistence: None, ..Default::default() })]
    /// Whatever happens: the invariants hold (the world checks them after every step); when the
    /// faults stop, the run ends with no traffic on the canary; a bad version can be rolled back.
    #[test]
    fn whatever_happens_it_stays_safe_and_heals(
        happenings in proptest::collection::vec(happening(), 1..14),
    ) {
        let mut world = initialized(with(&json!({"analysis": {"threshold": 2, "stepWeight": 25}})));
        for one in &happenings {
            happen(&mut world, one);
        }
        world.broken.clear();
        world.confirming = true;
        world.traffic.lock().unwrap().error_ratio = Some(0.0);
        // A failed promotion leaves the traffic with the canary until a new version.
        world.release("77");
        world.run_for(minutes(30));
        prop_assert_eq!(world.phase(), "Succeeded", "{}", world.timeline());
        prop_assert_eq!(world.weight(), Some(0));
        prop_assert_eq!(world.image("api-service-primary"), "77");
        world.release("78");
        world.run_for(minutes(2));
        world.traffic.lock().unwrap().error_ratio = Some(1.0);
        world.run_for(minutes(4));
        prop_assert_eq!(world.phase(), "Failed", "{}", world.timeline());
        prop_assert_eq!(world.weight(), Some(0));
        prop_assert_eq!(world.image("api-service-primary"), "77");
    }
}
