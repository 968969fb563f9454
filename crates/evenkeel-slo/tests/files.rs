//! SLO files as people write them: YAML that Sloth and kubectl take, labels that would break the
//! SLO, and `OpenSLO`'s own field names in every error.

use evenkeel_slo::{Finding, Input, Options, generate, lint};
use insta::assert_snapshot;

fn inputs(text: &str) -> Vec<Input> {
    vec![Input { name: "slo.yaml".to_owned(), text: text.to_owned() }]
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
}

/// The findings, or the rules when there are none.
fn outcome(text: &str) -> String {
    match generate(&inputs(text), &Options::default()) {
        Ok(output) if output.findings.is_empty() => output.to_yaml(),
        Ok(output) => lines(&output.findings),
        Err(findings) => lines(&findings),
    }
}

/// An SLO in Sloth's file form.
fn file(labels: &str, description: &str, error_query: &str) -> String {
    format!(
        "version: prometheus/v1
service: api
labels: {labels}
slos:
- name: availability
  objective: 99.9
  description: {description}
  sli:
    events:
      error_query: {error_query}
      total_query: sum(rate(x[{{{{.window}}}}]))
  alerting: {{page_alert: {{disable: true}}, ticket_alert: {{disable: true}}}}
"
    )
}

#[test]
fn a_quoted_text_need_not_be_indented() {
    let query =
        "'sum(rate(x{code=~\"5..\"}[{{.window}}]))\n      +\n      sum(rate(y[{{.window}}]))'";
    let rules = outcome(&file("{}", "\"first line\n  second line: more\"", query));
    assert!(rules.contains("sum(rate(x{code=~\"5..\"}[5m])) + sum(rate(y[5m]))"), "{rules}");
}

#[test]
fn line_ends_of_windows_and_anchors_change_nothing() {
    let plain = file("{team: pay}", "one two", "sum(rate(y[{{.window}}]))");
    let rules = outcome(&plain);
    assert!(rules.contains("sum(rate(y[5m]))"), "{rules}");
    assert_eq!(outcome(&plain.replace('\n', "\r\n")), rules);
    let anchored = plain
        .replace("{page_alert: {disable: true}", "{page_alert: &off {disable: true}")
        .replace("ticket_alert: {disable: true}", "ticket_alert: *off");
    assert!(anchored.contains("*off"), "{anchored}");
    assert_eq!(outcome(&anchored), rules);
}

#[test]
fn labels_of_a_file_stay_as_they_were_written() {
    let rules =
        outcome(&file("{version: 1.10, on: yes, zero: 010}", "x", "sum(rate(y[{{.window}}]))"));
    assert!(rules.contains("\"on\": 'yes'"), "{rules}");
    assert!(rules.contains("version: '1.10'") && rules.contains("zero: '010'"), "{rules}");
}

#[test]
fn labels_of_an_object_must_be_text() {
    let text = "apiVersion: sloth.slok.dev/v1
kind: PrometheusServiceLevel
metadata:
  name: n
spec:
  service: api
  labels:
    team: y
    shard: 010
  slos: []
";
    assert_snapshot!(outcome(text), @r#"
    warning: slo.yaml:8 PrometheusServiceLevel/? spec.labels.team: y is a boolean in YAML, and an API server refuses it here (LabelNotString); fix: put it in quotes: team: "y"
    warning: slo.yaml:9 PrometheusServiceLevel/? spec.labels.shard: 010 is a number in YAML, and an API server refuses it here (LabelNotString); fix: put it in quotes: shard: "010"
    error: slo.yaml:10 PrometheusServiceLevel/? spec.slos: at least one SLO is required (InvalidSlo); fix: add an SLO
    error: slo.yaml:4 PrometheusServiceLevel/? metadata.name: must be a string, not n, which YAML reads as the boolean false (InvalidField); fix: put it in quotes: "n"
    "#);
}

#[test]
fn labels_that_the_rules_need_are_refused() {
    let query = "sum(rate(y[{{.window}}]))";
    assert_snapshot!(outcome(&file("{sloth_id: x, team: a}", "x", query)), @"error: slo.yaml:3 service api labels.sloth_id: sloth_id is the label by which the rules and alerts of an SLO find its series; with another value they find none (ReservedLabel); fix: rename the label");
    let own =
        file("{}", "x", query).replace("  objective", "  labels: {sloth_window: 5m}\n  objective");
    assert_snapshot!(outcome(&own), @"error: slo.yaml:6 service api slos[0].labels.sloth_window: sloth_window is the label by which the rules and alerts of an SLO find its series; with another value they find none (ReservedLabel); fix: rename the label");
    // Sloth takes them.
    let report = lint(&inputs(&own), &Options::default());
    assert_eq!(format!("{:?}", report.objects[0].sloth), "Accepted");
    assert!(report.failed());
}

#[test]
fn a_query_may_be_any_template_of_go() {
    let query = "'{{ $w := .window }}sum(rate(y[{{ .window }}])) * count(z[{{ $w }}:1m] )'";
    let query = query.replace("count(z[{{ $w }}:1m] )", "sum(rate(z[{{ $w }}]))");
    let rules = outcome(&file("{}", "x", &query));
    assert!(rules.contains("sum(rate(y[30m])) * sum(rate(z[30m]))"), "{rules}");
    assert_snapshot!(outcome(&file("{}", "x", "'{{ $v }}y[{{.window}}]'")), @r#"error: slo.yaml:9 service api slos[0].sli.events: the error query cannot be read: template: line 1: undefined variable "$v" (InvalidSlo); fix: correct the query"#);
}

fn openslo(from: &str, to: &str) -> String {
    let text = "apiVersion: openslo/v1alpha
kind: SLO
metadata:
  name: slo1
spec:
  service: my-service
  budgetingMethod: Occurrences
  objectives:
  - target: 0.999
    ratioMetrics:
      good: {source: prometheus, queryType: promql, query: 'sum(rate(good[{{.window}}]))'}
      total: {source: prometheus, queryType: promql, query: 'sum(rate(all[{{.window}}]))'}
";
    assert!(text.contains(from), "{from}");
    outcome(&text.replacen(from, to, 1))
}

#[test]
fn errors_name_the_fields_of_openslo() {
    assert!(openslo("Occurrences", "Occurrences").contains("my-service-slo1-0"));
    assert_snapshot!(openslo("Occurrences", "Timeslices"), @"error: slo.yaml:7 SLO/slo1 spec.budgetingMethod: budgetingMethod Timeslices is not supported: budgets are counted in events, not in slices of time (InvalidField); fix: budgetingMethod: Occurrences");
    assert_snapshot!(openslo("target: 0.999", "target: 99.9"), @r#"error: slo.yaml:9 SLO/slo1 spec.objectives[0].target: must be above 0 and at most 1, not 99.9 (InvalidSlo); fix: give a ratio such as 0.999"#);
    assert_snapshot!(openslo("target: 0.999", "target: many"), @r#"error: slo.yaml:9 SLO/slo1 spec.objectives[0].target: must be a number, not the text "many" (InvalidField); fix: give a number"#);
    assert_snapshot!(openslo("target: 0.999", "goal: 0.999"), @r#"error: slo.yaml:9 SLO/slo1 spec.objectives[0].target: must be above 0 and at most 1, not 0 (InvalidSlo); fix: give a ratio such as 0.999"#);
    assert_snapshot!(openslo("good[{{.window}}]", "good[{{.window}}"), @r#"error: slo.yaml:10 SLO/slo1 spec.objectives[0].ratioMetrics: the raw query cannot be read: 4:23: parse error: unexpected ")" in subquery or range selector, expected "]" (InvalidSlo); fix: correct the query"#);
    assert_snapshot!(openslo("good[{{.window}}]", "good[5m]"), @"error: slo.yaml:10 SLO/slo1 spec.objectives[0].ratioMetrics: one query uses {{.window}} and the other does not (WindowMissing); fix: write {{.window}} as the range of every selector: rate(x[{{.window}}])");
    assert_snapshot!(openslo("name: slo1", "name: slo 1"), @r#"error: slo.yaml:4 SLO/slo 1 metadata.name: the name "slo 1" may only have letters, digits, '.', '_' and '-', and a letter or digit at both ends (InvalidSlo); fix: rename it"#);
    assert_snapshot!(openslo("service: my-service", "service: [a]"), @"error: slo.yaml:6 SLO/slo1 spec.service: must be a string, not a list (InvalidField); fix: give a string");
    assert_snapshot!(openslo("service: my-service", "service: my-service\n  timeWindows: [{unit: Day, count: 7}]"), @"error: slo.yaml:7 SLO/slo1 spec.timeWindows: SLO period 1w time window is not supported (UnknownPeriod); fix: use one of 4w, 30d, or add an AlertWindows document with sloPeriod 1w");
    assert_snapshot!(openslo("queryType: promql", "queryType: sql"), @"error: slo.yaml:11 SLO/slo1 spec.objectives[0].ratioMetrics.good.queryType: unsupported 'good' indicator query type: sql (InvalidField); fix: queryType: promql");
}

fn openslo_v1(from: &str, to: &str) -> String {
    let text = "apiVersion: openslo/v1
kind: SLO
metadata: {name: web}
spec:
  service: my-service
  budgetingMethod: Occurrences
  timeWindow: [{duration: 30d, isRolling: true}]
  indicator:
    spec:
      ratioMetric:
        bad: {metricSource: {spec: {query: 'sum(rate(bad[{{.window}}]))'}}}
        total: {metricSource: {spec: {query: 'sum(rate(all[{{.window}}]))'}}}
  objectives:
  - target: 0.999
";
    assert!(text.contains(from), "{from}");
    outcome(&text.replacen(from, to, 1))
}

#[test]
fn errors_name_the_fields_of_openslo_v1() {
    assert_snapshot!(openslo_v1("Occurrences", "Timeslices"), @"error: slo.yaml:6 SLO/web spec.budgetingMethod: budgetingMethod Timeslices is not supported: budgets are counted in events, not in slices of time (InvalidField); fix: budgetingMethod: Occurrences");
    assert_snapshot!(openslo_v1("target: 0.999", "target: 99.9"), @r#"error: slo.yaml:14 SLO/web spec.objectives[0].target: must be above 0 and at most 1, not 99.9 (InvalidSlo); fix: give a ratio such as 0.999"#);
    assert_snapshot!(openslo_v1("- target: 0.999", "- 0.999"), @"error: slo.yaml:14 SLO/web spec.objectives[0]: must be a mapping (InvalidField); fix: write target, such as 0.999");
    assert_snapshot!(openslo_v1("bad[{{.window}}]", "all[{{.window}}]"), @r#"error: slo.yaml:10 SLO/web spec.indicator.spec.ratioMetric: the error query and the total query are the same (InvalidSlo); fix: give each a query of its own"#);
    assert_snapshot!(openslo_v1("rate(bad[{{.window}}])", "rate(bad{[{{.window}}])"), @r#"error: slo.yaml:10 SLO/web spec.indicator.spec.ratioMetric: the error query cannot be read: 1:14: parse error: unexpected "[" in label matching, expected identifier or "}" (InvalidSlo); fix: correct the query"#);
    assert_snapshot!(openslo_v1("duration: 30d", "duration: 7d"), @"error: slo.yaml:7 SLO/web spec.timeWindow: SLO period 1w time window is not supported (UnknownPeriod); fix: use one of 4w, 30d, or add an AlertWindows document with sloPeriod 1w");
    assert_snapshot!(openslo_v1("    spec:\n      ratioMetric:", "    metadata:\n      ratioMetric:"), @"error: slo.yaml:8 SLO/web spec.indicator: the indicator has no spec (InvalidField); fix: give spec.ratioMetric below it");
}

#[test]
fn a_broken_document_does_not_hide_the_others() {
    let good = file("{}", "x", "sum(rate(y[{{.window}}]))");
    let text = format!("{good}---\na: b: c\n---\nkind: SLO\nkind: SLI\n--- x\n");
    assert_snapshot!(outcome(&text), @"error: slo.yaml:18 document: only a comment may follow the dashes: start the document on the next line (InvalidYaml)");
    assert_snapshot!(outcome(&text.replace("--- x", "---\n- a")), @r"
    error: slo.yaml#2:14 document: a value cannot have a colon and a blank in it: put it in quotes, or check the indentation (InvalidYaml)
    error: slo.yaml#3:17 document kind: is given twice, first in line 16 (InvalidYaml)
    error: slo.yaml#4:19 document: the document is not a mapping (UnknownKind); fix: use version prometheus/v1, sloth.slok.dev/v1 PrometheusServiceLevel or AlertWindows, openslo/v1alpha SLO, or openslo/v1 SLO
    ");
}
