use std::{
    fs::File,
    io,
    net::Ipv4Addr,
    sync::Arc,
    thread::{self, ScopedJoinHandle},
};

use nix::sched::{CloneFlags, setns, unshare};

use crate::{BRIDGE, BRIDGE_MAC, Forbidden, PODS, ROUTER, SERVICES, links::Links};

/// The network namespace of a cluster. It is there as long as this, or a process or thread inside.
#[derive(Debug, Clone)]
pub struct Network {
    namespace: Arc<File>,
}

impl Network {
    /// Makes one: the bridge for pods, and all Service addresses as its own.
    ///
    /// **Errors**: the process is not isolated (see [`crate::isolate`]), or the system forbids it.
    pub fn create() -> Result<Self, Forbidden> {
        on_a_thread(|| {
            unshare(CloneFlags::CLONE_NEWNET)
                .map_err(Forbidden::during("make a network namespace"))?;
            let namespace = own().map_err(Forbidden::during("open the network namespace"))?;
            block_on(furnish()).map_err(Forbidden::during("set up the cluster's network"))?;
            Ok(Self { namespace: Arc::new(namespace) })
        })
        .unwrap_or_else(|error| Err(Forbidden::during("start a thread")(error)))
    }

    /// Gives the network a further address of its own: that of a node.
    pub fn add_node(&self, address: Ipv4Addr) -> io::Result<()> {
        self.inside(|| {
            block_on(async {
                let links = Links::open()?;
                let bridge = links.index(BRIDGE).await?;
                links.add_address(bridge, address, PODS.1).await
            })
        })?
    }

    /// Moves the calling thread into this network: the sockets that it makes and the processes that
    /// it starts from now on are there.
    pub fn enter(&self) -> io::Result<()> {
        Ok(setns(&*self.namespace, CloneFlags::CLONE_NEWNET)?)
    }

    /// Does something in this network, on a thread of its own, and waits for it.
    pub fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        on_a_thread(|| self.enter().map(|()| work()))?
    }
}

async fn furnish() -> io::Result<()> {
    let links = Links::open()?;
    let loopback = links.index("lo").await?;
    links.up(loopback).await?;
    let bridge = links.add_bridge(BRIDGE, BRIDGE_MAC).await?;
    links.add_address(bridge, ROUTER, PODS.1).await?;
    links.own_range(loopback, SERVICES).await
}

/// The network namespace of the calling thread.
pub(crate) fn own() -> io::Result<File> {
    File::open("/proc/thread-self/ns/net")
}

/// Runs a future on this thread.
pub(crate) fn block_on<R>(work: impl Future<Output = io::Result<R>>) -> io::Result<R> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// What changes the namespaces of a thread runs on one that ends afterwards.
pub(crate) fn on_a_thread<R: Send>(work: impl FnOnce() -> R + Send) -> io::Result<R> {
    thread::scope(|scope| {
        let thread: ScopedJoinHandle<'_, R> =
            thread::Builder::new().name("network".to_owned()).spawn_scoped(scope, work)?;
        thread.join().map_err(|_| io::Error::other("a thread of the network panicked"))
    })
}
