//! Aggregations over series.

use super::avg::Mean;
use super::binary_element::note_merge;
use super::eval::{Cursors, Evaluator, Merge, Series};
use super::math::quantile;
use super::{Notes, QueryError};
use crate::ast::{Aggregate, AggregateOp, Span};
use crate::histogram::{Histogram, ResetHint};
use crate::labels::{Labels, METRIC_NAME, TYPE_LABEL, UNIT_LABEL, is_valid_label_name};
use crate::number::{format_general, format_plain, kahan_add};
use crate::sample::Value;
use std::collections::{BTreeMap, HashMap};

/// Input series by group.
pub(super) struct Groups {
    /// Group of each input series.
    pub(super) of: Vec<usize>,
    pub(super) labels: Vec<Labels>,
    pub(super) drop_name: Vec<bool>,
}

impl Evaluator<'_> {
    pub(super) fn aggregate(
        &mut self,
        agg: &Aggregate,
        span: Span,
    ) -> Result<Vec<Series>, QueryError> {
        if agg.op == AggregateOp::CountValues {
            return self.count_values(agg);
        }
        let params = match &agg.param {
            Some(param) => self.scalar(param)?,
            None => Vec::new(),
        };
        let series = self.vector(&agg.expr)?;
        let groups = Self::groups(agg, &series);
        match agg.op {
            AggregateOp::Topk
            | AggregateOp::Bottomk
            | AggregateOp::Limitk
            | AggregateOp::LimitRatio => self.pick((agg, span), &params, series, &groups),
            _ => self.fold(agg, &params, &series, groups),
        }
    }

    fn groups(agg: &Aggregate, series: &[Series]) -> Groups {
        let mut index: HashMap<Labels, usize> = HashMap::new();
        let mut groups = Groups { of: Vec::new(), labels: Vec::new(), drop_name: Vec::new() };
        let one_group = !agg.without && agg.grouping.is_empty();
        for one in series {
            let key = if one_group {
                Labels::empty()
            } else if agg.without {
                let without = one.labels.drop(&agg.grouping);
                without.drop(&[METRIC_NAME, TYPE_LABEL, UNIT_LABEL])
            } else {
                one.labels.keep(&agg.grouping)
            };
            let at = *index.entry(key).or_insert_with_key(|key| {
                groups.labels.push(key.clone());
                groups.drop_name.push(false);
                groups.labels.len() - 1
            });
            // One that loses its name takes that of the whole group.
            groups.drop_name[at] |= one.drop_name;
            groups.of.push(at);
        }
        groups
    }

    fn fold(
        &mut self,
        agg: &Aggregate,
        params: &[f64],
        series: &[Series],
        groups: Groups,
    ) -> Result<Vec<Series>, QueryError> {
        let mut cursors = Cursors::new(series.len());
        let mut out: Vec<Series> = groups
            .labels
            .into_iter()
            .zip(groups.drop_name)
            .map(|(labels, drop_name)| Series { labels, drop_name, points: Vec::new() })
            .collect();
        for (one, slot) in series.iter().zip(&groups.of) {
            let points = &mut out[*slot].points;
            points.reserve(one.points.len());
        }
        let mut places =
            vec![Place { op: agg.op, span: agg.expr.unwrapped().span, metric: "" }; out.len()];
        for (one, group) in series.iter().zip(&groups.of).rev() {
            places[*group].metric = one.labels.metric_name();
        }
        for (step, t_ms) in self.steps.times().enumerate() {
            self.work_on(series.len())?;
            let param = params.get(step).copied().unwrap_or_default();
            if agg.op == AggregateOp::Quantile && !(0.0..=1.0).contains(&param) {
                let span = agg.param.as_ref().map_or(agg.expr.span, |p| p.span);
                let text = format!(
                    "quantile value should be between 0 and 1, got {}",
                    format_general(param)
                );
                self.annotations.warn(span, &text);
            }
            let mut folds: Vec<Option<Fold>> = (0..out.len()).map(|_| None).collect();
            for i in 0..series.len() {
                let Some(value) = cursors.value(series, i, t_ms) else { continue };
                let notes = &mut self.annotations;
                let at = places[groups.of[i]];
                match &mut folds[groups.of[i]] {
                    Some(fold) => fold.add(at, value, notes),
                    empty => *empty = Fold::start(at, value, notes),
                }
            }
            for (slot, fold) in folds.into_iter().enumerate() {
                let Some(fold) = fold else { continue };
                if let Some(value) = fold.finish(places[slot], param, &mut self.annotations) {
                    out[slot].points.push(crate::sample::Point { t_ms, value });
                }
            }
        }
        out.retain(|s| !s.points.is_empty());
        self.charge(out.iter().map(|s| s.points.len()).sum())?;
        Ok(out)
    }

    fn count_values(&mut self, agg: &Aggregate) -> Result<Vec<Series>, QueryError> {
        let label = match &agg.param {
            Some(param) => Self::literal(param)?,
            None => String::new(),
        };
        if !is_valid_label_name(&label) {
            let reason = format!("invalid label name {}", crate::labels::quote(&label));
            return Err(QueryError::Execution(reason));
        }
        let series = self.vector(&agg.expr)?;
        let groups = Self::groups(agg, &series);
        // `without` also removes the label in which the value would be.
        let drops = agg.without && agg.grouping.contains(&label);
        let mut cursors = Cursors::new(series.len());
        let mut merge = Merge::default();
        for t_ms in self.steps.times() {
            self.charge(series.len())?;
            let mut counts: BTreeMap<(usize, String), f64> = BTreeMap::new();
            for i in 0..series.len() {
                let text = match cursors.value(&series, i, t_ms) {
                    None => continue,
                    Some(Value::Float(v)) => format_plain(*v),
                    Some(Value::Histogram(h)) => h.to_text(),
                };
                *counts.entry((groups.of[i], text)).or_default() += 1.0;
            }
            // Groups whose label is overwritten may fall together.
            let mut by_slot: BTreeMap<usize, f64> = BTreeMap::new();
            for ((group, text), count) in counts {
                let kept = &groups.labels[group];
                let labels = if drops { kept.clone() } else { kept.with(&label, &text) };
                *by_slot.entry(merge.slot(&labels, false)).or_default() += count;
            }
            for (slot, count) in by_slot {
                merge.push(slot, t_ms, Value::Float(count))?;
            }
        }
        Ok(merge.finish())
    }
}

/// Which aggregation of what, and the position of its operand in the query.
#[derive(Clone, Copy)]
struct Place<'s> {
    op: AggregateOp,
    span: Span,
    /// Metric of the group's first series.
    metric: &'s str,
}

/// One group at one step.
struct Fold {
    count: f64,
    sum: f64,
    lost: f64,
    mean: Mean,
    values: Vec<f64>,
    histogram: Option<Box<HistogramFold>>,
    has_float: bool,
    incompatible: bool,
}

struct HistogramFold {
    mean: super::avg::HistogramMean,
    saw_reset: bool,
    saw_none: bool,
}

impl Fold {
    fn start(at: Place<'_>, value: &Value, notes: &mut Notes) -> Option<Self> {
        let mut fold = Self {
            count: 0.0,
            sum: 0.0,
            lost: 0.0,
            mean: Mean::default(),
            values: Vec::new(),
            histogram: None,
            has_float: false,
            incompatible: false,
        };
        match value {
            Value::Histogram(_) if ignores_histograms(at.op) => {
                note_ignored(at, notes);
                None
            }
            Value::Float(v) if matches!(at.op, AggregateOp::Min | AggregateOp::Max) => {
                fold.sum = *v;
                fold.count = 1.0;
                Some(fold)
            }
            _ => {
                fold.add(at, value, notes);
                Some(fold)
            }
        }
    }

    fn add(&mut self, at: Place<'_>, value: &Value, notes: &mut Notes) {
        match value {
            Value::Histogram(_) if ignores_histograms(at.op) => note_ignored(at, notes),
            Value::Histogram(h) => {
                self.count += 1.0;
                if matches!(at.op, AggregateOp::Sum | AggregateOp::Avg) {
                    self.add_histogram(at, h, notes);
                }
            }
            Value::Float(v) => self.add_float(at.op, *v),
        }
    }

    fn add_float(&mut self, op: AggregateOp, v: f64) {
        self.count += 1.0;
        self.has_float = true;
        match op {
            AggregateOp::Sum => (self.sum, self.lost) = kahan_add(v, self.sum, self.lost),
            AggregateOp::Avg => self.mean.add(v),
            AggregateOp::Max if self.sum < v || self.sum.is_nan() => self.sum = v,
            AggregateOp::Min if self.sum > v || self.sum.is_nan() => self.sum = v,
            AggregateOp::Quantile => self.values.push(v),
            AggregateOp::Stddev | AggregateOp::Stdvar => self.variance(v),
            _ => {}
        }
    }

    /// Welford's method: `lost` is the mean, `sum` the sum of squared distances.
    fn variance(&mut self, v: f64) {
        if self.count == 1.0 {
            self.lost = v;
            self.sum = if v.is_finite() { 0.0 } else { f64::NAN };
            return;
        }
        let delta = v - self.lost;
        self.lost += delta / self.count;
        self.sum += delta * (v - self.lost);
    }

    fn add_histogram(&mut self, at: Place<'_>, h: &Histogram, notes: &mut Notes) {
        if self.incompatible {
            return;
        }
        let fold = self.histogram.get_or_insert_with(|| {
            Box::new(HistogramFold {
                mean: super::avg::HistogramMean::new(at.op == AggregateOp::Avg),
                saw_reset: false,
                saw_none: false,
            })
        });
        fold.saw_reset |= h.reset == ResetHint::Reset;
        fold.saw_none |= h.reset == ResetHint::NotReset;
        if let Ok(mut merge) = fold.mean.add(h) {
            merge.reset_collision = false;
            note_merge(merge, "aggregation", at.span, notes);
        } else {
            let text =
                "vector contains a mix of histograms with exponential and custom buckets schemas";
            notes.warn(at.span, &format!("{text} for metric name {:?}", at.metric));
            self.incompatible = true;
        }
    }

    fn finish(self, at: Place<'_>, param: f64, notes: &mut Notes) -> Option<Value> {
        if self.incompatible {
            return None;
        }
        if let Some(fold) = self.histogram {
            if self.has_float {
                let text = "encountered a mix of histograms and floats for aggregation";
                notes.warn(at.span, text);
                return None;
            }
            if fold.saw_reset && fold.saw_none {
                let text = "conflicting counter resets during histogram aggregation";
                notes.warn(at.span, text);
            }
            return fold.mean.finish().map(Value::from);
        }
        let value = match at.op {
            AggregateOp::Sum => self.sum + self.lost,
            AggregateOp::Avg => self.mean.finish(),
            AggregateOp::Count => self.count,
            AggregateOp::Group => 1.0,
            AggregateOp::Stdvar => self.sum / self.count,
            AggregateOp::Stddev => (self.sum / self.count).sqrt(),
            AggregateOp::Quantile => quantile(param, self.values),
            _ => self.sum,
        };
        Some(Value::Float(value))
    }
}

fn ignores_histograms(op: AggregateOp) -> bool {
    matches!(
        op,
        AggregateOp::Min
            | AggregateOp::Max
            | AggregateOp::Stddev
            | AggregateOp::Stdvar
            | AggregateOp::Quantile
    )
}

fn note_ignored(at: Place<'_>, notes: &mut Notes) {
    notes.info(at.span, &format!("ignored histogram in {} aggregation", at.op.as_str()));
}
