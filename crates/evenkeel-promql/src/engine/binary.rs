//! Operators between scalars and vectors, and how series pair up.

use super::QueryError;
use super::binary_element::{Outcome, element, scalar_op};
use super::eval::{Cursors, Data, Evaluator, Merge, Series};
use crate::ast::{Binary, BinaryOp, Cardinality, Expr, Matching, Span};
use crate::labels::{Labels, METRIC_NAME, TYPE_LABEL, UNIT_LABEL};
use crate::sample::{Point, Value};
use std::collections::HashMap;

/// One operand pair of a vector operator.
struct Sides {
    lhs: Vec<Series>,
    rhs: Vec<Series>,
    /// Match group of each series.
    left_groups: Vec<usize>,
    right_groups: Vec<usize>,
    /// Labels of each match group.
    groups: Vec<Labels>,
}

impl Evaluator<'_> {
    pub(super) fn binary(&mut self, expr: &Expr, binary: &Binary) -> Result<Data, QueryError> {
        if self.statistics && matches!(binary.op, BinaryOp::TrimUpper | BinaryOp::TrimLower) {
            return self.with_statistics(false, |e| e.binary(expr, binary));
        }
        let lhs = self.eval(&binary.lhs)?;
        let rhs = self.eval(&binary.rhs)?;
        match (lhs, rhs) {
            (Data::Scalar(l), Data::Scalar(r)) => Ok(Data::Scalar(
                l.iter().zip(&r).map(|(l, r)| scalar_op(binary.op, *l, *r)).collect(),
            )),
            (Data::Vector(series), Data::Scalar(scalars)) => {
                self.with_scalar(binary, expr.span, series, (&scalars, false))
            }
            (Data::Scalar(scalars), Data::Vector(series)) => {
                self.with_scalar(binary, expr.span, series, (&scalars, true))
            }
            (Data::Vector(lhs), Data::Vector(rhs)) => {
                let default = Matching::default();
                let matching = binary.matching.as_ref().unwrap_or(&default);
                let sides = group(lhs, rhs, matching);
                let series = match binary.op {
                    BinaryOp::And | BinaryOp::Or | BinaryOp::Unless => {
                        self.set_operation(binary.op, sides)?
                    }
                    _ => self.pairs(binary, expr.span, matching, sides)?,
                };
                Ok(Data::Vector(series))
            }
            _ => Err(QueryError::Execution("strings cannot be combined".to_owned())),
        }
    }

    /// Vector with scalar; `swapped` when the scalar stands on the left.
    fn with_scalar(
        &mut self,
        binary: &Binary,
        span: Span,
        series: Vec<Series>,
        (scalars, swapped): (&[f64], bool),
    ) -> Result<Data, QueryError> {
        let mut out = Vec::with_capacity(series.len());
        let drops = binary.is_bool || drops_name(binary.op);
        let (start, step) = (self.steps.start_ms, self.steps.step_ms);
        for one in series {
            let mut points = Vec::with_capacity(one.points.len());
            for point in one.points {
                let at = ((point.t_ms - start) / step.max(1)) as usize;
                let scalar = Value::Float(scalars.get(at).copied().unwrap_or(f64::NAN));
                let (l, r) =
                    if swapped { (&scalar, &point.value) } else { (&point.value, &scalar) };
                let outcome = element(binary.op, l, r, span, &mut self.annotations);
                let Some(Outcome { value, keep }) = outcome else { continue };
                let value = if binary.is_bool {
                    Value::Float(if keep { 1.0 } else { 0.0 })
                } else if !keep {
                    continue;
                } else if binary.op.is_comparison() {
                    point.value
                } else {
                    value
                };
                points.push(Point { t_ms: point.t_ms, value });
            }
            if points.is_empty() {
                continue;
            }
            let (labels, drop_name) =
                if drops { self.unnamed(one.labels) } else { (one.labels, one.drop_name) };
            out.push(Series { labels, drop_name, points });
        }
        self.charge(out.iter().map(|s| s.points.len()).sum())?;
        if !self.options.delayed_name_removal {
            super::eval::check_distinct(&out)?;
        }
        Ok(Data::Vector(out))
    }

    fn set_operation(&mut self, op: BinaryOp, sides: Sides) -> Result<Vec<Series>, QueryError> {
        let Sides { lhs, rhs, left_groups, right_groups, groups } = sides;
        let mut left = Cursors::new(lhs.len());
        let mut right = Cursors::new(rhs.len());
        let mut keep_left: Vec<Vec<Point>> = vec![Vec::new(); lhs.len()];
        let mut keep_right: Vec<Vec<Point>> = vec![Vec::new(); rhs.len()];
        let mut seen = vec![0_usize; groups.len()];
        for (round, t_ms) in self.steps.times().enumerate() {
            let round = round + 1;
            self.work_on(lhs.len() + rhs.len())?;
            // Groups present on the side that decides.
            let (deciding, decide_groups, cursors) = if op == BinaryOp::Or {
                (&lhs, &left_groups, &mut left)
            } else {
                (&rhs, &right_groups, &mut right)
            };
            for i in 0..deciding.len() {
                if let Some(value) = cursors.value(deciding, i, t_ms) {
                    seen[decide_groups[i]] = round;
                    if op == BinaryOp::Or {
                        keep_left[i].push(Point { t_ms, value: value.clone() });
                    }
                }
            }
            let (other, other_groups, cursors, kept) = if op == BinaryOp::Or {
                (&rhs, &right_groups, &mut right, &mut keep_right)
            } else {
                (&lhs, &left_groups, &mut left, &mut keep_left)
            };
            let wanted = op == BinaryOp::And;
            for i in 0..other.len() {
                if (seen[other_groups[i]] == round) == wanted
                    && let Some(value) = cursors.value(other, i, t_ms)
                {
                    kept[i].push(Point { t_ms, value: value.clone() });
                }
            }
        }
        let mut merge = Merge::default();
        let all = lhs.into_iter().zip(keep_left).chain(rhs.into_iter().zip(keep_right));
        for (series, points) in all {
            self.charge(points.len())?;
            if !points.is_empty() {
                merge.add(Series { points, ..series })?;
            }
        }
        Ok(merge.finish())
    }

    fn pairs(
        &mut self,
        binary: &Binary,
        span: Span,
        matching: &Matching,
        sides: Sides,
    ) -> Result<Vec<Series>, QueryError> {
        let mut pairing = Pairing {
            binary,
            matching,
            span,
            swapped: matching.cardinality == Cardinality::OneToMany,
            sides,
            merge: Merge::default(),
            slots: HashMap::new(),
            newest_slot: None,
            right_of: Vec::new(),
            present: Vec::new(),
            matched_ms: Vec::new(),
            delayed: self.options.delayed_name_removal,
        };
        if pairing.swapped {
            let sides = &mut pairing.sides;
            std::mem::swap(&mut sides.lhs, &mut sides.rhs);
            std::mem::swap(&mut sides.left_groups, &mut sides.right_groups);
        }
        let mut many = Cursors::new(pairing.sides.lhs.len());
        let mut one = Cursors::new(pairing.sides.rhs.len());
        for t_ms in self.steps.times() {
            self.charge(pairing.sides.lhs.len())?;
            self.work_on(pairing.sides.rhs.len() + pairing.sides.groups.len())?;
            pairing.step(t_ms, &mut many, &mut one, &mut self.annotations)?;
        }
        Ok(pairing.merge.finish())
    }
}

/// Whether the result is no longer what the metric's name says.
fn drops_name(op: BinaryOp) -> bool {
    !op.is_comparison() && !matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower)
}

/// Gives every series its match group.
fn group(lhs: Vec<Series>, rhs: Vec<Series>, matching: &Matching) -> Sides {
    let mut index: HashMap<Labels, usize> = HashMap::new();
    let mut groups: Vec<Labels> = Vec::new();
    let mut of = |series: &[Series]| -> Vec<usize> {
        series
            .iter()
            .map(|one| {
                let key = if matching.on {
                    one.labels.keep(&matching.labels)
                } else {
                    one.labels.drop(&[METRIC_NAME]).drop(&matching.labels)
                };
                *index.entry(key).or_insert_with_key(|key| {
                    groups.push(key.clone());
                    groups.len() - 1
                })
            })
            .collect()
    };
    let left_groups = of(&lhs);
    let right_groups = of(&rhs);
    Sides { lhs, rhs, left_groups, right_groups, groups }
}

/// The state of a vector operator: `sides.lhs` is the "many" side.
struct Pairing<'p> {
    binary: &'p Binary,
    matching: &'p Matching,
    span: Span,
    swapped: bool,
    sides: Sides,
    merge: Merge,
    /// Result series by pair; `usize::MAX` for a filled side.
    slots: HashMap<(usize, usize), usize>,
    /// The pair that was computed last: mostly the only one.
    newest_slot: Option<((usize, usize), usize)>,
    /// Of the present step: the "one" side of each match group, and whether it has a "many" side.
    right_of: Vec<Option<(usize, Value)>>,
    present: Vec<bool>,
    /// When each result series last had a match, where there are many on one side.
    matched_ms: Vec<Option<i64>>,
    delayed: bool,
}

const FILLED: usize = usize::MAX;

/// What an operator makes of a pair.
enum Combined {
    /// It is not defined for the two; upstream does not count this as a match.
    Undefined,
    /// A comparison dropped it.
    Dropped,
    Value(Value),
}

impl Pairing<'_> {
    fn step(
        &mut self,
        t_ms: i64,
        many: &mut Cursors,
        one: &mut Cursors,
        notes: &mut super::Notes,
    ) -> Result<(), QueryError> {
        let mut right_of = std::mem::take(&mut self.right_of);
        right_of.clear();
        right_of.resize(self.sides.groups.len(), None);
        for i in 0..self.sides.rhs.len() {
            let Some(value) = one.value(&self.sides.rhs, i, t_ms) else { continue };
            let group = self.sides.right_groups[i];
            if let Some((other, _)) = &right_of[group] {
                // Without anything on the other side upstream does not look at all.
                let filled = self.matching.fill_right.or(self.matching.fill_left).is_some();
                let lhs = &self.sides.lhs;
                if !filled && !(0..lhs.len()).any(|i| many.value(lhs, i, t_ms).is_some()) {
                    return Ok(());
                }
                return Err(self.duplicate(i, *other, group));
            }
            right_of[group] = Some((i, value.clone()));
        }
        // Upstream does not swap the fill values together with the sides.
        let (fill_one, fill_many) = (self.matching.fill_right, self.matching.fill_left);
        let mut present = std::mem::take(&mut self.present);
        present.clear();
        present.resize(self.sides.groups.len(), false);
        for i in 0..self.sides.lhs.len() {
            let Some(value) = many.value(&self.sides.lhs, i, t_ms).cloned() else { continue };
            let group = self.sides.left_groups[i];
            let (right, right_value) = match (&right_of[group], fill_one) {
                (Some((right, value)), _) => (*right, value.clone()),
                (None, Some(fill)) => (FILLED, Value::Float(fill)),
                (None, None) => continue,
            };
            let combined = self.combined(&value, &right_value, notes);
            if matches!(combined, Combined::Undefined) {
                continue;
            }
            if self.matching.cardinality == Cardinality::OneToOne && present[group] {
                let reason = "multiple matches for labels: many-to-one matching must be explicit (group_left/group_right)";
                return Err(QueryError::Execution(reason.to_owned()));
            }
            present[group] = true;
            self.push(t_ms, (i, right), combined)?;
        }
        if let Some(fill) = fill_many {
            for group in 0..self.sides.groups.len() {
                if present[group] {
                    continue;
                }
                let Some((right, right_value)) = right_of[group].take() else { continue };
                let left = Value::Float(fill);
                let combined = self.combined(&left, &right_value, notes);
                self.push(t_ms, (FILLED, right), combined)?;
            }
        }
        (self.right_of, self.present) = (right_of, present);
        Ok(())
    }

    fn combined(&self, left: &Value, right: &Value, notes: &mut super::Notes) -> Combined {
        let (l, r) = if self.swapped { (right, left) } else { (left, right) };
        match element(self.binary.op, l, r, self.span, notes) {
            None => Combined::Undefined,
            Some(Outcome { keep, .. }) if self.binary.is_bool => {
                Combined::Value(Value::Float(if keep { 1.0 } else { 0.0 }))
            }
            Some(Outcome { keep: false, .. }) => Combined::Dropped,
            Some(Outcome { value, .. }) => Combined::Value(value),
        }
    }

    /// Adds the value of a pair to its series. A pair that a comparison dropped leaves no value,
    /// but its labels must still be unique where there are many on one side.
    fn push(
        &mut self,
        t_ms: i64,
        (left, right): (usize, usize),
        combined: Combined,
    ) -> Result<(), QueryError> {
        let one_to_one = self.matching.cardinality == Cardinality::OneToOne;
        let value = match combined {
            Combined::Undefined => return Ok(()),
            Combined::Dropped if one_to_one => return Ok(()),
            Combined::Dropped => None,
            Combined::Value(value) => Some(value),
        };
        let newest = self.newest_slot.filter(|(pair, _)| *pair == (left, right));
        let slot = if let Some((_, slot)) = newest {
            slot
        } else if let Some(slot) = self.slots.get(&(left, right)) {
            *slot
        } else {
            let (labels, drop_name) = self.result_labels(left, right);
            let slot = self.merge.slot(&labels, drop_name);
            let points = |one: &Series| one.points.len();
            let most = self.sides.lhs.get(left).map_or(usize::MAX, points);
            let most = most.min(self.sides.rhs.get(right).map_or(usize::MAX, points));
            self.merge.series[slot].points.reserve(most);
            self.slots.insert((left, right), slot);
            slot
        };
        self.newest_slot = Some(((left, right), slot));
        if !one_to_one {
            self.matched_ms.resize(self.merge.series.len(), None);
            if self.matched_ms[slot].replace(t_ms) == Some(t_ms) {
                let reason =
                    "multiple matches for labels: grouping labels must ensure unique matches";
                return Err(QueryError::Execution(reason.to_owned()));
            }
        }
        match value {
            Some(value) => self.merge.push(slot, t_ms, value),
            None => Ok(()),
        }
    }

    fn result_labels(&self, left: usize, right: usize) -> (Labels, bool) {
        let (filled_left, mut labels) = self.series_or_group(left, right, true);
        let (_, right_labels) = self.series_or_group(right, left, false);
        // As upstream: a comparison of two vectors keeps the name even of a rate, if names are
        // removed at the end.
        let mut drop_name = false;
        if drops_name(self.binary.op) || (self.binary.is_bool && !self.delayed) {
            labels = labels.without_name();
        } else if self.binary.is_bool {
            drop_name = true;
        }
        if self.matching.cardinality == Cardinality::OneToOne && !filled_left {
            labels = if self.matching.on {
                labels.keep(&self.matching.labels)
            } else {
                labels.drop(&self.matching.labels)
            };
        }
        for name in &self.matching.include {
            labels = labels.with(name, right_labels.get(name));
        }
        (labels, drop_name)
    }

    /// Labels of a side; of a filled one, those of the match group.
    fn series_or_group(&self, at: usize, other: usize, is_left: bool) -> (bool, Labels) {
        let (series, groups) = if is_left {
            (&self.sides.lhs, &self.sides.right_groups)
        } else {
            (&self.sides.rhs, &self.sides.left_groups)
        };
        match series.get(at) {
            Some(one) => (false, one.labels.clone()),
            None => (true, self.sides.groups[groups[other]].clone()),
        }
    }

    fn duplicate(&self, at: usize, other: usize, group: usize) -> QueryError {
        let side = if self.swapped { "left" } else { "right" };
        let labels = |i: usize| self.sides.rhs[i].labels.to_string();
        let mut both = [labels(at), labels(other)];
        both.sort();
        let [first, second] = both;
        QueryError::Execution(format!(
            "found duplicate series for the match group {} on the {side} hand-side of the operation: [{first}, {second}];many-to-many matching not allowed: matching labels must be unique on one side",
            self.sides.groups[group].drop(&[METRIC_NAME, TYPE_LABEL, UNIT_LABEL]),
        ))
    }
}
