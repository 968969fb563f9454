//! What effects do, as futures that end in a [`PodDone`].

use std::{collections::BTreeMap, net::IpAddr, sync::Arc, time::Duration};

use evenkeel_api::{Key, Obj};
use evenkeel_control::{
    BoxFuture, DeleteOptions, HostPorts, ListQuery, Patch, Propagation, StoreError, Subresource,
    WriteOptions, create_event,
};
use futures::future::{Either, select};
use k8s_openapi::api::core::v1::{ConfigMap, Container, Event, Pod, PodStatus, Secret, Service};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::{Value, json};

use super::MANAGER;
use crate::{
    container_env::{self, Sources},
    expansion,
    pod::{Hook, Note, VolumesSetUp},
    probe::{Outcome, ProbeKind},
    reasons,
    runtime::{
        Check, ContainerRef, Exit, ProbeReply, Runtime, Signal, StartError, StartOrder, Started,
    },
    sandbox::{NameServer, Sandbox, User},
    volumes::{Disk, Tokens, Wanted},
};

/// The volumes of a pod, without what is in them.
pub(super) type Layout = BTreeMap<String, Wanted>;

/// Something that was being done for a pod has ended.
pub(super) enum PodDone {
    Volumes(Result<(VolumesSetUp, Layout), String>),
    Start {
        container: String,
        result: Result<Started, StartError>,
    },
    Exit {
        container: String,
        attempt: u32,
        exit: Exit,
    },
    PostStart {
        container: String,
        result: Result<(), String>,
    },
    PreStop {
        container: String,
        result: Result<(), String>,
    },
    Probe {
        container: String,
        attempt: u32,
        kind: ProbeKind,
        reply: ProbeReply,
    },
    Unpark {
        container: String,
        kind: ProbeKind,
    },
    Status(Result<(), StoreError>),
    Removed,
    Deleted(Result<(), StoreError>),
    /// What an event says, and the event that was written for it.
    Recorded(String, WrittenEvent),
    Nothing,
}

/// An event that has been written.
#[derive(Debug, Clone)]
pub(super) struct WrittenEvent {
    count: u32,
    name: String,
}

/// Conditions that are the agent's own; all others belong to their writers.
const CONDITIONS: [&str; 5] =
    ["PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"];

/// Everything the futures need, cheap to clone.
#[derive(Clone)]
pub(super) struct PodIo {
    pub(super) ports: HostPorts,
    pub(super) runtime: Arc<dyn Runtime>,
    pub(super) host_ip: IpAddr,
    pub(super) names: Option<NameServer>,
    /// Where volumes are made; `None` where containers see no files.
    pub(super) disk: Option<Arc<Disk>>,
    pub(super) tokens: Arc<dyn Tokens>,
    /// What the node has for pods.
    pub(super) allocatable: BTreeMap<String, String>,
}

impl PodIo {
    pub(super) fn start(
        &self,
        pod: Arc<Pod>,
        ip: IpAddr,
        container: ContainerRef,
        volumes: Arc<Layout>,
    ) -> BoxFuture<'static, PodDone> {
        let io = self.clone();
        Box::pin(async move {
            let name = container.container.clone();
            let result = match io.order(&pod, ip, container, &volumes).await {
                Ok(order) => io.runtime.start(&order).await,
                Err(error) => Err(error),
            };
            PodDone::Start { container: name, result }
        })
    }

    async fn order(
        &self,
        pod: &Pod,
        ip: IpAddr,
        container: ContainerRef,
        volumes: &Arc<Layout>,
    ) -> Result<StartOrder, StartError> {
        let spec = pod.spec.clone().unwrap_or_default();
        let mut all = spec.init_containers.iter().flatten().chain(&spec.containers);
        let found = all.find(|found| found.name == container.container);
        let found = found.ok_or_else(|| StartError::Config("no such container".to_owned()))?;
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        let sources = self.sources(&namespace, found, ip).await.map_err(|error| {
            StartError::Config(format!("the environment cannot be read: {error}"))
        })?;
        let env = container_env::compose(pod, found, &sources).map_err(StartError::Config)?;
        let expand = |words: &Option<Vec<String>>| {
            let words = words.as_ref()?;
            Some(words.iter().map(|word| expansion::expand(word, &env)).collect::<Vec<_>>())
        };
        let mounts = self.mounts(&container.pod_uid, found, volumes, &env).await?;
        Ok(StartOrder {
            container,
            namespace,
            pod: pod.metadata.name.clone().unwrap_or_default(),
            ip,
            image: found.image.clone().unwrap_or_default(),
            command: expand(&found.command).unwrap_or_default(),
            args: expand(&found.args),
            working_dir: found.working_dir.clone(),
            env,
            sandbox: self.names.as_ref().map(|names| Sandbox::of(pod, ip, names)),
            user: User::of(pod, found).map_err(StartError::Config)?,
            mounts,
        })
    }

    async fn sources(
        &self,
        namespace: &str,
        container: &Container,
        ip: IpAddr,
    ) -> Result<Sources, StoreError> {
        let store = &self.ports.read;
        let kind = evenkeel_api::GroupKind::of::<Service>();
        let listed = store.list(&ListQuery::all(kind).within(namespace)).await?;
        let mut objects: Vec<Arc<Obj>> = listed.items;
        if namespace != "default" {
            objects.extend(store.get(&Key::of::<Service>("default", "kubernetes")).await?);
        }
        let mut services = Vec::new();
        for object in objects {
            services.push((*object.get::<Service>()?).clone());
        }
        let mut values = BTreeMap::new();
        for key in container_env::references(namespace, container) {
            let Some(object) = store.get(&key).await? else { continue };
            let pairs = if key.kind.is::<ConfigMap>() {
                object.get::<ConfigMap>()?.data.clone().unwrap_or_default()
            } else {
                let secret = object.get::<Secret>()?;
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let pairs = secret.data.iter().flatten();
                pairs.map(|(name, value)| (name.clone(), text(&value.0))).collect()
            };
            values.insert(key, pairs);
        }
        let allocatable = self.allocatable.clone();
        Ok(Sources { ip, host_ip: self.host_ip, services, objects: values, allocatable })
    }

    pub(super) fn wait(&self, container: ContainerRef) -> BoxFuture<'static, PodDone> {
        let runtime = self.runtime.clone();
        Box::pin(async move {
            let exit = runtime.wait(&container).await;
            PodDone::Exit { container: container.container, attempt: container.attempt, exit }
        })
    }

    pub(super) fn signal(
        &self,
        container: ContainerRef,
        signal: Signal,
    ) -> BoxFuture<'static, PodDone> {
        let runtime = self.runtime.clone();
        Box::pin(async move {
            runtime.signal(&container, signal).await;
            PodDone::Nothing
        })
    }

    pub(super) fn probe(
        &self,
        container: ContainerRef,
        kind: ProbeKind,
        check: Check,
        timeout: Duration,
    ) -> BoxFuture<'static, PodDone> {
        let (runtime, limit) = (self.runtime.clone(), self.ports.timer.sleep(timeout));
        Box::pin(async move {
            let probing = runtime.probe(&container, &check);
            let reply = match select(probing, limit).await {
                Either::Left((reply, _)) => reply,
                Either::Right(_) => {
                    let took = evenkeel_base::format_duration(timeout);
                    let problem = format!("no answer within {took}");
                    ProbeReply { outcome: Outcome::Failure(problem), steady_until: None }
                }
            };
            let ContainerRef { container, attempt, .. } = container;
            PodDone::Probe { container, attempt, kind, reply }
        })
    }

    /// Runs a hook, for at most `limit`.
    pub(super) fn hook(
        &self,
        container: ContainerRef,
        hook: Hook,
        limit: Option<Duration>,
        done: fn(String, Result<(), String>) -> PodDone,
    ) -> BoxFuture<'static, PodDone> {
        let io = self.clone();
        Box::pin(async move {
            let running = Box::pin(io.run_hook(&container, &hook));
            let result = match limit {
                None => running.await,
                Some(limit) => match select(running, io.ports.timer.sleep(limit)).await {
                    Either::Left((result, _)) => result,
                    Either::Right(_) => Err("it took the whole grace period".to_owned()),
                },
            };
            done(container.container, result)
        })
    }

    async fn run_hook(&self, container: &ContainerRef, hook: &Hook) -> Result<(), String> {
        match hook {
            Hook::Sleep(time) => {
                self.ports.timer.sleep(*time).await;
                Ok(())
            }
            Hook::Check(Check::Exec { command }) => {
                let output = self.runtime.exec(container, command).await;
                match output.map_err(|error| error.problem)? {
                    output if output.code == 0 => Ok(()),
                    output => Err(format!("exited with {}: {}", output.code, output.output.trim())),
                }
            }
            Hook::Check(check) => match self.runtime.probe(container, check).await.outcome {
                Outcome::Success => Ok(()),
                Outcome::Failure(problem) | Outcome::Error(problem) => Err(problem),
            },
        }
    }

    pub(super) fn write_status(
        &self,
        key: Key,
        uid: String,
        patch: Value,
    ) -> BoxFuture<'static, PodDone> {
        let writes = self.ports.writes.clone();
        Box::pin(async move {
            let body = json!({"metadata": {"uid": uid}, "status": patch});
            let subresource = Some(Subresource::Status);
            let options = WriteOptions { subresource, expect: None, manager: MANAGER };
            let written = writes.patch(&key, &Patch::Strategic(body), &options).await;
            PodDone::Status(written.map(drop))
        })
    }

    pub(super) fn remove(&self, uid: String) -> BoxFuture<'static, PodDone> {
        let io = self.clone();
        Box::pin(async move {
            io.runtime.remove(&uid).await;
            io.tear_down(&uid).await;
            PodDone::Removed
        })
    }

    pub(super) fn delete(&self, key: Key, uid: String) -> BoxFuture<'static, PodDone> {
        let writes = self.ports.writes.clone();
        Box::pin(async move {
            let propagation = Propagation::Background;
            let options =
                DeleteOptions { uid: Some(uid), expect: None, grace_seconds: Some(0), propagation };
            PodDone::Deleted(writes.delete(&key, &options).await)
        })
    }

    pub(super) fn after(&self, wait: Duration, done: PodDone) -> BoxFuture<'static, PodDone> {
        let sleeping = self.ports.timer.sleep(wait);
        Box::pin(async move {
            sleeping.await;
            done
        })
    }

    /// Writes an Event: the first time as a new object, then as a higher count.
    pub(super) fn record_event(
        &self,
        pod: &Pod,
        node: &str,
        note: Note,
        written: Option<WrittenEvent>,
    ) -> BoxFuture<'static, PodDone> {
        let ports = self.ports.clone();
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let meta = &pod.metadata;
        let (name, namespace, uid) = (text(&meta.name), text(&meta.namespace), text(&meta.uid));
        let revision = text(&meta.resource_version);
        let node = node.to_owned();
        let at = ports.clock.now();
        Box::pin(async move {
            let identity = note.identity();
            let field = note.container.map(|name| format!("spec.containers{{{name}}}"));
            let now = Time(at);
            let count = written.as_ref().map_or(1, |event| event.count + 1);
            if let Some(event) = written {
                let key = Key::of::<Event>(&namespace, &event.name);
                let patch = Patch::Merge(json!({"count": count, "lastTimestamp": now}));
                let options = WriteOptions { subresource: None, expect: None, manager: MANAGER };
                if ports.writes.patch(&key, &patch, &options).await.is_ok() {
                    return PodDone::Recorded(identity, WrittenEvent { count, name: event.name });
                }
            }
            let mut event = json!({
                "apiVersion": "v1", "kind": "Event",
                "metadata": {"name": "", "namespace": namespace},
                "involvedObject": {"apiVersion": "v1", "kind": "Pod", "name": name,
                    "namespace": namespace, "uid": uid, "resourceVersion": revision,
                    "fieldPath": field},
                "reason": note.reason, "message": note.message,
                "type": if note.is_warning { "Warning" } else { "Normal" },
                "source": {"component": MANAGER, "host": node},
                "reportingComponent": MANAGER, "reportingInstance": node,
                "count": count, "firstTimestamp": now, "lastTimestamp": now,
            });
            // An event is for people; losing one must not stop a pod.
            match create_event(&*ports.writes, &mut event, &name, at, MANAGER).await {
                Ok(name) => PodDone::Recorded(identity, WrittenEvent { count, name }),
                Err(error) => {
                    tracing::debug!(object = name, reason = note.reason, %error,
                        "event not written");
                    PodDone::Nothing
                }
            }
        })
    }
}

/// The strategic merge patch that makes a status what it should be: only our own conditions, and
/// fields that no longer apply are removed.
pub(super) fn status_patch(status: &PodStatus) -> Value {
    let mut patch = serde_json::to_value(status).unwrap_or_default();
    if let Some(conditions) = patch.get_mut("conditions").and_then(Value::as_array_mut) {
        conditions.retain(|condition| {
            let kind = condition.get("type").and_then(Value::as_str).unwrap_or_default();
            // Who disturbs a pod says so; this is about the node's own evictions.
            let reason = condition.get("reason").and_then(Value::as_str);
            CONDITIONS.contains(&kind) || reason == Some(reasons::TERMINATION_BY_KUBELET)
        });
        for condition in conditions.iter_mut().filter_map(Value::as_object_mut) {
            for field in ["reason", "message"] {
                condition.entry(field).or_insert(Value::Null);
            }
        }
    }
    patch
}
