//! Canaries in virtual time, through the controller's public face.
#![expect(clippy::unwrap_used, reason = "a setup that fails is a test that fails")]

#[path = "cases/beside.rs"]
mod beside;
#[path = "cases/broken.rs"]
mod broken;
#[path = "cases/budget.rs"]
mod budget;
#[path = "cases/conditions.rs"]
mod conditions;
#[path = "cases/configs.rs"]
mod configs;
#[path = "cases/faults.rs"]
mod faults;
#[path = "cases/given_back.rs"]
mod given_back;
#[path = "cases/hooks.rs"]
mod hooks;
#[path = "cases/metrics.rs"]
mod metrics;
#[path = "cases/misfits.rs"]
mod misfits;
#[path = "cases/objects.rs"]
mod objects;
#[path = "cases/primary.rs"]
mod primary;
#[path = "cases/readiness.rs"]
mod readiness;
#[path = "cases/refused.rs"]
mod refused;
#[path = "cases/repairs.rs"]
mod repairs;
#[path = "cases/reverted.rs"]
mod reverted;
#[path = "cases/routers.rs"]
mod routers;
#[path = "cases/shares.rs"]
mod shares;
#[path = "cases/stopped.rs"]
mod stopped;
#[path = "cases/taken.rs"]
mod taken;
#[path = "cases/templates.rs"]
mod templates;
#[path = "cases/unread.rs"]
mod unread;
mod world;

use std::{fmt::Write as _, time::Duration};

use evenkeel_api::{Key, canary::Canary, httproute::HttpRoute, json::merge};
use evenkeel_delivery::Settings;
use insta::assert_snapshot;
use k8s_openapi::api::{apps::v1::Deployment, core::v1::Service};
use serde_json::{Value, json};
use world::{NS, PAGE, Traffic, World, deployment_key};

/// The article's Canary as written, in a namespace.
fn article() -> Value {
    let mut canary: Value = serde_saphyr::from_str(include_str!("world/canary.yaml")).unwrap();
    canary["metadata"]["namespace"] = NS.into();
    canary
}

fn canary_key() -> Key {
    Key::of::<Canary>(NS, "api-service")
}

/// Asks for the deletion of the Canary.
fn delete(world: &World) {
    let now = world.now().to_string();
    world.store.change(&canary_key(), |body| body["metadata"]["deletionTimestamp"] = now.into());
}

fn with(patch: &Value) -> Value {
    let mut canary = article();
    merge(&mut canary, &json!({"spec": patch}));
    canary
}

/// A world with this Canary, initialized; the timeline starts after that.
fn initialized(canary: Value) -> World {
    let mut world = World::new(canary, Settings::default());
    world.answers.lock().unwrap().insert("load-test", 202);
    world.run_until(&["Initialized"]);
    world.log.lock().unwrap().clear();
    world
}

fn minutes(count: u64) -> Duration {
    Duration::from_secs(60 * count)
}

fn answer(world: &World, table: &[(&'static str, u16)]) {
    world.answers.lock().unwrap().extend(table.iter().copied());
}

#[test]
fn a_target_is_taken_over_without_a_gap() {
    let mut world = World::new(article(), Settings::default());
    world.settle();
    assert_snapshot!(world.timeline(), @r"
    0s Initializing shown=0 failed=0 route=- target=3
    0s Initializing shown=0 failed=0 route=0 target=3
    0s Initialized shown=0 failed=0 route=0 target=0
    ");
    assert_snapshot!(world.events(), @r"
    Normal api-service-primary.shop not ready: waiting for rollout to finish: observed deployment generation less than desired generation
    Normal Initialization done! api-service.shop
    ");
    let primary = world.store.find(&deployment_key("api-service-primary")).unwrap();
    assert_snapshot!(serde_json::to_string_pretty(&primary.json()["spec"]).unwrap(), @r#"
    {
      "replicas": 3,
      "selector": {
        "matchLabels": {
          "app": "api-service-primary"
        }
      },
      "template": {
        "metadata": {
          "labels": {
            "app": "api-service-primary",
            "tier": "web"
          },
          "annotations": {
            "evenkeel.dev/termination-gate": "gateway",
            "evenkeel.dev/revision": "ek1-39a7d3cdab45a805"
          }
        },
        "spec": {
          "containers": [
            {
              "name": "app",
              "image": "evenkeel/demo:1",
              "ports": [
                {
                  "containerPort": 8080
                }
              ]
            }
          ],
          "topologySpreadConstraints": [
            {
              "maxSkew": 1,
              "topologyKey": "topology.kubernetes.io/zone",
              "whenUnsatisfiable": "DoNotSchedule",
              "labelSelector": {
                "matchLabels": {
                  "app": "api-service-primary"
                }
              }
            }
          ]
        }
      }
    }
    "#);
    let route = world.store.find(&Key::of::<HttpRoute>(NS, "api-service")).unwrap();
    assert_snapshot!(route.json()["spec"].to_string(), @r#"{"parentRefs":[{"group":"","kind":"Service","name":"api-service"}],"rules":[{"backendRefs":[{"group":"","kind":"Service","name":"api-service-primary","port":80,"weight":100},{"group":"","kind":"Service","name":"api-service-canary","port":80,"weight":0}]}],"hostnames":["api.elseblock.io"]}"#);
    let service =
        |name| world.store.find(&Key::of::<Service>(NS, name)).unwrap().json()["spec"].to_string();
    assert_snapshot!(service("api-service"), @r#"{"selector":{"app":"api-service-primary"},"ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":8080}]}"#);
    assert_snapshot!(service("api-service-canary"), @r#"{"selector":{"app":"api-service"},"ports":[{"name":"http","port":80,"protocol":"TCP","targetPort":8080}]}"#);
}

#[test]
fn the_articles_canary_is_promoted_in_nine_ticks() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(minutes(20));
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    120s Progressing shown=20 failed=0 route=20 target=3
    180s Progressing shown=30 failed=0 route=30 target=3
    240s Progressing shown=40 failed=0 route=40 target=3
    300s Progressing shown=50 failed=0 route=50 target=3
    360s Promoting shown=50 failed=0 route=50 target=3
    420s Finalising shown=0 failed=0 route=0 target=3
    480s Succeeded shown=0 failed=0 route=0 target=0
    ");
    assert_snapshot!(world.events(), @r"
    Normal api-service-primary.shop not ready: waiting for rollout to finish: observed deployment generation less than desired generation (x2)
    Normal Initialization done! api-service.shop
    Normal New revision detected! Scaling up api-service.shop
    Normal Waiting for api-service.shop rollout to finish: observed deployment generation less than desired generation
    Normal Starting canary analysis for api-service.shop
    Normal Advance api-service.shop canary weight 10
    Normal Advance api-service.shop canary weight 20
    Normal Advance api-service.shop canary weight 30
    Normal Advance api-service.shop canary weight 40
    Normal Advance api-service.shop canary weight 50
    Normal Copying api-service.shop template spec to api-service-primary.shop
    Normal Routing all traffic to primary api-service-primary.shop
    Normal Promotion completed! Scaling down api-service.shop
    ");
    assert_eq!(
        (world.image("api-service-primary"), world.image("api-service")),
        ("2".into(), "2".into())
    );
    // One load test per analysis tick, named once each.
    assert_eq!(world.calls.lock().unwrap().len(), 5);
}

#[test]
fn a_release_that_fails_its_checks_is_rolled_back_at_the_threshold() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 3}})));
    world.release("2");
    world.run_for(minutes(3));
    world.traffic.lock().unwrap().error_ratio = Some(0.05);
    world.run_for(minutes(20));
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    120s Progressing shown=20 failed=0 route=20 target=3
    180s Progressing shown=20 failed=1 route=20 target=3
    240s Progressing shown=20 failed=2 route=20 target=3
    300s Progressing shown=0 failed=3 route=0 target=3
    300s Failed shown=0 failed=3 route=0 target=0
    ");
    assert_snapshot!(world.events(), @r"
    Normal api-service-primary.shop not ready: waiting for rollout to finish: observed deployment generation less than desired generation
    Normal Initialization done! api-service.shop
    Normal New revision detected! Scaling up api-service.shop
    Normal Waiting for api-service.shop rollout to finish: observed deployment generation less than desired generation
    Normal Starting canary analysis for api-service.shop
    Normal Advance api-service.shop canary weight 10
    Normal Advance api-service.shop canary weight 20
    Warning Halt api-service.shop advancement success rate 95.00% < 99% (x3)
    Warning Rolling back api-service.shop failed checks threshold reached 3: request-success-rate 95.00% < 99%
    Warning Canary failed! Scaling down api-service.shop
    Warning Rolled back api-service.shop in 0s from the decision until no request reached it: failed checks threshold reached 3: request-success-rate 95.00% < 99%
    ");
    assert_eq!(world.image("api-service-primary"), "1");
}

#[test]
fn a_slow_release_is_rolled_back_and_not_tried_again_until_it_changes() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2}})));
    *world.traffic.lock().unwrap() = Traffic { error_ratio: Some(0.0), p99_ms: 800.0, down: false };
    world.release("2");
    world.run_until(&["Failed"]);
    world.run_for(minutes(10));
    assert_eq!(world.phase(), "Failed");
    assert!(
        world.events().contains("Halt api-service.shop advancement request duration 800ms > 500ms")
    );
    // Back to the good one: nothing to do. The bad one again: a new run.
    world.release("1");
    world.run_for(minutes(2));
    assert_eq!(world.phase(), "Failed");
    world.release("2");
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Progressing");
    world.run_until(&["Failed"]);
    // A good one after that is promoted.
    world.traffic.lock().unwrap().p99_ms = 20.0;
    world.release("3");
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "3");
}

#[test]
fn a_new_revision_starts_the_analysis_again() {
    let mut world = initialized(article());
    world.release("2");
    world.run_for(minutes(3) + Duration::from_secs(30));
    world.release("3");
    world.run_for(minutes(2));
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    120s Progressing shown=20 failed=0 route=20 target=3
    180s Progressing shown=30 failed=0 route=30 target=3
    210s Progressing shown=0 failed=0 route=0 target=3
    270s Progressing shown=10 failed=0 route=10 target=3
    ");
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "3");
}

#[test]
fn no_data_is_a_failed_check_that_says_so() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2}})));
    world.traffic.lock().unwrap().error_ratio = None;
    world.release("2");
    world.run_until(&["Failed"]);
    assert!(
        world.events().contains(
            "Halt advancement no values found for metric request-success-rate probably \
         api-service.shop is not receiving traffic"
        ),
        "{}",
        world.events()
    );
}

#[test]
fn windows_lie_after_the_gateways_confirmation() {
    let mut world = initialized(article());
    world.release("2");
    world.confirming = false;
    world.run_for(minutes(1) + Duration::from_secs(39));
    // Asked once before the first step: that the metrics can be asked for, not what they say.
    world.queries.lock().unwrap().clear();
    world.run_for(Duration::from_secs(1));
    // Weight 10 is written and not confirmed: no check yet.
    assert_eq!((world.weight(), world.queries.lock().unwrap().len()), (Some(10), 0));
    world.confirming = true;
    world.run_for(Duration::from_secs(59));
    assert_eq!((world.weight(), world.queries.lock().unwrap().len()), (Some(10), 0));
    world.run_for(Duration::from_secs(2));
    assert_eq!(world.weight(), Some(20));
    // Once before the webhook is asked, and once with its answer.
    assert_snapshot!(world.queries.lock().unwrap().join("\n"), @r#"
    sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="shop",destination_workload=~"api-service"}[1m]))
    sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="shop",destination_workload=~"api-service",response_code=~"5.*"}[1m]))
    histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload_namespace="shop",destination_workload=~"api-service"}[1m])))
    sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="shop",destination_workload=~"api-service"}[1m]))
    sum(rate(istio_requests_total{reporter="destination",destination_workload_namespace="shop",destination_workload=~"api-service",response_code=~"5.*"}[1m]))
    histogram_quantile(0.99, sum by (le) (rate(istio_request_duration_milliseconds_bucket{reporter="destination",destination_workload_namespace="shop",destination_workload=~"api-service"}[1m])))
    "#);
}

#[test]
fn a_gateway_that_never_confirms_fails_the_checks_and_keeps_the_canary_running() {
    let mut world = initialized(with(&json!({"analysis": {"threshold": 2}})));
    world.release("2");
    world.confirming = false;
    world.run_for(minutes(10));
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    120s Progressing shown=10 failed=1 route=10 target=3
    180s Progressing shown=0 failed=2 route=0 target=3
    ");
    assert_snapshot!(world.events(), @r"
    Normal api-service-primary.shop not ready: waiting for rollout to finish: observed deployment generation less than desired generation
    Normal Initialization done! api-service.shop
    Normal New revision detected! Scaling up api-service.shop
    Normal Waiting for api-service.shop rollout to finish: observed deployment generation less than desired generation
    Normal Starting canary analysis for api-service.shop
    Normal Advance api-service.shop canary weight 10
    Warning Halt api-service.shop advancement the gateway has not confirmed weight 10 (x2)
    Warning Rolling back api-service.shop failed checks threshold reached 2: the gateway has not confirmed weight 10
    Warning Waiting for the gateway to confirm that api-service.shop gets no traffic; it keeps running until then. Look at the status of HTTPRoute api-service in generation 3
    ");
    world.confirming = true;
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Failed");
}

#[test]
fn without_confirmation_nothing_waits_for_the_gateway() {
    let mut world = World::new(article(), Settings { confirm: false, ..Settings::default() });
    world.answers.lock().unwrap().insert("load-test", 202);
    world.confirming = false;
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_eq!(world.image("api-service-primary"), "2");
}

#[test]
fn without_analysis_the_primary_follows_at_once() {
    let mut world = initialized(with(&json!({"skipAnalysis": true})));
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
     0s Progressing shown=0 failed=0 route=0 target=3
    60s Promoting shown=0 failed=0 route=0 target=3
    60s Succeeded shown=0 failed=0 route=0 target=0
    ");
    assert!(world.events().contains("Promotion completed! Canary analysis was skipped"));
}

#[test]
fn the_promotion_can_be_gradual() {
    let mut world = initialized(with(&json!({"analysis": {"stepWeightPromotion": 20}})));
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
     60s Progressing shown=10 failed=0 route=10 target=3
    120s Progressing shown=20 failed=0 route=20 target=3
    180s Progressing shown=30 failed=0 route=30 target=3
    240s Progressing shown=40 failed=0 route=40 target=3
    300s Progressing shown=50 failed=0 route=50 target=3
    360s Promoting shown=50 failed=0 route=50 target=3
    420s Promoting shown=30 failed=0 route=30 target=3
    480s Promoting shown=10 failed=0 route=10 target=3
    540s Finalising shown=0 failed=0 route=0 target=3
    600s Succeeded shown=0 failed=0 route=0 target=0
    ");
}

#[test]
fn blue_green_checks_before_any_user_and_then_switches() {
    let mut world = initialized(with(&json!({"analysis": {"iterations": 2, "maxWeight": null,
        "stepWeight": null}})));
    world.weight_max = 100;
    world.release("2");
    world.run_until(&["Succeeded"]);
    assert_snapshot!(world.timeline(), @r"
      0s Progressing shown=0 failed=0 route=0 target=3
    180s Progressing shown=100 failed=0 route=100 target=3
    240s Promoting shown=100 failed=0 route=100 target=3
    300s Finalising shown=0 failed=0 route=0 target=3
    360s Succeeded shown=0 failed=0 route=0 target=0
    ");
}

#[test]
fn a_suspended_canary_does_nothing() {
    let mut world = initialized(article());
    let key = Key::of::<Canary>(NS, "api-service");
    world.store.change(&key, |body| body["spec"]["suspend"] = true.into());
    world.release("2");
    world.run_for(minutes(10));
    assert_eq!(world.phase(), "Initialized");
    world.store.change(&key, |body| body["spec"]["suspend"] = false.into());
    world.run_until(&["Succeeded"]);
}

#[test]
fn what_is_wrong_is_said_with_object_field_and_fix() {
    let table = [
        json!({"targetRef": {"name": "nobody"}}),
        json!({"analysis": {"interval": "soon"}}),
        json!({"provider": "nginx"}),
    ];
    let mut lines = String::new();
    for patch in table {
        let mut world = World::new(with(&patch), Settings::default());
        world.run_for(minutes(2));
        let canary = world.canary();
        let condition = canary.json().pointer("/status/conditions/0").unwrap();
        let (kind, reason) = (&condition["type"], &condition["reason"]);
        writeln!(lines, "{kind} {reason} | {}", world.events()).unwrap();
    }
    assert_snapshot!(lines, @r#"
    "Accepted" "TargetMissing" | Warning Deployment/shop/nobody does not exist: create it, or correct spec.targetRef.name
    "Accepted" "InvalidSpec" | Warning spec.analysis.interval: "soon" is not a duration: a number is missing (write it like 30s, 5m or 1h30m)
    "Accepted" "InvalidSpec" | Warning spec.provider: "nginx" is not served by evenkeel; known are gatewayapi:v1, gatewayapi:v1beta1, istio, kubernetes, linkerd, traefik; without one evenkeel's gateway routes
    "#);
}

#[test]
fn of_two_canaries_on_one_target_the_younger_stands_back() {
    let mut world = initialized(article());
    let mut second = article();
    second["metadata"]["name"] = "api-two".into();
    second["spec"]["service"]["name"] = "api-two".into();
    world.store.create_now(second);
    world.run_for(minutes(1));
    let second = world.store.find(&Key::of::<Canary>(NS, "api-two")).unwrap();
    assert_snapshot!(second.json().pointer("/status/conditions/0/message").unwrap(), @r#""Canary/shop/api-service has the same spec.targetRef (Deployment/api-service) and is older: delete one of the two""#);
    world.release("2");
    world.run_until(&["Succeeded"]);
}

#[test]
fn another_tools_revisions_are_adopted_without_a_release() {
    let mut world = initialized(article());
    world.kill();
    world.store.change(&Key::of::<Canary>(NS, "api-service"), |body| {
        body["status"]["lastAppliedSpec"] = "5978589476".into();
        body["status"]["lastPromotedSpec"] = "5978589476".into();
    });
    world.boot();
    world.run_for(minutes(5));
    assert_eq!(world.phase(), "Initialized");
    world.release("2");
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_deleted_canary_leaves_its_target_serving() {
    let mut world = initialized(article());
    let key = Key::of::<Canary>(NS, "api-service");
    world.store.change(&key, |body| {
        body["metadata"]["deletionTimestamp"] = "2024-01-01T00:00:00Z".into();
    });
    world.run_for(minutes(5));
    assert!(world.store.find(&key).is_none(), "{}", world.events());
    let target = world.store.find(&deployment_key("api-service")).unwrap();
    assert_eq!(target.json()["spec"]["replicas"], 3);
    let apex = world.store.find(&Key::of::<Service>(NS, "api-service")).unwrap();
    assert_eq!(apex.json()["spec"]["selector"], json!({"app": "api-service"}));
    assert_eq!(apex.json()["metadata"]["ownerReferences"], json!([]));
    assert!(world.store.find(&Key::of::<HttpRoute>(NS, "api-service")).is_none());
}

#[test]
fn a_canary_named_otherwise_than_its_service_and_target() {
    let mut canary = with(&json!({"service": {"name": "shop-front"}}));
    canary["metadata"]["name"] = "api-service".into();
    let mut world = World::new(canary, Settings::default());
    world.run_for(minutes(1));
    let names: Vec<_> = world
        .store
        .all()
        .iter()
        .filter(|obj| obj.key().kind.is::<Service>() || obj.key().kind.is::<Deployment>())
        .map(|obj| obj.key().to_string())
        .collect();
    assert_snapshot!(names.join("\n"), @r"
    Service/shop/shop-front
    Service/shop/shop-front-canary
    Service/shop/shop-front-primary
    Deployment/shop/api-service
    Deployment/shop/api-service-primary
    ");
}

#[test]
fn a_template_measures_what_it_says_and_its_absence_is_reported() {
    let metric = json!({"name": "errors", "templateRef": {"name": "errors"},
        "thresholdRange": {"max": 0.1}});
    let canary = with(&json!({"analysis": {"threshold": 1, "metrics": [metric]}}));
    let mut world = initialized(canary.clone());
    world.release("2");
    world.run_for(minutes(10));
    assert_eq!(world.weight(), Some(0));
    let said = "MetricTemplate/shop/errors does not exist";
    assert!(world.events().contains(said), "{}", world.events());

    let mut world = initialized(canary);
    world.store.create_now(json!({"apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate",
        "metadata": {"name": "errors", "namespace": NS},
        "spec": {"provider": {"type": "prometheus"},
            "query": "sum(bucket{service=\"{{ service }}\"}[{{ interval }}])"}}));
    world.traffic.lock().unwrap().p99_ms = 0.5;
    world.release("2");
    world.run_until(&["Failed"]);
    assert!(world.events().contains("advancement errors 0.50 > 0.1"), "{}", world.events());
    let queries = world.queries.lock().unwrap();
    assert_eq!(queries[0], "sum(bucket{service=\"api-service\"}[1m])");
}

#[test]
fn a_gateway_that_exists_is_a_parent_of_the_route_and_another_is_not() {
    let mut world = World::new(article(), Settings::default());
    let parents = |world: &World| {
        let route = world.store.find(&Key::of::<HttpRoute>(NS, "api-service")).unwrap();
        route.json()["spec"]["parentRefs"].as_array().unwrap().len()
    };
    world.run_until(&["Initialized"]);
    assert_eq!(parents(&world), 1);
    world.store.create_now(json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": "public-gateway", "namespace": NS},
        "spec": {"gatewayClassName": "evenkeel", "listeners": []}}));
    world.run_for(minutes(1));
    assert_eq!(parents(&world), 2);
}
