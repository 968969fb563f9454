//! The rules of many SLOs in the shape that Sloth writes: 8 windows, 7 about the objective, 2
//! alerts each.

use std::{collections::BTreeMap, error::Error, io::Write};

use evenkeel_promql::labels::Labels;
use serde_json::{Value, json};

use crate::service_name;

const WINDOWS: [&str; 7] = ["5m", "30m", "1h", "2h", "6h", "1d", "3d"];
/// Objective 99.9 %.
const BUDGET: &str = "0.0009999999999999432";

/// Labels of what is recorded for a service, in the window that the 30 days are made of.
pub(crate) fn recorded_labels(service: u32) -> String {
    let mut labels = labels(service);
    labels.insert("sloth_window".to_owned(), "5m".to_owned());
    braces(&labels, ",")
}

/// The same as a series.
pub(crate) fn recorded_series(service: u32) -> Labels {
    let mut labels = labels(service);
    labels.insert("sloth_window".to_owned(), "5m".to_owned());
    labels.insert("__name__".to_owned(), "slo:sli_error:ratio_rate5m".to_owned());
    Labels::from_pairs(labels)
}

fn labels(service: u32) -> BTreeMap<String, String> {
    let name = service_name(service);
    [
        ("sloth_id", format!("{name}-availability")),
        ("sloth_service", name),
        ("sloth_slo", "availability".to_owned()),
        ("team", format!("t{}", service % 7)),
    ]
    .map(|(name, value)| (name.to_owned(), value))
    .into()
}

fn braces(labels: &BTreeMap<String, String>, comma: &str) -> String {
    let parts: Vec<String> =
        labels.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{{{}}}", parts.join(comma))
}

/// Writes the rule file; JSON is YAML.
pub(crate) fn write(services: u32, out: &mut impl Write) -> Result<(), Box<dyn Error>> {
    let groups: Vec<Value> = (0..services).flat_map(groups).collect();
    serde_json::to_writer(out, &json!({"groups": groups}))?;
    Ok(())
}

fn groups(service: u32) -> [Value; 3] {
    let id = format!("{}-availability", service_name(service));
    let group = |what: &str, rules: Vec<Value>| json!({"name": format!("sloth-slo-{what}-{id}"), "interval": "30s", "rules": rules});
    [
        group("sli-recordings", sli_rules(service)),
        group("meta-recordings", meta_rules(service)),
        group("alerts", alert_rules(service)),
    ]
}

fn filter(service: u32) -> String {
    let mut ids = labels(service);
    ids.remove("team");
    braces(&ids, ", ")
}

fn sli_rules(service: u32) -> Vec<Value> {
    let (f, job) = (filter(service), service_name(service));
    let windowed = |window: &str, expr: String| {
        let mut labels = labels(service);
        labels.insert("sloth_window".to_owned(), window.to_owned());
        json!({"record": format!("slo:sli_error:ratio_rate{window}"), "expr": expr, "labels": labels})
    };
    let mut rules: Vec<Value> = WINDOWS
        .iter()
        .map(|window| {
            let errors =
                format!("sum(rate(http_requests_total{{job=\"{job}\",code=~\"5..\"}}[{window}]))");
            let total = format!("sum(rate(http_requests_total{{job=\"{job}\"}}[{window}]))");
            windowed(window, format!("({errors})\n/\n({total})\n"))
        })
        .collect();
    let metric = format!("slo:sli_error:ratio_rate5m{f}[30d]");
    let period =
        format!("sum_over_time({metric})\n/ ignoring (sloth_window)\ncount_over_time({metric})\n");
    rules.push(windowed("30d", period));
    rules
}

fn meta_rules(service: u32) -> Vec<Value> {
    let f = filter(service);
    let burn = |window: &str| {
        format!(
            "slo:sli_error:ratio_rate{window}{f}\n/ on(sloth_id, sloth_slo, sloth_service) \
             group_left\nslo:error_budget:ratio{f}\n"
        )
    };
    let rules = [
        ("slo:objective:ratio", "vector(0.9990000000000001)".to_owned()),
        ("slo:error_budget:ratio", "vector(1-0.9990000000000001)".to_owned()),
        ("slo:time_period:days", "vector(30)".to_owned()),
        ("slo:current_burn_rate:ratio", burn("5m")),
        ("slo:period_burn_rate:ratio", burn("30d")),
        ("slo:period_error_budget_remaining:ratio", format!("1 - slo:period_burn_rate:ratio{f}")),
        ("sloth_slo_info", "vector(1)".to_owned()),
    ];
    let labels = labels(service);
    rules.map(|(name, expr)| json!({"record": name, "expr": expr, "labels": labels})).to_vec()
}

fn alert_rules(service: u32) -> Vec<Value> {
    let f = filter(service);
    let part = |(short, long, factor): (&str, &str, &str)| {
        let max = |window: &str| {
            format!(
                "    max(slo:sli_error:ratio_rate{window}{f} > ({factor} * {BUDGET})) without \
                 (sloth_window)\n"
            )
        };
        format!("(\n{}    and\n{})\n", max(short), max(long))
    };
    let alert = |severity: &str, quick, slow| {
        json!({"alert": "HighErrorRate", "expr": format!("{}or\n{}", part(quick), part(slow)),
        "labels": {"sloth_severity": severity},
        "annotations": {
            "summary": "{{$labels.sloth_service}} {{$labels.sloth_slo}} SLO error budget burn rate is over expected.",
            "title": format!("({severity}) {{{{$labels.sloth_service}}}} {{{{$labels.sloth_slo}}}} SLO error budget burn rate is too fast."),
        }})
    };
    vec![
        alert("page", ("5m", "1h", "14.4"), ("30m", "6h", "6")),
        alert("ticket", ("2h", "1d", "3"), ("6h", "3d", "1")),
    ]
}
