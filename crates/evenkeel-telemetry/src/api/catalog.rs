//! The contents: `series`, `labels`, `label/<name>/values`, `metadata`.

use std::collections::BTreeSet;

use evenkeel_promql::labels::{Labels, is_valid_label_name};
use serde_json::{Value, json};

use super::{ApiError, Params, Reply, query::limited};
use crate::Telemetry;

pub(super) fn series(telemetry: &Telemetry, params: &Params) -> Result<Reply, ApiError> {
    if params.all("match[]").next().is_none() {
        return Err(ApiError::BadData("no match[] parameter provided".to_owned()));
    }
    let mut series: Vec<Labels> = matching(telemetry, params)?.into_iter().collect();
    let warning = limited(&mut series, params.limit()?);
    Ok(Reply::from(json!(series)).with_warning(warning))
}

pub(super) fn label_names(telemetry: &Telemetry, params: &Params) -> Result<Reply, ApiError> {
    params.range()?;
    let names = if params.all("match[]").next().is_none() {
        telemetry.read().label_names()
    } else {
        let series = matching(telemetry, params)?;
        let names: BTreeSet<_> =
            series.iter().flatten().map(|label| std::sync::Arc::clone(&label.name)).collect();
        names.into_iter().collect()
    };
    list(names.iter().map(AsRef::as_ref), params)
}

pub(super) fn label_values(
    telemetry: &Telemetry,
    params: &Params,
    name: &str,
) -> Result<Reply, ApiError> {
    let name = unescape(name);
    if !is_valid_label_name(&name) {
        return Err(ApiError::BadData(format!("invalid label name: {name:?}")));
    }
    params.range()?;
    if params.all("match[]").next().is_none() {
        let values = telemetry.read().label_values(&name);
        return list(values.iter().map(AsRef::as_ref), params);
    }
    let series = matching(telemetry, params)?;
    let values: BTreeSet<&str> =
        series.iter().map(|labels| labels.get(&name)).filter(|value| !value.is_empty()).collect();
    list(values.into_iter(), params)
}

pub(super) fn metadata(telemetry: &Telemetry, params: &Params) -> Result<Reply, ApiError> {
    let limit = params.limit()?.unwrap_or(usize::MAX);
    let only = params.get("metric");
    let families = telemetry.families();
    let metadata = families
        .iter()
        .filter(|(name, _)| only.is_empty() || only == name.as_str())
        .take(limit)
        .map(|(name, family)| {
            let (kind, help, unit) = (family.kind.as_str(), &family.help, &family.unit);
            (name.clone(), json!([{"type": kind, "help": help, "unit": unit}]))
        });
    Ok(Value::Object(metadata.collect()).into())
}

/// The series that any of the selectors picks.
fn matching(telemetry: &Telemetry, params: &Params) -> Result<BTreeSet<Labels>, ApiError> {
    let (range, selectors) = (params.range()?, params.matchers()?);
    let store = telemetry.read();
    Ok(selectors.iter().flat_map(|matchers| store.label_sets(matchers, range)).collect())
}

fn list<'a>(texts: impl Iterator<Item = &'a str>, params: &Params) -> Result<Reply, ApiError> {
    let mut texts: Vec<&str> = texts.collect();
    let warning = limited(&mut texts, params.limit()?);
    Ok(Reply::from(json!(texts)).with_warning(warning))
}

/// Undoes `U__`, the spelling of UTF-8 names in places that take only letters: `U__a_2e_b` is `a.b`.
fn unescape(name: &str) -> String {
    fn tried(rest: &str) -> Option<String> {
        let mut out = String::new();
        let mut chars = rest.chars();
        while let Some(c) = chars.next() {
            if c != '_' {
                out.push(c);
                continue;
            }
            let code: String = chars.by_ref().take_while(|c| *c != '_').take(7).collect();
            match code.as_str() {
                "" => out.push('_'),
                code => out.push(char::from_u32(u32::from_str_radix(code, 16).ok()?)?),
            }
        }
        Some(out)
    }
    name.strip_prefix("U__").and_then(tried).unwrap_or_else(|| name.to_owned())
}
