//! Operators and aggregations are evaluated only at the steps where something below them changed.
//!
//! What stands at the leaves (selectors, function calls) is evaluated at every step. Above, the
//! same inputs give the same outputs, bit for bit: steps whose leaves all are as one step before
//! are left out, and filled in again afterwards. The steps that remain are numbered through as if
//! they were neighbours, which nothing above a leaf can see.

use super::eval::{Data, Evaluator, Series};
use super::{QueryError, Steps};
use crate::ast::{AggregateOp, Expr, ExprKind};
use crate::sample::Point;

/// Fewer steps are not worth the look.
const STEPS_MIN: usize = 64;

/// Evaluated leaves by the address of their node.
pub(super) type Leaves = Vec<(usize, Data)>;

/// Whether a node may be evaluated at changed steps only.
pub(super) fn is_foldable(expr: &Expr, steps: Steps) -> bool {
    matches!(expr.kind, ExprKind::Binary(_) | ExprKind::Aggregate(_))
        && is_inner(expr)
        && steps.count() >= STEPS_MIN
}

/// Whether a node's value depends on the values of its children alone.
fn is_inner(expr: &Expr) -> bool {
    match &expr.kind {
        ExprKind::Number { .. }
        | ExprKind::Text(_)
        | ExprKind::Paren(_)
        | ExprKind::Unary { .. }
        | ExprKind::Binary(_) => true,
        ExprKind::Aggregate(aggregate) => {
            !matches!(aggregate.op, AggregateOp::Limitk | AggregateOp::LimitRatio)
        }
        _ => false,
    }
}

fn leaves<'e>(expr: &'e Expr, out: &mut Vec<&'e Expr>) {
    if is_inner(expr) {
        expr.kind.children().for_each(|child| leaves(child, out));
    } else {
        out.push(expr);
    }
}

fn address(expr: &Expr) -> usize {
    std::ptr::from_ref(expr).addr()
}

impl Evaluator<'_> {
    /// Takes the value of a leaf that was evaluated before.
    pub(super) fn take_leaf(&mut self, expr: &Expr) -> Option<Data> {
        let at = self.leaves.iter().position(|(leaf, _)| *leaf == address(expr))?;
        Some(self.leaves.swap_remove(at).1)
    }

    /// Evaluates a foldable node.
    pub(super) fn folded(&mut self, expr: &Expr) -> Result<Data, QueryError> {
        let mut below = Vec::new();
        leaves(expr, &mut below);
        let mut evaluated = Leaves::with_capacity(below.len());
        for leaf in below {
            evaluated.push((address(leaf), self.eval(leaf)?));
        }
        let steps = self.steps;
        let changed = changed_steps(&evaluated, steps);
        let worth = changed.len() < steps.count() / 4 * 3;
        let mut fewer = steps;
        if worth {
            for (_, data) in &mut evaluated {
                compress(data, &changed, steps);
            }
            fewer.end_ms = steps.start_ms + (changed.len() as i64 - 1) * steps.step_ms;
        }
        let before = std::mem::replace(&mut self.leaves, evaluated);
        self.folding = true;
        let result = self.with_steps(fewer, |e| e.eval(expr));
        self.folding = false;
        self.leaves = before;
        let mut result = result?;
        if worth {
            expand(&mut result, &changed, steps);
        }
        Ok(result)
    }
}

/// The steps at which any leaf differs from one step before; always the first one.
fn changed_steps(leaves: &Leaves, steps: Steps) -> Vec<usize> {
    let count = steps.count();
    let mut changed = vec![false; count];
    changed[0] = true;
    for (_, data) in leaves {
        match data {
            Data::Text(_) => {}
            Data::Scalar(values) => {
                for at in 1..values.len().min(count) {
                    changed[at] |= values[at].to_bits() != values[at - 1].to_bits();
                }
            }
            Data::Vector(series) => series.iter().for_each(|one| mark(one, steps, &mut changed)),
        }
    }
    (0..count).filter(|at| changed[*at]).collect()
}

fn mark(series: &Series, steps: Steps, changed: &mut [bool]) {
    let (mut at, mut t_ms) = (0, steps.start_ms);
    let mut before: Option<u64> = None;
    for point in &series.points {
        if t_ms < point.t_ms {
            if before.take().is_some() {
                changed[at] = true;
            }
            at += ((point.t_ms - t_ms) / steps.step_ms) as usize;
            t_ms = point.t_ms;
        }
        let bits = point.value.as_float().map(f64::to_bits);
        // Histograms are not compared.
        if bits.is_none() || bits != before {
            changed[at] = true;
            if let (None, Some(next)) = (bits, changed.get_mut(at + 1)) {
                *next = true;
            }
        }
        before = bits;
        at += 1;
        t_ms += steps.step_ms;
    }
    if let (Some(_), Some(next)) = (before, changed.get_mut(at)) {
        *next = true;
    }
}

/// Keeps the changed steps only, numbered through.
fn compress(data: &mut Data, changed: &[usize], steps: Steps) {
    let time = |at: usize| steps.start_ms + at as i64 * steps.step_ms;
    match data {
        Data::Text(_) => {}
        Data::Scalar(values) => *values = changed.iter().map(|at| values[*at]).collect(),
        Data::Vector(series) => {
            for one in series.iter_mut() {
                let mut points = std::mem::take(&mut one.points).into_iter().peekable();
                for (rank, at) in changed.iter().enumerate() {
                    let t_ms = time(*at);
                    while points.next_if(|p| p.t_ms < t_ms).is_some() {}
                    if let Some(point) = points.next_if(|p| p.t_ms == t_ms) {
                        one.points.push(Point { t_ms: time(rank), value: point.value });
                    }
                }
            }
            series.retain(|one| !one.points.is_empty());
        }
    }
}

/// Undoes [`compress`]: each value stands until the next changed step.
fn expand(data: &mut Data, changed: &[usize], steps: Steps) {
    let count = steps.count();
    let time = |at: usize| steps.start_ms + at as i64 * steps.step_ms;
    let reach = |rank: usize| changed[rank]..changed.get(rank + 1).copied().unwrap_or(count);
    match data {
        Data::Text(_) => {}
        Data::Scalar(values) => {
            let repeat = |(rank, v): (usize, &f64)| std::iter::repeat_n(*v, reach(rank).len());
            *values = values.iter().enumerate().flat_map(repeat).collect();
        }
        Data::Vector(series) => {
            for one in series {
                let few = std::mem::take(&mut one.points);
                one.points.reserve(count);
                for point in few {
                    let rank = ((point.t_ms - steps.start_ms) / steps.step_ms) as usize;
                    let repeat = |at| Point { t_ms: time(at), value: point.value.clone() };
                    one.points.extend(reach(rank).map(repeat));
                }
            }
        }
    }
}
