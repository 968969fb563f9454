//! Quantiles and fractions of classic and native histograms.

use super::QueryError;
use super::eval::{Cursors, Data, Evaluator, Series};
use super::quantile::{ClassicBucket, Raised, bucket_fraction, bucket_quantile};
use crate::annotation::Fixes;
use crate::ast::{Expr, Span};
use crate::histogram::Histogram;
use crate::labels::{BUCKET_LABEL, Labels, is_valid_label_name, quote};
use crate::number::{format_general, parse_float};
use crate::sample::{Point, Value};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

/// One histogram at one step: classic buckets, a native one, or both by mistake.
#[derive(Default)]
struct Found {
    buckets: Vec<ClassicBucket>,
    native: Option<Arc<Histogram>>,
}

/// Where a call stands, for notes.
#[derive(Clone, Copy)]
struct Site<'s> {
    span: Span,
    /// ` for metric name "..."`, if it is known.
    of_metric: &'s str,
    t_ms: i64,
}

impl Evaluator<'_> {
    pub(super) fn histogram_quantile(&mut self, args: &[Expr]) -> Result<Data, QueryError> {
        let quantiles = self.scalar(&args[0])?;
        self.note_quantiles(&quantiles, args[0].span);
        let series = self.vector(&args[1])?;
        self.histograms(&series, args[1].span, |e, step, site, found| {
            let q = quantiles.get(step).copied().unwrap_or(f64::NAN);
            quantile_of(e, site, q, found)
        })
    }

    pub(super) fn histogram_fraction(&mut self, args: &[Expr]) -> Result<Data, QueryError> {
        let lower = self.scalar(&args[0])?;
        let upper = self.scalar(&args[1])?;
        let series = self.vector(&args[2])?;
        self.histograms(&series, args[2].span, |e, step, site, found| {
            let at = |v: &[f64]| v.get(step).copied().unwrap_or(f64::NAN);
            match found.native {
                Some(h) => {
                    let (share, has_nan) = h.fraction(at(&lower), at(&upper));
                    if has_nan {
                        let text = format!(
                            "input to histogram_fraction has NaN observations, which are excluded from all fractions{}",
                            site.of_metric
                        );
                        e.annotations.info(site.span, &text);
                    }
                    Some(share)
                }
                None => bucket_fraction(at(&lower), at(&upper), found.buckets),
            }
        })
    }

    pub(super) fn histogram_quantiles(&mut self, args: &[Expr]) -> Result<Data, QueryError> {
        let label = Self::literal(&args[1])?;
        if !is_valid_label_name(&label) {
            let reason = format!("invalid label name {}", quote(&label));
            return Err(QueryError::Execution(reason));
        }
        let series = self.vector(&args[0])?;
        let mut out = Vec::new();
        for arg in args.iter().skip(2) {
            let quantiles = self.scalar(arg)?;
            self.note_quantiles(&quantiles, arg.span);
            let value = quantiles.first().copied().unwrap_or(f64::NAN);
            let text = crate::number::format_bound(value);
            let data = self.histograms(&series, args[0].span, |e, step, site, found| {
                let q = quantiles.get(step).copied().unwrap_or(f64::NAN);
                quantile_of(e, site, q, found)
            })?;
            if let Data::Vector(series) = data {
                for one in series {
                    let labels = one.labels.with(&label, &text);
                    out.push(Series { labels, ..one });
                }
            }
        }
        // As upstream: with names removed at the end, an instant query is looked at only then.
        if self.steps.count() > 1 {
            super::eval::check_distinct(&out)?;
        }
        self.checked(out)
    }

    fn note_quantiles(&mut self, quantiles: &[f64], span: Span) {
        for q in quantiles {
            if !(0.0..=1.0).contains(q) {
                let text =
                    format!("quantile value should be between 0 and 1, got {}", format_general(*q));
                self.annotations.warn(span, &text);
            }
        }
    }

    /// Gathers histograms and applies a function to each at each step.
    fn histograms(
        &mut self,
        series: &[Series],
        span: Span,
        mut apply: impl FnMut(&mut Self, usize, Site<'_>, Found) -> Option<f64>,
    ) -> Result<Data, QueryError> {
        let members = self.members(series, span);
        let mut cursors = Cursors::new(series.len());
        let mut points: Vec<Vec<Point>> = vec![Vec::new(); members.groups.len()];
        for (step, t_ms) in self.steps.times().enumerate() {
            self.charge(members.groups.len())?;
            self.work_on(series.len())?;
            let mut found: BTreeMap<usize, Found> = BTreeMap::new();
            for i in 0..series.len() {
                let Some(value) = cursors.value(series, i, t_ms) else { continue };
                match value {
                    Value::Float(count) => {
                        let Some((group, upper)) = members.classic[i] else { continue };
                        let entry = found.entry(group).or_default();
                        entry.buckets.push(ClassicBucket { upper, count: *count });
                    }
                    Value::Histogram(h) => {
                        let entry = found.entry(members.native[i]).or_default();
                        entry.native = Some(Arc::clone(h));
                    }
                }
            }
            for (group, found) in found {
                let of_metric = self.of_metric(&series[members.first[group]].labels);
                if found.native.is_some() && !found.buckets.is_empty() {
                    let text = format!(
                        "vector contains a mix of classic and native histograms{of_metric}"
                    );
                    self.annotations.warn(span, &text);
                    continue;
                }
                let site = Site { span, of_metric: &of_metric, t_ms };
                if let Some(value) = apply(self, step, site, found) {
                    points[group].push(Point { t_ms, value: value.into() });
                }
            }
        }
        let mut out = Vec::new();
        for ((labels, drop_name), points) in members.groups.into_iter().zip(points) {
            if !points.is_empty() {
                out.push(Series { labels, drop_name, points });
            }
        }
        self.checked(out)
    }

    /// What notes of histograms say of their metric: without delayed removal of names it is gone.
    fn of_metric(&self, labels: &Labels) -> String {
        match labels.metric_name() {
            name if self.options.delayed_name_removal && !name.is_empty() => {
                format!(" for metric name {name:?}")
            }
            _ => String::new(),
        }
    }

    fn members(&mut self, series: &[Series], span: Span) -> Members {
        let mut members = Members::default();
        let mut index: HashMap<Labels, usize> = HashMap::new();
        for (i, one) in series.iter().enumerate() {
            let mut group_of = |labels: Labels, members: &mut Members| {
                *index.entry(labels.clone()).or_insert_with(|| {
                    let named = self.unnamed(labels);
                    members.groups.push(named);
                    members.first.push(i);
                    members.groups.len() - 1
                })
            };
            let has_float = one.points.iter().any(|p| p.value.as_float().is_some());
            let has_native = one.points.iter().any(|p| p.value.as_histogram().is_some());
            let native = if has_native { group_of(one.labels.clone(), &mut members) } else { 0 };
            let le = one.labels.get(BUCKET_LABEL);
            let upper = parse_float(le);
            let classic = match upper {
                Some(upper) if has_float => {
                    Some((group_of(one.labels.drop(&[BUCKET_LABEL]), &mut members), upper))
                }
                _ => None,
            };
            members.native.push(native);
            members.classic.push(classic);
            if has_float && upper.is_none() {
                let text = format!(
                    "bucket label \"le\" is missing or has a malformed value of {}{}",
                    quote(le),
                    self.of_metric(&one.labels)
                );
                self.annotations.warn(span, &text);
            }
        }
        members
    }
}

/// Which histogram each series belongs to.
#[derive(Default)]
struct Members {
    groups: Vec<(Labels, bool)>,
    /// A series of each group.
    first: Vec<usize>,
    native: Vec<usize>,
    classic: Vec<Option<(usize, f64)>>,
}

fn quantile_of(e: &mut Evaluator<'_>, site: Site<'_>, q: f64, found: Found) -> Option<f64> {
    if let Some(h) = found.native {
        let (value, skewed) = h.quantile(q);
        let how = match skewed {
            Some(true) => Some("result is NaN"),
            Some(false) => Some("result is skewed higher"),
            None => None,
        };
        if let Some(how) = how {
            let text = format!(
                "input to histogram_quantile has NaN observations, {how}{}",
                site.of_metric
            );
            e.annotations.info(site.span, &text);
        }
        return Some(value);
    }
    let (value, raised) = bucket_quantile(q, found.buckets)?;
    if let Some(Raised { buckets, difference }) = raised {
        let text = format!(
            "input to histogram_quantile needed to be fixed for monotonicity (see https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile){}",
            site.of_metric
        );
        let times_ms = (site.t_ms, site.t_ms);
        let fixes = Fixes { buckets, difference, samples: 1, times_ms };
        e.annotations.fixed(site.span, &text, fixes);
    }
    Some(value)
}
