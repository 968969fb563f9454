//! `info()`: labels of info metrics joined to a vector.
//!
//! **Source**: promql/info.go of Prometheus.

use super::QueryError;
use super::eval::{Cursors, Data, Evaluator, Merge, Series};
use crate::ast::{At, Expr, ExprKind, Length, Selector, Subquery, ValueType};
use crate::labels::{Labels, METRIC_NAME};
use crate::matcher::{MatchOp, Matcher};
use crate::sample::{Point, Value};
use std::collections::{BTreeMap, BTreeSet};

/// Labels that say which target a series belongs to.
const IDENTIFYING: [&str; 2] = ["instance", "job"];
/// The info metric that is joined if none is named.
const DEFAULT_INFO: &str = "target_info";

/// What `info()` joins to which series.
struct Join {
    /// Matchers of data labels; without any, all labels are joined.
    data: Vec<Matcher>,
    /// Values are the times of the samples, in milliseconds.
    infos: Vec<Series>,
    /// Identifying labels of each info series.
    info_keys: Vec<Labels>,
    /// Identifying labels of each series, `None` for those that are info metrics themselves.
    base_keys: Vec<Option<Labels>>,
}

/// The newest info series by identifying labels, then by name.
type Newest<'j> = BTreeMap<&'j Labels, BTreeMap<&'j str, (f64, &'j Series)>>;

impl Evaluator<'_> {
    pub(super) fn info(&mut self, args: &[Expr]) -> Result<Data, QueryError> {
        let reference = self.shared_reference(&args[0])?;
        let base = self.vector(&args[0])?;
        let (by_name, data): (Vec<Matcher>, Vec<Matcher>) = match args.get(1).map(|a| &a.kind) {
            Some(ExprKind::Selector(selector)) => {
                selector.matchers.iter().cloned().partition(|m| &*m.name == METRIC_NAME)
            }
            _ => (Vec::new(), Vec::new()),
        };
        let by_name = name_matchers(by_name)?;
        let is_info = |labels: &Labels| by_name.iter().all(|m| m.matches(labels.metric_name()));
        let key = |one: &Series| (!is_info(&one.labels)).then(|| one.labels.keep(&IDENTIFYING));
        let base_keys: Vec<Option<Labels>> = base.iter().map(key).collect();
        let matchers = by_name.iter().chain(&data).cloned().collect();
        let selector = Selector {
            matchers,
            at: reference.at_ms.map(At::Time),
            offset: Some(Length::Fixed(reference.offset_ms)),
            ..Selector::default()
        };
        let infos = self.info_series(&selector, &base_keys)?;
        let info_keys = infos.iter().map(|one| one.labels.keep(&IDENTIFYING)).collect();
        self.join_info(&base, &Join { data, infos, info_keys, base_keys })
    }

    /// Info series of any target that the base may belong to.
    fn info_series(
        &mut self,
        selector: &Selector,
        base_keys: &[Option<Labels>],
    ) -> Result<Vec<Series>, QueryError> {
        // As upstream: values are looked up label by label, for each set of labels that are there.
        let mut wanted: BTreeMap<[bool; 2], [BTreeSet<&str>; 2]> = BTreeMap::new();
        for key in base_keys.iter().flatten().filter(|key| !key.is_empty()) {
            let values = wanted.entry(IDENTIFYING.map(|name| key.has(name))).or_default();
            for (name, values) in IDENTIFYING.iter().zip(values) {
                values.insert(key.get(name));
            }
        }
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let mut infos = self.picked(selector, |samples, at, t_ms, out| {
            let value = match samples.value(at) {
                Value::Float(_) => Value::Float(samples.times[at] as f64),
                histogram @ Value::Histogram(_) => histogram,
            };
            out.push(Point { t_ms, value });
        })?;
        infos.retain(|info| {
            wanted.values().any(|values| {
                IDENTIFYING.iter().zip(values).all(|(name, v)| v.contains(info.labels.get(name)))
            })
        });
        Ok(infos)
    }

    fn join_info(&mut self, base: &[Series], join: &Join) -> Result<Data, QueryError> {
        let mut base_cursors = Cursors::new(base.len());
        let mut info_cursors = Cursors::new(join.infos.len());
        let mut merge = Merge::default();
        for t_ms in self.steps.times() {
            self.charge(base.len())?;
            self.work_on(join.infos.len())?;
            let mut newest = None;
            for (i, one) in base.iter().enumerate() {
                let Some(value) = base_cursors.value(base, i, t_ms) else { continue };
                let labels = match &join.base_keys[i] {
                    None => Some(one.labels.clone()),
                    Some(key) => {
                        // Without any base sample, info series are not looked at.
                        if newest.is_none() {
                            newest = Some(join.newest(&mut info_cursors, t_ms)?);
                        }
                        let found = newest.as_ref().and_then(|newest| newest.get(key));
                        join.enriched(&one.labels, found)?
                    }
                };
                if let Some(labels) = labels {
                    let slot = merge.slot(&labels, one.drop_name);
                    merge.push(slot, t_ms, value.clone())?;
                }
            }
        }
        Ok(Data::Vector(merge.finish()))
    }
}

impl Join {
    /// Of several info series of one name and target, the one with the newest sample counts.
    fn newest(&self, cursors: &mut Cursors, t_ms: i64) -> Result<Newest<'_>, QueryError> {
        let mut newest = Newest::new();
        for (i, info) in self.infos.iter().enumerate() {
            let at_ms = match cursors.value(&self.infos, i, t_ms) {
                None => continue,
                Some(Value::Float(at_ms)) => *at_ms,
                Some(Value::Histogram(_)) => {
                    return Err(QueryError::Execution("info sample should be float".to_owned()));
                }
            };
            let by_name = newest.entry(&self.info_keys[i]).or_default();
            let there = by_name.entry(info.labels.metric_name()).or_insert((at_ms, info));
            if there.0 == at_ms && !std::ptr::eq(there.1, info) {
                return Err(QueryError::Execution(format!(
                    "found duplicate series for info metric: existing {} @ {at_ms}, new {} @ {at_ms}",
                    there.1.labels, info.labels
                )));
            }
            if there.0 < at_ms {
                *there = (at_ms, info);
            }
        }
        Ok(newest)
    }

    /// The labels together with those of the info series; `None` where the data labels that were
    /// asked for need an info series and there is none.
    fn enriched(
        &self,
        base: &Labels,
        found: Option<&BTreeMap<&str, (f64, &Series)>>,
    ) -> Result<Option<Labels>, QueryError> {
        let Some(found) = found else {
            let optional = self.data.iter().all(|m| m.matches(""));
            return Ok(optional.then(|| base.clone()));
        };
        let mut labels = base.clone();
        for label in found.values().flat_map(|(_, info)| &info.labels) {
            let asked = self.data.is_empty() || self.data.iter().any(|m| m.name == label.name);
            // Labels of the series itself win.
            if &*label.name == METRIC_NAME || !asked || base.has(&label.name) {
                continue;
            }
            if labels.has(&label.name) && labels.get(&label.name) != &*label.value {
                return Err(QueryError::Execution(format!("conflicting label: {}", label.name)));
            }
            labels = labels.with(&label.name, &label.value);
        }
        Ok(Some(labels))
    }
}

/// The matchers of info metrics' names: those that were given; with `.+_info` if they only say what
/// the name is not; `target_info` without any.
fn name_matchers(mut given: Vec<Matcher>) -> Result<Vec<Matcher>, QueryError> {
    if given.is_empty() {
        return Ok(vec![Matcher::equal(METRIC_NAME, DEFAULT_INFO)]);
    }
    if given.iter().all(|m| matches!(m.op, MatchOp::NotEqual | MatchOp::NotRegex)) {
        let any = Matcher::new(METRIC_NAME, MatchOp::Regex, ".+_info");
        given.push(any.map_err(|e| QueryError::Execution(e.to_string()))?);
    }
    Ok(given)
}

/// The time that selectors read at, relative to a step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reference {
    /// The fixed time of an `@`, which takes the step's place.
    at_ms: Option<i64>,
    offset_ms: i64,
}

impl Reference {
    fn same_time(self, other: Self) -> bool {
        match (self.at_ms, other.at_ms) {
            (Some(a), Some(b)) => {
                a.saturating_sub(self.offset_ms) == b.saturating_sub(other.offset_ms)
            }
            (None, None) => self.offset_ms == other.offset_ms,
            _ => false,
        }
    }
}

/// What the selectors of an expression have in common.
#[derive(Default)]
struct References {
    first: Option<Reference>,
    /// Some selectors read at another time than the first, or a vector reads none.
    mixed: bool,
}

impl Evaluator<'_> {
    /// The time at which all of an expression's selectors read; that of the step if they do not
    /// agree. Info series are read at the same time.
    fn shared_reference(&self, expr: &Expr) -> Result<Reference, QueryError> {
        let mut found = References::default();
        self.references(expr, &mut Vec::new(), &mut found)?;
        Ok(found.first.filter(|_| !found.mixed).unwrap_or_default())
    }

    /// Collects the times that selectors below `expr` read at; whether there was any selector.
    fn references<'e>(
        &self,
        expr: &'e Expr,
        around: &mut Vec<&'e Subquery>,
        found: &mut References,
    ) -> Result<bool, QueryError> {
        if !matches!(expr.value_type(), ValueType::Vector | ValueType::Matrix) {
            return Ok(false);
        }
        match &expr.kind {
            ExprKind::Selector(selector) | ExprKind::Range { selector, .. } => {
                let reference = self.reference_of(selector, around)?;
                found.mixed |= !found.first.unwrap_or(reference).same_time(reference);
                found.first = found.first.or(Some(reference));
                return Ok(true);
            }
            // Its second argument only looks like a selector.
            ExprKind::Call { function, args } if function.name == "info" => {
                return match args.first() {
                    Some(base) => self.references(base, around, found),
                    None => Ok(false),
                };
            }
            _ => {}
        }
        if let ExprKind::Subquery(subquery) = &expr.kind {
            around.push(subquery);
        }
        let mut any = false;
        for child in expr.kind.children() {
            any |= self.references(child, around, found)?;
        }
        if matches!(expr.kind, ExprKind::Subquery(_)) {
            around.pop();
        }
        found.mixed |= !any;
        Ok(any)
    }

    /// Offsets of the subqueries around a selector add up, until one of them fixes the time.
    fn reference_of(
        &self,
        selector: &Selector,
        around: &[&Subquery],
    ) -> Result<Reference, QueryError> {
        let fixed = |at: Option<At>| at.map(|at| self.reference_ms(Some(at), 0));
        let offset_ms = self.offset_ms(selector.offset.as_ref())?;
        let mut reference = Reference { at_ms: fixed(selector.at), offset_ms };
        for subquery in around.iter().rev() {
            if reference.at_ms.is_some() {
                break;
            }
            let offset_ms = self.offset_ms(subquery.offset.as_ref())?;
            reference.offset_ms = reference.offset_ms.saturating_add(offset_ms);
            reference.at_ms = fixed(subquery.at);
        }
        Ok(reference)
    }
}
