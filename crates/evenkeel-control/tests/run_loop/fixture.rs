//! Controllers of widgets.

use std::sync::Arc;

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    Action, Controller, Digest, Interest, ListQuery, ObserveError, Plan, Ports, Trigger, Wakes,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;

use crate::world::{boxed, config, config_key, widget_kind};

/// What a controller of widgets looks at.
pub(crate) struct Seen {
    pub(crate) widget: Arc<Obj>,
    /// The ConfigMap of the widget's name.
    pub(crate) config: Option<Arc<Obj>>,
    pub(crate) now: Timestamp,
}

impl std::fmt::Debug for Seen {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} {:?} {:?}", self.now, self.widget.json(), self.config)
    }
}

impl Seen {
    pub(crate) fn name(&self) -> &str {
        self.widget.name()
    }

    pub(crate) fn key(&self) -> Key {
        self.widget.key().clone()
    }

    pub(crate) fn want(&self) -> &str {
        self.widget.json().pointer("/spec/want").and_then(|want| want.as_str()).unwrap_or_default()
    }

    pub(crate) fn has(&self) -> Option<&str> {
        self.config.as_ref()?.json().pointer("/data/value")?.as_str()
    }
}

/// How an observation goes.
#[derive(Clone)]
pub(crate) enum Look {
    Well,
    Silence,
    Fails(ObserveError),
    Panic,
}

type Decide = Arc<dyn Fn(&Seen) -> Plan + Send + Sync>;
type Observe = Arc<dyn Fn(&Key) -> Look + Send + Sync>;
type HandBack = Arc<dyn Fn(&Obj) -> Option<Plan> + Send + Sync>;
type Map = Arc<dyn Fn(&Obj) -> Wakes + Send + Sync>;

#[derive(Clone)]
pub(crate) struct Fixture {
    name: &'static str,
    decide: Decide,
    look: Observe,
    configs: Option<Map>,
    digest: Option<Digest>,
    hand_back: Option<HandBack>,
    resigned: Arc<dyn Fn() + Send + Sync>,
    concurrency: usize,
}

impl Fixture {
    /// A controller called `fixture` that decides so.
    pub(crate) fn new(decide: impl Fn(&Seen) -> Plan + Send + Sync + 'static) -> Self {
        Self {
            name: "fixture",
            decide: Arc::new(decide),
            look: Arc::new(|_| Look::Well),
            configs: None,
            digest: None,
            hand_back: None,
            resigned: Arc::new(|| {}),
            concurrency: 1,
        }
    }

    /// Keeps the ConfigMap of the widget's name at what the widget wants.
    pub(crate) fn copying() -> Self {
        Self::new(copy)
    }

    pub(crate) fn named(mut self, name: &'static str) -> Self {
        self.name = name;
        self
    }

    pub(crate) fn looking(mut self, look: impl Fn(&Key) -> Look + Send + Sync + 'static) -> Self {
        self.look = Arc::new(look);
        self
    }

    /// Woken by ConfigMaps, too.
    pub(crate) fn minding_configs(
        mut self,
        map: impl Fn(&Obj) -> Wakes + Send + Sync + 'static,
    ) -> Self {
        self.configs = Some(Arc::new(map));
        self
    }

    /// Only what this says of ConfigMaps matters.
    pub(crate) fn digesting(
        mut self,
        digest: impl Fn(&Obj) -> String + Send + Sync + 'static,
    ) -> Self {
        self.digest = Some(Arc::new(digest));
        self
    }

    pub(crate) fn resigning(mut self, resigned: impl Fn() + Send + Sync + 'static) -> Self {
        self.resigned = Arc::new(resigned);
        self
    }

    pub(crate) fn handing_back(
        mut self,
        plan: impl Fn(&Obj) -> Option<Plan> + Send + Sync + 'static,
    ) -> Self {
        self.hand_back = Some(Arc::new(plan));
        self
    }

    pub(crate) fn at_once(mut self, concurrency: usize) -> Self {
        self.concurrency = concurrency;
        self
    }
}

pub(crate) fn copy(seen: &Seen) -> Plan {
    if seen.has() == Some(seen.want()) {
        return Plan::idle("AsWanted");
    }
    let plan = Plan::act("Copying", vec![Action::Apply(boxed(config(seen.name(), seen.want())))]);
    match &seen.config {
        Some(config) => plan.assuming(config.key().clone(), config.revision()),
        None => plan,
    }
}

/// The widget that a ConfigMap of its name belongs to.
pub(crate) fn widget_of(config: &Obj) -> Wakes {
    Wakes::These(vec![crate::world::widget_key(config.name())])
}

impl Controller for Fixture {
    type View = Seen;

    fn name(&self) -> &'static str {
        self.name
    }

    fn owns(&self) -> ListQuery {
        ListQuery::all(widget_kind())
    }

    fn also(&self) -> Vec<Interest> {
        let map = self.configs.clone();
        let interest = |map| Interest {
            query: ListQuery::of::<ConfigMap>(),
            trigger: Trigger::Mapped(map),
            is_optional: false,
            digest: self.digest.clone(),
        };
        map.map(interest).into_iter().collect()
    }

    async fn observe(&self, key: &Key, ports: &Ports) -> Result<Option<Seen>, ObserveError> {
        match (self.look)(key) {
            Look::Well => {}
            Look::Silence => futures::future::pending().await,
            Look::Fails(error) => return Err(error),
            Look::Panic => panic!("a defect of observe"),
        }
        let Some(widget) = ports.read.get(key).await? else { return Ok(None) };
        let config = ports.read.get(&config_key(&key.name)).await?;
        Ok(Some(Seen { widget, config, now: ports.clock.now() }))
    }

    fn decide(&self, view: &Seen) -> Plan {
        (self.decide)(view)
    }

    async fn hand_back(&self, key: &Key, ports: &Ports) -> Result<Option<Plan>, ObserveError> {
        let Some(plan) = &self.hand_back else { return Ok(None) };
        Ok(ports.read.get(key).await?.and_then(|widget| plan(&widget)))
    }

    fn resigned(&self) {
        (self.resigned)();
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }
}
