//! Metrics servers that Canaries and their templates name by address.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use evenkeel_control::Metrics;
use evenkeel_delivery::MetricServers;
use evenkeel_telemetry::shell::PrometheusClient;

/// Servers whose connections are kept; beyond it the ones that were not asked for longest are
/// dropped.
const SERVERS_MAX: usize = 64;

/// Prometheus servers, each asked over connections of its own.
#[derive(Default)]
pub(crate) struct PrometheusServers {
    own: Option<String>,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// By address, each with the number of the request that asked for it last.
    clients: BTreeMap<String, (u64, Arc<PrometheusClient>)>,
    requests: u64,
}

impl PrometheusServers {
    /// Servers besides the one at this URL, which is asked where none is named.
    pub(crate) fn beside(own: &str) -> Self {
        Self { own: Some(own.to_owned()), known: Mutex::default() }
    }
}

impl std::fmt::Debug for PrometheusServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrometheusServers")
    }
}

impl MetricServers for PrometheusServers {
    fn at(&self, address: &str) -> Result<Arc<dyn Metrics>, String> {
        // Clients are inserted whole; a panic elsewhere leaves the map consistent.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.requests += 1;
        let request = known.requests;
        if let Some((last, client)) = known.clients.get_mut(address) {
            *last = request;
            return Ok(client.clone());
        }
        let client = PrometheusClient::new(address).map_err(|error| error.to_string())?;
        let client = Arc::new(client);
        if known.clients.len() >= SERVERS_MAX {
            let oldest = known.clients.iter().min_by_key(|(_, (last, _))| *last);
            if let Some(oldest) = oldest.map(|(address, _)| address.clone()) {
                known.clients.remove(&oldest);
            }
        }
        known.clients.insert(address.to_owned(), (request, client.clone()));
        Ok(client)
    }

    fn own(&self) -> Option<&str> {
        self.own.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unused_servers_make_room() {
        let servers = PrometheusServers::default();
        let first = servers.at("http://first:9090").unwrap();
        for n in 0..SERVERS_MAX {
            servers.at(&format!("http://preview-{n}:9090")).unwrap();
            servers.at("http://first:9090").unwrap();
        }
        let again = servers.at("http://first:9090").unwrap();
        assert!(std::ptr::addr_eq(Arc::as_ptr(&first), Arc::as_ptr(&again)));
        let known = servers.known.lock().unwrap();
        assert_eq!(known.clients.len(), SERVERS_MAX);
        assert!(!known.clients.contains_key("http://preview-0:9090"));
    }
}
