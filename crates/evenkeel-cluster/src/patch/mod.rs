mod json;
mod strategic;

pub(crate) use strategic::{Merge, strategy};

use evenkeel_api::json::merge;
use evenkeel_control::Patch;
use serde_json::Value;

use crate::{error::ApiError, resource::Resource};

/// The body that a patch makes out of `old`.
pub(crate) fn apply(resource: &Resource, old: &Value, patch: &Patch) -> Result<Value, ApiError> {
    match patch {
        Patch::Replace(new) => Ok(new.clone()),
        Patch::Merge(patch) => {
            let mut new = old.clone();
            merge(&mut new, patch);
            Ok(new)
        }
        Patch::Json(operations) => json::apply(old, operations),
        Patch::Strategic(patch) if resource.custom().is_none() => strategic::apply(old, patch),
        Patch::Strategic(_) => Err(ApiError::new(
            415,
            "UnsupportedMediaType",
            "strategic merge patch is not supported for custom kinds: use a merge patch",
        )),
    }
}
