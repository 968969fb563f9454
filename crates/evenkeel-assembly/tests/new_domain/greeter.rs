//! Greets the name that a ConfigMap holds.

use evenkeel_api::Key;
use evenkeel_assembly::Domain;
use evenkeel_control::{Controller, ListQuery, ObserveError, Plan, Ports};
use k8s_openapi::api::core::v1::ConfigMap;

use crate::{decide, view};

struct Greeter;

impl Controller for Greeter {
    type View = view::View;

    fn name(&self) -> &'static str {
        "greeter"
    }
    fn owns(&self) -> ListQuery {
        ListQuery::of::<ConfigMap>()
    }
    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<view::View>, ObserveError> {
        view::observe(key, ports).await
    }
    fn decide(&self, view: &view::View) -> Plan {
        decide::decide(view)
    }
}

pub(crate) const GREETER: Domain =
    Domain { name: "greeter", about: "Greets", install: |run, _| run.with(Greeter), rights: &[] };
