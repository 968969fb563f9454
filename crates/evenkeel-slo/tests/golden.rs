//! What is generated equals what Sloth generates, rule for rule.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::string_slice,
    clippy::format_collect,
    reason = "a test stops at the first surprise"
)]

use std::fs;
use std::path::Path;

use evenkeel_slo::{
    Catalogue, Finding, Input, Labels, Options, Output, PromDuration, Reading, Skip, generate, load,
};
use serde_json::Value;

const EXAMPLES: &str = "sloth/examples";
const DATA: &str = "sloth/test/integration/prometheus/testdata";

fn text(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    fs::read_to_string(root.join(path)).unwrap_or_else(|e| panic!("{path}: {e}"))
}

fn input(path: &str) -> Input {
    Input { name: path.to_owned(), text: text(path) }
}

fn lines(findings: &[Finding]) -> String {
    findings.iter().map(|f| format!("{f}\n")).collect()
}

fn generated(path: &str, options: &Options) -> Output {
    generate(&[input(path)], options).unwrap_or_else(|f| panic!("{path}:\n{}", lines(&f)))
}

/// Every document of a YAML text, parsed.
fn documents(yaml: &str) -> Vec<Value> {
    let mut found: Vec<Value> = serde_saphyr::from_multiple(yaml).unwrap();
    found.retain(|v| !v.is_null());
    found
}

/// Groups of a document, sorted keys do not matter in a JSON comparison by content.
fn groups(document: &Value) -> &Value {
    document.pointer("/spec/groups").or_else(|| document.pointer("/groups")).unwrap()
}

/// Compares rule by rule, so that a failure shows one rule and not a file.
#[track_caller]
fn assert_equal(name: &str, ours: &str, golden: &str) -> usize {
    let (ours, golden) = (documents(ours), documents(golden));
    assert_eq!(ours.len(), golden.len(), "{name}: documents");
    let mut count = 0;
    for (ours, golden) in ours.iter().zip(&golden) {
        let list = |v: &Value| groups(v).as_array().unwrap().clone();
        let (mine, theirs) = (list(ours), list(golden));
        for (mine, theirs) in mine.iter().zip(&theirs) {
            let rules = |v: &Value| v["rules"].as_array().unwrap().clone();
            for (mine, theirs) in rules(mine).iter().zip(&rules(theirs)) {
                assert_eq!(mine, theirs, "{name}");
                count += 1;
            }
        }
        assert_eq!(ours, golden, "{name}");
    }
    count
}

/// Takes the Go template out of a golden file of the integration tests.
fn untemplated(golden: &str) -> String {
    let mut out = golden.replace("{{ .version }}", "dev");
    while let Some(start) = out.find("{{\"") {
        let end = out[start..].find("\"}}").unwrap() + start;
        let inner = out[start + 3..end].to_owned();
        out.replace_range(start..end + 3, &inner);
    }
    out
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
}

#[test]
fn every_example_of_sloth_gives_the_published_rules() {
    let options =
        Options { extra_labels: labels(&[("cmd", "examplesgen.sh")]), ..Options::default() };
    let mut rules = 0;
    for name in [
        "contrib-slo-plugins",
        "getting-started",
        "k8s-getting-started",
        "multifile",
        "no-alerts",
        "openslo-getting-started",
        "plugin-getting-started",
        "plugin-k8s-getting-started",
        "raw-home-wifi",
        "slo-plugin-getting-started",
        "slo-plugin-k8s-getting-started",
    ] {
        let output = generated(&format!("{EXAMPLES}/{name}.yml"), &options);
        for rule in output.sets.iter().flat_map(|s| &s.groups).flat_map(|g| &g.rules) {
            evenkeel_promql::parser::parse(&rule.expr).unwrap();
        }
        let ours = output.to_yaml();
        rules += assert_equal(name, &ours, &text(&format!("{EXAMPLES}/_gen/{name}.yml")));
    }
    assert_eq!(rules, 217);
}

#[test]
fn every_integration_test_of_sloth_gives_the_expected_rules() {
    let plain = Options::default;
    let week = {
        let mut findings = Vec::new();
        let file = input("sloth/examples/windows/7d.yaml");
        let loaded = load(&[file], &plain(), &mut findings);
        assert!(findings.is_empty(), "{}", lines(&findings));
        loaded.catalogue
    };
    let extra = labels(&[("exk1", "exv1"), ("exk2", "exv2")]);
    let cases = [
        ("in-base", "out-base", plain()),
        ("in-base-k8s", "out-base-k8s", plain()),
        ("in-multifile", "out-multifile", plain()),
        ("in-openslo", "out-openslo", plain()),
        ("in-sli-plugin", "out-sli-plugin", plain()),
        ("in-slo-plugin", "out-slo-plugin", plain()),
        ("in-slo-plugin-k8s", "out-slo-plugin-k8s", plain()),
        (
            "in-base",
            "out-base-no-alerts",
            Options { skip: Skip { alerts: true, ..Skip::default() }, ..plain() },
        ),
        (
            "in-base",
            "out-base-no-recordings",
            Options { skip: Skip { recordings: true, ..Skip::default() }, ..plain() },
        ),
        ("in-base", "out-base-extra-labels", Options { extra_labels: extra, ..plain() }),
        (
            "in-base",
            "out-base-custom-windows-7d",
            Options { default_window: PromDuration::from_days(7), catalogue: week, ..plain() },
        ),
    ];
    let mut rules = 0;
    for (source, golden, options) in cases {
        let ours = generated(&format!("{DATA}/{source}.yaml"), &options).to_yaml();
        let golden_text = untemplated(&text(&format!("{DATA}/{golden}.yaml.tpl")));
        rules += assert_equal(golden, &ours, &golden_text);
    }
    assert_eq!(rules, 284);
}

#[test]
fn the_article_as_written_gives_the_rules_of_its_corrected_form() {
    let golden = text("seed/expected-rules.yml");
    for name in ["seed/article.yaml", "seed/corrected.yml"] {
        let output = generated(name, &Options::default());
        let ours = documents(&output.to_yaml());
        let theirs = documents(&golden);
        assert_eq!(groups(&ours[0]), groups(&theirs[0]), "{name}");
        assert_eq!(output.rules(), 17);
    }
}

#[test]
fn what_the_article_gets_wrong_is_said_in_conditions() {
    let output = generated("seed/article.yaml", &Options::default());
    let conditions = evenkeel_slo::conditions(&output.findings);
    let text: String = conditions
        .iter()
        .map(|c| format!("{} {} {}: {}\n", c.kind, c.status, c.reason, c.message))
        .collect();
    insta::assert_snapshot!(text, @"
    DeprecatedFieldCasing True DeprecatedFieldCasing: spec.slos[0].sli.events.error_query: error_query is read as errorQuery (write errorQuery); spec.slos[0].sli.events.total_query: total_query is read as totalQuery (write totalQuery); spec.slos[0].alerting.page_alert: page_alert is read as pageAlert (write pageAlert); spec.slos[0].alerting.ticket_alert: ticket_alert is read as ticketAlert (write ticketAlert)
    WindowInferred True WindowInferred: spec.slos[0].sli.events: [5m] is taken as [{{.window}}] (write [{{.window}}] instead of [5m])
    Valid True Accepted: rules are generated
    ");
}

#[test]
fn valid_files_are_accepted_and_invalid_ones_refused_with_sloths_words() {
    let dir = format!("{DATA}/validate");
    for name in ["aa", "ab", "ba", "k8s", "multi", "multi-k8s", "openslo"] {
        generated(&format!("{dir}/good/good-{name}.yaml"), &Options::default());
    }
    let mut out = String::new();
    for name in ["aa", "k8s", "multi", "multi-k8s"] {
        let path = format!("{dir}/bad/bad-{name}.yaml");
        let strict = Options { reading: Reading::Sloth, ..Options::default() };
        let found = generate(&[input(&path)], &strict).unwrap_err();
        for finding in found.iter().filter(|f| f.severity == evenkeel_slo::Severity::Error) {
            out.push_str(&finding.to_string().replace(&dir, ""));
            out.push('\n');
        }
    }
    insta::assert_snapshot!(out, @r#"
    error: /bad/bad-aa.yaml:28 service svc01 slos[1].objective: invalid slo "svc01-slo02": objective must >0 and <=100 (InvalidSlo); fix: give a percentage such as 99.9
    error: /bad/bad-k8s.yaml:7 PrometheusServiceLevel/svc spec.service: invalid slo "-slo1": invalid SLO ID: name must start and end with an alphanumeric and can only contain alphanumeric, '.', '_', and '-' (InvalidSlo); fix: write it, such as checkout
    error: /bad/bad-k8s.yaml:7 PrometheusServiceLevel/svc spec.service: invalid slo "-slo02": invalid SLO ID: name must start and end with an alphanumeric and can only contain alphanumeric, '.', '_', and '-' (InvalidSlo); fix: write it, such as checkout
    error: /bad/bad-multi.yaml#2:77 service svc02 slos[1].sli: invalid slo "svc02-slo02": invalid SLI: at least one SLI type is required (InvalidSlo); fix: give sli.events, sli.raw or sli.plugin
    error: /bad/bad-multi-k8s.yaml#1:22 PrometheusServiceLevel/svc spec.slos[0].alerting.name: invalid slo "svc01-slo1": invalid alert: page alert: alert name is required (InvalidSlo); fix: give alerting.name, or disable the alert
    "#);
    // 28 days are refused only by a catalogue that has 30 days alone.
    let month = load(
        &[input("sloth/internal/alert/windows/google-30d.yaml")],
        &Options { catalogue: Catalogue::from_list([]), ..Options::default() },
        &mut Vec::new(),
    );
    let options = Options { catalogue: month.catalogue, ..Options::default() };
    let found = generate(&[input(&format!("{dir}/bad/bad-openslo.yaml"))], &options).unwrap_err();
    insta::assert_snapshot!(lines(&found).replace(&dir, ""), @"error: /bad/bad-openslo.yaml:21 SLO/slo1 spec.timeWindows: SLO period 4w time window is not supported (UnknownPeriod); fix: use one of 30d, or add an AlertWindows document with sloPeriod 4w");
}

#[test]
fn an_unknown_version_is_refused_by_name() {
    let path = format!("{DATA}/in-invalid-version.yaml");
    let found = generate(&[input(&path)], &Options::default()).unwrap_err();
    insta::assert_snapshot!(lines(&found).replace(DATA, ""), @r#"error: /in-invalid-version.yaml:1 document: version "prometheus/v999" is not known (UnknownKind); fix: use version prometheus/v1, sloth.slok.dev/v1 PrometheusServiceLevel or AlertWindows, openslo/v1alpha SLO, or openslo/v1 SLO"#);
}
