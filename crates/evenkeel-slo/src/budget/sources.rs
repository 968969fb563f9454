//! From the queries of an SLO to the counters behind them, so that events are counted and not
//! estimated from rates.

use evenkeel_promql::ast::{AggregateOp, BinaryOp, Expr, ExprKind};

use crate::model::Slo;
use crate::template::Template;

/// The counters that an SLO's queries sum up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterSources {
    /// Instant selectors of the bad events, `x_total{code=~"5.."}`.
    pub error: Vec<String>,
    /// Instant selectors of all events.
    pub total: Vec<String>,
    /// Labels that keep budgets apart; empty for one budget.
    pub group_by: Vec<String>,
}

/// Finds the counters when both queries are sums of rates or increases.
///
/// `None` for anything cleverer: such an SLO is counted by evaluating its queries.
pub fn counter_sources(slo: &Slo) -> Option<CounterSources> {
    let events = slo.sli.events.as_ref()?;
    let (error, mut grouping) = selectors(&events.error_query)?;
    let (total, other) = selectors(&events.total_query)?;
    if grouping != other {
        return None;
    }
    grouping.sort_unstable();
    grouping.dedup();
    Some(CounterSources { error, total, group_by: grouping })
}

fn selectors(query: &str) -> Option<(Vec<String>, Vec<String>)> {
    let text = Template::parse(query).ok()?.render("1m");
    let query = evenkeel_promql::parser::parse(&text).ok()?;
    let mut out = Vec::new();
    let mut grouping = None;
    collect(&query.expr, &text, &mut out, &mut grouping)?;
    Some((out, grouping.unwrap_or_default()))
}

fn collect(
    expr: &Expr,
    text: &str,
    out: &mut Vec<String>,
    grouping: &mut Option<Vec<String>>,
) -> Option<()> {
    match &expr.kind {
        ExprKind::Paren(inner) => collect(inner, text, out, grouping),
        ExprKind::Binary(both) if both.op == BinaryOp::Add => {
            collect(&both.lhs, text, out, grouping)?;
            collect(&both.rhs, text, out, grouping)
        }
        ExprKind::Aggregate(sum) if sum.op == AggregateOp::Sum && !sum.without => {
            if grouping.get_or_insert_with(|| sum.grouping.clone()) != &sum.grouping {
                return None;
            }
            out.push(counter(&sum.expr, text)?);
            Some(())
        }
        _ => None,
    }
}

/// `rate(selector[w])` or `increase(selector[w])`, without offset.
fn counter(expr: &Expr, text: &str) -> Option<String> {
    match &expr.kind {
        ExprKind::Paren(inner) => counter(inner, text),
        ExprKind::Call { function, args } if matches!(function.name, "rate" | "increase") => {
            let [Expr { span, kind: ExprKind::Range { .. }, .. }] = args.as_slice() else {
                return None;
            };
            let (selector, range) = text.get(span.start..span.end)?.rsplit_once('[')?;
            range.trim_end().ends_with(']').then(|| selector.trim().to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_rates_are_counted_and_cleverer_queries_are_not() {
        let found = |query: &str| {
            selectors(query).map_or("none".to_owned(), |(s, by)| {
                format!("{} by {}", s.join(" + "), by.join(","))
            })
        };
        insta::assert_snapshot!(found("sum(rate(x{a=~\"[0-9]+\"}[{{.window}}]))\n"), @r#"x{a=~"[0-9]+"} by"#);
        insta::assert_snapshot!(found("sum by (t) (increase(x[{{.window}}]))"), @"x by t");
        insta::assert_snapshot!(found("(sum(rate(a[{{.window}}])) + sum(rate(b[{{.window}}])))"), @"a + b by");
        assert_eq!(found("sum(rate(x[{{.window}}] offset 5m))"), "none");
        assert_eq!(found("sum(rate(x[{{.window}}])) / 2"), "none");
        assert_eq!(found("avg(rate(x[{{.window}}]))"), "none");
        assert_eq!(found("sum(rate(a[{{.window}}])) + sum by (t) (rate(b[{{.window}}]))"), "none");
    }
}
