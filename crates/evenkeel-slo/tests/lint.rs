//! What `slo lint` and `slo export --sloth` say, and how bad input is refused.

#![expect(
    clippy::format_push_string,
    clippy::format_collect,
    reason = "tests build their text piece by piece"
)]

use evenkeel_slo::{
    Finding, Input, LintReport, Options, PromDuration, Severity, SlothVerdict, export_sloth,
    generate, lint,
};

const ARTICLE: &str = include_str!("fixtures/seed/article.yaml");
const CORRECTED: &str = include_str!("fixtures/seed/corrected.yml");

fn inputs(text: &str) -> Vec<Input> {
    vec![Input { name: "slo.yaml".to_owned(), text: text.to_owned() }]
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("{f}\n")).collect()
}

fn shown(report: &LintReport) -> String {
    let mut out = lines(&report.findings);
    for object in &report.objects {
        out.push_str(&format!("{} {:?}\n", object.object, object.sloth));
    }
    out
}

/// A file-form SLO with one thing changed.
fn file(from: &str, to: &str) -> String {
    let text = "version: prometheus/v1
service: api
slos:
- name: availability
  objective: 99.9
  sli:
    events:
      error_query: sum(rate(x{code=~\"5..\"}[{{.window}}]))
      total_query: sum(rate(x[{{.window}}]))
  alerting:
    name: High
    page_alert: {labels: {severity: page}}
    ticket_alert: {disable: true}
";
    assert!(text.contains(from), "{from}");
    text.replacen(from, to, 1)
}

/// Errors of generating it, or the number of rules.
fn outcome(from: &str, to: &str) -> String {
    match generate(&inputs(&file(from, to)), &Options::default()) {
        Ok(output) => format!("{} rules\n{}", output.rules(), lines(&output.findings)),
        Err(found) => lines(&found),
    }
}

#[test]
fn the_article_is_linted_with_sloths_own_verdict_and_the_corrected_manifest() {
    let report = lint(&inputs(ARTICLE), &Options::default());
    insta::assert_snapshot!(shown(&report), @r#"
    warning: slo.yaml:16 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events.error_query: error_query is read as errorQuery (DeprecatedFieldCasing); fix: write errorQuery
    warning: slo.yaml:18 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events.total_query: total_query is read as totalQuery (DeprecatedFieldCasing); fix: write totalQuery
    warning: slo.yaml:15 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events: [5m] is taken as [{{.window}}] (WindowInferred); fix: write [{{.window}}] instead of [5m]
    warning: slo.yaml:22 PrometheusServiceLevel/api-service-slo spec.slos[0].alerting.page_alert: page_alert is read as pageAlert (DeprecatedFieldCasing); fix: write pageAlert
    warning: slo.yaml:25 PrometheusServiceLevel/api-service-slo spec.slos[0].alerting.ticket_alert: ticket_alert is read as ticketAlert (DeprecatedFieldCasing); fix: write ticketAlert
    PrometheusServiceLevel/api-service-slo Refused { message: "invalid slo \"api-requests-availability\": invalid SLI: both error and total queries can't be the same" }
    "#);
    let corrected = report.objects[0].corrected.clone().unwrap();
    insta::assert_snapshot!(corrected, @r#"
    apiVersion: sloth.slok.dev/v1
    kind: PrometheusServiceLevel
    metadata:
      name: api-service-slo
    spec:
      service: api
      labels:
        team: platform
      slos:
      - name: requests-availability
        objective: 99.9
        description: '99.9% of requests should be successful'
        sli:
          events:
            errorQuery: |
              sum(rate(app_request_duration_seconds_count{service="api",status=~"5.."}[{{.window}}]))
            totalQuery: |
              sum(rate(app_request_duration_seconds_count{service="api"}[{{.window}}]))
        alerting:
          name: APIServiceHighErrorRate
          pageAlert:
            labels:
              severity: critical
          ticketAlert:
            labels:
              severity: warning
    "#);
    let parse = |text: &str| serde_saphyr::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(&corrected), parse(CORRECTED));
    let again = lint(&inputs(&corrected), &Options::default());
    assert_eq!(again.objects[0].sloth, SlothVerdict::Accepted);
    assert!(again.findings.is_empty(), "{}", lines(&again.findings));
}

#[test]
fn an_export_gives_the_same_rules_and_drops_only_what_sloth_has_not() {
    for text in [ARTICLE.to_owned(), file("99.9\n", "99.9\n  window: 28d\n")] {
        let options = Options::default();
        let (exported, findings) = export_sloth(&inputs(&text), &options).unwrap();
        let own = generate(&inputs(&text), &options).unwrap();
        let window = own.groups[0].slos[0].window;
        let options = Options { default_window: window, ..options };
        let theirs = generate(&inputs(&exported), &options).unwrap();
        assert_eq!(own.sets[0].groups, theirs.sets[0].groups);
        let dropped = findings.iter().filter(|f| f.message.contains("left out")).count();
        assert_eq!(dropped, usize::from(window != PromDuration::from_days(30)));
    }
}

#[test]
fn a_name_of_one_character_is_called_too_short() {
    let name = |text: &str| outcome("name: availability", &format!("name: {text}"));
    insta::assert_snapshot!(name("x"), @r#"error: slo.yaml:4 service api slos[0].name: the name "x" is too short (InvalidSlo); fix: use two or more letters, digits, '.', '_' or '-'"#);
    assert!(name("ab").starts_with("16 rules"), "{}", name("ab"));
    // What Sloth says of it stays Sloth's.
    let report = lint(&inputs(&file("name: availability", "name: x")), &Options::default());
    let verdict = format!("{:?}", report.objects[0].sloth);
    assert!(verdict.contains("invalid SLO name: name must start and end"), "{verdict}");
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table")]
fn each_mistake_names_object_field_and_fix() {
    let same = "total_query: sum(rate(x[{{.window}}]))";
    let mut out = String::new();
    for (from, to) in [
        ("objective: 99.9", "objective: \"99.9\""),
        ("objective: 99.9", "objective: 0"),
        ("objective: 99.9", "objective: 90"),
        ("objective: 99.9", "objective: 100"),
        ("name: availability", "name: a b"),
        ("service: api", "service: \"\""),
        ("error_query: sum", "errorQuery: sum"),
        ("[{{.window}}]", "[5m]"),
        ("x{code=~\"5..\"}[{{.window}}]", "x{code=~\"5..\"[{{.window}}]"),
        ("x{code=~\"5..\"}[{{.window}}]", "x[{{.job}}][{{.window}}]"),
        (same, "total_query: sum(rate(x{code=~\"5..\"}[{{.window}}]))"),
        (same, "total_query: \"\""),
        ("page_alert: {labels: {severity: page}}", "page_alert: {labels: {severity: \"\"}}"),
        ("page_alert: {labels: {severity: page}}", "pageAlert: {disable: true}"),
        ("  objective: 99.9", "  objective: 99.9\n  window: 7d"),
        ("  objective: 99.9", "  objective: 99.9\n  window: soon"),
        ("  objective: 99.9", "  objective: 99.9\n  groupBy: [tenant]"),
        ("  objective: 99.9", "  objective: 99.9\n  plugins: {chain: [{id: a/burn_rates/v1}]}"),
        ("slos:", "slo:"),
        ("events:", "plugin: {id: sloth-common/traefik/v3/latency}\n    other:"),
        ("version: prometheus/v1", "version: [prometheus/v1"),
    ] {
        out.push_str(&format!("# {}\n{}", to.replace('\n', "/"), outcome(from, to)));
    }
    insta::assert_snapshot!(out, @r#"
    # objective: "99.9"
    error: slo.yaml:5 service api slos[0].objective: must be a number, not the text "99.9" (InvalidField); fix: give a number
    # objective: 0
    error: slo.yaml:5 service api slos[0].objective: must be above 0 and at most 100 percent, not 0 (InvalidSlo); fix: give a percentage such as 99.9
    # objective: 90
    16 rules
    warning: slo.yaml:5 service api slos[0].objective: the quick half of the page alert cannot fire: it needs an error ratio above 1.44 (AlertCannotFire); fix: raise the objective, or use an AlertWindows catalogue with lower percentages
    # objective: 100
    16 rules
    warning: slo.yaml:5 service api slos[0].objective: an objective of 100 leaves no error budget: the first error uses it up (NoBudget); fix: choose an objective below 100
    # name: a b
    error: slo.yaml:4 service api slos[0].name: the name "a b" may only have letters, digits, '.', '_' and '-', and a letter or digit at both ends (InvalidSlo); fix: rename it
    # service: ""
    error: slo.yaml:2 service ? service: the service is missing (InvalidSlo); fix: write it, such as checkout
    # errorQuery: sum
    warning: slo.yaml:8 service api slos[0].sli.events.errorQuery: errorQuery has no effect here, as in Sloth (IgnoredField); fix: write error_query
    error: slo.yaml:7 service api slos[0].sli.events: the error query is missing (InvalidSlo); fix: give the query
    # [5m]
    error: slo.yaml:7 service api slos[0].sli.events: one query uses {{.window}} and the other does not (WindowMissing); fix: write {{.window}} as the range of every selector: rate(x[{{.window}}])
    # x{code=~"5.."[{{.window}}]
    error: slo.yaml:7 service api slos[0].sli.events: the error query cannot be read: 1:23: parse error: unexpected "[" in label matching, expected "," or "}" (InvalidSlo); fix: correct the query
    # x[{{.job}}][{{.window}}]
    error: slo.yaml:7 service api slos[0].sli.events: the error query cannot be read: template: line 1: map has no entry for key "job" (InvalidSlo); fix: correct the query
    # total_query: sum(rate(x{code=~"5.."}[{{.window}}]))
    error: slo.yaml:7 service api slos[0].sli.events: the error query and the total query are the same (InvalidSlo); fix: give each a query of its own
    # total_query: ""
    error: slo.yaml:7 service api slos[0].sli.events: the total query is missing (InvalidSlo); fix: give the query
    # page_alert: {labels: {severity: ""}}
    error: slo.yaml:10 service api slos[0].alerting.labels: page alert: label severity is empty (InvalidSlo); fix: give the label a value
    # pageAlert: {disable: true}
    16 rules
    warning: slo.yaml:12 service api slos[0].alerting.pageAlert: pageAlert has no effect here, as in Sloth (IgnoredField); fix: write page_alert
    #   objective: 99.9/  window: 7d
    warning: slo.yaml:6 service api slos[0].window: the window 1w of this SLO is read by evenkeel only (ExtensionField)
    error: slo.yaml:6 service api slos[0].window: SLO period 1w time window is not supported (UnknownPeriod); fix: use one of 4w, 30d, or add an AlertWindows document with sloPeriod 1w
    #   objective: 99.9/  window: soon
    error: slo.yaml:6 service api slos[0].window: not a valid duration string: "soon", expected something like 5m, 1h30m or 30d (InvalidField); fix: give a duration such as 30d
    #   objective: 99.9/  groupBy: [tenant]
    16 rules
    warning: slo.yaml:6 service api slos[0].groupBy: groupBy has no effect here, as in Sloth (IgnoredField); fix: write group_by
    #   objective: 99.9/  plugins: {chain: [{id: a/burn_rates/v1}]}
    error: slo.yaml:6 service api slos[0].plugins.chain[0]: plugin "a/burn_rates/v1" is not built in (UnknownPlugin); fix: write the query itself, or use a built-in id: evenkeel slo plugins
    # slo:
    warning: slo.yaml:3 service api slo: slo is not a field here and has no effect (UnknownField); fix: remove it or correct its name
    error: slo.yaml:1 service api slos: at least one SLO is required (InvalidSlo); fix: add an SLO
    # plugin: {id: sloth-common/traefik/v3/latency}/    other:
    warning: slo.yaml:8 service api slos[0].sli.other: other is not a field here and has no effect (UnknownField); fix: remove it or correct its name
    error: slo.yaml:7 service api slos[0].sli.plugin: plugin "sloth-common/traefik/v3/latency" is not built in (UnknownPlugin); fix: use one of the built-in ids, such as sloth-common/traefik/v1/latency, sloth-common/traefik/v2/latency, sloth-common/coredns/latency
    # version: [prometheus/v1
    error: slo.yaml:2 document version[0]: a colon cannot stand here: a bracket above is not closed, or the value needs quotes (InvalidYaml)
    "#);
}

#[test]
fn both_spellings_at_once_are_refused() {
    let text = ARTICLE.replace("page_alert:", "pageAlert: {}\n        page_alert:");
    let found = generate(&inputs(&text), &Options::default()).unwrap_err();
    let errors: Vec<_> = found.into_iter().filter(|f| f.severity == Severity::Error).collect();
    insta::assert_snapshot!(lines(&errors), @"error: slo.yaml:22 PrometheusServiceLevel/api-service-slo spec.slos[0].alerting.pageAlert: pageAlert and page_alert are both given (FieldCasingConflict); fix: keep pageAlert only");
}

#[test]
fn windows_are_inferred_only_when_there_is_one_answer() {
    let mut out = String::new();
    for (error, total) in [
        ("[5m]", "[5m]"),
        ("[5m]", "[1h]"),
        ("[5m:1m]", "[5m:1m]"),
        ("", ""),
        ("[5m]", "[{{.window}}]"),
    ] {
        let text = ARTICLE.replacen("[5m]", "(1)", 1).replacen("[5m]", total, 1);
        let text = text.replacen("(1)", error, 1);
        let report = lint(&inputs(&text), &Options::default());
        let found: Vec<_> =
            report.findings.into_iter().filter(|f| f.reason.starts_with("Window")).collect();
        out.push_str(&format!("{error} {total}\n{}", lines(&found)));
    }
    insta::assert_snapshot!(out, @r"
    [5m] [5m]
    warning: slo.yaml:15 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events: [5m] is taken as [{{.window}}] (WindowInferred); fix: write [{{.window}}] instead of [5m]
    [5m] [1h]
    error: slo.yaml:15 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events: different ranges (1h, 5m) leave the window open (WindowMissing); fix: write {{.window}} as the range of every selector: rate(x[{{.window}}])
    [5m:1m] [5m:1m]
    error: slo.yaml:15 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events: [5m:1m] cannot be taken as the window (WindowMissing); fix: write {{.window}} as the range of every selector: rate(x[{{.window}}])
     
    error: slo.yaml:15 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events: a query has no range at all, so no window can be inferred (WindowMissing); fix: write {{.window}} as the range of every selector: rate(x[{{.window}}])
    [5m] [{{.window}}]
    error: slo.yaml:15 PrometheusServiceLevel/api-service-slo spec.slos[0].sli.events: one query uses {{.window}} and the other does not (WindowMissing); fix: write {{.window}} as the range of every selector: rate(x[{{.window}}])
    ");
}

#[test]
fn an_id_used_in_two_files_is_an_error_for_lint_and_a_warning_for_generate() {
    let two: Vec<_> = ["a.yaml", "b.yaml"]
        .map(|name| Input { name: name.to_owned(), text: CORRECTED.to_owned() })
        .into();
    insta::assert_snapshot!(lines(&lint(&two, &Options::default()).findings), @r#"error: b.yaml:10 PrometheusServiceLevel/api-service-slo spec.slos[0].name: SLO id "api-requests-availability" is already used in a.yaml (DuplicateId); fix: rename one of them, or their series mix"#);
    assert!(generate(&two, &Options::default()).is_ok());
}

#[test]
fn openslo_v1_is_read_with_its_indicator_elsewhere() {
    let text = "apiVersion: openslo/v1
kind: SLO
metadata: {name: web}
spec:
  service: shop
  indicatorRef: web-errors
  timeWindow: [{duration: 4w, isRolling: true}]
  budgetingMethod: Occurrences
  objectives: [{target: 0.99}, {targetPercent: 99.5}]
---
apiVersion: openslo/v1
kind: SLI
metadata: {name: web-errors}
spec:
  ratioMetric:
    counter: true
    bad: {metricSource: {type: Prometheus, spec: {query: 'sum(rate(e[5m]))'}}}
    total: {metricSource: {type: Prometheus, spec: {query: 'sum(rate(t[5m]))'}}}
";
    let output = generate(&inputs(text), &Options::default()).unwrap();
    let mut out = lines(&output.findings);
    for slo in &output.groups[0].slos {
        let events = slo.sli.events.clone().unwrap();
        out.push_str(&format!(
            "{} {} {} {}\n",
            slo.id, slo.objective, slo.window, events.error_query
        ));
    }
    insta::assert_snapshot!(out, @r"
    warning: slo.yaml#1 SLO/web SLI/web-errors.spec.ratioMetric: [5m] is taken as [{{.window}}] (WindowInferred); fix: write [{{.window}}] instead of [5m]
    shop-web-0 99 4w sum(rate(e[{{.window}}]))
    shop-web-1 99.5 4w sum(rate(e[{{.window}}]))
    ");
    let missing = text.replace("name: web-errors", "name: other");
    let found = generate(&inputs(&missing), &Options::default()).unwrap_err();
    insta::assert_snapshot!(lines(&found), @r#"error: slo.yaml#1:6 SLO/web spec.indicatorRef: there is no SLI "web-errors" among the given documents (InvalidField); fix: give spec.indicator, or add the SLI's file to the command"#);
    let slices = text.replace("Occurrences", "Timeslices");
    let found = generate(&inputs(&slices), &Options::default()).unwrap_err();
    insta::assert_snapshot!(lines(&found), @r"
    error: slo.yaml#1:8 SLO/web spec.budgetingMethod: budgetingMethod Timeslices is not supported: budgets are counted in events, not in slices of time (InvalidField); fix: budgetingMethod: Occurrences
    warning: slo.yaml#1 SLO/web SLI/web-errors.spec.ratioMetric: [5m] is taken as [{{.window}}] (WindowInferred); fix: write [{{.window}}] instead of [5m]
    ");
}

#[test]
fn the_budget_series_has_the_articles_name_and_no_value_without_traffic() {
    let options = Options { budget_series: true, ..Options::default() };
    let output = generate(&inputs(CORRECTED), &options).unwrap();
    let group = output.sets[0].groups.last().unwrap();
    insta::assert_snapshot!(serde_saphyr::to_string(&serde_json::to_value(group).unwrap()).unwrap(), @r#"
    name: evenkeel-slo-budget-api-requests-availability
    rules:
    - record: slo_error_budget_remaining_ratio
      expr: |
        1 - (
        (sum(rate(app_request_duration_seconds_count{service="api",status=~"5.."}[30d]))
        )
        /
        ((sum(rate(app_request_duration_seconds_count{service="api"}[30d]))
        ) > 0)
        )
        / 0.001
      labels:
        service: api
        slo_name: requests-availability
        team: platform
    "#);
}

#[test]
fn documents_that_are_no_slos_are_skipped_with_one_note() {
    let slo = "apiVersion: sloth.slok.dev/v1\nkind: PrometheusServiceLevel\nmetadata: {name: a}\n\
        spec:\n  service: api\n  slos:\n  - name: requests\n    objective: 99.9\n    sli:\n      events:\n\
        \x20       errorQuery: sum(rate(e[{{.window}}]))\n\
        \x20       totalQuery: sum(rate(t[{{.window}}]))\n\
        \x20   alerting: {pageAlert: {disable: true}, ticketAlert: {disable: true}}\n";
    let others = "---\napiVersion: v1\nkind: Service\nmetadata: {name: a}\n---\n\
        apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\n---\n\
        apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: b}\n";
    let lint = |text: String| {
        let input = evenkeel_slo::Input { name: "all.yaml".to_owned(), text };
        evenkeel_slo::lint(&[input], &evenkeel_slo::Options::default())
    };
    let report = lint(format!("{slo}{others}"));
    assert!(!report.failed(), "{:#?}", report.findings);
    let notes: Vec<_> = report.findings.iter().map(ToString::to_string).collect();
    let skipped: Vec<_> = notes.iter().filter(|note| note.contains("skipped")).collect();
    assert_eq!(skipped.len(), 1, "{notes:#?}");
    assert!(
        skipped[0].contains("3 documents are no SLO and skipped: apps/v1 Deployment, v1 Service")
    );
    // A kind that may be misspelled, and a file without any SLO, are errors as before.
    let misspelled = slo.replace("PrometheusServiceLevel", "PrometheusServiceLevels");
    assert!(lint(format!("{slo}---\n{misspelled}")).failed());
    assert!(lint(others.trim_start_matches("---\n").to_owned()).failed());
}
