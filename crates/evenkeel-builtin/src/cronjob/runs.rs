//! The runs of a `CronJob`: which are under way, which have ended, which are forgotten.

use evenkeel_api::Obj;
use evenkeel_control::{Action, EventType, Propagation};
use jiff::Timestamp;
use k8s_openapi::{
    api::{batch::v1::Job, core::v1::ObjectReference},
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{Draft, run_name};
use crate::{job::ended_by, reasons, seen::Seen};

/// Annotation with the time that a run was scheduled for.
pub(crate) const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";

impl Draft<'_> {
    pub(crate) fn active(&self) -> &[ObjectReference] {
        self.status.active.as_deref().unwrap_or_default()
    }

    pub(crate) fn is_active(&self, is_meant: impl Fn(&str) -> bool) -> bool {
        self.active().iter().any(|active| is_meant(active.name.as_deref().unwrap_or_default()))
    }

    fn forget_active(&mut self, uid: &str) -> bool {
        let Some(list) = &mut self.status.active else { return false };
        let before = list.len();
        list.retain(|active| active.uid.as_deref() != Some(uid));
        list.len() < before
    }

    /// Deletes the oldest runs beyond the limits of the history.
    pub(crate) fn forget_old_runs(&mut self) {
        for (result, limit) in [
            ("Complete", self.spec.successful_jobs_history_limit),
            ("Failed", self.spec.failed_jobs_history_limit),
        ] {
            let Some(limit) = limit else { continue };
            let is_such =
                |job: &&Seen<Job>| ended_by(job).is_some_and(|condition| condition.type_ == result);
            let mut ended: Vec<&Seen<Job>> = self.view.jobs.iter().filter(is_such).collect();
            let started = |job: &Seen<Job>| {
                let start = job.status.as_ref().and_then(|status| status.start_time.as_ref());
                start.map_or(Timestamp::MAX, |time| time.0)
            };
            ended.sort_by_key(|job| (started(job), job.name().to_owned()));
            let surplus = ended.len().saturating_sub(usize::try_from(limit).unwrap_or_default());
            for job in ended.into_iter().take(surplus).filter(|job| !job.obj.is_deleting()) {
                self.delete(job.name(), &job.obj);
            }
        }
    }

    /// Deletes the runs that are under way.
    pub(crate) fn stop_active(&mut self) {
        let names: Vec<String> =
            self.active().iter().filter_map(|active| active.name.clone()).collect();
        let jobs = self.view.jobs.iter().filter(|job| names.iter().any(|name| name == job.name()));
        for job in jobs {
            self.delete(job.name(), &job.obj);
        }
    }

    fn delete(&mut self, name: &str, job: &Obj) {
        self.plan.reason = reasons::SUCCESSFUL_DELETE;
        self.plan.actions.push(Action::Delete {
            key: job.key().clone(),
            uid: job.uid().to_owned(),
            propagation: Propagation::Background,
        });
        self.forget_active(job.uid());
        self.note(EventType::Normal, reasons::SUCCESSFUL_DELETE, format!("Deleted job {name}"));
    }

    /// Brings the list of active runs up to date.
    pub(crate) fn follow_runs(&mut self) {
        for job in &self.view.jobs {
            let is_known = self.active().iter().any(|one| one.uid.as_deref() == Some(job.uid()));
            match ended_by(job) {
                Some(ended) => {
                    if is_known {
                        self.forget_active(job.uid());
                        let (name, kind) = (job.name(), &ended.type_);
                        let message = format!("Saw completed job: {name}, condition: {kind}");
                        self.note(EventType::Normal, reasons::SAW_COMPLETED_JOB, message);
                    }
                    if ended.type_ == "Complete" {
                        self.note_success(job);
                    }
                }
                None if is_known => {}
                None => {
                    if let Some(due) = self.scheduled_for(job) {
                        self.add_active(job, due);
                    } else {
                        let name = job.name();
                        let message = format!(
                            "Saw a job that the controller did not create or forgot: {name}"
                        );
                        self.note(EventType::Warning, reasons::UNEXPECTED_JOB, message);
                    }
                }
            }
        }
        let lost: Vec<ObjectReference> =
            self.active().iter().filter(|one| self.is_lost(one)).cloned().collect();
        for one in lost {
            self.forget_active(one.uid.as_deref().unwrap_or_default());
            let message =
                format!("Active job went missing: {}", one.name.as_deref().unwrap_or_default());
            self.note(EventType::Normal, reasons::MISSING_JOB, message);
        }
    }

    fn is_lost(&self, active: &ObjectReference) -> bool {
        let is_there = self.view.jobs.iter().any(|job| active.uid.as_deref() == Some(job.uid()));
        let name = active.name.as_deref().unwrap_or_default();
        !is_there && !self.view.names.contains(name)
    }

    fn note_success(&mut self, job: &Seen<Job>) {
        let done = job.status.as_ref().and_then(|status| status.completion_time.as_ref());
        let Some(done) = done else { return };
        let last = self.status.last_successful_time.as_ref();
        if last.is_none_or(|last| done.0 > last.0) {
            self.status.last_successful_time = Some(done.clone());
        }
    }

    /// The time of a run that this controller has made, whether the status knows of it or not.
    fn scheduled_for(&self, job: &Seen<Job>) -> Option<Timestamp> {
        let due: Timestamp = job.obj.annotation(SCHEDULED)?.parse().ok()?;
        (job.name() == run_name(self.view.cron.name(), due)).then_some(due)
    }

    /// A Job's uid is known only when it is there, so a new one is noted one look later.
    fn add_active(&mut self, job: &Seen<Job>, due: Timestamp) {
        self.status.active.get_or_insert_default().push(ObjectReference {
            api_version: Some("batch/v1".to_owned()),
            kind: Some("Job".to_owned()),
            name: Some(job.name().to_owned()),
            namespace: Some(job.obj.namespace().to_owned()),
            resource_version: Some(job.obj.revision().0.to_string()),
            uid: Some(job.uid().to_owned()),
            ..ObjectReference::default()
        });
        let last = self.status.last_schedule_time.as_ref();
        if last.is_none_or(|last| due > last.0) {
            self.status.last_schedule_time = Some(Time(due));
        }
    }
}
