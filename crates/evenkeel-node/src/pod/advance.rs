//! What a pod's state asks for: probes that are due, containers to start, containers to stop.

use evenkeel_api::gate;
use jiff::Timestamp;

use super::{
    ERR_SHOWN, Effect, PodMachine,
    slot::{self, Role, Slot, State},
};
use crate::{
    probe::{Outcome, Surroundings},
    reasons,
};

impl PodMachine {
    pub(super) fn run_probes(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let deleting = self.stop.is_some();
        let mut broken = Vec::new();
        for slot in &mut self.slots {
            if slot.hooking {
                continue;
            }
            let around = Surroundings {
                running_since: slot.running_since(),
                started: slot.is_started(),
                deleting,
            };
            let (container, attempt) = (slot.name.clone(), slot.attempt);
            for (prober, check) in &mut slot.probers {
                if !prober.poll(around, now) {
                    continue;
                }
                let (kind, timeout) = (prober.kind, prober.rules.timeout);
                match check.clone() {
                    Ok(check) => {
                        let container = container.clone();
                        out.push(Effect::Probe { container, kind, check, timeout });
                    }
                    Err(problem) => broken.push((container.clone(), attempt, kind, problem)),
                }
            }
        }
        for (container, attempt, kind, problem) in broken {
            self.on_probe((&container, attempt, kind), &Outcome::Error(problem), now);
        }
    }

    pub(super) fn advance_start(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let policy = self.restart_policy();
        for at in 0..self.slots.len() {
            let (role, initialized) = (self.slots[at].role, self.initialized);
            let slot = &self.slots[at];
            let (wanted, passed) = match role {
                Role::Init if initialized => (false, true),
                Role::Init => match slot.end() {
                    Some(end) if end.code == 0 => (false, true),
                    Some(_) => (policy != "Never", false),
                    None => (true, false),
                },
                Role::Sidecar => (true, initialized || slot.is_started()),
                Role::Main => {
                    self.initialized = true;
                    let again = |code: i32| match policy.as_str() {
                        "Never" => false,
                        "OnFailure" => code != 0,
                        _ => true,
                    };
                    (slot.end().is_none_or(|end| again(end.code)), true)
                }
            };
            if wanted {
                self.start(at, now, out);
            }
            if !passed {
                return;
            }
        }
    }

    fn start(&mut self, at: usize, now: Timestamp, out: &mut Vec<Effect>) {
        let slot = &mut self.slots[at];
        let waited = matches!(slot.state, State::Ended { restart_at: Some(_), .. });
        let container = slot.name.clone();
        if slot.try_start(now) {
            out.push(Effect::Start { attempt: slot.attempt, container });
        } else if !waited && matches!(slot.state, State::Ended { restart_at: Some(_), .. }) {
            let message = format!(
                "Back-off restarting failed container {container} in pod {}_{}({})",
                self.name(),
                self.namespace(),
                self.uid()
            );
            self.note(true, reasons::BACK_OFF, &message, Some(&container));
        }
    }

    pub(super) fn advance_stop(&mut self, now: Timestamp) {
        let drained = gate::drained(&self.pod.metadata);
        let Some(stop) = &mut self.stop else { return };
        let runs = self.slots.iter().any(|slot| !slot.is_still());
        if stop.gate_until.is_some_and(|until| !drained && runs && now < until) {
            return;
        }
        stop.gate_until = None;
        let deadline = stop.deadline;
        let mut killed = Vec::new();
        for slot in self.slots.iter_mut().filter(|slot| slot.role != Role::Sidecar) {
            if slot.kill(deadline, now) {
                killed.push(slot.name.clone());
            }
        }
        for container in killed {
            self.note_killing(&container);
        }
        if self.slots.iter().all(|slot| slot.role == Role::Sidecar || slot.is_still()) {
            self.stop_sidecars(deadline, now);
        }
    }

    /// Sidecars go last, the one that came last first.
    pub(super) fn stop_sidecars(&mut self, deadline: Timestamp, now: Timestamp) {
        let sidecars = self.slots.iter_mut().filter(|slot| slot.role == Role::Sidecar);
        let Some(slot) = sidecars.rev().find(|slot| !slot.is_still()) else { return };
        if slot.kill(deadline, now) {
            let container = slot.name.clone();
            self.note_killing(&container);
        }
    }

    /// Whether its work is done or has failed for good.
    pub(super) fn is_over(&self) -> bool {
        let policy = self.restart_policy();
        if self.init_failed() || self.evicted.is_some() {
            return true;
        }
        let mut mains = self.slots.iter().filter(|slot| slot.role == Role::Main);
        match policy.as_str() {
            "Never" => mains.all(|slot| slot.end().is_some()),
            "OnFailure" => mains.all(|slot| slot.end().is_some_and(|end| end.code == 0)),
            _ => false,
        }
    }

    pub(super) fn init_failed(&self) -> bool {
        let failed = |slot: &Slot| slot.end().is_some_and(|end| end.code != 0);
        self.restart_policy() == "Never"
            && !self.initialized
            && self.slots.iter().any(|slot| slot.role == Role::Init && failed(slot))
    }

    /// `ErrImagePull` becomes `ImagePullBackOff` after a moment, so that both can be seen.
    pub(super) fn show_image_back_off(&mut self, now: Timestamp) {
        for slot in &mut self.slots {
            if shown_until(slot).is_none_or(|until| until > now) {
                continue;
            }
            if let State::Waiting { reason, message, .. } = &mut slot.state {
                *reason = reasons::IMAGE_PULL_BACK_OFF;
                *message = format!("Back-off pulling image \"{}\": {message}", slot.image);
            }
        }
    }
}

/// Until when `ErrImagePull` is shown.
pub(super) fn shown_until(slot: &Slot) -> Option<Timestamp> {
    match &slot.state {
        State::Waiting { reason: reasons::ERR_IMAGE_PULL, until: Some(until), .. } => {
            // The shortest wait before the next look is longer than what is shown.
            until.checked_sub(slot::BACK_OFF_FIRST).ok()?.checked_add(ERR_SHOWN).ok()
        }
        _ => None,
    }
}
