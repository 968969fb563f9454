use k8s_openapi::{
    api::{
        apps::v1 as apps, autoscaling::v2 as autoscaling, batch::v1 as batch,
        coordination::v1 as coordination, core::v1 as core, discovery::v1 as discovery,
        networking::v1 as networking, policy::v1 as policy, scheduling::v1 as scheduling,
        storage::v1 as storage,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};

use super::{Codec, conform};

/// [`conform`] for the built-in kinds that the embedded server stores.
///
/// In development builds, generic code is compiled in the first crate that names it, and crates
/// above use that (rustc's `share-generics`). Without
/// this table every crate that reads a pod would compile the decoder of all its hundreds of fields
/// again, and so would its tests.
pub static CODECS: [Codec; 27] = [
    conform::<core::Namespace>,
    conform::<core::Node>,
    conform::<core::Pod>,
    conform::<core::Service>,
    conform::<core::ConfigMap>,
    conform::<core::Secret>,
    conform::<core::Event>,
    conform::<core::Endpoints>,
    conform::<core::ServiceAccount>,
    conform::<core::PersistentVolumeClaim>,
    conform::<core::PersistentVolume>,
    conform::<apps::Deployment>,
    conform::<apps::ReplicaSet>,
    conform::<apps::StatefulSet>,
    conform::<apps::DaemonSet>,
    conform::<apps::ControllerRevision>,
    conform::<batch::Job>,
    conform::<batch::CronJob>,
    conform::<autoscaling::HorizontalPodAutoscaler>,
    conform::<coordination::Lease>,
    conform::<discovery::EndpointSlice>,
    conform::<policy::PodDisruptionBudget>,
    conform::<networking::Ingress>,
    conform::<networking::IngressClass>,
    conform::<scheduling::PriorityClass>,
    conform::<storage::StorageClass>,
    conform::<CustomResourceDefinition>,
];
