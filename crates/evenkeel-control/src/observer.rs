use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Mutex, MutexGuard, PoisonError},
};

use evenkeel_api::Key;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::Objection;

/// Passes that are remembered, one per object and controller: beyond it the oldest is forgotten.
const PASSES_MAX: usize = 20_000;

/// Sees what a run loop does: for metrics, `evenkeel why` and the console. Must not block.
pub trait Observer: Send + Sync {
    /// A pass over one object has ended.
    fn passed(&self, pass: &Pass);
    /// A controller has decided; `does` is what its plan does, of a closed set.
    fn planned(&self, controller: &'static str, does: &'static str);
    /// What would be done with an object that is only observed was decided; `is_new` when it is not
    /// what was said last.
    fn predicted(&self, _controller: &'static str, _is_new: bool) {}
    /// An action was carried out, or failed.
    fn acted(&self, controller: &'static str, verb: &'static str, outcome: &'static str);
    /// The door answered.
    fn judged(&self, controller: &'static str, verdict: &'static str, objections: &[Objection]);
    /// A watch broke off and resumes.
    fn watch_interrupted(&self, controller: &'static str);
    /// Objects that wait to be looked at.
    fn queued(&self, controller: &'static str, depth: usize);
    /// Leadership by this Lease came or went.
    fn led(&self, lease: &Key, leads: bool);
}

/// One pass over one object: what `evenkeel why` shows.
///
/// **Shape** of its JSON: these fields in camelCase; part of the versioned output of `why`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Pass {
    /// Which controller.
    pub controller: String,
    /// `Kind/namespace/name`.
    pub object: String,
    /// When it ended.
    pub at: Timestamp,
    /// How long it took.
    pub took_ms: u64,
    /// `done`, `observed`, `held`, `denied`, `retry`, `refused`, `repeated`, `timed-out`, `panicked`, `gone`.
    pub result: String,
    /// The plan's reason, or why no plan was made.
    pub reason: String,
    /// Since when result and reason have been the same.
    pub since: Timestamp,
    /// As text: the error, or what the door said.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// Policies that object, with their reasons; the first one decided.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub policies: Vec<String>,
    /// When it is looked at again even if nothing changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_look: Option<Timestamp>,
}

/// An [`Observer`] that sees nothing.
pub struct NoObserver;

impl Observer for NoObserver {
    fn passed(&self, _: &Pass) {}
    fn planned(&self, _: &'static str, _: &'static str) {}
    fn acted(&self, _: &'static str, _: &'static str, _: &'static str) {}
    fn judged(&self, _: &'static str, _: &'static str, _: &[Objection]) {}
    fn watch_interrupted(&self, _: &'static str) {}
    fn queued(&self, _: &'static str, _: usize) {}
    fn led(&self, _: &Key, _: bool) {}
}

/// Counts what run loops do and remembers the last pass over each object.
#[derive(Default)]
pub struct Activity(Mutex<Books>);

#[derive(Default)]
struct Books {
    passes: BTreeMap<(&'static str, String), u64>,
    took_ms: BTreeMap<String, u64>,
    plans: BTreeMap<(&'static str, &'static str), u64>,
    predictions: BTreeMap<&'static str, u64>,
    actions: BTreeMap<(&'static str, &'static str, &'static str), u64>,
    verdicts: BTreeMap<(&'static str, &'static str), u64>,
    restarts: BTreeMap<&'static str, u64>,
    depth: BTreeMap<&'static str, usize>,
    leads: BTreeMap<String, bool>,
    /// By object and controller.
    last: BTreeMap<Whose, (u64, Pass)>,
    /// The same, oldest first.
    order: BTreeMap<u64, Whose>,
    /// Counts passes.
    clock: u64,
}

type Whose = (String, String);

impl Books {
    fn forget(&mut self, whose: &Whose) -> Option<Pass> {
        let (number, pass) = self.last.remove(whose)?;
        self.order.remove(&number);
        Some(pass)
    }

    fn remember(&mut self, whose: Whose, pass: Pass) {
        while self.last.len() >= PASSES_MAX
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.last.remove(&oldest);
        }
        self.clock += 1;
        self.order.insert(self.clock, whose.clone());
        self.last.insert(whose, (self.clock, pass));
    }
}

impl Activity {
    fn books(&self) -> MutexGuard<'_, Books> {
        // Counters only: a panic elsewhere leaves at worst one of them behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The last pass of every controller over this object, by controller.
    ///
    /// `object` is `Kind/namespace/name` or `Kind/name`, the kind in any case.
    pub fn why(&self, object: &str) -> Vec<Pass> {
        let books = self.books();
        let same = |pass: &&Pass| pass.object.eq_ignore_ascii_case(object);
        books.last.values().map(|(_, pass)| pass).filter(same).cloned().collect()
    }

    /// Every remembered pass that did not succeed.
    pub fn troubles(&self) -> Vec<Pass> {
        let books = self.books();
        let bad = |pass: &&Pass| !["done", "observed", "gone"].contains(&pass.result.as_str());
        books.last.values().map(|(_, pass)| pass).filter(bad).cloned().collect()
    }

    /// Everything counted, in Prometheus' text format.
    pub fn metrics(&self) -> String {
        let books = self.books();
        let mut out = String::new();
        let passes = books.passes.iter().map(|((result, controller), n)| {
            (labels(&[("controller", controller), ("result", result)]), n.to_string())
        });
        let (name, help) = ("evenkeel_passes_total", "Passes over objects.");
        family(&mut out, name, "counter", help, passes);
        let took = books.took_ms.iter().map(|(controller, ms)| {
            let seconds = format!("{}.{:03}", ms / 1000, ms % 1000);
            (labels(&[("controller", controller)]), seconds)
        });
        let (name, help) = ("evenkeel_pass_seconds_total", "Time spent in passes.");
        family(&mut out, name, "counter", help, took);
        let plans = books.plans.iter().map(|((controller, does), n)| {
            (labels(&[("controller", controller), ("does", does)]), n.to_string())
        });
        let (name, help) = ("evenkeel_plans_total", "Decisions, by what they do.");
        family(&mut out, name, "counter", help, plans);
        let predictions = books
            .predictions
            .iter()
            .map(|(controller, n)| (labels(&[("controller", controller)]), n.to_string()));
        let help = "New predictions for objects that are only observed.";
        family(&mut out, "evenkeel_predictions_total", "counter", help, predictions);
        let mut observed: BTreeMap<&str, u64> = BTreeMap::new();
        for (_, pass) in books.last.values().filter(|(_, pass)| pass.result == "observed") {
            *observed.entry(&pass.controller).or_default() += 1;
        }
        let observed = observed
            .iter()
            .map(|(controller, n)| (labels(&[("controller", controller)]), n.to_string()));
        let (name, help) = ("evenkeel_observed_objects", "Objects that are only observed.");
        family(&mut out, name, "gauge", help, observed);
        let actions = books.actions.iter().map(|((controller, verb, outcome), n)| {
            let all = [("controller", *controller), ("verb", *verb), ("outcome", *outcome)];
            (labels(&all), n.to_string())
        });
        let (name, help) = ("evenkeel_actions_total", "Actions carried out.");
        family(&mut out, name, "counter", help, actions);
        let verdicts = books.verdicts.iter().map(|((policy, verdict), n)| {
            (labels(&[("policy", policy), ("verdict", verdict)]), n.to_string())
        });
        let (name, help) = ("evenkeel_verdicts_total", "Answers of the door.");
        family(&mut out, name, "counter", help, verdicts);
        let restarts = books
            .restarts
            .iter()
            .map(|(controller, n)| (labels(&[("controller", controller)]), n.to_string()));
        let help = "Watches that broke off and were resumed.";
        family(&mut out, "evenkeel_watch_restarts_total", "counter", help, restarts);
        let depth = books
            .depth
            .iter()
            .map(|(controller, n)| (labels(&[("controller", controller)]), n.to_string()));
        let (name, help) = ("evenkeel_queue_depth", "Objects that wait for a pass.");
        family(&mut out, name, "gauge", help, depth);
        let leads = books
            .leads
            .iter()
            .map(|(lease, leads)| (labels(&[("lease", lease)]), u8::from(*leads).to_string()));
        let (name, help) = ("evenkeel_leader", "Whether this process leads.");
        family(&mut out, name, "gauge", help, leads);
        out
    }
}

/// One family of metrics: its head, then labels and value of each row.
fn family(
    out: &mut String,
    name: &str,
    kind: &str,
    help: &str,
    rows: impl Iterator<Item = (String, String)>,
) {
    // Writing into a string cannot fail.
    writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}").unwrap_or_default();
    for (labels, value) in rows {
        writeln!(out, "{name}{labels} {value}").unwrap_or_default();
    }
}

fn labels(pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(name, value)| format!("{name}=\"{value}\"")).collect();
    format!("{{{}}}", pairs.join(","))
}

impl Observer for Activity {
    fn passed(&self, pass: &Pass) {
        let mut books = self.books();
        let result = result_name(&pass.result);
        *books.passes.entry((result, pass.controller.clone())).or_default() += 1;
        let took = books.took_ms.entry(pass.controller.clone()).or_default();
        *took = took.saturating_add(pass.took_ms);
        let whose = (pass.object.clone(), pass.controller.clone());
        let old = books.forget(&whose);
        if pass.result == "gone" {
            return;
        }
        let same = |old: &Pass| (&old.result, &old.reason) == (&pass.result, &pass.reason);
        let since = old.filter(same).map_or(pass.since, |old| old.since);
        books.remember(whose, Pass { since, ..pass.clone() });
    }

    fn planned(&self, controller: &'static str, does: &'static str) {
        *self.books().plans.entry((controller, does)).or_default() += 1;
    }

    fn predicted(&self, controller: &'static str, is_new: bool) {
        *self.books().predictions.entry(controller).or_default() += u64::from(is_new);
    }

    fn acted(&self, controller: &'static str, verb: &'static str, outcome: &'static str) {
        *self.books().actions.entry((controller, verb, outcome)).or_default() += 1;
    }

    fn judged(&self, _: &'static str, verdict: &'static str, objections: &[Objection]) {
        let mut books = self.books();
        if objections.is_empty() {
            *books.verdicts.entry(("", verdict)).or_default() += 1;
        }
        for objection in objections {
            *books.verdicts.entry((objection.policy, verdict)).or_default() += 1;
        }
    }

    fn watch_interrupted(&self, controller: &'static str) {
        *self.books().restarts.entry(controller).or_default() += 1;
    }

    fn queued(&self, controller: &'static str, depth: usize) {
        self.books().depth.insert(controller, depth);
    }

    fn led(&self, lease: &Key, leads: bool) {
        self.books().leads.insert(lease.to_string(), leads);
    }
}

/// The closed set of results, so that a label never grows.
fn result_name(result: &str) -> &'static str {
    const NAMES: [&str; 10] = [
        "done",
        "observed",
        "held",
        "denied",
        "retry",
        "refused",
        "repeated",
        "timed-out",
        "panicked",
        "gone",
    ];
    NAMES.into_iter().find(|name| *name == result).unwrap_or("other")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(result: &str, second: i64) -> Pass {
        let at = Timestamp::from_second(second).unwrap();
        Pass {
            controller: "delivery".into(),
            object: "Canary/shop/api".into(),
            at,
            took_ms: 1_500,
            result: result.into(),
            reason: "StepDue".into(),
            since: at,
            message: String::new(),
            policies: Vec::new(),
            next_look: None,
        }
    }

    #[test]
    fn the_last_pass_is_kept_with_the_time_since_when_it_is_so() {
        let activity = Activity::default();
        for (result, second) in [("done", 1), ("held", 2), ("held", 5)] {
            activity.passed(&pass(result, second));
        }
        let why = activity.why("canary/shop/api");
        assert_eq!((why.len(), why[0].since.as_second(), why[0].at.as_second()), (1, 2, 5));
        assert_eq!(activity.troubles().len(), 1);
        let text = activity.metrics();
        assert!(text.contains("evenkeel_passes_total{controller=\"delivery\",result=\"held\"} 2"));
        assert!(text.contains("evenkeel_pass_seconds_total{controller=\"delivery\"} 4.500"));
        activity.passed(&pass("gone", 9));
        assert_eq!(activity.why("Canary/shop/api"), []);
    }

    #[test]
    fn the_oldest_passes_are_forgotten_first() {
        let activity = Activity::default();
        let named = |n: usize| Pass { object: format!("Canary/shop/{n}"), ..pass("done", 1) };
        (0..PASSES_MAX).for_each(|n| activity.passed(&named(n)));
        // The first one is looked at again, so the second one is the oldest now.
        activity.passed(&named(0));
        activity.passed(&named(PASSES_MAX));
        let known = |n: usize| activity.why(&named(n).object).len();
        assert_eq!((known(0), known(1), known(2), known(PASSES_MAX)), (1, 0, 1, 1));
    }
}
