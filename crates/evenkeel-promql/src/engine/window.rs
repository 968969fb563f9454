//! Sliding windows over the samples of a series.

use super::eval::Evaluator;
use super::{QueryError, Steps};
use crate::ast::{At, Expr, ExprKind, Extension, Selector, Subquery};
use crate::blocks::{BLOCK, Blocks, Cut, Gap};
use crate::histogram::{Histogram, ResetHint};
use crate::labels::Labels;
use crate::sample::{Point, Value};
use crate::storage::{Needs, Samples, TimeRange};
use std::borrow::Cow;
use std::sync::Arc;

/// From this many steps on, drops are looked up once for all windows.
const DROPS_STEPS_MIN: usize = 8;

/// Samples of one window, column by column. No sample marks an end.
#[derive(Clone, Copy)]
pub(super) struct Window<'w> {
    pub(super) times: &'w [i64],
    pub(super) floats: &'w [f64],
    pub(super) histograms: &'w [Option<Arc<Histogram>>],
    pub(super) starts: &'w [i64],
    pub(super) blocks: Option<Blocks<'w>>,
    /// Samples that are not here; only functions that ask for ends meet it.
    pub(super) gap: Option<Gap<'w>>,
    /// Position of the first sample in its series.
    pub(super) from: usize,
    /// Where values drop inside of the window, and from which value, if that was looked up.
    pub(super) drops: Option<&'w [(usize, f64)]>,
    /// Left end in milliseconds.
    pub(super) start_ms: i64,
    /// Right end in milliseconds.
    pub(super) end_ms: i64,
}

impl<'w> Window<'w> {
    pub(super) fn len(&self) -> usize {
        self.times.len()
    }

    /// Number of samples, with those in the gap.
    pub(super) fn count(&self) -> usize {
        self.len() + self.gap.map_or(0, |gap| gap.whole.len() * BLOCK)
    }

    /// The window around its whole blocks, if it has any that can stand for their samples.
    pub(super) fn cut(&self) -> Option<Cut<'w>> {
        match self.gap {
            Some(gap) => Some(gap.into()),
            None => self.blocks?.cut(self.len()),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    pub(super) fn histogram(&self, at: usize) -> Option<&'w Arc<Histogram>> {
        self.histograms.get(at).and_then(Option::as_ref)
    }

    pub(super) fn value(&self, at: usize) -> Value {
        match self.histogram(at) {
            Some(h) => Value::Histogram(Arc::clone(h)),
            None => Value::Float(self.floats[at]),
        }
    }

    /// How many samples are histograms.
    pub(super) fn histogram_count(&self) -> usize {
        self.histograms.iter().filter(|h| h.is_some()).count()
    }

    /// Float samples with their times.
    pub(super) fn float_points(&self) -> impl Iterator<Item = (i64, f64)> + use<'w> {
        let histograms = self.histograms;
        self.times
            .iter()
            .copied()
            .zip(self.floats.iter().copied())
            .enumerate()
            .filter(move |(i, _)| histograms.get(*i).is_none_or(Option::is_none))
            .map(|(_, point)| point)
    }

    /// Histogram samples.
    pub(super) fn histogram_values(&self) -> impl Iterator<Item = &'w Arc<Histogram>> + use<'w> {
        self.histograms.iter().flatten()
    }
}

/// One series to slide over.
pub(super) struct RangeSeries<'s> {
    pub(super) labels: Labels,
    pub(super) drop_name: bool,
    /// Without end markers.
    pub(super) samples: Samples<'s>,
}

/// What a range vector reads.
pub(super) struct RangeSource<'s> {
    pub(super) series: Vec<RangeSeries<'s>>,
    pub(super) range_ms: i64,
    pub(super) offset_ms: i64,
    pub(super) at: Option<At>,
    pub(super) extension: Option<Extension>,
    /// What the current function reads.
    pub(super) needs: Needs,
}

impl RangeSource<'_> {
    /// Right end of the window at a step.
    pub(super) fn window_end(&self, evaluator: &Evaluator<'_>, step_ms: i64) -> i64 {
        evaluator.reference_ms(self.at, step_ms).saturating_sub(self.offset_ms)
    }
}

impl<'a> Evaluator<'a> {
    /// The time that `@` fixes, or the step.
    pub(super) fn reference_ms(&self, at: Option<At>, step_ms: i64) -> i64 {
        match at {
            None => step_ms,
            Some(At::Time(ms)) => ms,
            Some(At::Start) => self.outer.start_ms,
            Some(At::End) => self.outer.end_ms,
        }
    }

    /// Selects what a range vector needs for all steps.
    pub(super) fn range_source(
        &mut self,
        expr: &Expr,
        needs: Needs,
    ) -> Result<RangeSource<'a>, QueryError> {
        match &expr.unwrapped().kind {
            ExprKind::Range { selector, range } => {
                let range_ms = self.positive_ms(range)?;
                self.selected_range(selector, range_ms, needs)
            }
            ExprKind::Subquery(subquery) => self.subquery(subquery),
            _ => Err(QueryError::Execution("a range vector is needed here".to_owned())),
        }
    }

    fn selected_range(
        &mut self,
        selector: &Selector,
        range_ms: i64,
        needs: Needs,
    ) -> Result<RangeSource<'a>, QueryError> {
        let offset_ms = self.offset_ms(selector.offset.as_ref())?;
        let first = self.reference_ms(selector.at, self.steps.start_ms);
        let last_step = self.steps.start_ms
            + (self.steps.count().saturating_sub(1)) as i64 * self.steps.step_ms;
        let last = self.reference_ms(selector.at, last_step);
        let mut range = TimeRange {
            start_ms: first.saturating_sub(offset_ms).saturating_sub(range_ms),
            end_ms: last.saturating_sub(offset_ms),
        };
        if selector.extension.is_some() {
            range.start_ms = range.start_ms.saturating_sub(self.options.lookback_ms);
        }
        if selector.extension == Some(Extension::Smoothed) {
            range.end_ms = range.end_ms.saturating_add(self.options.lookback_ms);
        }
        let storage = self.storage;
        let one_window = self.steps.count() == 1 && selector.extension.is_none();
        let selectable =
            if one_window && !self.options.sample_by_sample { needs } else { Needs::All };
        let selected = storage.select(&selector.matchers, range, selectable)?;
        let mut series = Vec::with_capacity(selected.len());
        for one in selected {
            self.samples_read += one.samples.count() as u64;
            self.work_on(one.samples.len() / 8)?;
            let mut samples = without_markers(one.samples);
            if self.options.sample_by_sample {
                samples.blocks = None;
            }
            if self.statistics {
                without_buckets(&mut samples);
            }
            series.push(RangeSeries { labels: one.labels, drop_name: false, samples });
        }
        Ok(RangeSource {
            series,
            range_ms,
            offset_ms,
            at: selector.at,
            extension: selector.extension,
            needs,
        })
    }

    fn subquery(&mut self, subquery: &Subquery) -> Result<RangeSource<'a>, QueryError> {
        let range_ms = self.positive_ms(&subquery.range)?;
        let offset_ms = self.offset_ms(subquery.offset.as_ref())?;
        let step_ms = match &subquery.step {
            Some(step) => self.positive_ms(step)?,
            None => self.options.default_step_ms,
        };
        let first = self.reference_ms(subquery.at, self.steps.start_ms).saturating_sub(offset_ms);
        let last_step = self.steps.start_ms
            + (self.steps.count().saturating_sub(1)) as i64 * self.steps.step_ms;
        let last = self.reference_ms(subquery.at, last_step).saturating_sub(offset_ms);
        // Steps are multiples of the step since the epoch, whatever the query's own steps are.
        let left = first.saturating_sub(range_ms);
        let mut start_ms = step_ms.saturating_mul(left.div_euclid(step_ms));
        let closed_hit = self.options.closed_ranges && start_ms == left;
        if start_ms <= left && !closed_hit {
            start_ms = start_ms.saturating_add(step_ms);
        }
        let steps = Steps { start_ms, end_ms: last, step_ms };
        if steps.count() as u64 > self.options.samples_max {
            return Err(QueryError::TooManySamples);
        }
        let inner = if steps.count() == 0 {
            Vec::new()
        } else {
            let statistics = std::mem::take(&mut self.statistics);
            let in_subquery = std::mem::replace(&mut self.in_subquery, true);
            let inner = self.with_steps(steps, |e| e.vector(&subquery.expr));
            (self.statistics, self.in_subquery) = (statistics, in_subquery);
            inner?
        };
        let series = inner
            .into_iter()
            .map(|one| RangeSeries {
                labels: one.labels,
                drop_name: one.drop_name,
                samples: columns(one.points),
            })
            .collect();
        Ok(RangeSource {
            series,
            range_ms,
            offset_ms,
            at: subquery.at,
            extension: None,
            needs: Needs::All,
        })
    }

    /// Calls `apply` with the window of every step of a series, as long as it is not empty, and
    /// returns what it appended.
    pub(super) fn slide<T>(
        &mut self,
        source: &RangeSource<'_>,
        samples: &Samples<'_>,
        mut apply: impl FnMut(&mut Self, i64, Window<'_>, &mut Vec<T>) -> Result<(), QueryError>,
    ) -> Result<Vec<T>, QueryError> {
        let mut out = Vec::new();
        let (mut from, mut to) = (0, 0);
        let times = &samples.times;
        let several = source.needs == Needs::Ends && self.steps.count() >= DROPS_STEPS_MIN;
        let known = several && samples.gap.is_none() && !self.options.sample_by_sample;
        let drops = known.then(|| drops(&samples.floats));
        for step_ms in self.steps.times() {
            let end_ms = source.window_end(self, step_ms);
            let start_ms = end_ms.saturating_sub(source.range_ms);
            if step_ms == self.steps.start_ms {
                from = times.partition_point(|t| self.left_of(*t, start_ms));
                to = from + times[from..].partition_point(|t| *t <= end_ms);
            }
            while from < times.len() && self.left_of(times[from], start_ms) {
                from += 1;
            }
            to = to.max(from);
            while to < times.len() && times[to] <= end_ms {
                to += 1;
            }
            if from == to {
                continue;
            }
            let touched = to - from;
            let by_blocks = source.needs == Needs::Ends && samples.blocks.is_some();
            self.work_on(if by_blocks {
                touched.min(touched / BLOCK + 2 * BLOCK)
            } else {
                touched
            })?;
            let window = Window {
                times: &samples.times[from..to],
                floats: &samples.floats[from..to],
                histograms: samples.histograms.get(from..to).unwrap_or_default(),
                starts: samples.starts.get(from..to).unwrap_or_default(),
                blocks: samples.blocks.map(|b| b.skip(from)),
                gap: samples.gap.map(|gap| Gap { at: gap.at - from, ..gap }),
                from,
                drops: drops.as_ref().map(|drops| {
                    let first = drops.partition_point(|(at, _)| *at <= from);
                    let end = drops.partition_point(|(at, _)| *at < to).max(first);
                    &drops[first..end]
                }),
                start_ms,
                end_ms,
            };
            if out.capacity() == 0 {
                out.reserve(self.steps_left(step_ms).min(times.len() - from));
            }
            apply(self, step_ms, window, &mut out)?;
        }
        self.charge(out.len())?;
        Ok(out)
    }

    /// How many steps there are from one on.
    pub(super) fn steps_left(&self, step_ms: i64) -> usize {
        Steps { start_ms: step_ms, ..self.steps }.count()
    }

    /// Whether a time lies left of a window that starts at `start_ms`.
    pub(super) fn left_of(&self, t_ms: i64, start_ms: i64) -> bool {
        if self.options.closed_ranges { t_ms < start_ms } else { t_ms <= start_ms }
    }

    /// The points of a range vector at the (only) step.
    pub(super) fn last_window(
        &mut self,
        expr: &Expr,
        series: &RangeSeries<'_>,
    ) -> Result<Vec<Point>, QueryError> {
        let shape = self.shape(expr)?;
        if let Some(extension) = shape.extension {
            return super::rate::extended_points(self, &shape, series, extension);
        }
        self.slide(&shape, &series.samples, |_, _, window, out| {
            let point = |i| Point { t_ms: window.times[i], value: window.value(i) };
            out.extend((0..window.len()).map(point));
            Ok(())
        })
    }

    /// A range source without series: only its lengths.
    fn shape(&self, expr: &Expr) -> Result<RangeSource<'static>, QueryError> {
        let (range, offset, at, extension) = match &expr.unwrapped().kind {
            ExprKind::Range { selector, range } => {
                (range, selector.offset.as_ref(), selector.at, selector.extension)
            }
            ExprKind::Subquery(s) => (&s.range, s.offset.as_ref(), s.at, None),
            _ => return Err(QueryError::Execution("a range vector is needed here".to_owned())),
        };
        Ok(RangeSource {
            series: Vec::new(),
            range_ms: self.positive_ms(range)?,
            offset_ms: self.offset_ms(offset)?,
            at,
            extension,
            needs: Needs::All,
        })
    }
}

/// Positions of values below the one before, and the one before.
fn drops(floats: &[f64]) -> Vec<(usize, f64)> {
    let pairs = floats.windows(2).enumerate();
    pairs.filter(|(_, pair)| pair[1] < pair[0]).map(|(i, pair)| (i + 1, pair[0])).collect()
}

/// Drops end markers; borrows if there are none.
pub(super) fn without_markers(samples: Samples<'_>) -> Samples<'_> {
    let marker = |v: &f64| crate::number::is_stale(*v);
    let marked = if let Some(cut) = samples.blocks.and_then(|b| b.cut(samples.len())) {
        let ends = [&samples.floats[..cut.head_end], &samples.floats[cut.tail_start..]];
        ends.into_iter().flatten().any(marker)
    } else if samples.histograms.is_empty() {
        samples.floats.iter().any(marker)
    } else {
        (0..samples.len()).any(|i| samples.is_stale(i))
    };
    if !marked {
        return samples;
    }
    let keep: Vec<usize> = (0..samples.len()).filter(|i| !samples.is_stale(*i)).collect();
    let pick = |column: &[i64]| keep.iter().filter_map(|i| column.get(*i).copied()).collect();
    Samples {
        times: Cow::Owned(pick(&samples.times)),
        floats: Cow::Owned(keep.iter().map(|i| samples.floats[*i]).collect()),
        histograms: Cow::Owned(
            keep.iter().filter_map(|i| samples.histograms.get(*i).cloned()).collect(),
        ),
        starts: Cow::Owned(pick(&samples.starts)),
        blocks: None,
        gap: samples.gap.map(|gap| Gap { at: keep.partition_point(|i| *i < gap.at), ..gap }),
    }
}

/// Histograms without their buckets, which counts and sums do not need; those without a hint are
/// given first whether the counter was reset before them.
pub(super) fn without_buckets(samples: &mut Samples<'_>) {
    let mut previous: Option<Arc<Histogram>> = None;
    for slot in samples.histograms.to_mut() {
        let Some(h) = slot else { continue };
        let reset = match (h.reset, &previous) {
            (ResetHint::Unknown, Some(p)) if h.is_reset_after(p) => ResetHint::Reset,
            (ResetHint::Unknown, Some(_)) => ResetHint::NotReset,
            (ResetHint::Gauge, _) => {
                // Their hint does not mention resets, their buckets do.
                previous = Some(Arc::clone(h));
                continue;
            }
            (known, _) => known,
        };
        let Histogram { schema, count, sum, .. } = **h;
        let plain = Histogram { schema, count, sum, reset, ..Histogram::default() };
        previous = Some(std::mem::replace(h, Arc::new(plain)));
    }
}

fn columns(points: Vec<Point>) -> Samples<'static> {
    let any_histogram = points.iter().any(|p| p.value.as_histogram().is_some());
    let mut histograms = Vec::new();
    let mut times = Vec::with_capacity(points.len());
    let mut floats = Vec::with_capacity(points.len());
    for point in points {
        times.push(point.t_ms);
        floats.push(point.value.as_float().unwrap_or_default());
        if any_histogram {
            histograms.push(match point.value {
                Value::Histogram(mut h) => {
                    // Samples between these steps were skipped, so their hints mean nothing here.
                    if matches!(h.reset, ResetHint::Reset | ResetHint::NotReset) {
                        Arc::make_mut(&mut h).reset = ResetHint::Unknown;
                    }
                    Some(h)
                }
                Value::Float(_) => None,
            });
        }
    }
    Samples {
        times: Cow::Owned(times),
        floats: Cow::Owned(floats),
        histograms: Cow::Owned(histograms),
        starts: Cow::Owned(Vec::new()),
        blocks: None,
        gap: None,
    }
}
