//! `evenkeel.dev/v1alpha1 ErrorBudgetPolicy`.

use std::collections::BTreeMap;
use std::fmt;

pub use evenkeel_api::slo::Permission;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::duration::PromDuration;
use crate::model::{Labels, Slo};

/// How an SLO stands, from good to bad; `Unknown` is not part of that order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum State {
    /// Enough budget.
    Healthy,
    /// Some of it is gone.
    Caution,
    /// Little is left, or it burns steadily.
    Slow,
    /// It is gone.
    Frozen,
    /// It burns so fast that it pages.
    Burning,
    /// There is no data to decide by.
    Unknown,
}

impl State {
    /// The states a budget can be known to be in, best first.
    pub const KNOWN: [Self; 5] =
        [Self::Healthy, Self::Caution, Self::Slow, Self::Frozen, Self::Burning];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// What an action is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ActionClass {
    /// A new version: canary, rollout.
    Deploy,
    /// A change of configuration.
    Config,
    /// A fault on purpose.
    Chaos,
    /// Less capacity. (More capacity lowers the risk.)
    Scaling,
    /// A planned switchover.
    Failover,
    /// A backup.
    Backup,
    /// A runbook that tries to repair.
    Remediation,
    /// A fix that closes a hole.
    Security,
    /// Whatever lowers the risk: rollback, abort, un-drain, stopping a fault.
    Restore,
}

impl ActionClass {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Deploy,
        Self::Config,
        Self::Chaos,
        Self::Scaling,
        Self::Failover,
        Self::Backup,
        Self::Remediation,
        Self::Security,
        Self::Restore,
    ];
}

/// A burn that lasts: above the rate in both windows.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct BurnCondition {
    /// 1 uses up the budget exactly in one window of the SLO.
    pub rate: f64,
    /// Proves that it is not a blip.
    pub long: PromDuration,
    /// Proves that it still goes on.
    pub short: PromDuration,
}

/// Which SLOs a policy is for. All given parts must match.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct SloSelector {
    /// Ids, `<service>-<name>`.
    pub slos: Vec<String>,
    /// Services.
    pub services: Vec<String>,
    /// Labels of the SLO.
    pub match_labels: Labels,
    /// Every SLO; has to be said, an empty selector selects nothing.
    pub all: bool,
}

/// Below how much remaining budget a state begins. Unit: percent of the budget.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Thresholds {
    /// Below: `Caution`.
    pub caution: f64,
    /// Below: `Slow`.
    pub slow: f64,
    /// At or below: `Frozen`.
    pub frozen: f64,
}

/// Burn rates that change the state whatever is left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BurnConditions {
    /// Any of them: `Burning`.
    pub burning: Vec<BurnCondition>,
    /// Any of them: at least `Slow`.
    pub slow: Vec<BurnCondition>,
}

/// How reluctantly a state gets better. Getting worse is immediate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Hysteresis {
    /// The budget must be this much above a threshold. Unit: percentage points.
    pub recover_percent: f64,
    /// A state lasts at least so long.
    pub dwell: PromDuration,
}

/// What an expected cost may be.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Costs {
    /// Dearer actions need approval. Unit: percent of the free budget.
    pub approve_above_percent: f64,
    /// Part of the budget that faults on purpose may spend in a window. Unit: percent.
    pub chaos_percent: f64,
}

/// Limits of a break-glass.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct BreakGlassLimits {
    /// Longest time one is valid.
    pub max_duration: PromDuration,
}

/// What an action class may do in each state; what is not given is the built-in answer.
pub type ActionTable = BTreeMap<ActionClass, BTreeMap<State, Permission>>;

/// The spec of the policy, with defaults for everything but the selector.
#[derive(Clone, Debug, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct PolicySpec {
    /// Which SLOs.
    pub selector: SloSelector,
    /// States by remaining budget.
    pub remaining_percent: Thresholds,
    /// States by burn rate.
    pub burn: BurnConditions,
    /// Getting better.
    pub hysteresis: Hysteresis,
    /// Answers that differ from the built-in ones.
    pub actions: ActionTable,
    /// Expected costs.
    pub costs: Costs,
    /// Break-glass.
    pub break_glass: BreakGlassLimits,
}

/// A policy that was checked.
#[derive(Clone, Debug, PartialEq)]
pub struct ErrorBudgetPolicy {
    name: String,
    spec: PolicySpec,
}

/// Why a policy is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("ErrorBudgetPolicy/{name} {field}: {message}")]
pub struct PolicyError {
    /// Name of the policy.
    pub name: String,
    /// The field.
    pub field: String,
    /// What is wrong and what to do.
    pub message: String,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self { caution: 50.0, slow: 25.0, frozen: 0.0 }
    }
}

impl Default for BurnConditions {
    /// The paging rates of the Google SRE workbook for 30 days.
    fn default() -> Self {
        let of = |rate, long_min: u64, short_min: u64| BurnCondition {
            rate,
            long: PromDuration::from_ms(long_min * 60_000),
            short: PromDuration::from_ms(short_min * 60_000),
        };
        Self { burning: vec![of(14.4, 60, 5)], slow: vec![of(6.0, 360, 30)] }
    }
}

impl Default for Hysteresis {
    fn default() -> Self {
        Self { recover_percent: 5.0, dwell: PromDuration::from_ms(30 * 60_000) }
    }
}

impl Default for Costs {
    fn default() -> Self {
        Self { approve_above_percent: 25.0, chaos_percent: 5.0 }
    }
}

impl Default for BreakGlassLimits {
    fn default() -> Self {
        Self { max_duration: PromDuration::from_ms(4 * 3_600_000) }
    }
}

impl ErrorBudgetPolicy {
    /// Longest break-glass any policy may grant: a day.
    pub const BREAK_GLASS_MAX: PromDuration = PromDuration::from_ms(86_400_000);

    /// Reads and checks a parsed manifest.
    pub fn from_value(document: &Value) -> Result<Self, PolicyError> {
        let name = document.pointer("/metadata/name").and_then(Value::as_str).unwrap_or("?");
        let spec = document.get("spec").cloned().unwrap_or(Value::Null);
        let read = PolicySpec::deserialize(&spec).map_err(|e| PolicyError {
            name: name.to_owned(),
            field: unreadable(&spec),
            message: e.to_string(),
        });
        let spec = read?;
        Self::new(name, spec)
    }

    /// Checks a policy.
    pub fn new(name: &str, spec: PolicySpec) -> Result<Self, PolicyError> {
        let policy = Self { name: name.to_owned(), spec };
        policy.check()?;
        Ok(policy)
    }

    /// The policy that shows the state of an SLO that has none of its own.
    pub fn built_in() -> Self {
        let selector = SloSelector { all: true, ..SloSelector::default() };
        let spec = PolicySpec { selector, ..PolicySpec::default() };
        Self { name: "built-in".to_owned(), spec }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its settings.
    pub fn spec(&self) -> &PolicySpec {
        &self.spec
    }

    /// True when it is for this SLO.
    pub fn selects(&self, slo: &Slo) -> bool {
        let s = &self.spec.selector;
        let given = !s.slos.is_empty() || !s.services.is_empty() || !s.match_labels.is_empty();
        (given || s.all)
            && (s.slos.is_empty() || s.slos.contains(&slo.id))
            && (s.services.is_empty() || s.services.contains(&slo.service))
            && s.match_labels.iter().all(|(k, v)| slo.labels.get(k) == Some(v))
    }

    /// What a class may do in a state, before costs are looked at.
    pub fn permission(&self, class: ActionClass, state: State) -> Permission {
        if class == ActionClass::Restore {
            return Permission::Allow;
        }
        let own = self.spec.actions.get(&class).and_then(|row| row.get(&state));
        own.copied().unwrap_or_else(|| built_in(class, state))
    }

    fn check(&self) -> Result<(), PolicyError> {
        let fail = |field: &str, message: String| {
            Err(PolicyError { name: self.name.clone(), field: field.to_owned(), message })
        };
        let s = &self.spec.selector;
        if !s.all && s.slos.is_empty() && s.services.is_empty() && s.match_labels.is_empty() {
            let message = "selects nothing; name slos, services or matchLabels, or say all: true";
            return fail("spec.selector", message.to_owned());
        }
        let t = self.spec.remaining_percent;
        if !(100.0 >= t.caution && t.caution >= t.slow && t.slow >= t.frozen && t.frozen >= -100.0)
        {
            let message = "must fall: 100 >= caution >= slow >= frozen >= -100".to_owned();
            return fail("spec.remainingPercent", message);
        }
        let h = self.spec.hysteresis;
        if !(0.0..=50.0).contains(&h.recover_percent) {
            return fail("spec.hysteresis.recoverPercent", "must lie in 0 ..= 50".to_owned());
        }
        for condition in self.spec.burn.burning.iter().chain(&self.spec.burn.slow) {
            let ok = condition.rate > 0.0 && condition.rate.is_finite();
            if !ok || condition.short.is_zero() || condition.short > condition.long {
                let message = "needs rate above 0 and 0 < short <= long".to_owned();
                return fail("spec.burn", message);
            }
        }
        let c = self.spec.costs;
        for (field, percent) in
            [("approveAbovePercent", c.approve_above_percent), ("chaosPercent", c.chaos_percent)]
        {
            if !(0.0..=100.0).contains(&percent) {
                return fail(&format!("spec.costs.{field}"), "must lie in 0 ..= 100".to_owned());
            }
        }
        if self.spec.break_glass.max_duration > Self::BREAK_GLASS_MAX {
            return fail("spec.breakGlass.maxDuration", "is at most 1d".to_owned());
        }
        self.check_table()
    }

    /// Worse states never allow more, and not knowing is never a go-ahead.
    fn check_table(&self) -> Result<(), PolicyError> {
        let fail = |class: ActionClass, message: String| {
            let class = format!("{class:?}").to_lowercase();
            let field = format!("spec.actions.{class}");
            Err(PolicyError { name: self.name.clone(), field, message })
        };
        if self.spec.actions.contains_key(&ActionClass::Restore) {
            let message = "what lowers the risk is always allowed; remove it".to_owned();
            return fail(ActionClass::Restore, message);
        }
        for class in ActionClass::ALL {
            for (better, worse) in State::KNOWN.iter().zip(State::KNOWN.iter().skip(1)) {
                let (a, b) = (self.permission(class, *better), self.permission(class, *worse));
                if b > a {
                    let message = format!(
                        "{worse} allows more ({b:?}) than {better} ({a:?}); less budget must \
                         never allow more"
                    );
                    return fail(class, message);
                }
            }
            let unknown = self.permission(class, State::Unknown);
            let harmless = matches!(class, ActionClass::Restore | ActionClass::Backup);
            if !harmless && unknown > Permission::Approve {
                let message = "Unknown may be approve or deny: no data is no go-ahead".to_owned();
                return fail(class, message);
            }
        }
        Ok(())
    }
}

/// The path of the field that keeps a spec from being read.
fn unreadable(spec: &Value) -> String {
    let mut path: Vec<&str> = Vec::new();
    let mut node = spec;
    while let Some(fields) = node.as_object() {
        let is_wrong = |(name, value): &(&String, &Value)| {
            let around = path.iter().rev();
            let alone = json!({ name.as_str(): value });
            let alone = around.fold(alone, |inner, outer| json!({ *outer: inner }));
            PolicySpec::deserialize(alone).is_err()
        };
        let Some((name, value)) = fields.iter().find(is_wrong) else { break };
        path.push(name);
        node = value;
    }
    path.iter().fold("spec".to_owned(), |path, name| format!("{path}.{name}"))
}

/// The answers of a policy that says nothing.
fn built_in(class: ActionClass, state: State) -> Permission {
    use Permission::{Allow, Approve, Deny, Slower};
    // Healthy, Caution, Slow, Frozen, Burning, Unknown
    let row = match class {
        ActionClass::Deploy => [Allow, Allow, Slower, Deny, Deny, Approve],
        ActionClass::Config => [Allow, Allow, Approve, Deny, Deny, Approve],
        ActionClass::Chaos => [Allow, Approve, Deny, Deny, Deny, Deny],
        ActionClass::Scaling => [Allow, Allow, Approve, Approve, Deny, Approve],
        ActionClass::Failover => [Allow, Approve, Approve, Deny, Deny, Approve],
        ActionClass::Backup => [Allow, Allow, Allow, Slower, Slower, Allow],
        ActionClass::Remediation => [Allow, Allow, Allow, Allow, Allow, Approve],
        ActionClass::Security => [Allow, Allow, Slower, Slower, Approve, Approve],
        ActionClass::Restore => [Allow; 6],
    };
    match state {
        State::Healthy => row[0],
        State::Caution => row[1],
        State::Slow => row[2],
        State::Frozen => row[3],
        State::Burning => row[4],
        State::Unknown => row[5],
    }
}
