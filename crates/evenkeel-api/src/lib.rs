//! Kubernetes objects and the foreign kinds evenkeel reads, as plain data.
//!
//! ```text
//! Key  --names-->  Obj (key, metadata, JSON body, typed view decoded at most once)
//! Kind --describes--> group, versions, plural, scope   (KindTable: every kind a server knows)
//! ```
//! Built-in kinds are `k8s_openapi` types; foreign kinds are structs here, one module each. Rules
//! that belong to the data (selectors, quantities, percentages) live here too. Not here: anything
//! that talks to a server (`control::Store`) and any decision.
#![warn(clippy::disallowed_methods, reason = "this crate must run under virtual time")]

mod codec;
mod conditions;
mod crds;
mod key;
mod kind;
mod obj;
mod quantity;
mod selector;
mod typed;

pub mod beside;
pub mod canary;
pub mod clusterconfig;
pub mod disruption;
pub mod gate;
pub mod httproute;
pub mod json;
pub mod labels;
pub mod local_volumes;
pub mod misfit;
pub mod slo;
pub mod weighted;

#[cfg(not(test))]
pub use codec::builtin::CODECS;
pub use codec::{Codec, conform};
pub use conditions::{ConditionUpdate, set_condition};
pub use crds::{crds, crds_yaml, crds_yaml_where};
pub use key::{GroupKind, Key, Revision};
pub use kind::{Kind, KindTable, Scope};
pub use obj::{Obj, ObjError};
pub use quantity::{Quantity, QuantityError, Rounding, scaled_int_or_percent};
pub use selector::{FieldSelector, LabelSelector, Requirement, SelectorError};
pub use typed::ApiObject;

/// Declares that a struct with `metadata: ObjectMeta` is the API kind of the given coordinates,
/// so that it can be used wherever a `k8s_openapi` kind can.
#[macro_export]
macro_rules! api_kind {
    ($type:ty, $group:literal, $version:literal, $kind:literal, $plural:literal, $scope:ident) => {
        impl k8s_openapi::Resource for $type {
            const API_VERSION: &'static str = concat!($group, "/", $version);
            const GROUP: &'static str = $group;
            const VERSION: &'static str = $version;
            const KIND: &'static str = $kind;
            const URL_PATH_SEGMENT: &'static str = $plural;
            type Scope = k8s_openapi::$scope;
        }
        impl k8s_openapi::Metadata for $type {
            type Ty = k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
            fn metadata(&self) -> &Self::Ty {
                &self.metadata
            }
            fn metadata_mut(&mut self) -> &mut Self::Ty {
                &mut self.metadata
            }
        }
    };
}
