use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use crate::journal::Counters;

/// Hands out Service addresses of one network of 16 bits, and node ports from Kubernetes' range.
///
/// Counts upwards and takes an address again only after all others, so that a client with an old
/// address does not reach another Service.
#[derive(Debug)]
pub(crate) struct Addresses {
    network: [u8; 2],
    taken: BTreeSet<Ipv4Addr>,
    last: u16,
    ports_taken: BTreeSet<u16>,
    port_last: u16,
}

/// Where Services are unless a network was chosen: loopback, which every machine has.
const LOOPBACK: [u8; 2] = [127, 192];

impl Default for Addresses {
    fn default() -> Self {
        Self {
            network: LOOPBACK,
            taken: BTreeSet::new(),
            last: 0,
            ports_taken: BTreeSet::new(),
            port_last: 0,
        }
    }
}

/// First and number of Kubernetes' node ports.
const NODE_PORTS: (u16, u16) = (30_000, 2_768);

impl Addresses {
    /// Hands out addresses of this network from now on.
    pub(crate) fn move_to(&mut self, network: [u8; 2]) {
        self.network = network;
    }

    /// The network, for messages.
    pub(crate) fn range(&self) -> String {
        let [first, second] = self.network;
        format!("{first}.{second}.0.0/16")
    }

    /// What was handed out last.
    pub(crate) fn counters(&self) -> Counters {
        Counters { address: self.last, port: self.port_last }
    }

    /// Forgets what is taken and continues to count from here.
    pub(crate) fn restart(&mut self, from: Counters) {
        let (last, port_last) = (from.address, from.port % NODE_PORTS.1);
        *self = Self { network: self.network, last, port_last, ..Self::default() };
    }

    /// A free address; `None` when all 65,534 are taken.
    pub(crate) fn allocate(&mut self) -> Option<Ipv4Addr> {
        for _ in 0..=u16::MAX {
            self.last = self.last.wrapping_add(1);
            let [high, low] = self.last.to_be_bytes();
            let [first, second] = self.network;
            let address = Ipv4Addr::new(first, second, high, low);
            // Network and broadcast addresses look wrong in logs, but would work.
            if self.last != 0 && self.last != u16::MAX && self.taken.insert(address) {
                return Some(address);
            }
        }
        None
    }

    /// Takes a wanted address; `Err` says why not.
    pub(crate) fn claim(&mut self, wanted: &str) -> Result<(), String> {
        let Ok(IpAddr::V4(address)) = wanted.parse() else {
            return Err("must be an IPv4 address".to_owned());
        };
        if !address.octets().starts_with(&self.network) {
            let range = self.range();
            return Err(format!("the provided IP is not in the valid range {range}"));
        }
        if self.taken.insert(address) {
            Ok(())
        } else {
            Err("provided IP is already allocated".to_owned())
        }
    }

    /// Gives an address back.
    pub(crate) fn release(&mut self, address: &str) {
        if let Ok(address) = address.parse() {
            self.taken.remove(&address);
        }
    }

    /// A free node port.
    pub(crate) fn allocate_port(&mut self) -> Option<u16> {
        for _ in 0..NODE_PORTS.1 {
            self.port_last = (self.port_last + 1) % NODE_PORTS.1;
            let port = NODE_PORTS.0 + self.port_last;
            if self.ports_taken.insert(port) {
                return Some(port);
            }
        }
        None
    }

    /// Takes a wanted node port; false when it is taken.
    pub(crate) fn claim_port(&mut self, wanted: u16) -> bool {
        self.ports_taken.insert(wanted)
    }

    /// Gives a node port back.
    pub(crate) fn release_port(&mut self, port: u16) {
        self.ports_taken.remove(&port);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_unique_and_reused_last() {
        let mut addresses = Addresses::default();
        assert_eq!(addresses.allocate(), Some(Ipv4Addr::new(127, 192, 0, 1)));
        assert_eq!(addresses.claim("127.192.0.2"), Ok(()));
        addresses.release("127.192.0.1");
        assert_eq!(addresses.allocate(), Some(Ipv4Addr::new(127, 192, 0, 3)));
        assert!(addresses.claim("127.192.0.3").is_err() && addresses.claim("10.96.0.1").is_err());
        addresses.move_to([10, 96]);
        assert_eq!(addresses.claim("10.96.0.1"), Ok(()));
        assert_eq!(addresses.range(), "10.96.0.0/16");
    }
}
