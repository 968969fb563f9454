//! Runner of upstream's `PromQL` test scripts (`.test` files).
//!
//! Each `eval instant` is also run as a range query around its time, and again with `@` appended to
//! every selector at several evaluation times, as upstream does: the result must stay the same.

mod command;
mod compare;
mod custom_buckets;
pub mod notation;

use crate::ast::{At, Expr, ExprKind, LengthExpr, Query};
use crate::engine::{Options, Steps, instant, range};
use crate::histogram::{Histogram, ResetHint};
use crate::labels::Labels;
use crate::parser::parse;
use crate::result::{QueryResult, QueryValue, VectorSample};
use crate::sample::Value;
use crate::series::SeriesStore;
use command::{Command, Eval, When, commands};
pub(crate) use compare::{near, near_histogram as same_histograms};
use std::collections::BTreeMap;
use std::sync::Arc;

/// The result of a script's run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Evaluations as expected.
    pub passed: usize,
    /// Evaluations (or malformed commands) that were not.
    pub failures: Vec<Failure>,
}

/// One evaluation that was not as expected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// Line of the command, from 1.
    pub line: usize,
    /// The query, empty for a malformed command.
    pub query: String,
    /// What was different.
    pub reason: String,
}

/// How upstream's own test engine is set up.
pub fn test_options() -> Options {
    Options {
        delayed_name_removal: true,
        type_and_unit_labels: false,
        start_timestamps: true,
        samples_max: 10_000_000,
        ..Options::default()
    }
}

/// Runs a script.
pub fn run(script: &str, options: &Options) -> Report {
    let mut report = Report::default();
    let mut data = Data::default();
    for parsed in commands(script) {
        match parsed {
            Err((line, reason)) => {
                report.failures.push(Failure { line, query: String::new(), reason });
            }
            Ok(Command::Clear) => data = Data::default(),
            Ok(Command::Load { interval_ms, custom_buckets, series }) => {
                data.load(interval_ms, custom_buckets, &series);
            }
            Ok(Command::Eval(eval)) => match evaluate(&eval, data.store(), options) {
                Ok(()) => report.passed += 1,
                Err(reason) => report.failures.push(Failure {
                    line: eval.line,
                    query: eval.query.clone(),
                    reason,
                }),
            },
        }
    }
    report
}

/// Everything loaded so far; loads add up and may overlap.
#[derive(Default)]
struct Data {
    series: BTreeMap<Labels, BTreeMap<i64, (Value, i64)>>,
    store: Option<SeriesStore>,
}

impl Data {
    fn load(&mut self, interval_ms: i64, custom_buckets: bool, lines: &[notation::SeriesLine]) {
        self.store = None;
        let mut starts: BTreeMap<(&Labels, i64), i64> = BTreeMap::new();
        let mut batch: Vec<(&Labels, i64, &Value)> = Vec::new();
        for line in lines {
            for (i, noted) in line.points.iter().enumerate() {
                let t_ms = interval_ms.saturating_mul(i as i64);
                let Some(value) = &noted.value else { continue };
                if line.start_times {
                    let offset = value.as_float().unwrap_or_default() as i64;
                    starts.insert((&line.labels, t_ms), t_ms.saturating_add(offset));
                } else {
                    batch.push((&line.labels, t_ms, value));
                }
            }
        }
        for (labels, t_ms, value) in &batch {
            let start = starts.get(&(*labels, *t_ms)).copied().unwrap_or_default();
            let samples = self.series.entry((*labels).clone()).or_default();
            samples.insert(*t_ms, ((*value).clone(), start));
        }
        if custom_buckets {
            for (labels, t_ms, h) in custom_buckets::convert(batch.into_iter()) {
                self.series.entry(labels).or_default().insert(t_ms, (h.into(), 0));
            }
        }
    }

    fn store(&mut self) -> &SeriesStore {
        let series = &self.series;
        self.store.get_or_insert_with(|| {
            let mut store = SeriesStore::new();
            for (labels, samples) in series {
                let mut previous: Option<Arc<Histogram>> = None;
                for (t_ms, (value, start)) in samples {
                    let value = &hinted(value, previous.take());
                    previous = value.as_histogram().map(Arc::clone);
                    // Times ascend within a series and there are few series: nothing can be
                    // refused.
                    let appended = store.append_value(labels, *t_ms, value.clone(), *start);
                    debug_assert!(appended.is_ok());
                }
            }
            store
        })
    }
}

/// Reset hints as they come back from upstream's storage: known inside of a chunk, unknown at its
/// start, where a chunk ends at every reset and every change of layout.
fn hinted(value: &Value, previous: Option<Arc<Histogram>>) -> Value {
    let Value::Histogram(h) = value else { return value.clone() };
    if h.reset == ResetHint::Gauge {
        return value.clone();
    }
    let mut plain = Histogram::clone(h);
    if plain.reset == ResetHint::NotReset {
        plain.reset = ResetHint::Unknown;
    }
    let continues = previous.is_some_and(|p| {
        p.reset != ResetHint::Gauge
            && p.schema == plain.schema
            && p.zero_threshold == plain.zero_threshold
            && p.custom_bounds == plain.custom_bounds
            && !plain.is_reset_after(&p)
    });
    plain.reset = if continues { ResetHint::NotReset } else { ResetHint::Unknown };
    plain.into()
}

fn evaluate(eval: &Eval, store: &SeriesStore, options: &Options) -> Result<(), String> {
    let query = match parse(&eval.query) {
        Ok(query) => query,
        Err(error) if eval.must_fail => {
            return compare::failure(eval, &error.reason)
                .or_else(|_| compare::failure(eval, &error.to_string()));
        }
        Err(error) => return Err(error.to_string()),
    };
    match eval.when {
        When::Range { start_ms, end_ms, step_ms } => {
            let steps = Steps { start_ms, end_ms, step_ms };
            check(eval, range(store, &query, steps, options).map_err(|e| e.to_string()))?;
            Ok(())
        }
        When::At(at_ms) => {
            instant_and_range(eval, store, (&query, at_ms), options)?;
            for (query, at_ms) in with_at(&query, at_ms) {
                instant_and_range(eval, store, (&query, at_ms), options)
                    .map_err(|e| format!("as `{}` at {at_ms} ms: {e}", query.text))?;
            }
            Ok(())
        }
    }
}

/// Checks an outcome; the result if there is one to look at further.
fn check(eval: &Eval, outcome: Result<QueryResult, String>) -> Result<Option<QueryResult>, String> {
    match outcome {
        Err(error) if eval.must_fail => compare::failure(eval, &error).map(|()| None),
        Err(error) => Err(error),
        Ok(_) if eval.must_fail => Err("expected a failure".to_owned()),
        Ok(result) => {
            compare::annotations(eval, &result)?;
            compare::value(eval, &result.value)?;
            Ok(Some(result))
        }
    }
}

fn instant_and_range(
    eval: &Eval,
    store: &SeriesStore,
    (query, at_ms): (&Query, i64),
    options: &Options,
) -> Result<(), String> {
    let outcome = instant(store, query, at_ms, options).map_err(|e| e.to_string());
    let Some(result) = check(eval, outcome)? else { return Ok(()) };
    let comparable = matches!(result.value, QueryValue::Scalar { .. } | QueryValue::Vector(_));
    if eval.ordered || !comparable || depends_on_range(&query.expr) {
        return Ok(());
    }
    let steps = Steps {
        start_ms: at_ms.saturating_sub(60_000),
        end_ms: at_ms.saturating_add(60_000),
        step_ms: 60_000,
    };
    let ranged = range(store, query, steps, options).map_err(|e| format!("as range query: {e}"))?;
    let QueryValue::Matrix(series) = ranged.value else {
        return Err("a range query gave no matrix".to_owned());
    };
    let samples = series.into_iter().filter_map(|one| {
        let point = one.points.into_iter().find(|p| p.t_ms == at_ms)?;
        Some(VectorSample { labels: one.labels, t_ms: at_ms, value: point.value })
    });
    let samples: Vec<VectorSample> = samples.collect();
    let middle = match (&result.value, samples.first()) {
        (QueryValue::Scalar { .. }, Some(sample)) => {
            QueryValue::Scalar { t_ms: at_ms, value: sample.value.as_float().unwrap_or(f64::NAN) }
        }
        _ => QueryValue::Vector(samples),
    };
    compare::value(eval, &middle).map_err(|e| format!("as range query: {e}"))
}

/// Whether a query asks for its own step or range.
fn depends_on_range(expr: &Expr) -> bool {
    let mut found = false;
    let computed = |length: &crate::ast::Length| match length {
        crate::ast::Length::Fixed(_) => false,
        crate::ast::Length::Computed(expr) => mentions_query(expr),
    };
    let relative = |at: Option<At>| matches!(at, Some(At::Start | At::End));
    expr.walk(&mut |node| {
        found |= match &node.kind {
            ExprKind::Call { function, .. } => {
                matches!(function.name, "start" | "end" | "step" | "range")
            }
            ExprKind::Selector(s) => s.offset.as_ref().is_some_and(computed) || relative(s.at),
            ExprKind::Range { selector, range } => {
                let offset = selector.offset.as_ref();
                computed(range) || offset.is_some_and(computed) || relative(selector.at)
            }
            ExprKind::Subquery(s) => {
                let lengths = [Some(&s.range), s.step.as_ref(), s.offset.as_ref()];
                lengths.into_iter().flatten().any(computed) || relative(s.at)
            }
            _ => false,
        };
    });
    found
}

fn mentions_query(expr: &LengthExpr) -> bool {
    match expr {
        LengthExpr::Step | LengthExpr::Range => true,
        LengthExpr::Seconds { .. } => false,
        LengthExpr::Sign { of, .. } | LengthExpr::Paren(of) => mentions_query(of),
        LengthExpr::Op { lhs, rhs, .. } | LengthExpr::Pick { lhs, rhs, .. } => {
            mentions_query(lhs) || mentions_query(rhs)
        }
    }
}

/// Functions whose value depends on the evaluation time even if all selectors are fixed.
const UNSAFE_WITH_AT: [&str; 16] = [
    "days_in_month",
    "day_of_month",
    "day_of_week",
    "day_of_year",
    "hour",
    "minute",
    "month",
    "year",
    "predict_linear",
    "time",
    "timestamp",
    "start_timestamp",
    "start",
    "end",
    "step",
    "range",
];

/// The query with all selectors fixed to its time, at several other times.
fn with_at(query: &Query, at_ms: i64) -> Vec<(Query, i64)> {
    let mut dependent = false;
    query.expr.walk(&mut |node| {
        dependent |= matches!(&node.kind, ExprKind::Call { function, .. } if UNSAFE_WITH_AT.contains(&function.name));
    });
    let mut expr = query.expr.clone();
    fix(&mut expr, at_ms);
    let Ok(fixed) = parse(&expr.to_string()) else { return Vec::new() };
    if dependent {
        return Vec::new();
    }
    let times = if at_ms == 0 {
        vec![-1000, 0, 1000]
    } else {
        let far = at_ms.saturating_mul(10);
        vec![far.saturating_neg(), 0, at_ms / 5, at_ms, far]
    };
    times.into_iter().map(|t| (fixed.clone(), t)).collect()
}

/// Sets `@` wherever it is not set, except inside of subqueries.
fn fix(expr: &mut Expr, at_ms: i64) {
    // `start()` and `end()` are that time too.
    let fixed_at = |at: Option<At>| match at {
        Some(At::Time(ms)) => Some(At::Time(ms)),
        _ => Some(At::Time(at_ms)),
    };
    match &mut expr.kind {
        ExprKind::Number { .. } | ExprKind::Text(_) => {}
        ExprKind::Paren(inner) | ExprKind::Unary { expr: inner, .. } => fix(inner, at_ms),
        ExprKind::Binary(binary) => {
            fix(&mut binary.lhs, at_ms);
            fix(&mut binary.rhs, at_ms);
        }
        ExprKind::Aggregate(aggregate) => {
            fix(&mut aggregate.expr, at_ms);
            if let Some(param) = &mut aggregate.param {
                fix(param, at_ms);
            }
        }
        ExprKind::Call { function, args } => {
            let fixed = if function.name == "info" { 1 } else { args.len() };
            args.iter_mut().take(fixed).for_each(|arg| fix(arg, at_ms));
        }
        ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => {
            selector.at = fixed_at(selector.at);
        }
        ExprKind::Subquery(subquery) => subquery.at = fixed_at(subquery.at),
    }
}
