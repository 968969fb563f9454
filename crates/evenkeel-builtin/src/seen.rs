use std::{fmt, ops::Deref, sync::Arc};

use evenkeel_api::{ApiObject, Key, Obj, ObjError, Revision};
use evenkeel_control::{ListQuery, ObserveError, Ports};
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde::Serialize;
use serde_json::Value;

/// An object as it was read, with its typed view.
pub(crate) struct Seen<T> {
    /// Key, metadata and body.
    pub(crate) obj: Arc<Obj>,
    typed: Arc<T>,
}

impl<T: ApiObject> Seen<T> {
    /// Decodes the typed view.
    pub(crate) fn of(obj: Arc<Obj>) -> Result<Self, ObjError> {
        let typed = obj.get::<T>()?;
        Ok(Self { obj, typed })
    }
}

impl<T> Seen<T> {
    pub(crate) fn key(&self) -> &Key {
        self.obj.key()
    }
    pub(crate) fn name(&self) -> &str {
        self.obj.name()
    }
    pub(crate) fn uid(&self) -> &str {
        self.obj.uid()
    }
    /// Key and revision, for what a plan assumes.
    pub(crate) fn assumed(&self) -> (Key, Revision) {
        (self.obj.key().clone(), self.obj.revision())
    }
    /// Creation time; the epoch when the server has not set it.
    pub(crate) fn created(&self) -> Timestamp {
        created(&self.obj)
    }
}

/// Creation time; the epoch when the server has not set it.
pub(crate) fn created(obj: &Obj) -> Timestamp {
    obj.meta().creation_timestamp.as_ref().map_or(Timestamp::UNIX_EPOCH, |time| time.0)
}

/// Time to the whole second, as the API carries it.
pub(crate) fn whole_second(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

impl<T> Deref for Seen<T> {
    type Target = T;
    fn deref(&self) -> &T {
        &self.typed
    }
}

impl<T> Clone for Seen<T> {
    fn clone(&self) -> Self {
        Self { obj: self.obj.clone(), typed: self.typed.clone() }
    }
}

impl<T> fmt::Debug for Seen<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.obj.fmt(f)
    }
}

/// Reads one object.
pub(crate) async fn get_as<T: ApiObject>(
    ports: &Ports,
    key: &Key,
) -> Result<Option<Seen<T>>, ObserveError> {
    Ok(ports.read.get(key).await?.map(Seen::of).transpose()?)
}

/// Reads all objects that fit the query. One that does not fit its type is logged and left out:
/// it must not stop what concerns the others.
pub(crate) async fn list_as<T: ApiObject>(
    ports: &Ports,
    query: &ListQuery,
) -> Result<Vec<Seen<T>>, ObserveError> {
    let listed = ports.read.list(query).await?;
    let decode = |obj: Arc<Obj>| {
        let decoded = Seen::of(obj);
        if let Err(error) = &decoded {
            tracing::warn!(%error, "object left out");
        }
        decoded.ok()
    };
    Ok(listed.items.into_iter().filter_map(decode).collect())
}

/// JSON of an API type.
pub(crate) fn json<T: Serialize>(value: &T) -> Value {
    serde_json::to_value(value).expect("API types serialise")
}
