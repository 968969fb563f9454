use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Layout, age::human, age_of, column, containers, name_of, or_none, since};
use crate::{
    subresource::selector_text,
    value::{list_at, number_at, text, text_at},
};

fn selector(body: &Value, pointer: &str) -> Value {
    json!(or_none(body.pointer(pointer).map(selector_text).unwrap_or_default()))
}

pub(super) const JOB: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Status", "string", 0),
        column("Completions", "string", 0),
        column("Duration", "string", 0),
        column("Age", "string", 0),
        column("Containers", "string", 1),
        column("Images", "string", 1),
        column("Selector", "string", 1),
    ],
    cells: |body, now| {
        let (names, images) = containers(body, "/spec/template/spec/containers");
        vec![
            name_of(body),
            json!(job_status(body)),
            json!(completions(body)),
            json!(duration(body, now)),
            age_of(body, now),
            json!(names),
            json!(images),
            selector(body, "/spec/selector"),
        ]
    },
};

fn job_status(body: &Value) -> &'static str {
    let has = |kind: &str| {
        let mut conditions = list_at(body, "/status/conditions").iter();
        conditions.any(|one| text(one, "type") == kind && text(one, "status") == "True")
    };
    let is_deleting = !text_at(body, "/metadata/deletionTimestamp").is_empty();
    match () {
        () if has("Complete") => "Complete",
        () if has("Failed") => "Failed",
        () if is_deleting => "Terminating",
        () if has("Suspended") => "Suspended",
        () if has("FailureTarget") => "FailureTarget",
        () => "Running",
    }
}

fn completions(body: &Value) -> String {
    let succeeded = number_at(body, "/status/succeeded").unwrap_or_default();
    let parallelism = number_at(body, "/spec/parallelism").unwrap_or_default();
    match number_at(body, "/spec/completions") {
        Some(all) => format!("{succeeded}/{all}"),
        None if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        None => format!("{succeeded}/1"),
    }
}

/// How long it took, or takes so far; empty before it starts.
fn duration(body: &Value, now: Timestamp) -> String {
    let time = |pointer: &str| text_at(body, pointer).parse::<Timestamp>().ok();
    let Some(start) = time("/status/startTime") else { return String::new() };
    let end = time("/status/completionTime").unwrap_or(now);
    human(end.duration_since(start).as_secs())
}

pub(super) const CRON_JOB: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Schedule", "string", 0),
        column("Timezone", "string", 0),
        column("Suspend", "boolean", 0),
        column("Active", "integer", 0),
        column("Last Schedule", "string", 0),
        column("Age", "string", 0),
        column("Containers", "string", 1),
        column("Images", "string", 1),
        column("Selector", "string", 1),
    ],
    cells: |body, now| {
        const TEMPLATE: &str = "/spec/jobTemplate/spec/template/spec/containers";
        let (names, images) = containers(body, TEMPLATE);
        let suspend = match body.pointer("/spec/suspend") {
            Some(Value::Bool(true)) => "True",
            Some(Value::Bool(false)) => "False",
            _ => "<unset>",
        };
        let last = text_at(body, "/status/lastScheduleTime");
        let last = if last.is_empty() { String::new() } else { since(last, now) };
        vec![
            name_of(body),
            json!(text_at(body, "/spec/schedule")),
            json!(or_none(text_at(body, "/spec/timeZone").to_owned())),
            json!(suspend),
            json!(list_at(body, "/status/active").len()),
            json!(or_none(last)),
            age_of(body, now),
            json!(names),
            json!(images),
            selector(body, "/spec/jobTemplate/spec/selector"),
        ]
    },
};

pub(super) const REVISION: Layout = Layout {
    columns: &[
        column("Name", "string", 0),
        column("Controller", "string", 0),
        column("Revision", "string", 0),
        column("Age", "string", 0),
    ],
    cells: |body, now| {
        let mut owners = list_at(body, "/metadata/ownerReferences").iter();
        let owner = owners.find(|owner| owner.get("controller") == Some(&json!(true)));
        let owner = owner.map(|owner| {
            let kind = text(owner, "kind").to_lowercase();
            let group = text(owner, "apiVersion").split_once('/').map(|(group, _)| group);
            let group = group.map(|group| format!(".{group}")).unwrap_or_default();
            format!("{kind}{group}/{}", text(owner, "name"))
        });
        vec![
            name_of(body),
            json!(or_none(owner.unwrap_or_default())),
            json!(number_at(body, "/revision").unwrap_or_default()),
            age_of(body, now),
        ]
    },
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_says_how_far_it_is() {
        let row = |body: &Value| {
            let now = "2026-01-01T00:01:40Z".parse().unwrap();
            let cells = (JOB.cells)(body, now);
            let cell = |at: usize| cells[at].as_str().unwrap_or_default().to_owned();
            format!("{}|{}|{}", cell(1), cell(2), cell(3))
        };
        let start = "2026-01-01T00:00:00Z";
        let running = json!({"spec": {"completions": 3}, "status": {"startTime": start,
            "succeeded": 1}});
        assert_eq!(row(&running), "Running|1/3|100s");
        let done = json!({"spec": {"parallelism": 2}, "status": {"startTime": start,
            "completionTime": "2026-01-01T00:00:05Z", "succeeded": 1,
            "conditions": [{"type": "Complete", "status": "True"}]}});
        assert_eq!(row(&done), "Complete|1/1 of 2|5s");
        let waiting = json!({"spec": {"completions": 1}, "status": {
            "conditions": [{"type": "Suspended", "status": "True"}]}});
        assert_eq!(row(&waiting), "Suspended|0/1|");
    }
}
