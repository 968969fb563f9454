//! Who splits the traffic of a Canary; `routing.rs` has what each of them is asked.

use evenkeel_api::{GroupKind, httproute::HttpRoute, weighted};
use k8s_openapi::api::core::v1::Service;

/// Who splits traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) enum Router {
    /// An `HTTPRoute`, served by evenkeel's gateway or another implementation.
    #[default]
    Gateway,
    /// A `VirtualService`.
    Istio,
    /// The apex Service itself, which shares requests by pods.
    Service,
}

impl Router {
    /// The router of a `spec.provider`; one that is unknown is refused elsewhere.
    pub(crate) fn of(provider: Option<&str>) -> Self {
        match provider {
            Some("istio") => Self::Istio,
            Some("kubernetes") => Self::Service,
            _ => Self::Gateway,
        }
    }

    /// The kind that holds the weight.
    pub(crate) fn kind(self) -> GroupKind {
        match self {
            Self::Gateway => GroupKind::of::<HttpRoute>(),
            Self::Istio => weighted::virtual_service(),
            Self::Service => GroupKind::of::<Service>(),
        }
    }

    /// What to install where the server does not have that kind.
    pub(crate) fn install(self) -> &'static str {
        match self {
            Self::Gateway => {
                "install the CRDs of the Gateway API (`evenkeel crds --all` prints HTTPRoute and \
                 Gateway), and an implementation that serves them"
            }
            Self::Istio => {
                "spec.provider istio needs Istio: install it (the chart istio/base has its CRDs), \
                 or write another provider"
            }
            Self::Service => "every Kubernetes has it",
        }
    }

    /// What splits traffic, in a message about a field that it cannot express.
    pub(crate) fn words(self) -> &'static str {
        match self {
            Self::Gateway => "an HTTPRoute",
            Self::Istio => "a VirtualService",
            Self::Service => "the selector of a Service",
        }
    }
}
