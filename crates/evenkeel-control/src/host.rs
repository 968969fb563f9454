use std::sync::Arc;

use evenkeel_api::GroupKind;
use evenkeel_base::Clock;

use crate::{
    Door, Effector, Hooks, Judge, Metrics, NoHooks, NoMetrics, NoNotifier, NoObserver, Notices,
    Notifier, Observer, OpenDoor, Ports, Stewards, Store, Timer, Webhooks, Write,
    effect::Effectors,
    judge::Judges,
    notices::{NOTIFY, WEBHOOK},
    standing::NoOthers,
};

/// What a [`crate::RunLoop`] needs. A host sets what it has; the rest answers with an error that it
/// is not configured.
#[derive(Clone)]
pub struct Host {
    pub(crate) write: Arc<dyn Write>,
    pub(crate) ports: Ports,
    pub(crate) timer: Arc<dyn Timer>,
    pub(crate) door: Arc<dyn Door>,
    pub(crate) effectors: Effectors,
    pub(crate) judges: Judges,
    pub(crate) observer: Arc<dyn Observer>,
}

impl Host {
    /// A host without metrics, channels and observer, whose door is open.
    pub fn new(store: &Arc<dyn Store>, clock: Arc<dyn Clock>, timer: Arc<dyn Timer>) -> Self {
        let ports = Ports {
            read: store.clone(),
            metrics: Arc::new(NoMetrics),
            replies: Arc::new(NoHooks),
            endings: Arc::default(),
            stewards: Arc::new(NoOthers),
            clock,
        };
        let host = Self {
            write: store.clone(),
            ports,
            timer,
            door: Arc::new(OpenDoor),
            effectors: Effectors::default(),
            judges: Judges::default(),
            observer: Arc::new(NoObserver),
        };
        host.with_hooks(Arc::new(NoHooks)).with_notifier(Arc::new(NoNotifier))
    }

    /// With a source of metrics.
    #[must_use]
    pub fn with_metrics(mut self, metrics: Arc<dyn Metrics>) -> Self {
        self.ports.metrics = metrics;
        self
    }

    /// Beside other controllers, with what knows of them. Without, all objects are ours.
    #[must_use]
    pub fn with_stewards(mut self, stewards: Arc<dyn Stewards>) -> Self {
        self.ports.stewards = stewards;
        self
    }

    /// With webhooks.
    #[must_use]
    pub fn with_hooks(mut self, hooks: Arc<dyn Hooks>) -> Self {
        self.ports.replies = hooks.clone();
        self.with_effector(WEBHOOK, Arc::new(Webhooks::new(hooks)))
    }

    /// With notifications.
    #[must_use]
    pub fn with_notifier(self, notifier: Arc<dyn Notifier>) -> Self {
        self.with_effector(NOTIFY, Arc::new(Notices::new(notifier)))
    }

    /// With what performs the effects of this port.
    #[must_use]
    pub fn with_effector(mut self, port: &'static str, effector: Arc<dyn Effector>) -> Self {
        self.effectors.add(port, effector);
        self
    }

    /// With a judge of changes to this kind.
    #[must_use]
    pub fn with_judge(mut self, kind: GroupKind, judge: impl Judge + 'static) -> Self {
        self.judges.add(kind, Arc::new(judge));
        self
    }

    /// With this door.
    #[must_use]
    pub fn with_door(mut self, door: Arc<dyn Door>) -> Self {
        self.door = door;
        self
    }

    /// Seen by this observer.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.observer = observer;
        self
    }

    /// What its controllers look through.
    pub fn ports(&self) -> &Ports {
        &self.ports
    }
}
