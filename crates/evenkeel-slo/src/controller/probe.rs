//! No series at all: has the service no traffic yet, or is it not scraped?
//!
//! Client libraries make a counter with labels when the first event comes, so before the first
//! request there is nothing to see. Absence alone is not known to be that: the query may be wrong,
//! or the service not scraped. It counts as "no events yet" only if the metrics server shows that
//! it would see them: series of the same name with another value of one label, series with the same
//! labels under other names, series of the same name with other labels, or a target of the SLO's
//! namespace that is up. The first is the best hint when the query is wrong.

use evenkeel_control::{Metrics, MetricsError, Sample};
use evenkeel_promql::{
    ast::Selector,
    matcher::{MatchOp, Matcher},
};
use jiff::Timestamp;

use crate::{model::label_matcher, number::go_quote, template::Template};

/// What to ask when a selector finds nothing.
#[derive(Clone, Debug, Default)]
pub(super) struct Probe {
    questions: Vec<Question>,
}

/// A query, and what it shows when it finds a number above zero.
#[derive(Clone, Debug)]
struct Question {
    query: String,
    words: String,
    /// The label whose values are to be named before the words.
    by: Option<String>,
}

impl Question {
    fn new(query: String, words: String) -> Self {
        Self { query, words, by: None }
    }

    /// What the answer shows, if it does.
    fn shown(&self, found: &[Sample]) -> Option<String> {
        let mut found = found.iter().filter(|sample| sample.value > 0.0).peekable();
        found.peek()?;
        let Some(by) = &self.by else { return Some(self.words.clone()) };
        let value = |sample: &Sample| match sample.labels.get(by) {
            Some(value) => format!("{by}={}", go_quote(value)),
            None => format!("no {by}"),
        };
        let mut values: Vec<String> = found.map(value).collect();
        values.sort_unstable();
        values.truncate(VALUES_MAX);
        Some(format!("with {} {}", values.join(" or "), self.words))
    }
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
            Question::new(format!("count(up{} == 1)", label_matcher(&labels)), words)
        });
        for question in self.questions.iter().chain(&up) {
            let found = metrics.query(&question.query, now).await?;
            if let Some(words) = question.shown(&found) {
                return Ok(Some(words));
            }
        }
        Ok(None)
    }
}

/// Selectors of one query that are probed: a query of more is not about one service.
const SELECTORS_MAX: usize = 4;
/// Labels of one selector whose other values are looked for.
const LABELS_MAX: usize = 4;
/// Values of a label that are named.
const VALUES_MAX: usize = 3;

/// Queries about one selector with what a number above zero shows.
fn questions(selector: &Selector) -> Vec<Question> {
    let is_name = |matcher: &&Matcher| &*matcher.name == "__name__";
    let (names, labels): (Vec<&Matcher>, Vec<&Matcher>) =
        selector.matchers.iter().partition(is_name);
    let certain = |matcher: &&Matcher| matcher.op == MatchOp::Equal && !matcher.value.is_empty();
    let mut all = Vec::new();
    if let Some(name) = names.iter().find(|matcher| certain(matcher)) {
        for wrong in labels.iter().take(LABELS_MAX) {
            let rest = selector.matchers.iter().filter(|other| other.name != wrong.name);
            let rest = text(&rest.collect::<Vec<_>>());
            let by = label_name(&wrong.name);
            all.push(Question {
                query: format!("count by ({by}) ({rest} > 0)"),
                words: format!("{} has events", name.value),
                by: Some(wrong.name.to_string()),
            });
        }
    }
    // A selector must have a matcher that does not fit a missing label.
    if labels.iter().any(certain) {
        let labels = text(&labels);
        let words = format!("series of other names have the labels {labels}");
        all.push(Question::new(format!("count({labels})"), words));
    }
    if names.iter().any(certain) {
        let name = text(&names);
        let words = format!("series {name} have other labels");
        all.push(Question::new(format!("count({name})"), words));
    }
    all
}

fn text(matchers: &[&Matcher]) -> String {
    let one =
        |m: &&Matcher| format!("{}{}{}", label_name(&m.name), m.op.as_str(), go_quote(&m.value));
    let all: Vec<String> = matchers.iter().map(one).collect();
    format!("{{{}}}", all.join(", "))
}

/// A label's name as PromQL takes it.
fn label_name(name: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if name.chars().all(plain) { name.to_owned() } else { go_quote(name) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_half_of_a_selector_is_asked_for_by_itself() {
        let asked = |query: &str| {
            let all = Probe::new(query).questions;
            all.into_iter().map(|question| question.query).collect::<Vec<_>>().join("\n")
        };
        insta::assert_snapshot!(asked("sum(rate(x_total{service=\"a\",code=~\"5..\"}[{{.window}}]))"), @r#"
        count by (service) ({code=~"5..", __name__="x_total"} > 0)
        count by (code) ({service="a", __name__="x_total"} > 0)
        count({service="a", code=~"5.."})
        count({__name__="x_total"})
        "#);
        insta::assert_snapshot!(asked("sum(rate(x_total[{{.window}}]))"), @r#"count({__name__="x_total"})"#);
        insta::assert_snapshot!(asked("sum(rate({__name__=~\"x.*\",a!=\"\"}[{{.window}}]))"), @"");
        assert_eq!(asked("sum("), "");
    }

    #[test]
    fn the_values_that_have_events_are_named() {
        let questions = Probe::new("sum(rate(x_total{ns=\"a\",service=\"api\"}[1m]))").questions;
        let by_service = &questions[1];
        let sample = |labels: &[(&str, &str)], value: f64| {
            let labels = labels.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned()));
            Sample { labels: labels.collect(), value }
        };
        let found = [sample(&[("service", "web")], 2.0), sample(&[], 1.0)];
        assert_eq!(
            by_service.shown(&found).as_deref(),
            Some("with no service or service=\"web\" x_total has events")
        );
        assert_eq!(by_service.shown(&[]), None);
    }
}
