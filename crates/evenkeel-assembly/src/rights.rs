//! What each domain asks of the API server, for the roles that `evenkeel install` prints.
//!
//! A simulated life of releases asks for no more, and writes no less (`evenkeel-sim`'s test
//! `rights`); the suite on a real control plane runs with exactly these.

/// Verbs on objects of one API group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Right {
    /// The API group; empty for the core group.
    pub group: &'static str,
    /// Plural names, with the subresource where it is one: `canaries/status`.
    pub resources: &'static [&'static str],
    /// As RBAC writes them.
    pub verbs: &'static [&'static str],
}

const fn right(
    group: &'static str,
    resources: &'static [&'static str],
    verbs: &'static [&'static str],
) -> Right {
    Right { group, resources, verbs }
}

const READ: &[&str] = &["get", "list", "watch"];
/// What is made, and kept as it should be.
const KEEP: &[&str] = &["get", "list", "watch", "create", "patch"];

/// Whatever runs: the door's error budget policy follows Canaries, and everybody writes Events.
pub const COMMON: &[Right] = &[
    right("flagger.app", &["canaries"], READ),
    // Whose definition of a kind is installed, and what of a status it keeps.
    right("apiextensions.k8s.io", &["customresourcedefinitions"], READ),
    // One that comes again is counted up.
    right("", &["events"], &["get", "create", "patch"]),
];

/// In the namespace of the Leases.
pub const LEASES: &[Right] = &[right("coordination.k8s.io", &["leases"], KEEP)];

pub(crate) const DELIVERY: &[Right] = &[
    // The finalizer, the hand-over of what is selected, and what another project's definition does
    // not keep of a status.
    right("flagger.app", &["canaries"], &["patch"]),
    right("flagger.app", &["canaries/status"], &["patch"]),
    // What a Canary owns may block its deletion: OwnerReferencesPermissionEnforcement asks for this.
    right("flagger.app", &["canaries/finalizers"], &["update"]),
    right("flagger.app", &["metrictemplates", "alertproviders"], READ),
    right("apps", &["deployments"], KEEP),
    // Copies for the primary. The content of a Secret is read where a Canary's target uses it.
    right("", &["services", "configmaps", "secrets"], KEEP),
    // Why pods do not start; and with plain Services, which of them share requests.
    right("", &["pods"], &["get", "list", "watch", "patch"]),
    right("discovery.k8s.io", &["endpointslices"], READ),
    right("gateway.networking.k8s.io", &["gateways"], READ),
    right("gateway.networking.k8s.io", &["httproutes"], KEEP),
    right("gateway.networking.k8s.io", &["httproutes"], &["delete"]),
    // Canaries with provider istio; where there is no Istio, these mean nothing.
    right("networking.istio.io", &["gateways"], READ),
    right("networking.istio.io", &["virtualservices", "destinationrules"], KEEP),
    right("networking.istio.io", &["virtualservices"], &["delete"]),
];

pub(crate) const SLO: &[Right] = &[
    right("sloth.slok.dev", &["prometheusservicelevels"], READ),
    right("sloth.slok.dev", &["prometheusservicelevels/status"], &["patch"]),
    // What Sloth's and Flagger's definitions do not keep of a status is kept in an annotation.
    right("sloth.slok.dev", &["prometheusservicelevels"], &["patch"]),
    right("flagger.app", &["canaries"], &["patch"]),
    right("sloth.slok.dev", &["prometheusservicelevels/finalizers"], &["update"]),
    right("monitoring.coreos.com", &["prometheusrules"], KEEP),
    right("monitoring.coreos.com", &["prometheusrules"], &["delete"]),
    right("evenkeel.dev", &["errorbudgetpolicies", "slomaintenances", "breakglasses"], READ),
    right("evenkeel.dev", &["errorbudgetpolicies/status"], &["patch"]),
    // Whether Sloth or Flagger runs.
    right("apps", &["deployments"], &["list", "watch"]),
    // The answer of the error budget.
    right("flagger.app", &["canaries/status"], &["patch"]),
];
