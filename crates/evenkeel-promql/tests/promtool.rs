//! The engine against an installed `promtool` on made-up series: `cargo test -p evenkeel-promql
//! --test promtool -- --ignored`.
//!
//! Written for version 2 (closed ranges). Counters start high, so that the one thing that version 3
//! computes differently in rates (the order of two caps on extrapolation) plays no part.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_precision_loss,
    clippy::cast_possible_wrap,
    reason = "helpers of tests: a surprise fails the test, numbers are small"
)]

use evenkeel_promql::engine::{Options, instant_text};
use evenkeel_promql::number::parse_float;
use evenkeel_promql::result::QueryValue;
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::testscript::notation::{points, series_labels};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::process::Command;

const STEP_MS: i64 = 30_000;

const EXPRESSIONS: &[&str] = &[
    "rate(hits_total[RANGE])",
    "increase(hits_total{job=\"a\"}[RANGE])",
    "irate(hits_total[RANGE])",
    "delta(temp[RANGE])",
    "idelta(temp[RANGE])",
    "deriv(temp[RANGE])",
    "predict_linear(temp[RANGE], 600)",
    "changes(temp[RANGE])",
    "resets(hits_total[RANGE])",
    "avg_over_time(temp[RANGE])",
    "sum_over_time(temp[RANGE])",
    "min_over_time(temp[RANGE])",
    "max_over_time(temp[RANGE])",
    "count_over_time(temp[RANGE])",
    "last_over_time(temp[RANGE])",
    "present_over_time(temp[RANGE])",
    "stddev_over_time(temp[RANGE])",
    "stdvar_over_time(temp[RANGE])",
    "quantile_over_time(0.3, temp[RANGE])",
    "absent_over_time(nothing{a=\"b\"}[RANGE])",
    "rate(hits_total[RANGE] offset 1m)",
    "max_over_time(rate(hits_total[5m])[RANGE:1m])",
    "sum_over_time(temp[RANGE:45s])",
    "sum by (job) (rate(hits_total[RANGE]))",
    "sum without (code) (hits_total) / on (job) group_left sum by (job) (hits_total)",
    "hits_total{code=\"500\"} / ignoring (code) hits_total{code=\"200\"}",
    "hits_total and on (job) temp",
    "hits_total unless on (job) temp > 5",
    "temp or hits_total",
    "temp > 3",
    "temp == bool 3",
    "hits_total % 7 + 2 ^ 3 ^ 0.5",
    "-temp ^ 2",
    "topk(2, temp)",
    "bottomk(1, hits_total) by (job)",
    "quantile(0.7, temp)",
    "stddev(temp)",
    "stdvar by (job) (hits_total)",
    "count_values(\"v\", temp)",
    "avg(temp)",
    "group by (code) (hits_total)",
    "min(temp) - max(temp)",
    "count(hits_total)",
    "histogram_quantile(0.9, rate(took_bucket[RANGE]))",
    "histogram_quantile(0.5, sum by (le) (took_bucket))",
    "label_replace(temp, \"new\", \"x-$1\", \"job\", \"(.)\")",
    "label_join(hits_total, \"both\", \"/\", \"job\", \"code\")",
    "clamp(temp, 2, 5)",
    "clamp_max(temp, 3)",
    "round(temp, 0.5)",
    "abs(temp - 4)",
    "ceil(temp / 3)",
    "floor(temp / 3)",
    "sqrt(temp)",
    "exp(temp / 10)",
    "ln(temp)",
    "sgn(temp - 4)",
    "atan(temp)",
    "scalar(temp{job=\"a\"})",
    "vector(time())",
    "timestamp(temp)",
    "hour(vector(1700000000))",
    "day_of_week() + month() + days_in_month()",
    "absent(nothing{x=\"y\", z=~\"a\"})",
    "temp @ 300",
    "rate(hits_total[RANGE] @ 900)",
    "temp offset 90s",
    "sum(rate(hits_total{code=~\"5..\"}[RANGE])) / sum(rate(hits_total[RANGE]))",
    "increase(took_count[RANGE]) > 0",
    "temp atan2 hits_total{code=\"200\"}",
];

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 =
            self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % sides
    }
}

fn series(seed: u64) -> Vec<(String, String)> {
    let mut dice = Dice(seed);
    let mut out = Vec::new();
    let mut counter = |dice: &mut Dice, name: String, resets: bool| {
        let mut value = 100_000;
        let mut values = String::new();
        for _ in 0..60 {
            if resets && dice.roll(15) == 0 {
                value = dice.roll(5) + 50_000;
            }
            value += dice.roll(40);
            match dice.roll(12) {
                0 => values.push_str("_ "),
                _ => write!(values, "{value} ").unwrap(),
            }
        }
        out.push((name, values));
    };
    for job in ["a", "b"] {
        for code in ["200", "500"] {
            counter(&mut dice, format!("hits_total{{job=\"{job}\",code=\"{code}\"}}"), true);
        }
        counter(&mut dice, format!("took_count{{job=\"{job}\"}}"), false);
    }
    for job in ["a", "b"] {
        let mut counts = [0_u64; 4];
        let mut values = vec![String::new(); 4];
        for _ in 0..60 {
            let mut below = 0;
            for (count, values) in counts.iter_mut().zip(&mut values) {
                *count += dice.roll(9);
                below += *count;
                write!(values, "{below} ").unwrap();
            }
        }
        for (le, values) in ["0.1", "0.5", "2", "+Inf"].iter().zip(values) {
            out.push((format!("took_bucket{{job=\"{job}\",le=\"{le}\"}}"), values));
        }
        let mut gauge = String::new();
        for _ in 0..60 {
            match dice.roll(14) {
                0 => gauge.push_str("_ "),
                1 => gauge.push_str("stale "),
                _ => write!(gauge, "{} ", dice.roll(80) as f64 / 10.0 + 0.1).unwrap(),
            }
        }
        out.push((format!("temp{{job=\"{job}\"}}"), gauge));
    }
    out
}

/// What promtool got for each expression and time: label set to value.
fn promtool(yaml: &str) -> BTreeMap<(String, String), BTreeMap<String, f64>> {
    let path = std::env::temp_dir().join(format!("evenkeel-promtool-{}.yml", std::process::id()));
    std::fs::write(&path, yaml).unwrap();
    let output = Command::new("promtool").args(["test", "rules"]).arg(&path).output().unwrap();
    std::fs::remove_file(&path).unwrap();
    let text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    let mut out = BTreeMap::new();
    let mut key = None;
    for line in text.lines().map(str::trim) {
        if let Some(rest) = line.strip_prefix("expr: ") {
            let (expr, time) = rest.rsplit_once(", time: ").unwrap();
            let expr: String = serde_json::from_str(expr).unwrap();
            let time = time.split(',').next().unwrap_or_default();
            key = Some((expr, time.to_owned()));
        } else if let Some(rest) = line.strip_prefix("got:") {
            out.extend(key.take().map(|key| (key, samples(rest.trim()))));
        }
    }
    assert!(!out.is_empty(), "promtool said: {text}");
    out
}

/// `{a="b"} 1E+00, {} 2E+00`
fn samples(text: &str) -> BTreeMap<String, f64> {
    let mut out = BTreeMap::new();
    let mut rest = text;
    while let Some(end) = rest.find("} ") {
        let (labels, tail) = rest.split_at(end + 1);
        let (value, tail) = tail.trim_start().split_once(", ").unwrap_or((tail.trim(), ""));
        out.insert(labels.to_owned(), parse_float(&value.replace('E', "e")).unwrap());
        rest = tail;
    }
    out
}

fn ours(store: &SeriesStore, expr: &str, at_ms: i64) -> BTreeMap<String, f64> {
    let options = Options { closed_ranges: true, ..Options::default() };
    let result =
        instant_text(store, expr, at_ms, &options).unwrap_or_else(|e| panic!("{expr}: {e}"));
    match result.value {
        QueryValue::Vector(samples) => samples
            .into_iter()
            .map(|s| (s.labels.to_string(), s.value.as_float().unwrap()))
            .collect(),
        QueryValue::Scalar { value, .. } => [("{}".to_owned(), value)].into(),
        other => panic!("{expr}: {other:?}"),
    }
}

#[test]
#[ignore = "needs promtool 2.x"]
fn promtool_agrees() {
    let mut differences = Vec::new();
    let mut compared = 0;
    for seed in 1..=6 {
        let series = series(seed);
        let mut store = SeriesStore::new();
        let mut yaml = "tests:\n- interval: 30s\n  input_series:\n".to_owned();
        for (name, values) in &series {
            writeln!(yaml, "  - series: '{name}'\n    values: '{values}'").unwrap();
            let labels = series_labels(name).unwrap();
            for (i, point) in points(values).unwrap().into_iter().enumerate() {
                if let Some(value) = point.value {
                    store.append_value(&labels, i as i64 * STEP_MS, value, 0).unwrap();
                }
            }
        }
        yaml.push_str("  promql_expr_test:\n");
        let mut asked = BTreeMap::new();
        for (time, at_ms) in
            [("10m", 600_000), ("15m10s", 910_000), ("22m30s", 1_350_000), ("29m", 1_740_000)]
        {
            for expr in EXPRESSIONS {
                for window in ["2m", "5m", "7m13s"] {
                    let expr = expr.replace("RANGE", window);
                    writeln!(yaml, "  - expr: '{expr}'\n    eval_time: {time}\n    exp_samples: [{{labels: 'never{{}}', value: 1}}]").unwrap();
                    asked.insert((expr, time.to_owned()), at_ms);
                }
            }
        }
        let theirs = promtool(&yaml);
        for (key, at_ms) in asked {
            let Some(theirs) = theirs.get(&key) else {
                differences.push(format!("{key:?}: promtool has no result"));
                continue;
            };
            compared += 1;
            let ours = ours(&store, &key.0, at_ms);
            let same = theirs.len() == ours.len()
                && theirs.iter().all(|(labels, v)| {
                    ours.get(labels).is_some_and(|w| {
                        (v - w).abs() <= 1e-11 * v.abs().max(1e-3)
                            || (v.is_nan() && w.is_nan())
                            || v.to_bits() == w.to_bits()
                    })
                });
            if !same {
                differences
                    .push(format!("seed {seed} {key:?}\n  theirs {theirs:?}\n  ours   {ours:?}"));
            }
        }
    }
    assert!(
        differences.is_empty(),
        "{} of {compared}:\n{}",
        differences.len(),
        differences.join("\n")
    );
}
