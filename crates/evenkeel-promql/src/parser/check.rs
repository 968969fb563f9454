//! Types of arguments and operands.

use super::ParseError;
use crate::ast::{Expr, ExprKind, Extension, Selector, ValueType};

/// Checks the whole tree.
pub(super) fn check(text: &str, root: &Expr) -> Result<(), ParseError> {
    let mut first = None;
    // The label selector of `info` may match everything.
    let mut loose: Vec<*const Expr> = Vec::new();
    root.walk(&mut |expr| {
        if let ExprKind::Call { function, args } = &expr.kind
            && function.name == "info"
        {
            loose.extend(args.get(1).map(std::ptr::from_ref));
        }
        if first.is_none() && !loose.contains(&std::ptr::from_ref(expr)) {
            first = node(expr).err().map(|(span, reason)| ParseError::new(text, span, reason));
        }
    });
    first.map_or(Ok(()), Err)
}

type Bad = (crate::ast::Span, String);

fn node(expr: &Expr) -> Result<(), Bad> {
    match &expr.kind {
        ExprKind::Number { .. } | ExprKind::Text(_) | ExprKind::Paren(_) => Ok(()),
        ExprKind::Unary { expr: inner, .. } => match inner.value_type() {
            ValueType::Scalar | ValueType::Vector => Ok(()),
            other => Err((
                expr.span,
                format!(
                    "unary expression only allowed on expressions of type scalar or instant vector, got {:?}",
                    other.as_str()
                ),
            )),
        },
        ExprKind::Binary(_) => binary(expr),
        ExprKind::Aggregate(agg) => {
            expect(&agg.expr, ValueType::Vector, "aggregation expression")?;
            if let Some(param) = &agg.param {
                let wanted = if agg.op == crate::ast::AggregateOp::CountValues {
                    ValueType::String
                } else {
                    ValueType::Scalar
                };
                expect(param, wanted, "aggregation parameter")?;
            }
            Ok(())
        }
        ExprKind::Call { .. } => call(expr),
        ExprKind::Selector(s) | ExprKind::Range { selector: s, .. } => selector(expr, s),
        ExprKind::Subquery(subquery) => match subquery.expr.value_type() {
            ValueType::Vector => Ok(()),
            other => Err((
                expr.span,
                format!(
                    "subquery is only allowed on instant vector, got {} instead",
                    other.as_str()
                ),
            )),
        },
    }
}

fn expect(expr: &Expr, wanted: ValueType, context: &str) -> Result<(), Bad> {
    let got = expr.value_type();
    if got == wanted {
        return Ok(());
    }
    let reason = format!("expected type {} in {context}, got {}", wanted.as_str(), got.as_str());
    Err((expr.span, reason))
}

fn selector(expr: &Expr, selector: &Selector) -> Result<(), Bad> {
    if selector.matchers.iter().all(|m| m.matches("")) {
        let reason = "vector selector must contain at least one non-empty matcher".to_owned();
        return Err((expr.span, reason));
    }
    Ok(())
}

fn binary(expr: &Expr) -> Result<(), Bad> {
    let ExprKind::Binary(binary) = &expr.kind else { return Ok(()) };
    let types = [binary.lhs.value_type(), binary.rhs.value_type()];
    for (side, kind) in [&binary.lhs, &binary.rhs].into_iter().zip(types) {
        if !matches!(kind, ValueType::Scalar | ValueType::Vector) {
            let reason =
                "binary expression must contain only scalar and instant vector types".to_owned();
            return Err((side.span, reason));
        }
    }
    let scalars = types.iter().filter(|t| **t == ValueType::Scalar).count();
    if scalars == 2 && binary.op.is_comparison() && !binary.is_bool {
        return Err((expr.span, "comparisons between scalars must use BOOL modifier".to_owned()));
    }
    if scalars > 0 && binary.op.is_set() {
        let reason = format!(
            "set operator {:?} not allowed in binary scalar expression",
            binary.op.as_str()
        );
        return Err((expr.span, reason));
    }
    Ok(())
}

fn call(expr: &Expr) -> Result<(), Bad> {
    let ExprKind::Call { function, args } = &expr.kind else { return Ok(()) };
    let (min, max) = function.arg_counts();
    let count = |how: &str, wanted: usize| {
        let reason = format!(
            "expected {how}{wanted} argument(s) in call to {:?}, got {}",
            function.name,
            args.len()
        );
        (expr.span, reason)
    };
    match max {
        Some(max) if min == max && args.len() != max => return Err(count("", max)),
        Some(max) if args.len() > max => return Err(count("at most ", max)),
        _ if args.len() < min => return Err(count("at least ", min)),
        _ => {}
    }
    for (i, arg) in args.iter().enumerate() {
        if function.name == "info" && i == 1 {
            expect(arg, ValueType::Vector, "call to function \"info\"")?;
            if !matches!(&arg.kind, ExprKind::Selector(selector) if selector.name.is_none()) {
                let reason = "expected label selectors only, got vector selector instead";
                return Err((arg.span, reason.to_owned()));
            }
            continue;
        }
        expect(arg, function.arg_type(i), &format!("call to function {:?}", function.name))?;
        extension(function.name, arg)?;
    }
    Ok(())
}

/// Which functions know what to do with samples around the range.
fn extension(function: &str, arg: &Expr) -> Result<(), Bad> {
    let ExprKind::Range { selector, .. } = &arg.unwrapped().kind else { return Ok(()) };
    let Some(extension) = selector.extension else { return Ok(()) };
    let allowed: &[&str] = match extension {
        Extension::Anchored => &["changes", "delta", "increase", "rate", "resets"],
        Extension::Smoothed => &["delta", "increase", "rate"],
    };
    if allowed.contains(&function) {
        return Ok(());
    }
    let reason = format!(
        "{} modifier can only be used with: {} - not with {function}",
        extension.as_str(),
        allowed.join(", ")
    );
    Err((arg.span, reason))
}
