//! Aggregations that pick series: topk, bottomk, limitk, `limit_ratio`.

use super::QueryError;
use super::aggregate::Groups;
use super::eval::{Cursors, Evaluator, Series};
use crate::ast::{Aggregate, AggregateOp, Span};
use crate::labels::Labels;
use crate::number::format_general;
use crate::sample::{Point, Value};
use std::cmp::Ordering;

impl Evaluator<'_> {
    pub(super) fn pick(
        &mut self,
        (agg, span): (&Aggregate, Span),
        params: &[f64],
        series: Vec<Series>,
        groups: &Groups,
    ) -> Result<Vec<Series>, QueryError> {
        let mut cursors = Cursors::new(series.len());
        let mut kept: Vec<Vec<Point>> = vec![Vec::new(); series.len()];
        let mut order: Vec<usize> = (0..series.len()).collect();
        for (step, t_ms) in self.steps.times().enumerate() {
            self.charge(series.len())?;
            let param = params.get(step).copied().unwrap_or_default();
            let mut present: Vec<Vec<(usize, Value)>> = vec![Vec::new(); groups.labels.len()];
            for i in 0..series.len() {
                if let Some(value) = cursors.value(&series, i, t_ms) {
                    present[groups.of[i]].push((i, value.clone()));
                }
            }
            let mut picked = Vec::new();
            for group in present {
                if !group.is_empty() || step == 0 {
                    picked.extend(self.pick_in_group((agg, span), param, group, &series)?);
                }
            }
            if groups.labels.is_empty() {
                self.pick_in_group((agg, span), param, Vec::new(), &series)?;
            }
            if self.steps.count() == 1 {
                order = picked.iter().map(|(i, _)| *i).collect();
            }
            for (i, value) in picked {
                kept[i].push(Point { t_ms, value });
            }
        }
        let mut slots: Vec<Option<Series>> = series.into_iter().map(Some).collect();
        let mut out = Vec::new();
        for i in order {
            let points = std::mem::take(&mut kept[i]);
            if points.is_empty() {
                continue;
            }
            if let Some(one) = slots[i].take() {
                out.push(Series { points, ..one });
            }
        }
        Ok(out)
    }

    fn pick_in_group(
        &mut self,
        (agg, span): (&Aggregate, Span),
        param: f64,
        group: Vec<(usize, Value)>,
        series: &[Series],
    ) -> Result<Vec<(usize, Value)>, QueryError> {
        match agg.op {
            AggregateOp::LimitRatio => {
                let ratio = self.ratio(agg, param)?;
                let takes = |i: usize| takes_ratio(ratio, &series[i].labels);
                Ok(group.into_iter().filter(|(i, _)| takes(*i)).collect())
            }
            AggregateOp::Limitk => {
                let k = whole(param)?;
                Ok(group.into_iter().take(k).collect())
            }
            op => {
                let k = whole(param)?;
                let floats = group.len();
                let mut group: Vec<(usize, Value)> =
                    group.into_iter().filter(|(_, v)| v.as_float().is_some()).collect();
                if group.len() < floats && k > 0 {
                    let text = format!("ignored histogram in {} aggregation", op.as_str());
                    self.annotations.info(span, &text);
                }
                let number = |v: &Value| v.as_float().unwrap_or(f64::NAN);
                group.sort_by(|(_, a), (_, b)| rank(op, number(a), number(b)));
                group.truncate(k);
                Ok(group)
            }
        }
    }

    fn ratio(&mut self, agg: &Aggregate, ratio: f64) -> Result<f64, QueryError> {
        if ratio.is_nan() {
            return Err(QueryError::Execution("Ratio value is NaN".to_owned()));
        }
        let capped = ratio.clamp(-1.0, 1.0);
        if capped != ratio {
            let span = agg.param.as_ref().map_or(agg.expr.span, |p| p.span);
            let text = format!(
                "ratio value should be between -1 and 1, got {}, capping to {}",
                format_general(ratio),
                format_general(capped)
            );
            self.annotations.warn(span, &text);
        }
        Ok(capped)
    }
}

fn whole(k: f64) -> Result<usize, QueryError> {
    if k.is_nan() {
        return Err(QueryError::Execution("Parameter value is NaN".to_owned()));
    }
    if !(-9.223_372_036_854_775e18..=9.223_372_036_854_775e18).contains(&k) {
        let reason = format!("Scalar value {} overflows int64", format_general(k));
        return Err(QueryError::Execution(reason));
    }
    Ok(if k < 1.0 { 0 } else { k as usize })
}

/// Best first; NaN last in both directions.
fn rank(op: AggregateOp, a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            let ascending = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
            if op == AggregateOp::Topk { ascending.reverse() } else { ascending }
        }
    }
}

/// Whether a series belongs to the sampled share; complementary ratios (0.3 and -0.7) split all
/// series.
fn takes_ratio(ratio: f64, labels: &Labels) -> bool {
    let offset = crate::hash::of_labels(labels) as f64 / u64::MAX as f64;
    if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio }
}
