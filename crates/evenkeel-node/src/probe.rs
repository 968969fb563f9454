//! One probe of one container as a state machine over time.
//!
//! **Source**: `pkg/kubelet/prober/prober.go`; its oddities are kept where they can be seen from
//! outside (whole seconds of `initialDelaySeconds`, consecutive equal results, errors ignored,
//! on hold after a liveness failure).

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::Probe;

/// What a probe decides about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ProbeKind {
    /// Whether the container has come up; the others wait for it.
    Startup,
    /// Whether it may get traffic.
    Readiness,
    /// Whether it must be restarted.
    Liveness,
}

impl ProbeKind {
    /// As events name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Startup => "Startup",
            Self::Readiness => "Readiness",
            Self::Liveness => "Liveness",
        }
    }
}

/// What one run of a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Healthy.
    Success,
    /// Not healthy, and why.
    Failure(String),
    /// The probe itself went wrong: as if it had not run.
    Error(String),
}

/// Times and thresholds of a probe, defaults filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    /// Compared in whole seconds with the age of the container.
    pub initial_delay_s: i64,
    /// From one run to the next.
    pub period: Duration,
    /// A run that takes longer has failed.
    pub timeout: Duration,
    /// Equal results that make it healthy.
    pub success_threshold: u32,
    /// Equal results that make it unhealthy.
    pub failure_threshold: u32,
    /// Overrides the pod's grace period when this probe kills.
    pub grace_s: Option<i64>,
}

impl Rules {
    /// Reads them from a manifest; nonsense is raised to the smallest allowed value.
    pub fn of(probe: &Probe) -> Self {
        let seconds = |value: Option<i32>, default: u32| {
            let value = value.filter(|value| *value > 0);
            Duration::from_secs(value.map_or(default, i32::unsigned_abs).into())
        };
        let count = |value: Option<i32>, default: u32| {
            value.filter(|value| *value > 0).map_or(default, i32::unsigned_abs)
        };
        Self {
            initial_delay_s: probe.initial_delay_seconds.unwrap_or_default().into(),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            success_threshold: count(probe.success_threshold, 1),
            failure_threshold: count(probe.failure_threshold, 3),
            grace_s: probe.termination_grace_period_seconds,
        }
    }
}

/// What the prober must know about the container when a run is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Surroundings {
    /// Since when it runs; `None` when it does not.
    pub running_since: Option<Timestamp>,
    /// Its startup probe has succeeded, or it has none.
    pub started: bool,
    /// Its pod is being deleted.
    pub deleting: bool,
}

/// A probe's memory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prober {
    /// What it decides about.
    pub kind: ProbeKind,
    /// Its times and thresholds.
    pub rules: Rules,
    due: Option<Timestamp>,
    in_flight: bool,
    /// The runtime has promised to say when the outcome changes.
    parked: bool,
    on_hold: bool,
    last: Option<bool>,
    run: u32,
    result: Option<bool>,
}

/// What a result changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// Below a threshold, or as before.
    Nothing,
    /// It counts as healthy now.
    Healthy,
    /// It counts as unhealthy now.
    Unhealthy,
}

impl Prober {
    /// A prober that has not seen a container yet.
    pub fn new(kind: ProbeKind, rules: Rules) -> Self {
        let mut prober = Self {
            kind,
            rules,
            due: None,
            in_flight: false,
            parked: false,
            on_hold: false,
            last: None,
            run: 0,
            result: None,
        };
        prober.result = prober.initial();
        prober
    }

    /// The result before any run: readiness unhealthy, liveness healthy, startup unknown.
    fn initial(&self) -> Option<bool> {
        match self.kind {
            ProbeKind::Startup => None,
            ProbeKind::Readiness => Some(false),
            ProbeKind::Liveness => Some(true),
        }
    }

    /// What it holds the container for; `None` is unknown.
    pub fn result(&self) -> Option<bool> {
        self.result
    }

    /// A new container runs: back to the initial result, probe at once, then every period.
    pub fn container_started(&mut self, at: Timestamp) {
        self.result = self.initial();
        self.on_hold = false;
        self.parked = false;
        self.in_flight = false;
        self.due = Some(at);
    }

    /// A container found running after a restart of the agent keeps the result it had: no traffic
    /// is lost because the agent was away.
    pub fn adopted(&mut self, now: Timestamp, result: Option<bool>) {
        self.container_started(now);
        self.result = result.or(self.result);
    }

    /// The container has ended: not ready.
    pub fn container_ended(&mut self) {
        self.due = None;
        self.parked = false;
        self.in_flight = false;
        if self.kind == ProbeKind::Readiness {
            self.result = Some(false);
        }
    }

    /// When it wants to run next.
    pub fn due(&self) -> Option<Timestamp> {
        self.due.filter(|_| !self.in_flight && !self.parked && !self.on_hold)
    }

    /// Whether to run now. Moves to the next period either way.
    pub fn poll(&mut self, around: Surroundings, now: Timestamp) -> bool {
        if self.due().is_none_or(|due| due > now) {
            return false;
        }
        let Some(since) = around.running_since else {
            self.due = None;
            return false;
        };
        self.step_past(now);
        if around.deleting && self.kind != ProbeKind::Readiness {
            // A pod that is going away must not be killed for being slow about it.
            self.result = Some(true);
            self.due = None;
            return false;
        }
        let is_startup = self.kind == ProbeKind::Startup;
        if is_startup && around.started {
            // It has done its work.
            self.due = None;
            return false;
        }
        if !is_startup && !around.started {
            return false;
        }
        if now.duration_since(since).as_secs() < self.rules.initial_delay_s {
            return false;
        }
        self.in_flight = true;
        true
    }

    /// Moves `due` along its grid to the first time after `now`.
    fn step_past(&mut self, now: Timestamp) {
        let Some(due) = self.due else { return };
        let behind = Duration::try_from(now.duration_since(due)).unwrap_or_default();
        let period = self.rules.period;
        let periods = behind.as_nanos() / period.as_nanos().max(1) + 1;
        let step = period.saturating_mul(u32::try_from(periods).unwrap_or(u32::MAX));
        self.due = due.checked_add(step).ok();
    }

    /// A run has ended. Do not pass results of an earlier container.
    pub fn record(&mut self, outcome: &Outcome) -> Change {
        self.in_flight = false;
        let healthy = match outcome {
            Outcome::Success => true,
            Outcome::Failure(_) => false,
            Outcome::Error(_) => return Change::Nothing,
        };
        if self.last == Some(healthy) {
            self.run = self.run.saturating_add(1);
        } else {
            self.last = Some(healthy);
            self.run = 1;
        }
        let threshold =
            if healthy { self.rules.success_threshold } else { self.rules.failure_threshold };
        if self.run < threshold {
            return Change::Nothing;
        }
        let before = self.result.replace(healthy);
        if !healthy && self.kind != ProbeKind::Readiness {
            // The container will be killed: no more runs until there is a new one.
            self.on_hold = true;
            self.run = 0;
        }
        if before == Some(healthy) {
            Change::Nothing
        } else if healthy {
            Change::Healthy
        } else {
            Change::Unhealthy
        }
    }

    /// Whether another equal result would change nothing.
    pub fn is_settled(&self) -> bool {
        self.last.is_some() && self.last == self.result
    }

    /// Does not run again before [`Prober::unpark`].
    pub fn park(&mut self) {
        self.parked = true;
    }

    /// The outcome may have changed: run at the next time on the grid.
    pub fn unpark(&mut self, now: Timestamp) {
        self.parked = false;
        if self.due.is_some_and(|due| due < now) {
            self.step_past(now);
        }
    }

    /// Probes as soon as possible: readiness after the startup probe has succeeded.
    pub fn hurry(&mut self, now: Timestamp) {
        if self.due.is_some() && !self.in_flight {
            self.due = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use insta::assert_snapshot;

    use super::*;

    fn seconds_of(at: Timestamp) -> f64 {
        at.duration_since(Timestamp::UNIX_EPOCH).as_secs_f64()
    }

    fn at(seconds: f64) -> Timestamp {
        Timestamp::UNIX_EPOCH + Duration::from_secs_f64(seconds)
    }

    /// Lets a probe run for `until` seconds on a container that started at `since`; `answers`
    /// are given in turn, the last one forever. Prints when it ran, and what changed.
    fn trace(kind: ProbeKind, rules: &str, answers: &str, since: f64, until: f64) -> String {
        let field = |name: &str| {
            rules
                .split_whitespace()
                .filter_map(|pair| pair.split_once('='))
                .find(|(key, _)| *key == name)
                .map(|(_, value)| value.parse().unwrap())
        };
        let probe = Probe {
            initial_delay_seconds: field("delay"),
            period_seconds: field("period"),
            success_threshold: field("success"),
            failure_threshold: field("failure"),
            ..Probe::default()
        };
        let mut prober = Prober::new(kind, Rules::of(&probe));
        prober.container_started(at(since));
        let answers: Vec<char> = answers.chars().collect();
        let mut runs = 0;
        let mut text = format!("{:?}", prober.result());
        while let Some(due) = prober.due().filter(|due| *due <= at(until)) {
            let started = kind != ProbeKind::Startup || prober.result() == Some(true);
            let around = Surroundings { running_since: Some(at(since)), started, deleting: false };
            if !prober.poll(around, due) {
                continue;
            }
            let answer = answers[runs.min(answers.len() - 1)];
            runs += 1;
            let outcome = match answer {
                '+' => Outcome::Success,
                '-' => Outcome::Failure(String::new()),
                _ => Outcome::Error(String::new()),
            };
            let seconds = seconds_of(due);
            write!(text, " {seconds}{answer}").unwrap();
            match prober.record(&outcome) {
                Change::Nothing => {}
                change => write!(text, "{change:?}").unwrap(),
            }
        }
        text
    }

    #[test]
    fn each_kind_begins_with_its_own_result_and_flips_at_its_threshold() {
        use ProbeKind::{Liveness, Readiness, Startup};
        let rules = "period=5 failure=3";
        assert_snapshot!(trace(Readiness, rules, "+", 0.2, 11.0), @"Some(false) 0.2+Healthy 5.2+ 10.2+");
        assert_snapshot!(trace(Readiness, rules, "+--+---", 0.0, 40.0), @"Some(false) 0+Healthy 5- 10- 15+ 20- 25- 30-Unhealthy 35- 40-");
        assert_snapshot!(trace(Readiness, "period=5 success=3", "+-+++", 0.0, 22.0), @"Some(false) 0+ 5- 10+ 15+ 20+Healthy");
        assert_snapshot!(trace(Liveness, rules, "++---", 0.0, 60.0), @"Some(true) 0+ 5+ 10- 15- 20-Unhealthy");
        assert_snapshot!(trace(Startup, "period=1 failure=30", "--+", 0.0, 60.0), @"None 0- 1- 2+Healthy");
        assert_snapshot!(trace(Startup, "period=1 failure=2", "--", 0.0, 60.0), @"None 0- 1-Unhealthy");
    }

    #[test]
    fn errors_of_the_probe_itself_count_as_if_it_had_not_run() {
        use ProbeKind::Liveness;
        assert_snapshot!(trace(Liveness, "period=1 failure=3", "-?-?-", 0.0, 9.0), @"Some(true) 0- 1? 2- 3? 4-Unhealthy");
    }

    #[test]
    fn the_initial_delay_is_in_whole_seconds_and_waits_for_the_grid() {
        use ProbeKind::Readiness;
        assert_snapshot!(trace(Readiness, "period=10 delay=10", "+", 0.5, 21.0), @"Some(false) 10.5+Healthy 20.5+");
        assert_snapshot!(trace(Readiness, "period=10 delay=5", "+", 0.0, 21.0), @"Some(false) 10+Healthy 20+");
        assert_snapshot!(trace(Readiness, "period=3 delay=5", "+", 0.0, 10.0), @"Some(false) 6+Healthy 9+");
    }

    #[test]
    fn while_deleting_only_readiness_continues() {
        let around = Surroundings { running_since: Some(at(0.0)), started: true, deleting: true };
        for (kind, runs) in [(ProbeKind::Liveness, false), (ProbeKind::Readiness, true)] {
            let mut prober = Prober::new(kind, Rules::of(&Probe::default()));
            prober.container_started(at(0.0));
            assert_eq!(prober.poll(around, at(0.0)), runs, "{kind:?}");
        }
    }

    #[test]
    fn a_parked_probe_waits_for_a_signal_and_keeps_its_grid() {
        let around = Surroundings { running_since: Some(at(0.0)), started: true, deleting: false };
        let mut prober = Prober::new(ProbeKind::Readiness, Rules::of(&Probe::default()));
        prober.container_started(at(0.0));
        assert!(prober.poll(around, at(0.0)));
        prober.record(&Outcome::Success);
        assert!(prober.is_settled());
        prober.park();
        assert_eq!(prober.due(), None);
        prober.unpark(at(3601.0));
        assert_eq!(prober.due(), Some(at(3610.0)));
    }

    #[test]
    fn a_missed_time_is_skipped_not_made_up() {
        let around = Surroundings { running_since: Some(at(0.0)), started: true, deleting: false };
        let mut prober = Prober::new(ProbeKind::Liveness, Rules::of(&Probe::default()));
        prober.container_started(at(0.0));
        assert!(prober.poll(around, at(35.0)));
        prober.record(&Outcome::Success);
        assert_eq!(prober.due(), Some(at(40.0)));
    }
}
