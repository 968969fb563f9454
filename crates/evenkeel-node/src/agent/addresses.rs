use std::{
    collections::BTreeSet,
    net::{IpAddr, Ipv4Addr},
};

use super::AgentError;

/// The addresses of one node: its own and those of its pods.
#[derive(Debug)]
pub(super) struct Addresses {
    base: u32,
    size: u32,
    next: u32,
    used: BTreeSet<Ipv4Addr>,
}

impl Addresses {
    /// Reads `127.64.0.0/16`.
    pub(super) fn parse(cidr: &str) -> Result<Self, AgentError> {
        let fail = || AgentError::PodCidr { cidr: cidr.to_owned() };
        let (ip, bits) = cidr.split_once('/').ok_or_else(fail)?;
        let ip: Ipv4Addr = ip.parse().map_err(|_| fail())?;
        let bits: u32 = bits.parse().map_err(|_| fail())?;
        if !(8..=28).contains(&bits) {
            return Err(fail());
        }
        let size = 1 << (32 - bits);
        let base = u32::from(ip) & !(size - 1);
        Ok(Self { base, size, next: 2, used: BTreeSet::new() })
    }

    /// The node's own address: the first one.
    pub(super) fn node(&self) -> IpAddr {
        Ipv4Addr::from(self.base + 1).into()
    }

    /// Takes the wanted address if it is free, else the next one. Addresses go round, so that one
    /// is not used again while its last owner may still be remembered.
    pub(super) fn take(&mut self, wanted: Option<IpAddr>) -> Option<IpAddr> {
        if let Some(IpAddr::V4(wanted)) = wanted {
            let offset = u32::from(wanted).wrapping_sub(self.base);
            if (2..self.size).contains(&offset) && self.used.insert(wanted) {
                return Some(wanted.into());
            }
        }
        for _ in 0..self.size {
            let offset = self.next;
            self.next = if offset + 1 >= self.size { 2 } else { offset + 1 };
            let ip = Ipv4Addr::from(self.base + offset);
            // Some programs take x.x.x.0 and x.x.x.255 for networks.
            if !matches!(ip.octets()[3], 0 | 255) && self.used.insert(ip) {
                return Some(ip.into());
            }
        }
        None
    }

    pub(super) fn give_back(&mut self, ip: IpAddr) {
        if let IpAddr::V4(ip) = ip {
            self.used.remove(&ip);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_go_round_and_are_kept_over_a_restart() {
        let mut addresses = Addresses::parse("127.65.0.0/28").unwrap();
        assert_eq!(addresses.node().to_string(), "127.65.0.1");
        let kept: IpAddr = "127.65.0.3".parse().unwrap();
        assert_eq!(addresses.take(Some(kept)), Some(kept));
        let taken: Vec<_> = std::iter::from_fn(|| addresses.take(None)).collect();
        assert_eq!(taken.len(), 13);
        assert!(!taken.contains(&kept));
        addresses.give_back(taken[0]);
        assert_eq!(addresses.take(Some(kept)), Some(taken[0]));
        assert!(Addresses::parse("127.65.0.0").is_err());
    }
}
