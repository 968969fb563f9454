//! `info()`: labels of info metrics joined to a vector.

use super::QueryError;
use super::eval::{Cursors, Data, Evaluator, Merge, Series};
use crate::ast::{Expr, ExprKind, Selector};
use crate::labels::{Labels, METRIC_NAME};
use crate::matcher::Matcher;
use std::collections::BTreeMap;

/// Labels that say which target a series belongs to.
const IDENTIFYING: [&str; 2] = ["instance", "job"];
/// The info metric that is joined if none is named.
const DEFAULT_INFO: &str = "target_info";

impl Evaluator<'_> {
    pub(super) fn info(&mut self, args: &[Expr]) -> Result<Data, QueryError> {
        let base = self.vector(&args[0])?;
        let wanted: Vec<Matcher> = match args.get(1).map(|a| &a.kind) {
            Some(ExprKind::Selector(selector)) => selector.matchers.clone(),
            _ => Vec::new(),
        };
        let by_name: Vec<Matcher> =
            wanted.iter().filter(|m| &*m.name == METRIC_NAME).cloned().collect();
        let data: Vec<Matcher> =
            wanted.iter().filter(|m| &*m.name != METRIC_NAME).cloned().collect();
        let mut matchers = by_name.clone();
        if matchers.is_empty() {
            matchers.push(Matcher::equal(METRIC_NAME, DEFAULT_INFO));
        }
        matchers.extend(data.iter().filter(|m| !m.matches("")).cloned());
        let mut selector = Selector { matchers, ..Selector::default() };
        copy_modifiers(&args[0], &mut selector);
        let infos = self.instant_selector(&selector, args[0].span)?;
        self.join_info(&base, &infos, &by_name, &data)
    }

    fn join_info(
        &mut self,
        base: &[Series],
        infos: &[Series],
        by_name: &[Matcher],
        data: &[Matcher],
    ) -> Result<Data, QueryError> {
        let key = |labels: &Labels| labels.keep(&IDENTIFYING);
        let mut by_key: BTreeMap<Labels, Vec<usize>> = BTreeMap::new();
        for (i, info) in infos.iter().enumerate() {
            by_key.entry(key(&info.labels)).or_default().push(i);
        }
        let mut cursors = Cursors::new(infos.len());
        let mut merge = Merge::default();
        let is_info = |labels: &Labels| {
            !by_name.is_empty() && by_name.iter().all(|m| m.matches(labels.metric_name()))
                || by_name.is_empty() && labels.metric_name() == DEFAULT_INFO
        };
        let mut positions = vec![0_usize; base.len()];
        for t_ms in self.steps.times() {
            self.charge(base.len())?;
            for (one, position) in base.iter().zip(&mut positions) {
                while one.points.get(*position).is_some_and(|p| p.t_ms < t_ms) {
                    *position += 1;
                }
                let Some(point) = one.points.get(*position).filter(|p| p.t_ms == t_ms) else {
                    continue;
                };
                let mut labels = one.labels.clone();
                if !is_info(&one.labels) {
                    let candidates = by_key.get(&key(&one.labels)).cloned().unwrap_or_default();
                    let mut newest: BTreeMap<&str, &Series> = BTreeMap::new();
                    for i in candidates {
                        if cursors.value(infos, i, t_ms).is_some() {
                            newest.insert(infos[i].labels.metric_name(), &infos[i]);
                        }
                    }
                    labels = enriched(labels, newest.values().copied(), data);
                    if data.iter().any(|m| !m.matches("") && !labels.has(&m.name)) {
                        continue;
                    }
                }
                let slot = merge.slot(&labels, one.drop_name);
                merge.push(slot, t_ms, point.value.clone())?;
            }
        }
        Ok(Data::Vector(merge.finish()))
    }
}

fn enriched<'s>(
    labels: Labels,
    infos: impl Iterator<Item = &'s Series>,
    data: &[Matcher],
) -> Labels {
    let original = labels.clone();
    let mut labels = labels;
    for info in infos {
        for label in &info.labels {
            let identifying = &*label.name == METRIC_NAME || IDENTIFYING.contains(&&*label.name);
            let asked = data.is_empty() || data.iter().any(|m| m.name == label.name);
            // Labels of the series itself win.
            if !identifying && asked && !original.has(&label.name) {
                labels = labels.with(&label.name, &label.value);
            }
        }
    }
    labels
}

/// Info series are read at the time that the base's first selector reads.
fn copy_modifiers(base: &Expr, selector: &mut Selector) {
    if let Some(first) = base.selectors().first() {
        selector.offset.clone_from(&first.offset);
        selector.at = first.at;
    }
}
