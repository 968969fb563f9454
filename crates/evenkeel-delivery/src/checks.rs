//! What a new version is measured by: queries, and what their answers mean.

use std::{cell::RefCell, time::Duration};

use evenkeel_api::canary::{MetricTemplate, TemplateRef};
use evenkeel_base::format_duration;
use evenkeel_control::{MetricsError, Sample, redact};
use jiff::Timestamp;

use crate::{
    builtin::Source,
    fill, freshness,
    rules::{MetricKind, MetricRule},
    services::Names,
};

/// A query and the server that answers it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Query {
    /// Address of the metrics server; `None` is the host's own.
    pub(crate) server: Option<String>,
    /// `PromQL`.
    pub(crate) expr: String,
    /// It asks how new the data are, not for a value.
    pub(crate) of_time: bool,
}

/// The answer to one query.
pub(crate) type Answer = Result<Vec<Sample>, MetricsError>;

/// A query that must be answered before the check can be judged.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Unanswered(pub(crate) Query);

/// How one check ended.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Checked {
    /// Within its bounds.
    Passed,
    /// Outside.
    Failed {
        /// In Flagger's words.
        event: String,
        /// The metric's name with value and threshold.
        check: String,
    },
    /// There is no value.
    NoData(Missing),
}

/// Why a check has no value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Missing {
    /// The server has none: perhaps nothing is measured yet.
    NoValues,
    /// Its value cannot be compared with a threshold; in words.
    Unusable(String),
    /// What it has passes, but is from before the last step; in words.
    Old(String),
    /// It cannot be asked for, or the server did not answer; in words. It says nothing about
    /// traffic.
    Unasked(String),
}

impl Missing {
    pub(crate) fn words(&self) -> &str {
        match self {
            Self::NoValues => "no values found",
            Self::Unusable(words) | Self::Old(words) | Self::Unasked(words) => words,
        }
    }
}

/// What a check needs besides its rule.
pub(crate) struct Asked<'a> {
    pub(crate) names: &'a Names,
    /// Name of the Canary.
    pub(crate) canary: &'a str,
    pub(crate) source: Source,
    /// `spec.metricsServer`.
    pub(crate) server: Option<&'a str>,
    /// The host's own server, which is asked where none is named; `None` when it has no address.
    pub(crate) own_server: Option<&'a str>,
    /// The template that the rule names, or why there is none.
    pub(crate) template: Result<&'a MetricTemplate, String>,
    /// A check passes only with data from after this.
    pub(crate) since: Timestamp,
    pub(crate) now: Timestamp,
}

impl Asked<'_> {
    /// Judges one metric by the answers there are.
    ///
    /// **Errors**: a query that has no answer yet.
    pub(crate) fn judge(
        &self,
        rule: &MetricRule,
        answer: impl Fn(&Query) -> Option<Answer>,
    ) -> Result<Checked, Unanswered> {
        let server = self
            .template
            .as_ref()
            .ok()
            .copied()
            .and_then(address)
            .or(self.server)
            .map(str::to_owned);
        let asked = server.as_deref().or(self.own_server);
        // The last query that found something.
        let last_found: RefCell<Option<String>> = RefCell::default();
        let ask = |expr: String, of_time: bool| {
            let query = Query { server: server.clone(), expr, of_time };
            let Some(answer) = answer(&query) else { return Err(Unanswered(query)) };
            Ok(answer.map_err(|error| Missing::Unasked(unanswered(asked, &error))))
        };
        let answer = |expr: String| {
            let found = ask(expr.clone(), false)?;
            if found.as_ref().is_ok_and(|samples| !samples.is_empty()) {
                last_found.replace(Some(expr));
            }
            Ok(found)
        };
        let value = match &rule.kind {
            MetricKind::SuccessRate => self.success_pct(rule, answer)?,
            MetricKind::Duration => self.duration_ms(rule, answer)?,
            MetricKind::Query(query) => match self.fill(query, rule, &[]) {
                Ok(query) => value_of(answer(query)?),
                Err(problem) => Err(Missing::Unasked(problem)),
            },
            MetricKind::Template(_, variables) => match &self.template {
                Err(problem) => Err(Missing::Unasked(problem.clone())),
                Ok(template) => match self.fill(&template.spec.query, rule, variables) {
                    Ok(query) => value_of(answer(query)?),
                    Err(problem) => Err(Missing::Unasked(problem)),
                },
            },
        };
        let checked = match value {
            Ok(value) => Self::compare(rule, value),
            Err(missing) => Checked::NoData(missing),
        };
        let times = last_found.into_inner().and_then(|expr| freshness::query(&expr));
        let (Checked::Passed, Some(times)) = (&checked, times) else { return Ok(checked) };
        // A server without sample times does not stop a release: the check itself was answered.
        let Ok(newest_s) = value_of(ask(times, true)?) else { return Ok(checked) };
        Ok(match freshness::too_old(newest_s, self.since, self.now) {
            None => Checked::Passed,
            Some(newest) => Checked::NoData(Missing::Old(format!(
                "its newest sample is of {newest:.0}, none is from after the last step at {:.0}",
                self.since
            ))),
        })
    }

    /// Percent of answers that were not errors. Asked as two sums, because a vector that has no bad
    /// (or no good) answer in it has no element at all.
    fn success_pct(
        &self,
        rule: &MetricRule,
        answer: impl Fn(String) -> Result<Found, Unanswered>,
    ) -> Result<Result<f64, Missing>, Unanswered> {
        let mut outcome = Err(Missing::NoValues);
        for query in self.source.success(self.names, &format_duration(rule.window)) {
            let all = match value_of(answer(query.all)?) {
                Ok(all) if all > 0.0 => all,
                Ok(_) => continue,
                Err(problem) => {
                    outcome = Err(problem);
                    continue;
                }
            };
            let bad = match answer(query.bad)? {
                Ok(samples) => samples.last().map_or(0.0, |sample| sample.value),
                Err(missing) => return Ok(Err(missing)),
            };
            let bad = if bad.is_nan() { 0.0 } else { bad };
            if !all.is_finite() || !bad.is_finite() {
                let problem = "the rate of requests is infinite".to_owned();
                return Ok(Err(Missing::Unusable(problem)));
            }
            return Ok(Ok(100.0 * (1.0 - bad / all)));
        }
        Ok(outcome)
    }

    /// 99th percentile in milliseconds.
    fn duration_ms(
        &self,
        rule: &MetricRule,
        answer: impl Fn(String) -> Result<Found, Unanswered>,
    ) -> Result<Result<f64, Missing>, Unanswered> {
        let mut outcome = Err(Missing::NoValues);
        for query in self.source.duration(self.names, &format_duration(rule.window)) {
            match value_of(answer(query.expr)?) {
                Ok(value) => return Ok(Ok(value * query.ms)),
                Err(problem) => outcome = Err(problem),
            }
        }
        Ok(outcome)
    }

    /// Fills `{{ name }}` and its like in; what is unknown is named.
    fn fill(
        &self,
        query: &str,
        rule: &MetricRule,
        variables: &[(String, String)],
    ) -> Result<String, String> {
        let interval = format_duration(rule.window);
        let words = |name: &str| match name {
            "name" => self.canary,
            "namespace" => self.names.namespace.as_str(),
            "target" => self.names.target.as_str(),
            "service" | "ingress" | "route" => self.names.apex.as_str(),
            _ => interval.as_str(),
        };
        let filled = fill::filled(query, variables, words);
        filled.map_err(|problem| format!("metric {}: {problem}", rule.name))
    }

    fn compare(rule: &MetricRule, value: f64) -> Checked {
        let wrong = |sign: &str, limit: f64| {
            let (words, values) = match rule.kind {
                MetricKind::SuccessRate => ("success rate", format!("{value:.2}% {sign} {limit}%")),
                MetricKind::Duration => {
                    let ms = |value: f64| {
                        let time = Duration::try_from_secs_f64(value / 1000.0);
                        time.map_or("+Inf".to_owned(), format_duration)
                    };
                    ("request duration", format!("{} {sign} {}", ms(value), ms(limit)))
                }
                MetricKind::Query(_) | MetricKind::Template(..) => {
                    (rule.name.as_str(), format!("{value:.2} {sign} {limit}"))
                }
            };
            let (event, check) = (format!("{words} {values}"), format!("{} {values}", rule.name));
            Checked::Failed { event, check }
        };
        match (rule.bounds.min, rule.bounds.max) {
            (Some(min), _) if value < min => wrong("<", min),
            (_, Some(max)) if value > max => wrong(">", max),
            _ => Checked::Passed,
        }
    }
}

/// An answer, or why there is none in words.
type Found = Result<Vec<Sample>, Missing>;

/// Why a server has not answered, in words.
pub(crate) fn unanswered(server: Option<&str>, error: &MetricsError) -> String {
    let address = server.map(|address| format!(" {}", redact::url(address)));
    let server = format!("the metrics server{}", address.unwrap_or_default());
    match error {
        MetricsError::Invalid { expr, problem } => {
            format!("{server} refused the query {}: {}", redact::quote(expr), redact::text(problem))
        }
        MetricsError::Unreachable { problem } => {
            format!("{server} could not be asked: {}", redact::text(problem))
        }
    }
}

/// A template that is named and does not exist.
pub(crate) fn absent(reference: &TemplateRef, namespace: &str) -> String {
    let namespace = reference.namespace.as_deref().unwrap_or(namespace);
    format!(
        "MetricTemplate/{namespace}/{} does not exist: create it, or correct templateRef in \
         spec.analysis.metrics",
        reference.name
    )
}

/// The server that a template names.
pub(crate) fn address(template: &MetricTemplate) -> Option<&str> {
    let address = template.spec.provider.other.get("address")?.as_str()?;
    Some(address).filter(|address| !address.is_empty())
}

/// What a template asks of its provider that is not done.
pub(crate) fn unsupported(template: &MetricTemplate) -> Option<String> {
    let provider = &template.spec.provider;
    if provider.kind != "prometheus" {
        return Some(format!(
            "spec.provider.type: {} is not supported; use prometheus",
            redact::quote(&provider.kind)
        ));
    }
    let refused = ["secretRef", "headers", "insecureSkipVerify", "region"];
    let says = |field: &&&str| {
        let value = provider.other.get(**field);
        value.is_some_and(|value| !value.is_null() && *value != serde_json::Value::Bool(false))
    };
    let field = refused.iter().find(says)?;
    Some(format!("spec.provider.{field}: is not supported; remove it"))
}

/// The last element's value, as Flagger takes it; NaN counts as missing.
fn value_of(found: Found) -> Result<f64, Missing> {
    match found?.last() {
        Some(sample) if !sample.value.is_nan() => Ok(sample.value),
        _ => Err(Missing::NoValues),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use evenkeel_api::canary::{CanarySpec, ObjectRef, ThresholdRange};
    use insta::assert_snapshot;
    use serde_json::json;

    use super::*;

    fn names() -> Names {
        let target_ref = ObjectRef { name: "api".to_owned(), ..ObjectRef::default() };
        Names::from_spec(&CanarySpec { target_ref, ..CanarySpec::default() }, "shop")
    }

    /// Judges with a table of `part of the query -> value`; a query not in it has no data.
    fn judge(
        kind: MetricKind,
        min: Option<f64>,
        max: Option<f64>,
        table: &[(&str, f64)],
    ) -> String {
        let names = names();
        let template: MetricTemplate = serde_json::from_value(json!({"spec": {
            "provider": {"type": "prometheus"},
            "query": "sum(errors{app=\"{{ target }}-primary\",\n  v=\"{{ variables.v }}\"}[{{interval}}])"}}))
        .unwrap();
        let asked = Asked {
            names: &names,
            canary: "api",
            source: Source::MeshOrPods,
            server: None,
            own_server: None,
            template: Ok(&template),
            since: Timestamp::from_second(90_000).unwrap(),
            now: Timestamp::from_second(90_010).unwrap(),
        };
        let bounds = ThresholdRange { min, max };
        let window = Duration::from_mins(1);
        let rule = MetricRule { name: "m".to_owned(), window, bounds, kind };
        let checked = asked.judge(&rule, |query| {
            let hit = table.iter().find(|(part, _)| query.expr.contains(part));
            let sample =
                |(_, value): &(&str, f64)| Sample { labels: BTreeMap::new(), value: *value };
            Some(Ok(hit.map(sample).into_iter().collect()))
        });
        format!("{checked:?}")
    }

    #[test]
    fn the_success_rate_counts_what_is_not_5xx() {
        let rate = |table: &[(&str, f64)]| judge(MetricKind::SuccessRate, Some(99.0), None, table);
        assert_snapshot!(rate(&[("response_code", 0.02), ("istio_requests_total", 2.0)]), @"Ok(Passed)");
        assert_snapshot!(rate(&[("response_code", 0.1), ("istio_requests_total", 2.0)]), @r#"Ok(Failed { event: "success rate 95.00% < 99%", check: "m 95.00% < 99%" })"#);
        // No bad answer at all means no series of them.
        assert_snapshot!(judge(MetricKind::SuccessRate, Some(100.0), None, &[("istio_requests_total{reporter=\"destination\",destination_workload_namespace=\"shop\",destination_workload=~\"api\"}[1m]", 2.0)]), @"Ok(Passed)");
        assert_snapshot!(rate(&[("status", 1.0), ("seconds_count", 2.0)]), @r#"Ok(Failed { event: "success rate 50.00% < 99%", check: "m 50.00% < 99%" })"#);
        // The quotient of two infinite rates is NaN, which no bound excludes.
        let infinite = f64::INFINITY;
        assert_snapshot!(rate(&[("response_code", infinite), ("istio_requests_total", infinite)]), @r#"Ok(NoData(Unusable("the rate of requests is infinite")))"#);
        assert_snapshot!(rate(&[("response_code", 0.0), ("istio_requests_total", infinite)]), @r#"Ok(NoData(Unusable("the rate of requests is infinite")))"#);
        assert_snapshot!(rate(&[("istio_requests_total", 0.0)]), @"Ok(NoData(NoValues))");
        assert_snapshot!(rate(&[]), @"Ok(NoData(NoValues))");
    }

    #[test]
    fn durations_are_compared_in_milliseconds() {
        let p99 = |table: &[(&str, f64)]| judge(MetricKind::Duration, None, Some(500.0), table);
        assert_snapshot!(p99(&[("milliseconds_bucket", 800.0)]), @r#"Ok(Failed { event: "request duration 800ms > 500ms", check: "m 800ms > 500ms" })"#);
        assert_snapshot!(p99(&[("milliseconds_bucket", f64::INFINITY)]), @r#"Ok(Failed { event: "request duration +Inf > 500ms", check: "m +Inf > 500ms" })"#);
        assert_snapshot!(p99(&[("seconds_bucket", 0.4)]), @"Ok(Passed)");
        assert_snapshot!(p99(&[("milliseconds_bucket", f64::NAN)]), @"Ok(NoData(NoValues))");
    }

    #[test]
    fn queries_and_templates_are_filled_in() {
        let query = |text: &str| {
            let kind = MetricKind::Query(text.to_owned());
            judge(kind, None, Some(1.0), &[("x{ns=\"shop\"}[1m]", 2.0)])
        };
        assert_snapshot!(query("x{ns=\"{{ namespace }}\"}[{{ interval }}]"), @r#"Ok(Failed { event: "m 2.00 > 1", check: "m 2.00 > 1" })"#);
        assert_snapshot!(query("{{ nonsense }}"), @r#"Ok(NoData(Unasked("metric m: \"nonsense\" is not known in the query: use name, namespace, target, service, ingress, route, interval, or variables.NAME with NAME in templateVariables")))"#);
        let template =
            MetricKind::Template(TemplateRef::default(), vec![("v".to_owned(), "7".to_owned())]);
        assert_snapshot!(judge(template, None, Some(1.0), &[("errors{app=\"api-primary\", v=\"7\"}[1m]", 0.5)]), @"Ok(Passed)");
    }

    #[test]
    fn a_check_passes_with_data_from_after_the_last_step_only() {
        let at = |newest_s, bad| {
            let table = [
                ("max(timestamp", newest_s),
                ("response_code", bad),
                ("istio_requests_total", 2.0),
            ];
            judge(MetricKind::SuccessRate, Some(99.0), None, &table)
        };
        assert_snapshot!(at(89_999.0, 0.0), @r#"Ok(NoData(Old("its newest sample is of 1970-01-02T00:59:59Z, none is from after the last step at 1970-01-02T01:00:00Z")))"#);
        assert_snapshot!(at(90_001.0, 0.0), @"Ok(Passed)");
        // A failure counts at once.
        assert_snapshot!(at(89_999.0, 1.0), @r#"Ok(Failed { event: "success rate 50.00% < 99%", check: "m 50.00% < 99%" })"#);
        // Nothing that could be the time of a sample.
        assert_snapshot!(at(2.0, 0.0), @"Ok(Passed)");
    }

    #[test]
    fn a_missing_answer_is_asked_for() {
        let names = names();
        let asked = Asked {
            names: &names,
            canary: "api",
            source: Source::Mesh,
            server: Some("http://other/"),
            own_server: None,
            template: Err(String::new()),
            since: Timestamp::UNIX_EPOCH,
            now: Timestamp::UNIX_EPOCH,
        };
        let bounds = ThresholdRange { min: None, max: Some(1.0) };
        let window = Duration::from_mins(1);
        let kind = MetricKind::Query("up".to_owned());
        let rule = MetricRule { name: "m".to_owned(), window, bounds, kind };
        let server = Some("http://other/".to_owned());
        let query = Query { server, expr: "up".to_owned(), of_time: false };
        assert_eq!(asked.judge(&rule, |_| None), Err(Unanswered(query)));
    }
}
