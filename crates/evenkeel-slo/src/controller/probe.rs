//! No series at all: has the service no traffic yet, or is it not scraped?
//!
//! Client libraries make a counter with labels when the first event comes, so before the first
//! request there is nothing to see. Absence alone is not known to be that: the query may be wrong,
//! or the service not scraped. It counts as "no events yet" only if the metrics server shows that
//! it would see them: series with the same labels under other names, series of the same name with
//! other labels, or a target of the SLO's namespace that is up.

use evenkeel_control::{Metrics, MetricsError};
use evenkeel_promql::{
    ast::Selector,
    matcher::{MatchOp, Matcher},
};
use jiff::Timestamp;

use crate::{model::label_matcher, number::go_quote, template::Template};

/// What to ask when a selector finds nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Probe {
    questions: Vec<(String, String)>,
}

impl Probe {
    /// For the selectors of a query, whose window is still open.
    pub(super) fn new(query: &str) -> Self {
        let text = Template::parse(query).ok().map(|template| template.render("1m"));
        let parsed = text.and_then(|text| evenkeel_promql::parser::parse(&text).ok());
        let selectors = parsed.iter().flat_map(|query| query.expr.selectors());
        Self { questions: selectors.take(SELECTORS_MAX).flat_map(questions).collect() }
    }

    /// What shows that events of the service would be seen; `None` when nothing does.
    pub(super) async fn ask(
        &self,
        metrics: &dyn Metrics,
        namespace: &str,
        now: Timestamp,
    ) -> Result<Option<String>, MetricsError> {
        let up = (!namespace.is_empty()).then(|| {
            let labels = [("namespace".to_owned(), namespace.to_owned())].into();
            let words = format!("a target in namespace {namespace} is up");
            (format!("count(up{} == 1)", label_matcher(&labels)), words)
        });
        for (query, words) in self.questions.iter().chain(&up) {
            let found = metrics.query(query, now).await?;
            if found.iter().any(|sample| sample.value > 0.0) {
                return Ok(Some(words.clone()));
            }
        }
        Ok(None)
    }
}

/// Selectors of one query that are probed: a query of more is not about one service.
const SELECTORS_MAX: usize = 4;

/// Queries about one selector with what a number above zero shows.
fn questions(selector: &Selector) -> Vec<(String, String)> {
    let is_name = |matcher: &&Matcher| &*matcher.name == "__name__";
    let (names, labels): (Vec<&Matcher>, Vec<&Matcher>) =
        selector.matchers.iter().partition(is_name);
    let certain = |matcher: &&Matcher| matcher.op == MatchOp::Equal && !matcher.value.is_empty();
    let mut all = Vec::new();
    // A selector must have a matcher that does not fit a missing label.
    if labels.iter().any(certain) {
        let labels = text(&labels);
        all.push((format!("count({labels})"), format!("other series have the labels {labels}")));
    }
    if names.iter().any(certain) {
        let name = text(&names);
        all.push((format!("count({name})"), format!("series {name} have other labels")));
    }
    all
}

fn text(matchers: &[&Matcher]) -> String {
    let one = |m: &&Matcher| {
        let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = if m.name.chars().all(plain) { m.name.to_string() } else { go_quote(&m.name) };
        format!("{name}{}{}", m.op.as_str(), go_quote(&m.value))
    };
    let all: Vec<String> = matchers.iter().map(one).collect();
    format!("{{{}}}", all.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_of_a_selector_is_asked_for_by_itself() {
        let asked = |query: &str| {
            let all = Probe::new(query).questions;
            all.into_iter().map(|(query, _)| query).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(asked("sum(rate(x_total{service=\"a\",code=~\"5..\"}[{{.window}}]))"), @r#"
        count({service="a", code=~"5.."})
        count({__name__="x_total"})
        "#);
        insta::assert_snapshot!(asked("sum(rate(x_total[{{.window}}]))"), @r#"count({__name__="x_total"})"#);
        insta::assert_snapshot!(asked("sum(rate({__name__=~\"x.*\",a!=\"\"}[{{.window}}]))"), @"");
        assert_eq!(asked("sum("), "");
    }
}
