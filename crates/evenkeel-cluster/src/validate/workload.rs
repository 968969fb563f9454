use evenkeel_api::{LabelSelector, Rounding, scaled_int_or_percent};
use k8s_openapi::{
    apimachinery::pkg::{apis::meta::v1 as meta, util::intstr::IntOrString},
    serde::Deserialize as _,
};
use serde_json::{Value, json};

use super::{Check, pod};
use crate::value::{list_at, text, text_at};

pub(super) fn deployment(body: &Value, check: &mut Check) {
    replicas(body, check);
    let spec = body.get("spec").unwrap_or(&Value::Null);
    for name in ["revisionHistoryLimit", "progressDeadlineSeconds"] {
        check.at_least(spec, name, "spec", 0);
    }
    let seconds = |name: &str| spec.get(name).and_then(Value::as_i64).unwrap_or_default();
    if let Some(deadline) = spec.get("progressDeadlineSeconds")
        && seconds("progressDeadlineSeconds") <= seconds("minReadySeconds")
    {
        let why = "must be greater than minReadySeconds";
        check.invalid("spec.progressDeadlineSeconds", deadline, why);
    }
    let strategy = spec.get("strategy").unwrap_or(&Value::Null);
    check.one_of(strategy, "type", "spec.strategy", &["Recreate", "RollingUpdate"]);
    let rolling = strategy.get("rollingUpdate").filter(|rolling| rolling.is_object());
    match (text(strategy, "type"), rolling) {
        ("Recreate", Some(_)) => check.forbidden(
            "spec.strategy.rollingUpdate",
            "may not be specified when strategy `type` is 'Recreate'",
        ),
        ("RollingUpdate", Some(rolling)) => rolling_update(rolling, check),
        _ => {}
    }
}

fn rolling_update(rolling: &Value, check: &mut Check) {
    let mut amounts = Vec::new();
    for name in ["maxUnavailable", "maxSurge"] {
        let value = rolling.get(name).unwrap_or(&Value::Null);
        let at = format!("spec.strategy.rollingUpdate.{name}");
        let amount = IntOrString::deserialize(value)
            .ok()
            .and_then(|amount| scaled_int_or_percent(&amount, 100, Rounding::Up));
        match amount {
            None => check.invalid(&at, value, "must be an integer or percentage (e.g '5%')"),
            Some(amount) if amount < 0 => {
                check.invalid(&at, value, "must be greater than or equal to 0");
            }
            Some(amount) => {
                if name == "maxUnavailable" && amount > 100 && value.is_string() {
                    check.invalid(&at, value, "must not be greater than 100%");
                }
                amounts.push(amount);
            }
        }
    }
    if amounts == [0, 0] {
        check.invalid(
            "spec.strategy.rollingUpdate.maxUnavailable",
            rolling.get("maxUnavailable").unwrap_or(&Value::Null),
            "may not be 0 when `maxSurge` is 0",
        );
    }
}

/// What every kind with a selector and a template has in common.
pub(super) fn replicas(body: &Value, check: &mut Check) {
    let spec = body.get("spec").unwrap_or(&Value::Null);
    for name in ["replicas", "minReadySeconds"] {
        check.at_least(spec, name, "spec", 0);
    }
    let given = spec.get("selector").unwrap_or(&Value::Null);
    let selector = meta::LabelSelector::deserialize(given)
        .map_err(|error| error.to_string())
        .and_then(|given| LabelSelector::from_object(&given).map_err(|error| error.to_string()));
    let labels = spec.pointer("/template/metadata/labels").cloned().unwrap_or_else(|| json!({}));
    match selector {
        Err(problem) => check.invalid("spec.selector", given, problem),
        Ok(selector) if selector.is_empty() => {
            check.required("spec.selector", "");
            let why = "empty selector is invalid for deployment";
            if given.is_object() {
                check.invalid("spec.selector", given, why);
            }
        }
        Ok(selector) => {
            let have = labels.as_object().into_iter().flatten();
            let have = have
                .map(|(name, value)| (name.clone(), value.as_str().unwrap_or_default().to_owned()))
                .collect();
            if !selector.matches(&have) {
                let why = "`selector` does not match template `labels`";
                check.invalid("spec.template.metadata.labels", &labels, why);
            }
        }
    }
    check.labels(Some(&labels), "spec.template.labels");
    template(spec, "spec", &["Always"], check);
}

fn template(spec: &Value, path: &str, restarts: &[&str], check: &mut Check) {
    let below = spec.pointer("/template/spec").unwrap_or(&Value::Null);
    let path = format!("{path}.template.spec");
    // A StatefulSet's pods mount what its claim templates name.
    let claims = list_at(spec, "/volumeClaimTemplates").iter();
    let claims: Vec<&str> = claims.map(|claim| text_at(claim, "/metadata/name")).collect();
    pod::spec(below, &path, &claims, check);
    check.one_of(below, "restartPolicy", &path, restarts);
}

pub(super) fn job_template(spec: &Value, path: &str, check: &mut Check) {
    for name in ["parallelism", "completions", "backoffLimit", "ttlSecondsAfterFinished"] {
        check.at_least(spec, name, path, 0);
    }
    template(spec, path, &["OnFailure", "Never"], check);
}

pub(super) fn cron_job(body: &Value, check: &mut Check) {
    let schedule = text_at(body, "/spec/schedule");
    let is_plain = schedule.split_whitespace().count() == 5 || schedule.starts_with('@');
    if schedule.is_empty() {
        check.required("spec.schedule", "");
    } else if !is_plain {
        let why = "expected 5 fields such as \"*/5 * * * *\"";
        check.invalid("spec.schedule", &json!(schedule), why);
    }
    let spec = body.pointer("/spec/jobTemplate/spec").unwrap_or(&Value::Null);
    job_template(spec, "spec.jobTemplate.spec", check);
}
