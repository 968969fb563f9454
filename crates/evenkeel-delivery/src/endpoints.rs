//! Endpoint slices, read leniently: a malformed slice has no endpoints, and the others still
//! count.

use evenkeel_api::{LabelSelector, Obj, Requirement};
use evenkeel_control::ListQuery;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use serde_json::Value;

/// The label that ties an `EndpointSlice` to its Service.
const SERVICE_LABEL: &str = evenkeel_api::labels::SERVICE_NAME;

/// Asks for the slices of these Services.
pub(crate) fn slices_of(services: Vec<String>, namespace: &str) -> ListQuery {
    let labels =
        LabelSelector { requirements: vec![Requirement::In(SERVICE_LABEL.to_owned(), services)] };
    ListQuery::of::<EndpointSlice>().within(namespace).with_labels(labels)
}

/// The Service that a slice belongs to.
pub(crate) fn service_of(slice: &Obj) -> &str {
    slice.label(SERVICE_LABEL).unwrap_or_default()
}

/// The ready endpoints of a slice. As everywhere, one that does not say is ready.
pub(crate) fn ready(slice: &Obj) -> impl Iterator<Item = &Value> {
    let endpoints = slice.json().get("endpoints").and_then(Value::as_array);
    let ready = |endpoint: &&Value| {
        endpoint.is_object() && endpoint.pointer("/conditions/ready") != Some(&Value::Bool(false))
    };
    endpoints.into_iter().flatten().filter(ready)
}
