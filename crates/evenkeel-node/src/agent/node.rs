//! The Node object and its Lease.

use std::net::IpAddr;

use evenkeel_api::{
    Key, Obj,
    labels::{HOSTNAME, ZONE},
};
use evenkeel_control::{HostPorts, Patch, StoreError, Subresource, WriteOptions};
use k8s_openapi::{
    api::{coordination::v1::Lease, core::v1::Node},
    apimachinery::pkg::apis::meta::v1::{MicroTime, Time},
};
use serde_json::{Value, json};

use super::{AgentConfig, MANAGER};

/// Where the Leases of nodes live.
const LEASES: &str = "kube-node-lease";
/// How long a Lease is good for. **Source**: the kubelet's default.
const LEASE_S: i32 = 40;
/// The kubelet we behave like.
const KUBELET_VERSION: &str = "v1.33.0";

const MAIN: WriteOptions = WriteOptions { subresource: None, expect: None, manager: MANAGER };
const STATUS: WriteOptions =
    WriteOptions { subresource: Some(Subresource::Status), expect: None, manager: MANAGER };

/// Makes sure that the Node is there; returns its pod CIDR.
pub(super) async fn register(
    config: &AgentConfig,
    ports: &HostPorts,
) -> Result<Option<String>, StoreError> {
    let key = Key::of::<Node>("", &config.name);
    let labels = labels(config);
    let node = if let Some(node) = ports.read.get(&key).await? {
        let patch = json!({"metadata": {"labels": labels}});
        let missing = labels.iter().any(|(name, value)| node.label(name) != value.as_str());
        if missing { ports.writes.patch(&key, &Patch::Merge(patch), &MAIN).await? } else { node }
    } else {
        let mut spec = json!({"taints": config.taints});
        if let Some(cidr) = &config.pod_cidr {
            spec["podCIDR"] = json!(cidr);
            spec["podCIDRs"] = json!([cidr]);
        }
        let node = Obj::from_json(json!({
            "apiVersion": "v1", "kind": "Node",
            "metadata": {"name": config.name, "labels": labels},
            "spec": spec,
        }))?;
        // Another writer has created the Node meanwhile: the caller tries again and finds it.
        ports.writes.create(&node, &MAIN).await?
    };
    let cidr = node.json().pointer("/spec/podCIDR").and_then(Value::as_str).map(str::to_owned);
    Ok(cidr.or_else(|| config.pod_cidr.clone()))
}

fn labels(config: &AgentConfig) -> serde_json::Map<String, Value> {
    let mut labels = config.labels.clone();
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let own = [
        (HOSTNAME, Some(&config.name)),
        ("kubernetes.io/os", Some(&"linux".to_owned())),
        ("kubernetes.io/arch", Some(&arch.to_owned())),
        (ZONE, config.zone.as_ref()),
        ("topology.kubernetes.io/region", config.region.as_ref()),
        ("node.kubernetes.io/instance-type", config.instance_type.as_ref()),
    ];
    for (name, value) in own {
        if let Some(value) = value {
            labels.entry(name.to_owned()).or_insert_with(|| value.clone());
        }
    }
    labels.into_iter().map(|(name, value)| (name, value.into())).collect()
}

/// Says that the node is ready, and what it has.
pub(super) async fn post_status(
    config: &AgentConfig,
    ports: &HostPorts,
    ip: IpAddr,
) -> Result<(), StoreError> {
    let now = Time(ports.clock.now());
    let condition = |kind: &str, status: &str, reason: &str, message: &str| {
        json!({"type": kind, "status": status, "reason": reason, "message": message,
            "lastHeartbeatTime": now, "lastTransitionTime": now})
    };
    let version = concat!("evenkeel://", env!("CARGO_PKG_VERSION"));
    let mut allocatable = config.capacity.clone();
    allocatable.extend(config.allocatable.clone());
    let arch = if std::env::consts::ARCH == "aarch64" { "arm64" } else { "amd64" };
    let status = json!({
        "capacity": config.capacity,
        "allocatable": allocatable,
        "addresses": [
            {"type": "InternalIP", "address": ip.to_string()},
            {"type": "Hostname", "address": config.name},
        ],
        "conditions": [
            condition("MemoryPressure", "False", "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available"),
            condition("DiskPressure", "False", "KubeletHasNoDiskPressure",
                "kubelet has no disk pressure"),
            condition("PIDPressure", "False", "KubeletHasSufficientPID",
                "kubelet has sufficient PID available"),
            condition("Ready", "True", "KubeletReady", "kubelet is posting ready status"),
        ],
        "nodeInfo": {
            "machineID": config.name, "systemUUID": config.name, "bootID": config.name,
            "kernelVersion": "", "osImage": "evenkeel", "operatingSystem": "linux",
            "architecture": arch, "containerRuntimeVersion": version,
            "kubeletVersion": KUBELET_VERSION, "kubeProxyVersion": "",
        },
    });
    let key = Key::of::<Node>("", &config.name);
    let patch = Patch::Strategic(json!({"status": status}));
    ports.writes.patch(&key, &patch, &STATUS).await.map(drop)
}

/// Whether the Node says that it is ready.
pub(super) fn is_ready(node: &Obj) -> bool {
    let conditions = node.json().pointer("/status/conditions").and_then(Value::as_array);
    conditions.into_iter().flatten().any(|condition| {
        condition.get("type") == Some(&json!("Ready"))
            && condition.get("status") == Some(&json!("True"))
    })
}

/// Renews the Lease, or makes it.
pub(super) async fn renew_lease(config: &AgentConfig, ports: &HostPorts) -> Result<(), StoreError> {
    let key = Key::of::<Lease>(LEASES, &config.name);
    let now = MicroTime(ports.clock.now());
    let patch = Patch::Merge(json!({"spec": {"renewTime": now}}));
    match ports.writes.patch(&key, &patch, &MAIN).await {
        Err(StoreError::NotFound { .. }) => {}
        done => return done.map(drop),
    }
    let node = ports.read.get(&Key::of::<Node>("", &config.name)).await?;
    let owner = node.map(|node| {
        json!([{"apiVersion": "v1", "kind": "Node", "name": config.name, "uid": node.uid()}])
    });
    let mut metadata = json!({"name": config.name, "namespace": LEASES});
    if let Some(owner) = owner {
        metadata["ownerReferences"] = owner;
    }
    let lease = Obj::from_json(json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata,
        "spec": {"holderIdentity": config.name, "leaseDurationSeconds": LEASE_S,
            "renewTime": now},
    }))?;
    ports.writes.create(&lease, &MAIN).await.map(drop)
}
