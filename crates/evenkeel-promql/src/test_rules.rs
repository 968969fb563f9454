//! Unit tests for rules in promtool's format (`promtool test rules FILE`).
//!
//! Rules are evaluated at every interval from the start on; alerts are compared at their
//! `eval_time`, expressions at the end. **Source**: cmd/promtool/unittest.go of Prometheus.

use crate::engine::{Options, instant_text};
use crate::labels::Labels;
use crate::number::{format_duration_ms, format_float, parse_duration_ms, parse_float};
use crate::result::QueryValue;
use crate::rules::{AlertState, Context, Group, RuleFile, RuleKind};
use crate::sample::Value;
use crate::series::SeriesStore;
use crate::testscript::notation::{Noted, Room, points_within, series_labels, series_line};
use crate::testscript::{near, same_histograms};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};

/// Evaluations one test may ask for: an absurd interval must end in an error.
const PASSES_MAX: i64 = 1_000_000;

/// Distance between evaluations where the file names none.
const INTERVAL_MS: i64 = 60_000;

/// Sample visits that one evaluation of a rule stands for, besides those it makes.
const EVALUATION_VISITS: u64 = 100;

/// The result of a file of tests.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Tests that passed.
    pub passed: usize,
    /// One text for each that did not.
    pub failures: Vec<String>,
}

/// As in Go, what is left out or null is empty or 0.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    rule_files: Vec<String>,
    evaluation_interval: String,
    group_eval_order: Vec<String>,
    fuzzy_compare: bool,
    tests: Vec<Test>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Test {
    name: String,
    interval: String,
    input_series: Vec<Input>,
    #[serde(rename = "alert_rule_test")]
    alerts: Vec<AlertTest>,
    #[serde(rename = "promql_expr_test")]
    expressions: Vec<ExprTest>,
    external_labels: BTreeMap<String, String>,
    external_url: String,
    start_timestamp: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Input {
    series: String,
    values: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct AlertTest {
    eval_time: String,
    alertname: String,
    exp_alerts: Vec<ExpectedAlert>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExpectedAlert {
    exp_labels: BTreeMap<String, String>,
    exp_annotations: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExprTest {
    expr: String,
    eval_time: String,
    exp_samples: Vec<ExpectedSample>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct ExpectedSample {
    labels: String,
    value: Option<Number>,
    histogram: String,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Number {
    Float(f64),
    Text(String),
}

/// Gives the rule files that an entry of `rule_files` stands for: name and text of each. An entry
/// may be a pattern such as `rules/*.yaml`.
pub type Reader<'r> = dyn FnMut(&str) -> Result<Vec<(String, String)>, String> + 'r;

/// Runs a file of tests.
///
/// **Errors**: the test file or a rule file is malformed, or `read` fails.
pub fn run(yaml: &str, read: &mut Reader<'_>, options: &Options) -> Result<Report, String> {
    let file: File = evenkeel_yaml::from_str(yaml).map_err(|e| e.to_string())?;
    let interval_ms = match duration(&file.evaluation_interval)? {
        0 => INTERVAL_MS,
        given => given,
    };
    // As promtool: subqueries without a step take the interval.
    let options = &Options { default_step_ms: interval_ms, ..options.clone() };
    let mut groups = Vec::new();
    for name in &file.rule_files {
        for (name, text) in read(name)? {
            let rules = RuleFile::parse(&text).map_err(|e| format!("{name}: {e}"))?;
            for spec in &rules.groups {
                groups.push(Group::new(spec, &name).map_err(|e| format!("{name}: {e}"))?);
            }
        }
    }
    order(&mut groups, &file.group_eval_order)?;
    let mut report = Report::default();
    let mut work = Work { room: Room::default(), visits: 0 };
    for (i, test) in file.tests.iter().enumerate() {
        let number = format!("test {}", i + 1);
        let name = if test.name.is_empty() { number } else { test.name.clone() };
        let bench = Bench {
            groups: groups.clone(),
            store: SeriesStore::new(),
            interval_ms,
            options,
            fuzzy: file.fuzzy_compare,
        };
        match bench.run(test, &mut work) {
            Ok(problems) if problems.is_empty() => report.passed += 1,
            Ok(problems) => report.failures.push(format!("{name}: {}", problems.join("; "))),
            Err(problem) => report.failures.push(format!("{name}: {problem}")),
        }
    }
    Ok(report)
}

/// Milliseconds of a duration; nothing is 0.
fn duration(text: &str) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    parse_duration_ms(text).ok_or_else(|| format!("not a valid duration string: {text:?}"))
}

fn order(groups: &mut [Group], names: &[String]) -> Result<(), String> {
    if names.is_empty() {
        return Ok(());
    }
    let distinct: BTreeSet<&String> = names.iter().collect();
    if distinct.len() != names.len() {
        return Err("group name repeated in evaluation order".to_owned());
    }
    groups.sort_by_key(|g| names.iter().position(|n| *n == g.name).unwrap_or(names.len()));
    Ok(())
}

/// Labels and annotations of an alert, in comparable form.
type LabelsAndNotes<'a> = (BTreeMap<String, String>, &'a BTreeMap<String, String>);

/// What all tests of a file have cost so far.
struct Work {
    room: Room,
    visits: u64,
}

impl Work {
    fn charge(&mut self, visits: u64, options: &Options) -> Result<(), String> {
        self.visits = self.visits.saturating_add(visits);
        if self.visits <= options.work_max {
            return Ok(());
        }
        Err(format!("the tests make more than {} sample visits", options.work_max))
    }
}

struct Bench<'b> {
    groups: Vec<Group>,
    store: SeriesStore,
    interval_ms: i64,
    options: &'b Options,
    fuzzy: bool,
}

/// The latest time that anything is asked about.
fn last_time(test: &Test) -> Result<i64, String> {
    let alerts = test.alerts.iter().map(|alert| &alert.eval_time);
    let times = alerts.chain(test.expressions.iter().map(|expr| &expr.eval_time));
    times.map(|time| duration(time)).try_fold(0, |last, time| Ok(time?.max(last)))
}

/// A sample of the input, not yet due.
struct Pending {
    t_ms: i64,
    labels: Labels,
    value: Value,
}

impl Bench<'_> {
    fn run(mut self, test: &Test, work: &mut Work) -> Result<Vec<String>, String> {
        let start_ms = match test.start_timestamp.as_str() {
            "" => 0,
            text => start_time(text)?,
        };
        let step_ms = match duration(&test.interval)? {
            0 => self.interval_ms,
            given => given,
        };
        if let Some(unnamed) = test.alerts.iter().find(|alert| alert.alertname.is_empty()) {
            let at = shown(duration(&unnamed.eval_time)?);
            return Err(format!("an item of alert_rule_test at eval_time {at} has no alertname"));
        }
        let mut pending = input(test, (start_ms, step_ms), &mut work.room)?.into_iter().peekable();
        let external = Labels::from_pairs(&test.external_labels);
        let options = self.options;
        let context = Context {
            options,
            external_labels: &external,
            external_url: &test.external_url,
            resend_ms: 60_000,
        };
        let last = last_time(test)?;
        if last / self.interval_ms > PASSES_MAX {
            return Err(format!("more than {PASSES_MAX} evaluations"));
        }
        let mut problems = Vec::new();
        let mut at = 0;
        while at <= last {
            while let Some(sample) = pending.next_if(|p| p.t_ms <= start_ms.saturating_add(at)) {
                self.store
                    .append_value(&sample.labels, sample.t_ms, sample.value, 0)
                    .map_err(|e| e.to_string())?;
            }
            for group in &mut self.groups {
                let outcome =
                    group.evaluate(&mut self.store, start_ms.saturating_add(at), &context);
                let own = EVALUATION_VISITS * (outcome.rules.len() as u64 + 1);
                work.charge(outcome.samples_read + own, options)?;
                for rule in outcome.rules {
                    if let Some(error) = rule.error {
                        return Err(format!(
                            "rule: {}, time: {}, err: {error}",
                            rule.rule,
                            shown(at)
                        ));
                    }
                }
            }
            work.charge(EVALUATION_VISITS + test.alerts.len() as u64, options)?;
            let due = test.alerts.iter().filter(|alert| {
                duration(&alert.eval_time)
                    .is_ok_and(|t| t >= at && t < at.saturating_add(self.interval_ms))
            });
            problems.extend(due.filter_map(|alert| self.alerts(alert)));
            at = at.saturating_add(self.interval_ms);
        }
        for sample in pending {
            // Expressions may look between evaluations.
            let appended = self.store.append_value(&sample.labels, sample.t_ms, sample.value, 0);
            appended.map_err(|e| e.to_string())?;
        }
        for expr in &test.expressions {
            let at_ms = start_ms.saturating_add(duration(&expr.eval_time)?);
            problems.extend(self.expression(expr, at_ms).err());
        }
        Ok(problems)
    }

    fn alerts(&self, test: &AlertTest) -> Option<String> {
        let mut got: Vec<LabelsAndNotes<'_>> = Vec::new();
        for rule in self.groups.iter().flat_map(|g| &g.rules) {
            let RuleKind::Alerting(rule) = &rule.kind else { continue };
            if rule.name == test.alertname {
                let firing = rule.alerts().filter(|a| a.state == AlertState::Firing);
                got.extend(firing.map(|a| (a.labels.to_map(), &a.annotations)));
            }
        }
        let mut wanted: Vec<LabelsAndNotes<'_>> = test
            .exp_alerts
            .iter()
            .map(|alert| {
                let mut labels = alert.exp_labels.clone();
                labels.insert("alertname".to_owned(), test.alertname.clone());
                (labels, &alert.exp_annotations)
            })
            .collect();
        got.sort();
        wanted.sort();
        (got != wanted).then(|| {
            let at = shown(duration(&test.eval_time).unwrap_or_default());
            format!("alertname: {}, time: {at}, exp: {wanted:?}, got: {got:?}", test.alertname)
        })
    }

    fn expression(&self, test: &ExprTest, at_ms: i64) -> Result<(), String> {
        let at = shown(duration(&test.eval_time).unwrap_or_default());
        let wrong = |reason: String| Err(format!("expr: {:?}, time: {at}, {reason}", test.expr));
        let result = match instant_text(&self.store, &test.expr, at_ms, self.options) {
            Ok(result) => result,
            Err(error) => return wrong(format!("err: {error}")),
        };
        let mut got: Vec<(Labels, Value)> = match result.value {
            QueryValue::Vector(samples) => {
                samples.into_iter().map(|s| (s.labels, s.value)).collect()
            }
            QueryValue::Scalar { value, .. } => vec![(Labels::empty(), Value::Float(value))],
            _ => return wrong("err: the result is neither vector nor scalar".to_owned()),
        };
        let mut wanted = Vec::new();
        for sample in &test.exp_samples {
            wanted.push(expected(sample)?);
        }
        got.sort_by(|a, b| a.0.cmp(&b.0));
        wanted.sort_by(|a, b| a.0.cmp(&b.0));
        let same = got.len() == wanted.len()
            && got.iter().zip(&wanted).all(|(g, w)| g.0 == w.0 && self.same(&g.1, &w.1));
        if same {
            return Ok(());
        }
        wrong(format!("exp: {}, got: {}", listed(&wanted), listed(&got)))
    }

    fn same(&self, got: &Value, wanted: &Value) -> bool {
        match (got, wanted) {
            (Value::Float(a), Value::Float(b)) if self.fuzzy => near(*a, *b),
            (Value::Float(a), Value::Float(b)) => a == b || (a.is_nan() && b.is_nan()),
            (Value::Histogram(a), Value::Histogram(b)) => same_histograms(a, b),
            _ => false,
        }
    }
}

fn input(
    test: &Test,
    (start_ms, step_ms): (i64, i64),
    room: &mut Room,
) -> Result<Vec<Pending>, String> {
    let mut out = Vec::new();
    for input in &test.input_series {
        let labels = series_labels(&input.series)?;
        let noted =
            points_within(&input.values, room).map_err(|e| format!("{}: {e}", input.series))?;
        for (i, noted) in noted.into_iter().enumerate() {
            if let Some(value) = noted.value {
                let t_ms = start_ms.saturating_add(step_ms.saturating_mul(i as i64));
                out.push(Pending { t_ms, labels: labels.clone(), value });
            }
        }
    }
    out.sort_by_key(|p| p.t_ms);
    Ok(out)
}

fn start_time(text: &str) -> Result<i64, String> {
    if let Some(seconds) = parse_float(text) {
        return Ok((seconds * 1000.0).round() as i64);
    }
    text.parse::<jiff::Timestamp>()
        .map(jiff::Timestamp::as_millisecond)
        .map_err(|e| format!("start_timestamp: {e}"))
}

fn expected(sample: &ExpectedSample) -> Result<(Labels, Value), String> {
    let labels = if sample.labels.trim().is_empty() {
        Labels::empty()
    } else {
        series_labels(&sample.labels)?
    };
    if !sample.histogram.is_empty() {
        let text = &sample.histogram;
        let line = series_line(&format!("x {text}"))?;
        let Some(Noted { value: Some(value), .. }) = line.points.into_iter().next() else {
            return Err(format!("`{text}` is not a histogram"));
        };
        return Ok((labels, value));
    }
    let value = match &sample.value {
        None => 0.0,
        Some(Number::Float(v)) => *v,
        Some(Number::Text(t)) => parse_float(t).ok_or_else(|| format!("`{t}` is not a number"))?,
    };
    Ok((labels, Value::Float(value)))
}

fn listed(samples: &[(Labels, Value)]) -> String {
    let one = |(labels, value): &(Labels, Value)| {
        let value = match value {
            Value::Float(v) => format_float(*v),
            Value::Histogram(h) => h.to_text(),
        };
        format!("{labels} {value}")
    };
    let all: Vec<String> = samples.iter().map(one).collect();
    if all.is_empty() { "nil".to_owned() } else { all.join(", ") }
}

fn shown(ms: i64) -> String {
    format_duration_ms(ms)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = "
groups:
- name: example
  rules:
  - alert: InstanceDown
    expr: up == 0
    for: 5m
    labels: {severity: page}
    annotations:
      summary: 'Instance {{ $labels.instance }} down'
  - record: up:count
    expr: count(up)
";
    const TESTS: &str = "
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
- interval: 1m
  input_series:
  - series: 'up{job=\"prometheus\", instance=\"localhost:9090\"}'
    values: '0+0x10'
  - series: 'up{job=\"node\"}'
    values: '1x6 stale _x3'
  alert_rule_test:
  - eval_time: 4m
    alertname: InstanceDown
  - eval_time: 10m
    alertname: InstanceDown
    exp_alerts:
    - exp_labels: {severity: page, instance: 'localhost:9090', job: prometheus}
      exp_annotations: {summary: 'Instance localhost:9090 down'}
  promql_expr_test:
  - expr: up:count
    eval_time: 4m
    exp_samples: [{labels: 'up:count', value: 2}]
  - expr: up:count
    eval_time: 8m
    exp_samples: [{labels: '{__name__=\"up:count\"}', value: 1}]
";

    fn report(tests: &str) -> Result<Report, String> {
        run(tests, &mut |name| Ok(vec![(name.to_owned(), RULES.to_owned())]), &Options::default())
    }

    #[test]
    fn promtools_example_passes() {
        assert_eq!(report(TESTS), Ok(Report { passed: 1, failures: Vec::new() }));
    }

    #[test]
    fn differences_are_reported() {
        let report = report(
            &TESTS
                .replace("value: 2", "value: 3")
                .replace("eval_time: 4m\n    alertname", "eval_time: 7m\n    alertname"),
        );
        let failures = report.unwrap().failures.join("\n");
        assert!(
            failures.contains(r#"exp: {__name__="up:count"} 3, got: {__name__="up:count"} 2"#),
            "{failures}"
        );
        assert!(
            failures.contains("alertname: InstanceDown, time: 7m, exp: [], got: [("),
            "{failures}"
        );
    }

    #[test]
    fn endless_tests_are_refused() {
        let many = "- alert_rule_test: [{eval_time: 3h, alertname: x}]\n".repeat(30_000);
        let file = format!("rule_files: [a]\nevaluation_interval: 100ms\ntests:\n{many}");
        let options = Options { work_max: 100_000, ..Options::default() };
        let mut read = |name: &str| Ok(vec![(name.to_owned(), RULES.to_owned())]);
        let report = run(&file, &mut read, &options).unwrap();
        let failure = report.failures.last().unwrap();
        assert!(failure.contains("the tests make more than 100000 sample visits"), "{failure}");
    }
}
