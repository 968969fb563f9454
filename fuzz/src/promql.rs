//! Any text as a query; what parses is evaluated over a fixed world.
//!
//! Input: the query, then, behind a NUL byte, whole numbers in decimal that set the times: instant,
//! start, end, step.

use crate::{parts, world};
use evenkeel_promql::ast::Query;
use evenkeel_promql::engine::{Options, Steps, instant, range};
use evenkeel_promql::parser::{parse, parse_selector};
use evenkeel_promql::series::SeriesStore;
use std::sync::LazyLock;

static STORE: LazyLock<SeriesStore> = LazyLock::new(world::store);

/// Feeds one input.
pub fn run(data: &[u8]) {
    let parts = parts(data);
    let text = parts.first().map_or("", String::as_str);
    let _selector = parse_selector(text).is_ok();
    let query = match parse(text) {
        Ok(query) => query,
        Err(error) => {
            assert!(error.line >= 1 && error.column >= 1, "an error has a place");
            return;
        }
    };
    printed(&query);
    let times: Vec<i64> =
        parts.get(1).map_or("", String::as_str).split(' ').filter_map(|n| n.parse().ok()).collect();
    let time = |at: usize, or: i64| times.get(at).copied().unwrap_or(or);
    let steps = Steps {
        start_ms: time(1, world::STEP_MS),
        end_ms: time(2, world::END_MS),
        step_ms: time(3, world::STEP_MS),
    };
    let plain = world::options();
    let exotic = Options {
        closed_ranges: true,
        delayed_name_removal: true,
        type_and_unit_labels: true,
        start_timestamps: true,
        sample_by_sample: true,
        ..plain.clone()
    };
    for options in [&plain, &exotic] {
        if let Ok(result) = instant(&*STORE, &query, time(0, world::END_MS), options) {
            drop(result.to_response().to_string());
        }
        if let Ok(result) = range(&*STORE, &query, steps, options) {
            drop(result.to_response().to_string());
        }
    }
}

/// What is printed reads back as what prints the same.
fn printed(query: &Query) {
    let text = query.expr.to_string();
    match parse(&text) {
        Ok(again) => assert_eq!(again.expr.to_string(), text, "printing is stable"),
        // Printing adds parentheses and blanks, and with them height and bytes.
        Err(error) => assert!(
            error.reason.contains("nested too deeply") || error.reason.contains("longer than"),
            "{text:?} was printed from {:?} and is refused: {error}",
            query.text
        ),
    }
}
