//! A gateway without a cluster: one address, a fixed list of endpoints.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::engine::{
    Endpoint, EndpointState, Listener, Pool, PoolKey, Protocol, Rule, ServicePort, Snapshot,
};

/// What a gateway without a cluster serves.
#[derive(Debug, Clone)]
pub struct Standalone {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// What connections are.
    pub protocol: Protocol,
    /// Where requests and connections go, in equal shares.
    pub endpoints: Vec<(SocketAddr, EndpointState)>,
}

impl Standalone {
    /// All `endpoints` ready, for HTTP.
    pub fn new(listen: SocketAddr, endpoints: &[SocketAddr]) -> Self {
        let endpoints = endpoints.iter().map(|address| (*address, EndpointState::Ready)).collect();
        Self { listen, protocol: Protocol::Http, endpoints }
    }

    /// The configuration with this generation.
    pub fn snapshot(&self, generation: u64) -> Arc<Snapshot> {
        let workload: Arc<str> = "static".into();
        let endpoints = self.endpoints.iter().map(|(address, state)| Endpoint {
            address: *address,
            workload: Arc::clone(&workload),
            state: *state,
        });
        let key = PoolKey::new("default", "static", self.listen.port());
        let pools = vec![Pool { key, endpoints: endpoints.collect() }];
        let listener = Listener::new("default", "static", vec![Rule::to_pool(0)]);
        let port = ServicePort { protocol: self.protocol, pool: 0, sticky: false };
        let listeners = [(self.listen, listener.at_port(port))].into();
        Arc::new(Snapshot { generation, pools, listeners })
    }
}
