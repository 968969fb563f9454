use serde_json::Value;

use crate::error::ApiError;

pub(crate) fn decode(_body: &[u8]) -> Result<Value, ApiError> {
    Err(ApiError::new(415, "UnsupportedMediaType", "protobuf bodies are not supported"))
}
