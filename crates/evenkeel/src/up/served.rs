//! The Kubernetes API of the cluster: who may come in, and where.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use evenkeel_api::clusterconfig::NodeSpec;
use evenkeel_cluster::{
    ApiServer,
    http::{HttpOptions, ServeError, Serving, kubeconfig, kubeconfig_at, serve_also},
};

use super::{agents, durable::ClusterFolder, exec, logs, network::Own, secrets};
use crate::{cli::UpArgs, io};

/// The API, which is served as long as this is held.
pub(super) struct Served {
    _serving: Serving,
    /// The administrator's.
    pub(super) kubeconfig: PathBuf,
    /// One per node, each with a token of its own.
    pub(super) agents: Vec<PathBuf>,
}

/// Serves the API with the tokens and at the port of the last time.
pub(super) async fn serve_api(
    args: &UpArgs,
    folder: &ClusterFolder,
    (data_dir, nodes): (&Path, &[NodeSpec]),
    (api, network): (Arc<ApiServer>, Option<&Own>),
) -> anyhow::Result<Served> {
    let mut access = folder.admit(nodes.iter().map(|node| &*node.name))?;
    let mut tokens = BTreeMap::from([(access.admin.clone(), "admin".to_owned())]);
    let of_nodes = access.nodes.iter();
    tokens.extend(of_nodes.map(|(node, token)| (token.clone(), format!("system:node:{node}"))));
    // Before anybody gets a token.
    folder.keep(&access)?;
    let port = if args.api_port == 0 { access.port } else { args.api_port };
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    let logs = Arc::new(logs::NodeLogs::new(data_dir));
    let exec = Arc::new(exec::NodeExec::new(data_dir));
    let options = HttpOptions { addr, tokens, logs, exec, tls_dir: Some(data_dir.join("tls")) };
    let inside = || network.map(Own::listen).transpose();
    let serving = match serve_also(api.clone(), options.clone(), inside()?).await {
        Err(ServeError::Listen { .. }) if args.api_port == 0 && port != 0 => {
            io::complain(&format!(
                "warning: port {port} of the API is taken meanwhile: copies of the kubeconfig need \
                 the new one"
            ));
            let addr = SocketAddr::from(([127, 0, 0, 1], 0));
            serve_also(api, HttpOptions { addr, ..options }, inside()?).await
        }
        served => served,
    };
    let serving = serving.context("serve the Kubernetes API (--api-port)")?;
    access.port = serving.addr.port();
    folder.keep(&access)?;
    let file = data_dir.join("kubeconfig");
    secrets::write_private(&file, &kubeconfig(&serving, &access.admin))?;
    let mut of_agents = Vec::new();
    for node in nodes {
        let token = access.nodes.get(&node.name).context("every node has a token")?;
        let file = agents::node_dir(data_dir, &node.name).join("kubeconfig");
        let config = match network {
            Some(_) => kubeconfig_at(&serving, Own::api(), token),
            None => kubeconfig(&serving, token),
        };
        secrets::write_private(&file, &config)?;
        of_agents.push(file);
    }
    Ok(Served { _serving: serving, kubeconfig: file, agents: of_agents })
}
