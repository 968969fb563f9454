//! A simulated month of one SLO with 20 incidents: all rules at every 30 seconds, over the whole
//! span at once and time after time.
//!
//! ```text
//! month RULES         one line of JSON: CPU seconds of both ways, and how far they are apart
//! month RULES span    only the first way
//! ```
#![expect(
    clippy::print_stdout,
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a benchmark prints, on made-up numbers"
)]

use evenkeel_promql::engine::{Options, Steps};
use evenkeel_promql::labels::Labels;
use evenkeel_promql::matcher::{MatchOp, Matcher};
use evenkeel_promql::rules::{Context, Group, RuleFile};
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::storage::{Needs, Storage, TimeRange};

const INTERVAL_MS: i64 = 30_000;
const MONTH_MS: i64 = 30 * 86_400_000;
const INCIDENTS: i64 = 20;

/// Time on the processor so far, in seconds (Linux only).
fn cpu_s() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let ns: f64 = text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default();
    ns / 1e9
}

/// Failed requests of a hundred at a time: 20 incidents of 4 to 23 minutes, 1 to 39 of a hundred.
fn failing(t_ms: i64) -> i64 {
    let apart_ms = MONTH_MS / INCIDENTS;
    let (incident, since_ms) = (t_ms / apart_ms, t_ms % apart_ms);
    let length_ms = (4 + incident) * 60_000;
    if (7_200_000..7_200_000 + length_ms).contains(&since_ms) { 1 + incident * 2 } else { 0 }
}

fn fill(store: &mut SeriesStore) {
    let series = |status: &str| {
        Labels::from_pairs([
            ("__name__", "app_request_duration_seconds_count"),
            ("service", "api"),
            ("status", status),
        ])
    };
    let good = store.series(&series("200")).unwrap();
    let bad = store.series(&series("500")).unwrap();
    let (mut good_total, mut bad_total) = (0, 0);
    for step in 1..=MONTH_MS / INTERVAL_MS {
        let t_ms = step * INTERVAL_MS;
        // 100 requests a second.
        bad_total += 30 * failing(t_ms);
        good_total += 30 * (100 - failing(t_ms));
        store.append_to(good, t_ms, (good_total as f64).into(), 0).unwrap();
        store.append_to(bad, t_ms, (bad_total as f64).into(), 0).unwrap();
    }
}

fn groups(path: &str) -> Vec<Group> {
    let file = RuleFile::parse(&std::fs::read_to_string(path).unwrap()).unwrap();
    let mut groups: Vec<Group> =
        file.groups.iter().map(|spec| Group::new(spec, path).unwrap()).collect();
    for group in &mut groups {
        group.interval_ms = INTERVAL_MS;
    }
    groups
}

/// Samples, those that differ in any bit, and the largest relative difference.
fn compare(a: &SeriesStore, b: &SeriesStore) -> (usize, usize, f64) {
    let range = TimeRange { start_ms: 0, end_ms: MONTH_MS };
    let all = [Matcher::new("__name__", MatchOp::Regex, ".+").unwrap()];
    let (a, b) =
        (a.select(&all, range, Needs::All).unwrap(), b.select(&all, range, Needs::All).unwrap());
    assert_eq!(a.len(), b.len());
    let (mut count, mut unequal, mut worst) = (0, 0, 0.0_f64);
    for one in &a {
        let other = b.iter().find(|other| other.labels == one.labels).unwrap();
        assert_eq!(one.samples.times, other.samples.times, "{}", one.labels);
        for (v, w) in one.samples.floats.iter().zip(other.samples.floats.iter()) {
            count += 1;
            if v.to_bits() != w.to_bits() {
                unequal += 1;
                worst = worst.max((v - w).abs() / v.abs().max(w.abs()));
            }
        }
    }
    (count, unequal, worst)
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (options, external) = (Options::default(), Labels::empty());
    let context = Context {
        options: &options,
        external_labels: &external,
        external_url: "",
        resend_ms: 60_000,
    };
    let started = cpu_s();
    let mut fast = SeriesStore::new();
    fill(&mut fast);
    let filled = cpu_s() - started;
    let mut alerts = 0;
    let steps = Steps { start_ms: INTERVAL_MS, end_ms: MONTH_MS, step_ms: INTERVAL_MS };
    for group in &mut groups(&args[0]) {
        let span = group.evaluate_span(&mut fast, steps, &context);
        assert_eq!((span.failed, span.stepwise), (0, 0));
        alerts += span.notices.len();
    }
    let ours = cpu_s() - started;
    if args.len() > 1 {
        println!("{{\"ours\": {ours}, \"filling\": {filled}, \"notices\": {alerts}}}");
        return;
    }
    let started = cpu_s();
    let mut naive = SeriesStore::new();
    fill(&mut naive);
    let mut groups = groups(&args[0]);
    let mut notices = 0;
    for now_ms in steps.times() {
        for group in &mut groups {
            notices += group.evaluate(&mut naive, now_ms, &context).notices.len();
        }
    }
    assert_eq!(alerts, notices);
    let peer = cpu_s() - started;
    let (samples, unequal, worst) = compare(&fast, &naive);
    println!(
        "{{\"ours\": {ours}, \"peer\": {peer}, \"samples\": {samples}, \"unequal\": {unequal}, \
         \"worst\": {worst:e}, \"notices\": {notices}}}"
    );
}
