//! Jobs and `CronJobs`. **Source**: `pkg/apis/batch/validation/validation.go`.

use evenkeel_base::{Schedule, time_zone};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Check, workload::template};
use crate::value::{number_at, text, text_at};

/// Longest name of a `CronJob`: its Jobs add eleven characters.
const CRON_NAME_MAX: usize = 52;

pub(super) fn job(spec: &Value, path: &str, check: &mut Check) {
    for name in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        check.at_least(spec, name, path, 0);
    }
    check.one_of(spec, "completionMode", path, &["NonIndexed", "Indexed"]);
    check.one_of(spec, "podReplacementPolicy", path, &["Failed", "TerminatingOrFailed"]);
    let has = |name: &str| spec.get(name).is_some_and(|value| !value.is_null());
    let is_indexed = text(spec, "completionMode") == "Indexed";
    if is_indexed && !has("completions") {
        let why = "when completion mode is Indexed";
        check.required(&format!("{path}.completions"), why);
    }
    if let Some(limit) = spec.get("backoffLimitPerIndex").filter(|_| !is_indexed) {
        let why = "requires indexed completion mode";
        check.invalid(&format!("{path}.backoffLimitPerIndex"), limit, why);
    }
    if has("maxFailedIndexes") && !has("backoffLimitPerIndex") {
        let why = "when maxFailedIndexes is specified";
        check.required(&format!("{path}.backoffLimitPerIndex"), why);
    }
    if let Some(policy) = spec.get("successPolicy").filter(|_| !is_indexed) {
        let why = "requires indexed completion mode";
        check.invalid(&format!("{path}.successPolicy"), policy, why);
    }
    let restart = text_at(spec, "/template/spec/restartPolicy");
    if restart == "Always" {
        let why = "valid values: \"OnFailure\", \"Never\"";
        check.required(&format!("{path}.template.spec.restartPolicy"), why);
    }
    template(spec, path, &["OnFailure", "Never", "Always"], check);
    if has("podFailurePolicy") && restart == "OnFailure" {
        let why = "only \"Never\" is supported when podFailurePolicy is specified";
        check.invalid(&format!("{path}.template.spec.restartPolicy"), &json!(restart), why);
    }
}

/// What of a template says where its pods may run.
const PLACEMENT: [(&str, &[&str]); 2] = [
    ("/spec/template/metadata", &["labels", "annotations"]),
    ("/spec/template/spec", &["nodeSelector", "affinity", "tolerations", "schedulingGates"]),
];

/// What may not change. **Source**: `ValidateJobSpecUpdate`.
pub(super) fn job_updated(old: &Value, new: &Value, check: &mut Check) {
    completions_updated(old, new, check);
    check.immutable(old, new, "/spec/selector", "spec.selector");
    // Before its first start, where its pods may run can still be said.
    let is_open = old.pointer("/spec/suspend") == Some(&json!(true))
        && text_at(old, "/status/startTime").is_empty();
    let comparable = |body: &Value| {
        let mut body = json!({"spec": {"template": body.pointer("/spec/template")}});
        for (parent, names) in PLACEMENT.iter().filter(|_| is_open) {
            if let Some(Value::Object(fields)) = body.pointer_mut(parent) {
                fields.retain(|name, _| !names.contains(&name.as_str()));
            }
        }
        body
    };
    check.immutable(&comparable(old), &comparable(new), "/spec/template", "spec.template");
    for name in ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy"] {
        check.immutable(old, new, &format!("/spec/{name}"), &format!("spec.{name}"));
    }
    check.immutable(old, new, "/spec/successPolicy", "spec.successPolicy");
}

/// An Indexed Job may grow and shrink together with its parallelism.
fn completions_updated(old: &Value, new: &Value, check: &mut Check) {
    let at = "/spec/completions";
    let is_indexed = text_at(old, "/spec/completionMode") == "Indexed";
    if !is_indexed || old.pointer(at).is_none() || new.pointer(at).is_none() {
        check.immutable(old, new, at, "spec.completions");
    } else if old.pointer(at) != new.pointer(at)
        && number_at(new, at) != number_at(new, "/spec/parallelism")
    {
        let why = "can only be modified in tandem with spec.parallelism";
        check.invalid("spec.completions", &new["spec"]["completions"], why);
    }
}

pub(super) fn cron_job(body: &Value, check: &mut Check) {
    let spec = body.get("spec").unwrap_or(&Value::Null);
    let schedule = text(spec, "schedule");
    if schedule.is_empty() {
        check.required("spec.schedule", "");
    } else {
        if let Err(problem) = Schedule::parse(schedule, &TimeZone::UTC) {
            check.invalid("spec.schedule", &json!(schedule), problem);
        }
        if schedule.contains("TZ") {
            let why = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            check.invalid("spec.schedule", &json!(schedule), why);
        }
    }
    check.at_least(spec, "startingDeadlineSeconds", "spec", 0);
    if let Some(Value::String(name)) = spec.get("timeZone") {
        zone(name, check);
    }
    check.one_of(spec, "concurrencyPolicy", "spec", &["Allow", "Forbid", "Replace"]);
    let template = spec.pointer("/jobTemplate/spec").unwrap_or(&Value::Null);
    job(template, "spec.jobTemplate.spec", check);
    for name in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        check.at_least(spec, name, "spec", 0);
    }
}

fn zone(name: &str, check: &mut Check) {
    let at = "spec.timeZone";
    let value = json!(name);
    if name.is_empty() {
        check.invalid(at, &value, "timeZone must be nil or non-empty string");
    } else if name.eq_ignore_ascii_case("local") {
        let why = "timeZone must be an explicit time zone as defined in \
                   https://www.iana.org/time-zones";
        check.invalid(at, &value, why);
    } else if time_zone(name).is_none() {
        check.invalid(at, &value, format!("unknown time zone {name}"));
    }
}

pub(super) fn cron_job_created(body: &Value, check: &mut Check) {
    let name = text_at(body, "/metadata/name");
    if name.len() > CRON_NAME_MAX {
        let why = format!("must be no more than {CRON_NAME_MAX} characters");
        check.invalid("metadata.name", &json!(name), why);
    }
}
