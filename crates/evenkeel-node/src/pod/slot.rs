use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Lifecycle, LifecycleHandler};

use super::{Effect, Hook, check};
use crate::{
    probe::{ProbeKind, Prober, Rules},
    reasons,
    runtime::{Check, Exit, Signal},
};

/// First wait before a restart or another look at the image map; doubles from then on.
pub(super) const BACK_OFF_FIRST: Duration = Duration::from_secs(10);
/// Longest wait.
pub(super) const BACK_OFF_MAX: Duration = Duration::from_mins(5);
/// A container that ran this long starts again with the first wait.
const BACK_OFF_RESET: Duration = Duration::from_mins(10);
/// What SIGTERM gets when the preStop hook has used up the grace period.
pub(super) const GRACE_LEFT: Duration = Duration::from_secs(2);

/// What a container is to its pod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Runs to its end before the next one starts.
    Init,
    /// An init container that stays (`restartPolicy: Always`).
    Sidecar,
    /// The pod's own work.
    Main,
}

/// Where a container is in its life.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum State {
    /// Not started, and why; looked at again at `until`.
    Waiting { reason: &'static str, message: String, until: Option<Timestamp> },
    /// The runtime is at it; `after` is the run before.
    Starting { after: Option<Ended> },
    /// Its process runs.
    Running { id: String, since: Timestamp },
    /// Its process has ended; `restart_at` is set while the restart waits.
    Ended { end: Ended, restart_at: Option<(Timestamp, Duration)> },
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Ended {
    pub(super) id: String,
    pub(super) started: Option<Timestamp>,
    pub(super) finished: Timestamp,
    pub(super) code: i32,
    pub(super) reason: String,
    pub(super) message: Option<String>,
}

/// A container on its way out.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Killing {
    pub(super) deadline: Timestamp,
    pub(super) stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// The hook is to be run, if there is one.
    Hook,
    /// The hook runs.
    Hooking,
    /// SIGTERM is to be sent.
    Ask,
    /// SIGTERM was sent.
    Asked,
    /// SIGKILL was sent.
    Killed,
}

/// One container of a pod.
#[derive(Debug, Clone)]
pub(super) struct Slot {
    pub(super) name: String,
    pub(super) image: String,
    pub(super) role: Role,
    pub(super) state: State,
    /// The run before the present one.
    pub(super) previous: Option<Ended>,
    /// Which run this is; also the restart count.
    pub(super) attempt: u32,
    pub(super) probers: Vec<(Prober, Result<Check, String>)>,
    pub(super) killing: Option<Killing>,
    /// The postStart hook has not returned.
    pub(super) hooking: bool,
    pub(super) post_start: Option<Hook>,
    pub(super) pre_stop: Option<Hook>,
    back_off: BackOff,
    /// Failures to start in a row.
    refusals: u32,
    /// The last event about each probe, so that a failing one is not reported every period.
    pub(super) last_problem: Option<(ProbeKind, String)>,
}

/// The wait before a restart: none, 10 s, 20 s ... 300 s; forgotten after ten minutes.
///
/// **Source**: `k8s.io/client-go/util/flowcontrol/backoff.go` as the kubelet uses it.
#[derive(Debug, Clone, Default)]
struct BackOff {
    delay: Option<Duration>,
    updated: Option<Timestamp>,
}

impl BackOff {
    fn is_over(&self, at: Timestamp) -> bool {
        self.updated.is_none_or(|updated| {
            Duration::try_from(at.duration_since(updated)).unwrap_or_default() > BACK_OFF_RESET
        })
    }

    /// How long to wait from the end of a run.
    fn delay(&self, finished: Timestamp) -> Duration {
        if self.is_over(finished) { Duration::ZERO } else { self.delay.unwrap_or_default() }
    }

    /// A restart happens now.
    fn restarted(&mut self, finished: Timestamp, now: Timestamp) {
        let doubled = |delay: Duration| (delay * 2).min(BACK_OFF_MAX);
        self.delay = match self.delay {
            Some(delay) if !self.is_over(finished) => Some(doubled(delay)),
            _ => Some(BACK_OFF_FIRST),
        };
        self.updated = Some(now);
    }
}

impl Slot {
    pub(super) fn new(container: &Container, is_init: bool, ip: &str) -> Self {
        let role = match (is_init, container.restart_policy.as_deref()) {
            (false, _) => Role::Main,
            (true, Some("Always")) => Role::Sidecar,
            (true, _) => Role::Init,
        };
        let probes = [
            (ProbeKind::Startup, &container.startup_probe),
            (ProbeKind::Readiness, &container.readiness_probe),
            (ProbeKind::Liveness, &container.liveness_probe),
        ];
        let prober = |(kind, probe): (ProbeKind, &Option<_>)| {
            let probe = probe.as_ref()?;
            Some((Prober::new(kind, Rules::of(probe)), check::of_probe(probe, container, ip)))
        };
        let hook = |pick: fn(&Lifecycle) -> &Option<LifecycleHandler>| {
            let handler =
                container.lifecycle.as_ref().and_then(|lifecycle| pick(lifecycle).as_ref());
            handler.and_then(|handler| check::hook(handler, container, ip))
        };
        Self {
            name: container.name.clone(),
            image: container.image.clone().unwrap_or_default(),
            role,
            state: State::Waiting {
                reason: reasons::CONTAINER_CREATING,
                message: String::new(),
                until: None,
            },
            previous: None,
            attempt: 0,
            // Init containers that run to their end are not probed.
            probers: if role == Role::Init {
                Vec::new()
            } else {
                probes.into_iter().filter_map(prober).collect()
            },
            killing: None,
            hooking: false,
            post_start: hook(|lifecycle| &lifecycle.post_start),
            pre_stop: hook(|lifecycle| &lifecycle.pre_stop),
            back_off: BackOff::default(),
            refusals: 0,
            last_problem: None,
        }
    }

    pub(super) fn running_since(&self) -> Option<Timestamp> {
        match self.state {
            State::Running { since, .. } => Some(since),
            _ => None,
        }
    }

    pub(super) fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }

    /// Does not run and is not about to.
    pub(super) fn is_still(&self) -> bool {
        matches!(self.state, State::Waiting { .. } | State::Ended { .. })
    }

    pub(super) fn end(&self) -> Option<&Ended> {
        match &self.state {
            State::Ended { end, .. } => Some(end),
            _ => None,
        }
    }

    /// Whether a probe of this kind is satisfied; without one it is.
    fn passes(&self, kind: ProbeKind) -> bool {
        let mut probers = self.probers.iter().map(|(prober, _)| prober);
        probers.find(|prober| prober.kind == kind).is_none_or(|w| w.result() == Some(true))
    }

    /// It runs and its startup probe, if any, has succeeded.
    pub(super) fn is_started(&self) -> bool {
        self.is_running() && !self.hooking && self.passes(ProbeKind::Startup)
    }

    pub(super) fn is_ready(&self) -> bool {
        match self.role {
            Role::Init => self.end().is_some_and(|end| end.code == 0),
            Role::Sidecar | Role::Main => self.is_started() && self.passes(ProbeKind::Readiness),
        }
    }

    /// Starts it now, or says by its state until when it waits. `true` when it is being started.
    pub(super) fn try_start(&mut self, now: Timestamp) -> bool {
        match &mut self.state {
            State::Waiting { until: Some(until), .. } if *until > now => false,
            State::Waiting { .. } => {
                self.state = State::Starting { after: self.previous.take() };
                true
            }
            State::Ended { end, restart_at } => {
                let delay = self.back_off.delay(end.finished);
                let due = end.finished.checked_add(delay).unwrap_or(now);
                if due > now {
                    *restart_at = Some((due, delay));
                    return false;
                }
                self.back_off.restarted(end.finished, now);
                self.attempt += 1;
                self.state = State::Starting { after: Some(end.clone()) };
                true
            }
            State::Starting { .. } | State::Running { .. } => false,
        }
    }

    pub(super) fn started(&mut self, id: String, since: Timestamp, now: Timestamp) {
        let before = std::mem::replace(&mut self.state, State::Running { id, since });
        if let State::Starting { after } = before {
            self.previous = after;
        }
        self.refusals = 0;
        self.last_problem = None;
        self.killing = None;
        for (prober, _) in &mut self.probers {
            prober.container_started(now);
        }
    }

    pub(super) fn refused(&mut self, reason: &'static str, message: String, now: Timestamp) {
        let delay = BACK_OFF_FIRST
            .saturating_mul(1_u32.checked_shl(self.refusals.min(16)).unwrap_or(u32::MAX))
            .min(BACK_OFF_MAX);
        self.refusals = self.refusals.saturating_add(1);
        let until = now.checked_add(delay).ok();
        let before = std::mem::replace(&mut self.state, State::Waiting { reason, message, until });
        if let State::Starting { after } = before {
            self.previous = after;
        }
    }

    pub(super) fn ended(&mut self, exit: Exit) {
        let State::Running { id, since } = &self.state else { return };
        let fallback = if exit.code == 0 { reasons::COMPLETED } else { reasons::ERROR };
        let reason = if exit.unseen.is_some() { reasons::STATUS_UNKNOWN } else { fallback };
        let end = Ended {
            id: id.clone(),
            started: Some(*since),
            finished: exit.at,
            code: exit.code,
            reason: reason.to_owned(),
            message: exit.unseen,
        };
        self.state = State::Ended { end, restart_at: None };
        self.killing = None;
        self.hooking = false;
        for (prober, _) in &mut self.probers {
            prober.container_ended();
        }
    }

    /// Begins to stop it; does nothing unless it runs. A kill under way only gets sooner.
    pub(super) fn kill(&mut self, deadline: Timestamp, now: Timestamp) -> bool {
        if !self.is_running() {
            return false;
        }
        if let Some(killing) = &mut self.killing {
            killing.deadline = killing.deadline.min(deadline);
            return false;
        }
        let stage = if deadline <= now { Stage::Asked } else { Stage::Hook };
        self.killing = Some(Killing { deadline, stage });
        true
    }

    /// Carries a kill on as far as it goes now.
    pub(super) fn carry_on(&mut self, now: Timestamp, out: &mut Vec<Effect>) {
        let container = || self.name.clone();
        let Some(killing) =
            self.killing.as_mut().filter(|_| matches!(self.state, State::Running { .. }))
        else {
            return;
        };
        if killing.stage == Stage::Hook {
            match self.pre_stop.clone() {
                Some(hook) => {
                    let left = killing.deadline.duration_since(now);
                    let limit = Duration::try_from(left).unwrap_or_default();
                    out.push(Effect::PreStop { container: container(), hook, limit });
                    killing.stage = Stage::Hooking;
                }
                None => killing.stage = Stage::Ask,
            }
        }
        if killing.stage == Stage::Hooking && now >= killing.deadline {
            killing.stage = Stage::Ask;
        }
        if killing.stage == Stage::Ask {
            let least = now.checked_add(GRACE_LEFT).unwrap_or(now);
            if self.pre_stop.is_some() {
                killing.deadline = killing.deadline.max(least);
            }
            out.push(Effect::Signal { container: container(), signal: Signal::Term });
            killing.stage = Stage::Asked;
        }
        if killing.stage == Stage::Asked && now >= killing.deadline {
            out.push(Effect::Signal { container: container(), signal: Signal::Kill });
            killing.stage = Stage::Killed;
        }
    }

    pub(super) fn pre_stop_done(&mut self) {
        if let Some(killing) = self.killing.as_mut().filter(|k| k.stage == Stage::Hooking) {
            killing.stage = Stage::Ask;
        }
    }

    /// When it wants to be looked at again.
    pub(super) fn wake(&self) -> Option<Timestamp> {
        match &self.state {
            State::Waiting { until, .. } => *until,
            State::Ended { restart_at, .. } => restart_at.map(|(at, _)| at),
            State::Starting { .. } => None,
            State::Running { .. } => {
                let kill = self.killing.as_ref().filter(|k| k.stage != Stage::Killed);
                let probes = self.probers.iter().filter_map(|(prober, _)| prober.due());
                probes.chain(kill.map(|k| k.deadline)).min()
            }
        }
    }
}
