//! From the metrics port to histories: counters are counted, cleverer queries are evaluated.
//!
//! A look asks in chunks, oldest first, and keeps what it has counted: a look that fails or is cut
//! short is taken up by the next one where it ended. Memory: one chunk of an answer, the counters
//! (see `budget::Counters`), and one history for each of at most [`GROUPS_MAX`] groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::Duration,
};

use evenkeel_base::Clock;
use evenkeel_control::{Metrics, Span};
use jiff::{SignedDuration, Timestamp};

use super::{
    ask::{Answers, Columns, GROUPS_MAX, LookError, columns, rates, ratios},
    chunk::{Chunk, Wanted, counted_percent},
    probe::Probe,
};
use crate::{
    budget::{
        CounterSources, Counters, Events, History, Objective, Reading, Slice, SloKey, Tally,
        counter_sources,
    },
    model::{Labels, Slo},
    template::Template,
};

/// The range in a query that is shown.
const RATE_TEXT: &str = "1m";
/// Chunks of one look; the next look goes on. A month of a few series takes seven.
const CHUNKS_MAX: usize = 12;
/// And no further chunk after this long: other SLOs wait.
const LOOK_TIME_MAX: SignedDuration = SignedDuration::from_secs(3);

/// What the newest look found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sight {
    /// Not all of the window is counted yet: so much of it, in percent.
    Counting(u32),
    /// Everything up to the newest look.
    Counted,
    /// No series of the query: which, and what shows that its events would be seen.
    NoSeries {
        /// The selectors or the query.
        query: String,
        /// `None`: nothing shows it, so nothing is known.
        evidence: Option<String>,
    },
}

/// Counts the events of one SLO as time goes by.
#[derive(Clone, Debug)]
pub struct Tracker {
    slo: Slo,
    objective: Objective,
    counted: Counted,
    probe: Probe,
    namespace: String,
    counters: BTreeMap<Labels, Counters>,
    histories: BTreeMap<SloKey, Arc<History>>,
    looked_at: Option<Timestamp>,
    chunk: Chunk,
    /// Times that are counted finely however old they are.
    edges: Vec<(Timestamp, Timestamp)>,
    sight: Sight,
    /// When each group last had data.
    last_data: BTreeMap<Labels, Timestamp>,
    /// Whether any series of it was ever seen.
    known: bool,
    /// Whether the newest moment had any.
    present: bool,
    /// The newest chunk, until its end was judged.
    newest: Option<Span>,
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

/// Counters of bad and all events at one moment.
#[derive(Default)]
struct Moment {
    bad: Vec<Reading>,
    total: Vec<Reading>,
}

impl Tracker {
    /// A tracker that has not looked yet. `None` for an SLO without budget or readable query.
    pub fn new(slo: &Slo) -> Option<Self> {
        let (counted, query) = match (counter_sources(slo), &slo.sli.events, &slo.sli.raw) {
            (Some(sources), Some(events), _) => (Counted::Counters(sources), &events.total_query),
            (_, Some(events), _) => {
                let error = Template::parse(&events.error_query).ok()?;
                let total = Template::parse(&events.total_query).ok()?;
                (Counted::Rates(error, total), &events.total_query)
            }
            (_, None, Some(raw)) => (Counted::Ratio(Template::parse(raw).ok()?), raw),
            (_, None, None) => return None,
        };
        Some(Self {
            slo: slo.clone(),
            objective: Objective::new(slo.objective)?,
            counted,
            probe: Probe::new(query),
            namespace: String::new(),
            counters: BTreeMap::new(),
            histories: BTreeMap::new(),
            looked_at: None,
            chunk: Chunk::new(),
            edges: Vec::new(),
            sight: Sight::Counting(0),
            last_data: BTreeMap::new(),
            known: false,
            present: false,
            newest: None,
        })
    }

    /// Why an SLO has no budget that can be counted; `None` when it has one.
    pub fn problem(slo: &Slo) -> Option<String> {
        if Objective::new(slo.objective).is_none() {
            return Some(format!("objective {} is not above 0 and at most 100", slo.objective));
        }
        let queries = match (&slo.sli.events, &slo.sli.raw) {
            (Some(events), _) => vec![&events.error_query, &events.total_query],
            (None, Some(raw)) => vec![raw],
            (None, None) => return Some("it has neither sli.events nor sli.raw".to_owned()),
        };
        queries.into_iter().find_map(|query| {
            let error = Template::parse(query).err()?;
            Some(format!("query {}: {error}", query.trim()))
        })
    }

    /// Targets of this namespace that are up show that the service is looked at.
    #[must_use]
    pub fn within(mut self, namespace: &str) -> Self {
        namespace.clone_into(&mut self.namespace);
        self
    }

    /// Old times that are counted as finely as new ones, in order: there a change began or ended,
    /// and what failed before and after is not one's and the same's.
    #[must_use]
    pub(super) fn with_edges(mut self, edges: Vec<(Timestamp, Timestamp)>) -> Self {
        self.edges = edges;
        self
    }

    /// Whether what it has counted is what this SLO counts: queries, groups and window. All else
    /// (objective, name, texts, alerts) may differ.
    pub(super) fn counts(&self, slo: &Slo) -> bool {
        let own = &self.slo;
        own.sli == slo.sli && own.group_by == slo.group_by && own.window == slo.window
    }

    /// The same counts for an SLO that was edited; `None` when they are not its counts.
    pub(super) fn revised(mut self, slo: &Slo) -> Option<Self> {
        if !self.counts(slo) {
            return None;
        }
        self.objective = Objective::new(slo.objective)?;
        let histories = std::mem::take(&mut self.histories);
        for (key, mut history) in histories {
            Arc::make_mut(&mut history).set_objective(self.objective);
            self.histories.insert(SloKey { id: slo.id.clone(), ..key }, history);
        }
        self.slo = slo.clone();
        Some(self)
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

    /// What the newest look found.
    pub fn sight(&self) -> &Sight {
        &self.sight
    }

    /// The service had events before this tracker began: that there are none now is then not
    /// taken for a service without traffic.
    pub fn had_events(&mut self) {
        self.known = true;
    }

    /// Counts what has happened since the last look, at most once per `every`; at the first look
    /// (and after a long gap) the SLO's whole window, as far as the metrics go back. It may stop
    /// before that: [`Sight::Counting`] says so, and the next call goes on.
    ///
    /// **Errors**: what was counted before stays counted, and the next call goes on from there,
    /// asking for less at once. Dropping the future loses one chunk at most.
    pub async fn advance(
        &mut self,
        metrics: &dyn Metrics,
        clock: &dyn Clock,
        every: Duration,
    ) -> Result<(), LookError> {
        let began = clock.now();
        for _ in 0..CHUNKS_MAX {
            let now = clock.now();
            let wanted = Wanted { every, window: self.slo.window, edges: &self.edges };
            let Some(span) = self.chunk.next(self.looked_at, now, &wanted) else {
                return self.caught_up(metrics, now).await;
            };
            if now.duration_since(began) > LOOK_TIME_MAX {
                break;
            }
            match self.count(metrics, span).await {
                Ok(points) => self.chunk.answered(span.moments().count(), points),
                Err(error) => {
                    self.chunk.failed(span.moments().count());
                    return Err(error);
                }
            }
            self.newest = Some(span);
            if let Sight::Counting(percent) = &mut self.sight {
                *percent = counted_percent(self.looked_at, now, self.slo.window);
            }
        }
        Ok(())
    }

    /// Counts one chunk and says how many points its largest answer had.
    async fn count(&mut self, metrics: &dyn Metrics, span: Span) -> Result<usize, LookError> {
        match &self.counted {
            Counted::Counters(sources) => {
                let answer = columns(metrics, sources, span).await?;
                self.make_room(span, answer.groups.keys().cloned().collect())?;
                let points = answer.points;
                self.count_counters(span, answer)?;
                Ok(points)
            }
            Counted::Rates(error, total) => {
                let answers = rates(metrics, (error, total), span).await?;
                self.make_room(span, answers.groups())?;
                self.count_steps(span, &answers);
                Ok(answers.points)
            }
            Counted::Ratio(ratio) => {
                let answers = ratios(metrics, ratio, span).await?;
                self.make_room(span, answers.groups())?;
                self.count_steps(span, &answers);
                Ok(answers.points)
            }
        }
    }

    /// Everything is counted: what is there to see?
    async fn caught_up(&mut self, metrics: &dyn Metrics, now: Timestamp) -> Result<(), LookError> {
        let Some(span) = self.newest else { return Ok(()) };
        if self.present {
            self.sight = Sight::Counted;
        } else {
            let mut evidence = None;
            if !self.known {
                evidence = self.probe.ask(metrics, &self.namespace, now).await?;
            }
            if let Some(to) = self.looked_at.filter(|_| evidence.is_some()) {
                let from = to.checked_sub(span.step).unwrap_or(to);
                self.push(&Labels::new(), Slice { from, to, tally: Some(Tally::default()) });
            }
            self.sight = Sight::NoSeries { query: self.counted.to_string(), evidence };
        }
        // Asked once per look.
        self.newest = None;
        let length = Duration::from_millis(self.slo.window.as_ms());
        let edge = now.checked_sub(length).unwrap_or(Timestamp::MIN);
        let old = |(group, last): (&Labels, &Timestamp)| {
            (!group.is_empty() && *last < edge).then(|| group.clone())
        };
        let old: Vec<Labels> = self.last_data.iter().filter_map(old).collect();
        for group in &old {
            self.forget(group);
        }
        Ok(())
    }

    fn forget(&mut self, group: &Labels) {
        self.counters.remove(group);
        self.last_data.remove(group);
        self.histories.remove(&self.key(group));
    }

    fn key(&self, group: &Labels) -> SloKey {
        SloKey { id: self.slo.id.clone(), group: group.clone() }
    }

    /// Makes room for the groups of an answer: of too many, those without data for longest go.
    fn make_room(&mut self, span: Span, present: BTreeSet<Labels>) -> Result<(), LookError> {
        let found = present.len();
        if found > GROUPS_MAX {
            if span.moments().nth(1).is_none() {
                // No smaller question is left: this moment is without data.
                self.looked_at = Some(span.first);
            }
            return Err(LookError::TooManyGroups { found });
        }
        if !present.is_empty() && !self.known {
            self.known = true;
            if !present.contains(&Labels::new()) {
                // What stood for an SLO without any series.
                self.forget(&Labels::new());
            }
        }
        let mut absent: Vec<(Timestamp, Labels)> = self
            .last_data
            .iter()
            .filter(|(group, _)| !present.contains(*group))
            .map(|(group, last)| (*last, group.clone()))
            .collect();
        absent.sort_unstable();
        let surplus = (found + absent.len()).saturating_sub(GROUPS_MAX);
        absent.iter().take(surplus).for_each(|(_, group)| self.forget(group));
        for group in present {
            self.last_data.entry(group).or_insert(span.first);
        }
        Ok(())
    }

    fn count_counters(&mut self, span: Span, mut answer: Columns) -> Result<(), LookError> {
        let groups: Vec<Labels> = answer.groups.keys().cloned().collect();
        for column in &mut answer.counters {
            let counters = groups.get(column.group).and_then(|group| self.counters.get(group));
            if let Some(known) = counters.and_then(|counters| counters.known(&column.id)) {
                column.id = known.clone();
            }
        }
        let groups: Vec<(Labels, Option<usize>)> = self
            .last_data
            .keys()
            .map(|group| (group.clone(), answer.groups.get(group).copied()))
            .collect();
        let mut moments: Vec<Moment> = answer.groups.keys().map(|_| Moment::default()).collect();
        let none = Moment::default();
        let mut problem = None;
        for at in span.moments() {
            moments.iter_mut().for_each(Moment::clear);
            for column in &mut answer.counters {
                while column.points.next_if(|(past, _)| *past < at).is_some() {}
                let point = column.points.next_if(|(now, _)| *now == at);
                if let (Some((_, value)), Some(moment)) = (point, moments.get_mut(column.group)) {
                    let list = if column.is_bad { &mut moment.bad } else { &mut moment.total };
                    list.push((column.id.clone(), value));
                }
            }
            for (group, number) in &groups {
                let moment = number.and_then(|number| moments.get(number)).unwrap_or(&none);
                let counters = self.counters.entry(group.clone()).or_default();
                let slice = counters.look(at, &moment.bad, &moment.total).unwrap_or_else(|error| {
                    problem = Some(LookError::Uncountable(error.to_string()));
                    None
                });
                if let Some(slice) = slice {
                    self.push(group, slice);
                }
            }
            self.present = moments.iter().any(|moment| !moment.total.is_empty());
            self.looked_at = Some(at);
        }
        problem.map_or(Ok(()), Err)
    }

    /// Counts each step as what rates or ratios say of it.
    fn count_steps(&mut self, span: Span, answers: &Answers) {
        let groups = self.last_data.keys().filter(|_| self.known);
        let groups: Vec<Labels> = groups.cloned().collect();
        for at in span.moments() {
            let seen = answers.moments.get(&at);
            self.present = seen.is_some_and(|seen| !seen.is_empty());
            let Some(from) = self.looked_at.replace(at) else { continue };
            for group in &groups {
                let step = seen.and_then(|seen| seen.get(group));
                let tally = step.and_then(|(bad, total)| {
                    Some(Tally::new(Events::from_f64(*bad)?, Events::from_f64(*total)?))
                });
                self.push(group, Slice { from, to: at, tally });
            }
        }
    }

    fn push(&mut self, group: &Labels, slice: Slice) {
        let (objective, window) = (self.objective, self.slo.window);
        let history = self
            .histories
            .entry(self.key(group))
            .or_insert_with(|| Arc::new(History::new(objective, window)));
        let history = Arc::make_mut(history);
        // After a gap the events since its start count, in the time that is not recorded yet.
        let told = history.slices().next_back().map_or(slice.from, |last| last.to);
        let slice = Slice { from: slice.from.max(told), ..slice };
        if slice.tally.is_some() {
            self.last_data.insert(group.clone(), slice.to);
        }
        if let Err(error) = history.push(slice) {
            tracing::debug!(slo = self.slo.id, %error, "slice left out");
        }
    }
}

impl fmt::Display for Counted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Counters(sources) => f.write_str(&sources.total.join(" or ")),
            Self::Rates(_, total) => f.write_str(total.render(RATE_TEXT).trim()),
            Self::Ratio(ratio) => f.write_str(ratio.render(RATE_TEXT).trim()),
        }
    }
}

impl Moment {
    fn clear(&mut self) {
        self.bad.clear();
        self.total.clear();
    }
}
