//! Links, addresses and routes of one network namespace.

use std::{
    io,
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, BorrowedFd},
};

use futures::TryStreamExt as _;
use rtnetlink::{
    Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        link::{InfoData, InfoVeth, LinkMessage},
        route::{RouteScope, RouteType},
    },
};

/// Routes of this table answer "is this address ours?". **Source**: `RT_TABLE_LOCAL`.
const LOCAL_TABLE: u32 = 255;

/// The links of the network namespace in which it was opened.
pub(crate) struct Links(Handle);

impl Links {
    /// Of the calling thread's network. Needs a runtime on that thread.
    pub(crate) fn open() -> io::Result<Self> {
        let (connection, handle, _) = rtnetlink::new_connection()?;
        tokio::spawn(connection);
        Ok(Self(handle))
    }

    pub(crate) async fn index(&self, name: &str) -> io::Result<u32> {
        let mut found = self.0.link().get().match_name(name.to_owned()).execute();
        let link = found.try_next().await.map_err(failed)?;
        link.map(|link| link.header.index).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(crate) async fn up(&self, index: u32) -> io::Result<()> {
        let up = LinkUnspec::new_with_index(index).up().build();
        self.0.link().change(up).execute().await.map_err(failed)
    }

    /// A bridge with an address of its own. Without one it takes the lowest of its cables', and pods
    /// would not find it any more when a cable comes or goes.
    pub(crate) async fn add_bridge(&self, name: &str, address: [u8; 6]) -> io::Result<u32> {
        let bridge = LinkBridge::new(name).address(address.to_vec()).build();
        self.0.link().add(bridge).execute().await.map_err(failed)?;
        self.index(name).await
    }

    /// A cable from the bridge to `peer` in another network.
    pub(crate) async fn add_cable(
        &self,
        name: &str,
        bridge: u32,
        (peer, network): (&str, BorrowedFd<'_>),
    ) -> io::Result<()> {
        let peer = LinkUnspec::new_with_name(peer).setns_by_fd(network.as_raw_fd()).build();
        let cable = LinkVeth::new(name, "")
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .up()
            .build();
        self.add(cable).await
    }

    async fn add(&self, link: LinkMessage) -> io::Result<()> {
        self.0.link().add(link).execute().await.map_err(failed)
    }

    pub(crate) async fn remove(&self, index: u32) -> io::Result<()> {
        self.0.link().del(index).execute().await.map_err(failed)
    }

    pub(crate) async fn add_address(
        &self,
        index: u32,
        address: Ipv4Addr,
        bits: u8,
    ) -> io::Result<()> {
        let adding = self.0.address().add(index, address.into(), bits);
        adding.replace().execute().await.map_err(failed)
    }

    /// Makes every address of a range one of this machine's own.
    pub(crate) async fn own_range(
        &self,
        index: u32,
        (base, bits): (Ipv4Addr, u8),
    ) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .kind(RouteType::Local)
            .table_id(LOCAL_TABLE)
            .scope(RouteScope::Host)
            .destination_prefix(base, bits)
            .output_interface(index)
            .build();
        self.0.route().add(route).execute().await.map_err(failed)
    }

    pub(crate) async fn add_default_route(&self, router: Ipv4Addr) -> io::Result<()> {
        let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(router).build();
        self.0.route().add(route).execute().await.map_err(failed)
    }
}

fn failed(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}
