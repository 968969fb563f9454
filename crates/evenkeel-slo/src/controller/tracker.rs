//! From the metrics port to histories: counters are counted, cleverer queries are evaluated.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use evenkeel_control::{Metrics, MetricsError, Series, Span};
use jiff::Timestamp;

use crate::{
    budget::{
        CounterSources, Counters, Events, History, Objective, Slice, SloKey, Tally, counter_sources,
    },
    duration::PromDuration,
    model::{Labels, Slo},
    template::Template,
};

/// How far back a first look counts as finely as later ones.
const FINE: Duration = Duration::from_hours(1);
/// Distance of the looks at older times.
const COARSE: Duration = Duration::from_mins(5);
/// Moments one range query may have; Prometheus refuses more than 11,000.
const MOMENTS_MAX: u32 = 10_000;
/// Shortest range a rate is taken over, when events are not counted but estimated.
const RATE_MIN: Duration = Duration::from_mins(1);
/// Budgets of one grouped SLO.
const GROUPS_MAX: usize = 1_000;

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

/// Counts the events of one SLO as time goes by.
#[derive(Clone, Debug)]
pub struct Tracker {
    slo: Slo,
    objective: Objective,
    counted: Counted,
    counters: BTreeMap<Labels, Counters>,
    histories: BTreeMap<SloKey, Arc<History>>,
    looked_at: Option<Timestamp>,
}

/// What a look asks for.
#[derive(Clone, Debug)]
enum Counted {
    /// Counters behind the queries: exact.
    Counters(CounterSources),
    /// Rates of bad and all events, as the queries give them.
    Rates(Template, Template),
    /// The error ratio itself: every second counts as one event.
    Ratio(Template),
}

/// Counters of bad and all events at one moment: each with its identity and value.
#[derive(Default)]
struct Moment {
    bad: Vec<(Arc<str>, f64)>,
    total: Vec<(Arc<str>, f64)>,
}

impl Tracker {
    /// A tracker that has not looked yet. `None` for an SLO without budget or readable query.
    pub fn new(slo: &Slo) -> Option<Self> {
        let counted = match (counter_sources(slo), &slo.sli.events, &slo.sli.raw) {
            (Some(sources), _, _) => Counted::Counters(sources),
            (None, Some(events), _) => Counted::Rates(
                Template::parse(&events.error_query).ok()?,
                Template::parse(&events.total_query).ok()?,
            ),
            (None, None, Some(raw)) => Counted::Ratio(Template::parse(raw).ok()?),
            (None, None, None) => return None,
        };
        Some(Self {
            slo: slo.clone(),
            objective: Objective::new(slo.objective)?,
            counted,
            counters: BTreeMap::new(),
            histories: BTreeMap::new(),
            looked_at: None,
        })
    }

    /// The SLO it is for.
    pub fn slo(&self) -> &Slo {
        &self.slo
    }

    /// A budget about which nothing is known.
    pub fn unknown(&self) -> (SloKey, Arc<History>) {
        let key = SloKey { id: self.slo.id.clone(), group: Labels::new() };
        (key, Arc::new(History::new(self.objective, self.slo.window)))
    }

    /// Its histories, one per group; none as long as nothing was counted.
    pub fn histories(&self) -> &BTreeMap<SloKey, Arc<History>> {
        &self.histories
    }

    /// True until it has looked once.
    pub fn is_new(&self) -> bool {
        self.looked_at.is_none()
    }

    /// Counts everything since the last look, at most once per `every`; at the first look (and
    /// after a long gap) the SLO's whole window, as far as the metrics go back.
    ///
    /// **Errors**: nothing is counted then, and the next look counts it all.
    pub async fn advance(
        &mut self,
        metrics: &dyn Metrics,
        now: Timestamp,
        every: Duration,
    ) -> Result<(), LookError> {
        for span in spans(self.looked_at, now, every, self.slo.window) {
            let moments = match &self.counted {
                Counted::Counters(sources) => count(metrics, sources, span).await?,
                Counted::Rates(..) | Counted::Ratio(_) => {
                    self.estimate(metrics, span).await?;
                    continue;
                }
            };
            let groups: BTreeSet<&Labels> =
                moments.values().flat_map(BTreeMap::keys).chain(self.counters.keys()).collect();
            self.check_groups(groups.len())?;
            let groups: Vec<Labels> = groups.into_iter().cloned().collect();
            for at in span.moments() {
                for group in &groups {
                    let seen = moments.get(&at).and_then(|groups| groups.get(group));
                    self.look(group, at, seen)?;
                }
                self.looked_at = Some(at);
            }
        }
        Ok(())
    }

    fn check_groups(&self, found: usize) -> Result<(), LookError> {
        if found.max(self.histories.len()) > GROUPS_MAX {
            return Err(LookError::TooManyGroups { found });
        }
        Ok(())
    }

    fn look(
        &mut self,
        group: &Labels,
        at: Timestamp,
        seen: Option<&Moment>,
    ) -> Result<(), LookError> {
        let (bad, total) = seen.map_or((&[][..], &[][..]), |m| (&m.bad, &m.total));
        let counters = self.counters.entry(group.clone()).or_default();
        let slice = counters
            .look(at, named(bad), named(total))
            .map_err(|error| LookError::Uncountable(error.to_string()))?;
        if let Some(slice) = slice {
            self.push(group, slice);
        }
        Ok(())
    }

    fn push(&mut self, group: &Labels, slice: Slice) {
        let key = SloKey { id: self.slo.id.clone(), group: group.clone() };
        let (objective, window) = (self.objective, self.slo.window);
        let history =
            self.histories.entry(key).or_insert_with(|| Arc::new(History::new(objective, window)));
        let history = Arc::make_mut(history);
        // After a gap the events since its start count, in the time that is not told yet.
        let told = history.slices().next_back().map_or(slice.from, |last| last.to);
        let slice = Slice { from: slice.from.max(told), ..slice };
        if let Err(error) = history.push(slice) {
            tracing::debug!(slo = self.slo.id, %error, "slice left out");
        }
    }

    /// Asks for rates or ratios, and counts each step as what they say of it.
    async fn estimate(&mut self, metrics: &dyn Metrics, span: Span) -> Result<(), LookError> {
        let range = PromDuration::from_ms(
            u64::try_from(span.step.max(RATE_MIN).as_millis()).unwrap_or(u64::MAX),
        );
        let range = range.to_string();
        let seconds = span.step.as_secs_f64();
        let mut steps: BTreeMap<Timestamp, BTreeMap<Labels, (f64, f64)>> = BTreeMap::new();
        match &self.counted {
            Counted::Counters(_) => {}
            Counted::Rates(error, total) => {
                let total = metrics.query_range(&total.render(&range), span).await?;
                for series in &total {
                    for (at, value) in series.points.iter().filter(|p| p.1.is_finite()) {
                        let group = steps.entry(*at).or_default();
                        group.entry(group_of(series)).or_default().1 += value * seconds;
                    }
                }
                let error = metrics.query_range(&error.render(&range), span).await?;
                for series in &error {
                    for (at, value) in series.points.iter().filter(|p| p.1.is_finite()) {
                        let known = steps.get_mut(at).and_then(|g| g.get_mut(&group_of(series)));
                        if let Some(step) = known {
                            step.0 += value * seconds;
                        }
                    }
                }
            }
            Counted::Ratio(ratio) => {
                let ratio = metrics.query_range(&ratio.render(&range), span).await?;
                for series in &ratio {
                    for (at, value) in series.points.iter().filter(|p| p.1.is_finite()) {
                        let group = steps.entry(*at).or_default();
                        let bad = value.clamp(0.0, 1.0) * seconds;
                        group.insert(group_of(series), (bad, seconds));
                    }
                }
            }
        }
        let groups: BTreeSet<Labels> = steps.values().flat_map(|g| g.keys().cloned()).collect();
        self.check_groups(groups.len())?;
        for at in span.moments() {
            let from = self.looked_at.replace(at);
            let Some(from) = from else { continue };
            let known: BTreeSet<Labels> =
                self.histories.keys().map(|key| key.group.clone()).chain(groups.clone()).collect();
            for group in known {
                let step = steps.get(&at).and_then(|groups| groups.get(&group));
                let tally = step.and_then(|(bad, total)| {
                    Some(Tally::new(Events::from_f64(*bad)?, Events::from_f64(*total)?))
                });
                self.push(&group, Slice { from, to: at, tally });
            }
        }
        Ok(())
    }
}

fn named(list: &[(Arc<str>, f64)]) -> impl Iterator<Item = (&str, f64)> {
    list.iter().map(|(name, value)| (&**name, *value))
}

/// The spans that bring a tracker up to date, oldest first.
fn spans(
    looked_at: Option<Timestamp>,
    now: Timestamp,
    every: Duration,
    window: PromDuration,
) -> Vec<Span> {
    let ago = |span: Duration| now.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH);
    let window = Duration::from_millis(window.as_ms());
    let start = looked_at.unwrap_or(ago(window)).max(ago(window));
    if start >= now {
        // A clock that stepped back: wait until it is there again.
        return Vec::new();
    }
    let fine_from = ago(FINE.max(every)).max(start);
    let mut spans = Vec::new();
    if fine_from > start {
        let length = Duration::try_from(fine_from.duration_since(start)).unwrap_or_default();
        let step = COARSE.max(every).max(length / MOMENTS_MAX);
        let first = if looked_at.is_some() { start + step } else { start };
        spans.push(Span { first, last: fine_from, step });
    }
    let last = spans.last().and_then(|span: &Span| span.moments().last());
    let from = last.or(looked_at);
    let step = every.max(FINE / MOMENTS_MAX).max(Duration::from_millis(1));
    let first = from.map_or(start, |from| from + step);
    if first <= now {
        spans.push(Span { first, last: now, step });
    }
    spans
}

/// The counters at every moment of a span, by group.
async fn count(
    metrics: &dyn Metrics,
    sources: &CounterSources,
    span: Span,
) -> Result<BTreeMap<Timestamp, BTreeMap<Labels, Moment>>, LookError> {
    let mut moments: BTreeMap<Timestamp, BTreeMap<Labels, Moment>> = BTreeMap::new();
    for (bad, selectors) in [(true, &sources.error), (false, &sources.total)] {
        for (number, selector) in selectors.iter().enumerate() {
            for series in metrics.query_range(selector, span).await? {
                let labels = series.labels.iter();
                let group: Labels = labels
                    .filter(|(name, _)| sources.group_by.contains(name))
                    .map(|(name, value)| (name.clone(), value.clone()))
                    .collect();
                let name: Arc<str> = identity(number, &series).into();
                for (at, value) in series.points {
                    let moment = moments.entry(at).or_default().entry(group.clone()).or_default();
                    let list = if bad { &mut moment.bad } else { &mut moment.total };
                    list.push((name.clone(), value));
                }
            }
        }
    }
    Ok(moments)
}

/// A text that no other series of the same query has.
fn identity(selector: usize, series: &Series) -> String {
    let labels: Vec<_> = series.labels.iter().map(|(k, v)| format!("{k}={v:?}")).collect();
    format!("{selector} {}", labels.join(","))
}

fn group_of(series: &Series) -> Labels {
    let labels = series.labels.iter().filter(|(name, _)| *name != "__name__");
    labels.map(|(name, value)| (name.clone(), value.clone())).collect()
}
