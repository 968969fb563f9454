//! `openslo/v1 SLO`: what Sloth does not read; ratio indicators over a rolling window.

use serde_json::{Map, Value};

use super::fields::{Reader, join};
use super::openslo::{check_method, error_ratio_of, plain};
use super::{Parsed, ReadOptions};
use crate::duration::PromDuration;
use crate::model::{Events, Labels, Metadata, PluginChain, Sli, Slo, SloGroup, SpecKind};
use crate::reasons;

pub(super) fn read(
    parsed: &Parsed,
    all: &[Parsed],
    how: ReadOptions,
    reader: &mut Reader<'_>,
) -> Option<SloGroup> {
    let top = parsed.value.as_object()?;
    let Some(spec) = reader.object(top, "", plain("spec")) else {
        let message = "spec is required".to_owned();
        reader.error(reasons::INVALID_FIELD, "spec", message, "add spec");
        return None;
    };
    let name = parsed.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("");
    let service = reader.text(spec, "spec", plain("service"));
    let description = reader.text(spec, "spec", plain("description"));
    check_method(reader, spec);
    let window = read_window(reader, spec).unwrap_or(how.default_window);
    if !reader.list(spec, "spec", plain("alertPolicies")).is_empty() {
        let message = "alert policies are not read; no alerts are generated".to_owned();
        reader.warn(reasons::IGNORED_FIELD, "spec.alertPolicies", message, "");
    }
    let (indicator, path) = find_indicator(reader, spec, all)?;
    let sli = read_indicator(reader, indicator, &path)?;
    let indicator_path = join(&path, "ratioMetric");
    let objectives = reader.list(spec, "spec", plain("objectives"));
    if objectives.is_empty() {
        let message = "at least one SLO is required".to_owned();
        reader.error(reasons::INVALID_SLO, "spec.objectives", message, "add an objective");
    }
    let mut slos = Vec::new();
    for (index, value) in objectives.iter().enumerate() {
        let path = format!("spec.objectives[{index}]");
        let Some(map) = value.as_object() else {
            let fix = "write target, such as 0.999";
            reader.error(reasons::INVALID_FIELD, &path, "must be a mapping".to_owned(), fix);
            continue;
        };
        let percent = reader.number(map, &path, plain("targetPercent"));
        let target = reader.number(map, &path, plain("target"));
        slos.push(Slo {
            id: format!("{service}-{name}-{index}"),
            name: format!("{name}-{index}"),
            service: service.clone(),
            description: description.clone(),
            objective: if percent > 0.0 { percent } else { target * 100.0 },
            window,
            own_window: false,
            labels: Labels::new(),
            sli: sli.clone(),
            page_alert: None,
            ticket_alert: None,
            plugins: PluginChain::default(),
            group_by: Vec::new(),
            sli_path: indicator_path.clone(),
            path,
        });
    }
    Some(SloGroup {
        source: parsed.source.clone(),
        object: parsed.object.clone(),
        kind: SpecKind::OpenSloV1,
        metadata: Metadata { name: name.to_owned(), ..Metadata::default() },
        slos,
    })
}

fn read_window(reader: &mut Reader<'_>, spec: &Map<String, Value>) -> Option<PromDuration> {
    let at = "spec.timeWindow";
    let [one] = reader.list(spec, "spec", plain("timeWindow")) else {
        let message = "exactly one time window is required".to_owned();
        let fix = "timeWindow: [{duration: 30d, isRolling: true}]";
        reader.error(reasons::INVALID_FIELD, at, message, fix);
        return None;
    };
    if one.get("isRolling").and_then(Value::as_bool) == Some(false) || one.get("calendar").is_some()
    {
        let message = "calendar windows cannot be written as Prometheus rules".to_owned();
        reader.error(reasons::INVALID_FIELD, at, message, "isRolling: true");
        return None;
    }
    let text = one.get("duration").and_then(Value::as_str).unwrap_or("");
    match PromDuration::parse(text) {
        Ok(window) if !window.is_zero() => Some(window),
        _ => {
            let message = format!("duration {text:?} is not minutes, hours, days or weeks");
            reader.error(reasons::INVALID_FIELD, at, message, "duration: 30d");
            None
        }
    }
}

/// The indicator in place, or the `SLI` document it points to.
fn find_indicator<'a>(
    reader: &mut Reader<'_>,
    spec: &'a Map<String, Value>,
    all: &'a [Parsed],
) -> Option<(&'a Value, String)> {
    if let Some(indicator) = spec.get("indicator") {
        let Some(spec) = indicator.get("spec") else {
            let message = "the indicator has no spec".to_owned();
            let fix = "give spec.ratioMetric below it";
            reader.error(reasons::INVALID_FIELD, "spec.indicator", message, fix);
            return None;
        };
        return Some((spec, "spec.indicator.spec".to_owned()));
    }
    let wanted = reader.text(spec, "spec", plain("indicatorRef"));
    let found = all.iter().find(|p| {
        let text = |at: &str| p.value.pointer(at).and_then(Value::as_str);
        text("/kind") == Some("SLI") && text("/metadata/name") == Some(wanted.as_str())
    });
    let Some(spec) = found.and_then(|p| p.value.get("spec")) else {
        let message = if wanted.is_empty() {
            "an indicator is required".to_owned()
        } else {
            format!("there is no SLI {wanted:?} among the given documents")
        };
        let fix = "give spec.indicator, or add the SLI's file to the command";
        reader.error(reasons::INVALID_FIELD, "spec.indicatorRef", message, fix);
        return None;
    };
    Some((spec, format!("SLI/{wanted}.spec")))
}

fn read_indicator(reader: &mut Reader<'_>, indicator: &Value, path: &str) -> Option<Sli> {
    let path = join(path, "ratioMetric");
    let Some(ratio) = indicator.get("ratioMetric").and_then(Value::as_object) else {
        let message = "only ratioMetric indicators can be counted as good and bad".to_owned();
        reader.error(reasons::INVALID_FIELD, &path, message, "give ratioMetric");
        return None;
    };
    let query = |name: &str| {
        let at = format!("/{name}/metricSource/spec/query");
        ratio_query(&Value::Object(ratio.clone()), &at)
    };
    let (bad, good, total, raw) = (query("bad"), query("good"), query("total"), query("raw"));
    let mut sli = match (bad, good, total, raw) {
        (Some(error_query), None, Some(total_query), None) => {
            Sli { events: Some(Events { error_query, total_query }), raw: None }
        }
        (None, Some(good), Some(total), None) => {
            return Some(error_ratio_of(reader, good, total, &path));
        }
        (None, None, None, Some(raw)) => {
            let success = ratio.get("rawType").and_then(Value::as_str) == Some("success");
            let raw = if success { format!("1 - ({raw})") } else { raw };
            Sli { events: None, raw: Some(raw) }
        }
        _ => {
            let message = "needs total with either good or bad, or raw alone; each with \
                           metricSource.spec.query";
            reader.error(reasons::INVALID_FIELD, &path, message.to_owned(), "");
            return None;
        }
    };
    super::sloth::infer_window(reader, &mut sli, &path);
    Some(sli)
}

fn ratio_query(ratio: &Value, at: &str) -> Option<String> {
    let text = ratio.pointer(at)?.as_str()?;
    (!text.trim().is_empty()).then(|| text.to_owned())
}
