//! `rules` and `alerts`.

use std::collections::BTreeMap;

use evenkeel_base::stable_hash;
use evenkeel_promql::{
    labels::Labels,
    matcher::Matcher,
    rules::{ActiveAlert, AlertState, AlertingRule, Group, Rule, RuleKind},
};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::{ApiError, Params, Reply, state::NEVER};
use crate::{GroupView, Telemetry, rules::health_words};

/// Which rules are asked for.
struct Wanted<'a> {
    kind: &'a str,
    names: Vec<&'a str>,
    groups: Vec<&'a str>,
    files: Vec<&'a str>,
    selectors: Vec<Vec<Matcher>>,
    with_alerts: bool,
}

pub(super) fn rules(telemetry: &Telemetry, params: &Params) -> Result<Reply, ApiError> {
    let kind = params.get("type");
    if !matches!(kind, "" | "alert" | "record") {
        let text = format!("not supported value {kind:?}");
        return Err(ApiError::parameter("type", text));
    }
    let wanted = Wanted {
        kind,
        names: params.all("rule_name[]").collect(),
        groups: params.all("rule_group[]").collect(),
        files: params.all("file[]").collect(),
        selectors: params.matchers()?,
        with_alerts: !params.flag("exclude_alerts")?,
    };
    let limit = params.number("group_limit")?;
    let views = telemetry.rule_groups();
    let token = params.get("group_next_token");
    let mut views =
        views.iter().skip_while(|view| !token.is_empty() && token_of(&view.group) != token);
    let mut groups = Vec::new();
    let mut next = None;
    for view in views.by_ref().filter(|view| wanted.has_group(&view.group)) {
        let rules: Vec<Value> = view.group.rules.iter().filter_map(|r| wanted.rule(r)).collect();
        if rules.is_empty() && wanted.filters_rules() {
            continue;
        }
        if limit.is_some_and(|limit| groups.len() >= limit) {
            next = Some(token_of(&view.group));
            break;
        }
        groups.push(group(view, &rules));
    }
    let mut data = json!({"groups": groups});
    if let Some(next) = next {
        data["groupNextToken"] = next.into();
    }
    Ok(data.into())
}

pub(super) fn alerts(telemetry: &Telemetry) -> Reply {
    let views = telemetry.rule_groups();
    let rules = views.iter().flat_map(|view| &view.group.rules);
    let alerts: Vec<Value> = rules.flat_map(active).map(alert).collect();
    json!({"alerts": alerts}).into()
}

impl Wanted<'_> {
    fn has_group(&self, group: &Group) -> bool {
        let among = |list: &[&str], text: &str| list.is_empty() || list.contains(&text);
        among(&self.groups, &group.name) && among(&self.files, &group.source)
    }

    fn filters_rules(&self) -> bool {
        !(self.kind.is_empty() && self.names.is_empty() && self.selectors.is_empty())
    }

    /// The rule as JSON, if it is wanted.
    fn rule(&self, rule: &Rule) -> Option<Value> {
        if !self.names.is_empty() && !self.names.contains(&rule.name()) {
            return None;
        }
        let (kind, labels) = match &rule.kind {
            RuleKind::Recording(rule) => ("record", &rule.labels),
            RuleKind::Alerting(rule) => ("alert", &rule.labels),
        };
        if !self.kind.is_empty() && self.kind != kind {
            return None;
        }
        if !self.selectors.is_empty() {
            let labels = Labels::from_pairs(labels);
            let fits = |matchers: &Vec<Matcher>| matchers.iter().all(|m| m.matches_labels(&labels));
            if !self.selectors.iter().any(fits) {
                return None;
            }
        }
        Some(rule_json(rule, self.with_alerts))
    }
}

fn group(view: &GroupView, rules: &[Value]) -> Value {
    let group = &view.group;
    json!({
        "name": group.name,
        "file": group.source,
        "rules": rules,
        "interval": seconds(group.interval_ms),
        "limit": group.limit,
        "evaluationTime": view.took.as_secs_f64(),
        "lastEvaluation": time(group.evaluated_ms),
    })
}

fn rule_json(rule: &Rule, with_alerts: bool) -> Value {
    let (health, error) = health_words(&rule.health);
    let mut out = match &rule.kind {
        RuleKind::Alerting(alerting) => json!({
            "state": alerting.state().as_str(),
            "name": alerting.name,
            "query": rule.query().expr.to_string(),
            "duration": seconds(alerting.hold_ms),
            "keepFiringFor": seconds(alerting.keep_firing_ms),
            "labels": alerting.labels,
            "annotations": alerting.annotations,
            "alerts": active(rule).filter(|_| with_alerts).map(alert).collect::<Vec<_>>(),
            "health": health,
        }),
        RuleKind::Recording(recording) => json!({
            "name": recording.record,
            "query": rule.query().expr.to_string(),
            "labels": recording.labels,
            "health": health,
        }),
    };
    if !error.is_empty() {
        out["lastError"] = error.into();
    }
    // Only whole groups are timed.
    out["evaluationTime"] = json!(0);
    out["lastEvaluation"] = time(rule.evaluated_ms).into();
    let alerting = matches!(rule.kind, RuleKind::Alerting(_));
    out["type"] = if alerting { "alerting" } else { "recording" }.into();
    out
}

fn active(rule: &Rule) -> impl Iterator<Item = &ActiveAlert> {
    let alerting = match &rule.kind {
        RuleKind::Alerting(alerting) => Some(alerting),
        RuleKind::Recording(_) => None,
    };
    let alerts = alerting.into_iter().flat_map(AlertingRule::alerts);
    alerts.filter(|alert| alert.state != AlertState::Inactive)
}

fn alert(alert: &ActiveAlert) -> Value {
    let annotations: &BTreeMap<String, String> = &alert.annotations;
    let mut out = json!({
        "labels": alert.labels,
        "annotations": annotations,
        "state": alert.state.as_str(),
        "activeAt": time(Some(alert.active_ms)),
        "value": exponent(alert.value),
    });
    if let Some(since) = alert.kept_since_ms {
        out["keepFiringSince"] = time(Some(since)).into();
    }
    out
}

/// A name from which the next page of groups continues.
fn token_of(group: &Group) -> String {
    format!("{:016x}", stable_hash(format!("{}\0{}", group.source, group.name).as_bytes()))
}

fn time(ms: Option<i64>) -> String {
    let at = ms.and_then(|ms| Timestamp::from_millisecond(ms).ok());
    at.map_or_else(|| NEVER.to_owned(), |at| at.to_string())
}

#[expect(clippy::cast_precision_loss, reason = "durations in milliseconds stay below 2^52")]
fn seconds(ms: i64) -> Value {
    if ms % 1000 == 0 { json!(ms / 1000) } else { json!(ms as f64 / 1000.0) }
}

/// A float as Go's `'e', -1` writes it: `1e+00`.
fn exponent(value: f64) -> String {
    if !value.is_finite() {
        return evenkeel_promql::number::format_float(value);
    }
    let text = format!("{value:e}");
    let Some((mantissa, power)) = text.split_once('e') else { return text };
    match power.strip_prefix('-') {
        Some(digits) => format!("{mantissa}e-{digits:0>2}"),
        None => format!("{mantissa}e+{power:0>2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::exponent;

    #[test]
    fn values_of_alerts_are_written_as_upstream_does() {
        let all = [1.0, 0.05, 123.0, -2.5e-12, 0.0, f64::NAN, f64::INFINITY].map(exponent);
        assert_eq!(all, ["1e+00", "5e-02", "1.23e+02", "-2.5e-12", "0e+00", "NaN", "+Inf"]);
    }
}
