//! Rule files, unit tests of rules, and `PromQL` test scripts.
//!
//! Input: a script if it begins with one of its commands, else a rule file and, behind a NUL byte,
//! a file of tests (alone it is taken as both).

use crate::{parts, world};
use evenkeel_promql::engine::{Options, Steps};
use evenkeel_promql::labels::Labels;
use evenkeel_promql::matcher::{MatchOp, Matcher};
use evenkeel_promql::rules::{Context, Group, GroupSpec, RuleFile};
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::storage::{Needs, SelectedSeries, Storage, TimeRange};
use evenkeel_promql::{test_rules, testscript};
use std::collections::BTreeMap;
use std::sync::LazyLock;

static STORE: LazyLock<SeriesStore> = LazyLock::new(world::store);

/// Feeds one input.
pub fn run(data: &[u8]) {
    let parts = parts(data);
    let first = parts.first().map_or("", String::as_str);
    let command = first.split_whitespace().next().unwrap_or_default();
    if command.starts_with("load") || command.starts_with("eval") || command == "clear" {
        drop(testscript::run(first, &world::options()));
        return;
    }
    let tests = parts.get(1).map_or(first, String::as_str);
    let mut read = |name: &str| Ok(vec![(name.to_owned(), first.to_owned())]);
    let _refused = test_rules::run(tests, &mut read, &world::options()).is_err();
    if let Ok(file) = RuleFile::parse(first) {
        evaluate(&file);
    }
}

fn evaluate(file: &RuleFile) {
    let options = world::options();
    let external_labels = Labels::from_pairs([("cluster", "c")]);
    let context = Context {
        options: &options,
        external_labels: &external_labels,
        external_url: "",
        resend_ms: 60_000,
    };
    let mut store = STORE.clone();
    for spec in &file.groups {
        let mut group = Group::new(spec, "rules.yml").expect("the file was checked");
        // The clock also steps back, and to the ends of time.
        for now_ms in [world::END_MS, world::END_MS + 60_000, 0, i64::MAX, i64::MIN] {
            assert!(group.slot_ms(now_ms) <= now_ms.max(0).saturating_add(1) || now_ms < 0);
            drop(group.evaluate(&mut store, now_ms, &context));
        }
        group.retire(&mut store, world::END_MS);
        at_once(spec);
    }
}

/// A span in one go against the same times one after the other.
fn at_once(spec: &GroupSpec) {
    // Sums over blocks are within a bound, not equal bit for bit.
    let options = Options { sample_by_sample: true, ..world::options() };
    let external_labels = Labels::empty();
    let context = Context {
        options: &options,
        external_labels: &external_labels,
        external_url: "",
        resend_ms: 60_000,
    };
    let steps = Steps {
        start_ms: world::END_MS,
        end_ms: world::END_MS + 12 * world::STEP_MS,
        step_ms: world::STEP_MS,
    };
    let (mut fast, mut naive) = (STORE.clone(), STORE.clone());
    let group = || Group::new(spec, "rules.yml").expect("the file was checked");
    let span = group().evaluate_span(&mut fast, steps, &context);
    let mut stepwise = group();
    let (mut samples, mut failed) = (0, 0);
    for now_ms in steps.times() {
        for outcome in stepwise.evaluate(&mut naive, now_ms, &context).rules {
            samples += outcome.samples;
            failed += usize::from(outcome.error.is_some());
        }
    }
    // A limit of work is one of a query, and the two ask different ones.
    if failed == 0 && span.failed == 0 {
        assert_eq!(span.samples, samples, "samples of group {}", spec.name);
        assert_eq!(written(&fast), written(&naive), "series after group {}", spec.name);
    }
}

/// Everything stored, values as bits.
fn written(store: &SeriesStore) -> BTreeMap<String, Vec<(i64, u64)>> {
    let all = [Matcher::new("__name__", MatchOp::Regex, ".+").expect("a plain pattern")];
    let range = TimeRange { start_ms: i64::MIN, end_ms: i64::MAX };
    let selected = store.select(&all, range, Needs::All).expect("within the limits");
    let bits = |one: &SelectedSeries<'_>| {
        let samples = one.samples.times.iter().zip(one.samples.floats.iter());
        samples.map(|(t_ms, value)| (*t_ms, value.to_bits())).collect()
    };
    selected.iter().map(|one| (one.labels.to_string(), bits(one))).collect()
}
