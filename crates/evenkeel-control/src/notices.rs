//! The first two effectors: webhooks and notifications.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Action, BoxFuture, ClearedEffect, Direction, EffectCall, EffectError, Effected, Effector,
    Hooks, Notifier, Retry, Reversal, redact,
};

/// Port of webhook calls.
pub(crate) const WEBHOOK: &str = "webhook";
/// Port of notifications.
pub const NOTIFY: &str = "notify";
/// On top of what the transport says that a call takes at most: it should end by itself.
const SLACK: Duration = Duration::from_secs(30);

/// A webhook call. `Debug` shows neither the body nor what is secret in the URL.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HookCall {
    /// The object that it is made for.
    pub owner: String,
    /// Identity of this very call: the reply is kept under it, and it is made once per id.
    pub id: String,
    /// Where to. In-cluster Service names are resolved by the host.
    pub url: String,
    /// Namespace in which short Service names are looked up.
    pub namespace: String,
    /// JSON body.
    pub body: BTreeMap<String, Value>,
    /// Longest wait.
    pub timeout: Duration,
    /// Further attempts after a failed one.
    pub retries: u32,
    /// Whether its only effect can be that a version is taken out of traffic: such a call is never
    /// held.
    #[serde(default)]
    pub way_back: bool,
}

impl fmt::Debug for HookCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HookCall({} {})", self.id, redact::url(&self.url))
    }
}

impl fmt::Debug for Notification {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Notification({} to {}/{})", self.id, self.namespace, self.provider)
    }
}

impl From<HookCall> for Action {
    /// Calls it; the reply is there for the next observation.
    fn from(call: HookCall) -> Self {
        Self::Effect(EffectCall {
            port: WEBHOOK,
            verb: "call",
            target: call.url.clone(),
            args: serde_json::to_value(call).unwrap_or_default(),
            reverts: Reversal::Irreversible,
        })
    }
}

/// Something that people should know. `Debug` shows neither message nor fields.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Notification {
    /// Identity: what has been delivered under it is not delivered again.
    pub id: String,
    /// The object it is about, as `Kind/namespace/name`.
    pub owner: String,
    /// Namespace of the `AlertProvider`.
    pub namespace: String,
    /// Name of the `AlertProvider`.
    pub provider: String,
    /// `info`, `warn` or `error`.
    pub severity: String,
    /// What happened.
    pub message: String,
    /// Further facts, in the order in which they are shown.
    pub fields: Vec<(String, String)>,
}

impl From<Notification> for Action {
    fn from(notification: Notification) -> Self {
        Self::Effect(EffectCall {
            port: NOTIFY,
            verb: "notify",
            target: format!("AlertProvider/{}/{}", notification.namespace, notification.provider),
            args: serde_json::to_value(notification).unwrap_or_default(),
            reverts: Reversal::Irreversible,
        })
    }
}

/// Performs webhook calls.
pub struct Webhooks(Arc<dyn Hooks>);

impl Webhooks {
    /// Over this transport.
    pub fn new(hooks: Arc<dyn Hooks>) -> Self {
        Self(hooks)
    }
}

fn arguments<T: serde::de::DeserializeOwned>(call: &EffectCall) -> Result<T, EffectError> {
    // The decoder's message would quote them.
    let unfit = |_| {
        let problem = format!("the arguments are not those of {} {}", call.port, call.verb);
        EffectError::new(&problem, Retry::Slowly)
    };
    T::deserialize(&call.args).map_err(unfit)
}

impl Effector for Webhooks {
    fn perform<'a>(
        &'a self,
        effect: &'a ClearedEffect<'a>,
    ) -> BoxFuture<'a, Result<Effected, EffectError>> {
        Box::pin(async move {
            let call: HookCall = arguments(effect.call())?;
            // The next observation decides what the answer, or a missing answer, means. The record
            // says whether the call was answered.
            match self.0.call(&call).await {
                Ok(_) => Ok(Effected::Done),
                Err(error) => Err(EffectError::new(&error.to_string(), Retry::Proceed)),
            }
        })
    }

    fn direction(&self, call: &EffectCall) -> Direction {
        match call.args.get("way_back") {
            Some(Value::Bool(true)) => Direction::Safer,
            _ => Direction::Neutral,
        }
    }

    fn redact(&self, call: &EffectCall) -> String {
        let id = call.args.get("id").and_then(Value::as_str).unwrap_or_default();
        format!("webhook call {} {id}", redact::url(&call.target))
    }

    fn deadline(&self, call: &EffectCall) -> Duration {
        let Ok(call) = arguments::<HookCall>(call) else { return SLACK };
        self.0.longest(&call).saturating_add(SLACK)
    }
}

/// Performs notifications.
pub struct Notices(Arc<dyn Notifier>);

impl Notices {
    /// Over this transport.
    pub fn new(notifier: Arc<dyn Notifier>) -> Self {
        Self(notifier)
    }
}

impl Effector for Notices {
    fn perform<'a>(
        &'a self,
        effect: &'a ClearedEffect<'a>,
    ) -> BoxFuture<'a, Result<Effected, EffectError>> {
        Box::pin(async move {
            let delivery = self.0.deliver(arguments(effect.call())?);
            Ok(Effected::Pending(Box::pin(async move {
                delivery.await.map_err(|problem| EffectError::new(&problem, Retry::Proceed))
            })))
        })
    }

    /// Notifications are never blocked.
    fn direction(&self, _: &EffectCall) -> Direction {
        Direction::Safer
    }
}
