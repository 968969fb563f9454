//! The command line.

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::{
    durations,
    install_flags::{self, InstallArgs, UninstallArgs},
    manage::ManageArg,
    network_arg::NetworkArg,
    tools::audit_args::{AuditCommand, RecordArgs},
};

/// Keeps services on Kubernetes up: releases, SLOs, gateway, alerts and audit in one binary.
#[derive(Debug, Parser)]
#[command(name = "evenkeel", version, about, max_term_width = 100)]
pub(crate) struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run an embedded cluster from a folder of manifests, with controllers, gateway and metrics
    Up(UpArgs),
    /// Run only the controllers, against any Kubernetes
    Run(RunArgs),
    /// Run the demo: releases and faults under load on an embedded cluster
    Demo(DemoArgs),
    /// Test and evaluate PromQL
    #[command(subcommand)]
    Promql(PromqlCommand),
    /// Work with service level objectives
    #[command(subcommand)]
    Slo(SloCommand),
    /// Inspect the audit record
    #[command(subcommand)]
    Audit(AuditCommand),
    /// Save the embedded cluster's objects to a file, or bring them back
    #[command(subcommand)]
    Snapshot(SnapshotCommand),
    /// List the alerts that are pending or firing; exit 1 when one fires, 2 when they are not known
    Alerts(AlertsArgs),
    /// Explain an object's state: the last decision, what it waits for, which policy holds it;
    /// exit 1 when it needs attention, 2 when that is not known
    Why(WhyArgs),
    /// Print what runs the controllers on a cluster, for `kubectl apply -f -`
    Install(InstallArgs),
    /// Take an installation away, and what its controllers have put on objects of others
    Uninstall(UninstallArgs),
    /// Print the definitions of evenkeel's own kinds, for `kubectl apply -f -`
    Crds(CrdsArgs),
    /// Write the Helm chart, which is made of what `install` prints
    #[command(hide = true)]
    Chart {
        /// Where to; what is there is replaced
        dir: PathBuf,
    },
    /// Print shell completion
    Completion {
        /// For which shell
        shell: clap_complete::Shell,
    },
    /// A gateway of the Gateway API on any Kubernetes
    #[command(hide = true)]
    Gateway(GatewayArgs),
    /// A node agent (started by `up`)
    #[command(hide = true)]
    Agent(AgentArgs),
    /// The demo workload (started by a node agent)
    #[command(hide = true)]
    Workload,
    /// The open-loop load client (started by `demo`); reads its own flags
    #[command(hide = true)]
    Load,
    /// The parent of one container (started by a node agent)
    #[command(hide = true)]
    Shim,
    /// Tries whether a cluster can have a network of its own (started by `up`)
    #[command(hide = true)]
    TryNetwork,
}

impl Command {
    /// Whether it answers a question, with exit code 1 for a bad answer and 2 for none.
    pub(crate) fn asks(&self) -> bool {
        matches!(
            self,
            Self::Alerts(_)
                | Self::Why(_)
                | Self::Slo(SloCommand::Status(_))
                | Self::Audit(
                    AuditCommand::Verify(_) | AuditCommand::List(_) | AuditCommand::Show(_)
                )
        )
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// For people.
    Table,
    /// For scripts.
    Json,
    /// For scripts and people.
    Yaml,
}

/// A safeguard that can be switched off, to see its effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Safeguard {
    /// The gateway retries nothing.
    Retries,
    /// Pods are stopped without being emptied first.
    Drain,
    /// Weights count as set before the gateway has confirmed them.
    Confirmation,
}

/// `evenkeel up`
#[derive(Debug, Args)]
pub(crate) struct UpArgs {
    /// Folder with the manifests: a `ClusterConfig`, your objects, an optional `images.yaml`
    pub(crate) dir: PathBuf,
    /// Forget the cluster that is in the data folder, with its processes, and begin a new one
    #[arg(long)]
    pub(crate) fresh: bool,
    /// Do not start the controllers; `evenkeel run` does that
    #[arg(long)]
    pub(crate) no_controllers: bool,
    /// Alertmanager that gets the alerts of `PrometheusRule` objects; without one they are Events
    /// on the objects, and in `evenkeel alerts`
    #[arg(long, value_name = "URL")]
    pub(crate) alertmanager: Option<String>,
    /// Where the cluster keeps its files [default: evenkeel in `$XDG_STATE_HOME` or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Port of the Kubernetes API on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub(crate) api_port: u16,
    /// Port of the console and the Prometheus API on 127.0.0.1; 0 takes a free one
    #[arg(long, default_value_t = 0, value_name = "PORT")]
    pub(crate) console_port: u16,
    /// The network of the cluster
    #[arg(long, value_enum, default_value_t = NetworkArg::Auto, value_name = "WHICH")]
    pub(crate) network: NetworkArg,
    /// Time between two scrapes of a target, at least 100ms
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = durations::interval)]
    pub(crate) scrape_interval: Duration,
    /// A folder of this machine that pods may use as `hostPath`, with all below it; may be given
    /// several times
    #[arg(long, value_name = "DIR")]
    pub(crate) host_path: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
    /// Switch one safeguard off
    #[arg(long, value_name = "SAFEGUARD")]
    pub(crate) without: Option<Safeguard>,
    /// The gateway applies every change this much later (a fault to test against)
    #[arg(long, hide = true, value_name = "DURATION", value_parser = durations::delay)]
    pub(crate) gateway_lag: Option<Duration>,
}

/// `evenkeel run`
#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The cluster; default: $KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Prometheus that has the gateway's or mesh's metrics
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:9090")]
    pub(crate) prometheus: String,
    /// Only these groups of controllers
    #[arg(
        long,
        value_delimiter = ',',
        value_name = "GROUPS",
        value_parser = install_flags::group_names()
    )]
    pub(crate) only: Vec<String>,
    /// Which Canaries and SLOs are acted on; the others are only observed
    #[arg(long, value_enum, default_value_t = ManageArg::Auto, value_name = "WHICH")]
    pub(crate) manage: ManageArg,
    /// Time between two looks at the counters of SLOs; not shorter than Prometheus scrapes
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = durations::interval)]
    pub(crate) slo_interval: Duration,
    /// Where the record of actions is kept [default: evenkeel in `$XDG_STATE_HOME` or
    /// ~/.local/state]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Look after this namespace alone: no other is read, watched or changed
    #[arg(long, value_name = "NAMESPACE", value_parser = install_flags::namespace)]
    pub(crate) watch_namespace: Option<String>,
    /// Namespace of the Leases by which one of several processes leads; default: the one that is
    /// watched, or default
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) lease_namespace: Option<String>,
    /// A leader that has not renewed its Lease for this long is replaced; at least 2s
    #[arg(long, default_value = "15s", value_name = "DURATION", value_parser = durations::lease)]
    pub(crate) lease_duration: Duration,
    /// Where /metrics, /why and /healthz are served; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(crate) listen: std::net::SocketAddr,
    /// The address at which others reach this process, which its Leases say; default: that of
    /// --listen
    #[arg(long, value_name = "IP")]
    pub(crate) advertise: Option<std::net::IpAddr>,
    #[command(flatten)]
    pub(crate) record: RecordArgs,
    /// Switch one safeguard off
    #[arg(long, value_name = "SAFEGUARD")]
    pub(crate) without: Option<Safeguard>,
}

/// `evenkeel snapshot`
#[derive(Debug, Subcommand)]
pub(crate) enum SnapshotCommand {
    /// Save all objects of an `evenkeel up`, running or stopped, to a file; it holds Secrets
    Save(SnapshotArgs),
    /// Make the objects in a file the ones that the next `evenkeel up` begins with
    Restore {
        #[command(flatten)]
        args: SnapshotArgs,
        /// Also when there are objects already, or damaged ones; they are gone then
        #[arg(long)]
        replace: bool,
    },
}

/// Which file, and which cluster.
#[derive(Debug, Args)]
pub(crate) struct SnapshotArgs {
    /// The snapshot
    pub(crate) file: PathBuf,
    /// The folder of the `evenkeel up` [default: evenkeel in `$XDG_STATE_HOME` or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `evenkeel crds`
#[derive(Debug, Args)]
pub(crate) struct CrdsArgs {
    /// Also those of Flagger, Sloth, the Gateway API and the Prometheus operator. Applied, they
    /// replace the ones that a cluster has, and may be older: see --missing
    #[arg(long)]
    pub(crate) all: bool,
    /// Only those that the cluster does not have
    #[arg(long)]
    pub(crate) missing: bool,
    /// The cluster of --missing; default: $KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, value_name = "FILE", requires = "missing")]
    pub(crate) kubeconfig: Option<PathBuf>,
}

/// `evenkeel alerts`
#[derive(Debug, Args)]
pub(crate) struct AlertsArgs {
    /// Any Prometheus; default: the metrics of a running `evenkeel up`
    #[arg(long, value_name = "URL")]
    pub(crate) prometheus: Option<String>,
    /// Where the state of a running `evenkeel up` is kept [default: evenkeel in `$XDG_STATE_HOME`
    /// or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// `evenkeel why`
#[derive(Debug, Args)]
pub(crate) struct WhyArgs {
    /// The object, as KIND/NAME or KIND/NAMESPACE/NAME, with the name of the object: canary/api,
    /// slo/api-slo (a `PrometheusServiceLevel`, not one of the SLOs in it), errorbudgetpolicy/api
    pub(crate) object: String,
    /// Its namespace
    #[arg(short, long, default_value = "default", value_name = "NAMESPACE")]
    pub(crate) namespace: String,
    /// The cluster; default: $KUBECONFIG, ~/.kube/config, or a running `evenkeel up`
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where the state of a running `evenkeel up` is kept [default: evenkeel in `$XDG_STATE_HOME`
    /// or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// Namespace of the controllers' Leases; default: that of `run` or of `install`
    #[arg(long, value_name = "NAMESPACE")]
    pub(crate) lease_namespace: Option<String>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
}

/// `evenkeel demo`
#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// Run under virtual time: the same script in seconds, the same bytes for the same seed
    #[arg(long = "virtual")]
    pub(crate) virtual_time: bool,
    /// Take fewer steps to each release and wait less: the same phases in five minutes
    #[arg(long, conflicts_with = "virtual_time")]
    pub(crate) short: bool,
    /// Seed of everything random under virtual time
    #[arg(long, default_value_t = 1)]
    pub(crate) seed: u64,
    /// Switch one safeguard off to see its effect
    #[arg(long, value_name = "SAFEGUARD")]
    pub(crate) without: Option<Safeguard>,
    /// How to print the result
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// Where the demo's cluster keeps its files; default: a fresh temporary folder
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
}

/// `evenkeel promql`
#[derive(Debug, Subcommand)]
pub(crate) enum PromqlCommand {
    /// Run test scripts in Prometheus' own format
    Test {
        /// The scripts
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Run unit tests of rules in promtool's format
    TestRules {
        /// The test files
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Evaluate an expression over an exposition file
    Query(QueryArgs),
}

/// `evenkeel promql query`
#[derive(Debug, Args)]
pub(crate) struct QueryArgs {
    /// Samples with timestamps, as OpenMetrics or Prometheus text
    #[arg(long)]
    pub(crate) file: PathBuf,
    /// The expression
    pub(crate) expr: String,
    /// Instant: Unix seconds or RFC 3339; default: the last sample's time
    #[arg(long)]
    pub(crate) time: Option<String>,
    /// Start of a range
    #[arg(long, requires = "end")]
    pub(crate) start: Option<String>,
    /// End of a range
    #[arg(long, requires = "start")]
    pub(crate) end: Option<String>,
    /// Step of a range
    #[arg(long, default_value = "1m")]
    pub(crate) step: String,
    /// How to print the result; the JSON is that of Prometheus' HTTP API
    #[arg(short, long, value_enum, default_value_t = QueryOutput::Table)]
    pub(crate) output: QueryOutput,
}

/// How a query's result is printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum QueryOutput {
    /// A row per series.
    Table,
    /// Prometheus' HTTP API shape.
    Json,
    /// A picture in the terminal.
    Chart,
}

/// `evenkeel slo`
#[derive(Debug, Subcommand)]
pub(crate) enum SloCommand {
    /// Print the Prometheus rules of SLO manifests, as Sloth writes them
    Generate {
        /// A label to add to every rule, as key=value
        #[arg(long, value_name = "KEY=VALUE")]
        extra_labels: Vec<String>,
        /// The SLO window
        #[arg(long, default_value = "30d", value_name = "DURATION")]
        default_slo_period: String,
        /// Folder with window catalogues that replace the built-in ones
        #[arg(long, value_name = "DIR")]
        slo_period_windows_path: Option<PathBuf>,
        /// SLO manifests
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Say what Sloth would refuse, and print the corrected manifest
    Lint {
        /// SLO manifests
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Show the state of SLOs: budget left, burn, when it will be gone; exit 1 when one is out of
    /// budget or without data, 2 when the metrics server did not answer
    Status(SloStatusArgs),
    /// Print manifests that Sloth accepts
    Export {
        /// In Sloth's own form (the only one so far)
        #[arg(long, required = true)]
        sloth: bool,
        /// SLO manifests
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
}

/// `evenkeel slo status`
#[derive(Debug, Args)]
pub(crate) struct SloStatusArgs {
    /// Where the counters are; default: the metrics of a running `evenkeel up`, unless another
    /// cluster is named, or else port 9090 of this machine
    #[arg(long, value_name = "URL")]
    pub(crate) prometheus: Option<String>,
    /// The cluster whose SLOs are shown; default: $KUBECONFIG, ~/.kube/config, or a running
    /// `evenkeel up`
    #[arg(long, value_name = "FILE", conflicts_with = "files")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// Where the state of a running `evenkeel up` is kept [default: evenkeel in `$XDG_STATE_HOME`
    /// or ~/.local/state]
    #[arg(long, value_name = "DIR")]
    pub(crate) data_dir: Option<PathBuf>,
    /// How to print it
    #[arg(short, long, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    /// SLO manifests to look at instead of a cluster's
    pub(crate) files: Vec<PathBuf>,
}

/// `evenkeel gateway`
#[derive(Debug, Args)]
pub(crate) struct GatewayArgs {
    /// The cluster; default: $KUBECONFIG, ~/.kube/config, or the pod's service account
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The class of the Gateways that it serves
    #[arg(long, default_value = "evenkeel", value_name = "NAME")]
    pub(crate) class: String,
    /// Where Gateways listen that name no address
    #[arg(long, default_value = "127.0.0.1", value_name = "IP")]
    pub(crate) address: std::net::IpAddr,
    /// Where /metrics and /healthz are served; port 0 takes a free one
    #[arg(long, default_value = "127.0.0.1:0", value_name = "ADDRESS")]
    pub(crate) listen: std::net::SocketAddr,
}

/// `evenkeel agent`
#[derive(Debug, Args)]
pub(crate) struct AgentArgs {
    /// The cluster
    #[arg(long)]
    pub(crate) kubeconfig: PathBuf,
    /// The node, as JSON in a file
    #[arg(long)]
    pub(crate) node: PathBuf,
    /// Where the node keeps its files
    #[arg(long)]
    pub(crate) root: PathBuf,
    /// The image map
    #[arg(long)]
    pub(crate) images: Option<PathBuf>,
    /// Where pods ask for names: they have networks of their own
    #[arg(long)]
    pub(crate) names: Option<std::net::IpAddr>,
    /// Where the folders of claims lie
    #[arg(long)]
    pub(crate) claims: PathBuf,
    /// Folders that pods may use as `hostPath`
    #[arg(long)]
    pub(crate) host_path: Vec<PathBuf>,
}
