//! Processes of paper: they take a while to start, answer as the demo workload does, and end.

use std::{
    collections::BTreeMap,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex},
    time::Duration,
};

use evenkeel_api::clusterconfig::ClusterConfig;
use evenkeel_base::{Clock as _, Rng};
use evenkeel_control::{BoxFuture, HostPorts};
use evenkeel_node::{
    agent::{self, AgentConfig},
    probe::Outcome,
    runtime::{
        Adopted, Check, ContainerRef, ExecOutput, Exit, ProbeReply, Runtime, RuntimeError, Signal,
        StartError, StartOrder, Started,
    },
};
use evenkeel_workload::{Request, Settings, respond};
use k8s_openapi::api::core::v1::Node;
use tokio::sync::watch;

use super::time::{Trace, VirtualTime, locked};

/// Port of the demo workload.
const PORT: u16 = 8080;
/// Nodes come within this time.
const NODES_WITHIN_MS: u64 = 1_000;
/// Making a process takes this long, and up to as much again.
const START_MS: u64 = 100;
/// From its start until it serves, and up to twice as much again.
const WARM_UP_MS: u64 = 300;
/// The agent hears of an end this late, and up to as much again.
const NOTICE_MS: u64 = 10;
/// Exit codes by signal.
const TERMINATED: i32 = 143;
const KILLED: i32 = 137;

/// All processes of all nodes.
pub(crate) struct Fleet {
    time: Arc<VirtualTime>,
    trace: Trace,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    processes: Vec<Process>,
    /// The last one on each address.
    by_address: BTreeMap<IpAddr, usize>,
    by_container: BTreeMap<ContainerRef, usize>,
    /// Ends that the load has not heard of.
    ended: Vec<(usize, Duration)>,
}

struct Process {
    pod: String,
    version: Arc<str>,
    settings: Settings,
    rng: Rng,
    served: u64,
    serves_at: Duration,
    ended_at: Option<Duration>,
    exit: watch::Sender<Option<i32>>,
}

/// A request that a process has taken.
pub(crate) struct Taken {
    /// Which process.
    pub(crate) process: usize,
    /// What it will answer.
    pub(crate) status: u16,
    /// When.
    pub(crate) at: Duration,
    /// Whether it is an effect that must happen once.
    pub(crate) executes: bool,
    /// When the process ends, if it has ended already by the time this is asked.
    pub(crate) ends_at: Option<Duration>,
}

impl Fleet {
    /// No processes.
    pub(crate) fn new(time: Arc<VirtualTime>, trace: Trace) -> Arc<Self> {
        Arc::new(Self { time, trace, state: Mutex::default() })
    }

    /// Hands a request to whoever listens; `None` when nobody does.
    pub(crate) fn ask(&self, to: SocketAddr, now: Duration, method: &str) -> Option<Taken> {
        let mut state = locked(&self.state);
        let process = *state.by_address.get(&to.ip()).filter(|_| to.port() == PORT)?;
        let found = state.processes.get_mut(process)?;
        let ends_at = found.ended_at;
        if now < found.serves_at || ends_at.is_some_and(|end| end <= now) {
            return None;
        }
        found.served += 1;
        let request = Request { number: found.served, method, path: "/" };
        let answer = respond(&found.settings, &request, found.settings.started, &mut found.rng);
        let (status, executes, at) = (answer.status, answer.executes, now + answer.latency);
        Some(Taken { process, status, at, executes, ends_at })
    }

    /// What a process says it is.
    pub(crate) fn version(&self, process: usize) -> Option<Arc<str>> {
        locked(&self.state).processes.get(process).map(|found| found.version.clone())
    }

    /// Processes that ended since the last call, and when.
    pub(crate) fn take_ended(&self) -> Vec<(usize, Duration)> {
        std::mem::take(&mut locked(&self.state).ended)
    }

    /// SIGKILL to the process of a pod; whether there was one.
    pub(crate) fn kill(&self, pod: &str) -> bool {
        let mut state = locked(&self.state);
        let running = |process: &Process| process.pod == pod && process.ended_at.is_none();
        let Some(index) = state.processes.iter().position(running) else { return false };
        self.end(&mut state, index, KILLED);
        true
    }

    fn end(&self, state: &mut State, index: usize, code: i32) {
        let now = self.time.elapsed();
        let Some(process) = state.processes.get_mut(index) else { return };
        if process.ended_at.is_some() {
            return;
        }
        process.ended_at = Some(now);
        process.exit.send_replace(Some(code));
        self.trace.say(&format!("process of {} ended: exit code {code}", process.pod));
        state.ended.push((index, now));
    }

    fn start(&self, order: &StartOrder, rng: &mut Rng) -> Result<Started, StartError> {
        let at = self.time.now();
        let settings = Settings::parse(|name| order.env.get(name).cloned(), at)
            .map_err(|error| StartError::Config(error.to_string()))?;
        let warm_up = Duration::from_millis(WARM_UP_MS + rng.below(2 * WARM_UP_MS));
        let process = Process {
            pod: order.pod.clone(),
            version: settings.version.as_str().into(),
            rng: rng.child(&order.pod),
            served: 0,
            serves_at: self.time.elapsed() + warm_up,
            ended_at: None,
            exit: watch::Sender::new(None),
            settings,
        };
        let (pod, version) = (&order.pod, &process.version);
        self.trace.say(&format!("process of {pod} started: {version} on {}", order.ip));
        let mut state = locked(&self.state);
        let index = state.processes.len();
        state.processes.push(process);
        state.by_address.insert(order.ip, index);
        state.by_container.insert(order.container.clone(), index);
        Ok(Started { id: format!("virtual://{index}"), at })
    }

    fn exit_of(&self, container: &ContainerRef) -> Option<watch::Receiver<Option<i32>>> {
        let state = locked(&self.state);
        let index = *state.by_container.get(container)?;
        state.processes.get(index).map(|process| process.exit.subscribe())
    }
}

/// The nodes of a cluster, each with its agent, which starts processes of this fleet.
pub(super) fn nodes(
    cluster: ClusterConfig,
    ports: &HostPorts,
    fleet: &Arc<Fleet>,
    rng: &Rng,
) -> impl Iterator<Item = impl Future<Output = ()> + Send + 'static> {
    cluster.nodes.into_iter().map(move |node| {
        let mut rng = rng.child(&node.name);
        let wait = Duration::from_millis(rng.below(NODES_WITHIN_MS));
        let runtime = Arc::new(SimRuntime::new(fleet.clone(), rng));
        let (config, ports) = (config(node.to_node()), ports.clone());
        async move {
            tokio::time::sleep(wait).await;
            if let Err(error) = agent::run(config, ports, runtime).await {
                tracing::error!(%error, "node agent ended");
            }
        }
    })
}

fn config(node: Node) -> AgentConfig {
    let spec = node.spec.unwrap_or_default();
    let capacity = node.status.and_then(|status| status.capacity).unwrap_or_default();
    AgentConfig {
        labels: node.metadata.labels.unwrap_or_default(),
        taints: spec.taints.unwrap_or_default(),
        capacity: capacity.into_iter().map(|(name, amount)| (name, amount.0)).collect(),
        pod_cidr: spec.pod_cidr,
        lease_period: None,
        ..AgentConfig::named(&node.metadata.name.unwrap_or_default())
    }
}

/// What one node runs.
struct SimRuntime {
    fleet: Arc<Fleet>,
    rng: Mutex<Rng>,
}

impl SimRuntime {
    fn new(fleet: Arc<Fleet>, rng: Rng) -> Self {
        Self { fleet, rng: Mutex::new(rng) }
    }

    /// `least` and up to as much again.
    fn delay(&self, least_ms: u64) -> Duration {
        Duration::from_millis(least_ms + locked(&self.rng).below(least_ms))
    }
}

impl Runtime for SimRuntime {
    fn adopt(&self) -> BoxFuture<'_, Vec<Adopted>> {
        Box::pin(async { Vec::new() })
    }

    fn start<'a>(&'a self, order: &'a StartOrder) -> BoxFuture<'a, Result<Started, StartError>> {
        Box::pin(async move {
            tokio::time::sleep(self.delay(START_MS)).await;
            self.fleet.start(order, &mut locked(&self.rng))
        })
    }

    fn wait<'a>(&'a self, container: &'a ContainerRef) -> BoxFuture<'a, Exit> {
        let exit = self.fleet.exit_of(container);
        Box::pin(async move {
            let code = match exit {
                Some(mut exit) => exit.wait_for(Option::is_some).await.ok().and_then(|code| *code),
                None => None,
            };
            let at = self.fleet.time.now();
            tokio::time::sleep(self.delay(NOTICE_MS)).await;
            let unseen = code.is_none().then(|| "no such process".to_owned());
            Exit { code: code.unwrap_or(KILLED), at, unseen }
        })
    }

    fn signal<'a>(&'a self, container: &'a ContainerRef, signal: Signal) -> BoxFuture<'a, ()> {
        let mut state = locked(&self.fleet.state);
        if let Some(index) = state.by_container.get(container).copied() {
            let code = if signal == Signal::Term { TERMINATED } else { KILLED };
            self.fleet.end(&mut state, index, code);
        }
        Box::pin(async {})
    }

    fn exec<'a>(
        &'a self,
        _: &'a ContainerRef,
        _: &'a [String],
    ) -> BoxFuture<'a, Result<ExecOutput, RuntimeError>> {
        Box::pin(async { Ok(ExecOutput::default()) })
    }

    fn probe<'a>(&'a self, container: &'a ContainerRef, _: &'a Check) -> BoxFuture<'a, ProbeReply> {
        let down = || Outcome::Failure("connection refused".to_owned());
        let now = self.fleet.time.elapsed();
        let state = locked(&self.fleet.state);
        let index = state.by_container.get(container).copied();
        let running = index.and_then(|index| state.processes.get(index));
        let reply = match running.filter(|process| process.ended_at.is_none()) {
            None => ProbeReply { outcome: down(), steady_until: None },
            Some(process) if now < process.serves_at => {
                let wait = process.serves_at.saturating_sub(now);
                let serves = Box::pin(tokio::time::sleep(wait));
                ProbeReply { outcome: down(), steady_until: Some(serves) }
            }
            Some(process) => {
                let mut exit = process.exit.subscribe();
                let ends = async move {
                    // A sender that is gone has ended, too.
                    exit.wait_for(Option::is_some).await.map(drop).unwrap_or_default();
                };
                ProbeReply { outcome: Outcome::Success, steady_until: Some(Box::pin(ends)) }
            }
        };
        Box::pin(async { reply })
    }

    fn remove<'a>(&'a self, pod_uid: &'a str) -> BoxFuture<'a, ()> {
        let mut state = locked(&self.fleet.state);
        let of_pod = |container: &&ContainerRef| container.pod_uid == pod_uid;
        let gone: Vec<_> = state.by_container.keys().filter(of_pod).cloned().collect();
        for container in gone {
            if let Some(index) = state.by_container.remove(&container) {
                self.fleet.end(&mut state, index, KILLED);
            }
        }
        Box::pin(async {})
    }
}
