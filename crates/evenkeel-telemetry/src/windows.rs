//! Canaries whose metrics look back over less time than two scrapes need.

use std::{
    collections::BTreeMap,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use evenkeel_api::{Key, canary::Canary};
use evenkeel_base::{format_duration, parse_duration};
use evenkeel_control::{Controller, EventNote, EventType, ListQuery, ObserveError, Plan, Ports};

/// Reason of the event.
const SHORT: &str = "WindowTooShort";
/// Nothing is wrong with them, or it was said.
const CHECKED: &str = "WindowsChecked";
/// What a metric without `interval` looks back over.
const WINDOW_DEFAULT: Duration = Duration::from_mins(1);
/// Metrics that are named in one event.
const METRICS_MAX: usize = 3;

/// Says at once, as an Event of the Canary, when a metric's `interval` is shorter than two scrapes:
/// a rate over it has no value, or none at times, and a good version would be rolled back for that.
///
/// Only who scrapes knows that, so this is no part of the release's own controller. Memory: one
/// text for each Canary with such a metric.
pub struct WindowController {
    scrape_interval: Duration,
    said: Mutex<BTreeMap<Key, String>>,
}

/// The result for one Canary.
#[derive(Debug, Clone)]
pub struct WindowsView {
    key: Key,
    /// What is to be said.
    news: Option<String>,
}

impl WindowController {
    /// A controller where targets are scraped this often.
    pub fn new(scrape_interval: Duration) -> Self {
        Self { scrape_interval, said: Mutex::default() }
    }

    /// What is to be said about a Canary, if it was not said yet.
    fn news(&self, key: &Key, canary: Option<&Canary>) -> Option<String> {
        let problem = canary.and_then(|canary| problem(canary, self.scrape_interval));
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(problem) = problem else {
            said.remove(key);
            return None;
        };
        let before = said.insert(key.clone(), problem.clone());
        (before.as_ref() != Some(&problem)).then_some(problem)
    }
}

impl Controller for WindowController {
    type View = WindowsView;

    fn name(&self) -> &'static str {
        "windows"
    }

    fn owns(&self) -> ListQuery {
        ListQuery::of::<Canary>()
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<WindowsView>, ObserveError> {
        let obj = ports.read.get(key).await?;
        // What is wrong with one that cannot be read, the release's controller says.
        let canary = obj.as_ref().and_then(|obj| obj.get::<Canary>().ok());
        let news = self.news(key, canary.as_deref());
        Ok(obj.map(|_| WindowsView { key: key.clone(), news }))
    }

    fn decide(&self, view: &WindowsView) -> Plan {
        match &view.news {
            None => Plan::idle(CHECKED),
            Some(message) => Plan::idle(SHORT).with_event(EventNote {
                about: view.key.clone(),
                kind: EventType::Warning,
                reason: SHORT,
                message: message.clone(),
            }),
        }
    }
}

/// Which metrics look back over too little, and what to do.
fn problem(canary: &Canary, scrape_interval: Duration) -> Option<String> {
    let window = |text: Option<&str>| match text {
        Some(text) => parse_duration(text).ok(),
        None => Some(WINDOW_DEFAULT),
    };
    let short: Vec<(&str, Duration)> = canary
        .spec
        .analysis
        .metrics
        .iter()
        // What a template asks, and whom, is its own affair.
        .filter(|metric| metric.template_ref.is_none())
        .filter_map(|metric| Some((&*metric.name, window(metric.interval.as_deref())?)))
        .filter(|(_, window)| *window < scrape_interval * 2)
        .collect();
    let shortest = short.iter().map(|(_, window)| *window).min()?;
    let more = short.len().saturating_sub(METRICS_MAX);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let one = |(name, window): &(&str, Duration)| format!("{name} ({})", format_duration(*window));
    let names = short.iter().take(METRICS_MAX).map(one).collect::<Vec<_>>().join(", ");
    Some(format!(
        "the interval of {names}{more} is shorter than two scrapes, and targets are scraped every \
         {}: its query finds no values at times, which counts against a version; make it {} or \
         more, or start `evenkeel up` with --scrape-interval {} or less",
        format_duration(scrape_interval),
        format_duration(scrape_interval * 2),
        format_duration(shortest / 2),
    ))
}

#[cfg(test)]
mod tests {
    use evenkeel_api::Obj;
    use serde_json::json;

    use super::*;

    fn said(controller: &WindowController, intervals: &[Option<&str>]) -> Option<String> {
        let metric = |interval: Option<&str>| match interval {
            Some(interval) => json!({"name": "request-success-rate", "interval": interval}),
            None => json!({"name": "request-duration"}),
        };
        let metrics: Vec<_> = intervals.iter().copied().map(metric).collect();
        let obj = Obj::from_json(json!({"apiVersion": "flagger.app/v1beta1", "kind": "Canary",
            "metadata": {"name": "api", "namespace": "shop"},
            "spec": {"targetRef": {"kind": "Deployment", "name": "api"}, "service": {"port": 80},
                "analysis": {"interval": "10s", "threshold": 5, "metrics": metrics}}}))
        .unwrap();
        controller.news(obj.key(), Some(&*obj.get::<Canary>().unwrap()))
    }

    #[test]
    fn a_metric_that_looks_back_over_less_than_two_scrapes_is_said_once() {
        let controller = WindowController::new(Duration::from_secs(15));
        assert_eq!(said(&controller, &[Some("30s"), None, Some("nonsense")]), None);
        insta::assert_snapshot!(said(&controller, &[Some("10s"), None]).unwrap(), @"the interval of request-success-rate (10s) is shorter than two scrapes, and targets are scraped every 15s: its query finds no values at times, which counts against a version; make it 30s or more, or start `evenkeel up` with --scrape-interval 5s or less");
        assert_eq!(said(&controller, &[Some("10s"), None]), None, "it was said");
        assert!(said(&controller, &[Some("20s")]).is_some(), "another one");
        assert_eq!(said(&controller, &[Some("30s")]), None);
        assert!(said(&controller, &[Some("20s")]).is_some(), "again");
        // Also what nobody wrote down.
        let slow = WindowController::new(Duration::from_secs(40));
        assert!(said(&slow, &[None]).unwrap().contains("request-duration (1m)"));
    }
}
