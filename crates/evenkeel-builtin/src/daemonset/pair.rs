use k8s_openapi::api::core::v1::Pod;

use crate::seen::Seen;

/// The pods of a node that stay. **Source**: `findUpdatedPodsOnNode`.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Pair<'a> {
    pub(crate) new: Option<&'a Seen<Pod>>,
    pub(crate) old: Option<&'a Seen<Pod>>,
}
