//! Names that others rely on: controller, condition types and reasons.

/// Who writes our entries in the status of routes and Gateways.
pub const CONTROLLER: &str = "evenkeel.dev/gateway";

/// The parent takes the route.
pub const ACCEPTED: &str = "Accepted";
/// All backends of the route exist.
pub const RESOLVED_REFS: &str = "ResolvedRefs";
/// Every worker runs the generation in `observedGeneration`.
pub const PROGRAMMED: &str = "Programmed";

/// The parent does not exist.
pub const NO_MATCHING_PARENT: &str = "NoMatchingParent";
/// No listener serves one of the route's host names.
pub const NO_MATCHING_LISTENER_HOSTNAME: &str = "NoMatchingListenerHostname";
/// The listener does not take routes from there.
pub const NOT_ALLOWED_BY_LISTENERS: &str = "NotAllowedByListeners";
/// The route asks for something that this gateway does not do.
pub const UNSUPPORTED_VALUE: &str = "UnsupportedValue";
/// A backend does not exist.
pub const BACKEND_NOT_FOUND: &str = "BackendNotFound";
/// A backend is no Service.
pub const INVALID_KIND: &str = "InvalidKind";
/// A backend lies in another namespace.
pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
/// An address cannot be listened on.
pub const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
