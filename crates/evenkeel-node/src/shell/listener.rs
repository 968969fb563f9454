//! Whose socket a probe would reach, where pods share the network of the host: one that listens on
//! all addresses answers for all pods.

use std::{
    collections::BTreeSet,
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// State of a socket that listens. **Source**: `TCP_LISTEN` in `net/tcp_states.h`.
const LISTENS: &str = "0A";

/// A socket that takes the connections to an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listener {
    inode: u64,
    /// Whether it takes those to all other addresses, too.
    is_wildcard: bool,
}

/// Why a connection to a container at this address would say nothing about it; `None` when it
/// would, and when nothing listens there. `shim` is the parent of all of its processes.
pub(super) fn misleading(address: IpAddr, port: u16, shim: i32) -> Option<String> {
    let table = |name: &str| fs::read_to_string(format!("/proc/net/{name}")).unwrap_or_default();
    let listener = find(&table("tcp"), &table("tcp6"), address, port)?;
    verdict(listener, sockets_below(shim).contains(&listener.inode), address, port)
}

fn verdict(listener: Listener, is_own: bool, address: IpAddr, port: u16) -> Option<String> {
    let advice = format!(
        "the pods of this cluster share the network of the host: let the program listen on \
         $POD_IP ({address}), or start the cluster with --network own"
    );
    match (listener.is_wildcard, is_own) {
        (false, _) => None,
        (true, true) => {
            Some(format!("the container listens on port {port} of all addresses; {advice}"))
        }
        (true, false) => Some(format!(
            "another process listens on port {port} of all addresses, and would answer for this \
             container; {advice}"
        )),
    }
}

/// The socket that the system would choose: one for the address itself before one for all.
fn find(tcp: &str, tcp6: &str, address: IpAddr, port: u16) -> Option<Listener> {
    let rows = tcp.lines().chain(tcp6.lines()).filter_map(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let (local, state) = (*fields.get(1)?, *fields.get(3)?);
        let (ip, row_port) = local.split_once(':')?;
        if state != LISTENS || u16::from_str_radix(row_port, 16) != Ok(port) {
            return None;
        }
        Some((address_of(ip)?, fields.get(9)?.parse::<u64>().ok()?))
    });
    let fitting = rows.filter_map(|(ip, inode)| {
        let is_wildcard = ip.is_unspecified();
        (is_wildcard || ip == address).then_some(Listener { inode, is_wildcard })
    });
    fitting.min_by_key(|listener| listener.is_wildcard)
}

/// Reads `0100007F`, or four of them.
fn address_of(hex: &str) -> Option<IpAddr> {
    let words = (0..hex.len()).step_by(8).map(|at| {
        // Each word is in the order of this machine.
        let word = hex.get(at..at + 8)?;
        Some(u32::from_str_radix(word, 16).ok()?.to_ne_bytes())
    });
    let bytes: Vec<u8> = words.collect::<Option<Vec<_>>>()?.concat();
    if let Ok(four) = <[u8; 4]>::try_from(bytes.as_slice()) {
        return Some(Ipv4Addr::from(four).into());
    }
    let sixteen = <[u8; 16]>::try_from(bytes.as_slice()).ok()?;
    Some(Ipv6Addr::from(sixteen).to_canonical())
}

/// Numbers of the sockets that the processes below one hold.
fn sockets_below(shim: i32) -> BTreeSet<u64> {
    let mut found = BTreeSet::new();
    let mut left = vec![shim.to_string()];
    while let Some(pid) = left.pop() {
        let entries = |kind: &str| {
            fs::read_dir(format!("/proc/{pid}/{kind}")).into_iter().flatten().flatten()
        };
        for task in entries("task") {
            let children = fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(children.split_whitespace().map(str::to_owned));
        }
        for file in entries("fd") {
            let target = fs::read_link(file.path()).unwrap_or_default();
            let number = target.to_str().and_then(|name| name.strip_prefix("socket:["));
            found.extend(number.and_then(|name| name.strip_suffix(']')?.parse::<u64>().ok()));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n";
    const POD: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 64, 0, 3));

    fn row(local: &str, state: &str, inode: u64) -> String {
        format!("   0: {local} 00000000:0000 {state} 0:0 00:0 0 0 0 {inode} 1 0 100 0 0 10 0\n")
    }

    #[test]
    fn a_socket_of_the_address_itself_comes_first() {
        let own = row("0300407F:1F90", "0A", 11);
        let all = row("00000000:1F90", "0A", 12);
        let tcp = format!("{HEAD}{all}{own}");
        assert_eq!(find(&tcp, "", POD, 8080), Some(Listener { inode: 11, is_wildcard: false }));
        let tcp = format!("{HEAD}{all}");
        assert_eq!(find(&tcp, "", POD, 8080), Some(Listener { inode: 12, is_wildcard: true }));
        assert_eq!(find(&tcp, "", POD, 8081), None);
        // A connection is no listener, nor is the socket of another pod.
        let others =
            format!("{}{}", row("0300407F:1F90", "01", 13), row("0400407F:1F90", "0A", 14));
        assert_eq!(find(&others, "", POD, 8080), None);
    }

    #[test]
    fn both_families_are_looked_at() {
        let any = row(&format!("{}:1F90", "0".repeat(32)), "0A", 21);
        assert_eq!(find("", &any, POD, 8080), Some(Listener { inode: 21, is_wildcard: true }));
        let mapped = row("0000000000000000FFFF00000300407F:1F90", "0A", 22);
        assert_eq!(find("", &mapped, POD, 8080), Some(Listener { inode: 22, is_wildcard: false }));
    }

    #[test]
    fn a_wildcard_is_refused_whoever_has_it() {
        let all = Listener { inode: 1, is_wildcard: true };
        let said = |is_own| verdict(all, is_own, POD, 8080).unwrap();
        assert!(said(true).starts_with("the container listens on port 8080 of all addresses"));
        assert!(said(false).starts_with("another process listens on port 8080"));
        assert_eq!(verdict(Listener { is_wildcard: false, ..all }, false, POD, 8080), None);
    }

    #[test]
    fn a_process_holds_its_sockets_and_those_of_its_children() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let own = i32::try_from(std::process::id()).unwrap();
        let why = misleading(IpAddr::V4(Ipv4Addr::LOCALHOST), port, own).unwrap();
        assert!(why.starts_with("the container listens"), "{why}");
        drop(listener);
        assert_eq!(misleading(IpAddr::V4(Ipv4Addr::LOCALHOST), port, own), None);
    }
}
