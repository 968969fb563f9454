//! `info()`: labels of info metrics joined to a vector.
//!
//! **Source**: promql/info.go of Prometheus.

use super::QueryError;
use super::eval::{Cursors, Data, Evaluator, Merge, Series};
use crate::ast::{Expr, ExprKind, Selector};
use crate::labels::{Labels, METRIC_NAME};
use crate::matcher::Matcher;
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
        let base = self.vector(&args[0])?;
        let default = vec![Matcher::equal(METRIC_NAME, DEFAULT_INFO)];
        let (by_name, data): (Vec<Matcher>, Vec<Matcher>) = match args.get(1).map(|a| &a.kind) {
            Some(ExprKind::Selector(selector)) => {
                selector.matchers.iter().cloned().partition(|m| &*m.name == METRIC_NAME)
            }
            _ => (default.clone(), Vec::new()),
        };
        let is_info = |labels: &Labels| {
            !by_name.is_empty() && by_name.iter().all(|m| m.matches(labels.metric_name()))
        };
        let key = |one: &Series| (!is_info(&one.labels)).then(|| one.labels.keep(&IDENTIFYING));
        let base_keys: Vec<Option<Labels>> = base.iter().map(key).collect();
        let mut matchers = if by_name.is_empty() { default } else { by_name.clone() };
        matchers.extend(data.iter().cloned());
        let infos = self.info_series(&args[0], matchers, &base_keys)?;
        let info_keys = infos.iter().map(|one| one.labels.keep(&IDENTIFYING)).collect();
        self.join_info(&base, &Join { data, infos, info_keys, base_keys })
    }

    /// Info series of any target that the base may belong to.
    fn info_series(
        &mut self,
        base: &Expr,
        matchers: Vec<Matcher>,
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
        let mut selector = Selector { matchers, ..Selector::default() };
        copy_modifiers(base, &mut selector);
        let mut infos = self.picked(&selector, |samples, at, t_ms, out| {
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

/// Info series are read at the time that the base's first selector reads.
fn copy_modifiers(base: &Expr, selector: &mut Selector) {
    if let Some(first) = base.selectors().first() {
        selector.offset.clone_from(&first.offset);
        selector.at = first.at;
    }
}
