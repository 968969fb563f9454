//! Listening sockets: one per worker on the same address, so that workers share nothing.

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// Where a port below 1024 goes when the system does not allow it.
const PORT_OFFSET: u16 = 8000;
/// Connections that wait for a worker.
const BACKLOG: i32 = 1024;

/// Why an address is not served.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BindError {
    /// Another process has it.
    #[error(
        "{0} is in use by another process; stop that, or choose another port where it is given \
         (spec.listeners of the Gateway, spec.ports of the Service)"
    )]
    InUse(SocketAddr),
    /// The machine does not have this address.
    #[error("{0} is not an address of this machine")]
    NotHere(SocketAddr),
    /// The cluster's network cannot be entered.
    #[error("cannot listen on {0}: the cluster's network: {1}")]
    Network(SocketAddr, std::io::ErrorKind),
    /// Anything else the system says.
    #[error("cannot listen on {0}: {1}")]
    System(SocketAddr, Errno),
}

/// An address that is not served is said again after this long, while that lasts.
const SAID_EVERY: Duration = Duration::from_mins(1);

/// The addresses that are not served, so that each is said when that begins or changes and then
/// now and then: they are tried again with every configuration.
#[derive(Debug, Default)]
pub(super) struct Unserved(BTreeMap<SocketAddr, (BindError, Instant)>);

impl Unserved {
    /// Keeps only these.
    pub(super) fn retain(&mut self, keep: impl Fn(&SocketAddr) -> bool) {
        self.0.retain(|address, _| keep(address));
    }

    /// Whether this is to be said now.
    pub(super) fn is_news(&mut self, address: SocketAddr, error: BindError, now: Instant) -> bool {
        let said = self.0.get(&address);
        let is_old = said
            .is_some_and(|(before, at)| *before == error && now.duration_since(*at) < SAID_EVERY);
        if !is_old {
            self.0.insert(address, (error, now));
        }
        !is_old
    }

    /// It is served now; whether it was not before.
    pub(super) fn ended(&mut self, address: SocketAddr) -> bool {
        self.0.remove(&address).is_some()
    }
}

/// `count` sockets on `address`, and the address they really have.
pub(super) fn bind(
    address: SocketAddr,
    count: usize,
) -> Result<(SocketAddr, Vec<TcpListener>), BindError> {
    match bind_exactly(address, count) {
        Err(Errno::ACCESS | Errno::PERM) if address.port() < 1024 => {
            let instead = SocketAddr::new(address.ip(), address.port() + PORT_OFFSET);
            bind_exactly(instead, count).map_err(|errno| explain(instead, errno))
        }
        other => other.map_err(|errno| explain(address, errno)),
    }
}

fn explain(address: SocketAddr, errno: Errno) -> BindError {
    match errno {
        Errno::ADDRINUSE => BindError::InUse(address),
        Errno::ADDRNOTAVAIL => BindError::NotHere(address),
        other => BindError::System(address, other),
    }
}

fn bind_exactly(
    address: SocketAddr,
    count: usize,
) -> Result<(SocketAddr, Vec<TcpListener>), Errno> {
    let mut address = address;
    let mut sockets = Vec::with_capacity(count);
    for _ in 0..count.max(1) {
        let socket = listen_one(address)?;
        // Port 0 is chosen once, for all.
        address = socket.local_addr().map_err(|e| Errno::from_io_error(&e).unwrap_or(Errno::IO))?;
        sockets.push(socket);
    }
    Ok((address, sockets))
}

fn listen_one(address: SocketAddr) -> Result<TcpListener, Errno> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(TcpListener::from(socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_that_is_not_served_is_said_when_that_changes_and_once_a_minute() {
        let mut unserved = Unserved::default();
        let at: SocketAddr = ([127, 0, 0, 1], 80).into();
        let (taken, away) = (BindError::InUse(at), BindError::NotHere(at));
        let start = Instant::now();
        let mut said =
            |seconds: u64, error| unserved.is_news(at, error, start + Duration::from_secs(seconds));
        let first: Vec<_> = [0, 1, 59, 60, 61].map(|second| said(second, taken)).into();
        assert_eq!(first, [true, false, false, true, false]);
        assert_eq!([said(62, away), said(63, away), said(64, taken)], [true, false, true]);
        assert!(unserved.ended(at) && !unserved.ended(at));
        assert!(unserved.is_news(at, taken, start), "it is news again");
        unserved.retain(|_| false);
        assert!(unserved.is_news(at, taken, start));
    }
}
