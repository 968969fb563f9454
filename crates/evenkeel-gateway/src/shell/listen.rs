//! Listening sockets: one per worker on the same address, so that workers share nothing.

use std::net::{SocketAddr, TcpListener};

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
    #[error("{0} is in use by another process; stop that, or choose another port")]
    InUse(SocketAddr),
    /// The machine does not have this address.
    #[error("{0} is not an address of this machine")]
    NotHere(SocketAddr),
    /// Anything else the system says.
    #[error("cannot listen on {0}: {1}")]
    System(SocketAddr, Errno),
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
