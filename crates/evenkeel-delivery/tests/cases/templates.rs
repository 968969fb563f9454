//! What a primary takes over from its target's pod template.

use k8s_openapi::api::core::v1::{ConfigMap, Secret};

use super::*;

fn template_of(world: &World, deployment: &str) -> Value {
    let found = world.store.find(&deployment_key(deployment)).unwrap();
    found.json()["spec"]["template"].clone()
}

#[test]
fn a_primary_keeps_away_from_its_own_pods_and_stays_near_to_others() {
    let mut world = World::new(article(), Settings::default());
    let near = |app: &str| {
        json!({"topologyKey": "kubernetes.io/hostname",
            "labelSelector": {"matchLabels": {"app": app}}})
    };
    let one_of = json!({"topologyKey": "topology.kubernetes.io/zone", "labelSelector":
        {"matchExpressions": [{"key": "app", "operator": "In", "values": ["api-service", "old"]}]}});
    world.store.change(&deployment_key("api-service"), |body| {
        body["spec"]["template"]["spec"]["affinity"] = json!({
            "podAntiAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [near("api-service"), one_of],
                "preferredDuringSchedulingIgnoredDuringExecution":
                    [{"weight": 7, "podAffinityTerm": near("api-service")}]},
            "podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [near("cache")]}});
    });
    world.settle();
    let template = template_of(&world, "api-service-primary");
    assert_snapshot!(template["spec"]["affinity"], @r#"{"podAntiAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"api-service-primary"}}},{"topologyKey":"topology.kubernetes.io/zone","labelSelector":{"matchExpressions":[{"key":"app","operator":"In","values":["api-service-primary","old"]}]}}],"preferredDuringSchedulingIgnoredDuringExecution":[{"weight":7,"podAffinityTerm":{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"api-service-primary"}}}}]},"podAffinity":{"requiredDuringSchedulingIgnoredDuringExecution":[{"topologyKey":"kubernetes.io/hostname","labelSelector":{"matchLabels":{"app":"cache"}}}]}}"#);
}

#[test]
fn binary_data_and_what_init_containers_read_are_part_of_a_version() {
    let mut world = World::new(article(), Settings::default());
    answer(&world, &[("load-test", 202)]);
    world.store.create_now(json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "seed", "namespace": NS}, "binaryData": {"rows": "AAEC"}}));
    world.store.create_now(json!({"apiVersion": "v1", "kind": "Secret", "type": "Opaque",
        "metadata": {"name": "login", "namespace": NS}, "data": {"user": "YW5u"}}));
    world.store.change(&deployment_key("api-service"), |body| {
        body["spec"]["template"]["spec"]["initContainers"] = json!([{
            "name": "load", "image": "evenkeel/demo:1",
            "envFrom": [{"configMapRef": {"name": "seed"}}],
            "env": [{"name": "USER", "valueFrom": {"secretKeyRef": {"name": "login", "key": "user"}}}]}]);
    });
    world.run_until(&["Initialized"]);
    let template = template_of(&world, "api-service-primary");
    let container = &template["spec"]["initContainers"][0];
    assert_eq!(container["envFrom"][0]["configMapRef"]["name"], "seed-primary");
    assert_eq!(container["env"][0]["valueFrom"]["secretKeyRef"]["name"], "login-primary");
    let store = world.store.clone();
    let rows = || {
        let copy = store.find(&Key::of::<ConfigMap>(NS, "seed-primary")).unwrap();
        copy.json()["binaryData"]["rows"].as_str().unwrap().to_owned()
    };
    let user = || {
        let copy = store.find(&Key::of::<Secret>(NS, "login-primary")).unwrap();
        copy.json()["data"]["user"].as_str().unwrap().to_owned()
    };
    assert_eq!((rows().as_str(), user().as_str()), ("AAEC", "YW5u"));

    world.store.change(&Key::of::<ConfigMap>(NS, "seed"), |body| {
        body["binaryData"]["rows"] = "AwQF".into();
    });
    world.run_for(minutes(2));
    assert_eq!((world.phase().as_str(), rows().as_str()), ("Progressing", "AAEC"));
    world.run_until(&["Succeeded"]);
    assert_eq!(rows(), "AwQF");

    world
        .store
        .change(&Key::of::<Secret>(NS, "login"), |body| body["data"]["user"] = "Ym9i".into());
    world.run_for(minutes(2));
    assert_eq!((world.phase().as_str(), user().as_str()), ("Progressing", "YW5u"));
    world.run_until(&["Succeeded"]);
    assert_eq!(user(), "Ym9i");
}
