//! `evenkeel up --network`.

/// Which network the cluster is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum NetworkArg {
    /// Its own where the machine allows it.
    Auto,
    /// Its own: each pod has an address, and Services have names.
    Own,
    /// Loopback addresses of the host, which all pods share.
    Host,
}
