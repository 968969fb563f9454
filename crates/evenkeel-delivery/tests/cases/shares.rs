//! Plain Services that share requests by pods.

use k8s_openapi::api::core::v1::Pod;
use proptest::prelude::*;

use super::{faults::die_between_writes, *};

/// A Canary with nothing but Services, whose new version gets a share of the requests.
pub(super) fn shares(analysis: &Value) -> Value {
    let mut canary = with(&json!({"provider": "kubernetes",
        "service": {"gateways": null, "hosts": null}}));
    merge(&mut canary, &json!({"spec": {"analysis": analysis}}));
    canary
}

fn apex(world: &World) -> Value {
    let apex = world.store.find(&Key::of::<Service>(NS, "api-service")).unwrap();
    json!({"selector": apex.json()["spec"]["selector"],
        "annotations": apex.json()["metadata"]["annotations"]})
}

fn scale_primary(world: &World, replicas: i32) {
    world.store.change(&deployment_key("api-service-primary"), |body| {
        body["spec"]["replicas"] = replicas.into();
    });
}

fn marked(world: &World) -> usize {
    let all = world.store.all();
    let pods = all
        .iter()
        .filter(|obj| obj.key().kind.is::<Pod>() && obj.label("evenkeel.dev/service").is_some());
    pods.filter(|pod| !pod.name().starts_with("api-service-primary-")).count()
}

#[test]
fn a_plain_service_shares_requests_by_pods() {
    let mut world = initialized(shares(&json!({})));
    let before = world.store.find(&deployment_key("api-service")).unwrap();
    assert_snapshot!(apex(&world), @r#"{"selector":{"app":"api-service-primary"},"annotations":null}"#);
    world.release("2");
    world.run_for(minutes(1) + Duration::from_secs(1));
    assert_snapshot!(apex(&world), @r#"{"selector":{"evenkeel.dev/service":"api-service"},"annotations":{"evenkeel.dev/canary-weight":"10"}}"#);
    assert_snapshot!(world.condition("WeightsConfirmed"), @"False ReplicaRatio: asked for 10 %, in force are 1 of 4 pods, 25.0 %: a plain Service shares by pods. One pod is the least there is, and more than what was asked for: run at least 9 replicas of api-service-primary");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=- target=3
     60s Progressing shown=10 failed=0 route=0/3 target=3
     60s Progressing shown=10 failed=0 route=1/4 target=3
    120s Progressing shown=20 failed=0 route=1/4 target=3
    180s Progressing shown=30 failed=0 route=1/4 target=3
    240s Progressing shown=40 failed=0 route=1/4 target=3
    240s Progressing shown=40 failed=0 route=2/5 target=3
    300s Progressing shown=50 failed=0 route=2/5 target=3
    300s Progressing shown=50 failed=0 route=3/6 target=3
    360s Promoting shown=50 failed=0 route=3/6 target=3
    420s Finalising shown=0 failed=0 route=- target=3
    480s Succeeded shown=0 failed=0 route=- target=0
    ");
    assert_snapshot!(world.events(), @r"
    Normal api-service-primary.shop not ready: waiting for rollout to finish: observed deployment generation less than desired generation (x2)
    Normal Waiting until Service api-service has endpoints of api-service-primary only
    Normal Initialization done! api-service.shop
    Normal New revision detected! Scaling up api-service.shop
    Normal Waiting for api-service.shop rollout to finish: observed deployment generation less than desired generation
    Normal Starting canary analysis for api-service.shop
    Normal Advance api-service.shop canary weight 10 (1 of 4 pods, 25.0 %)
    Normal Advance api-service.shop canary weight 20 (1 of 4 pods, 25.0 %)
    Normal Advance api-service.shop canary weight 30 (1 of 4 pods, 25.0 %)
    Normal Advance api-service.shop canary weight 40 (2 of 5 pods, 40.0 %)
    Normal Advance api-service.shop canary weight 50 (3 of 6 pods, 50.0 %)
    Normal Copying api-service.shop template spec to api-service-primary.shop
    Normal Routing all traffic to primary api-service-primary.shop
    Normal Promotion completed! Scaling down api-service.shop
    ");
    assert_snapshot!(apex(&world), @r#"{"selector":{"app":"api-service-primary"},"annotations":{}}"#);
    assert_eq!(world.condition("WeightsConfirmed"), "none");
    assert_eq!(world.image("api-service-primary"), "2");
    // Nothing of the user's is changed but its replicas.
    let after = world.store.find(&deployment_key("api-service")).unwrap();
    let labels = |obj: &evenkeel_api::Obj| obj.json()["spec"]["template"]["metadata"].clone();
    assert_eq!(labels(&before), labels(&after));
}

#[test]
fn with_pods_enough_a_share_is_what_was_asked_for() {
    let mut world = initialized(shares(&json!({"stepWeight": 10, "maxWeight": 20})));
    scale_primary(&world, 18);
    world.run_for(minutes(1));
    world.release("2");
    world.run_for(minutes(1) + Duration::from_secs(1));
    assert_eq!((world.behind_apex(), marked(&world)), ((2, 20), 2));
    assert_eq!(world.condition("WeightsConfirmed"), "none");
    // Somebody scales the primary down, then up: no more than was asked for, and no less for long.
    scale_primary(&world, 9);
    world.run_for(Duration::from_secs(1));
    assert_eq!(world.behind_apex(), (1, 10));
    scale_primary(&world, 18);
    world.run_for(Duration::from_secs(30));
    assert_eq!(world.behind_apex(), (2, 20));
    world.run_until(&["Succeeded"]);
}

#[test]
fn whoever_scales_the_target_does_not_change_the_share() {
    let mut world = initialized(shares(&json!({})));
    world.release("2");
    world.run_for(minutes(2) + Duration::from_secs(1));
    let share = world.behind_apex();
    world.store.change(&deployment_key("api-service"), |body| {
        body["spec"]["replicas"] = 9.into();
    });
    world.run_for(Duration::from_secs(20));
    assert_eq!((world.behind_apex(), world.replicas("api-service")), (share, Some(9)));
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_bad_version_is_out_of_the_service_with_one_write_though_everything_risky_is_frozen() {
    let mut world = initialized(shares(&json!({"threshold": 2, "stepWeight": 25})));
    world.release("2");
    world.run_for(minutes(1) + Duration::from_secs(1));
    assert_eq!(world.behind_apex(), (1, 4));
    world.freeze();
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    assert_eq!((world.behind_apex(), world.replicas("api-service")), ((0, 3), Some(0)));
    assert_eq!(world.image("api-service-primary"), "1");
    assert_snapshot!(apex(&world), @r#"{"selector":{"app":"api-service-primary"},"annotations":{}}"#);
}

#[test]
fn a_pod_that_takes_the_place_of_another_gets_its_share() {
    let mut world = initialized(shares(&json!({"stepWeight": 50})));
    world.release("2");
    world.run_for(minutes(1) + Duration::from_secs(1));
    assert_eq!(world.behind_apex(), (3, 6));
    let all = world.store.all();
    let pod = all.iter().find(|obj| obj.key().kind.is::<Pod>() && obj.name().contains("-2-"));
    world.store.remove(pod.unwrap().key());
    world.run_for(Duration::from_secs(10));
    assert_eq!(world.behind_apex(), (3, 6), "{}", world.events());
}

#[test]
fn the_whole_service_goes_to_the_canary_if_the_last_weight_says_so() {
    let mut world = initialized(shares(&json!({"stepWeights": [50, 100], "maxWeight": null})));
    world.weight_max = 100;
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=- target=3
     60s Progressing shown=50 failed=0 route=0/3 target=3
     60s Progressing shown=50 failed=0 route=3/6 target=3
    120s Progressing shown=100 failed=0 route=- target=3
    180s Promoting shown=100 failed=0 route=- target=3
    240s Finalising shown=0 failed=0 route=- target=3
    300s Succeeded shown=0 failed=0 route=- target=0
    ");
    assert_eq!(world.behind_apex(), (0, 3));
}

#[test]
fn a_primary_of_before_is_rolled_once_to_get_the_label() {
    let mut world = initialized(routers::plain(&json!({})));
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["spec"]["analysis"]["iterations"] = Value::Null;
        body["spec"]["analysis"]["stepWeight"] = 50.into();
        body["spec"]["analysis"]["maxWeight"] = 50.into();
    });
    world.run_for(minutes(5));
    let label = |world: &World| {
        let primary = world.store.find(&deployment_key("api-service-primary")).unwrap();
        let labels = &primary.json()["spec"]["template"]["metadata"]["labels"];
        labels["evenkeel.dev/service"].clone()
    };
    assert_eq!(label(&world), Value::Null);
    world.release("2");
    world.run_for(minutes(3));
    assert_eq!((label(&world), world.behind_apex()), ("api-service".into(), (3, 6)));
    assert!(world.events().contains("Rolling api-service-primary.shop once"), "{}", world.events());
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_share_that_is_given_back_step_by_step_goes_down_with_the_labels() {
    let mut world = initialized(shares(&json!({"stepWeight": 50, "stepWeightPromotion": 20})));
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=- target=3
     60s Progressing shown=50 failed=0 route=0/3 target=3
     60s Progressing shown=50 failed=0 route=3/6 target=3
    120s Promoting shown=50 failed=0 route=3/6 target=3
    180s Promoting shown=30 failed=0 route=3/6 target=3
    180s Promoting shown=30 failed=0 route=1/4 target=3
    240s Promoting shown=10 failed=0 route=1/4 target=3
    300s Finalising shown=0 failed=0 route=- target=3
    360s Succeeded shown=0 failed=0 route=- target=0
    ");
}

#[test]
fn labels_that_an_interrupted_step_left_are_taken_off_before_the_next() {
    let mut world = initialized(shares(&json!({"stepWeight": 20, "maxWeight": 20})));
    world.release("2");
    world.run_for(Duration::from_secs(5));
    for obj in world.store.all() {
        if obj.key().kind.is::<Pod>() && obj.name().contains("-2-") {
            world.store.change(obj.key(), |body| {
                body["metadata"]["labels"]["evenkeel.dev/service"] = "api-service".into();
            });
        }
    }
    world.run_for(minutes(2));
    assert_eq!((world.behind_apex(), marked(&world)), ((1, 4), 1));
}

#[test]
fn a_canary_that_is_deleted_in_the_middle_gives_the_service_back() {
    let mut world = initialized(shares(&json!({})));
    world.release("2");
    world.run_for(minutes(2) + Duration::from_secs(1));
    let now = world.now().to_string();
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["metadata"]["deletionTimestamp"] = now.into();
    });
    world.run_until(&["gone"]);
    assert_snapshot!(apex(&world), @r#"{"selector":{"app":"api-service"},"annotations":{}}"#);
    assert_eq!(world.behind_apex(), (3, 3));
}

#[test]
fn an_apex_of_before_keeps_what_else_it_selects_by() {
    let mut world = World::new(shares(&json!({"threshold": 2})), Settings::default());
    world.kill();
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "api-service", "namespace": NS},
        "spec": {"selector": {"app": "api-service", "tier": "web"},
            "ports": [{"port": 80, "targetPort": 8080}]}}));
    answer(&world, &[("load-test", 202)]);
    world.boot();
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_for(minutes(1) + Duration::from_secs(1));
    assert_eq!(world.behind_apex(), (1, 4));
    world.freeze();
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Failed"]);
    let primary = json!({"app": "api-service-primary", "tier": "web"});
    assert_eq!((world.behind_apex(), &apex(&world)["selector"]), ((0, 3), &primary));
}

#[test]
fn iterations_in_the_middle_of_a_release_by_weights_cut_off_no_pod_of_the_primary() {
    let mut world = initialized(shares(&json!({})));
    world.release("2");
    world.run_for(minutes(2) + Duration::from_secs(1));
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["spec"]["analysis"]["iterations"] = 2.into();
        body["spec"]["analysis"]["stepWeight"] = Value::Null;
    });
    world.run_until(&["Succeeded"]);
    assert_eq!(world.behind_apex(), (0, 3));
}

#[test]
fn what_cannot_be_shared_by_pods_is_refused_by_name() {
    let refused = |canary: Value, change: fn(&World)| {
        let mut world = World::new(canary, Settings::default());
        change(&world);
        world.run_for(minutes(2));
        world.condition("Accepted")
    };
    let nothing: fn(&World) = |_| {};
    assert_snapshot!(refused(shares(&json!({"maxWeight": null})), nothing), @"False InvalidSpec: spec.analysis.maxWeight: 60 % is not supported with provider kubernetes: the primary keeps all its pods, so at most half of all pods are the canary's; write weights up to 50, and 100 as the last one if you like");
    assert_snapshot!(refused(shares(&json!({"stepWeights": [20, 80]})), nothing), @"False InvalidSpec: spec.analysis.stepWeights: 80 % is not supported with provider kubernetes: the primary keeps all its pods, so at most half of all pods are the canary's; write weights up to 50, and 100 as the last one if you like");
    assert_snapshot!(refused(shares(&json!({"sessionAffinity": {"cookieName": "x"}})), nothing), @"False InvalidSpec: spec.analysis.sessionAffinity: is not supported: remove it");
    let sticky: fn(&World) = |world| {
        world.store.create_now(json!({"apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "api-service", "namespace": NS},
            "spec": {"selector": {"app": "api-service"}, "sessionAffinity": "ClientIP",
                "ports": [{"port": 80, "targetPort": 8080}]}}));
    };
    assert_snapshot!(refused(shares(&json!({})), sticky), @"False InvalidSpec: Service/shop/api-service has sessionAffinity ClientIP: each client stays with one pod, so shares by pods would not be shares of requests. Set it to None, or write iterations");
    let labelled: fn(&World) = |world| {
        world.store.change(&deployment_key("api-service"), |body| {
            body["spec"]["template"]["metadata"]["labels"]["evenkeel.dev/service"] = "x".into();
        });
    };
    assert_snapshot!(refused(shares(&json!({})), labelled), @"False InvalidSpec: Deployment/shop/api-service has the label evenkeel.dev/service in its pod template, by which evenkeel shares requests: remove it");
}

#[test]
fn without_a_look_at_the_pods_no_step_is_taken_and_what_runs_is_judged() {
    let mut world = initialized(shares(&json!({"threshold": 2})));
    world.release("2");
    world.run_for(minutes(2) + Duration::from_secs(1));
    let share = world.behind_apex();
    world.store.answer_reads("Pod", 500);
    world.run_for(minutes(3));
    assert_eq!(world.behind_apex(), share);
    assert_snapshot!(world.condition("ObjectsReadable"), @"False ReadFailed: pods cannot be listed: Pod: no answer from the API server: HTTP status 500. Until that can be read, the canary gets no more traffic; what runs is judged all the same");
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_until(&["Progressing", "Failed"]);
    world.store.answer_reads("Pod", 200);
    world.run_until(&["Failed"]);
    assert_eq!(world.behind_apex(), (0, 3));
}

#[test]
fn a_controller_that_dies_between_any_two_writes_goes_on_with_shares_by_pods() {
    let analysis = json!({"threshold": 2, "stepWeight": 25});
    die_between_writes(&shares(&analysis));
}

#[derive(Debug, Clone)]
enum Happening {
    Release(u8),
    Errors(bool),
    CanaryBroken(bool),
    PrimaryBroken(bool),
    Scale(u8),
    ScaleTarget(u8),
    Reboot,
    Pass(u16),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        (2_u8..6).prop_map(Happening::Release),
        any::<bool>().prop_map(Happening::Errors),
        any::<bool>().prop_map(Happening::CanaryBroken),
        any::<bool>().prop_map(Happening::PrimaryBroken),
        (1_u8..12).prop_map(Happening::Scale),
        (1_u8..12).prop_map(Happening::ScaleTarget),
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
        Happening::CanaryBroken(is) => broken("api-service", *is),
        Happening::PrimaryBroken(is) => broken("api-service-primary", *is),
        Happening::Scale(replicas) => scale_primary(world, i32::from(*replicas)),
        Happening::ScaleTarget(replicas) => {
            if world.replicas("api-service") != Some(0) {
                world.store.change(&deployment_key("api-service"), |body| {
                    body["spec"]["replicas"] = (*replicas).into();
                });
            }
        }
        Happening::Reboot => {
            world.kill();
            world.boot();
        }
        Happening::Pass(seconds) => world.run_for(Duration::from_secs(u64::from(*seconds))),
    }
    world.settle();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..Default::default() })]
    /// Whatever happens: no more pods of the canary than were asked for but one, every pod of the
    /// primary serves, and users always find a pod (the world checks it after every step); when the
    /// faults stop, a good version is promoted and a bad one is not.
    #[test]
    fn whatever_happens_shares_by_pods_stay_safe_and_heal(
        happenings in proptest::collection::vec(happening(), 1..14),
    ) {
        let mut world = initialized(shares(&json!({"threshold": 2, "stepWeight": 25})));
        for one in &happenings {
            happen(&mut world, one);
        }
        world.broken.clear();
        world.traffic.lock().unwrap().error_ratio = Some(0.0);
        world.release("77");
        world.run_for(minutes(40));
        prop_assert_eq!(world.phase(), "Succeeded", "{}", world.timeline());
        prop_assert_eq!(world.behind_apex().0, 0);
        prop_assert_eq!(world.image("api-service-primary"), "77");
        world.release("78");
        world.run_for(minutes(2));
        world.traffic.lock().unwrap().error_ratio = Some(1.0);
        world.run_for(minutes(4));
        prop_assert_eq!(world.phase(), "Failed", "{}", world.timeline());
        prop_assert_eq!(world.behind_apex().0, 0);
        prop_assert_eq!(world.image("api-service-primary"), "77");
    }
}
