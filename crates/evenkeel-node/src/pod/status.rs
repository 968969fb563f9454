//! From the state of the containers to `status`, and back after a restart of the agent.

use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
        ContainerStatus, HostIP, PodCondition, PodIP, PodStatus,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};

use super::{
    PodMachine,
    slot::{Ended, Role, Slot, State},
};
use crate::reasons;

impl PodMachine {
    /// The status as it is now. The same state gives the same status, whatever the time; `now`
    /// only dates conditions that change with this call.
    pub fn status(&mut self, now: Timestamp) -> PodStatus {
        let phase = self.phase();
        self.update_conditions(phase, now);
        let of = |is_init: bool| {
            let slots = self.slots.iter().filter(|slot| (slot.role != Role::Main) == is_init);
            let statuses: Vec<_> = slots.map(|slot| self.container_status(slot)).collect();
            (!statuses.is_empty()).then_some(statuses)
        };
        let before = self.pod.status.as_ref();
        PodStatus {
            phase: Some(phase.to_owned()),
            conditions: Some(self.conditions.clone()),
            container_statuses: of(false),
            init_container_statuses: of(true),
            host_ip: Some(self.host_ip.to_string()),
            host_ips: Some(vec![HostIP { ip: self.host_ip.to_string() }]),
            pod_ip: Some(self.ip.to_string()),
            pod_ips: Some(vec![PodIP { ip: self.ip.to_string() }]),
            qos_class: before
                .and_then(|s| s.qos_class.clone())
                .or_else(|| Some(self.qos().to_owned())),
            start_time: Some(Time(self.start_time)),
            reason: self.evicted.as_ref().map(|_| reasons::EVICTED.to_owned()),
            message: self.evicted.clone(),
            ..PodStatus::default()
        }
    }

    /// Takes over the status of the object, before the runtime is asked.
    pub(super) fn restore_from_status(&mut self) {
        let Some(status) = self.pod.status.clone() else { return };
        if let Some(Time(start)) = status.start_time {
            self.start_time = start;
        }
        if status.reason.as_deref() == Some(reasons::EVICTED) {
            self.evicted = Some(status.message.unwrap_or_default());
        }
        let known = [&status.init_container_statuses, &status.container_statuses];
        for known in known.into_iter().flatten().flatten() {
            let Some(slot) = self.slots.iter_mut().find(|slot| slot.name == known.name) else {
                continue;
            };
            slot.attempt = known.restart_count.max(0).unsigned_abs();
            let last = known.last_state.as_ref().and_then(|last| last.terminated.as_ref());
            slot.previous = last.map(ended_of);
            let Some(state) = &known.state else { continue };
            if let Some(running) = &state.running {
                slot.state = State::Running {
                    id: known.container_id.clone().unwrap_or_default(),
                    since: running.started_at.as_ref().map_or(self.start_time, |at| at.0),
                };
            } else if let Some(terminated) = &state.terminated {
                slot.state = State::Ended { end: ended_of(terminated), restart_at: None };
            } else if let Some(end) = slot.previous.take() {
                // It waited for its next run.
                slot.state = State::Ended { end, restart_at: None };
            }
            self.initialized |=
                slot.role == Role::Main && !matches!(slot.state, State::Waiting { .. });
        }
    }

    /// **Source**: `getPhase` in `pkg/kubelet/kubelet_pods.go`.
    fn phase(&self) -> &'static str {
        if self.init_failed() || self.evicted.is_some() {
            return "Failed";
        }
        let pending_init = |slot: &Slot| match slot.role {
            Role::Init => slot.end().is_none_or(|end| end.code != 0),
            Role::Sidecar => !slot.is_started(),
            Role::Main => false,
        };
        if !self.initialized && self.slots.iter().any(pending_init) {
            return "Pending";
        }
        let (mut waiting, mut running, mut stopped, mut succeeded) = (0, 0, 0, 0);
        for slot in self.slots.iter().filter(|slot| slot.role == Role::Main) {
            let end = match &slot.state {
                State::Running { .. } => {
                    running += 1;
                    continue;
                }
                State::Ended { end, .. } => Some(end),
                State::Starting { after } => after.as_ref(),
                State::Waiting { .. } => slot.previous.as_ref(),
            };
            match end {
                Some(end) => {
                    stopped += 1;
                    succeeded += i32::from(end.code == 0);
                }
                None => waiting += 1,
            }
        }
        let policy = self.restart_policy();
        match (waiting, running) {
            (1.., _) => "Pending",
            (_, 1..) => "Running",
            _ if stopped == 0 => "Pending",
            _ if policy == "Always" && self.stop.is_none() => "Running",
            _ if stopped == succeeded => "Succeeded",
            _ if policy == "Never" || self.stop.is_some() => "Failed",
            _ => "Running",
        }
    }

    fn update_conditions(&mut self, phase: &str, now: Timestamp) {
        let names = |fails: &dyn Fn(&Slot) -> bool| {
            let names: Vec<&str> = self
                .slots
                .iter()
                .filter(|slot| fails(slot))
                .map(|slot| slot.name.as_str())
                .collect();
            names.join(" ")
        };
        let incomplete = names(&|slot| match slot.role {
            Role::Init => !self.initialized && slot.end().is_none_or(|end| end.code != 0),
            Role::Sidecar => !self.initialized && !slot.is_started(),
            Role::Main => false,
        });
        let unready = names(&|slot| slot.role != Role::Init && !slot.is_ready());
        let completed = phase == "Succeeded";
        let gates = self.spec().and_then(|spec| spec.readiness_gates.clone()).unwrap_or_default();
        let closed: Vec<String> = gates
            .into_iter()
            .map(|gate| gate.condition_type)
            .filter(|gate| {
                !self
                    .pod
                    .status
                    .iter()
                    .flat_map(|s| s.conditions.iter().flatten())
                    .any(|have| have.type_ == *gate && have.status == "True")
            })
            .collect();
        let none = ("True", None, None);
        let says = |reason: &str, message: String| {
            ("False", Some(reason.to_owned()), Some(message).filter(|m| !m.is_empty()))
        };
        let initialized = if completed {
            ("True", Some(reasons::POD_COMPLETED.to_owned()), None)
        } else if incomplete.is_empty() {
            none.clone()
        } else {
            let message = format!("containers with incomplete status: [{incomplete}]");
            says(reasons::NOT_INITIALIZED, message)
        };
        let containers_ready = if completed {
            says(reasons::POD_COMPLETED, String::new())
        } else if unready.is_empty() && phase != "Failed" {
            none.clone()
        } else {
            let message = format!("containers with unready status: [{unready}]");
            says(reasons::NOT_READY, message)
        };
        let ready = if containers_ready.0 == "True" && !closed.is_empty() {
            let message = format!(
                "corresponding condition of pod readiness gate \"{}\" is not true",
                closed.join("\", \"")
            );
            says(reasons::GATES_NOT_READY, message)
        } else {
            containers_ready.clone()
        };
        let any_ran = self.slots.iter().any(|slot| !matches!(slot.state, State::Waiting { .. }));
        let sandbox = if any_ran { "True" } else { "False" };
        self.condition("PodReadyToStartContainers", (sandbox, None, None), now);
        self.condition("Initialized", initialized, now);
        self.condition("Ready", ready, now);
        self.condition("ContainersReady", containers_ready, now);
        if !self.conditions.iter().any(|have| have.type_ == "PodScheduled") {
            self.condition("PodScheduled", none, now);
        }
    }

    fn condition(
        &mut self,
        kind: &str,
        (status, reason, message): (&str, Option<String>, Option<String>),
        now: Timestamp,
    ) {
        let fresh = PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason,
            message,
            last_transition_time: Some(Time(now)),
            observed_generation: None,
            last_probe_time: None,
        };
        match self.conditions.iter_mut().find(|have| have.type_ == kind) {
            Some(have) => {
                let since = have.last_transition_time.clone().filter(|_| have.status == status);
                *have = PodCondition {
                    last_transition_time: since.or(fresh.last_transition_time.clone()),
                    ..fresh
                };
            }
            None => self.conditions.push(fresh),
        }
    }

    fn container_status(&self, slot: &Slot) -> ContainerStatus {
        let waiting = |reason: &str, message: String| ContainerState {
            waiting: Some(ContainerStateWaiting {
                reason: Some(reason.to_owned()),
                message: Some(message).filter(|text| !text.is_empty()),
            }),
            ..ContainerState::default()
        };
        let terminated = |end: &Ended| ContainerState {
            terminated: Some(terminated_of(end)),
            ..ContainerState::default()
        };
        let has_init = self.slots.iter().any(|slot| slot.role != Role::Main);
        let blocked = slot.role == Role::Main && !self.initialized && has_init;
        let (state, last, id) = match &slot.state {
            State::Waiting { .. } if blocked && slot.previous.is_none() => {
                (waiting(reasons::POD_INITIALIZING, String::new()), None, None)
            }
            State::Waiting { reason, message, .. } => {
                (waiting(reason, message.clone()), slot.previous.as_ref(), None)
            }
            State::Starting { after: None } => {
                (waiting(reasons::CONTAINER_CREATING, String::new()), None, None)
            }
            // A restart that is being made shows the end before it: one write less.
            State::Starting { after: Some(end) } => (terminated(end), None, Some(&end.id)),
            State::Running { id, since } => {
                let running = ContainerStateRunning { started_at: Some(Time(*since)) };
                let state = ContainerState { running: Some(running), ..ContainerState::default() };
                (state, slot.previous.as_ref(), Some(id))
            }
            State::Ended { end, restart_at: Some((_, delay)) } if self.stop.is_none() => {
                let message = format!(
                    "back-off {} restarting failed container={} pod={}_{}({})",
                    evenkeel_base::format_duration(*delay),
                    slot.name,
                    self.name(),
                    self.namespace(),
                    self.uid()
                );
                (waiting(reasons::CRASH_LOOP_BACK_OFF, message), Some(end), Some(&end.id))
            }
            State::Ended { end, .. } => (terminated(end), slot.previous.as_ref(), Some(&end.id)),
        };
        ContainerStatus {
            name: slot.name.clone(),
            image: slot.image.clone(),
            image_id: if id.is_some() { slot.image.clone() } else { String::new() },
            container_id: id.cloned(),
            ready: slot.is_ready(),
            started: Some(slot.is_started()),
            restart_count: i32::try_from(slot.attempt).unwrap_or(i32::MAX),
            state: Some(state),
            last_state: last.map(terminated),
            ..ContainerStatus::default()
        }
    }

    /// **Source**: `ComputePodQOS` in `pkg/apis/core/v1/helper/qos/qos.go`.
    fn qos(&self) -> &'static str {
        let mut all_limited = true;
        let mut any = false;
        let containers = self
            .spec()
            .into_iter()
            .flat_map(|spec| spec.containers.iter().chain(spec.init_containers.iter().flatten()));
        for container in containers {
            let resources = container.resources.clone().unwrap_or_default();
            let limits = resources.limits.unwrap_or_default();
            let requests = resources.requests.unwrap_or_default();
            for name in ["cpu", "memory"] {
                let (limit, request) = (limits.get(name), requests.get(name));
                any |= limit.is_some() || request.is_some();
                let equal = request.is_none_or(|request| Some(request) == limit);
                all_limited &= limit.is_some() && equal;
            }
        }
        match (any, all_limited) {
            (false, _) => "BestEffort",
            (true, true) => "Guaranteed",
            (true, false) => "Burstable",
        }
    }
}

fn terminated_of(end: &Ended) -> ContainerStateTerminated {
    ContainerStateTerminated {
        container_id: Some(end.id.clone()),
        exit_code: end.code,
        finished_at: Some(Time(end.finished)),
        message: end.message.clone(),
        reason: Some(end.reason.clone()),
        signal: None,
        started_at: end.started.map(Time),
    }
}

fn ended_of(state: &ContainerStateTerminated) -> Ended {
    let at = |time: &Option<Time>| time.as_ref().map(|time| time.0);
    Ended {
        id: state.container_id.clone().unwrap_or_default(),
        started: at(&state.started_at),
        finished: at(&state.finished_at).unwrap_or(Timestamp::UNIX_EPOCH),
        code: state.exit_code,
        reason: state.reason.clone().unwrap_or_default(),
        message: state.message.clone(),
    }
}
