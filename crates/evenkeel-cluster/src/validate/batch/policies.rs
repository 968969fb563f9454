//! The rules of a Job: when it has failed, and when it has succeeded early.
//!
//! **Source**: `validatePodFailurePolicy`, `validateSuccessPolicy`.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{Check, given};
use crate::{
    validate::names,
    value::{list_at, number_at, text},
};

/// Most rules of a policy.
const RULES_MAX: usize = 20;
/// Most exit codes of a rule.
const EXIT_CODES_MAX: usize = 255;
/// Most conditions of a rule.
const CONDITIONS_MAX: usize = 20;
/// Bytes of a rule's indexes.
const INDEXES_BYTES_MAX: usize = 64 * 1024;

const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];
const OPERATORS: [&str; 2] = ["In", "NotIn"];
const STATES: [&str; 3] = ["False", "True", "Unknown"];

pub(super) fn failure(spec: &Value, path: &str, check: &mut Check) {
    let path = format!("{path}.rules");
    let rules = list_at(spec, "/podFailurePolicy/rules");
    at_most(rules, RULES_MAX, &path, check);
    for (number, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{number}]");
        is_one_of(rule, "action", &path, &ACTIONS, check);
        let action = text(rule, "action");
        if action == "FailIndex" && given(spec, "backoffLimitPerIndex").is_none() {
            let why = "requires the backoffLimitPerIndex to be set";
            check.invalid(&format!("{path}.action"), &json!(action), why);
        }
        let codes = given(rule, "onExitCodes");
        if let Some(codes) = codes {
            exit_codes(spec, codes, &format!("{path}.onExitCodes"), check);
        }
        let patterns = list_at(rule, "/onPodConditions");
        conditions(patterns, &format!("{path}.onPodConditions"), check);
        let problem = match (codes.is_some(), !patterns.is_empty()) {
            (true, true) => "specifying both OnExitCodes and OnPodConditions is not supported",
            (false, false) => "specifying one of OnExitCodes and OnPodConditions is required",
            _ => continue,
        };
        check.add("FieldValueInvalid", &path, format!("Invalid value: {problem}"));
    }
}

fn exit_codes(spec: &Value, codes: &Value, path: &str, check: &mut Check) {
    is_one_of(codes, "operator", path, &OPERATORS, check);
    if let Some(name) = given(codes, "containerName") {
        let pod = "/template/spec";
        let all = list_at(spec, &format!("{pod}/containers"));
        let mut all = all.iter().chain(list_at(spec, &format!("{pod}/initContainers")));
        if !all.any(|container| container.get("name") == Some(name)) {
            let why = "must be one of the container or initContainer names in the pod template";
            check.invalid(&format!("{path}.containerName"), name, why);
        }
    }
    let path = format!("{path}.values");
    let values = list_at(codes, "/values");
    if values.is_empty() {
        check.invalid(&path, &json!([]), "at least one value is required");
    }
    at_most(values, EXIT_CODES_MAX, &path, check);
    let mut seen = BTreeSet::new();
    for (number, value) in values.iter().enumerate() {
        let path = format!("{path}[{number}]");
        if text(codes, "operator") == "In" && value.as_i64() == Some(0) {
            check.invalid(&path, value, "must not be 0 for the In operator");
        }
        if !seen.insert(value.as_i64()) {
            check.duplicate(&path, value);
        }
    }
    if !values.is_sorted_by_key(Value::as_i64) {
        check.invalid(&path, &json!(values), "must be ordered");
    }
}

fn conditions(patterns: &[Value], path: &str, check: &mut Check) {
    at_most(patterns, CONDITIONS_MAX, path, check);
    for (number, pattern) in patterns.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let kind = text(pattern, "type");
        if let Err(why) = names::qualified(kind) {
            check.invalid(&format!("{path}.type"), &json!(kind), why);
        }
        is_one_of(pattern, "status", &path, &STATES, check);
    }
}

/// Of an Indexed Job.
pub(super) fn success(spec: &Value, path: &str, check: &mut Check) {
    let path = format!("{path}.rules");
    let rules = list_at(spec, "/successPolicy/rules");
    if rules.is_empty() {
        let why = "at least one rules must be specified when the successPolicy is specified";
        check.required(&path, why);
    }
    at_most(rules, RULES_MAX, &path, check);
    let completions = number_at(spec, "/completions").unwrap_or_default();
    for (number, rule) in rules.iter().enumerate() {
        let path = format!("{path}[{number}]");
        let indexes = given(rule, "succeededIndexes").and_then(Value::as_str);
        let count = given(rule, "succeededCount");
        if indexes.is_none() && count.is_none() {
            let why = "at least one of succeededCount or succeededIndexes must be specified";
            check.required(&path, why);
        }
        let total = indexes.map(|text| succeeded_indexes(text, completions, &path, check));
        check.at_least(rule, "succeededCount", &path, 0);
        let Some(count) = count else { continue };
        for (most, what) in [
            (Some(completions), "the number of specified completions"),
            (total, "the number of indexes in the specified succeededIndexes field"),
        ] {
            if let Some(most) = most.filter(|most| count.as_i64().is_some_and(|n| n > *most)) {
                let why = format!("must be less than or equal to {most} ({what})");
                check.invalid(&format!("{path}.succeededCount"), count, why);
            }
        }
    }
}

/// How many indexes a rule names; 0 when that cannot be read.
fn succeeded_indexes(text: &str, completions: i64, path: &str, check: &mut Check) -> i64 {
    let path = format!("{path}.succeededIndexes");
    if text.len() > INDEXES_BYTES_MAX {
        let message = format!("Too long: may not be more than {INDEXES_BYTES_MAX} bytes");
        check.add("FieldValueTooLong", &path, message);
    }
    count_indexes(text, completions).unwrap_or_else(|problem| {
        let why = format!("error parsing succeededIndexes: {problem}");
        check.invalid(&path, &json!(text), why);
        0
    })
}

/// Counts what `1,3-5` names. **Source**: `validateIndexesFormat`.
fn count_indexes(text: &str, completions: i64) -> Result<i64, String> {
    if text.is_empty() {
        return Ok(0);
    }
    let (mut total, mut last) = (0, None);
    for part in text.split(',') {
        let mut ends = part.split('-');
        let first = index(ends.next().unwrap_or_default(), completions)?;
        let end = ends.next().map(|end| index(end, completions)).transpose()?;
        if ends.next().is_some() {
            return Err(format!(
                "the fragment {part:?} violates the requirement that an index interval can have \
                 at most two parts separated by '-'"
            ));
        }
        for (before, now) in [last.zip(Some(first)), Some(first).zip(end)].into_iter().flatten() {
            if before >= now {
                return Err(format!("non-increasing order, previous: {before}, current: {now}"));
            }
        }
        let end = end.unwrap_or(first);
        total += end - first + 1;
        last = Some(end);
    }
    Ok(total)
}

fn index(text: &str, completions: i64) -> Result<i64, String> {
    let index = text.parse::<i32>();
    let index =
        index.map_err(|_| format!("cannot convert string to integer for index: {text:?}"))?;
    if i64::from(index) >= completions {
        return Err(format!("too large index: {text:?}"));
    }
    Ok(i64::from(index))
}

/// A text of a closed set that must be there.
fn is_one_of(body: &Value, name: &str, path: &str, allowed: &[&str], check: &mut Check) {
    if text(body, name).is_empty() {
        let quoted: Vec<String> = allowed.iter().map(|text| format!("{text:?}")).collect();
        let why = format!("valid values: [{}]", quoted.join(" "));
        check.required(&format!("{path}.{name}"), &why);
    }
    check.one_of(body, name, path, allowed);
}

fn at_most(list: &[Value], most: usize, path: &str, check: &mut Check) {
    if list.len() > most {
        let message = format!("Too many: {}: must have at most {most} items", list.len());
        check.add("FieldValueTooMany", path, message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indexes_are_counted_only_in_order() {
        let count = |text| {
            count_indexes(text, 8)
                .map_err(|problem| problem.split([':', ' ']).take(2).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(count("1,3-5,7"), Ok(5));
        assert_eq!(count(""), Ok(0));
        for (text, problem) in [
            ("a", "cannot convert"),
            ("0, 2", "cannot convert"),
            ("0,", "cannot convert"),
            ("-1", "cannot convert"),
            ("8", "too large"),
            ("1-8", "too large"),
            ("5,1-3", "non-increasing order,"),
            ("1-3,3", "non-increasing order,"),
            ("2-2", "non-increasing order,"),
            ("1-2-3", "the fragment"),
        ] {
            assert_eq!(count(text), Err(problem.to_owned()), "{text}");
        }
    }
}
