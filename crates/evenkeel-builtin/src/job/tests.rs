use std::borrow::Borrow;

use insta::assert_snapshot;
use serde_json::{Value, json};

use super::*;
use crate::testing::{at, words};

fn seen<T: evenkeel_api::ApiObject>(body: Value) -> Seen<T> {
    Seen::of(Arc::new(Obj::from_json(body).unwrap())).unwrap()
}

fn job(spec: &Value, status: &Value) -> Seen<Job> {
    let mut body = json!({"apiVersion": "batch/v1", "kind": "Job",
        "metadata": {"name": "work", "namespace": "shop", "uid": "job", "resourceVersion": "9",
            "generation": 1},
        "spec": {"completions": 1, "parallelism": 1, "backoffLimit": 6,
            "selector": {"matchLabels": {"job": "work"}},
            "template": {"metadata": {"labels": {"job": "work"}},
                "spec": {"restartPolicy": "Never", "containers": [{"name": "main"}]}}}});
    evenkeel_api::json::merge(&mut body["spec"], spec);
    body["status"] = json!({"startTime": at(0).to_string(), "ready": 0, "terminating": 0,
        "uncountedTerminatedPods": {}});
    evenkeel_api::json::merge(&mut body["status"], status);
    seen(body)
}

/// `name phase [index] [free] [going] [code=N] [ended=SECOND]`; `free` has no finalizer any more.
fn pod(row: &str) -> Seen<Pod> {
    let mut words = row.split_whitespace();
    let (name, phase) = (words.next().unwrap(), words.next().unwrap());
    let mut pod = json!({"apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "uid": name, "resourceVersion": "5",
            "labels": {"job": "work"}, "finalizers": [TRACKING],
            "ownerReferences": [{"apiVersion": "batch/v1", "kind": "Job", "name": "work",
                "uid": "job", "controller": true}]},
        "spec": {"containers": [{"name": "main"}], "nodeName": "n1"},
        "status": {"phase": phase}});
    for word in words {
        match word.split_once('=') {
            None if word == "free" => pod["metadata"]["finalizers"] = Value::Null,
            None if word == "going" => {
                pod["metadata"]["deletionTimestamp"] = at(50).to_string().into();
            }
            None => pod["metadata"]["annotations"] = json!({indexes::INDEX: word}),
            Some(("failures", count)) => {
                pod["metadata"]["annotations"]["batch.kubernetes.io/job-index-failure-count"] =
                    count.into();
            }
            Some((_, code)) => {
                let code: i32 = code.parse().unwrap();
                pod["status"]["containerStatuses"] = json!([{"name": "main", "image": "",
                    "imageID": "", "ready": false, "restartCount": 0, "state": {
                        "terminated": {"exitCode": code, "finishedAt": at(90).to_string()}}}]);
            }
        }
    }
    seen(pod)
}

fn view(spec: &Value, status: &Value, rows: &str) -> View {
    let pods: Vec<Seen<Pod>> = rows.split(',').filter(|row| !row.is_empty()).map(pod).collect();
    let mut ended = BTreeMap::new();
    backoff::remember(&mut ended, &pods);
    let ended = ended.into_values().collect();
    View { now: at(100), job: Some(job(spec, status)), pods, ended }
}

fn plan(spec: impl Borrow<Value>, status: impl Borrow<Value>, rows: &str) -> String {
    words(&decide(&view(spec.borrow(), status.borrow(), rows)))
}

#[test]
fn the_status_knows_of_a_pod_before_it_is_let_go_and_counts_it_after() {
    assert_snapshot!(plan(json!({}), json!({"active": 1}), "a Succeeded"), @r#"
    StatusChanged
    status Job/shop/work {"conditions":[{"lastProbeTime":"2023-11-14T22:15:00Z","lastTransitionTime":"2023-11-14T22:15:00Z","message":"Reached expected number of succeeded pods","reason":"CompletionsReached","status":"True","type":"SuccessCriteriaMet"}],"uncountedTerminatedPods":{"succeeded":["a"]},"active":null}
    "#);
    let plan_of = decide(&view(&json!({}), &json!({"active": 1}), "a Succeeded"));
    assert_snapshot!(plan_of.then[0].to_string(), @"patch Pod/shop/a metadata.finalizers");
    let noted = json!({"uncountedTerminatedPods": {"succeeded": ["a"]},
        "conditions": [{"type": "SuccessCriteriaMet", "status": "True",
            "reason": "CompletionsReached", "message": "m"}]});
    // Still held: nothing is counted yet.
    assert_snapshot!(plan(json!({}), noted.clone(), "a Succeeded"), @"Settled");
    assert_snapshot!(plan(json!({}), noted, "a Succeeded free"), @r#"
    StatusChanged
    status Job/shop/work {"completionTime":"2023-11-14T22:15:00Z","conditions":[{"message":"m","reason":"CompletionsReached","status":"True","type":"SuccessCriteriaMet"},{"lastProbeTime":"2023-11-14T22:15:00Z","lastTransitionTime":"2023-11-14T22:15:00Z","message":"m","reason":"CompletionsReached","status":"True","type":"Complete"}],"succeeded":1,"uncountedTerminatedPods":{"succeeded":null}}
    event Job/shop/work Completed: Job completed
    "#);
}

#[test]
fn missing_pods_are_made_within_parallelism_and_what_is_left_to_do() {
    let made = |completions: Value, parallelism: i32, succeeded: i32, rows: &str| {
        let spec = json!({"completions": completions, "parallelism": parallelism});
        let plan = decide(&view(&spec, &json!({"succeeded": succeeded}), rows));
        let count = |verb: &str| plan.actions.iter().filter(|one| one.verb() == verb).count();
        format!("+{} -{}", count("create"), count("delete"))
    };
    assert_eq!(made(json!(5), 2, 0, ""), "+2 -0");
    assert_eq!(made(json!(5), 2, 4, ""), "+1 -0");
    assert_eq!(made(json!(5), 2, 4, "a Running,b Running"), "+0 -1");
    // One that is being deleted counts as gone, and as failed.
    assert_eq!(made(json!(5), 3, 0, "a Running going"), "+3 -0");
    assert_eq!(made(Value::Null, 3, 0, "a Running"), "+2 -0");
    // Without a number of completions, one success is enough, and the others may finish.
    assert_eq!(made(Value::Null, 3, 1, "a Running"), "+0 -0");
}

#[test]
fn after_a_failure_there_is_a_pause() {
    // They ended ten seconds ago.
    let one = plan(json!({}), json!({}), "a Failed code=1");
    assert!(one.contains("create Pod"), "{one}");
    let two = plan(json!({}), json!({}), "a Failed code=1,b Failed code=1");
    assert!(two.contains("wake after 10s") && !two.contains("create Pod"), "{two}");
}

#[test]
fn why_jobs_fail() {
    let failed = |spec: Value, status: Value, rows: &str| {
        let plan = decide(&view(&spec, &status, rows));
        let status = plan.status.first().map(|write| write.status.clone()).unwrap_or_default();
        let conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        let text = |one: &Value, field: &str| one[field].as_str().unwrap_or_default().to_owned();
        let words =
            conditions.iter().map(|one| format!("{} {}", text(one, "type"), text(one, "reason")));
        let deleted = plan.actions.iter().filter(|one| one.verb() == "delete").count();
        format!("{} -{deleted}", words.collect::<Vec<_>>().join(", "))
    };
    let limit = json!({"backoffLimit": 0});
    assert_snapshot!(
        failed(limit, json!({}), "a Failed,b Running"),
        @"FailureTarget BackoffLimitExceeded -1"
    );
    assert_snapshot!(
        failed(json!({"activeDeadlineSeconds": 100}), json!({}), "a Running"),
        @"FailureTarget DeadlineExceeded -1"
    );
    assert_snapshot!(failed(json!({"activeDeadlineSeconds": 101}), json!({}), "a Running"), @" -0");
    let policy = json!({"podFailurePolicy": {"rules": [
        {"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3]}},
        {"action": "FailJob", "onExitCodes": {"operator": "NotIn", "values": [1]}}]},
        "backoffLimit": 0});
    assert_snapshot!(failed(policy.clone(), json!({}), "a Failed code=3"), @" -0");
    assert_snapshot!(
        failed(policy.clone(), json!({}), "a Failed code=2"),
        @"FailureTarget PodFailurePolicy -0"
    );
    assert_snapshot!(
        failed(policy, json!({}), "a Failed code=1"),
        @"FailureTarget BackoffLimitExceeded -0"
    );
    let indexed = json!({"completionMode": "Indexed", "completions": 2, "parallelism": 2,
        "backoffLimitPerIndex": 0, "backoffLimit": 99});
    assert_snapshot!(failed(indexed.clone(), json!({}), "a Failed 0,b Running 1"), @" -0");
    assert_snapshot!(
        failed(indexed.clone(), json!({}), "a Failed 0,b Succeeded 1"),
        @"FailureTarget FailedIndexes -0"
    );
    let mut strict = indexed;
    strict["maxFailedIndexes"] = json!(0);
    assert_snapshot!(
        failed(strict, json!({}), "a Failed 0,b Running 1"),
        @"FailureTarget MaxFailedIndexesExceeded -1"
    );
}

#[test]
fn an_indexed_pod_knows_its_index() {
    let spec = json!({"completionMode": "Indexed", "completions": 3, "parallelism": 3});
    let plan = decide(&view(&spec, &json!({"completedIndexes": "0"}), "a Running 1"));
    let Action::Create(pod) = &plan.actions[0] else { panic!("{plan:?}") };
    let mut shown = pod.json().clone();
    shown["metadata"]["name"] = "NAME".into();
    assert_snapshot!(serde_json::to_string_pretty(&shown).unwrap(), @r#"
    {
      "apiVersion": "v1",
      "kind": "Pod",
      "metadata": {
        "name": "NAME",
        "generateName": "work-2-",
        "namespace": "shop",
        "ownerReferences": [
          {
            "apiVersion": "batch/v1",
            "blockOwnerDeletion": true,
            "controller": true,
            "kind": "Job",
            "name": "work",
            "uid": "job"
          }
        ],
        "labels": {
          "job": "work",
          "batch.kubernetes.io/job-completion-index": "2"
        },
        "finalizers": [
          "batch.kubernetes.io/job-tracking"
        ],
        "annotations": {
          "batch.kubernetes.io/job-completion-index": "2"
        }
      },
      "spec": {
        "restartPolicy": "Never",
        "containers": [
          {
            "name": "main",
            "env": [
              {
                "name": "JOB_COMPLETION_INDEX",
                "valueFrom": {
                  "fieldRef": {
                    "apiVersion": "v1",
                    "fieldPath": "metadata.labels['batch.kubernetes.io/job-completion-index']"
                  }
                }
              }
            ]
          }
        ],
        "hostname": "work-2"
      }
    }
    "#);
}

#[test]
fn a_finished_job_goes_when_its_time_is_over() {
    let done = |second: i64| {
        json!({"conditions": [{"type": "Complete", "status": "True",
        "lastTransitionTime": at(second).to_string()}]})
    };
    let ttl = json!({"ttlSecondsAfterFinished": 30});
    assert_snapshot!(plan(ttl.clone(), done(80), ""), @r#"
    Settled
    wake after 10s
    "#);
    assert_snapshot!(plan(ttl, done(70), ""), @r#"
    TtlOver
    delete Job/shop/work
    "#);
    assert_snapshot!(plan(json!({}), done(70), ""), @"Settled");
}

#[test]
fn what_a_job_leaves_is_let_go() {
    let left = View { job: None, ..view(&json!({}), &json!({}), "a Running going") };
    assert_snapshot!(words(&decide(&left)), @r#"
    Leftovers
    patch Pod/shop/a {"metadata":{"finalizers":null}}
    "#);
    let mut other = pod("b Running").obj.json().clone();
    other["metadata"]["ownerReferences"][0]["uid"] = "earlier".into();
    let mut view = view(&json!({}), &json!({"active": 1}), "a Running");
    view.pods.push(seen(other));
    assert_snapshot!(words(&decide(&view)), @r#"
    Leftovers
    patch Pod/shop/b {"metadata":{"finalizers":null}}
    "#);
}

#[test]
fn pods_of_another_job_with_the_same_selector_are_left_alone() {
    let mut other = pod("b Succeeded").obj.json().clone();
    let owner = &mut other["metadata"]["ownerReferences"][0];
    owner["name"] = "twin".into();
    owner["uid"] = "twin".into();
    let mut view = view(&json!({}), &json!({"active": 1}), "a Running");
    view.pods.push(seen(other));
    let plan = words(&decide(&view));
    assert!(!plan.contains("shop/b"), "{plan}");
}

#[test]
fn a_job_does_not_wait_for_failures_of_an_earlier_one_of_its_name() {
    let (jobs, key) = (Jobs::default(), Key::of::<Job>("shop", "work"));
    let first = job(&json!({}), &json!({}));
    let failed = [pod("a Failed code=1")];
    assert_eq!(jobs.remember(&key, &failed, Some(&first)).len(), 1);
    // A pod that is deleted meanwhile still counts.
    assert_eq!(jobs.remember(&key, &[], Some(&first)).len(), 1);
    let mut next = first.obj.json().clone();
    next["metadata"]["uid"] = "next".into();
    assert!(jobs.remember(&key, &failed, Some(&seen(next))).is_empty());
}

#[test]
fn the_time_limit_of_a_resumed_job_begins_anew() {
    let suspended = json!({"conditions": [{"type": "Suspended", "status": "True",
        "reason": "JobSuspended", "message": "Job suspended"}]});
    let resumed = plan(json!({"activeDeadlineSeconds": 50}), suspended, "");
    assert!(resumed.contains("JobResumed") && !resumed.contains("DeadlineExceeded"), "{resumed}");
    assert!(resumed.contains("wake after 50s"), "{resumed}");
}
