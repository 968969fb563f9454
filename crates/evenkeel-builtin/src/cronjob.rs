//! `CronJob`: makes a Job whenever its schedule says so.
//!
//! A run has the name of its minute, so that no run is started twice. Times are those of
//! `spec.timeZone`, or UTC; the time zones are in this program (`evenkeel_base::time_zone`).
//! **Source**: `pkg/controller/cronjob/cronjob_controllerv2.go`.

mod runs;
mod timing;

use std::collections::BTreeSet;

use evenkeel_api::{GroupKind, Key, Obj, json::difference};
use evenkeel_base::{Schedule, time_zone};
use evenkeel_control::{
    Action, Controller, EventNote, EventType, Interest, ListQuery, ObserveError, Plan, Ports, Wakes,
};
use jiff::{Timestamp, tz::TimeZone};
use k8s_openapi::{
    api::batch::v1::{CronJob, CronJobSpec, CronJobStatus, Job},
    apimachinery::pkg::apis::meta::v1::Time,
};
use serde_json::{Value, json};

use crate::{
    pods, reasons,
    seen::{Seen, get_as, json, list_as},
};

/// The controller.
pub(crate) struct CronJobs;

/// What one `CronJob`'s decision looks at.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) now: Timestamp,
    pub(crate) cron: Seen<CronJob>,
    /// The Jobs that it owns.
    pub(crate) jobs: Vec<Seen<Job>>,
    /// Names of all Jobs of its namespace.
    pub(crate) names: BTreeSet<String>,
}

impl Controller for CronJobs {
    type View = View;

    fn name(&self) -> &'static str {
        "cronjob-controller"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<CronJob>()
    }

    fn also(&self) -> Vec<Interest> {
        let job = Interest::mapped::<Job>(|job| {
            let owner = job.controller().filter(|owner| owner.kind == "CronJob");
            let key = owner.map(|owner| Key::of::<CronJob>(job.namespace(), &owner.name));
            Wakes::These(key.into_iter().collect())
        });
        vec![job]
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
        let Some(cron) = get_as::<CronJob>(ports, key).await? else { return Ok(None) };
        let query = ListQuery::all(GroupKind::of::<Job>()).within(&key.namespace);
        let mut jobs = list_as::<Job>(ports, &query).await?;
        let names = jobs.iter().map(|job| job.name().to_owned()).collect();
        jobs.retain(|job| pods::is_controlled_by(&job.obj, cron.uid()));
        Ok(Some(View { now: ports.clock.now(), cron, jobs, names }))
    }

    fn decide(&self, view: &View) -> Plan {
        decide(view)
    }
}

/// The plan in the making.
struct Draft<'a> {
    view: &'a View,
    spec: &'a CronJobSpec,
    status: CronJobStatus,
    plan: Plan,
}

/// Keeps the list of runs, and starts the one that is due.
pub(crate) fn decide(view: &View) -> Plan {
    let Some(spec) = view.cron.spec.as_ref() else { return Plan::idle(reasons::NOT_MANAGED) };
    let status = view.cron.status.clone().unwrap_or_default();
    let mut draft = Draft { view, spec, status, plan: Plan::idle(reasons::SETTLED) };
    draft.forget_old_runs();
    draft.follow_runs();
    if !view.cron.obj.is_deleting() {
        draft.start();
    }
    draft.finish()
}

impl Draft<'_> {
    /// Starts the run that is due, unless it is too late or another one is in its way.
    fn start(&mut self) {
        let Some((schedule, zone)) = self.schedule() else { return };
        let times = timing::Times::of(self.view, self.spec, &schedule);
        if times.is_invalid {
            let message = format!(
                "invalid schedule: {} : time difference between two schedules is less than 1 \
                 second",
                self.spec.schedule
            );
            self.note(EventType::Warning, reasons::INVALID_SCHEDULE, message);
            return;
        }
        if let Some(wait) = times.next_in {
            self.plan = std::mem::take(&mut self.plan).waking(wait);
        }
        let Some(due) = times.due else { return };
        if times.has_missed_many {
            let message = "too many missed start times. Set or decrease \
                           .spec.startingDeadlineSeconds or check clock skew";
            self.note(EventType::Warning, reasons::TOO_MANY_MISSED_TIMES, message.to_owned());
        }
        if times.is_too_late {
            let shown = due.strftime("%a, %d %b %Y %H:%M:%S +0000");
            let message = format!("Missed scheduled time to start a job: {shown}");
            self.note(EventType::Warning, reasons::MISS_SCHEDULE, message);
            return;
        }
        let name = run_name(self.view.cron.name(), due);
        let started = self.status.last_schedule_time.as_ref().map(|time| time.0);
        if started == Some(due) || self.is_active(|active| active == name) {
            return;
        }
        let policy = self.spec.concurrency_policy.as_deref().unwrap_or("Allow");
        if policy == "Forbid" && !self.active().is_empty() {
            let message = "Not starting job because prior execution is running and concurrency \
                           policy is Forbid";
            self.note(EventType::Normal, reasons::JOB_ALREADY_ACTIVE, message.to_owned());
            return;
        }
        if policy == "Replace" {
            self.stop_active();
        }
        if self.view.names.contains(&name) {
            // Somebody else's: this run is left out.
            return;
        }
        let Some(job) = self.run(&name, due, &zone) else { return };
        self.plan.reason = reasons::SUCCESSFUL_CREATE;
        self.plan.actions.push(Action::Create(Box::new(job)));
        self.status.last_schedule_time = Some(Time(due));
        self.note(EventType::Normal, reasons::SUCCESSFUL_CREATE, format!("Created job {name}"));
    }

    /// The schedule and its zone; `None` with an event when it has none, or is suspended.
    fn schedule(&mut self) -> Option<(Schedule, TimeZone)> {
        let named = self.spec.time_zone.as_deref();
        let zone = named.map_or(Some(TimeZone::UTC), time_zone);
        let Some(zone) = zone else {
            let name = named.unwrap_or_default();
            let message = format!("invalid timeZone: {name:?}: unknown time zone {name}");
            self.note(EventType::Warning, reasons::UNKNOWN_TIME_ZONE, message);
            return None;
        };
        if self.spec.suspend == Some(true) {
            self.plan.reason = reasons::SUSPENDED;
            return None;
        }
        let text = &self.spec.schedule;
        if text.contains("TZ") {
            let message = format!(
                "CRON_TZ or TZ used in schedule {text:?} is not officially supported, see \
                 https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more \
                 details"
            );
            self.note(EventType::Warning, reasons::UNSUPPORTED_SCHEDULE, message);
        }
        match Schedule::parse(text, &zone) {
            Ok(schedule) => Some((schedule, zone)),
            Err(error) => {
                let message = format!("unparseable schedule: {text:?} : {error}");
                self.note(EventType::Warning, reasons::UNPARSEABLE_SCHEDULE, message);
                None
            }
        }
    }

    /// The Job of one run. **Source**: `getJobFromTemplate2`.
    fn run(&self, name: &str, due: Timestamp, zone: &TimeZone) -> Option<Obj> {
        let cron = &self.view.cron;
        let template = cron.obj.json().pointer("/spec/jobTemplate")?;
        let mut metadata = json!({"name": name, "namespace": cron.obj.namespace(),
            "ownerReferences": [cron.obj.owner_reference()]});
        for field in ["labels", "annotations"] {
            if let Some(value) = template.pointer(&format!("/metadata/{field}")) {
                metadata[field] = value.clone();
            }
        }
        metadata["annotations"][runs::SCHEDULED] = Value::from(clock_time(due, zone));
        Obj::from_json(json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata,
            "spec": template.get("spec")}))
        .ok()
    }

    fn note(&mut self, kind: EventType, reason: &'static str, message: String) {
        let about = self.view.cron.key().clone();
        self.plan.events.push(EventNote { about, kind, reason, message });
    }

    fn finish(mut self) -> Plan {
        self.status.active = self.status.active.filter(|list| !list.is_empty());
        let old = self.view.cron.status.as_ref().map_or_else(|| json!({}), json);
        if let Some(patch) = difference(&old, &json(&self.status)) {
            if self.plan.actions.is_empty() {
                self.plan.reason = reasons::STATUS_CHANGED;
            }
            self.plan = self.plan.with_status(self.view.cron.key().clone(), patch);
        }
        self.plan
    }
}

/// Name of the run of a time. **Source**: `getJobName`.
pub(crate) fn run_name(cron: &str, due: Timestamp) -> String {
    format!("{cron}-{}", due.as_second().div_euclid(60))
}

/// RFC 3339 in a zone, as Go writes it.
fn clock_time(time: Timestamp, zone: &TimeZone) -> String {
    let offset = zone.to_offset(time);
    let clock = zone.to_datetime(time).strftime("%Y-%m-%dT%H:%M:%S");
    if offset.seconds() == 0 {
        return format!("{clock}Z");
    }
    let minutes = offset.seconds().abs() / 60;
    let sign = if offset.is_negative() { '-' } else { '+' };
    format!("{clock}{sign}{:02}:{:02}", minutes / 60, minutes % 60)
}

#[cfg(test)]
mod tests;
