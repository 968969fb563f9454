use std::{fmt::Debug, sync::Arc};

use evenkeel_api::{ApiObject, GroupKind, Key, Obj, ObjError};

use crate::{BoxFuture, ListQuery, MetricsError, Plan, Ports, Retry, StoreError};

/// Group and kind of [`singleton`].
const SINGLETON: (&str, &str) = ("evenkeel.dev", "Singleton");

/// A pure decision with an observation in front.
///
/// One instance serves all objects of its kind; it keeps nothing between calls that a restart may
/// not lose.
pub trait Controller: Send + Sync + 'static {
    /// Plain data: everything `decide` may look at, the time included.
    type View: Debug + Send;

    /// Its name in records, metrics and Leases.
    fn name(&self) -> &'static str;

    /// The objects it is responsible for.
    fn owns(&self) -> ListQuery;

    /// What a change of such an object wakes: itself, unless one pass looks at all of them.
    fn trigger(&self) -> Trigger {
        Trigger::Itself
    }

    /// What else wakes it.
    fn also(&self) -> Vec<Interest> {
        Vec::new()
    }

    /// Looks. `None` when the object is gone.
    fn observe(
        &self,
        key: &Key,
        ports: &Ports,
    ) -> impl Future<Output = Result<Option<Self::View>, ObserveError>> + Send;

    /// Decides. Pure: same view, same plan.
    fn decide(&self, view: &Self::View) -> Plan;

    /// What takes off an object all that this controller put on it, when a person has handed the
    /// object back to another one: a plan without which there is nothing left to do, or `None`.
    ///
    /// It is asked at every look at an object that is only observed, so it looks at no more than it
    /// needs.
    fn hand_back(
        &self,
        _key: &Key,
        _ports: &Ports,
    ) -> impl Future<Output = Result<Option<Plan>, ObserveError>> + Send {
        std::future::ready(Ok(None))
    }

    /// Called when a term as the leader has ended: what was kept of objects between two looks may
    /// never be asked for again, and this process may follow for months.
    fn resigned(&self) {}

    /// How many objects may be worked on at once. One by default: the controller then never races
    /// with itself. Raise it where observing or acting waits for others (webhooks).
    fn concurrency(&self) -> usize {
        1
    }
}

/// A kind that wakes a controller, and the objects that a change of it concerns.
pub struct Interest {
    /// Which objects.
    pub query: ListQuery,
    /// What a change concerns.
    pub trigger: Trigger,
    /// Whether a server without the kind is as good as one with it: nothing is said about it.
    pub is_optional: bool,
    /// What matters of such an object: as long as that stays the same, it wakes nobody. `None`:
    /// everything does.
    pub digest: Option<Digest>,
}

/// What of an object matters to somebody.
pub type Digest = Arc<dyn Fn(&Obj) -> String + Send + Sync>;

/// What a change of one object concerns.
#[derive(Clone)]
pub enum Trigger {
    /// The object itself.
    Itself,
    /// Its managing owner, if that is of this kind.
    Owner(GroupKind),
    /// Whatever this function names.
    Mapped(Arc<dyn Fn(&Obj) -> Wakes + Send + Sync>),
}

/// What to wake.
pub enum Wakes {
    /// These objects.
    These(Vec<Key>),
    /// Every object of the controller's own kind in this namespace.
    Namespace(String),
    /// Every object of the controller's own kind.
    All,
    /// The one pass of a controller that looks at everything at once, such as the scheduler.
    Singleton,
}

impl Interest {
    /// Objects of kind `T` matter to the `O` that owns them.
    pub fn owned_by<T: ApiObject, O: ApiObject>() -> Self {
        let trigger = Trigger::Owner(GroupKind::of::<O>());
        Self {
            query: ListQuery::all(GroupKind::of::<T>()),
            trigger,
            is_optional: false,
            digest: None,
        }
    }

    /// Objects of kind `T` matter to the objects that `map` names.
    pub fn mapped<T: ApiObject>(map: impl Fn(&Obj) -> Wakes + Send + Sync + 'static) -> Self {
        let trigger = Trigger::Mapped(Arc::new(map));
        Self {
            query: ListQuery::all(GroupKind::of::<T>()),
            trigger,
            is_optional: false,
            digest: None,
        }
    }

    /// Objects of a kind that many clusters do not have matter to the objects that `map` names.
    /// Where the kind comes later, they are followed from then on.
    pub fn optional(kind: GroupKind, map: impl Fn(&Obj) -> Wakes + Send + Sync + 'static) -> Self {
        let trigger = Trigger::Mapped(Arc::new(map));
        Self { query: ListQuery::all(kind), trigger, is_optional: true, digest: None }
    }

    /// The same where the kind is, and nothing where a server does not have it.
    #[must_use]
    pub fn where_served(self) -> Self {
        Self { is_optional: true, ..self }
    }

    /// Only changes of `digest` matter, and that an object is gone: most writes to an object say
    /// what was said before.
    #[must_use]
    pub fn minding(self, digest: impl Fn(&Obj) -> String + Send + Sync + 'static) -> Self {
        Self { digest: Some(Arc::new(digest)), ..self }
    }
}

/// Why an observation failed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ObserveError {
    /// The API.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// An object that does not fit its type.
    #[error(transparent)]
    Object(#[from] ObjError),
    /// The metrics.
    #[error(transparent)]
    Metrics(#[from] MetricsError),
}

impl ObserveError {
    /// What the loop should do next.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Store(error) => error.retry(),
            Self::Object(_) => Retry::Slowly,
            Self::Metrics(_) => Retry::Later,
        }
    }
}

/// A [`Controller`] with its view type hidden, so that the loop is compiled once.
pub trait DynController: Send + Sync {
    /// See [`Controller::name`].
    fn name(&self) -> &'static str;
    /// What wakes it; the first is what it [owns](Controller::owns).
    fn interests(&self) -> Vec<Interest>;
    /// See [`Controller::concurrency`].
    fn concurrency(&self) -> usize;
    /// See [`Controller::resigned`].
    fn resigned(&self);
    /// See [`Controller::hand_back`].
    fn hand_back<'a>(
        &'a self,
        key: &'a Key,
        ports: &'a Ports,
    ) -> BoxFuture<'a, Result<Option<Plan>, ObserveError>>;
    /// Observes and decides; `None` when the object is gone.
    fn plan<'a>(
        &'a self,
        key: &'a Key,
        ports: &'a Ports,
    ) -> BoxFuture<'a, Result<Option<Plan>, ObserveError>>;
}

impl<C: Controller> DynController for C {
    fn name(&self) -> &'static str {
        Controller::name(self)
    }
    fn interests(&self) -> Vec<Interest> {
        let own = Interest {
            query: self.owns(),
            trigger: self.trigger(),
            is_optional: false,
            digest: None,
        };
        std::iter::once(own).chain(self.also()).collect()
    }
    fn concurrency(&self) -> usize {
        Controller::concurrency(self)
    }
    fn resigned(&self) {
        Controller::resigned(self);
    }
    fn hand_back<'a>(
        &'a self,
        key: &'a Key,
        ports: &'a Ports,
    ) -> BoxFuture<'a, Result<Option<Plan>, ObserveError>> {
        Box::pin(Controller::hand_back(self, key, ports))
    }
    fn plan<'a>(
        &'a self,
        key: &'a Key,
        ports: &'a Ports,
    ) -> BoxFuture<'a, Result<Option<Plan>, ObserveError>> {
        Box::pin(async move {
            let view = self.observe(key, ports).await?;
            Ok(view.map(|view| {
                let plan = self.decide(&view);
                // The view is not for the log: it may hold Secrets.
                tracing::trace!(controller = Controller::name(self), object = %key,
                    reason = plan.reason, actions = ?plan.actions, "decided");
                plan
            }))
        })
    }
}

/// What stands for all objects of a controller that looks at them at once.
pub(crate) fn singleton(controller: &str) -> Key {
    Key::new(GroupKind::new(SINGLETON.0, SINGLETON.1), "", controller)
}

/// Whether a key stands for all objects at once: nothing can be read or written under it.
pub(crate) fn is_singleton(key: &Key) -> bool {
    (&*key.kind.group, &*key.kind.kind) == SINGLETON
}
