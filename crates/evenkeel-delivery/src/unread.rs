//! Objects that could not be read in one look.

use std::collections::BTreeMap;

use evenkeel_api::Key;

/// What could not be read in one look, with the error.
#[derive(Debug, Clone, Default)]
pub(crate) struct Unread {
    /// `ConfigMaps` and Secrets that the target names.
    pub(crate) configs: BTreeMap<Key, String>,
    /// The primary's copies of them.
    pub(crate) copies: BTreeMap<Key, String>,
    /// Services, by name.
    pub(crate) services: BTreeMap<String, String>,
    /// The pods behind them.
    pub(crate) endpoints: Option<String>,
    /// The canary's pods that get requests by a label.
    pub(crate) pods: Option<String>,
    /// Gateways that the spec names.
    pub(crate) gateways: BTreeMap<Key, String>,
    /// Routes of earlier names of the service.
    pub(crate) strays: Option<String>,
    /// Why the object that holds the weight cannot be read, although it may be there. This and what
    /// follows keeps a Canary from being acted on.
    pub(crate) route: Option<String>,
    /// The primary may be there, but cannot be read.
    pub(crate) primary: bool,
    /// Metric templates, which only judging needs.
    pub(crate) templates: Vec<String>,
}

impl Unread {
    /// Whether something traffic depends on is not known.
    pub(crate) fn has_traffic(&self) -> bool {
        !self.services.is_empty() || self.endpoints.is_some() || self.pods.is_some()
    }

    /// Whether the content that a promotion copies is not known.
    pub(crate) fn has_content(&self) -> bool {
        !self.configs.is_empty() || !self.copies.is_empty()
    }

    /// Whether anything could not be read.
    pub(crate) fn is_empty(&self) -> bool {
        self.errors().next().is_none()
    }

    fn errors(&self) -> impl Iterator<Item = &String> {
        let configs = self.configs.values().chain(self.copies.values());
        let pods = self.endpoints.iter().chain(&self.pods);
        let traffic = self.services.values().chain(pods);
        configs.chain(traffic).chain(self.gateways.values()).chain(&self.strays)
    }

    /// What could not be read and what follows from it; `None` when all was read.
    pub(crate) fn message(&self) -> Option<String> {
        let errors: Vec<_> = self.errors().map(String::as_str).collect();
        if errors.is_empty() {
            return None;
        }
        let follows = [
            (!self.configs.is_empty(), "no new release begins"),
            (self.has_content(), "nothing is promoted"),
            (self.has_traffic(), "the canary gets no more traffic"),
            (!self.gateways.is_empty(), "the route keeps the Gateways that it has"),
            (self.strays.is_some(), "a route of an earlier name may send requests to the canary"),
        ];
        let follows: Vec<_> =
            follows.into_iter().filter_map(|(is_so, words)| is_so.then_some(words)).collect();
        Some(format!(
            "{}. Until that can be read, {}; what runs is judged all the same",
            errors.join("; "),
            follows.join(", ")
        ))
    }

    /// The names of what could not be read and is needed to go on: errors may differ from look to
    /// look.
    pub(crate) fn names(&self) -> String {
        let configs = self.configs.keys().chain(self.copies.keys()).map(ToString::to_string);
        let services = self.services.keys().map(|name| format!("Service {name}"));
        let endpoints = self.endpoints.iter().map(|_| "EndpointSlices".to_owned());
        let pods = self.pods.iter().map(|_| "pods".to_owned());
        configs.chain(services).chain(endpoints).chain(pods).collect::<Vec<_>>().join(", ")
    }
}
