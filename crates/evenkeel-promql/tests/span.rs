//! A group over a whole span against the same group time after time.
#![expect(clippy::unwrap_used, reason = "helpers of tests: a surprise fails the test")]

use evenkeel_promql::engine::{Options, Steps};
use evenkeel_promql::labels::Labels;
use evenkeel_promql::matcher::Matcher;
use evenkeel_promql::number::stale;
use evenkeel_promql::rules::{Context, Group, RuleFile};
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::storage::{Needs, Storage, TimeRange};
use proptest::prelude::*;
use std::collections::BTreeMap;

const INTERVAL_MS: i64 = 30_000;
const GROUPS: usize = 4;
/// Groups that no rule in them keeps from running ahead.
const AT_ONCE: [&str; 2] = ["records", "alerts"];

/// In the shape that Sloth writes, over windows short enough for a test, and some rules it would
/// not write.
const RULES: &str = r#"
groups:
- name: records
  interval: 30s
  rules:
  - {record: ratio5m, expr: 'sum(rate(hits_total{code=~"5.."}[5m])) / sum(rate(hits_total[5m]))', labels: {window: 5m}}
  - {record: ratio1h, expr: 'sum(rate(hits_total{code=~"5.."}[1h])) / sum(rate(hits_total[1h]))', labels: {window: 1h}}
  - {record: ratio4h, expr: "sum_over_time(ratio5m[4h]) / ignoring (window) count_over_time(ratio5m[4h])", labels: {window: 4h}}
  - {record: budget, expr: vector(1-0.9)}
  - {record: burn, expr: 'ratio4h / on() group_left budget'}
  - {record: by_code, expr: 'max by (code) (hits_total offset 1m) > 100'}
  - {record: sometimes, expr: 'topk(1, delta(hits_total[3m])) and hits_total % 7 < 4'}
- name: alerts
  interval: 30s
  rules:
  - alert: Burns
    expr: (max(ratio5m > 0.1) without (window) and max(ratio1h > 0.05) without (window)) or max(ratio4h > 0.08) without (window)
    for: 1m
    keep_firing_for: 2m
    labels: {severity: page}
    annotations: {title: "burns at {{ $labels.severity }} {{ $value }}"}
  - {alert: Many, expr: by_code > 150, annotations: {title: "{{ $labels.code }}"}}
- name: readers of themselves
  interval: 30s
  rules:
  - {record: self, expr: 'self + 1 or vector(0)'}
  - {record: late, expr: early}
  - {record: early, expr: sum(hits_total) without (code)}
- name: readers of alerts
  interval: 30s
  rules:
  - {record: alerts, expr: count(ALERTS)}
  - {alert: Any, expr: alerts > 0}
"#;

fn inputs(runs: &[(u16, u8, u8, bool)]) -> (SeriesStore, i64) {
    let mut store = SeriesStore::new();
    let labels = |code: &str| Labels::from_pairs([("__name__", "hits_total"), ("code", code)]);
    let (mut t_ms, mut good, mut bad) = (0, 0.0, 0.0);
    for (count, more_good, more_bad, ends) in runs {
        for _ in 0..*count {
            t_ms += INTERVAL_MS;
            good += f64::from(*more_good);
            bad = if *more_bad == 9 { 0.0 } else { bad + f64::from(*more_bad) };
            store.append(&labels("200"), t_ms, good).unwrap();
            store.append(&labels("500"), t_ms, bad).unwrap();
        }
        if *ends {
            t_ms += INTERVAL_MS;
            store.append(&labels("500"), t_ms, stale()).unwrap();
        }
    }
    (store, t_ms)
}

type Everything = BTreeMap<String, Vec<(i64, u64)>>;

fn everything(store: &SeriesStore) -> Everything {
    let range = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };
    let all = [Matcher::new("__name__", evenkeel_promql::matcher::MatchOp::Regex, ".+").unwrap()];
    let selected = store.select(&all, range, Needs::All).unwrap();
    selected
        .iter()
        .map(|one| {
            let samples = one.samples.times.iter().zip(one.samples.floats.iter());
            (one.labels.to_string(), samples.map(|(t, v)| (*t, v.to_bits())).collect())
        })
        .collect()
}

fn groups() -> Vec<Group> {
    let file = RuleFile::parse(RULES).unwrap();
    file.groups.iter().map(|spec| Group::new(spec, "test").unwrap()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(6))]
    #[test]
    fn a_span_equals_time_after_time(
        runs in proptest::collection::vec((1_u16..200, 0_u8..40, 0_u8..10, proptest::bool::ANY), 1..8),
        first_share in 0_i64..1_000,
    ) {
        let (inputs, end_ms) = inputs(&runs);
        // Sums over blocks are within a bound of their own (tests/blocks.rs).
        let options = Options { sample_by_sample: true, ..Options::default() };
        let external = Labels::empty();
        let context = Context { options: &options, external_labels: &external, external_url: "", resend_ms: 60_000 };

        let mut naive = inputs.clone();
        let (mut one_by_one, mut notices) = (groups(), vec![Vec::new(); GROUPS]);
        let mut now_ms = INTERVAL_MS;
        while now_ms <= end_ms {
            for (group, sent) in one_by_one.iter_mut().zip(&mut notices) {
                sent.extend(group.evaluate(&mut naive, now_ms, &context).notices);
            }
            now_ms += INTERVAL_MS;
        }

        let options = Options::default();
        let context = Context { options: &options, ..context };
        let mut fast = inputs;
        let middle = end_ms * first_share / 1_000 / INTERVAL_MS * INTERVAL_MS;
        let spans = [(INTERVAL_MS, middle), (middle.max(0) + INTERVAL_MS, end_ms)];
        let (mut at_once, mut sent) = (groups(), vec![Vec::new(); GROUPS]);
        for (start_ms, end_ms) in spans {
            let steps = Steps { start_ms, end_ms, step_ms: INTERVAL_MS };
            for (group, sent) in at_once.iter_mut().zip(&mut sent) {
                let span = group.evaluate_span(&mut fast, steps, &context);
                sent.extend(span.notices);
                let expected = AT_ONCE.contains(&group.name.as_str()) && steps.count() > 1;
                prop_assert!(!expected || span.stepwise == 0, "{} {:?}", group.name, steps);
            }
        }
        for all in notices.iter_mut().chain(&mut sent) {
            all.sort_by_key(|n| (n.starts_ms, n.labels.clone(), n.ends_ms, n.resolved));
        }
        prop_assert_eq!(notices, sent);
        let (naive, fast) = (everything(&naive), everything(&fast));
        prop_assert_eq!(naive.keys().collect::<Vec<_>>(), fast.keys().collect::<Vec<_>>());
        for (labels, samples) in &naive {
            prop_assert_eq!(samples, &fast[labels], "{}", labels);
        }
    }
}
