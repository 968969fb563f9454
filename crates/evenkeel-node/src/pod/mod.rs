//! A pod's life as a state machine: what happened goes in, what is to be done comes out.
//!
//! ```text
//! Waiting -> Starting -> Running -> Ended -> (back-off) -> Starting ...
//! deleted: gate (drained by the gateway) -> preStop -> SIGTERM -> SIGKILL at the end of grace
//! ```
//! **Source**: the kubelet's `kuberuntime` and `status` packages. Not here: clock, processes,
//! the API. [`PodMachine::poll`] after every event; at [`PodMachine::wake`] when nothing happens.

mod advance;
mod check;
mod slot;
mod status;
mod volumes;

#[cfg(test)]
mod tests;

use std::{net::IpAddr, sync::Arc, time::Duration};

use evenkeel_api::gate;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodSpec};

pub use self::volumes::VolumesSetUp;
use self::{
    advance::shown_until,
    slot::{Slot, State},
    volumes::Mounting,
};
use crate::{
    probe::{Change, Outcome, ProbeKind},
    reasons,
    runtime::{Adopted, Check, Exit, Signal, StartError, Started},
};

/// What is left of the grace period for stopping when the gate is not opened.
const GATE_RESERVE: Duration = Duration::from_secs(2);
/// Grace period of a pod that does not name one.
const GRACE_S: i64 = 30;
/// Grace period of containers whose pod object is gone already (`--force`).
const GRACE_ORPHANED: Duration = Duration::from_secs(2);
/// How long `ErrImagePull` is shown before it becomes `ImagePullBackOff`.
const ERR_SHOWN: Duration = Duration::from_secs(2);

/// Something to be done for a pod.
#[derive(Debug, Clone, PartialEq)]
pub enum Effect {
    /// Bring the pod's volumes to what they are to be; answer with [`PodMachine::on_volumes`].
    SetUpVolumes,
    /// Start a container; answer with [`PodMachine::on_start`].
    Start {
        /// Which.
        container: String,
        /// Which run of it.
        attempt: u32,
    },
    /// Run the postStart hook; answer with [`PodMachine::on_post_start`].
    PostStart {
        /// Of which container.
        container: String,
        /// What to do.
        hook: Hook,
    },
    /// Run the preStop hook; answer with [`PodMachine::on_pre_stop`].
    PreStop {
        /// Of which container.
        container: String,
        /// What to do.
        hook: Hook,
        /// Stop doing it after this time.
        limit: Duration,
    },
    /// Send a signal.
    Signal {
        /// To which container.
        container: String,
        /// Which.
        signal: Signal,
    },
    /// Probe; answer with [`PodMachine::on_probe`].
    Probe {
        /// Which container.
        container: String,
        /// Which probe.
        kind: ProbeKind,
        /// What to look at.
        check: Check,
        /// After this time it has failed.
        timeout: Duration,
    },
    /// Nothing runs any more and the pod is to go: forget it, delete its object.
    Finish,
    /// Record an event.
    Record(Note),
}

/// A hook of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Hook {
    /// A request or a command.
    Check(Check),
    /// A wait.
    Sleep(Duration),
}

/// An Event about the pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// Something is wrong.
    pub is_warning: bool,
    /// A constant of [`reasons`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
    /// The container it is about.
    pub container: Option<String>,
}

impl Note {
    /// Equal for notes that say the same: they are counted, not piled up.
    pub fn identity(&self) -> String {
        let container = self.container.as_deref().unwrap_or_default();
        format!("{} {container} {}", self.reason, self.message)
    }
}

/// One pod on this node.
#[derive(Debug, Clone)]
pub struct PodMachine {
    pod: Arc<Pod>,
    ip: IpAddr,
    host_ip: IpAddr,
    slots: Vec<Slot>,
    mounting: Mounting,
    /// Why this node has ended the pod.
    evicted: Option<String>,
    stop: Option<Stop>,
    conditions: Vec<PodCondition>,
    start_time: Timestamp,
    /// Init containers have all done their work once.
    initialized: bool,
    finished: bool,
    /// When it was last asked what to do.
    polled: Timestamp,
    notes: Vec<Note>,
}

#[derive(Debug, Clone)]
struct Stop {
    deadline: Timestamp,
    /// Wait for the gateway until then.
    gate_until: Option<Timestamp>,
    /// Without answering to the API: the object is gone.
    is_orphan: bool,
}

impl PodMachine {
    /// A pod that this node has just been given.
    pub fn new(pod: Arc<Pod>, ip: IpAddr, host_ip: IpAddr, now: Timestamp) -> Self {
        let text_ip = ip.to_string();
        let spec = pod.spec.as_ref();
        let inits = spec.into_iter().flat_map(|spec| spec.init_containers.iter().flatten());
        let mains = spec.into_iter().flat_map(|spec| spec.containers.iter());
        let slots = inits
            .map(|container| Slot::new(container, true, &text_ip))
            .chain(mains.map(|container| Slot::new(container, false, &text_ip)))
            .collect();
        let mut machine = Self {
            pod: pod.clone(),
            ip,
            host_ip,
            slots,
            mounting: Mounting::new(&pod, now),
            evicted: None,
            stop: None,
            conditions: pod.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default(),
            start_time: now,
            initialized: false,
            finished: false,
            polled: now,
            notes: Vec::new(),
        };
        machine.restore_from_status();
        machine.observe(pod, now);
        machine
    }

    /// Takes over what an earlier agent left: runs that still exist continue, with the readiness
    /// they had; a run that is in the status and was not found has ended unseen.
    pub fn adopt(&mut self, found: &[Adopted], now: Timestamp) {
        let status = self.pod.status.clone().unwrap_or_default();
        for slot in &mut self.slots {
            let known = [&status.init_container_statuses, &status.container_statuses]
                .into_iter()
                .flatten()
                .flatten()
                .find(|known| known.name == slot.name);
            match found.iter().find(|adopted| adopted.container.container == slot.name) {
                Some(adopted) => {
                    let same = known.and_then(|known| known.container_id.as_deref())
                        == Some(adopted.started.id.as_str());
                    slot.attempt = adopted.container.attempt;
                    slot.state = State::Running {
                        id: adopted.started.id.clone(),
                        since: adopted.started.at,
                    };
                    for (prober, _) in &mut slot.probers {
                        let known = known.filter(|_| same);
                        prober.adopted(
                            now,
                            match prober.kind {
                                ProbeKind::Startup => known.and_then(|t| t.started).filter(|s| *s),
                                ProbeKind::Readiness => known.map(|t| t.ready),
                                ProbeKind::Liveness => None,
                            },
                        );
                    }
                    if let Some(exit) = adopted.exit.clone() {
                        slot.ended(exit);
                    }
                }
                None if slot.is_running() => slot.ended(Exit {
                    code: 137,
                    at: now,
                    unseen: Some("the container could not be located".to_owned()),
                }),
                None => {}
            }
        }
    }

    /// Namespace of the pod.
    pub fn namespace(&self) -> &str {
        self.pod.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Name of the pod.
    pub fn name(&self) -> &str {
        self.pod.metadata.name.as_deref().unwrap_or_default()
    }

    /// Uid of the pod.
    pub fn uid(&self) -> &str {
        self.pod.metadata.uid.as_deref().unwrap_or_default()
    }

    /// The object as last seen.
    pub fn pod(&self) -> &Arc<Pod> {
        &self.pod
    }

    /// Address of the pod.
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Which run of a container is present.
    pub fn attempt(&self, container: &str) -> u32 {
        self.slots.iter().find(|slot| slot.name == container).map_or(0, |slot| slot.attempt)
    }

    /// Containers that run now, for waiting on them after [`PodMachine::adopt`].
    pub fn running(&self) -> impl Iterator<Item = (&str, u32)> {
        self.slots.iter().filter(|s| s.is_running()).map(|s| (s.name.as_str(), s.attempt))
    }

    /// The object is gone although its containers are not: stop them, without events.
    pub fn orphaned(&mut self, now: Timestamp) {
        let soon = now.checked_add(GRACE_ORPHANED).unwrap_or(now);
        let deadline = self.stop.as_ref().map_or(soon, |stop| stop.deadline.min(soon));
        self.stop = Some(Stop { deadline, gate_until: None, is_orphan: true });
    }

    /// Whether [`Effect::Finish`] has been given.
    pub fn is_finished(&self) -> bool {
        self.finished
    }

    /// Whether the object was gone before its containers.
    pub fn is_orphan(&self) -> bool {
        self.stop.as_ref().is_some_and(|stop| stop.is_orphan)
    }

    /// The object has changed.
    pub fn observe(&mut self, pod: Arc<Pod>, now: Timestamp) {
        self.mounting.observe(&self.pod, &pod, now);
        self.pod = pod;
        if self.pod.metadata.deletion_timestamp.is_none() || self.is_orphan() {
            return;
        }
        let spec_grace =
            self.pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
        let grace_s = self.pod.metadata.deletion_grace_period_seconds.or(spec_grace);
        let grace = Duration::from_secs(grace_s.unwrap_or(GRACE_S).max(0).unsigned_abs());
        let deadline = now.checked_add(grace).unwrap_or(Timestamp::MAX);
        if let Some(stop) = &mut self.stop {
            // A second deletion may only shorten the first.
            stop.deadline = stop.deadline.min(deadline);
            stop.gate_until = stop.gate_until.map(|gate| gate.min(stop.deadline));
            return;
        }
        let gated = gate::gated(&self.pod.metadata);
        if let Some(value) = gate::unknown(&self.pod.metadata) {
            let message = format!(
                "Annotation {}: {value:?} is not known and not waited for; use {:?}",
                gate::TERMINATION_GATE,
                gate::GATE_GATEWAY
            );
            self.note(true, reasons::UNKNOWN_GATE, &message, None);
        }
        let runs = self.slots.iter().any(|slot| !slot.is_still());
        let gate_until =
            deadline.checked_sub(GATE_RESERVE).ok().filter(|until| gated && runs && *until > now);
        if gate_until.is_some() {
            self.note(false, reasons::DRAINING, "Waiting for the gateway to empty the pod", None);
        }
        self.stop = Some(Stop { deadline, gate_until, is_orphan: false });
    }

    /// The runtime has answered a [`Effect::Start`].
    pub fn on_start(
        &mut self,
        container: &str,
        result: Result<Started, StartError>,
        now: Timestamp,
    ) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == container) else { return };
        let image = slot.image.clone();
        match result {
            Ok(started) => {
                slot.started(started.id, started.at, now);
                slot.hooking = slot.post_start.is_some();
                let present = format!("Container image \"{image}\" already present on machine");
                self.note(false, reasons::PULLED, &present, Some(container));
                self.note(false, reasons::CREATED, &created(container), Some(container));
                let started = format!("Started container {container}");
                self.note(false, reasons::STARTED, &started, Some(container));
            }
            Err(error) => {
                let (reason, message) = match error {
                    StartError::Image(message) => (reasons::ERR_IMAGE_PULL, message),
                    StartError::Config(message) => (reasons::CREATE_CONFIG_ERROR, message),
                    StartError::Run(message) => (reasons::RUN_ERROR, message),
                };
                slot.refused(reason, message.clone(), now);
                let message = match reason {
                    reasons::ERR_IMAGE_PULL => {
                        format!("Failed to pull image \"{image}\": {message}")
                    }
                    _ => format!("Error: {message}"),
                };
                self.note(true, reasons::FAILED, &message, Some(container));
            }
        }
    }

    /// A container has ended.
    pub fn on_exit(&mut self, container: &str, attempt: u32, exit: Exit) {
        let slot = self.slots.iter_mut().find(|s| s.name == container && s.attempt == attempt);
        if let Some(slot) = slot {
            slot.ended(exit);
        }
    }

    /// The postStart hook has returned.
    pub fn on_post_start(&mut self, container: &str, result: Result<(), String>, now: Timestamp) {
        let deadline = self.grace_end(None, now);
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == container) else { return };
        slot.hooking = false;
        if let Err(problem) = result {
            slot.kill(deadline, now);
            let message = format!("PostStartHook failed: {problem}");
            self.note(true, reasons::FAILED_POST_START, &message, Some(container));
        }
    }

    /// The preStop hook has returned, or was given up.
    pub fn on_pre_stop(&mut self, container: &str, result: Result<(), String>) {
        let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == container) else { return };
        slot.pre_stop_done();
        if let Err(problem) = result {
            let message = format!("PreStopHook failed: {problem}");
            self.note(true, reasons::FAILED_PRE_STOP, &message, Some(container));
        }
    }

    /// A probe of a run has answered. `true` when the same answer again would change nothing.
    pub fn on_probe(
        &mut self,
        (container, attempt, kind): (&str, u32, ProbeKind),
        outcome: &Outcome,
        now: Timestamp,
    ) -> bool {
        let deleting = self.stop.is_some();
        let slot = self.slots.iter_mut().find(|s| s.name == container && s.attempt == attempt);
        let Some(slot) = slot.filter(|slot| slot.is_running()) else { return false };
        let Some((prober, _)) = slot.probers.iter_mut().find(|(w, _)| w.kind == kind) else {
            return false;
        };
        let change = prober.record(outcome);
        let (settled, grace_s) = (prober.is_settled(), prober.rules.grace_s);
        let problem = match outcome {
            Outcome::Success => {
                slot.last_problem = slot.last_problem.take().filter(|(of, _)| *of != kind);
                None
            }
            Outcome::Failure(problem) => Some(("failed", problem)),
            Outcome::Error(problem) => Some(("errored", problem)),
        };
        let mut notes = Vec::new();
        if let Some((verb, problem)) = problem {
            let found = (kind, problem.clone());
            if slot.last_problem.as_ref() != Some(&found) {
                let message = format!("{} probe {verb}: {problem}", kind.as_str());
                notes.push((true, reasons::UNHEALTHY, message));
                slot.last_problem = Some(found);
            }
        }
        match (kind, change) {
            (ProbeKind::Startup, Change::Healthy) => {
                for (prober, _) in &mut slot.probers {
                    if prober.kind == ProbeKind::Readiness {
                        prober.hurry(now);
                    }
                }
            }
            (ProbeKind::Startup | ProbeKind::Liveness, Change::Unhealthy) if !deleting => {
                let verb = kind.as_str().to_lowercase();
                let message =
                    format!("Container {container} failed {verb} probe, will be restarted");
                notes.push((false, reasons::KILLING, message));
                let deadline = self.grace_end(grace_s, now);
                if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == container) {
                    slot.kill(deadline, now);
                }
            }
            _ => {}
        }
        for (is_warning, reason, message) in notes {
            self.note(is_warning, reason, &message, Some(container));
        }
        settled
    }

    /// The runtime says when a settled probe is to be run again: not before
    /// [`PodMachine::unpark`].
    pub fn park(&mut self, container: &str, kind: ProbeKind) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == container) {
            slot.probers.iter_mut().filter(|(w, _)| w.kind == kind).for_each(|(w, _)| w.park());
        }
    }

    /// What a parked probe looks at may have changed.
    pub fn unpark(&mut self, container: &str, kind: ProbeKind, now: Timestamp) {
        if let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == container) {
            let probers = slot.probers.iter_mut().filter(|(prober, _)| prober.kind == kind);
            probers.for_each(|(prober, _)| prober.unpark(now));
        }
    }

    /// What is to be done now. Asking twice gives nothing new.
    pub fn poll(&mut self, now: Timestamp) -> Vec<Effect> {
        let mut out = Vec::new();
        self.polled = now;
        if !self.finished {
            self.show_image_back_off(now);
            self.run_probes(now, &mut out);
            if self.stop.is_some() {
                self.advance_stop(now);
            } else if self.evicted.is_some() {
                self.stop_evicted(now);
            } else if self.is_over() {
                self.stop_sidecars(self.grace_end(None, now), now);
            } else if self.mounting.poll(now, &mut out) {
                self.advance_start(now, &mut out);
            }
            for slot in &mut self.slots {
                slot.carry_on(now, &mut out);
            }
            let is_still = self.slots.iter().all(Slot::is_still) && !self.mounting.is_busy();
            if self.stop.is_some() && is_still {
                self.finished = true;
                out.push(Effect::Finish);
            }
        }
        out.extend(std::mem::take(&mut self.notes).into_iter().map(Effect::Record));
        out
    }

    /// When to poll again if nothing happens before.
    pub fn wake(&self) -> Option<Timestamp> {
        if self.finished {
            return None;
        }
        let gate = self.stop.as_ref().and_then(|stop| stop.gate_until);
        let starting = self.stop.is_none() && !self.is_over();
        // A container that is not to be started again needs no timer.
        let slots = self.slots.iter().filter(|slot| starting || !slot.is_still());
        let shown = self.slots.iter().filter_map(|slot| shown_until(slot).filter(|_| starting));
        let mount = self.mounting.wake().filter(|_| starting);
        let wakes = slots.filter_map(Slot::wake).chain(gate).chain(shown).chain(mount);
        // What was due and could not be done waits for an event, not for time: a container behind
        // one that is not up yet, a probe behind a hook.
        wakes.filter(|wake| *wake > self.polled).min()
    }

    fn restart_policy(&self) -> String {
        let policy = self.spec().and_then(|spec| spec.restart_policy.clone());
        policy.unwrap_or_else(|| "Always".to_owned())
    }

    fn spec(&self) -> Option<&PodSpec> {
        self.pod.spec.as_ref()
    }

    fn grace_end(&self, grace_s: Option<i64>, now: Timestamp) -> Timestamp {
        let of_pod = self.spec().and_then(|spec| spec.termination_grace_period_seconds);
        let grace_s = grace_s.or(of_pod).unwrap_or(GRACE_S).max(0).unsigned_abs();
        now.checked_add(Duration::from_secs(grace_s)).unwrap_or(Timestamp::MAX)
    }

    fn note_killing(&mut self, container: &str) {
        let message = format!("Stopping container {container}");
        self.note(false, reasons::KILLING, &message, Some(container));
    }

    fn note(
        &mut self,
        is_warning: bool,
        reason: &'static str,
        message: &str,
        container: Option<&str>,
    ) {
        let container = container.map(str::to_owned);
        self.notes.push(Note { is_warning, reason, message: message.to_owned(), container });
    }
}

fn created(container: &str) -> String {
    format!("Created container: {container}")
}
