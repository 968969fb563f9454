//! Long windows by sums over blocks against the same windows sample by sample.
#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::cast_possible_truncation,
    reason = "helpers of tests: a surprise fails the test, numbers are small"
)]

use evenkeel_promql::engine::{Options, Steps, instant, instant_text, range};
use evenkeel_promql::labels::Labels;
use evenkeel_promql::number::stale;
use evenkeel_promql::parser::parse;
use evenkeel_promql::result::QueryValue;
use evenkeel_promql::series::SeriesStore;
use proptest::prelude::*;

const FUNCTIONS: [&str; 11] = [
    "rate",
    "increase",
    "delta",
    "sum_over_time",
    "avg_over_time",
    "count_over_time",
    "resets",
    "last_over_time",
    "first_over_time",
    "present_over_time",
    "absent_over_time",
];

/// One sample: how far after the one before, how much more (below zero: a reset), and whether it
/// ends the series.
type Step = (i64, i32, u8);

fn store(steps: &[Step], scale: f64, prune_ms: i64) -> (SeriesStore, i64) {
    let mut store = SeriesStore::new();
    let labels = Labels::named("hits_total");
    let (mut t_ms, mut value) = (0, 0.0);
    for (gap, step, end) in steps {
        t_ms += gap * 1000;
        value = if *step < 0 { 0.0 } else { value + f64::from(*step) * scale };
        // Rarely, so that there are whole blocks without an end marker too.
        let taken = if *end == 0 { stale() } else { value };
        store.append(&labels, t_ms, taken).unwrap();
    }
    store.prune(prune_ms);
    (store, t_ms)
}

fn values(store: &SeriesStore, query: &str, end_ms: i64, options: &Options) -> Vec<(i64, f64)> {
    let query = parse(query).unwrap();
    let steps = Steps { start_ms: end_ms / 2, end_ms, step_ms: 60_000 };
    let result = range(store, &query, steps, options).unwrap();
    let QueryValue::Matrix(series) = result.value else { panic!("no matrix") };
    let points = series.into_iter().flat_map(|s| s.points);
    points.map(|p| (p.t_ms, p.value.as_float().unwrap())).collect()
}

/// One evaluation after the other: each reads only the ends of its window.
fn single_values(
    store: &SeriesStore,
    query: &str,
    end_ms: i64,
    options: &Options,
) -> Vec<(i64, f64)> {
    let query = parse(query).unwrap();
    let mut out = Vec::new();
    for at_ms in (end_ms / 2..=end_ms).step_by(487_001) {
        let QueryValue::Vector(samples) = instant(store, &query, at_ms, options).unwrap().value
        else {
            panic!("no vector")
        };
        out.extend(samples.into_iter().map(|s| (at_ms, s.value.as_float().unwrap())));
    }
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn blocks_equal_sample_by_sample(
        steps in proptest::collection::vec((1_i64..20, -1_i32..100, 0_u8..255), 1..900),
        window_s in 1_i64..8_000,
        fraction in proptest::bool::ANY,
        prune_ms in 0_i64..3_000_000,
        closed in proptest::bool::ANY,
    ) {
        let scale = if fraction { 0.1 } else { 1.0 };
        let (store, end_ms) = store(&steps, scale, prune_ms);
        for function in FUNCTIONS {
            let query = format!("{function}(hits_total[{window_s}s])");
            let options = Options { closed_ranges: closed, ..Options::default() };
            let naive = Options { sample_by_sample: true, ..options };
            let mut fast = values(&store, &query, end_ms, &options);
            let mut slow = values(&store, &query, end_ms, &naive);
            fast.extend(single_values(&store, &query, end_ms, &options));
            slow.extend(single_values(&store, &query, end_ms, &naive));
            prop_assert_eq!(fast.len(), slow.len());
            for ((t_fast, fast), (t_slow, slow)) in fast.into_iter().zip(slow) {
                prop_assert_eq!(t_fast, t_slow);
                if fraction {
                    prop_assert!((fast - slow).abs() <= 1e-12 * slow.abs(), "{} {} {}", query, fast, slow);
                } else {
                    prop_assert_eq!(fast.to_bits(), slow.to_bits(), "{} {} {}", query, fast, slow);
                }
            }
        }
    }
}

#[test]
fn a_month_of_samples_is_read_by_blocks() {
    let mut store = SeriesStore::new();
    let labels = Labels::named("hits_total");
    for i in 0..43_200 {
        store.append(&labels, i * 60_000, f64::from(i as i32 % 5_000)).unwrap();
    }
    // Far fewer looks than samples are enough.
    let options = Options { work_max: 10_000, ..Options::default() };
    let at_ms = 43_199 * 60_000;
    for function in ["rate", "sum_over_time", "avg_over_time"] {
        let query = format!("{function}(hits_total[30d])");
        assert!(instant_text(&store, &query, at_ms, &options).is_ok(), "{function}");
    }
    let naive = Options { sample_by_sample: true, ..options };
    assert!(instant_text(&store, "rate(hits_total[30d])", at_ms, &naive).is_err());
}
