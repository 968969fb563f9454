//! `OpenAPI` schemas of built-in kinds, read off their Rust types: what `kubectl explain` shows.
//!
//! A crate of its own because of what it compiles to: a second decoder of every kind, which runs
//! once per request for a document and needs no optimisation.

mod probe;

use evenkeel_api::{ApiObject, GroupKind};
use k8s_openapi::api::{
    apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch,
    coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
    networking::v1 as networking, policy::v1 as policy, scheduling::v1 as scheduling,
    storage::v1 as storage,
};
use serde_json::{Map, Value};

pub use probe::PREFIX;

/// Group, kind, and what describes it.
type Row = (&'static str, &'static str, fn(&mut Map<String, Value>) -> Value);

/// Not `CustomResourceDefinition`: its schemas of schemas have any shape.
static KINDS: [Row; 26] = [
    row::<core::Namespace>(),
    row::<core::Node>(),
    row::<core::Pod>(),
    row::<core::Service>(),
    row::<core::ConfigMap>(),
    row::<core::Secret>(),
    row::<core::Event>(),
    row::<core::Endpoints>(),
    row::<core::ServiceAccount>(),
    row::<core::PersistentVolumeClaim>(),
    row::<core::PersistentVolume>(),
    row::<apps::Deployment>(),
    row::<apps::ReplicaSet>(),
    row::<apps::StatefulSet>(),
    row::<apps::DaemonSet>(),
    row::<apps::ControllerRevision>(),
    row::<batch::Job>(),
    row::<batch::CronJob>(),
    row::<autoscaling::HorizontalPodAutoscaler>(),
    row::<coordination::Lease>(),
    row::<discovery::EndpointSlice>(),
    row::<policy::PodDisruptionBudget>(),
    row::<networking::Ingress>(),
    row::<networking::IngressClass>(),
    row::<scheduling::PriorityClass>(),
    row::<storage::StorageClass>(),
];

const fn row<T: ApiObject>() -> Row {
    (T::GROUP, T::KIND, probe::describe::<T>)
}

/// The schema of a kind; `None` when it is not known here. The schemas of all structs below it are
/// added to `parts` under [`PREFIX`] and their names.
pub fn schema(kind: &GroupKind, parts: &mut Map<String, Value>) -> Option<Value> {
    let (_, _, describe) =
        KINDS.iter().find(|(group, name, _)| *group == &*kind.group && *name == &*kind.kind)?;
    Some(describe(parts))
}
