use std::{borrow::Borrow, sync::Arc};

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::testing::words;

fn seen<T: evenkeel_api::ApiObject>(body: Value) -> Seen<T> {
    Seen::of(Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

/// A Job of a run: `minute state`, with the state `active`, `Complete` or `Failed`.
fn job(row: &str) -> Seen<Job> {
    let (due, state) = row.split_once(' ').unwrap();
    let due: Timestamp = format!("2026-01-01T{due}:00Z").parse().unwrap();
    let name = run_name("tidy", due);
    let mut body = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "3",
            "annotations": {runs::SCHEDULED: due.to_string()}, "ownerReferences": [{
                "apiVersion": "batch/v1", "kind": "CronJob", "name": "tidy", "uid": "cron",
                "controller": true}]},
        "status": {"startTime": due.to_string()}});
    if state != "active" {
        body["status"]["conditions"] = json!([{"type": state, "status": "True"}]);
        body["status"]["completionTime"] = due.to_string().into();
    }
    seen(body)
}

/// Created at 11:30; the last run, its clock, and the Jobs are given.
fn view(now: &str, spec: &Value, last: Option<&str>, jobs: &str) -> View {
    let jobs: Vec<Seen<Job>> = jobs.split(',').filter(|row| !row.is_empty()).map(job).collect();
    let mut body = json!({"apiVersion": "batch/v1", "kind": "CronJob",
        "metadata": {"name": "tidy", "namespace": "shop", "uid": "cron", "resourceVersion": "9",
            "creationTimestamp": "2026-01-01T11:30:00Z"},
        "spec": {"schedule": "0 * * * *", "jobTemplate": {"spec": {}}}, "status": {}});
    evenkeel_api::json::merge(&mut body["spec"], spec);
    if let Some(last) = last {
        body["status"]["lastScheduleTime"] = format!("2026-01-01T{last}:00Z").into();
    }
    let active: Vec<Value> = jobs
        .iter()
        .filter(|job| crate::job::ended_by(job).is_none())
        .map(|job| json!({"kind": "Job", "name": job.name(), "uid": job.uid()}))
        .collect();
    if !active.is_empty() {
        body["status"]["active"] = json!(active);
    }
    let names = jobs.iter().map(|job| job.name().to_owned()).collect();
    View { now: format!("2026-01-01T{now}:00Z").parse().unwrap(), cron: seen(body), jobs, names }
}

fn plan(now: &str, spec: impl Borrow<Value>, last: Option<&str>, jobs: &str) -> String {
    words(&decide(&view(now, spec.borrow(), last, jobs)))
}

#[test]
fn a_run_starts_at_its_time_and_not_twice() {
    assert_snapshot!(plan("11:59", json!({}), None, ""), @r#"
    Settled
    wake after 1m0.1s
    "#);
    assert_snapshot!(plan("12:00", json!({}), None, ""), @r#"
    SuccessfulCreate
    create Job/shop/tidy-29454480
    status CronJob/shop/tidy {"lastScheduleTime":"2026-01-01T12:00:00Z"}
    event CronJob/shop/tidy SuccessfulCreate: Created job tidy-29454480
    wake after 1h0.1s
    "#);
    assert_snapshot!(plan("12:00", json!({}), Some("12:00"), "12:00 active"), @r#"
    Settled
    wake after 1h0.1s
    "#);
    assert_snapshot!(plan("12:10", json!({"suspend": true}), None, ""), @"Suspended");
}

#[test]
fn of_missed_runs_the_last_one_is_made_up_for_unless_it_is_too_late() {
    let all = plan("23:10", json!({}), None, "");
    assert!(all.contains("create Job/shop/tidy-29455140"), "{all}");
    let late = json!({"startingDeadlineSeconds": 300});
    assert_snapshot!(plan("23:10", late.clone(), None, ""), @"
    Settled
    wake after 50m0.1s
    ");
    assert!(plan("23:04", late, None, "").contains("create Job"));
    let many = plan("23:10", json!({"schedule": "* * * * *"}), None, "");
    assert!(many.contains("TooManyMissedTimes"), "{many}");
    let few = json!({"schedule": "* * * * *", "startingDeadlineSeconds": 200});
    assert!(!plan("23:10", few, None, "").contains("TooManyMissedTimes"));
}

#[test]
fn what_a_run_does_to_the_one_before() {
    let policy = |policy: &str| {
        plan("13:00", json!({"concurrencyPolicy": policy}), Some("12:00"), "12:00 active")
    };
    assert_snapshot!(policy("Allow"), @r#"
    SuccessfulCreate
    create Job/shop/tidy-29454540
    status CronJob/shop/tidy {"lastScheduleTime":"2026-01-01T13:00:00Z"}
    event CronJob/shop/tidy SuccessfulCreate: Created job tidy-29454540
    wake after 1h0.1s
    "#);
    assert_snapshot!(policy("Forbid"), @r#"
    Settled
    event CronJob/shop/tidy JobAlreadyActive: Not starting job because prior execution is running and concurrency policy is Forbid
    wake after 1h0.1s
    "#);
    assert_snapshot!(policy("Replace"), @r#"
    SuccessfulCreate
    delete Job/shop/tidy-29454480
    create Job/shop/tidy-29454540
    status CronJob/shop/tidy {"lastScheduleTime":"2026-01-01T13:00:00Z","active":null}
    event CronJob/shop/tidy SuccessfulDelete: Deleted job tidy-29454480
    event CronJob/shop/tidy SuccessfulCreate: Created job tidy-29454540
    wake after 1h0.1s
    "#);
}

#[test]
fn runs_that_have_ended_are_noted_and_the_oldest_ones_forgotten() {
    let mut view = view(
        "13:10",
        &json!({"successfulJobsHistoryLimit": 1, "failedJobsHistoryLimit": 1}),
        Some("13:00"),
        "11:00 Complete,12:00 Complete,10:00 Failed,13:00 active",
    );
    let gone = json!({"kind": "Job", "name": "tidy-1", "uid": "gone"});
    let mut body = view.cron.obj.json().clone();
    body["status"]["active"].as_array_mut().unwrap().push(gone);
    body["status"]["active"]
        .as_array_mut()
        .unwrap()
        .push(json!({"kind": "Job", "name": "tidy-29454480", "uid": run_name("tidy",
            "2026-01-01T12:00:00Z".parse().unwrap())}));
    view.cron = seen(body);
    assert_snapshot!(words(&decide(&view)), @r#"
    SuccessfulDelete
    delete Job/shop/tidy-29454420
    status CronJob/shop/tidy {"active":[{"kind":"Job","name":"tidy-29454540","uid":"tidy-29454540"}],"lastSuccessfulTime":"2026-01-01T12:00:00Z"}
    event CronJob/shop/tidy SuccessfulDelete: Deleted job tidy-29454420
    event CronJob/shop/tidy SawCompletedJob: Saw completed job: tidy-29454480, condition: Complete
    event CronJob/shop/tidy MissingJob: Active job went missing: tidy-1
    wake after 50m0.1s
    "#);
}

#[test]
fn a_run_that_the_status_does_not_know_yet_is_noted_and_a_strange_job_is_not() {
    let mut view = view("12:01", &json!({}), None, "12:00 active");
    let mut body = view.cron.obj.json().clone();
    body["status"] = json!({});
    view.cron = seen(body);
    let mut strange = view.jobs[0].obj.json().clone();
    strange["metadata"]["name"] = "by-hand".into();
    strange["metadata"]["uid"] = "by-hand".into();
    view.jobs.push(seen(strange));
    assert_snapshot!(words(&decide(&view)), @r#"
    StatusChanged
    status CronJob/shop/tidy {"active":[{"apiVersion":"batch/v1","kind":"Job","name":"tidy-29454480","namespace":"shop","resourceVersion":"3","uid":"tidy-29454480"}],"lastScheduleTime":"2026-01-01T12:00:00Z"}
    event CronJob/shop/tidy UnexpectedJob: Saw a job that the controller did not create or forgot: by-hand
    wake after 59m0.1s
    "#);
}

#[test]
fn what_cannot_be_read_is_said() {
    assert_snapshot!(plan("12:00", json!({"timeZone": "Mars/Base"}), None, ""), @r#"
    Settled
    event CronJob/shop/tidy UnknownTimeZone: invalid timeZone: "Mars/Base": unknown time zone Mars/Base
    "#);
    assert_snapshot!(plan("12:00", json!({"schedule": "x * * * *"}), None, ""), @r#"
    Settled
    event CronJob/shop/tidy UnparseableSchedule: unparseable schedule: "x * * * *" : failed to parse int from x: strconv.Atoi: parsing "x": invalid syntax
    "#);
    let berlin =
        plan("12:00", json!({"timeZone": "Europe/Berlin", "schedule": "0 13 * * *"}), None, "");
    assert!(berlin.contains("create Job"), "{berlin}");
}
