//! What is measured, over which time, and what missing data mean.

use std::sync::{Arc, Mutex};

use evenkeel_control::Metrics;
use evenkeel_delivery::MetricServers;
use world::Asked;

use super::*;

/// Steps of ten seconds, metrics over a minute.
fn quick() -> Value {
    let mut canary = with(&json!({"analysis": {"interval": "10s", "threshold": 2}}));
    canary["spec"]["analysis"]["webhooks"] = json!([]);
    canary
}

fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

#[test]
fn a_metric_is_asked_for_its_own_window_however_short_the_steps_are() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.release("2");
    world.run_until(&["Succeeded"]);
    let queries = world.queries.lock().unwrap();
    assert!(!queries.is_empty());
    for query in queries.iter() {
        assert!(query.contains("[1m]"), "{query}");
    }
    drop(queries);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    130s Progressing shown=10 failed=0 route=10 target=3
    140s Progressing shown=20 failed=0 route=20 target=3
    150s Progressing shown=30 failed=0 route=30 target=3
    160s Progressing shown=40 failed=0 route=40 target=3
    170s Progressing shown=50 failed=0 route=50 target=3
    180s Promoting shown=50 failed=0 route=50 target=3
    190s Finalising shown=0 failed=0 route=0 target=3
    200s Succeeded shown=0 failed=0 route=0 target=0
    ");
}

#[test]
fn no_two_steps_rest_on_one_scrape() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    *world.scrape_s.lock().unwrap() = 15;
    world.release("2");
    world.run_for(seconds(21));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting for data of metric request-success-rate: its newest sample is of 2023-11-14T22:15:30Z, none is from after the last step at 2023-11-14T22:15:30Z. Without any until 2023-11-14T22:20:40Z the check counts as failed");
    world.run_until(&["Succeeded"]);
    assert_eq!(world.canary().json()["status"]["failedChecks"], 0);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    130s Progressing shown=10 failed=0 route=10 target=3
    145s Progressing shown=20 failed=0 route=20 target=3
    160s Progressing shown=30 failed=0 route=30 target=3
    175s Progressing shown=40 failed=0 route=40 target=3
    190s Progressing shown=50 failed=0 route=50 target=3
    205s Promoting shown=50 failed=0 route=50 target=3
    215s Finalising shown=0 failed=0 route=0 target=3
    225s Succeeded shown=0 failed=0 route=0 target=0
    ");
}

#[test]
fn a_failure_needs_no_newer_scrape_to_count() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    *world.scrape_s.lock().unwrap() = 3600;
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.log.lock().unwrap().clear();
    world.release("2");
    world.run_until(&["Failed"]);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    130s Progressing shown=10 failed=0 route=10 target=3
    140s Progressing shown=10 failed=1 route=10 target=3
    150s Progressing shown=0 failed=2 route=0 target=3
    150s Failed shown=0 failed=2 route=0 target=0
    ");
}

#[test]
fn scrapes_that_have_stopped_end_a_release() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    *world.scrape_s.lock().unwrap() = 3600;
    world.log.lock().unwrap().clear();
    world.release("2");
    world.run_until(&["Failed"]);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    130s Progressing shown=10 failed=0 route=10 target=3
    440s Progressing shown=10 failed=1 route=10 target=3
    450s Progressing shown=0 failed=2 route=0 target=3
    450s Failed shown=0 failed=2 route=0 target=0
    ");
    assert_snapshot!(world.condition("Promoted"), @"False Failed: Canary analysis failed, Deployment scaled to zero. Failed checks threshold reached 2: request-success-rate: its newest sample is of 2023-11-14T22:00:00Z, none is from after the last step at 2023-11-14T22:20:40Z.");
}

#[test]
fn data_that_come_late_are_waited_for_and_are_no_failed_check() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    // The first samples of the new pods come in two scrapes after the first request.
    world.traffic.lock().unwrap().error_ratio = None;
    world.release("2");
    world.run_for(seconds(50));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(10)));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting for data of metric request-success-rate: no values found. Without any until 2023-11-14T22:16:40Z the check counts as failed");
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.canary().json()["status"]["failedChecks"], 0);
    assert!(!world.events().contains("Warning"), "{}", world.events());
}

#[test]
fn data_that_never_come_fail_the_checks_after_the_window() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.log.lock().unwrap().clear();
    world.traffic.lock().unwrap().error_ratio = None;
    world.release("2");
    world.run_until(&["Failed"]);
    assert_snapshot!(world.timeline(), @r"
    120s Progressing shown=0 failed=0 route=0 target=3
    130s Progressing shown=10 failed=0 route=10 target=3
    200s Progressing shown=10 failed=1 route=10 target=3
    210s Progressing shown=0 failed=2 route=0 target=3
    210s Failed shown=0 failed=2 route=0 target=0
    ");
    assert_snapshot!(world.condition("Promoted"), @"False Failed: Canary analysis failed, Deployment scaled to zero. Failed checks threshold reached 2: request-success-rate: no values found.");
}

#[test]
fn no_check_looks_back_at_the_version_before() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.release("2");
    world.run_until(&["Failed"]);
    // The metrics of the bad version stay in the window of a minute for that long.
    world.release("3");
    world.run_for(seconds(10));
    world.queries.lock().unwrap().clear();
    world.run_for(seconds(49));
    assert_eq!((world.weight(), world.queries.lock().unwrap().len()), (Some(10), 0));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting until 2023-11-14T22:16:50Z: the last 1m of metric request-success-rate still includes requests to another version");
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.canary().json()["status"]["failedChecks"], 0);
}

#[test]
fn a_version_that_follows_another_in_the_middle_of_its_run_is_judged_alone() {
    let mut world = initialized(quick());
    world.run_for(minutes(2));
    world.release("2");
    world.run_for(seconds(45));
    assert_eq!(world.weight(), Some(40));
    world.release("3");
    world.run_for(seconds(15));
    assert_eq!(world.weight(), Some(10));
    world.queries.lock().unwrap().clear();
    world.run_for(seconds(50));
    assert_eq!((world.weight(), world.queries.lock().unwrap().len()), (Some(10), 0));
    world.run_until(&["Succeeded"]);
}

#[test]
fn a_metric_over_a_long_window_hides_no_other_one_that_fails() {
    let metrics = json!([
        {"name": "slow", "query": "slow", "interval": "30m", "thresholdRange": {"min": 1}},
        {"name": "request-success-rate", "interval": "1m", "thresholdRange": {"min": 99}}]);
    let mut canary = quick();
    canary["spec"]["analysis"]["metrics"] = metrics;
    let mut world = initialized(canary);
    world.release("2");
    world.run_for(minutes(3));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(10)));
    world.traffic.lock().unwrap().error_ratio = Some(0.5);
    world.run_for(minutes(1));
    assert_eq!(world.phase(), "Failed", "{}", world.timeline());
}

#[test]
fn data_that_are_missing_while_another_metric_waits_are_no_failed_check() {
    let metrics = json!([
        {"name": "slow", "query": "slow", "interval": "10m", "thresholdRange": {"min": 1}},
        {"name": "request-success-rate", "interval": "1m", "thresholdRange": {"min": 99}}]);
    let mut canary = quick();
    canary["spec"]["analysis"]["metrics"] = metrics;
    let mut world = initialized(canary);
    world.traffic.lock().unwrap().error_ratio = None;
    world.release("2");
    world.run_for(minutes(9));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(10)));
    world.traffic.lock().unwrap().error_ratio = Some(0.0);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.canary().json()["status"]["failedChecks"], 0);
}

fn template(provider: &Value) -> Value {
    json!({"apiVersion": "flagger.app/v1beta1", "kind": "MetricTemplate",
        "metadata": {"name": "errors", "namespace": NS},
        "spec": {"provider": provider, "query": "sum(rate(errors[{{ interval }}]))"}})
}

fn with_template() -> Value {
    let metric = json!({"name": "errors", "templateRef": {"name": "errors"},
        "thresholdRange": {"max": 0.1}});
    with(&json!({"analysis": {"threshold": 1, "metrics": [metric]}}))
}

#[test]
fn a_server_that_is_not_asked_is_refused_by_name() {
    let mut conditions = Vec::new();
    let mut world =
        World::new(with(&json!({"metricsServer": "http://other:9090"})), Settings::default());
    world.run_for(minutes(1));
    conditions.push(world.condition("Accepted"));
    for provider in [
        json!({"type": "prometheus", "address": "http://other:9090"}),
        json!({"type": "prometheus", "secretRef": {"name": "x"}}),
        json!({"type": "datadog"}),
    ] {
        let mut world = World::new(with_template(), Settings::default());
        world.store.create_now(template(&provider));
        world.run_for(minutes(1));
        conditions.push(world.condition("Accepted"));
    }
    assert_snapshot!(conditions.join("\n"), @r#"
    False InvalidSpec: spec.metricsServer: is not supported here: only the metrics server of this process is asked; remove it
    False InvalidSpec: MetricTemplate/shop/errors: spec.provider.address: is not supported here: only the metrics server of this process is asked; remove it
    False InvalidSpec: MetricTemplate/shop/errors: spec.provider.secretRef: is not supported; remove it
    False InvalidSpec: MetricTemplate/shop/errors: spec.provider.type: "datadog" is not supported; use prometheus
    "#);
}

fn asked(traffic: Traffic) -> Asked {
    let scrape_s = Arc::new(Mutex::new(1));
    Asked { traffic: Arc::new(Mutex::new(traffic)), queries: Arc::default(), scrape_s }
}

/// Knows one other server.
#[derive(Debug)]
struct Others(Asked);

impl MetricServers for Others {
    fn at(&self, address: &str) -> Result<Arc<dyn Metrics>, String> {
        match address {
            "http://other:9090" => Ok(Arc::new(self.0.clone())),
            _ => Err("it is on the moon".to_owned()),
        }
    }
}

#[test]
fn a_canary_that_names_another_server_is_judged_by_that_one() {
    let traffic = Traffic { error_ratio: Some(0.5), p99_ms: 20.0, down: false };
    let other = asked(traffic);
    let servers: Arc<dyn MetricServers> = Arc::new(Others(other.clone()));
    let settings = Settings { metric_servers: Some(servers), ..Settings::default() };
    for by_template in [false, true] {
        other.queries.lock().unwrap().clear();
        let canary = if by_template {
            with_template()
        } else {
            with(&json!({"metricsServer": "http://other:9090", "analysis": {"threshold": 1}}))
        };
        let mut world = World::new(canary, settings.clone());
        let named = json!({"type": "prometheus", "address": "http://other:9090"});
        world.store.create_now(template(&named));
        world.answers.lock().unwrap().insert("load-test", 202);
        world.run_until(&["Initialized"]);
        world.release("2");
        // Our own server sees no error at all.
        world.run_until(&["Failed"]);
        assert!(!other.queries.lock().unwrap().is_empty());
        assert!(world.queries.lock().unwrap().is_empty());
    }
    let moon = with(&json!({"metricsServer": "http://moon:9090"}));
    let mut world = World::new(moon, settings);
    world.run_for(minutes(1));
    assert_snapshot!(world.condition("Accepted"), @r#"False InvalidSpec: spec.metricsServer: "http://moon:9090" cannot be asked: it is on the moon"#);
}

#[test]
fn what_gives_access_to_a_metrics_server_is_said_nowhere() {
    let traffic = Traffic { error_ratio: None, p99_ms: 0.0, down: false };
    let other = asked(traffic);
    let servers: Arc<dyn MetricServers> = Arc::new(Others(other));
    let settings = Settings { metric_servers: Some(servers), ..Settings::default() };
    let address = "http://u:pl4nted@moon:9090/?token=pl4nted";
    let pager = json!([{"name": "pager", "type": "event", "url": "http://pager/"}]);
    let bad_hook = json!([{"name": "bad", "url": "ftp://u:pl4nted@moon/"}]);
    for patch in [
        json!({"metricsServer": address, "analysis": {"webhooks": pager}}),
        json!({"analysis": {"webhooks": pager}}),
        json!({"analysis": {"webhooks": bad_hook}}),
    ] {
        let mut canary = with_template();
        merge(&mut canary, &json!({"spec": patch}));
        let mut world = World::new(canary, settings.clone());
        let named = json!({"type": "prometheus", "address": address});
        world.store.create_now(template(&named));
        world.run_for(minutes(2));
        assert!(world.condition("Accepted").starts_with("False InvalidSpec"), "{patch}");
        let status = world.canary().json()["status"].to_string();
        let bodies: Vec<_> = world.calls.lock().unwrap().iter().map(|c| json!(c.body)).collect();
        for said in [status, world.events(), json!(bodies).to_string()] {
            assert!(!said.contains("pl4nted"), "{said}");
        }
    }
}

#[test]
fn what_can_never_be_measured_is_refused_before_a_release() {
    let mut conditions = Vec::new();
    let metric = |metric: Value| with(&json!({"analysis": {"metrics": [metric]}}));
    let templated = json!({"name": "errors", "templateRef": {"name": "errors"},
        "thresholdRange": {"max": 0.1}});
    for (canary, query) in [
        (json!({"name": "x", "query": "up", "thresholdRange": {"min": 99, "max": 1}}), "up"),
        (json!({"name": "x", "query": "up{a=\"{{ app }}\"}", "thresholdRange": {"max": 1}}), "up"),
        (templated.clone(), "up{a=\"{{ app }}\"}"),
        (templated.clone(), "up{a=\"{{ target\"}"),
        (templated, "  "),
    ] {
        let mut world = World::new(metric(canary), Settings::default());
        let mut template = template(&json!({"type": "prometheus"}));
        template["spec"]["query"] = query.into();
        world.store.create_now(template);
        world.run_for(minutes(1));
        conditions.push(world.condition("Accepted"));
    }
    assert_snapshot!(conditions.join("\n"), @r#"
    False InvalidSpec: spec.analysis.metrics[0].thresholdRange: min 99 is more than max 1: no value would pass
    False InvalidSpec: spec.analysis.metrics[0].query: "app" is not known in the query: use name, namespace, target, service, ingress, route, interval, or variables.NAME with NAME in templateVariables
    False InvalidSpec: MetricTemplate/shop/errors: spec.query: "app" is not known in the query: use name, namespace, target, service, ingress, route, interval, or variables.NAME with NAME in templateVariables
    False InvalidSpec: MetricTemplate/shop/errors: spec.query: {{ is not closed in the query: write }} after the name
    False InvalidSpec: MetricTemplate/shop/errors: spec.query: the query is empty: write PromQL
    "#);
}

#[test]
fn a_template_that_is_missing_holds_the_release_at_weight_0_until_it_is_there() {
    let mut world = initialized(with_template());
    world.run_for(Duration::from_secs(1));
    assert_snapshot!(world.condition("MetricsAvailable"), @"False TemplateMissing: MetricTemplate/shop/errors does not exist: create it, or correct templateRef in spec.analysis.metrics");
    world.release("2");
    world.run_for(minutes(30));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    assert_snapshot!(world.condition("Promoted"), @"Unknown Progressing: New revision detected, progressing canary analysis. Waiting at weight 0: metric errors cannot be measured: MetricTemplate/shop/errors does not exist: create it, or correct templateRef in spec.analysis.metrics");
    assert_eq!(world.events().matches("does not exist").count(), 1, "{}", world.events());
    let mut template = template(&json!({"type": "prometheus"}));
    template["spec"]["query"] = "sum(rate(errors_5.*[{{ interval }}]))".into();
    world.store.create_now(template);
    world.run_until(&["Succeeded"]);
    assert_eq!(world.condition("MetricsAvailable"), "none");
}

#[test]
fn a_metrics_server_that_is_down_is_named_and_says_nothing_of_traffic() {
    let traffic = Traffic { error_ratio: Some(0.0), p99_ms: 20.0, down: true };
    let other = asked(traffic);
    let servers: Arc<dyn MetricServers> = Arc::new(Others(other.clone()));
    let settings = Settings { metric_servers: Some(servers), ..Settings::default() };
    let named = json!({"metricsServer": "http://other:9090", "analysis": {"threshold": 2}});
    let mut world = World::new(with(&named), settings);
    world.answers.lock().unwrap().insert("load-test", 202);
    world.run_until(&["Initialized"]);
    world.release("2");
    world.run_for(minutes(30));
    assert_eq!((world.phase().as_str(), world.weight()), ("Progressing", Some(0)));
    assert_snapshot!(world.condition("MetricsAvailable"), @"False ServerUnreachable: the metrics server http://other:9090 could not be asked: Connection refused (os error 111)");
    other.traffic.lock().unwrap().down = false;
    world.run_for(minutes(3));
    assert_eq!(world.condition("MetricsAvailable"), "none");
    // In the middle of a run it counts, as Flagger has it, but it is called what it is.
    other.traffic.lock().unwrap().down = true;
    world.run_until(&["Failed"]);
    assert!(!world.events().contains("receiving traffic"), "{}", world.events());
    assert_snapshot!(world.condition("Promoted"), @"False Failed: Canary analysis failed, Deployment scaled to zero. Failed checks threshold reached 2: request-success-rate: the metrics server http://other:9090 could not be asked: Connection refused (os error 111).");
}
