//! Rule tests in forms that promtool accepts: parts left out or null, patterns of rule files,
//! templates within templates. `promtool test rules` passes the first (3.15; 2.42 but for the
//! functions it does not have).

use evenkeel_promql::engine::Options;
use evenkeel_promql::test_rules::{Report, run};
use insta::assert_snapshot;

const ALERTS: &str = r#"
groups:
- name: a
  rules:
  - alert: Down
    expr: up == 0
    labels: {severity: page, empty: , note: 1.10, flag: yes}
    annotations:
      summary:
      text: "{{ define \"who\" }}{{ .job }}{{ end }}{{ template \"who\" $labels }} is
    down"
      url: '{{ externalURL }}/x?q={{ urlQueryEscape "a b" }}'
      now: '{{ now }}'
"#;
const RECORDS: &str = "
groups:
- name: b
  rules:
  - {record: peak, expr: 'max_over_time(up[2m:])'}
";

fn tested(tests: &str) -> Result<Report, String> {
    let mut read = |name: &str| match name {
        "rules/*.yml" => Ok(vec![
            ("rules/a.yml".to_owned(), ALERTS.to_owned()),
            ("rules/b.yml".to_owned(), RECORDS.to_owned()),
        ]),
        other => Err(format!("{other} is not there")),
    };
    run(tests, &mut read, &Options::default())
}

#[test]
fn what_is_left_out_or_null_is_empty() {
    let report = tested(
        r#"
rule_files: ['rules/*.yml']
evaluation_interval: 30s
group_eval_order:
tests:
- name: nothing
  input_series:
  alert_rule_test:
  external_labels:
  promql_expr_test:
  - {expr: absent(up), eval_time: 1m, exp_samples: [{labels: '{}', value: 1}]}
- external_url: http://prom.example
  interval: 30s
  input_series:
  - {series: 'up{job="web"}', values: 0 1 0 0 0 0 1 0}
  alert_rule_test:
  - alertname: Down
    exp_alerts:
    - exp_labels: {job: web, severity: page, note: 1.10, flag: yes}
      exp_annotations:
        summary:
        text: web is down
        url: http://prom.example/x?q=a+b
        now: 0
  - {alertname: Down, eval_time: 30s, exp_alerts: }
  promql_expr_test:
  - {expr: peak, eval_time: 3m, exp_samples: [{labels: 'peak{job="web"}', value: 1}]}
  - {expr: up, exp_samples: [{labels: 'up{job="web"}', value: }]}
"#,
    );
    assert_eq!(report, Ok(Report { passed: 2, failures: Vec::new() }));
}

#[test]
fn errors_name_line_and_field() {
    let outcome = |tests: &str| match tested(tests) {
        Ok(report) => report.failures.join("; "),
        Err(error) => error,
    };
    assert_snapshot!(outcome("tests:\n- alert_rule_test:\n  - eval_time: 1m"), @"test 1: an item of alert_rule_test at eval_time 1m has no alertname");
    assert_snapshot!(outcome("tests:\n- interval: soon"), @r#"test 1: not a valid duration string: "soon""#);
    assert_snapshot!(outcome("tests:\n- input_series: [up]"), @r#"line 2: field tests[0].input_series[0]: must be a mapping, not the text "up""#);
    assert_snapshot!(outcome("tests:\n- input: x"), @"line 2: field tests[0]: field input is not known here; known are name, interval, input_series, alert_rule_test, promql_expr_test, external_labels, external_url, start_timestamp");
    assert_snapshot!(outcome("evaluation_interval: 1m\ntests:\n- a: b: c"), @"line 3: field tests[0]: a value cannot have a colon and a blank in it: put it in quotes, or check the indentation");
    assert_snapshot!(outcome("tests: []\ntests: []"), @"line 2: field tests: is given twice, first in line 1");
    assert_snapshot!(outcome("rule_files: [x.yml]"), @"x.yml is not there");
}
