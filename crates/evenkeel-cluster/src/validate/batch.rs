//! Jobs and `CronJobs`. **Source**: `pkg/apis/batch/validation/validation.go`.

mod policies;

use evenkeel_base::{Schedule, time_zone};
use jiff::tz::TimeZone;
use serde_json::{Value, json};

use super::{Check, workload::template};
use crate::value::{number_at, text, text_at};

/// Longest name of a `CronJob`: its Jobs add eleven characters.
const CRON_NAME_MAX: usize = 52;
/// Most pods at a time of an Indexed Job, and most indexes that may fail: the status lists them.
const INDEXED_MAX: i64 = 100_000;
/// The same where there are more indexes than that, each with retries of its own.
const MANY_MAX: i64 = 10_000;

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
    let has = |name: &str| given(spec, name).is_some();
    // How a pod has failed is known only when it has ended.
    let replacements: &[&str] =
        if has("podFailurePolicy") { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
    check.one_of(spec, "podReplacementPolicy", path, replacements);
    if has("maxFailedIndexes") && !has("backoffLimitPerIndex") {
        let why = "when maxFailedIndexes is specified";
        check.required(&format!("{path}.backoffLimitPerIndex"), why);
    }
    if text(spec, "completionMode") == "Indexed" {
        indexed(spec, path, check);
    } else {
        for name in ["backoffLimitPerIndex", "maxFailedIndexes", "successPolicy"] {
            if let Some(value) = given(spec, name) {
                check.invalid(&format!("{path}.{name}"), value, "requires indexed completion mode");
            }
        }
    }
    if has("podFailurePolicy") {
        policies::failure(spec, &format!("{path}.podFailurePolicy"), check);
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

/// A field, unless it is absent or null.
fn given<'a>(body: &'a Value, name: &str) -> Option<&'a Value> {
    body.get(name).filter(|value| !value.is_null())
}

/// What holds for Indexed Jobs only.
fn indexed(spec: &Value, path: &str, check: &mut Check) {
    let number = |name: &str| given(spec, name).and_then(Value::as_i64);
    let completions = number("completions");
    if completions.is_none() {
        let why = "when completion mode is Indexed";
        check.required(&format!("{path}.completions"), why);
    }
    let mut limit = |name: &str, most: i64, why: &str| {
        if let Some(value) = number(name).filter(|value| *value > most) {
            let why = format!("must be less than or equal to {why}");
            check.invalid(&format!("{path}.{name}"), &json!(value), why);
        }
    };
    let why = format!("{INDEXED_MAX} when completion mode is Indexed");
    limit("parallelism", INDEXED_MAX, &why);
    if let Some(completions) = completions {
        limit("maxFailedIndexes", completions, "completions");
    }
    limit("maxFailedIndexes", INDEXED_MAX, &INDEXED_MAX.to_string());
    if number("backoffLimitPerIndex").is_some() && completions > Some(INDEXED_MAX) {
        let why = format!(
            "{MANY_MAX} when completions are above {INDEXED_MAX} and used with backoff limit per \
             index"
        );
        limit("parallelism", MANY_MAX, &why);
        limit("maxFailedIndexes", MANY_MAX, &why);
        if number("maxFailedIndexes").is_none() {
            let why = format!("must be specified when completions is above {INDEXED_MAX}");
            check.required(&format!("{path}.maxFailedIndexes"), &why);
        }
    }
    if completions.is_some() && given(spec, "successPolicy").is_some() {
        policies::success(spec, &format!("{path}.successPolicy"), check);
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
    if let Some(selector) = given(template, "selector") {
        check.invalid(
            "spec.jobTemplate.spec.selector",
            selector,
            "`selector` will be auto-generated",
        );
    }
    if template.get("manualSelector") == Some(&json!(true)) {
        let message = "Unsupported value: true: supported values: \"nil\", \"false\"".to_owned();
        check.add("FieldValueNotSupported", "spec.jobTemplate.spec.manualSelector", message);
    }
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

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;

    use super::*;

    fn said(check: &Check) -> String {
        let lines = check.causes.iter().map(|cause| format!("{}: {}", cause.field, cause.message));
        lines.collect::<Vec<_>>().join("\n")
    }

    /// What is wrong with an Indexed Job of three completions that has these fields, too.
    fn indexed_job(more: &Value) -> String {
        let mut spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 1,
            "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "main", "image": "i"}]}}});
        for (name, value) in more.as_object().unwrap() {
            spec[name] = value.clone();
        }
        let mut check = Check::default();
        job(&spec, "spec", &mut check);
        said(&check)
    }

    #[test]
    fn success_policies_are_read_strictly() {
        let rules = |rules: Value| indexed_job(&json!({"successPolicy": {"rules": rules}}));
        assert_eq!(rules(json!([{"succeededIndexes": "0,2", "succeededCount": 2}])), "");
        assert_snapshot!(rules(json!([])), @"spec.successPolicy.rules: Required value: at least one rules must be specified when the successPolicy is specified");
        assert_snapshot!(rules(json!([{}, {"succeededIndexes": "0, 2"}])), @r#"
        spec.successPolicy.rules[0]: Required value: at least one of succeededCount or succeededIndexes must be specified
        spec.successPolicy.rules[1].succeededIndexes: Invalid value: "0, 2": error parsing succeededIndexes: cannot convert string to integer for index: " 2"
        "#);
        assert_snapshot!(rules(json!([{"succeededCount": 4}, {"succeededIndexes": "0,2", "succeededCount": 3}])), @"
        spec.successPolicy.rules[0].succeededCount: Invalid value: 4: must be less than or equal to 3 (the number of specified completions)
        spec.successPolicy.rules[1].succeededCount: Invalid value: 3: must be less than or equal to 2 (the number of indexes in the specified succeededIndexes field)
        ");
    }

    #[test]
    fn failure_policies_are_checked() {
        let rules = |rules: Value| indexed_job(&json!({"podFailurePolicy": {"rules": rules}}));
        let codes = |codes: Value| rules(json!([{"action": "Ignore", "onExitCodes": codes}]));
        assert_eq!(codes(json!({"operator": "NotIn", "values": [0, 3]})), "");
        assert_snapshot!(codes(json!({"operator": "In", "values": [3, 0, 3], "containerName": "x"})), @r#"
        spec.podFailurePolicy.rules[0].onExitCodes.containerName: Invalid value: "x": must be one of the container or initContainer names in the pod template
        spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator
        spec.podFailurePolicy.rules[0].onExitCodes.values[2]: Duplicate value: 3
        spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0,3]: must be ordered
        "#);
        assert_snapshot!(codes(json!({"operator": "Like"})), @r#"
        spec.podFailurePolicy.rules[0].onExitCodes.operator: Unsupported value: "Like": supported values: "In", "NotIn"
        spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: []: at least one value is required
        "#);
        let early = json!({"podReplacementPolicy": "TerminatingOrFailed",
            "podFailurePolicy": {"rules": []}});
        assert_snapshot!(indexed_job(&early), @r#"spec.podReplacementPolicy: Unsupported value: "TerminatingOrFailed": supported values: "Failed""#);
        let many: Vec<i64> = (1..=256).collect();
        assert_snapshot!(codes(json!({"operator": "In", "values": many})), @"spec.podFailurePolicy.rules[0].onExitCodes.values: Too many: 256: must have at most 255 items");
        assert_snapshot!(rules(json!([{"action": "FailIndex"}, {"onPodConditions": [{"type": "Ready", "status": "True"}]}])), @r#"
        spec.podFailurePolicy.rules[0].action: Invalid value: "FailIndex": requires the backoffLimitPerIndex to be set
        spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and OnPodConditions is required
        spec.podFailurePolicy.rules[1].action: Required value: valid values: ["Count" "FailIndex" "FailJob" "Ignore"]
        "#);
    }

    #[test]
    fn indexed_jobs_have_limits() {
        assert_eq!(indexed_job(&json!({"backoffLimitPerIndex": 1, "maxFailedIndexes": 3})), "");
        assert_snapshot!(indexed_job(&json!({"parallelism": 100_001, "backoffLimitPerIndex": 1, "maxFailedIndexes": 4})), @"
        spec.parallelism: Invalid value: 100001: must be less than or equal to 100000 when completion mode is Indexed
        spec.maxFailedIndexes: Invalid value: 4: must be less than or equal to completions
        ");
        assert_snapshot!(indexed_job(&json!({"completions": 100_001, "backoffLimitPerIndex": 1})), @"spec.maxFailedIndexes: Required value: must be specified when completions is above 100000");
    }

    #[test]
    fn the_jobs_of_a_cron_job_select_their_own_pods() {
        let template = json!({"manualSelector": true, "selector": {"matchLabels": {"a": "b"}},
            "template": {"spec": {"restartPolicy": "Never",
                "containers": [{"name": "main", "image": "i"}]}}});
        let mut check = Check::default();
        let spec = json!({"schedule": "@daily", "jobTemplate": {"spec": template}});
        cron_job(&json!({"spec": spec}), &mut check);
        assert_snapshot!(said(&check), @r#"
        spec.jobTemplate.spec.selector: Invalid value: {"matchLabels":{"a":"b"}}: `selector` will be auto-generated
        spec.jobTemplate.spec.manualSelector: Unsupported value: true: supported values: "nil", "false"
        "#);
    }
}
