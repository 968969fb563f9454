//! Rule groups over the shared store: when each is due, and what its last evaluation left.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use evenkeel_base::Clock;
use evenkeel_control::Timer;
use evenkeel_promql::{
    labels::Labels,
    parser::ParseError,
    rules::{Context, Group, Health, Notice, RuleFile},
};
use jiff::SignedDuration;

use crate::Telemetry;

/// How often a firing alert is sent again.
const RESEND_MS: i64 = 60_000;
/// Looks at the groups at least this often: new ones may have come.
const LOOK_EVERY_MS: i64 = 1_000;
/// Longest time of evaluations in a row: scrapes share their thread, and do not wait for all rules.
const TURN: SignedDuration = SignedDuration::from_millis(20);
/// Pause after that, in which connections are served.
const PAUSE: Duration = Duration::from_millis(1);

/// The source of a group, and its place there.
type GroupKey = (String, usize);

/// All groups, by source and in the order of their file.
#[derive(Debug, Default)]
pub(crate) struct Rules {
    groups: Mutex<BTreeMap<GroupKey, Entry>>,
}

#[derive(Debug)]
struct Entry {
    group: Group,
    took: Duration,
    /// When it was loaded, milliseconds: it is not evaluated for a time before.
    loaded_ms: i64,
}

impl Entry {
    /// Whether the group has a slot that it was not evaluated at.
    fn is_due(&self, now_ms: i64) -> bool {
        let slot_ms = self.group.slot_ms(now_ms);
        // A slot that began before the group was loaded is over for it. Only that one: after a
        // clock has stepped back, all are before.
        let is_over = slot_ms < self.loaded_ms && slot_ms == self.group.slot_ms(self.loaded_ms);
        // Another slot, not a later one: a clock that stepped back must not stop the rules.
        !is_over && self.group.evaluated_ms != Some(slot_ms)
    }
}

/// What one round of evaluations did.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Round {
    /// Groups evaluated.
    pub groups: usize,
    /// Rules evaluated.
    pub rules: usize,
    /// Rules without result.
    pub failed: usize,
    /// Samples that their queries read.
    pub samples_read: u64,
    /// Alerts to send.
    pub updates: Vec<AlertUpdate>,
}

/// A group as it is now, for display.
#[derive(Debug, Clone)]
pub struct GroupView {
    /// The group.
    pub group: Group,
    /// How long its last evaluation took.
    pub took: Duration,
}

impl Rules {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<GroupKey, Entry>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Telemetry {
    /// Puts the groups of a file (or object) in the place of those it had before.
    ///
    /// Groups of the same name and text continue as they are. Of a group that has changed, rules of
    /// the same text keep their alerts. Series that the other rules wrote end now. A new or changed
    /// group is first evaluated at its next slot, as Prometheus does it. An expression that cannot
    /// be parsed leaves everything as it was.
    pub fn set_rules(&self, source: &str, file: &RuleFile, now_ms: i64) -> Result<(), ParseError> {
        let fresh: Vec<Group> =
            file.groups.iter().map(|spec| Group::new(spec, source)).collect::<Result<_, _>>()?;
        let mut groups = self.rules().lock();
        let mut before: Vec<Entry> = Vec::new();
        while let Some(key) = groups.keys().find(|key| key.0 == source).cloned() {
            before.extend(groups.remove(&key));
        }
        let mut changed = Vec::new();
        for (at, group) in fresh.into_iter().enumerate() {
            match before.iter().position(|entry| is_same(&entry.group, &group)) {
                Some(same) => drop(groups.insert((source.to_owned(), at), before.remove(same))),
                None => changed.push((at, group)),
            }
        }
        for (at, mut group) in changed {
            let old = before.iter_mut().find(|entry| entry.group.name == group.name);
            if let Some(old) = old {
                keep_rules(&mut old.group, &mut group);
            }
            let entry = Entry { group, took: Duration::ZERO, loaded_ms: now_ms };
            groups.insert((source.to_owned(), at), entry);
        }
        let mut store = self.write();
        for mut gone in before {
            gone.group.retire(&mut *store, now_ms);
        }
        Ok(())
    }

    /// Evaluates every group whose slot has come. Each gets the store to itself meanwhile.
    pub fn evaluate_rules(&self, clock: &dyn Clock) -> Round {
        let mut round = Round::default();
        for key in self.due_groups(clock) {
            self.evaluate_group(&key, clock, &mut round);
        }
        round
    }

    /// The groups whose slot has come.
    fn due_groups(&self, clock: &dyn Clock) -> Vec<GroupKey> {
        let now_ms = clock.now().as_millisecond();
        let groups = self.rules().lock();
        let due = groups.iter().filter(|(_, entry)| entry.is_due(now_ms));
        due.map(|(key, _)| key.clone()).collect()
    }

    /// Evaluates one group, if it is still there and due.
    fn evaluate_group(&self, key: &GroupKey, clock: &dyn Clock, round: &mut Round) {
        let (start, options) = (clock.now(), self.options());
        let now_ms = start.as_millisecond();
        let context = Context {
            options: &options,
            external_labels: &Labels::empty(),
            external_url: "",
            resend_ms: RESEND_MS,
        };
        let mut groups = self.rules().lock();
        let entry = groups.get_mut(key).filter(|entry| entry.is_due(now_ms));
        let Some(entry) = entry else { return };
        let slot_ms = entry.group.slot_ms(now_ms);
        let evaluation = entry.group.evaluate(&mut *self.write(), slot_ms, &context);
        entry.took = Duration::try_from(clock.now().duration_since(start)).unwrap_or_default();
        round.groups += 1;
        round.rules += evaluation.rules.len();
        round.samples_read += evaluation.samples_read;
        for outcome in &evaluation.rules {
            round.failed += usize::from(outcome.error.is_some());
            if let Some(error) = &outcome.error {
                tracing::warn!(group = entry.group.name, rule = outcome.rule, error, "rule failed");
            }
        }
        let source = &entry.group.source;
        let update = |notice| AlertUpdate { source: source.clone(), notice };
        round.updates.extend(evaluation.notices.into_iter().map(update));
    }

    /// All groups in the order of their sources.
    pub fn rule_groups(&self) -> Vec<GroupView> {
        let view = |entry: &Entry| GroupView { group: entry.group.clone(), took: entry.took };
        self.rules().lock().values().map(view).collect()
    }
}

/// Moves what the rules of a group have left to those of the same text in its successor.
fn keep_rules(old: &mut Group, new: &mut Group) {
    for rule in &mut new.rules {
        let shape = rule_shape(rule);
        if let Some(same) = old.rules.iter().position(|old| rule_shape(old) == shape) {
            *rule = old.rules.remove(same);
        }
    }
}

/// Whether a group would do just the same.
fn is_same(a: &Group, b: &Group) -> bool {
    let shape = |group: &Group| {
        let rules: Vec<String> = group.rules.iter().map(rule_shape).collect();
        (group.name.clone(), group.interval_ms, group.query_offset_ms, group.limit, rules)
    };
    shape(a) == shape(b)
}

fn rule_shape(rule: &evenkeel_promql::rules::Rule) -> String {
    use evenkeel_promql::rules::RuleKind;
    let text = &rule.query().text;
    match &rule.kind {
        RuleKind::Recording(rule) => format!("{} {text} {:?}", rule.record, rule.labels),
        RuleKind::Alerting(rule) => format!(
            "{} {text} {} {} {:?} {:?}",
            rule.name, rule.hold_ms, rule.keep_firing_ms, rule.labels, rule.annotations
        ),
    }
}

/// The words of a rule's health for the API.
pub(crate) fn health_words(health: &Health) -> (&'static str, &str) {
    match health {
        Health::Bad(reason) => (health.as_str(), reason),
        Health::Good | Health::Unknown => (health.as_str(), ""),
    }
}

/// An alert to send now: new, over, or due again.
#[derive(Debug, Clone, PartialEq)]
pub struct AlertUpdate {
    /// Where its rule comes from: `PrometheusRule/NAMESPACE/NAME`, or a file.
    pub source: String,
    /// The alert.
    pub notice: Notice,
}

/// Takes the alerts of the rules. Must not block.
pub trait AlertSink: Send + Sync {
    /// Sends alerts that are due now.
    fn send(&self, updates: &[AlertUpdate]);
}

/// Evaluates rule groups at their intervals, forever.
pub struct RuleRunner {
    telemetry: Telemetry,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
    sinks: Vec<Arc<dyn AlertSink>>,
}

impl RuleRunner {
    /// A runner whose alerts are only shown, not sent.
    pub fn new(telemetry: Telemetry, clock: Arc<dyn Clock>, timer: Arc<dyn Timer>) -> Self {
        Self { telemetry, clock, timer, sinks: Vec::new() }
    }

    /// Sends alerts to this sink, too.
    #[must_use]
    pub fn with_sink(mut self, sink: Arc<dyn AlertSink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Runs until dropped.
    pub async fn run(self) {
        loop {
            let round = self.round().await;
            for sink in self.sinks.iter().filter(|_| !round.updates.is_empty()) {
                sink.send(&round.updates);
            }
            self.timer.sleep(self.wait()).await;
        }
    }

    /// Evaluates every group whose slot has come.
    async fn round(&self) -> Round {
        let mut round = Round::default();
        let start = self.clock.now();
        let mut turn = start;
        for key in self.telemetry.due_groups(&*self.clock) {
            self.telemetry.evaluate_group(&key, &*self.clock, &mut round);
            let is_over = self.clock.now().duration_since(turn) >= TURN;
            self.timer.sleep(if is_over { PAUSE } else { Duration::ZERO }).await;
            if is_over {
                turn = self.clock.now();
            }
        }
        let took = self.clock.now().duration_since(start);
        if took.as_millis() > i128::from(self.shortest_interval_ms()) {
            let (groups, seconds) = (round.groups, took.as_secs_f64());
            tracing::warn!(groups, seconds, "rules took longer than their interval");
        }
        round
    }

    fn shortest_interval_ms(&self) -> i64 {
        let groups = self.telemetry.rules().lock();
        groups.values().map(|entry| entry.group.interval_ms).min().unwrap_or(i64::MAX)
    }

    /// Until the next slot of any group, or the next look.
    fn wait(&self) -> Duration {
        let now_ms = self.clock.now().as_millisecond();
        let groups = self.telemetry.rules().lock();
        let next = groups.values().map(|entry| {
            let group = &entry.group;
            group.slot_ms(now_ms).saturating_add(group.interval_ms).saturating_sub(now_ms)
        });
        let wait_ms = next.min().unwrap_or(LOOK_EVERY_MS).clamp(1, LOOK_EVERY_MS);
        Duration::from_millis(wait_ms.unsigned_abs())
    }
}
