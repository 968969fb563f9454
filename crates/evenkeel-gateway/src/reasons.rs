//! Names that others rely on: controller, condition types and reasons.

/// The controller name in our entries in the status of routes and Gateways.
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
/// A backend is not a Service.
pub const INVALID_KIND: &str = "InvalidKind";
/// A backend lies in another namespace that does not let the route refer to it.
pub const REF_NOT_PERMITTED: &str = "RefNotPermitted";
/// An address cannot be listened on.
pub const ADDRESS_NOT_USABLE: &str = "AddressNotUsable";
/// An address in the Gateway's spec is not an IP address.
pub const UNSUPPORTED_ADDRESS: &str = "UnsupportedAddress";
/// Some listeners of a Gateway are not served.
pub const LISTENERS_NOT_VALID: &str = "ListenersNotValid";

/// Two listeners of a Gateway want the same.
pub const CONFLICTED: &str = "Conflicted";
/// They do not.
pub const NO_CONFLICTS: &str = "NoConflicts";
/// Two listeners have the same port and host name.
pub const HOSTNAME_CONFLICT: &str = "HostnameConflict";
/// The port is used by another process.
pub const PORT_UNAVAILABLE: &str = "PortUnavailable";
/// The listener wants something else than HTTP.
pub const UNSUPPORTED_PROTOCOL: &str = "UnsupportedProtocol";
/// The listener lets in kinds of routes that are not served.
pub const INVALID_ROUTE_KINDS: &str = "InvalidRouteKinds";
/// A field has a value that makes no sense.
pub const INVALID: &str = "Invalid";
