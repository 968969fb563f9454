use std::{collections::BTreeMap, sync::Arc};

use crate::custom::Custom;
use evenkeel_api::{ApiObject, Codec, GroupKind, Kind, Scope, conform};
use k8s_openapi::{
    api::{
        admissionregistration::v1 as admission, apps::v1 as apps, autoscaling::v2 as autoscaling,
        batch::v1 as batch, coordination::v1 as coordination, core::v1 as core,
        discovery::v1 as discovery, networking::v1 as networking, policy::v1 as policy,
        rbac::v1 as rbac, scheduling::v1 as scheduling, storage::v1 as storage,
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
};

/// What the server does with objects of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// Stored, and something in the cluster acts on it.
    Served,
    /// Stored; nothing here acts on it, and every write returns a warning about that.
    Passive,
    /// Listed in discovery, every request is refused with this explanation.
    Refused(&'static str),
}

/// One kind with everything the server knows about it.
pub(crate) struct Resource {
    pub(crate) kind: Kind,
    pub(crate) service: Service,
    /// Whether `metadata.generation` counts changes of the desired state.
    pub(crate) has_generation: bool,
    pub(crate) body: Body,
}

/// How bodies of a kind are checked and pruned.
pub(crate) enum Body {
    /// By the Rust type: decodes and encodes again, which drops what the type does not know.
    Typed(Codec),
    /// By the schema in its `CustomResourceDefinition`.
    Custom(Arc<Custom>),
}

impl Resource {
    pub(crate) fn group(&self) -> &str {
        &self.kind.id.group
    }

    pub(crate) fn plural(&self) -> &str {
        &self.kind.plural
    }

    pub(crate) fn is_namespaced(&self) -> bool {
        self.kind.scope == Scope::Namespaced
    }

    /// Whether it is the built-in kind `group`/`kind`.
    pub(crate) fn is(&self, group: &str, kind: &str) -> bool {
        &*self.kind.id.group == group && &*self.kind.id.kind == kind
    }

    pub(crate) fn custom(&self) -> Option<&Arc<Custom>> {
        match &self.body {
            Body::Typed(_) => None,
            Body::Custom(custom) => Some(custom),
        }
    }
}

/// Every kind the server knows, ordered by group and kind.
#[derive(Clone, Default)]
pub(crate) struct Registry {
    by_id: BTreeMap<GroupKind, Arc<Resource>>,
}

impl Registry {
    /// The built-in kinds.
    pub(crate) fn builtin() -> Self {
        let mut registry = Self::default();
        for resource in builtin() {
            registry.insert(resource);
        }
        registry
    }

    pub(crate) fn insert(&mut self, resource: Resource) {
        self.by_id.insert(resource.kind.id.clone(), Arc::new(resource));
    }

    pub(crate) fn remove(&mut self, id: &GroupKind) {
        self.by_id.remove(id);
    }

    pub(crate) fn get(&self, id: &GroupKind) -> Option<&Arc<Resource>> {
        self.by_id.get(id)
    }

    /// The kind behind a URL.
    pub(crate) fn by_url(
        &self,
        group: &str,
        version: &str,
        plural: &str,
    ) -> Option<&Arc<Resource>> {
        self.iter().find(|resource| {
            resource.group() == group
                && resource.plural() == plural
                && resource.kind.versions.iter().any(|served| &**served == version)
        })
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Arc<Resource>> {
        self.by_id.values()
    }
}

/// One row of the table below. Flags: `n` namespaced, `s` status apart, `c` scale, `g` generation,
/// `a` in the category `all`, `p` passive.
fn row<T: ApiObject>(flags: &str, short_names: &[&str]) -> Resource {
    Resource {
        kind: row_kind::<T>(flags, short_names),
        service: if flags.contains('p') { Service::Passive } else { Service::Served },
        has_generation: flags.contains('g'),
        body: Body::Typed(conform::<T>),
    }
}

fn row_kind<T: ApiObject>(flags: &str, short_names: &[&str]) -> Kind {
    let scope = if flags.contains('n') { Scope::Namespaced } else { Scope::Cluster };
    let mut kind = Kind::of::<T>(scope);
    kind.short_names = short_names.iter().map(|&name| name.into()).collect();
    kind.has_status = flags.contains('s');
    kind.has_scale = flags.contains('c');
    if flags.contains('a') {
        kind.categories.push("all".into());
    }
    kind
}

fn refused<T: ApiObject>(flags: &str, short_names: &[&str], why: &'static str) -> Resource {
    let kind = row_kind::<T>(flags, short_names);
    let body = Body::Typed(|_| Err("this kind is not served".to_owned()));
    Resource { kind, service: Service::Refused(why), has_generation: false, body }
}

const NO_RBAC: &str = "this cluster does not enforce RBAC (every token may do everything), \
    so it does not pretend to keep its rules";
const NO_POLICY: &str = "this cluster does not enforce NetworkPolicy (pods share the loopback \
    network), so it does not pretend to keep it";
const NO_QUOTA: &str = "this cluster does not enforce quotas and limit ranges";
const NO_WEBHOOK: &str = "this cluster does not call admission webhooks";

fn builtin() -> Vec<Resource> {
    let mut table = vec![
        row::<core::Namespace>("s", &["ns"]),
        row::<core::Node>("s", &["no"]),
        row::<core::Pod>("n s a", &["po"]),
        row::<core::Service>("n s a", &["svc"]),
        row::<core::ConfigMap>("n", &["cm"]),
        row::<core::Secret>("n", &[]),
        row::<core::Event>("n", &["ev"]),
        row::<core::Endpoints>("n p", &["ep"]),
        row::<core::ServiceAccount>("n p", &["sa"]),
        row::<core::PersistentVolumeClaim>("n s", &["pvc"]),
        row::<core::PersistentVolume>("s", &["pv"]),
        row::<apps::Deployment>("n s c g a", &["deploy"]),
        row::<apps::ReplicaSet>("n s c g a", &["rs"]),
        row::<apps::StatefulSet>("n s c g a", &["sts"]),
        row::<apps::DaemonSet>("n s g a", &["ds"]),
        row::<apps::ControllerRevision>("n", &[]),
        row::<batch::Job>("n s g a", &[]),
        row::<batch::CronJob>("n s g a", &["cj"]),
        row::<autoscaling::HorizontalPodAutoscaler>("n s a p", &["hpa"]),
        row::<coordination::Lease>("n", &[]),
        row::<discovery::EndpointSlice>("n g", &[]),
        row::<policy::PodDisruptionBudget>("n s g", &["pdb"]),
        row::<networking::Ingress>("n s g p", &["ing"]),
        row::<networking::IngressClass>("g p", &[]),
        row::<scheduling::PriorityClass>("p", &["pc"]),
        row::<storage::StorageClass>("", &["sc"]),
        row::<CustomResourceDefinition>("s g", &["crd", "crds"]),
    ];
    table.extend([
        refused::<networking::NetworkPolicy>("n", &["netpol"], NO_POLICY),
        refused::<rbac::Role>("n", &[], NO_RBAC),
        refused::<rbac::RoleBinding>("n", &[], NO_RBAC),
        refused::<rbac::ClusterRole>("", &[], NO_RBAC),
        refused::<rbac::ClusterRoleBinding>("", &[], NO_RBAC),
        refused::<core::ResourceQuota>("n", &["quota"], NO_QUOTA),
        refused::<core::LimitRange>("n", &["limits"], NO_QUOTA),
        refused::<admission::ValidatingWebhookConfiguration>("", &[], NO_WEBHOOK),
        refused::<admission::MutatingWebhookConfiguration>("", &[], NO_WEBHOOK),
    ]);
    for resource in &mut table {
        if resource.is("apiextensions.k8s.io", "CustomResourceDefinition") {
            resource.kind.categories = vec!["api-extensions".into()];
        }
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_with_a_rust_type_has_a_schema_and_a_codec_of_its_own() {
        let served: Vec<_> =
            builtin().into_iter().filter(|r| !matches!(r.service, Service::Refused(_))).collect();
        assert_eq!(served.len(), evenkeel_api::CODECS.len());
        for resource in served {
            let schema = evenkeel_openapi::schema(&resource.kind.id, &mut serde_json::Map::new());
            // Its schemas of schemas have any shape.
            let is_odd = resource.is("apiextensions.k8s.io", "CustomResourceDefinition");
            assert_eq!(schema.is_none(), is_odd, "{}", resource.kind.id);
        }
    }
}
