//! The network of the cluster: one of its own where the machine allows it, else the host's loopback
//! addresses.

use std::{
    io,
    net::{IpAddr, SocketAddr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, bail};
use evenkeel_api::{GroupKind, Obj};
use evenkeel_control::{ListQuery, Store};
use evenkeel_network::{API, DNS, Network, PODS, SERVICES, Server};
use k8s_openapi::api::core::v1::Node;
use serde_json::json;

use super::{load, names, part::Part};
use crate::{io::complain, network_arg::NetworkArg};

/// Port of the API server at its Service address.
const API_PORT: u16 = 443;
/// Longest wait for a connection into the cluster.
const CONNECT_MAX: Duration = Duration::from_secs(10);

/// A network of the cluster's own.
#[derive(Debug, Clone)]
pub(crate) struct Own(Network);

/// Makes the cluster's own network, if that is wanted and possible. It must be called while the
/// process has one thread.
pub(crate) fn prepare(wanted: NetworkArg) -> anyhow::Result<Option<Own>> {
    if wanted == NetworkArg::Host {
        return Ok(None);
    }
    if let Err(why) = try_out() {
        if wanted == NetworkArg::Own {
            bail!("--network own: {why}");
        }
        complain(&format!(
            "this machine does not let the cluster have a network of its own ({why}): pods share \
             the loopback network of the host, names do not resolve, and there are no volumes"
        ));
        return Ok(None);
    }
    evenkeel_network::isolate().context("isolate this process")?;
    Ok(Some(Own(Network::create().context("make the cluster's network")?)))
}

/// What is forbidden half-way cannot be undone, so a process of its own tries it.
fn try_out() -> Result<(), String> {
    let tried = Command::new("/proc/self/exe")
        .arg0("evenkeel")
        .arg(TRY)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| error.to_string())?;
    if tried.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&tried.stderr).trim().to_owned();
    Err(if why.is_empty() { tried.status.to_string() } else { why })
}

/// The hidden subcommand that tries whether a network can be made.
pub(crate) const TRY: &str = "try-network";

/// The main function of [`TRY`].
pub(crate) fn try_main() -> ExitCode {
    let made = evenkeel_network::isolate().and_then(|()| Network::create());
    match made {
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::FAILURE
        }
    }
}

impl Own {
    /// Moves the calling thread into the cluster's network.
    pub(super) fn enter(&self) -> io::Result<()> {
        self.0.enter()
    }

    /// Starts something from a thread in the cluster's network.
    pub(super) fn inside<R: Send>(&self, work: impl FnOnce() -> R + Send) -> io::Result<R> {
        self.0.inside(work)
    }

    /// Where node agents and pods reach the API server.
    pub(super) fn api() -> SocketAddr {
        (API, API_PORT).into()
    }

    /// The first two bytes of all Service addresses.
    pub(super) fn services() -> [u8; 2] {
        let [first, second, ..] = SERVICES.0.octets();
        [first, second]
    }

    /// Addresses of Services on which the gateway must not listen.
    pub(super) fn reserved() -> [IpAddr; 2] {
        [API.into(), DNS.into()]
    }

    /// A listener at [`Self::api`].
    pub(super) fn listen(&self) -> anyhow::Result<TcpListener> {
        let bound = self.0.inside(|| TcpListener::bind(Self::api()));
        bound.and_then(|bound| bound).context("serve the Kubernetes API in the cluster")
    }

    /// Gives the `index`th node its address, and its pods theirs.
    pub(super) fn place(&self, node: &mut Node, index: usize) -> anyhow::Result<()> {
        let [first, second, ..] = PODS.0.octets();
        let third = u8::try_from(index).context("a cluster has at most 256 nodes")?;
        let cidr = format!("{first}.{second}.{third}.0/24");
        if let Some(spec) = &mut node.spec {
            spec.pod_cidrs = Some(vec![cidr.clone()]);
            spec.pod_cidr = Some(cidr);
        }
        self.0.add_node([first, second, third, 1].into()).context("the address of a node")
    }

    /// The Services of the cluster itself, and the names of all.
    pub(super) async fn start_names(&self, store: Arc<dyn Store>) -> anyhow::Result<[Part; 2]> {
        for body in own_services() {
            let obj = Obj::from_json(body).context("a Service of the cluster")?;
            load::put(store.as_ref(), &obj).await.with_context(|| obj.key().to_string())?;
        }
        let (sender, zone) = tokio::sync::watch::channel(Arc::default());
        let server = Server::bind(&self.0, DNS, zone).context("serve names")?;
        Ok([
            Part::task("names", names::follow(store, sender)),
            Part::task("name-server", server.run()),
        ])
    }
}

/// Refuses objects of a cluster in another network: addresses of its Services, nodes and pods are
/// not reached in this one.
pub(super) async fn check_kept(store: &dyn Store, is_own: bool) -> anyhow::Result<()> {
    let nodes = store.list(&ListQuery::all(GroupKind::of::<Node>())).await?.items;
    let mut ranges = nodes.iter().filter_map(|node| node.json().pointer("/spec/podCIDR")?.as_str());
    let Some(was_own) = ranges.next().map(|range| !range.starts_with("127.")) else {
        return Ok(());
    };
    if was_own == is_own {
        return Ok(());
    }
    let (had, flag) =
        if was_own { ("a network of its own", "own") } else { ("the host's network", "host") };
    bail!(
        "the cluster in the data folder is one with {had}: start it with --network {flag}, or \
         forget it with --fresh"
    )
}

fn is_inside(address: IpAddr) -> bool {
    let IpAddr::V4(address) = address else { return false };
    [PODS, SERVICES].iter().any(|(base, bits)| {
        let mask = u32::MAX.checked_shl(32 - u32::from(*bits)).unwrap_or(0);
        u32::from(address) & mask == u32::from(*base) & mask
    })
}

impl evenkeel_gateway::shell::Network for Own {
    fn enter(&self) -> io::Result<()> {
        self.0.enter()
    }

    fn has(&self, address: IpAddr) -> bool {
        is_inside(address)
    }
}

impl evenkeel_live::OtherNetwork for Own {
    fn has(&self, address: IpAddr) -> bool {
        is_inside(address)
    }

    fn connect(&self, to: SocketAddr) -> io::Result<TcpStream> {
        self.0.inside(|| TcpStream::connect_timeout(&to, CONNECT_MAX))?
    }
}

/// **Source**: what kubeadm makes.
fn own_services() -> [serde_json::Value; 2] {
    let labels = json!({"component": "apiserver", "provider": "kubernetes"});
    let api = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kubernetes", "namespace": "default", "labels": labels},
        "spec": {"clusterIP": API.to_string(),
            "ports": [{"name": "https", "port": API_PORT, "targetPort": API_PORT}]}});
    let labels = json!({"k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true",
        "kubernetes.io/name": "CoreDNS"});
    let dns = json!({"apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": labels},
        "spec": {"clusterIP": DNS.to_string(), "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53}]}});
    [api, dns]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_pods_and_services_are_inside() {
        for (address, inside) in [
            ("10.96.0.1", true),
            ("10.96.255.255", true),
            ("10.244.7.3", true),
            ("10.97.0.1", false),
            ("127.0.0.1", false),
            ("::1", false),
        ] {
            assert_eq!(is_inside(address.parse().unwrap()), inside, "{address}");
        }
    }
}
