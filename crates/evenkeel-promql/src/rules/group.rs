//! Groups of rules.

use super::INTERVAL_MS;
use super::alert::{AlertingRule, Notice};
use super::file::{GroupSpec, RuleSpec};
use crate::ast::Query;
use crate::engine::{Options, QueryError, TIME_MS_MAX, instant, instant_text};
use crate::labels::{Labels, METRIC_NAME};
use crate::number::stale;
use crate::parser::{ParseError, parse};
use crate::result::{QueryValue, VectorSample};
use crate::sample::{Point, Value};
use crate::series::{AppendError, SeriesStore};
use crate::storage::Storage;
use std::collections::{BTreeMap, BTreeSet};

/// A store that results of rules go back into.
pub trait RuleStore: Storage {
    /// Takes one sample.
    fn append(&mut self, labels: &Labels, t_ms: i64, value: Value) -> Result<(), AppendError>;

    /// Takes samples of one series, oldest first; how many it took.
    fn append_all(&mut self, labels: &Labels, points: &mut dyn Iterator<Item = Point>) -> usize {
        points.filter_map(|p| self.append(labels, p.t_ms, p.value).ok()).count()
    }

    /// As what queries see it.
    fn as_storage(&self) -> &dyn Storage;
}

impl RuleStore for SeriesStore {
    fn append(&mut self, labels: &Labels, t_ms: i64, value: Value) -> Result<(), AppendError> {
        self.append_value(labels, t_ms, value, 0).map(|_| ())
    }

    fn append_all(&mut self, labels: &Labels, points: &mut dyn Iterator<Item = Point>) -> usize {
        let Ok(id) = self.series(labels) else { return 0 };
        points.filter_map(|p| self.append_to(id, p.t_ms, p.value, 0).ok()).count()
    }

    fn as_storage(&self) -> &dyn Storage {
        self
    }
}

/// What an evaluation needs besides store and time.
#[derive(Clone, Copy, Debug)]
pub struct Context<'c> {
    /// How queries are evaluated.
    pub options: &'c Options,
    /// Labels of this installation, for templates and sent alerts.
    pub external_labels: &'c Labels,
    /// Where this installation is reached, for templates; empty when not known.
    pub external_url: &'c str,
    /// How often a firing alert is sent again, milliseconds.
    pub resend_ms: i64,
}

/// How the last evaluation of a rule went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// There was none yet.
    #[default]
    Unknown,
    /// Well.
    Good,
    /// Not at all, and why.
    Bad(String),
}

impl Health {
    /// As in the HTTP API.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Good => "ok",
            Self::Bad(_) => "err",
        }
    }
}

/// A recording rule.
#[derive(Clone, Debug)]
pub struct RecordingRule {
    /// The metric it writes.
    pub record: String,
    /// Its query.
    pub query: Query,
    /// Labels it sets.
    pub labels: BTreeMap<String, String>,
    /// Its query reads no series and no time: one result for all times.
    pub(super) constant: Option<Vec<(Labels, Value)>>,
}

/// The two kinds of rules.
#[derive(Clone, Debug)]
pub enum RuleKind {
    /// Writes a metric.
    Recording(RecordingRule),
    /// Raises alerts.
    Alerting(AlertingRule),
}

/// A rule and what its last evaluation left.
#[derive(Clone, Debug)]
pub struct Rule {
    /// What it does.
    pub kind: RuleKind,
    /// How its last evaluation went.
    pub health: Health,
    /// When that was, milliseconds.
    pub evaluated_ms: Option<i64>,
    /// Series it wrote then; those that are missing next time get an end marker.
    pub(super) written: BTreeSet<Labels>,
}

/// Rules that are evaluated one after the other at the same time.
#[derive(Clone, Debug)]
pub struct Group {
    /// Its name.
    pub name: String,
    /// The file or object it comes from.
    pub source: String,
    /// Distance between evaluations, milliseconds.
    pub interval_ms: i64,
    /// How far back its queries look, milliseconds.
    pub query_offset_ms: i64,
    /// Most series or alerts a rule may give; 0 for no limit.
    pub limit: usize,
    /// Its rules in the order of evaluation.
    pub rules: Vec<Rule>,
    /// When it was last evaluated, milliseconds.
    pub evaluated_ms: Option<i64>,
    /// Whether [`Group::changed`] is of interest: costs a look at the index per selector and
    /// evaluation.
    pub track_inputs: bool,
    /// Revision of the inputs at the last evaluation.
    inputs: Option<Vec<Option<u64>>>,
}

/// How one rule went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RuleOutcome {
    /// Its name.
    pub rule: String,
    /// Samples written, end markers included.
    pub samples: usize,
    /// Why there is no result, if so.
    pub error: Option<String>,
    /// Warnings of its query.
    pub warnings: Vec<String>,
    /// Samples that the store did not take.
    pub refused: usize,
    /// Samples read by its query.
    pub samples_read: u64,
}

/// How one evaluation of a group went.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Evaluation {
    /// Rule by rule.
    pub rules: Vec<RuleOutcome>,
    /// Alerts that are due for sending.
    pub notices: Vec<Notice>,
    /// Samples read by all queries.
    pub samples_read: u64,
}

impl Rule {
    /// From its specification.
    pub fn new(
        spec: &RuleSpec,
        group_labels: &BTreeMap<String, String>,
    ) -> Result<Self, ParseError> {
        let mut labels = group_labels.clone();
        labels.extend(spec.labels.clone());
        let kind = if let Some(alert) = &spec.alert {
            let mut rule = AlertingRule::new(alert, &spec.expr)?;
            rule.hold_ms = spec.hold.unwrap_or_default();
            rule.keep_firing_ms = spec.keep_firing_for.unwrap_or_default();
            rule.annotations = spec.annotations.clone();
            rule.labels = labels;
            RuleKind::Alerting(rule)
        } else {
            let record = spec.record.clone().unwrap_or_default();
            RuleKind::Recording(RecordingRule {
                record,
                query: parse(&spec.expr)?,
                labels,
                constant: None,
            })
        };
        Ok(Self { kind, health: Health::Unknown, evaluated_ms: None, written: BTreeSet::new() })
    }

    /// Its metric or alert name.
    pub fn name(&self) -> &str {
        match &self.kind {
            RuleKind::Recording(rule) => &rule.record,
            RuleKind::Alerting(rule) => &rule.name,
        }
    }

    /// Its query.
    pub fn query(&self) -> &Query {
        match &self.kind {
            RuleKind::Recording(rule) => &rule.query,
            RuleKind::Alerting(rule) => &rule.query,
        }
    }
}

/// When a rule is evaluated.
#[derive(Clone, Copy, Debug)]
pub(super) struct Times {
    /// What its query sees as now.
    pub(super) at_ms: i64,
    pub(super) now_ms: i64,
}

impl Rule {
    /// Evaluates at one time and writes what comes out.
    pub(super) fn evaluate(
        &mut self,
        store: &mut dyn RuleStore,
        times: Times,
        (limit, context): (usize, &Context<'_>),
    ) -> RuleOutcome {
        let Times { at_ms, now_ms } = times;
        let mut outcome = RuleOutcome { rule: self.name().to_owned(), ..RuleOutcome::default() };
        self.evaluated_ms = Some(now_ms);
        match compute(self, store.as_storage(), (at_ms, now_ms, limit), context) {
            Ok(computed) => {
                outcome.samples_read = computed.samples_read;
                outcome.warnings = computed.warnings;
                self.health = Health::Good;
                write(self, store, at_ms, computed.samples, &mut outcome);
            }
            Err(reason) => {
                self.health = Health::Bad(reason.clone());
                outcome.error = Some(reason);
            }
        }
        outcome
    }
}

impl Group {
    /// From its specification; `Err` when an expression is not a query.
    pub fn new(spec: &GroupSpec, source: &str) -> Result<Self, ParseError> {
        let rules: Result<Vec<Rule>, ParseError> =
            spec.rules.iter().map(|rule| Rule::new(rule, &spec.labels)).collect();
        Ok(Self {
            name: spec.name.clone(),
            source: source.to_owned(),
            interval_ms: spec.interval.filter(|ms| *ms > 0).unwrap_or(INTERVAL_MS),
            query_offset_ms: spec.query_offset.unwrap_or_default(),
            limit: spec.limit,
            rules: rules?,
            evaluated_ms: None,
            track_inputs: false,
            inputs: None,
        })
    }

    /// The newest evaluation time at or before `now_ms`. Groups are spread over the interval by
    /// their name, so that they do not all run at once.
    pub fn slot_ms(&self, now_ms: i64) -> i64 {
        let key = Labels::from_pairs([("file", &self.source), ("name", &self.name)]);
        let offset = (crate::hash::of_labels(&key) % self.interval_ms.unsigned_abs().max(1)) as i64;
        let since = now_ms.saturating_sub(offset);
        since.saturating_sub(since.rem_euclid(self.interval_ms.max(1))).saturating_add(offset)
    }

    /// Whether any input of the rules got a sample since the last evaluation. Unknown, or not
    /// tracked, counts as changed.
    pub fn changed(&self, storage: &dyn Storage) -> bool {
        let now = self.input_revisions(storage);
        match &self.inputs {
            Some(before) => *before != now || now.iter().any(Option::is_none),
            None => true,
        }
    }

    fn input_revisions(&self, storage: &dyn Storage) -> Vec<Option<u64>> {
        let queries = self.rules.iter().map(|rule| &rule.query().expr);
        queries
            .flat_map(|expr| expr.selectors())
            .filter(|selector| {
                // What the group writes itself does not count as input.
                let name = selector.name.as_deref().unwrap_or_default();
                !self.rules.iter().any(|rule| rule.name() == name)
            })
            .map(|selector| storage.revision(&selector.matchers))
            .collect()
    }

    /// Evaluates all rules at a time.
    pub fn evaluate(
        &mut self,
        store: &mut dyn RuleStore,
        now_ms: i64,
        context: &Context<'_>,
    ) -> Evaluation {
        // So that sums with holds and intervals fit.
        let now_ms = now_ms.clamp(-TIME_MS_MAX, TIME_MS_MAX);
        let mut evaluation = Evaluation::default();
        self.inputs = self.track_inputs.then(|| self.input_revisions(store.as_storage()));
        let at_ms = now_ms.saturating_sub(self.query_offset_ms);
        let (limit, interval_ms) = (self.limit, self.interval_ms);
        for rule in &mut self.rules {
            let times = Times { at_ms, now_ms };
            evaluation.rules.push(rule.evaluate(store, times, (limit, context)));
            if let RuleKind::Alerting(alerting) = &mut rule.kind {
                evaluation.notices.extend(alerting.due(now_ms, interval_ms, context));
            }
        }
        evaluation.samples_read = evaluation.rules.iter().map(|rule| rule.samples_read).sum();
        self.evaluated_ms = Some(now_ms);
        evaluation
    }

    /// Ends all series of the group, as when it is removed.
    pub fn retire(&mut self, store: &mut dyn RuleStore, now_ms: i64) -> usize {
        let mut ended = 0;
        for rule in &mut self.rules {
            for labels in std::mem::take(&mut rule.written) {
                ended += usize::from(store.append(&labels, now_ms, stale().into()).is_ok());
            }
        }
        ended
    }
}

struct Computed {
    samples: Vec<(Labels, Value)>,
    warnings: Vec<String>,
    samples_read: u64,
}

fn compute(
    rule: &mut Rule,
    storage: &dyn Storage,
    (at_ms, now_ms, limit): (i64, i64, usize),
    context: &Context<'_>,
) -> Result<Computed, String> {
    if let RuleKind::Recording(recording) = &rule.kind
        && let Some(samples) = &recording.constant
    {
        let samples = samples.clone();
        return Ok(Computed { samples, warnings: Vec::new(), samples_read: 0 });
    }
    let result = instant(storage, rule.query(), at_ms, context.options)
        .map_err(|e: QueryError| e.to_string())?;
    let warnings = result.warnings();
    let samples_read = result.samples_read;
    let found = vector(result.value)?;
    let samples = match &mut rule.kind {
        RuleKind::Recording(recording) => {
            let samples = recorded(recording, found, limit)?;
            if is_constant(&recording.query) {
                recording.constant = Some(samples.clone());
            }
            samples
        }
        RuleKind::Alerting(alerting) => {
            let query = |text: &str| -> Result<Vec<(Labels, f64)>, String> {
                let result = instant_text(storage, text, at_ms, context.options)
                    .map_err(|e| e.to_string())?;
                let found = vector(result.value)?;
                let float = |s: VectorSample| Some((s.labels, s.value.as_float()?));
                Ok(found.into_iter().filter_map(float).collect())
            };
            let samples = alerting.advance(&found, now_ms, (context, &query, limit))?;
            samples.into_iter().map(|(labels, v)| (labels, Value::Float(v))).collect()
        }
    };
    Ok(Computed { samples, warnings, samples_read })
}

fn vector(value: QueryValue) -> Result<Vec<VectorSample>, String> {
    match value {
        QueryValue::Vector(samples) => Ok(samples),
        QueryValue::Scalar { t_ms, value } => {
            Ok(vec![VectorSample { labels: Labels::empty(), t_ms, value: value.into() }])
        }
        _ => Err("rule result is not a vector or scalar".to_owned()),
    }
}

fn recorded(
    rule: &RecordingRule,
    found: Vec<VectorSample>,
    limit: usize,
) -> Result<Vec<(Labels, Value)>, String> {
    let mut out: BTreeMap<Labels, Value> = BTreeMap::new();
    for sample in found {
        let mut labels = sample.labels.with(METRIC_NAME, &rule.record);
        for (name, value) in &rule.labels {
            labels = labels.with(name, value);
        }
        if out.insert(labels, sample.value).is_some() {
            return Err(
                "vector contains metrics with the same labelset after applying rule labels"
                    .to_owned(),
            );
        }
    }
    if limit > 0 && out.len() > limit {
        return Err(format!("exceeded limit of {limit} with {} series", out.len()));
    }
    Ok(out.into_iter().collect())
}

/// Whether a query reads no series and no time.
pub(super) fn is_constant(query: &Query) -> bool {
    query.expr.selectors().is_empty() && crate::engine::is_invariant(&query.expr)
}

pub(super) fn write(
    rule: &mut Rule,
    store: &mut dyn RuleStore,
    at_ms: i64,
    samples: Vec<(Labels, Value)>,
    outcome: &mut RuleOutcome,
) {
    let mut written = BTreeSet::new();
    for (labels, value) in samples {
        match store.append(&labels, at_ms, value) {
            Ok(()) => outcome.samples += 1,
            Err(_) => outcome.refused += 1,
        }
        written.insert(labels);
    }
    for gone in rule.written.difference(&written) {
        match store.append(gone, at_ms, stale().into()) {
            Ok(()) => outcome.samples += 1,
            Err(_) => outcome.refused += 1,
        }
    }
    rule.written = written;
}
