//! Instant vector selectors.

use super::QueryError;
use super::eval::{Evaluator, Series};
use crate::ast::{Extension, Selector, Span};
use crate::sample::{Point, Value};
use crate::storage::{Needs, Samples, SelectedSeries, TimeRange};

impl<'a> Evaluator<'a> {
    /// The newest sample of every series at every step, within the lookback.
    pub(super) fn instant_selector(
        &mut self,
        selector: &Selector,
        span: Span,
    ) -> Result<Vec<Series>, QueryError> {
        if selector.extension == Some(Extension::Smoothed) {
            return super::rate::smoothed_selector(self, selector, span);
        }
        self.picked(selector, |samples, at, t_ms, out| {
            // The common case on its own: it needs no look at what kind of value it is.
            if samples.histograms.is_empty() {
                out.push(Point { t_ms, value: Value::Float(samples.floats[at]) });
            } else {
                out.push(Point { t_ms, value: samples.value(at) });
            }
        })
    }

    /// As `instant_selector`, with the point made of the picked sample.
    pub(super) fn picked(
        &mut self,
        selector: &Selector,
        make: impl Fn(&Samples<'_>, usize, i64, &mut Vec<Point>),
    ) -> Result<Vec<Series>, QueryError> {
        let offset_ms = self.offset_ms(selector.offset.as_ref())?;
        let selected = self.selected(selector, offset_ms, 0)?;
        let mut out = Vec::with_capacity(selected.len());
        for mut one in selected {
            if self.statistics && !one.samples.histograms.is_empty() {
                super::window::without_buckets(&mut one.samples);
            }
            let mut points = Vec::new();
            let mut next = 0;
            for step_ms in self.steps.times() {
                let reference = self.reference_ms(selector.at, step_ms).saturating_sub(offset_ms);
                if step_ms == self.steps.start_ms {
                    next = one.samples.times.partition_point(|t| *t <= reference);
                }
                while one.samples.times.get(next).is_some_and(|t| *t <= reference) {
                    next += 1;
                }
                let Some(at) = next.checked_sub(1) else { continue };
                let too_old = self.left_of(
                    one.samples.times[at],
                    reference.saturating_sub(self.options.lookback_ms),
                );
                if !too_old && !one.samples.is_stale(at) {
                    if points.is_empty() {
                        let samples_left = one.samples.len() - at;
                        points.reserve(self.steps_left(step_ms).min(samples_left));
                    }
                    make(&one.samples, at, step_ms, &mut points);
                }
            }
            self.charge(points.len() + 1)?;
            if !points.is_empty() {
                out.push(Series { labels: one.labels, drop_name: false, points });
            }
        }
        Ok(out)
    }

    /// Series with the samples that any step of an instant selector may need.
    pub(super) fn selected(
        &mut self,
        selector: &Selector,
        offset_ms: i64,
        ahead_ms: i64,
    ) -> Result<Vec<SelectedSeries<'a>>, QueryError> {
        let first = self.reference_ms(selector.at, self.steps.start_ms);
        let last_step = self.steps.start_ms
            + (self.steps.count().saturating_sub(1)) as i64 * self.steps.step_ms;
        let last = self.reference_ms(selector.at, last_step);
        let range = TimeRange {
            start_ms: first.saturating_sub(offset_ms).saturating_sub(self.options.lookback_ms),
            end_ms: last.saturating_sub(offset_ms).saturating_add(ahead_ms),
        };
        let storage = self.storage;
        let needs =
            if self.steps.count() == 1 && ahead_ms == 0 { Needs::Newest } else { Needs::All };
        let selected = storage.select(&selector.matchers, range, needs)?;
        for one in &selected {
            self.samples_read += one.samples.len() as u64;
        }
        Ok(selected)
    }

    /// `timestamp(selector)`: the time of the picked sample instead of its value.
    pub(super) fn picked_times(&mut self, selector: &Selector) -> Result<Vec<Series>, QueryError> {
        self.picked(selector, |samples, at, t_ms, out| {
            out.push(Point { t_ms, value: Value::Float(samples.times[at] as f64 / 1000.0) });
        })
    }

    /// `start_timestamp(selector)`: the start time of the picked sample, 0 where unknown.
    pub(super) fn picked_starts(&mut self, selector: &Selector) -> Result<Vec<Series>, QueryError> {
        self.picked(selector, |samples, at, t_ms, out| {
            out.push(Point { t_ms, value: Value::Float(samples.start(at) as f64 / 1000.0) });
        })
    }
}
