//! Metrics servers that Canaries and their templates name by address.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use evenkeel_control::Metrics;
use evenkeel_delivery::MetricServers;
use evenkeel_telemetry::shell::PrometheusClient;

/// Servers whose connections are kept: more than a cluster has; a manifest cannot fill the memory.
const SERVERS_MAX: usize = 64;

/// Prometheus servers, each asked over connections of its own.
#[derive(Default)]
pub(crate) struct PrometheusServers(Mutex<BTreeMap<String, Arc<PrometheusClient>>>);

impl std::fmt::Debug for PrometheusServers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("PrometheusServers")
    }
}

impl MetricServers for PrometheusServers {
    fn at(&self, address: &str) -> Result<Arc<dyn Metrics>, String> {
        // Clients are only put in whole; a panic elsewhere leaves the map as good as it was.
        let mut servers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = servers.get(address) {
            return Ok(client.clone());
        }
        if servers.len() >= SERVERS_MAX {
            return Err(format!("{SERVERS_MAX} other metrics servers are named already"));
        }
        let client = PrometheusClient::new(address).map_err(|error| error.to_string())?;
        let client = Arc::new(client);
        servers.insert(address.to_owned(), client.clone());
        Ok(client)
    }
}
