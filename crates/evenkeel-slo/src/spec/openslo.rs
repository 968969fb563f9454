//! `openslo/v1alpha SLO`, as far as Sloth reads it.

use serde_json::{Map, Value};

use super::fields::{Name, Reader, join};
use super::{Parsed, ReadOptions, Reading};
use crate::duration::PromDuration;
use crate::model::{Events, Labels, Metadata, PluginChain, Sli, Slo, SloGroup, SpecKind};
use crate::reasons;

pub(super) const fn plain(name: &'static str) -> Name {
    Name::plain(name)
}

/// Days that a window may have; more is a mistake. About 10 years.
const DAYS_MAX: f64 = 3660.0;

pub(super) fn read(parsed: &Parsed, how: ReadOptions, reader: &mut Reader<'_>) -> Option<SloGroup> {
    let top = parsed.value.as_object()?;
    let Some(spec) = reader.object(top, "", plain("spec")) else {
        let message = "spec is required".to_owned();
        reader.error(reasons::INVALID_FIELD, "spec", message, "add spec");
        return None;
    };
    let name = parsed.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("");
    let service = reader.text(spec, "spec", plain("service"));
    let description = reader.text(spec, "spec", plain("description"));
    if how.reading == Reading::Lenient {
        check_method(reader, spec);
    }
    let window = read_window(reader, spec);
    let objectives = reader.list(spec, "spec", plain("objectives"));
    if objectives.is_empty() {
        let message = "at least one SLO is required".to_owned();
        reader.error(reasons::INVALID_SLO, "spec.objectives", message, "add an objective");
    }
    let mut slos = Vec::new();
    for (index, objective) in objectives.iter().enumerate() {
        let path = format!("spec.objectives[{index}]");
        let Some(map) = objective.as_object() else {
            let fix = "write target and ratioMetrics";
            reader.error(reasons::INVALID_FIELD, &path, "must be a mapping".to_owned(), fix);
            continue;
        };
        let Some((good, total)) = read_ratio(reader, map, &path) else { continue };
        let sli = if how.reading == Reading::Lenient {
            error_ratio_of(reader, good, total, &join(&path, "ratioMetrics"))
        } else {
            Sli { events: None, raw: Some(error_ratio(&good, &total)) }
        };
        let target = reader.number(map, &path, plain("target"));
        slos.push(Slo {
            id: format!("{service}-{name}-{index}"),
            name: format!("{name}-{index}"),
            service: service.clone(),
            description: description.clone(),
            // Sloth multiplies the ratio, which shows in the last digits.
            objective: target * 100.0,
            window: window.unwrap_or(how.default_window),
            own_window: false,
            labels: Labels::new(),
            sli,
            page_alert: None,
            ticket_alert: None,
            plugins: PluginChain::default(),
            group_by: Vec::new(),
            sli_path: join(&path, "ratioMetrics"),
            path,
        });
    }
    Some(SloGroup {
        source: parsed.source.clone(),
        object: parsed.object.clone(),
        kind: SpecKind::OpenSloV1Alpha,
        metadata: Metadata { name: name.to_owned(), ..Metadata::default() },
        slos,
    })
}

/// Budgets are counted in events, not in slices of time. Sloth does not look at the field.
pub(super) fn check_method(reader: &mut Reader<'_>, spec: &Map<String, Value>) {
    let method = reader.text(spec, "spec", plain("budgetingMethod"));
    if !matches!(method.as_str(), "" | "Occurrences") {
        let message = format!(
            "budgetingMethod {method} is not supported: budgets are counted in events, not in \
             slices of time"
        );
        let fix = "budgetingMethod: Occurrences";
        reader.error(reasons::INVALID_FIELD, "spec.budgetingMethod", message, fix);
    }
}

fn read_window(reader: &mut Reader<'_>, spec: &Map<String, Value>) -> Option<PromDuration> {
    let windows = reader.list(spec, "spec", plain("timeWindows"));
    let at = "spec.timeWindows";
    match windows {
        [] => None,
        [one] => {
            let unit = one.get("unit").and_then(Value::as_str).unwrap_or("");
            let count = one.get("count").and_then(Value::as_f64).unwrap_or(0.0);
            if !unit.eq_ignore_ascii_case("day") {
                let message = "only days based time windows are supported".to_owned();
                reader.error(reasons::INVALID_FIELD, at, message, "set unit: Day");
            } else if !(1.0..=DAYS_MAX).contains(&count) || count.fract() != 0.0 {
                let message = "time window is required".to_owned();
                reader.error(reasons::INVALID_FIELD, at, message, "set count to whole days");
            } else {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "checked to be a small whole number"
                )]
                let days = count as u64;
                return Some(PromDuration::from_days(days));
            }
            None
        }
        _ => {
            let message = "only 1 time window is supported".to_owned();
            reader.error(reasons::INVALID_FIELD, at, message, "keep one");
            None
        }
    }
}

/// Queries of good and of all events.
fn read_ratio(
    reader: &mut Reader<'_>,
    map: &Map<String, Value>,
    path: &str,
) -> Option<(String, String)> {
    let path = join(path, "ratioMetrics");
    let Some(ratio) = map.get("ratioMetrics").and_then(Value::as_object) else {
        let message = "missing ratioMetrics".to_owned();
        reader.error(reasons::INVALID_FIELD, &path, message, "give good and total queries");
        return None;
    };
    let mut one = |name: &'static str| {
        let path = join(&path, name);
        let metric = ratio.get(name);
        let text = |key: &str| {
            metric.and_then(|m| m.get(key)).and_then(Value::as_str).unwrap_or("").to_owned()
        };
        if !matches!(text("source").as_str(), "prometheus" | "sloth") {
            let message = format!("prometheus or sloth query ratio '{name}' source is required");
            reader.error(
                reasons::INVALID_FIELD,
                &join(&path, "source"),
                message,
                "source: prometheus",
            );
        }
        let kind = text("queryType");
        if kind != "promql" {
            let message = format!("unsupported '{name}' indicator query type: {kind}");
            let fix = "queryType: promql";
            reader.error(reasons::INVALID_FIELD, &join(&path, "queryType"), message, fix);
        }
        text("query")
    };
    Some((one("good"), one("total")))
}

/// The indicator of good and all events, their window inferred where it has to be.
pub(super) fn error_ratio_of(
    reader: &mut Reader<'_>,
    good: String,
    total: String,
    field: &str,
) -> Sli {
    let events = Events { error_query: good, total_query: total };
    let mut pair = Sli { events: Some(events), raw: None };
    super::sloth::infer_window(reader, &mut pair, field);
    let Events { error_query: good, total_query: total } = pair.events.unwrap_or_default();
    Sli { events: None, raw: Some(error_ratio(&good, &total)) }
}

/// The error ratio of good and all events, laid out as Sloth lays it out.
fn error_ratio(good: &str, total: &str) -> String {
    format!("\n  1 - (\n    (\n      {good}\n    )\n    /\n    (\n      {total}\n    )\n  )\n")
}
