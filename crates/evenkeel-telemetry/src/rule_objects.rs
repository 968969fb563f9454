//! `PrometheusRule` objects become the rules of the shared store.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use evenkeel_api::{Key, slo::PrometheusRule};
use evenkeel_control::{Controller, EventNote, EventType, ListQuery, ObserveError, Plan, Ports};
use evenkeel_promql::rules::RuleFile;

use crate::Telemetry;

/// Reason of the event that says why an object's rules are not evaluated.
const REFUSED: &str = "RulesRefused";
/// Nothing is wrong with them.
const LOADED: &str = "RulesLoaded";

/// Keeps the store's rules in line with the cluster's `PrometheusRule` objects.
///
/// An object that cannot be read leaves its earlier rules in force, and an event names the problem.
/// problem.
#[derive(Clone)]
pub struct RuleController {
    telemetry: Telemetry,
    /// What is wrong with objects, as it was said last.
    said: Arc<Mutex<BTreeMap<Key, String>>>,
}

/// The result for one object.
#[derive(Debug, Clone)]
pub struct RulesView {
    key: Key,
    problem: Option<String>,
}

impl RuleController {
    /// A controller that feeds this store.
    pub fn new(telemetry: Telemetry) -> Self {
        Self { telemetry, said: Arc::default() }
    }

    fn load(&self, source: &str, spec: Option<&serde_json::Value>, now_ms: i64) -> Option<String> {
        // JSON is YAML; the file's reader knows every rule about names, labels and durations.
        let text = spec.map_or_else(|| "{}".to_owned(), ToString::to_string);
        let file = match RuleFile::parse(&text) {
            Ok(file) => file,
            Err(error) => return Some(error.to_string()),
        };
        let set = self.telemetry.set_rules(source, &file, now_ms);
        set.err().map(|error| error.to_string())
    }

    /// Whether this was not the last that was said about an object.
    fn is_news(&self, key: &Key, problem: Option<&String>) -> bool {
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problem) = problem else {
            said.remove(key);
            return false;
        };
        said.insert(key.clone(), problem.clone()).as_ref() != Some(problem)
    }
}

impl Controller for RuleController {
    type View = RulesView;

    fn name(&self) -> &'static str {
        "rules"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<PrometheusRule>()
    }

    /// The store's rules are this process's copy of the objects, as a cache is: reading an object
    /// brings them up to date, and reading it again changes nothing.
    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<RulesView>, ObserveError> {
        let obj = ports.read.get(key).await?;
        let now_ms = ports.clock.now().as_millisecond();
        let spec = obj.as_ref().and_then(|obj| obj.json().get("spec"));
        let problem = self.load(&key.to_string(), spec, now_ms);
        if self.is_news(key, problem.as_ref()) {
            let error = problem.as_deref().unwrap_or_default();
            tracing::warn!(object = %key, error, "rules refused, the ones before stay");
        }
        Ok(obj.map(|_| RulesView { key: key.clone(), problem }))
    }

    fn decide(&self, view: &RulesView) -> Plan {
        match &view.problem {
            None => Plan::idle(LOADED),
            Some(problem) => Plan::idle(REFUSED).with_event(EventNote {
                about: view.key.clone(),
                kind: EventType::Warning,
                reason: REFUSED,
                message: format!("{}: spec: {problem}; the rules before it stay", view.key),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::Limits;

    #[test]
    fn an_object_that_cannot_be_read_leaves_what_stood() {
        let controller = RuleController::new(Telemetry::new(Limits::default()));
        let groups = || {
            let views = controller.telemetry.rule_groups();
            views.iter().map(|v| (v.group.name.clone(), v.group.rules.len())).collect::<Vec<_>>()
        };
        let spec = |expr: &str| json!({"groups": [{"name": "g", "rules": [{"record": "a:b", "expr": expr}]}]});
        assert_eq!(controller.load("PrometheusRule/shop/a", Some(&spec("sum(x)")), 0), None);
        assert_eq!(groups(), [("g".to_owned(), 1)]);
        let problem = controller.load("PrometheusRule/shop/a", Some(&spec("sum(")), 0).unwrap();
        assert!(problem.contains("unexpected end of input"), "{problem}");
        let key = Key::of::<PrometheusRule>("shop", "a");
        let news = [Some(&problem), Some(&problem), None, Some(&problem)];
        let news = news.map(|problem| controller.is_news(&key, problem));
        assert_eq!(news, [true, false, false, true]);
        assert_eq!(groups(), [("g".to_owned(), 1)]);
        assert_eq!(controller.load("PrometheusRule/shop/a", None, 0), None);
        assert_eq!(groups(), []);
    }
}
