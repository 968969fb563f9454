//! Rule groups under virtual time, and how the API shows them.

use std::sync::{Arc, Mutex};

use bytes::Bytes;
use evenkeel_control::Timer as _;
use evenkeel_promql::{
    labels::Labels,
    rules::{Notice, RuleFile},
};
use evenkeel_telemetry::{AlertSink, AlertUpdate, Limits, RuleRunner, Telemetry, api};
use http::Request;
use jiff::Timestamp;
use serde_json::Value;
use std::time::Duration;

use crate::common::{EPOCH_S, TokioTime};

const RULES: &str = r#"
groups:
- name: errors
  interval: 10s
  rules:
  - record: job:errors:ratio
    expr: sum by (job) (errors) / sum by (job) (hits)
    labels: {team: shop}
  - alert: TooManyErrors
    expr: job:errors:ratio > 0.05
    for: 20s
    labels: {severity: page}
    annotations: {summary: "{{ $labels.job }} at {{ $value | humanizePercentage }}"}
- name: meta
  interval: 30s
  rules:
  - record: objective
    expr: vector(0.999)
  - record: broken
    expr: hits * on(job) group_left hits * on(nothing) hits
"#;

#[derive(Default)]
struct Sink(Mutex<Vec<String>>);

impl AlertSink for Sink {
    fn send(&self, updates: &[AlertUpdate]) {
        let word = |n: &Notice| if n.resolved { "resolved" } else { "firing" };
        let notices = updates.iter().map(|update| &update.notice);
        let rows = notices.map(|n| format!("{} {}", n.labels.get("job"), word(n)));
        self.0.lock().unwrap().extend(rows);
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(EPOCH_S + second).unwrap()
}

fn feed(telemetry: &Telemetry, second: i64, errors: f64) {
    for (name, job, value) in
        [("errors", "api", errors), ("hits", "api", 100.0), ("hits", "web", 100.0)]
    {
        let labels = Labels::from_pairs([("__name__", name), ("job", job)]);
        telemetry.append(&labels, at(second), value).unwrap();
    }
}

fn get(telemetry: &Telemetry, uri: &str, second: i64) -> Value {
    let request = Request::get(uri).body(Bytes::new()).unwrap();
    let response = api::handle(telemetry, &request, at(second));
    serde_json::from_slice(response.body()).unwrap()
}

fn value(telemetry: &Telemetry, expr: &str, second: i64) -> String {
    let result = telemetry.instant(expr, at(second).as_millisecond()).unwrap();
    result.to_json()["result"].to_string()
}

/// Ten seconds each, with this many errors of a hundred.
async fn live(telemetry: &Telemetry, time: TokioTime, from: i64, errors: &[f64]) -> i64 {
    let mut second = from;
    for errors in errors {
        feed(telemetry, second, *errors);
        time.sleep(Duration::from_secs(10)).await;
        second += 10;
    }
    second
}

#[tokio::test(flavor = "current_thread", start_paused = true)]
async fn rules_record_and_alert_at_their_interval() {
    let time = TokioTime::start();
    let telemetry = Telemetry::new(Limits::default());
    let file = RuleFile::parse(RULES).unwrap();
    telemetry.set_rules("shop.yaml", &file, at(0).as_millisecond()).unwrap();
    let sink = Arc::new(Sink::default());
    let runner = RuleRunner::new(telemetry.clone(), Arc::new(time), Arc::new(time));
    let running = tokio::spawn(runner.with_sink(sink.clone()).run());

    let now = live(&telemetry, time, 0, &[1.0, 1.0, 1.0]).await;
    insta::assert_snapshot!(value(&telemetry, "job:errors:ratio", now), @r#"[{"metric":{"__name__":"job:errors:ratio","job":"api","team":"shop"},"value":[1700000030,"0.01"]}]"#);
    insta::assert_snapshot!(value(&telemetry, "objective", now), @r#"[{"metric":{"__name__":"objective"},"value":[1700000030,"0.999"]}]"#);
    insta::assert_snapshot!(get(&telemetry, "/api/v1/alerts", now), @r#"{"status":"success","data":{"alerts":[]}}"#);

    let now = live(&telemetry, time, now, &[10.0, 10.0]).await;
    insta::assert_snapshot!(value(&telemetry, "ALERTS", now), @r#"[{"metric":{"__name__":"ALERTS","alertname":"TooManyErrors","alertstate":"pending","job":"api","severity":"page","team":"shop"},"value":[1700000050,"1"]}]"#);
    let now = live(&telemetry, time, now, &[10.0, 10.0]).await;
    insta::assert_snapshot!(value(&telemetry, "ALERTS", now), @r#"[{"metric":{"__name__":"ALERTS","alertname":"TooManyErrors","alertstate":"firing","job":"api","severity":"page","team":"shop"},"value":[1700000070,"1"]}]"#);
    insta::assert_snapshot!(get(&telemetry, "/api/v1/alerts", now), @r#"{"status":"success","data":{"alerts":[{"labels":{"alertname":"TooManyErrors","job":"api","severity":"page","team":"shop"},"annotations":{"summary":"api at 10%"},"state":"firing","activeAt":"2023-11-14T22:13:54.565Z","value":"1e-01"}]}}"#);
    insta::assert_snapshot!(get(&telemetry, "/api/v1/rules?rule_group[]=errors", now), @r#"{"status":"success","data":{"groups":[{"name":"errors","file":"shop.yaml","rules":[{"name":"job:errors:ratio","query":"sum by (job) (errors) / sum by (job) (hits)","labels":{"team":"shop"},"health":"ok","evaluationTime":0,"lastEvaluation":"2023-11-14T22:14:24.565Z","type":"recording"},{"state":"firing","name":"TooManyErrors","query":"job:errors:ratio > 0.05","duration":20,"keepFiringFor":0,"labels":{"severity":"page"},"annotations":{"summary":"{{ $labels.job }} at {{ $value | humanizePercentage }}"},"alerts":[{"labels":{"alertname":"TooManyErrors","job":"api","severity":"page","team":"shop"},"annotations":{"summary":"api at 10%"},"state":"firing","activeAt":"2023-11-14T22:13:54.565Z","value":"1e-01"}],"health":"ok","evaluationTime":0,"lastEvaluation":"2023-11-14T22:14:24.565Z","type":"alerting"}],"interval":10,"limit":0,"evaluationTime":0.0,"lastEvaluation":"2023-11-14T22:14:24.565Z"}]}}"#);
    insta::assert_snapshot!(get(&telemetry, "/api/v1/rules?rule_name[]=broken", now), @r#"{"status":"success","data":{"groups":[{"name":"meta","file":"shop.yaml","rules":[{"name":"broken","query":"hits * on (job) group_left () hits * on (nothing) hits","labels":{},"health":"err","lastError":"found duplicate series for the match group {} on the right hand-side of the operation: [{__name__=\"hits\", job=\"api\"}, {__name__=\"hits\", job=\"web\"}];many-to-many matching not allowed: matching labels must be unique on one side","evaluationTime":0,"lastEvaluation":"2023-11-14T22:14:05.104Z","type":"recording"}],"interval":30,"limit":0,"evaluationTime":0.0,"lastEvaluation":"2023-11-14T22:14:05.104Z"}]}}"#);
    insta::assert_snapshot!(get(&telemetry, "/api/v1/rules?type=alert&exclude_alerts=true", now)["data"]["groups"][0]["rules"][0]["alerts"], @"[]");
    insta::assert_snapshot!(get(&telemetry, "/api/v1/rules?match[]={severity=%22no%22}", now), @r#"{"status":"success","data":{"groups":[]}}"#);
    insta::assert_snapshot!(get(&telemetry, "/api/v1/rules?type=odd", now), @r#"{"status":"error","errorType":"bad_data","error":"invalid parameter \"type\": not supported value \"odd\""}"#);

    let now = live(&telemetry, time, now, &[0.0, 0.0]).await;
    insta::assert_snapshot!(value(&telemetry, "ALERTS", now), @"[]");
    insta::assert_snapshot!(sink.0.lock().unwrap().join(", "), @"api firing, api resolved");
    running.abort();
}

#[test]
fn groups_come_in_pages() {
    let telemetry = Telemetry::new(Limits::default());
    let file = RuleFile::parse(RULES).unwrap();
    telemetry.set_rules("shop.yaml", &file, 0).unwrap();
    let first = get(&telemetry, "/api/v1/rules?group_limit=1", 0);
    let token = first["data"]["groupNextToken"].as_str().unwrap();
    let uri = format!("/api/v1/rules?group_limit=1&group_next_token={token}");
    let second = get(&telemetry, &uri, 0);
    let name = |page: &Value| page["data"]["groups"][0]["name"].as_str().unwrap().to_owned();
    assert_eq!((name(&first).as_str(), name(&second).as_str()), ("errors", "meta"));
    assert!(second["data"].get("groupNextToken").is_none());
}

#[test]
fn replaced_rules_end_and_equal_ones_continue() {
    let telemetry = Telemetry::new(Limits::default());
    let rules = |record: &str| {
        let text = format!(
            "groups:\n- name: a\n  rules: [{{record: kept, expr: vector(1)}}]\n\
             - name: b\n  rules: [{{record: {record}, expr: vector(1)}}]\n"
        );
        RuleFile::parse(&text).unwrap()
    };
    let ms = |second| at(second).as_millisecond();
    telemetry.set_rules("x", &rules("old"), ms(0)).unwrap();
    let round = telemetry.evaluate_rules(&evenkeel_base::FixedClock(at(60)));
    assert_eq!((round.groups, round.rules, round.failed), (2, 2, 0));
    assert_eq!(telemetry.evaluate_rules(&evenkeel_base::FixedClock(at(60))).groups, 0);
    telemetry.set_rules("x", &rules("new"), ms(61)).unwrap();
    insta::assert_snapshot!(value(&telemetry, "count({__name__=~'old|kept'}) by (__name__)", 61), @r#"[{"metric":{"__name__":"kept"},"value":[1700000061,"1"]}]"#);
    assert_eq!(telemetry.evaluate_rules(&evenkeel_base::FixedClock(at(61))).groups, 0);
    assert_eq!(telemetry.evaluate_rules(&evenkeel_base::FixedClock(at(121))).groups, 2);
    telemetry.set_rules("x", &RuleFile::default(), ms(122)).unwrap();
    insta::assert_snapshot!(value(&telemetry, "count({__name__=~'old|kept|new'})", 122), @"[]");
    assert!(telemetry.rule_groups().is_empty());
}

/// Alerts of a group with this second rule, each as `NAME STATE SECONDS`: since when.
fn alerts(telemetry: &Telemetry, now: i64) -> Vec<String> {
    let found = get(telemetry, "/api/v1/alerts", now)["data"]["alerts"].clone();
    let one = |alert: &Value| {
        let since: Timestamp = alert["activeAt"].as_str().unwrap().parse().unwrap();
        let since = since.as_millisecond() - at(0).as_millisecond();
        let (name, state) = (&alert["labels"]["alertname"], &alert["state"]);
        format!("{} {} {since}", name.as_str().unwrap(), state.as_str().unwrap())
    };
    found.as_array().unwrap().iter().map(one).collect()
}

#[test]
fn no_rule_is_evaluated_for_a_time_before_it_was_there() {
    let telemetry = Telemetry::new(Limits::default());
    let rules = |second: &str| {
        let text = format!(
            "groups:\n- name: a\n  interval: 60s\n  rules:\n\
             \x20 - {{alert: Kept, expr: vector(1), for: 90s}}\n\
             \x20 - {{alert: {second}, expr: vector(1)}}\n"
        );
        RuleFile::parse(&text).unwrap()
    };
    let evaluate =
        |second: i64| telemetry.evaluate_rules(&evenkeel_base::FixedClock(at(second))).groups;
    // Loaded in each second of an interval: whatever its slot is, it is one after that.
    for loaded in 0..60 {
        let ms = at(loaded).as_millisecond();
        telemetry.set_rules("x", &RuleFile::default(), ms).unwrap();
        telemetry.set_rules("x", &rules("One"), ms).unwrap();
        let first = (loaded..loaded + 62).find(|second| evaluate(*second) == 1).unwrap();
        for alert in alerts(&telemetry, first) {
            let since: i64 = alert.rsplit(' ').next().unwrap().parse().unwrap();
            assert!((loaded * 1000..=first * 1000).contains(&since), "{loaded}: {alert}");
        }
    }
    // A clock that steps back stops no rule.
    assert_eq!(evaluate(-600), 1);
    evaluate(180);

    // A change of another rule takes nothing from an alert, and the new rule waits for its slot.
    let since = |name: &str, now: i64| {
        let found = alerts(&telemetry, now).into_iter().find(|alert| alert.starts_with(name));
        found.map(|alert| alert.rsplit(' ').next().unwrap().parse::<i64>().unwrap())
    };
    let kept = since("Kept", 180).unwrap();
    telemetry.set_rules("x", &rules("Two"), at(181).as_millisecond()).unwrap();
    assert_eq!((since("Kept", 181), since("Two", 181)), (Some(kept), None));
    evaluate(181);
    assert_eq!(since("Two", 181), None);
    evaluate(241);
    assert_eq!(since("Kept", 241), Some(kept));
    assert!(since("Two", 241).unwrap() >= 181_000);
}
