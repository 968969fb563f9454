//! Rule files, unit tests of rules, and `PromQL` test scripts.
//!
//! Input: a script if it begins with one of its commands, else a rule file and, behind a NUL byte,
//! a file of tests (alone it is taken as both).

use crate::{parts, world};
use evenkeel_promql::labels::Labels;
use evenkeel_promql::rules::{Context, Group, RuleFile};
use evenkeel_promql::series::SeriesStore;
use evenkeel_promql::{test_rules, testscript};
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
    let _refused =
        test_rules::run(tests, &mut |_| Ok(first.to_owned()), &world::options()).is_err();
    if let Ok(file) = RuleFile::parse(first) {
        evaluate(&file);
    }
}

fn evaluate(file: &RuleFile) {
    let options = world::options();
    let external_labels = Labels::from_pairs([("cluster", "c")]);
    let context =
        Context { options: &options, external_labels: &external_labels, resend_ms: 60_000 };
    let mut store = STORE.clone();
    for spec in &file.groups {
        let mut group = Group::new(spec, "rules.yml").expect("the file was checked");
        // The clock also steps back, and to the ends of time.
        for now_ms in [world::END_MS, world::END_MS + 60_000, 0, i64::MAX, i64::MIN] {
            assert!(group.slot_ms(now_ms) <= now_ms.max(0).saturating_add(1) || now_ms < 0);
            drop(group.evaluate(&mut store, now_ms, &context));
        }
        group.retire(&mut store, world::END_MS);
    }
}
