//! Operators between two samples.

use super::Notes;
use crate::ast::{BinaryOp, Span};
use crate::histogram::{Histogram, Merge};
use crate::sample::Value;
use std::sync::Arc;

/// A computed sample and whether a comparison keeps it.
pub(super) struct Outcome {
    pub(super) value: Value,
    pub(super) keep: bool,
}

/// Two numbers; comparisons give 0 or 1.
pub(super) fn scalar_op(op: BinaryOp, l: f64, r: f64) -> f64 {
    match compare(op, l, r) {
        Some(true) => 1.0,
        Some(false) => 0.0,
        None => arithmetic(op, l, r),
    }
}

fn compare(op: BinaryOp, l: f64, r: f64) -> Option<bool> {
    Some(match op {
        BinaryOp::Equal => l == r,
        BinaryOp::NotEqual => l != r,
        BinaryOp::Greater => l > r,
        BinaryOp::Less => l < r,
        BinaryOp::GreaterEqual => l >= r,
        BinaryOp::LessEqual => l <= r,
        _ => return None,
    })
}

fn arithmetic(op: BinaryOp, l: f64, r: f64) -> f64 {
    match op {
        BinaryOp::Add => l + r,
        BinaryOp::Sub => l - r,
        BinaryOp::Mul => l * r,
        BinaryOp::Div => l / r,
        BinaryOp::Mod => l % r,
        BinaryOp::Pow => power(l, r),
        BinaryOp::Atan2 => l.atan2(r),
        _ => f64::NAN,
    }
}

/// As Go's `math.Pow`: 1 to the NaN is 1, -1 to the infinite is 1.
fn power(l: f64, r: f64) -> f64 {
    l.powf(r)
}

/// Two samples; `None` when the operator is not defined for them, which is noted.
pub(super) fn element(
    op: BinaryOp,
    l: &Value,
    r: &Value,
    span: Span,
    notes: &mut Notes,
) -> Option<Outcome> {
    let kept = |value: Value| Some(Outcome { value, keep: true });
    match (l, r) {
        (Value::Float(l), Value::Float(r)) => match compare(op, *l, *r) {
            Some(keep) => Some(Outcome { value: Value::Float(*l), keep }),
            None if matches!(op, BinaryOp::TrimUpper | BinaryOp::TrimLower) => {
                incompatible(op, "float", "float", span, notes)
            }
            None => kept(Value::Float(arithmetic(op, *l, *r))),
        },
        (Value::Float(factor), Value::Histogram(h)) if op == BinaryOp::Mul => {
            kept(scaled(h, |h| h.mul(*factor)))
        }
        (Value::Histogram(h), Value::Float(x)) => match op {
            BinaryOp::Mul => kept(scaled(h, |h| h.mul(*x))),
            BinaryOp::Div => kept(scaled(h, |h| h.div(*x))),
            BinaryOp::TrimUpper => kept(h.trimmed(*x, true).into()),
            BinaryOp::TrimLower => kept(h.trimmed(*x, false).into()),
            _ => incompatible(op, "histogram", "float", span, notes),
        },
        (Value::Histogram(l), Value::Histogram(r)) => histograms(op, l, r, span, notes),
        (Value::Float(_), Value::Histogram(_)) => {
            incompatible(op, "float", "histogram", span, notes)
        }
    }
}

fn scaled(h: &Arc<Histogram>, apply: impl FnOnce(&mut Histogram)) -> Value {
    let mut h = Histogram::clone(h);
    apply(&mut h);
    h.into()
}

fn histograms(
    op: BinaryOp,
    l: &Arc<Histogram>,
    r: &Arc<Histogram>,
    span: Span,
    notes: &mut Notes,
) -> Option<Outcome> {
    let (what, mut sum) = match op {
        BinaryOp::Equal | BinaryOp::NotEqual => {
            let keep = l.same_as(r) == (op == BinaryOp::Equal);
            return Some(Outcome { value: Value::Histogram(Arc::clone(l)), keep });
        }
        BinaryOp::Add => ("addition", Histogram::clone(l)),
        BinaryOp::Sub => ("subtraction", Histogram::clone(l)),
        _ => return incompatible(op, "histogram", "histogram", span, notes),
    };
    let merged = if op == BinaryOp::Add { sum.add(r) } else { sum.sub(r) };
    let Ok(merge) = merged else {
        let text =
            format!("incompatible bucket layout encountered for binary operator {}", op.as_str());
        notes.warn(span, &text);
        return None;
    };
    note_merge(merge, what, span, notes);
    if op == BinaryOp::Sub {
        sum.reset = crate::histogram::ResetHint::Gauge;
    }
    sum.compact();
    Some(Outcome { value: sum.into(), keep: true })
}

/// Notes what a combination of histograms found.
pub(super) fn note_merge(merge: Merge, what: &str, span: Span, notes: &mut Notes) {
    if merge.reset_collision {
        notes.warn(span, &format!("conflicting counter resets during histogram {what}"));
    }
    if merge.bounds_reconciled {
        notes.info(span, &format!("mismatched custom buckets were reconciled during {what}"));
    }
}

fn incompatible(op: BinaryOp, l: &str, r: &str, span: Span, notes: &mut Notes) -> Option<Outcome> {
    let op = op.as_str();
    notes.info(
        span,
        &format!("incompatible sample types encountered for binary operator {op:?}: {l} {op} {r}"),
    );
    None
}
