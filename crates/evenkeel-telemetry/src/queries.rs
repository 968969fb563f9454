use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use evenkeel_promql::{
    ast::Query,
    parser::{ParseError, parse},
};

/// Parsed queries kept: controllers and dashboards ask the same few again and again.
const KEPT_MAX: usize = 512;
/// Longer queries are not worth keeping.
const KEPT_BYTES_MAX: usize = 8 << 10;

/// Parsed queries by their text.
#[derive(Debug, Default)]
pub(crate) struct Queries {
    parsed: Mutex<BTreeMap<Arc<str>, Arc<Query>>>,
}

impl Queries {
    /// Parses a query, or remembers it.
    pub(crate) fn parse(&self, text: &str) -> Result<Arc<Query>, ParseError> {
        let kept = || self.parsed.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(query) = kept().get(text) {
            return Ok(Arc::clone(query));
        }
        let query = Arc::new(parse(text)?);
        if text.len() <= KEPT_BYTES_MAX {
            let mut kept = kept();
            if kept.len() >= KEPT_MAX {
                kept.clear();
            }
            kept.insert(text.into(), Arc::clone(&query));
        }
        Ok(query)
    }
}
