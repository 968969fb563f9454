//! The questions to a metrics server, and what of the answers is counted.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_control::{Metrics, MetricsError, Series, Span};
use jiff::Timestamp;

use crate::{
    budget::{CounterSources, SeriesId},
    duration::PromDuration,
    model::Labels,
    template::Template,
};

/// Budgets of one grouped SLO. Of more, those without data for longest are forgotten.
pub(super) const GROUPS_MAX: usize = 1_000;
/// Shortest range a rate is taken over, when events are not counted but estimated.
const RATE_MIN: Duration = Duration::from_mins(1);

/// Why a look at the metrics gave nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LookError {
    /// The metrics did not answer, or not to this query.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
    /// Label explosion.
    #[error("{found} groups of one SLO, at most {GROUPS_MAX} have a budget")]
    TooManyGroups {
        /// How many there are.
        found: usize,
    },
    /// Something cannot be counted.
    #[error("{0}")]
    Uncountable(String),
}

/// The counters of one chunk, in the order of their names.
#[derive(Default)]
pub(super) struct Columns {
    pub(super) counters: Vec<Column>,
    /// Number of each group.
    pub(super) groups: BTreeMap<Labels, usize>,
    /// Points of the largest answer.
    pub(super) points: usize,
}

/// One counter over a chunk.
pub(super) struct Column {
    pub(super) id: Arc<SeriesId>,
    pub(super) group: usize,
    pub(super) is_bad: bool,
    pub(super) points: std::iter::Peekable<std::vec::IntoIter<(Timestamp, f64)>>,
}

/// Bad and all events of the steps of one chunk.
pub(super) struct Answers {
    pub(super) moments: BTreeMap<Timestamp, BTreeMap<Labels, (f64, f64)>>,
    /// Points of the largest answer.
    pub(super) points: usize,
}

impl Answers {
    fn new() -> Self {
        Self { moments: BTreeMap::new(), points: 0 }
    }

    fn take(&mut self, answer: &[Series]) {
        self.points = self.points.max(points(answer));
    }

    pub(super) fn groups(&self) -> BTreeSet<Labels> {
        self.moments.values().flat_map(BTreeMap::keys).cloned().collect()
    }
}

/// The counters over a span.
pub(super) async fn columns(
    metrics: &dyn Metrics,
    sources: &CounterSources,
    span: Span,
) -> Result<Columns, LookError> {
    let mut all = Columns::default();
    for (is_bad, selectors) in [(true, &sources.error), (false, &sources.total)] {
        for (selector, query) in selectors.iter().enumerate() {
            let mut answer = metrics.query_range(query, span).await?;
            all.points = all.points.max(points(&answer));
            answer.sort_by(|a, b| a.labels.cmp(&b.labels));
            for series in answer {
                let labels = series.labels.iter();
                let group: Labels = labels
                    .filter(|(name, _)| sources.group_by.contains(name))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                let next = all.groups.len();
                let group = *all.groups.entry(group).or_insert(next);
                let id = Arc::new(SeriesId { selector, labels: series.labels });
                let points = series.points.into_iter().peekable();
                all.counters.push(Column { id, group, is_bad, points });
            }
        }
    }
    // Numbered in the order of their labels.
    let order: Vec<usize> = all.groups.values().copied().collect();
    let mut number = vec![0; order.len()];
    for (new, old) in order.into_iter().enumerate() {
        if let Some(slot) = number.get_mut(old) {
            *slot = new;
        }
    }
    for group in all.groups.values_mut().chain(all.counters.iter_mut().map(|c| &mut c.group)) {
        *group = number.get(*group).copied().unwrap_or_default();
    }
    Ok(all)
}

fn points(answer: &[Series]) -> usize {
    answer.iter().map(|series| series.points.len()).sum()
}

/// Bad and all events of every step of a span by their rates, by group.
pub(super) async fn rates(
    metrics: &dyn Metrics,
    (error, total): (&Template, &Template),
    span: Span,
) -> Result<Answers, LookError> {
    let (range, seconds) = (range(span), span.step.as_secs_f64());
    let total = metrics.query_range(&total.render(&range), span).await?;
    let error = metrics.query_range(&error.render(&range), span).await?;
    let mut answers = Answers::new();
    answers.take(&total);
    answers.take(&error);
    for series in &total {
        for (at, value) in series.points.iter().filter(|p| p.1.is_finite()) {
            let step: &mut (f64, f64) =
                answers.moments.entry(*at).or_default().entry(group_of(series)).or_default();
            step.1 += value * seconds;
        }
    }
    for series in &error {
        for (at, value) in series.points.iter().filter(|p| p.1.is_finite()) {
            let known = answers.moments.get_mut(at).and_then(|g| g.get_mut(&group_of(series)));
            if let Some(step) = known {
                step.0 += value * seconds;
            }
        }
    }
    Ok(answers)
}

/// Every second of a step as one event, by group. A ratio that is not a number is 0 / 0: no events.
pub(super) async fn ratios(
    metrics: &dyn Metrics,
    ratio: &Template,
    span: Span,
) -> Result<Answers, LookError> {
    let seconds = span.step.as_secs_f64();
    let answer = metrics.query_range(&ratio.render(&range(span)), span).await?;
    let mut answers = Answers::new();
    answers.take(&answer);
    for series in &answer {
        for (at, value) in series.points.iter().filter(|p| !p.1.is_infinite()) {
            let step = if value.is_nan() {
                (0.0, 0.0)
            } else {
                (value.clamp(0.0, 1.0) * seconds, seconds)
            };
            answers.moments.entry(*at).or_default().insert(group_of(series), step);
        }
    }
    Ok(answers)
}

/// The range that a rate is taken over.
fn range(span: Span) -> String {
    let ms = u64::try_from(span.step.max(RATE_MIN).as_millis()).unwrap_or(u64::MAX);
    PromDuration::from_ms(ms).to_string()
}

fn group_of(series: &Series) -> Labels {
    let labels = series.labels.iter().filter(|(name, _)| *name != "__name__");
    labels.map(|(name, value)| (name.clone(), value.clone())).collect()
}
