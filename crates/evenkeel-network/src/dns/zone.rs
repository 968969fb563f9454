use std::{
    collections::{BTreeMap, BTreeSet},
    net::Ipv4Addr,
};

/// What a name stands for.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// An A record.
    Address(Ipv4Addr),
    /// An SRV record; all weigh the same.
    Port(Target),
    /// A PTR record.
    Name(String),
    /// A CNAME: the name, inside or outside of the zone.
    Alias(String),
}

/// Where a port is.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Target {
    /// A name that has an address in the zone.
    pub name: String,
    /// Its port.
    pub port: u16,
}

/// The names of a cluster. Names have no final dot and are looked up in any case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Zone {
    names: BTreeMap<String, BTreeSet<Record>>,
    /// Names below which there are others.
    branches: BTreeSet<String>,
}

/// What a zone knows of a name.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Known<'a> {
    Records(Vec<&'a Record>),
    /// The name exists, without records or as a branch.
    Empty,
    /// There is no such name in a domain that is ours.
    Nowhere,
    /// It belongs to others.
    NotOurs,
}

/// The domain of the cluster. **Source**: the default of kubeadm.
pub(super) const DOMAIN: &str = "cluster.local";
/// Domains of the addresses of Services and pods. **Source**: RFC 1035, 3.5.
const REVERSE: [&str; 2] = ["96.10.in-addr.arpa", "244.10.in-addr.arpa"];

impl Zone {
    /// Adds a record. Names in other domains than the cluster's are never answered.
    pub fn add(&mut self, name: &str, record: Record) {
        let name = name.to_ascii_lowercase();
        let mut rest = name.as_str();
        while let Some((_, parent)) = rest.split_once('.') {
            self.branches.insert(parent.to_owned());
            rest = parent;
        }
        self.names.entry(name).or_default().insert(record);
    }

    /// Adds the name that an address has.
    pub fn add_reverse(&mut self, address: Ipv4Addr, name: &str) {
        let [a, b, c, d] = address.octets();
        self.add(&format!("{d}.{c}.{b}.{a}.in-addr.arpa"), Record::Name(name.to_owned()));
    }

    pub(super) fn look_up(&self, name: &str) -> Known<'_> {
        let name = name.to_ascii_lowercase();
        if let Some(records) = self.names.get(&name) {
            return Known::Records(records.iter().collect());
        }
        let is_in = |domain: &str| {
            let front = name.strip_suffix(domain);
            front.is_some_and(|front| front.is_empty() || front.ends_with('.'))
        };
        if !is_in(DOMAIN) && !REVERSE.iter().any(|domain| is_in(domain)) {
            return Known::NotOurs;
        }
        if self.branches.contains(&name) || name == DOMAIN { Known::Empty } else { Known::Nowhere }
    }
}
