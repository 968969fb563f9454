use super::*;
use crate::engine::{Options, instant_text};
use crate::labels::Labels;
use crate::result::QueryValue;
use crate::series::SeriesStore;
use insta::assert_snapshot;

const RULES: &str = r"
groups:
- name: g
  interval: 30s
  labels: {team: core}
  rules:
  - record: job:hits:sum
    expr: sum by (job) (hits)
    labels: {kind: sum}
  - record: objective
    expr: vector(0.99)
  - alert: Slow
    expr: job:hits:sum > 5
    for: 1m
    keep_firing_for: 1m
    labels: {severity: '{{ if gt $value 100.0 }}page{{ else }}ticket{{ end }}'}
    annotations:
      summary: '{{ $labels.job }} is at {{ $value | humanize }} in {{ $externalLabels.cluster }}'
";

struct Bench {
    store: SeriesStore,
    group: Group,
}

impl Bench {
    fn new(yaml: &str) -> Self {
        let file = RuleFile::parse(yaml).unwrap();
        Self { store: SeriesStore::new(), group: Group::new(&file.groups[0], "file").unwrap() }
    }

    fn hits(&mut self, t_s: i64, value: f64) {
        let labels = Labels::from_pairs([("__name__", "hits"), ("job", "api")]);
        self.store.append(&labels, t_s * 1000, value).unwrap();
    }

    fn pass(&mut self, t_s: i64) -> Evaluation {
        let external = Labels::from_pairs([("cluster", "eu")]);
        let options = Options::default();
        let context = Context {
            options: &options,
            external_labels: &external,
            external_url: "",
            resend_ms: 60_000,
        };
        self.group.evaluate(&mut self.store, t_s * 1000, &context)
    }

    fn query(&self, text: &str, t_s: i64) -> String {
        let result = instant_text(&self.store, text, t_s * 1000, &Options::default()).unwrap();
        let QueryValue::Vector(samples) = result.value else { panic!("no vector") };
        let shown =
            samples.iter().map(|s| format!("{} {:?}", s.labels, s.value.as_float().unwrap()));
        shown.collect::<Vec<_>>().join("\n")
    }
}

#[test]
fn results_are_written_under_the_rules_labels() {
    let mut bench = Bench::new(RULES);
    bench.hits(0, 4.0);
    let outcome = bench.pass(0);
    assert!(outcome.rules.iter().all(|r| r.error.is_none()), "{outcome:?}");
    assert_snapshot!(bench.query("{team=\"core\"}", 0), @r#"
    {__name__="job:hits:sum", job="api", kind="sum", team="core"} 4.0
    {__name__="objective", team="core"} 0.99
    "#);
}

#[test]
fn vanished_results_are_ended() {
    let mut bench = Bench::new(RULES);
    bench.hits(0, 4.0);
    bench.pass(0);
    bench.hits(30, crate::number::stale());
    bench.pass(30);
    assert_eq!(bench.query("job:hits:sum", 30), "");
}

#[test]
fn alerts_go_from_pending_over_firing_to_resolved() {
    let mut bench = Bench::new(RULES);
    let mut seen = Vec::new();
    for (t_s, value) in [
        (0, 9.0),
        (30, 9.0),
        (60, 9.0),
        (90, 200.0),
        (120, 1.0),
        (150, 1.0),
        (180, 1.0),
        (240, 1.0),
    ] {
        bench.hits(t_s, value);
        let notices = bench.pass(t_s).notices;
        let sent: Vec<String> = notices
            .iter()
            .map(|n| format!("{} resolved={} {:?}", n.labels, n.resolved, n.annotations["summary"]))
            .collect();
        let states = bench.query("ALERTS", t_s);
        seen.push(format!("{t_s}: [{states}] {}", sent.join("; ")).trim_end().to_owned());
    }
    assert_snapshot!(seen.join("\n"), @r#"
    0: [{__name__="ALERTS", alertname="Slow", alertstate="pending", job="api", kind="sum", severity="ticket", team="core"} 1.0]
    30: [{__name__="ALERTS", alertname="Slow", alertstate="pending", job="api", kind="sum", severity="ticket", team="core"} 1.0]
    60: [{__name__="ALERTS", alertname="Slow", alertstate="firing", job="api", kind="sum", severity="ticket", team="core"} 1.0] {alertname="Slow", cluster="eu", job="api", kind="sum", severity="ticket", team="core"} resolved=false "api is at 9 in eu"
    90: [{__name__="ALERTS", alertname="Slow", alertstate="firing", job="api", kind="sum", severity="ticket", team="core"} 1.0
    {__name__="ALERTS", alertname="Slow", alertstate="pending", job="api", kind="sum", severity="page", team="core"} 1.0]
    120: [{__name__="ALERTS", alertname="Slow", alertstate="firing", job="api", kind="sum", severity="ticket", team="core"} 1.0] {alertname="Slow", cluster="eu", job="api", kind="sum", severity="ticket", team="core"} resolved=false "api is at 9 in eu"
    150: [] {alertname="Slow", cluster="eu", job="api", kind="sum", severity="ticket", team="core"} resolved=true "api is at 9 in eu"
    180: []
    240: [] {alertname="Slow", cluster="eu", job="api", kind="sum", severity="ticket", team="core"} resolved=true "api is at 9 in eu"
    "#);
}

#[test]
fn clashing_results_are_an_error() {
    let yaml = "groups: [{name: g, rules: [{record: r, expr: a, labels: {x: same}}]}]";
    let mut bench = Bench::new(yaml);
    for x in ["1", "2"] {
        let labels = Labels::from_pairs([("__name__", "a"), ("x", x)]);
        bench.store.append(&labels, 0, 1.0).unwrap();
    }
    let outcome = bench.pass(0);
    assert_snapshot!(outcome.rules[0].error.clone().unwrap(), @"vector contains metrics with the same labelset after applying rule labels");
}

#[test]
fn unchanged_inputs_are_noticed() {
    let mut bench = Bench::new(RULES);
    bench.hits(0, 4.0);
    bench.group.track_inputs = true;
    assert!(bench.group.changed(&bench.store));
    bench.pass(0);
    assert!(!bench.group.changed(&bench.store));
    bench.hits(30, 4.0);
    assert!(bench.group.changed(&bench.store));
}

#[test]
fn groups_are_spread_over_their_interval() {
    let group = Bench::new(RULES).group;
    let slot = group.slot_ms(1_000_000);
    assert!(slot <= 1_000_000 && slot > 970_000);
    assert_eq!(group.slot_ms(slot), slot);
    assert_eq!(group.slot_ms(slot + 29_999), slot);
    assert_eq!(group.slot_ms(slot + 30_000), slot + 30_000);
}

#[test]
fn bad_files_are_refused_with_the_place() {
    let row = |yaml: &str| RuleFile::parse(yaml).unwrap_err().to_string();
    assert_snapshot!(row("groups: [{name: g, rules: [{record: a, expr: 'sum('}]}]"), @r#"group "g", rule 1, "a": could not parse expression: 1:5: parse error: unexpected end of input"#);
    assert_snapshot!(row("groups: [{name: g, rules: [{record: a, alert: b, expr: x}]}]"), @r#"group "g", rule 1, "a": only one of 'record' and 'alert' must be set"#);
    assert_snapshot!(row("groups: [{name: g}, {name: g}]"), @r#"group "g", rule 0, "": groupname is repeated in the same file"#);
    assert_snapshot!(row("groups: [{name: g, rules: [{alert: a, expr: x, annotations: {s: '{{ nope'}}]}]"), @r#"group "g", rule 1, "a": annotation "s": line 1: unclosed action"#);
    assert!(row("groups: [{name: g, rulez: []}]").contains("rulez"));
    assert!(row("groups: [{name: g, interval: soon}]").contains("duration"));
}
