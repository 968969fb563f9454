use serde_json::Value;

use crate::typed::ApiObject;

/// The unit tests of this crate do without: it is most of what there is to compile here.
#[cfg(not(test))]
pub(crate) mod builtin;

/// Decodes a body as `T` and encodes it again: what `T` does not know is dropped.
///
/// **Errors**: the decoder's words for a body that does not fit.
pub fn conform<T: ApiObject>(body: &Value) -> Result<Value, String> {
    let typed = T::deserialize(body).map_err(|error| error.to_string())?;
    serde_json::to_value(&typed).map_err(|error| error.to_string())
}

/// [`conform`] for one kind.
pub type Codec = fn(&Value) -> Result<Value, String>;
