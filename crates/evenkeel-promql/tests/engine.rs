//! Behaviour of queries beyond upstream's scripts: switches, limits, the JSON of results, and
//! scripts of our own.
#![expect(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "helpers of tests: a surprise fails the test, numbers are small"
)]

use evenkeel_promql::engine::{Options, Steps, instant_text, range};
use evenkeel_promql::labels::Labels;
use evenkeel_promql::parser::parse;
use evenkeel_promql::rules::{Context, Group, RuleFile};
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::testscript::{run, test_options};
use insta::assert_snapshot;

fn store() -> SeriesStore {
    let mut store = SeriesStore::new();
    for (job, rate) in [("a", 1.0), ("b", 2.0)] {
        let labels = Labels::from_pairs([("__name__", "hits_total"), ("job", job)]);
        for i in 0..=20 {
            store.append(&labels, i * 60_000, i as f64 * rate).unwrap();
        }
    }
    store
}

fn json(query: &str, at_ms: i64, options: &Options) -> String {
    match instant_text(&store(), query, at_ms, options) {
        Ok(result) => result.to_response().to_string(),
        Err(error) => format!("{}: {error}", error.kind()),
    }
}

fn passes(script: &str) {
    let report = run(script, &test_options());
    assert!(report.failures.is_empty() && report.passed > 0, "{:#?}", report.failures);
}

#[test]
fn results_have_the_shape_of_the_http_api() {
    let row = |query: &str| json(query, 600_500, &Options::default());
    assert_snapshot!(row("hits_total{job=\"a\"}"), @r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{"__name__":"hits_total","job":"a"},"value":[600.5,"10"]}]}}"#);
    assert_snapshot!(row("1/3"), @r#"{"status":"success","data":{"resultType":"scalar","result":[600.5,"0.3333333333333333"]}}"#);
    assert_snapshot!(row("\"x\""), @r#"{"status":"success","data":{"resultType":"string","result":[600.5,"x"]}}"#);
    assert_snapshot!(row("hits_total{job=\"a\"}[2m]"), @r#"{"status":"success","data":{"resultType":"matrix","result":[{"metric":{"__name__":"hits_total","job":"a"},"values":[[540,"9"],[600,"10"]]}]}}"#);
    assert_snapshot!(row("rate(hits[5m])"), @r#"{"status":"success","data":{"resultType":"vector","result":[]}}"#);
    assert_snapshot!(row("quantile(2, hits_total)"), @r#"{"status":"success","data":{"resultType":"vector","result":[{"metric":{},"value":[600.5,"+Inf"]}]},"warnings":["PromQL warning: quantile value should be between 0 and 1, got 2 (1:10)"]}"#);
    assert_snapshot!(row("sum("), @"bad_data: 1:5: parse error: unexpected end of input");
    assert_snapshot!(row("hits_total + on() hits_total"), @r#"execution: found duplicate series for the match group {} on the right hand-side of the operation: [{__name__="hits_total", job="a"}, {__name__="hits_total", job="b"}];many-to-many matching not allowed: matching labels must be unique on one side"#);
}

#[test]
fn ranges_are_left_open_unless_switched() {
    let closed = Options { closed_ranges: true, ..Options::default() };
    let count =
        |options: &Options| json("count_over_time(hits_total{job=\"a\"}[5m])", 600_000, options);
    assert!(count(&Options::default()).contains("\"5\""));
    assert!(count(&closed).contains("\"6\""));
    let subquery = "count_over_time(hits_total{job=\"a\"}[5m:1m])";
    assert!(json(subquery, 600_000, &Options::default()).contains("\"5\""));
    assert!(json(subquery, 600_000, &closed).contains("\"6\""));
}

#[test]
fn absurd_queries_end_in_errors_within_bounds() {
    let tight = Options { samples_max: 1_000, work_max: 100_000, ..Options::default() };
    let kinds = [
        ("hits_total[1y:1ms]", "execution"),
        ("sum_over_time(hits_total[1h:1ms])", "execution"),
        ("max_over_time(vector(1)[100y:1s])", "execution"),
        ("hits_total{job=~\"((((a{90}){90}){90}){90}\"}", "bad_data"),
        ("hits_total[292y]", "matrix"),
        ("hits_total @ 9e14", "vector"),
        ("hits_total offset 292y", "vector"),
    ];
    for (query, wanted) in kinds {
        let got = json(query, 600_000, &tight);
        assert!(got.contains(wanted), "{query}: {got}");
    }
    let query = parse("hits_total").unwrap();
    let steps = |end_ms: i64, step_ms: i64| {
        let steps = Steps { start_ms: 0, end_ms, step_ms };
        range(&store(), &query, steps, &Options::default()).unwrap_err().to_string()
    };
    assert_snapshot!(steps(1 << 59, 1), @"exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution (?step=XX)");
    assert_snapshot!(steps(1, 0), @"zero or negative query resolution step widths are not accepted. Try a positive integer");
    assert_snapshot!(steps(-1, 1), @"end timestamp must not be before start time");
}

#[test]
fn label_values_cannot_explode() {
    let nested = |open: &str, close: &str| {
        let text = format!("{}hits_total{}", open.repeat(60), close.repeat(60));
        json(&text, 600_000, &Options::default())
    };
    let refused = "execution: a label value would have more than 65536 bytes";
    assert_eq!(nested("label_join(", ", \"x\", \"abc\", \"x\", \"x\")"), refused);
    let doubled = ", \"x\", \"a$1$1\", \"x\", \"(.*)\")";
    assert_eq!(nested("label_replace(", doubled), refused);
    // What is made counts as held, so that many long values are too much together.
    let tight = Options { samples_max: 4_000, ..Options::default() };
    let long = format!("label_replace(hits_total, \"x\", \"{}\", \"\", \"\")", "a".repeat(60_000));
    assert!(json(&long, 600_000, &tight).contains("too many samples"));
}

#[test]
fn the_ends_of_time_are_answered_or_refused() {
    let store = store();
    for text in [
        "hits_total offset 292y",
        "rate(hits_total[292y] offset -292y)",
        "max_over_time(hits_total[200y:100y])",
        "clamp(hits_total @ 1e15, 1, 2)",
        "hits_total @ -1e15 smoothed",
    ] {
        let query = parse(text).unwrap();
        let ends = [i64::MIN, -(1 << 60), -(1 << 59), 0, 1 << 59, 1 << 60, i64::MAX];
        for (start_ms, end_ms) in ends.iter().flat_map(|s| ends.iter().map(|e| (*s, *e))) {
            for step_ms in [1 << 50, 1 << 60, i64::MAX] {
                let steps = Steps { start_ms, end_ms, step_ms };
                let outcome = range(&store, &query, steps, &Options::default());
                let refused = start_ms == i64::MIN || end_ms == i64::MAX || end_ms < start_ms;
                let refused = refused || steps.count() > 11_000;
                assert_eq!(outcome.is_err(), refused, "{text} {steps:?} {outcome:?}");
            }
        }
    }
    assert_snapshot!(json("1", i64::MAX, &Options::default()), @"bad_data: time 9223372036854775807 ms is out of bounds");
    assert_snapshot!(json("up @ 1e18", 0, &Options::default()), @"bad_data: 1:6: parse error: timestamp out of bounds for @ modifier: 1000000000000000000");
}

#[test]
fn fixed_times_win_over_the_evaluation_time() {
    passes(
        r#"
load 10s
  metric{job="1"} 0+1x1000
  metric{job="2"} 0+2x1000

load 1ms
  metric_ms 0+1x10000

eval instant at 10s metric @ 100
  metric{job="1"} 10
  metric{job="2"} 20

eval instant at 10s metric{job="1"} @ 100 offset 50s
  metric{job="1"} 5

eval instant at 10s metric{job="1"} offset -50s @ 0
  metric{job="1"} 5

eval instant at 100s metric_ms @ 1.234
  metric_ms 1234

eval instant at 25s sum_over_time(metric{job="1"}[100s] @ 100)
  {job="1"} 55

eval instant at 25s sum_over_time(metric{job="1"}[100s:1s] @ 100)
  {job="1"} 460

eval instant at 25s sum_over_time(metric{job="1"}[100s:1s] @ 100 offset 20s)
  {job="1"} 288

eval instant at 25s rate(metric{job="1"}[100s] @ 100) + label_replace(rate(metric{job="2"}[123s] @ 200), "job", "1", "", "")
  {job="1"} 0.3

eval instant at 0s sum_over_time(timestamp(timestamp(metric{job="1"} @ 999))[10s:1s] @ 10)
  {job="1"} 55

eval instant at 0s sum_over_time(timestamp(metric{job="1"} @ 10)[100s:10s] @ 3000)
  {job="1"} 100

eval range from 10s to 30s step 10s metric{job="1"} @ end()
  metric{job="1"} 3 3 3

eval range from 10s to 30s step 10s sum_over_time(metric{job="1"}[20s] @ start())
  {job="1"} 1 1 1
"#,
    );
}

#[test]
fn names_are_dropped_at_the_end_of_a_query() {
    passes(
        r#"
load 5m
  metric_total{env="1"} 0 60 120
  another_metric_total{env="1"} 60 120 180

eval instant at 10m metric_total <= bool another_metric_total
  {env="1"} 1

eval instant at 10m label_replace(rate({env="1"}[10m]), "my_name", "rate_$1", "__name__", "(.+)")
  {my_name="rate_metric_total", env="1"} 0.2
  {my_name="rate_another_metric_total", env="1"} 0.2

eval instant at 10m label_replace(rate({env="1"}[10m]), "__name__", "rate_$1", "__name__", "(.+)")
  rate_metric_total{env="1"} 0.2
  rate_another_metric_total{env="1"} 0.2

eval instant at 10m label_join(rate({env="1"}[10m]), "my_name", "_", "__name__")
  {my_name="metric_total", env="1"} 0.2
  {my_name="another_metric_total", env="1"} 0.2

eval instant at 10m sum by (__name__, env) (metric_total{env="1"})
  metric_total{env="1"} 120

eval instant at 10m sum by (__name__, env) (rate({env="1"}[10m]))
  expect fail

eval instant at 10m sum by (env) (rate({env="1"}[10m]))
  {env="1"} 0.4
"#,
    );
}

#[test]
fn complementary_samples_split_all_series() {
    passes(
        r#"
load 5m
  req{i="0"} 0+1x10
  req{i="1"} 0+1x10
  req{i="2"} 0+1x10
  req{i="3"} 0+1x10
  req{i="4"} 0+1x10
  req{i="5"} 0+1x10
  req{i="6"} 0+1x10
  req{i="7"} 0+1x10

eval range from 0 to 50m step 25m count(limitk(3, req))
  {} 3 3 3

eval instant at 50m limitk(-1, req)

eval instant at 50m count(limit_ratio(0.4, req) or limit_ratio(-0.6, req))
  {} 8

eval instant at 50m limit_ratio(0.4, req) and limit_ratio(-0.6, req)

eval instant at 50m count(limit_ratio(1.1, req))
  expect warn msg: PromQL warning: ratio value should be between -1 and 1, got 1.1, capping to 1 (1:19)
  {} 8

eval instant at 50m limit_ratio(NaN, req)
  expect fail msg: Ratio value is NaN
"#,
    );
}

#[test]
fn info_adds_labels_of_the_target() {
    passes(
        r#"
load 5m
  metric{instance="a", job="1", label="value"} 0 1 2
  metric_not_matching{instance="a", job="2", label="value"} 0 1 2
  target_info{instance="a", job="1", data="info", another_data="x"} 1 1 1
  build_info{instance="a", job="1", build_data="build"} 1 1 1

eval range from 0m to 10m step 5m info(metric)
  metric{data="info", instance="a", job="1", label="value", another_data="x"} 0 1 2

eval range from 0m to 10m step 5m info(metric, {data=~".+"})
  metric{data="info", instance="a", job="1", label="value"} 0 1 2

eval range from 0m to 10m step 5m info(metric, {non_existent=~".+"})

eval range from 0m to 10m step 5m info(metric, {data=~".+", non_existent=~".*"})
  metric{data="info", instance="a", job="1", label="value"} 0 1 2

eval range from 0m to 10m step 5m info(metric, {non_existent=~".*"})
  metric{instance="a", job="1", label="value"} 0 1 2

eval range from 0m to 10m step 5m info(metric_not_matching)
  metric_not_matching{instance="a", job="2", label="value"} 0 1 2

eval range from 0m to 10m step 5m info(metric, {__name__="build_info"})
  metric{instance="a", job="1", label="value", build_data="build"} 0 1 2

eval range from 0m to 10m step 5m info(metric, {__name__=~".+_info", build_data=~".+"})
  metric{instance="a", job="1", label="value", build_data="build"} 0 1 2
"#,
    );
}

proptest::proptest! {
    #[test]
    fn no_query_on_real_series_panics(
        text in r#"(sum|topk|rate|hits_total|job|by|without|on|bool|offset|histogram_quantile|label_replace|absent|and|or|[0-9]|5m|[(){}\[\],:"=~<>+*/^.@ -]|"a"){0,24}"#
    ) {
        let _outcome = instant_text(&store(), &text, 600_000, &Options::default());
    }

    #[test]
    fn no_test_script_panics(
        script in r#"((load|eval instant at|eval range from 0 to|clear|expect|fail|warn|msg:|a\{b="c"\}|1m|292y|[0-9]|1\+2x3|_x2|stale|\{\{schema:[0-9-]{1,3} count:3 buckets:\[1 2\] offset:2147483647\}\}x2|sum\(a\)|@st|\n|\n  | ){0,20}\n?){0,4}"#
    ) {
        let _report = run(&script, &test_options());
    }

    #[test]
    fn no_rule_file_panics(
        yaml in r"groups:\n- name: [a-c]?\n  interval: ([0-9]{1,12}[smhy]|x)\n  rules:\n  - (record|alert|x): [a-z:]{0,3}\n    expr: (vector\(1\)|a > [0-9]|sum\(|'')\n(    for: [0-9]m\n|    labels: \{a: '\{\{ .{0,5} \}\}'\}\n|&a|\*a|[{}\[\]]){0,3}"
    ) {
        if let Ok(file) = RuleFile::parse(&yaml) {
            for spec in &file.groups {
                let mut group = Group::new(spec, "file").unwrap();
                let (options, external) = (Options::default(), Labels::empty());
                let context =
                    Context { options: &options, external_labels: &external, external_url: "", resend_ms: 60_000 };
                group.evaluate(&mut store(), group.slot_ms(600_000), &context);
            }
        }
    }
}

#[test]
fn duplicates_do_not_matter_where_nothing_is_on_the_other_side() {
    passes(
        r#"
        load 1m
          hits{job="a", code="1"} 1+1x9
          hits{job="a", code="2"} 1+1x9
          other{job="a"} 1+1x9

        eval instant at 5m (other > 100) / on (job) hits

        eval instant at 5m hits * on (job) (other > 100)

        eval instant at 5m (other > 100) * on (job) group_left () hits

        eval instant at 5m other / on (job) hits
          expect fail

        eval instant at 5m hits > on (job) other + 100
          expect fail
        "#,
    );
}
