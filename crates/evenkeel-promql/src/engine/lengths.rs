//! Lengths of time that depend on the query's step and range.

use super::eval::Evaluator;
use super::{QueryError, Steps};
use crate::ast::{BinaryOp, Length, LengthExpr};

impl Evaluator<'_> {
    /// Milliseconds of a length.
    pub(super) fn length_ms(&self, length: &Length) -> Result<i64, QueryError> {
        match length {
            Length::Fixed(ms) => Ok(*ms),
            Length::Computed(expr) => {
                let seconds = seconds(expr, self.outer)?;
                let ms = (seconds * 1000.0).round();
                if ms.is_finite() && ms.abs() < 9.2e15 {
                    Ok(ms as i64)
                } else {
                    Err(QueryError::Execution("duration out of range".to_owned()))
                }
            }
        }
    }

    /// Milliseconds of a range or step, which must be positive.
    pub(super) fn positive_ms(&self, length: &Length) -> Result<i64, QueryError> {
        let ms = self.length_ms(length)?;
        if ms <= 0 {
            return Err(QueryError::Execution("duration must be greater than 0".to_owned()));
        }
        Ok(ms)
    }

    /// Milliseconds of an optional offset.
    pub(super) fn offset_ms(&self, offset: Option<&Length>) -> Result<i64, QueryError> {
        offset.map_or(Ok(0), |length| self.length_ms(length))
    }
}

fn seconds(expr: &LengthExpr, steps: Steps) -> Result<f64, QueryError> {
    Ok(match expr {
        LengthExpr::Seconds { value, .. } => *value,
        LengthExpr::Step => step_seconds(steps),
        LengthExpr::Range => steps.end_ms.saturating_sub(steps.start_ms) as f64 / 1000.0,
        LengthExpr::Paren(inner) => seconds(inner, steps)?,
        LengthExpr::Sign { negate, of } => {
            let value = seconds(of, steps)?;
            if *negate { -value } else { value }
        }
        LengthExpr::Pick { max, lhs, rhs } => {
            let (l, r) = (seconds(lhs, steps)?, seconds(rhs, steps)?);
            if *max { l.max(r) } else { l.min(r) }
        }
        LengthExpr::Op { op, lhs, rhs } => {
            let (l, r) = (seconds(lhs, steps)?, seconds(rhs, steps)?);
            let zero = r == 0.0 && matches!(op, BinaryOp::Div | BinaryOp::Mod);
            if zero {
                let what = if *op == BinaryOp::Div { "division" } else { "modulo" };
                return Err(QueryError::Execution(format!("{what} by zero")));
            }
            match op {
                BinaryOp::Add => l + r,
                BinaryOp::Sub => l - r,
                BinaryOp::Mul => l * r,
                BinaryOp::Div => l / r,
                BinaryOp::Mod => l % r,
                _ => l.powf(r),
            }
        }
    })
}

/// The step in seconds; an instant query has none.
pub(super) fn step_seconds(steps: Steps) -> f64 {
    if steps.start_ms == steps.end_ms && steps.step_ms == 1 {
        0.0
    } else {
        steps.step_ms as f64 / 1000.0
    }
}
