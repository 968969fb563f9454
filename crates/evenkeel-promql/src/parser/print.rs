//! Expressions back to text, in upstream's spelling.

use crate::ast::{
    Aggregate, At, Binary, BinaryOp, Cardinality, Expr, ExprKind, Length, LengthExpr, Matching,
    Selector, Subquery,
};
use crate::labels::{METRIC_NAME, is_legacy_label_name, is_legacy_metric_name, quote};
use crate::matcher::MatchOp;
use crate::number::{format_duration_ms, format_general};
use std::fmt::{self, Display};

impl Display for Expr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kind {
            ExprKind::Number { value, is_duration } => number(f, *value, *is_duration),
            ExprKind::Text(text) => f.write_str(&quote(text)),
            ExprKind::Paren(inner) => write!(f, "({inner})"),
            ExprKind::Unary { negate, expr } => {
                write!(f, "{}{expr}", if *negate { "-" } else { "+" })
            }
            ExprKind::Binary(binary) => print_binary(f, binary),
            ExprKind::Aggregate(aggregate) => print_aggregate(f, aggregate),
            ExprKind::Call { function, args } => {
                write!(f, "{}(", function.name)?;
                for (i, arg) in args.iter().enumerate() {
                    write!(f, "{}{arg}", if i == 0 { "" } else { ", " })?;
                }
                f.write_str(")")
            }
            ExprKind::Selector(selector) => {
                print_selector(f, selector)?;
                print_modifiers(f, selector)
            }
            ExprKind::Range { selector, range } => {
                print_selector(f, selector)?;
                write!(f, "[{range}]")?;
                print_modifiers(f, selector)
            }
            ExprKind::Subquery(subquery) => print_subquery(f, subquery),
        }
    }
}

fn number(f: &mut fmt::Formatter<'_>, seconds: f64, is_duration: bool) -> fmt::Result {
    if is_duration {
        f.write_str(&format_duration_ms((seconds * 1000.0).round() as i64))
    } else {
        f.write_str(&format_general(seconds))
    }
}

fn names(labels: &[String]) -> String {
    let written: Vec<String> =
        labels.iter().map(|l| if is_legacy_label_name(l) { l.clone() } else { quote(l) }).collect();
    written.join(", ")
}

fn print_binary(f: &mut fmt::Formatter<'_>, binary: &Binary) -> fmt::Result {
    let is_bool = if binary.is_bool { " bool" } else { "" };
    match binary.lhs.kind {
        // A power binds closer than the sign that infinity is printed with.
        ExprKind::Number { value: f64::INFINITY, .. } if binary.op == BinaryOp::Pow => {
            f.write_str("Inf")?;
        }
        _ => write!(f, "{}", binary.lhs)?,
    }
    write!(f, " {}{is_bool}", binary.op.as_str())?;
    if let Some(matching) = &binary.matching {
        print_matching(f, matching)?;
    }
    write!(f, " {}", binary.rhs)
}

fn print_matching(f: &mut fmt::Formatter<'_>, matching: &Matching) -> fmt::Result {
    let group = match matching.cardinality {
        Cardinality::ManyToOne => Some("group_left"),
        Cardinality::OneToMany => Some("group_right"),
        Cardinality::OneToOne | Cardinality::ManyToMany => None,
    };
    if matching.on || !matching.labels.is_empty() || group.is_some() {
        let keyword = if matching.on { "on" } else { "ignoring" };
        write!(f, " {keyword} ({})", names(&matching.labels))?;
    }
    if let Some(group) = group {
        write!(f, " {group} ({})", names(&matching.include))?;
    }
    match (matching.fill_left, matching.fill_right) {
        (Some(l), Some(r)) if l.to_bits() == r.to_bits() => {
            write!(f, " fill ({})", format_general(l))
        }
        (l, r) => {
            if let Some(l) = l {
                write!(f, " fill_left ({})", format_general(l))?;
            }
            match r {
                Some(r) => write!(f, " fill_right ({})", format_general(r)),
                None => Ok(()),
            }
        }
    }
}

fn print_aggregate(f: &mut fmt::Formatter<'_>, aggregate: &Aggregate) -> fmt::Result {
    f.write_str(aggregate.op.as_str())?;
    if aggregate.without {
        write!(f, " without ({}) ", names(&aggregate.grouping))?;
    } else if !aggregate.grouping.is_empty() {
        write!(f, " by ({}) ", names(&aggregate.grouping))?;
    }
    match &aggregate.param {
        Some(param) => write!(f, "({param}, {})", aggregate.expr),
        None => write!(f, "({})", aggregate.expr),
    }
}

fn print_selector(f: &mut fmt::Formatter<'_>, selector: &Selector) -> fmt::Result {
    let mut parts = Vec::new();
    if let Some(name) = &selector.name {
        if is_legacy_metric_name(name) {
            f.write_str(name)?;
        } else {
            parts.push(quote(name));
        }
    }
    let is_name = |m: &crate::matcher::Matcher| {
        &*m.name == METRIC_NAME
            && m.op == MatchOp::Equal
            && selector.name.as_deref() == Some(&*m.value)
    };
    parts.extend(selector.matchers.iter().filter(|m| !is_name(m)).map(ToString::to_string));
    if parts.is_empty() { Ok(()) } else { write!(f, "{{{}}}", parts.join(",")) }
}

fn print_modifiers(f: &mut fmt::Formatter<'_>, selector: &Selector) -> fmt::Result {
    if let Some(extension) = selector.extension {
        write!(f, " {}", extension.as_str())?;
    }
    print_at_offset(f, selector.at, selector.offset.as_ref())
}

fn print_at_offset(
    f: &mut fmt::Formatter<'_>,
    at: Option<At>,
    offset: Option<&Length>,
) -> fmt::Result {
    match at {
        Some(At::Time(ms)) => write!(f, " @ {:.3}", ms as f64 / 1000.0)?,
        Some(At::Start) => f.write_str(" @ start()")?,
        Some(At::End) => f.write_str(" @ end()")?,
        None => {}
    }
    match offset {
        Some(Length::Fixed(0)) | None => Ok(()),
        Some(offset) => write!(f, " offset {offset}"),
    }
}

fn print_subquery(f: &mut fmt::Formatter<'_>, subquery: &Subquery) -> fmt::Result {
    write!(f, "{}[{}:", subquery.expr, subquery.range)?;
    if let Some(step) = &subquery.step {
        write!(f, "{step}")?;
    }
    f.write_str("]")?;
    print_at_offset(f, subquery.at, subquery.offset.as_ref())
}

impl Display for Length {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(ms) => f.write_str(&format_duration_ms(*ms)),
            Self::Computed(expr) => expr.fmt(f),
        }
    }
}

impl Display for LengthExpr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Seconds { value, is_duration } => number(f, *value, *is_duration),
            Self::Step => f.write_str("step()"),
            Self::Range => f.write_str("range()"),
            Self::Sign { negate, of } => write!(f, "{}{of}", if *negate { "-" } else { "+" }),
            Self::Op { op, lhs, rhs } => write!(f, "{lhs} {} {rhs}", op.as_str()),
            Self::Pick { max, lhs, rhs } => {
                write!(f, "{}({lhs}, {rhs})", if *max { "max_of" } else { "min_of" })
            }
            Self::Paren(inner) => write!(f, "({inner})"),
        }
    }
}
