use evenkeel_api::Key;
use jiff::Timestamp;
use serde_json::Value;

use crate::{
    error::ApiError,
    resource::Resource,
    state::State,
    write::{WriteContext, Written},
};

impl State {
    pub(crate) fn apply(
        &mut self,
        now: Timestamp,
        resource: &Resource,
        key: &Key,
        body: Value,
        force: bool,
        context: &WriteContext,
    ) -> Result<Written, ApiError> {
        let _ = (now, resource, key, body, force, context);
        Err(ApiError::new(415, "UnsupportedMediaType", "server-side apply is not supported"))
    }
}
