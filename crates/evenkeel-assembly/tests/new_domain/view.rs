//! What the greeter sees.

use std::sync::Arc;

use evenkeel_api::{Key, Obj};
use evenkeel_control::{ObserveError, Ports};
use k8s_openapi::api::core::v1::ConfigMap;

/// One ConfigMap that asks for a greeting, and the greeting.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) asks: Arc<Obj>,
    pub(crate) greeting: Option<Arc<Obj>>,
}

pub(crate) fn greeting_of(key: &Key) -> Key {
    key.sibling::<ConfigMap>(&format!("{}-greeting", key.name))
}

pub(crate) async fn observe(key: &Key, ports: &Ports) -> Result<Option<View>, ObserveError> {
    let Some(asks) = ports.read.get(key).await? else { return Ok(None) };
    let greeting = ports.read.get(&greeting_of(key)).await?;
    Ok(Some(View { asks, greeting }))
}
