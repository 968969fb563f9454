//! eksctl's `ClusterConfig` (`eksctl.io/v1alpha5`): the nodes it asks for.
//!
//! ```text
//! nodeGroups, managedNodeGroups --> NodeSpec (name, zone, labels, taints, capacity) --> Node
//! ```
//! Only what makes up nodes is read. What eksctl itself would refuse, but whose meaning is plain,
//! is a [`Warning`] with the fix; what has no meaning is an error. Not here: networks, IAM,
//! add-ons.

mod fields;
mod instances;
mod lookup;
mod reader;

use std::{collections::BTreeMap, fmt};

use evenkeel_yaml::Node as YamlNode;
use k8s_openapi::{
    api::core::v1::{Node, NodeSpec as KubeNodeSpec, NodeStatus, Taint},
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::ObjectMeta},
};
use serde_json::Value;

pub use instances::Capacity;

/// Most nodes of an embedded cluster: each has its own `127.x.0.0/16`, from 64 to 191.
pub const NODES_MAX: usize = 128;

/// What a `ClusterConfig` asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct ClusterConfig {
    /// `metadata.name`.
    pub name: String,
    /// `metadata.region`.
    pub region: String,
    /// `metadata.version`, such as `1.28`.
    pub version: Option<String>,
    /// The nodes at desired capacity, group by group in the order of the file.
    pub nodes: Vec<NodeSpec>,
    /// What eksctl would refuse, what had to be assumed, or what has no effect here.
    pub warnings: Vec<Warning>,
}

/// One node to be.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeSpec {
    /// Position among all nodes, from 0; gives the addresses of its pods.
    pub index: usize,
    /// Group and position in it: `system-nodes-0`.
    pub name: String,
    /// Name of its group.
    pub group: String,
    /// Availability zone.
    pub zone: String,
    /// Instance type, such as `c5.2xlarge`.
    pub instance_type: String,
    /// Whether it may be removed at two minutes' notice.
    pub spot: bool,
    /// All labels, the well-known ones included.
    pub labels: BTreeMap<String, String>,
    /// Taints.
    pub taints: Vec<Taint>,
    /// What the machine has.
    pub capacity: Capacity,
}

/// The Kubernetes release that an embedded cluster behaves like.
pub const KUBERNETES_RELEASE: &str = "1.33";

/// What eksctl would refuse, what had to be assumed, or what has no effect here; and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warning {
    /// Line in the file, from 1; 0 when not known.
    pub line: usize,
    /// `nodeGroup application-nodes`, or `cluster production`.
    pub object: String,
    /// Field below the object.
    pub field: String,
    /// What is wrong.
    pub problem: String,
    /// What to write instead.
    pub fix: String,
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { line, object, field, problem, fix } = self;
        write!(f, "{}{object}: field {field}: {problem}; {fix}", prefix(*line))
    }
}

/// `line 7: `, or nothing when the line is not known.
fn prefix(line: usize) -> String {
    if line == 0 { String::new() } else { format!("line {line}: ") }
}

/// Why a file gives no cluster.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClusterConfigError {
    /// It is not YAML.
    #[error("the cluster file is not valid YAML: {0}")]
    Yaml(#[from] evenkeel_yaml::Error),
    /// A field has no meaning.
    #[error("{}{object}: field {field}: {problem}; {fix}", prefix(*.line))]
    Field {
        /// Line in the file, from 1; 0 when not known.
        line: usize,
        /// `nodeGroup application-nodes`, or `cluster production`.
        object: String,
        /// Field below the object.
        field: String,
        /// What is wrong.
        problem: String,
        /// What to write instead.
        fix: String,
    },
}

impl ClusterConfig {
    /// Whether a manifest is one, in whatever version.
    pub fn is_one(body: &Value) -> bool {
        let text = |field: &str| body.get(field).and_then(Value::as_str).unwrap_or_default();
        text("kind") == "ClusterConfig" && text("apiVersion").starts_with("eksctl.io/")
    }

    /// Reads the YAML text of one.
    ///
    /// **Errors**: not YAML, another kind, or a field that has no meaning.
    pub fn parse(text: &str) -> Result<Self, ClusterConfigError> {
        Self::from_yaml(&YamlNode::parse(text)?)
    }

    /// Reads a YAML document; messages name its lines.
    ///
    /// **Errors**: as [`Self::parse`].
    pub fn from_yaml(node: &YamlNode) -> Result<Self, ClusterConfigError> {
        reader::read(&node.json()?, Some(node))
    }

    /// Reads a manifest that has been parsed already.
    ///
    /// **Errors**: as [`Self::parse`].
    pub fn from_json(body: &Value) -> Result<Self, ClusterConfigError> {
        reader::read(body, None)
    }
}

impl NodeSpec {
    /// The Node object as its agent registers it, conditions apart. Pods get their addresses from
    /// `127.(64 + index).0.0/16`.
    pub fn to_node(&self) -> Node {
        let pod_cidr = format!("127.{}.0.0/16", 64 + self.index % NODES_MAX);
        Node {
            metadata: ObjectMeta {
                name: Some(self.name.clone()),
                labels: Some(self.labels.clone()),
                ..ObjectMeta::default()
            },
            spec: Some(KubeNodeSpec {
                pod_cidr: Some(pod_cidr.clone()),
                pod_cidrs: Some(vec![pod_cidr]),
                provider_id: Some(format!("evenkeel:///{}/{}", self.zone, self.name)),
                taints: Some(self.taints.clone()).filter(|taints| !taints.is_empty()),
                ..KubeNodeSpec::default()
            }),
            status: Some(NodeStatus {
                capacity: Some(amounts(self.capacity)),
                allocatable: Some(amounts(self.capacity.allocatable())),
                ..NodeStatus::default()
            }),
        }
    }
}

fn amounts(capacity: Capacity) -> BTreeMap<String, Quantity> {
    let cpu = if capacity.cpu_millis.is_multiple_of(1_000) {
        (capacity.cpu_millis / 1_000).to_string()
    } else {
        format!("{}m", capacity.cpu_millis)
    };
    [
        ("cpu", cpu),
        ("memory", format!("{}Mi", capacity.memory_mib)),
        ("pods", capacity.pods.to_string()),
        ("ephemeral-storage", format!("{}Gi", capacity.disk_gib)),
    ]
    .map(|(name, amount)| (name.to_owned(), Quantity(amount)))
    .into()
}

#[cfg(test)]
mod tests;
