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

pub(super) fn replicas(body: &Value, check: &mut Check) {
    selecting(body, "deployment", check);
}

/// What every kind with a selector and a template has in common.
fn selecting(body: &Value, kind: &str, check: &mut Check) {
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
            if kind == "deployment" || !given.is_object() {
                check.required("spec.selector", "");
            }
            let why = format!("empty selector is invalid for {kind}");
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

pub(super) fn template(spec: &Value, path: &str, restarts: &[&str], check: &mut Check) {
    let below = spec.pointer("/template/spec").unwrap_or(&Value::Null);
    let path = format!("{path}.template.spec");
    // A StatefulSet's pods mount what its claim templates name.
    let claims = list_at(spec, "/volumeClaimTemplates").iter();
    let claims: Vec<&str> = claims.map(|claim| text_at(claim, "/metadata/name")).collect();
    pod::spec(below, &path, &claims, check);
    check.one_of(below, "restartPolicy", &path, restarts);
}

pub(super) fn stateful_set(body: &Value, check: &mut Check) {
    selecting(body, "statefulset", check);
    let spec = body.get("spec").unwrap_or(&Value::Null);
    let policy = text(spec, "podManagementPolicy");
    if !matches!(policy, "" | "OrderedReady" | "Parallel") {
        let why = "must be 'OrderedReady' or 'Parallel'";
        check.invalid("spec.podManagementPolicy", &json!(policy), why);
    }
    let below = |name: &str| spec.get(name).unwrap_or(&Value::Null);
    let strategy = below("updateStrategy");
    if !matches!(text(strategy, "type"), "" | "OnDelete" | "RollingUpdate") {
        check.invalid("spec.updateStrategy", strategy, "must be 'RollingUpdate' or 'OnDelete'");
    }
    let rolling = strategy.get("rollingUpdate").filter(|rolling| rolling.is_object());
    if let Some(rolling) = rolling {
        let at = "spec.updateStrategy.rollingUpdate";
        if text(strategy, "type") == "OnDelete" {
            let why = "only allowed for updateStrategy 'RollingUpdate'";
            check.invalid(at, rolling, why);
        }
        check.at_least(rolling, "partition", at, 0);
    }
    let retention = below("persistentVolumeClaimRetentionPolicy");
    for name in ["whenDeleted", "whenScaled"] {
        let at = "spec.persistentVolumeClaimRetentionPolicy";
        check.one_of(retention, name, at, &["Retain", "Delete"]);
    }
    check.at_least(below("ordinals"), "start", "spec.ordinals", 0);
}

/// What a `StatefulSet` lets change. **Source**: `ValidateStatefulSetUpdate`.
const CHANGEABLE: [&str; 7] = [
    "replicas",
    "ordinals",
    "template",
    "updateStrategy",
    "revisionHistoryLimit",
    "persistentVolumeClaimRetentionPolicy",
    "minReadySeconds",
];

pub(super) fn stateful_set_updated(old: &Value, new: &Value, check: &mut Check) {
    let fixed = |body: &Value| {
        let mut spec = body.get("spec").cloned().unwrap_or_default();
        if let Some(fields) = spec.as_object_mut() {
            fields.retain(|name, _| !CHANGEABLE.contains(&name.as_str()));
            fields.sort_keys();
        }
        spec
    };
    if fixed(old) != fixed(new) {
        check.forbidden(
            "spec",
            "updates to statefulset spec for fields other than 'replicas', 'ordinals', \
             'template', 'updateStrategy', 'revisionHistoryLimit', \
             'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden",
        );
    }
}

pub(super) fn daemon_set(body: &Value, check: &mut Check) {
    selecting(body, "daemonset", check);
    let spec = body.get("spec").unwrap_or(&Value::Null);
    check.at_least(spec, "revisionHistoryLimit", "spec", 0);
    let strategy = spec.get("updateStrategy").unwrap_or(&Value::Null);
    check.one_of(strategy, "type", "spec.updateStrategy", &["OnDelete", "RollingUpdate"]);
    let Some(rolling) = strategy.get("rollingUpdate").filter(|rolling| rolling.is_object()) else {
        return;
    };
    let amount = |name: &str| {
        let amount = IntOrString::deserialize(rolling.get(name)?).ok()?;
        scaled_int_or_percent(&amount, 100, Rounding::Up)
    };
    let given = |name: &str| rolling.get(name).cloned().unwrap_or_default();
    match (amount("maxUnavailable"), amount("maxSurge")) {
        (Some(0), Some(0)) => check.required(
            "spec.updateStrategy.rollingUpdate.maxUnavailable",
            "cannot be 0 when maxSurge is 0",
        ),
        (Some(unavailable), Some(surge)) if unavailable != 0 && surge != 0 => check.invalid(
            "spec.updateStrategy.rollingUpdate.maxSurge",
            &given("maxSurge"),
            "may not be set when maxUnavailable is non-zero",
        ),
        _ => {}
    }
}
