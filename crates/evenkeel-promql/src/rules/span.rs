//! A group over a span of time whose inputs are all there already, as in a simulation.
//!
//! Time after time would cost one pass per interval, 86,400 in a month. Here each rule is evaluated
//! over the whole span at once: windows slide, and operators are applied only at the steps where
//! something below them changed. The samples that come out, and the alerts, are those of one
//! evaluation after the other; a property test holds the two against each other.

use super::alert::Notice;
use super::group::{Context, Group, Health, Rule, RuleKind, RuleStore, Times, is_constant};
use crate::ast::{Expr, ExprKind, Length, Selector};
use crate::engine::{Options, Steps, range_unbounded};
use crate::labels::{Labels, METRIC_NAME};
use crate::number::stale;
use crate::result::{MatrixSeries, QueryValue, VectorSample};
use crate::sample::Point;
use std::collections::{BTreeMap, BTreeSet};

/// Steps that are evaluated in one go: bounds memory, and keeps it near the processor.
const STEPS_AT_ONCE: i64 = 5_760;

/// What the evaluation of a span did.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Span {
    /// Alerts that were due for sending, in order of time within each rule.
    pub notices: Vec<Notice>,
    /// Samples written, end markers included.
    pub samples: usize,
    /// Evaluations of single rules that gave an error.
    pub failed: usize,
    /// Rules that had to be evaluated time after time.
    pub stepwise: usize,
}

impl Group {
    /// Evaluates at every step of a span. Equal to [`Group::evaluate`] at each of them, provided
    /// that the store already holds all that others write until the end of the span.
    pub fn evaluate_span(
        &mut self,
        store: &mut dyn RuleStore,
        steps: Steps,
        context: &Context<'_>,
    ) -> Span {
        let mut span = Span::default();
        let ordered = self.reads_only_backwards();
        let count = steps.count() as i64;
        let mut done = 0;
        while done < count {
            let now = (count - done).min(if ordered { STEPS_AT_ONCE } else { 1 });
            let part = Steps {
                start_ms: steps.start_ms + done * steps.step_ms,
                end_ms: steps.start_ms + (done + now - 1) * steps.step_ms,
                step_ms: steps.step_ms,
            };
            for rule in &mut self.rules {
                let timing = (self.query_offset_ms, self.interval_ms);
                rule.evaluate_part(store, part, (timing, self.limit, context), &mut span);
            }
            self.evaluated_ms = Some(part.end_ms);
            done += now;
        }
        span
    }

    /// Whether no rule can see what itself or a later one wrote, so that rules may run ahead one by
    /// one.
    fn reads_only_backwards(&self) -> bool {
        let mut unwritten: Vec<&str> = self.rules.iter().map(Rule::name).collect();
        unwritten.reverse();
        let alerts = self.rules.iter().any(|rule| matches!(rule.kind, RuleKind::Alerting(_)));
        self.rules.iter().all(|rule| {
            let known = rule.query().expr.selectors().into_iter().all(|selector| {
                let name = selector.name.as_deref().unwrap_or_default();
                let own = alerts && name.starts_with("ALERTS");
                !name.is_empty() && !own && !unwritten.contains(&name)
            });
            unwritten.pop();
            let asks = matches!(&rule.kind, RuleKind::Alerting(alert) if alert.mentions("query"));
            known && !asks
        })
    }
}

impl Rule {
    fn evaluate_part(
        &mut self,
        store: &mut dyn RuleStore,
        steps: Steps,
        ((offset_ms, interval_ms), limit, context): ((i64, i64), usize, &Context<'_>),
        span: &mut Span,
    ) {
        let at = Steps {
            start_ms: steps.start_ms - offset_ms,
            end_ms: steps.end_ms - offset_ms,
            ..steps
        };
        let columns = if limit == 0 && steps.count() > 1 && looks_back(&self.query().expr) {
            self.columns(store, at, context.options)
        } else {
            None
        };
        let Some(columns) = columns else {
            span.stepwise += 1;
            for now_ms in steps.times() {
                let times = Times { at_ms: now_ms - offset_ms, now_ms };
                let outcome = self.evaluate(store, times, (limit, context));
                span.samples += outcome.samples;
                span.failed += usize::from(outcome.error.is_some());
                if let RuleKind::Alerting(alert) = &mut self.kind {
                    span.notices.extend(alert.due(now_ms, interval_ms, context));
                }
            }
            return;
        };
        self.health = Health::Good;
        self.evaluated_ms = Some(steps.end_ms);
        if matches!(self.kind, RuleKind::Recording(_)) {
            span.samples += self.write_columns(store, columns, at);
        } else {
            self.advance_alerts(store, columns, (steps, offset_ms, interval_ms), (context, span));
        }
    }

    /// The query's result over all steps; `None` if it has to be asked time after time.
    fn columns(
        &self,
        store: &dyn RuleStore,
        steps: Steps,
        options: &Options,
    ) -> Option<Vec<MatrixSeries>> {
        // What reads nothing is the same at all steps.
        let constant = is_constant(self.query());
        let asked = if constant { Steps::once(steps.start_ms) } else { steps };
        let result = range_unbounded(store.as_storage(), self.query(), asked, options).ok()?;
        let QueryValue::Matrix(mut series) = result.value else { return None };
        if constant {
            for one in &mut series {
                let Some(first) = one.points.pop() else { continue };
                let repeat = |t_ms| Point { t_ms, value: first.value.clone() };
                one.points = steps.times().map(repeat).collect();
            }
        }
        if let RuleKind::Recording(rule) = &self.kind {
            let mut seen = BTreeSet::new();
            for one in &mut series {
                let mut labels = one.labels.with(METRIC_NAME, &rule.record);
                for (name, value) in &rule.labels {
                    labels = labels.with(name, value);
                }
                if !seen.insert(labels.clone()) {
                    return None;
                }
                one.labels = labels;
            }
        }
        Some(series)
    }

    fn write_columns(
        &mut self,
        store: &mut dyn RuleStore,
        columns: Vec<MatrixSeries>,
        steps: Steps,
    ) -> usize {
        let last_ms = steps.start_ms + (steps.count() as i64 - 1) * steps.step_ms;
        let mut samples = 0;
        let mut before = std::mem::take(&mut self.written);
        for one in columns {
            let was_written = before.remove(&one.labels);
            if one.points.last().is_some_and(|p| p.t_ms == last_ms) {
                self.written.insert(one.labels.clone());
            }
            let mut points = with_ends(one.points, steps, was_written);
            samples += store.append_all(&one.labels, &mut points);
        }
        for labels in before {
            samples += usize::from(store.append(&labels, steps.start_ms, stale().into()).is_ok());
        }
        samples
    }

    fn advance_alerts(
        &mut self,
        store: &mut dyn RuleStore,
        columns: Vec<MatrixSeries>,
        (steps, offset_ms, interval_ms): (Steps, i64, i64),
        (context, span): (&Context<'_>, &mut Span),
    ) {
        let mut columns: Vec<_> = columns
            .into_iter()
            .map(|one| (one.labels, one.points.into_iter().peekable()))
            .collect();
        let RuleKind::Alerting(alert) = &mut self.kind else { return };
        let nothing = |_: &str| -> Result<Vec<(Labels, f64)>, String> { Ok(Vec::new()) };
        // By series, to be written at the end: nothing in the group reads them.
        let mut out: BTreeMap<Labels, Vec<Point>> = BTreeMap::new();
        let mut before = std::mem::take(&mut self.written);
        for now_ms in steps.times() {
            let at_ms = now_ms - offset_ms;
            let mut found = Vec::new();
            for (labels, points) in &mut columns {
                if let Some(point) = points.next_if(|p| p.t_ms == at_ms) {
                    let (labels, value) = (labels.clone(), point.value);
                    found.push(VectorSample { labels, t_ms: at_ms, value });
                }
            }
            if found.is_empty() && !alert.is_busy() && before.is_empty() {
                continue;
            }
            match alert.advance(&found, now_ms, (context, &nothing, 0)) {
                Ok(samples) => {
                    let mut written = BTreeSet::new();
                    for (labels, v) in samples {
                        written.insert(labels.clone());
                        out.entry(labels).or_default().push(Point { t_ms: at_ms, value: v.into() });
                    }
                    for gone in before.difference(&written) {
                        let end = Point { t_ms: at_ms, value: stale().into() };
                        out.entry(gone.clone()).or_default().push(end);
                    }
                    before = written;
                    self.health = Health::Good;
                }
                Err(reason) => {
                    self.health = Health::Bad(reason);
                    span.failed += 1;
                }
            }
            span.notices.extend(alert.due(now_ms, interval_ms, context));
        }
        self.written = before;
        for (labels, points) in out {
            span.samples += store.append_all(&labels, &mut points.into_iter());
        }
    }
}

/// Points with an end marker wherever the series is missing one step after it was there.
fn with_ends(points: Vec<Point>, steps: Steps, was_written: bool) -> impl Iterator<Item = Point> {
    let end = |t_ms: i64| Point { t_ms, value: stale().into() };
    let first_ms = points.first().map_or(i64::MIN, |p| p.t_ms);
    let missing = (was_written && first_ms > steps.start_ms).then(|| end(steps.start_ms));
    let mut points = points.into_iter().peekable();
    let mut ended: Option<Point> = None;
    let follow = std::iter::from_fn(move || {
        if let Some(end) = ended.take() {
            return Some(end);
        }
        let point = points.next()?;
        let next_ms = point.t_ms + steps.step_ms;
        let continues = points.peek().is_some_and(|p| p.t_ms == next_ms);
        if !continues && next_ms <= steps.end_ms {
            ended = Some(end(next_ms));
        }
        Some(point)
    });
    missing.into_iter().chain(follow)
}

/// Whether a query sees nothing but the past at each step, and does not depend on the span.
fn looks_back(expr: &Expr) -> bool {
    let backwards = |selector: &Selector| {
        selector.at.is_none() && selector.extension.is_none() && is_past(selector.offset.as_ref())
    };
    let fine = match &expr.kind {
        ExprKind::Selector(selector) => backwards(selector),
        ExprKind::Range { selector, range } => backwards(selector) && is_past(Some(range)),
        ExprKind::Subquery(subquery) => {
            let lengths = [Some(&subquery.range), subquery.step.as_ref(), subquery.offset.as_ref()];
            subquery.at.is_none() && lengths.into_iter().all(is_past)
        }
        ExprKind::Call { function, .. } => {
            !matches!(function.name, "start" | "end" | "step" | "range" | "info")
        }
        _ => true,
    };
    fine && expr.kind.children().all(looks_back)
}

fn is_past(offset: Option<&Length>) -> bool {
    offset.is_none_or(|offset| matches!(offset, Length::Fixed(ms) if *ms >= 0))
}
