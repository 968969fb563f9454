//! From the manifest's fields to nodes.

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_yaml::Node;
use k8s_openapi::api::core::v1::Taint;
use serde_json::Value;

use super::{
    ClusterConfig, ClusterConfigError, KUBERNETES_RELEASE, NODES_MAX, NodeSpec, Warning,
    fields::{CLUSTER, MANAGED_NODE_GROUP, METADATA, NODE_GROUP},
    instances,
    lookup::Reader,
};

/// Nodes of a group that gives neither size. **Source**: eksctl's `DefaultNodeCount`.
const GROUP_SIZE_DEFAULT: u64 = 2;
/// **Source**: eksctl's `DefaultNodeType`.
const TYPE_DEFAULT: &str = "m5.large";

type Labels = BTreeMap<String, String>;

/// What the whole cluster says to each of its groups.
struct Cluster {
    name: String,
    region: String,
    version: Option<String>,
    zones: Vec<String>,
    /// Zone of each subnet of `vpc.subnets` that gives one, by name and id.
    subnets: BTreeMap<String, String>,
}

pub(super) fn read(body: &Value, node: Option<&Node>) -> Result<ClusterConfig, ClusterConfigError> {
    let mut warnings = Vec::new();
    let cluster = cluster(body, node, &mut warnings)?;
    let mut nodes = Vec::new();
    let mut names = BTreeSet::new();
    for (list, is_managed) in [("nodeGroups", false), ("managedNodeGroups", true)] {
        let root = Reader { object: format!("cluster {}", cluster.name), path: "", body, node };
        let groups = match root.field(list) {
            None => &Vec::new(),
            Some(Value::Array(groups)) => groups,
            Some(other) => {
                let fix = format!("write {list}: followed by a list of groups (- name: ...)");
                let problem = format!("must be a list, not {}", root.described(list, other));
                return root.wrong(list, problem, fix);
            }
        };
        for (position, body) in groups.iter().enumerate() {
            let node = node.and_then(|node| node.pointer(&format!("/{list}/{position}")));
            let mut group = Reader { object: format!("{list}[{position}]"), path: "", body, node };
            let Some(name) = group.text("name")?.filter(|name| !name.is_empty()) else {
                return group.wrong("name", "is missing", "give every group a name of its own");
            };
            let kind = if is_managed { "managedNodeGroup" } else { "nodeGroup" };
            group.object = format!("{kind} {name}");
            if !names.insert(name.clone()) {
                let problem = "another group has this name";
                return group.wrong("name", problem, "give every group a name of its own");
            }
            let group = Group { reader: group, name, is_managed };
            nodes.extend(group.nodes(&cluster, nodes.len(), &mut warnings)?);
        }
    }
    if nodes.is_empty() {
        warnings.push(Warning {
            line: 0,
            object: format!("cluster {}", cluster.name),
            field: "nodeGroups".to_owned(),
            problem: "the file asks for no nodes, so nothing can run".to_owned(),
            fix: "add a group with a desiredCapacity of at least 1".to_owned(),
        });
    }
    let Cluster { name, region, version, .. } = cluster;
    Ok(ClusterConfig { name, region, version, nodes, warnings })
}

fn cluster(
    body: &Value,
    node: Option<&Node>,
    warnings: &mut Vec<Warning>,
) -> Result<Cluster, ClusterConfigError> {
    let root = Reader { object: "cluster file".to_owned(), path: "", body, node };
    if !body.is_object() {
        return root.wrong("kind", "the file is not an object", "start it with apiVersion: ...");
    }
    if root.text("kind")?.as_deref() != Some("ClusterConfig") {
        return root.wrong("kind", "this is not a ClusterConfig", "write kind: ClusterConfig");
    }
    let api_version = root.text("apiVersion")?.unwrap_or_default();
    if api_version != "eksctl.io/v1alpha5" {
        let problem = format!("version {api_version:?} is not known");
        return root.wrong("apiVersion", problem, "write apiVersion: eksctl.io/v1alpha5");
    }
    let empty = Value::Null;
    let metadata = body.get("metadata").unwrap_or(&empty);
    let meta_node = node.and_then(|node| node.get("metadata"));
    let meta = Reader {
        object: "cluster file".to_owned(),
        path: "metadata.",
        body: metadata,
        node: meta_node,
    };
    let Some(name) = meta.text("name")?.filter(|name| !name.is_empty()) else {
        return meta.wrong("metadata.name", "is missing", "give the cluster a name");
    };
    let meta = Reader {
        object: format!("cluster {name}"),
        path: "metadata.",
        body: metadata,
        node: meta_node,
    };
    let root = Reader { object: format!("cluster {name}"), path: "", body, node };
    let Some(region) = meta.text("region")?.filter(|region| !region.is_empty()) else {
        return meta.wrong("metadata.region", "is missing", "write for example region: us-east-1");
    };
    root.check_fields(&CLUSTER, warnings);
    meta.check_fields(&METADATA, warnings);
    let version = match meta.field("version") {
        Some(Value::Number(number)) => {
            let written = meta.written("version", &Value::Number(number.clone()));
            let problem = format!("eksctl refuses {written} without quotes (1.30 would be 1.3)");
            warnings.push(meta.warning("metadata.version", problem, "write it in quotes"));
            Some(written)
        }
        _ => meta.text("version")?,
    };
    if let Some(version) = version.as_deref().filter(|version| *version != KUBERNETES_RELEASE) {
        let problem = format!(
            "the embedded cluster is Kubernetes {KUBERNETES_RELEASE}, and its nodes report \
             v{KUBERNETES_RELEASE}.0, not {version}"
        );
        let fix = format!("write \"{KUBERNETES_RELEASE}\", or leave it out");
        warnings.push(meta.warning("metadata.version", problem, fix));
    }
    check_other_nodes(&root, warnings);
    let zones = root.texts("availabilityZones")?;
    if zones.len() == 1 {
        let problem = "eksctl needs at least 2 zones";
        warnings.push(root.warning("availabilityZones", problem, "name a second zone"));
    }
    check_zones(&root, &zones, &region, warnings);
    Ok(Cluster { name, region, version, zones, subnets: subnets(body) })
}

/// Warns about nodes that the file asks for in other ways than by groups.
fn check_other_nodes(root: &Reader<'_>, warnings: &mut Vec<Warning>) {
    let profiles = root.field("fargateProfiles").and_then(Value::as_array);
    if let Some(profiles) = profiles.filter(|profiles| !profiles.is_empty()) {
        let names = profiles.iter().filter_map(|p| p.get("name").and_then(Value::as_str));
        let names: Vec<&str> = names.collect();
        let problem = format!(
            "Fargate is not supported: pods of {} run on the nodes of the groups",
            if names.is_empty() { "its profiles".to_owned() } else { names.join(", ") }
        );
        let fix = "give a node group that has room for them";
        warnings.push(root.warning("fargateProfiles", problem, fix));
    }
    let auto = root.body.pointer("/autoModeConfig/enabled").and_then(Value::as_bool);
    let makers =
        [("karpenter", root.field("karpenter").is_some()), ("autoModeConfig", auto == Some(true))];
    for (field, _) in makers.into_iter().filter(|(_, given)| *given) {
        let problem = "no nodes are made as pods need them: only those of the groups are there";
        let fix = "give a node group with the desiredCapacity that you need";
        warnings.push(root.warning(field, problem, fix));
    }
}

fn check_zones(reader: &Reader<'_>, zones: &[String], region: &str, warnings: &mut Vec<Warning>) {
    for zone in zones.iter().filter(|zone| !zone.starts_with(region)) {
        let problem = format!("zone {zone} is not in region {region}");
        let fix = format!("name zones such as {region}a");
        warnings.push(reader.warning("availabilityZones", problem, fix));
    }
}

fn subnets(body: &Value) -> BTreeMap<String, String> {
    let mut zones = BTreeMap::new();
    for side in ["public", "private"] {
        let side = body.pointer(&format!("/vpc/subnets/{side}")).and_then(Value::as_object);
        for (name, subnet) in side.into_iter().flatten() {
            let text = |field: &str| subnet.get(field).and_then(Value::as_str);
            // A subnet without `az` is named after its zone.
            let zone = text("az").unwrap_or(name).to_owned();
            let looks_like_zone = zone.ends_with(|c: char| c.is_ascii_lowercase())
                && zone.contains(|c: char| c.is_ascii_digit());
            if looks_like_zone {
                zones.extend(text("id").map(|id| (id.to_owned(), zone.clone())));
                zones.insert(name.clone(), zone);
            }
        }
    }
    zones
}

/// Memory as a selector gives it: `4`, `4GiB`, `4Gi`, `4gb`.
fn gibibytes(value: &Value) -> Option<u64> {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).trim();
    let unit = text.get(digits.len()..).unwrap_or_default().trim().to_ascii_lowercase();
    let factor = match unit.as_str() {
        "" | "g" | "gb" | "gi" | "gib" => 1,
        "t" | "tb" | "ti" | "tib" => 1_024,
        _ => return None,
    };
    digits.parse::<u64>().ok().filter(|n| *n > 0)?.checked_mul(factor)
}

/// A group of nodes.
struct Group<'a> {
    reader: Reader<'a>,
    name: String,
    is_managed: bool,
}

impl Group<'_> {
    fn nodes(
        &self,
        cluster: &Cluster,
        first: usize,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<NodeSpec>, ClusterConfigError> {
        let reader = &self.reader;
        let size = self.size()?;
        let total = u64::try_from(first).unwrap_or(u64::MAX).saturating_add(size);
        if total > NODES_MAX as u64 {
            let problem = format!("the cluster would have {total} nodes, here {NODES_MAX} can be");
            return reader.wrong("desiredCapacity", problem, "ask for fewer nodes");
        }
        let spot = self.spot(warnings)?;
        let known: &[&str] = if self.is_managed { &MANAGED_NODE_GROUP } else { &NODE_GROUP };
        let spoken_of = |warning: &Warning, spot: bool| {
            spot && matches!(warning.field.as_str(), "spot" | "spotInstancePools")
        };
        let mut unknown = Vec::new();
        reader.check_fields(known, &mut unknown);
        warnings.extend(unknown.into_iter().filter(|w| !spoken_of(w, !self.is_managed)));
        let zones = self.zones(cluster, warnings)?;
        let instance_type = self.instance_type()?;
        let selected = self.selected(&instance_type, warnings)?;
        let mut capacity =
            selected.or_else(|| instances::capacity(&instance_type)).unwrap_or_else(|| {
                let problem = format!("instance type {instance_type} is not known here");
                let fix =
                    "2 processors and 8 GiB are assumed: write a type of the m, c, r or t families";
                warnings.push(reader.warning("instanceType", problem, fix));
                instances::assumed()
            });
        capacity.pods = reader.count("maxPodsPerNode")?.unwrap_or(capacity.pods);
        capacity.disk_gib = reader.count("volumeSize")?.unwrap_or(capacity.disk_gib);
        let labels = self.labels(cluster, &instance_type, (spot, warnings))?;
        let taints = self.taints(warnings)?;
        let size = usize::try_from(size).unwrap_or(NODES_MAX);
        let node = |position: usize| {
            let (name, zone) =
                (format!("{}-{position}", self.name), &zones[position % zones.len()]);
            let mut labels = labels.clone();
            labels.insert(crate::labels::HOSTNAME.to_owned(), name.clone());
            labels.insert(crate::labels::ZONE.to_owned(), zone.clone());
            NodeSpec {
                index: first + position,
                name,
                group: self.name.clone(),
                zone: zone.clone(),
                instance_type: instance_type.clone(),
                spot,
                labels,
                taints: taints.clone(),
                capacity,
            }
        };
        Ok((0..size).map(node).collect())
    }

    fn size(&self) -> Result<u64, ClusterConfigError> {
        let reader = &self.reader;
        let (min, max) = (reader.count("minSize")?, reader.count("maxSize")?);
        let size = reader.count("desiredCapacity")?.or(min).unwrap_or(GROUP_SIZE_DEFAULT);
        if let Some(min) = min.filter(|min| *min > size) {
            let problem = format!("{size} is less than minSize {min}");
            return reader.wrong("desiredCapacity", problem, format!("write at least {min}"));
        }
        if let Some(max) = max.filter(|max| *max < size) {
            let problem = format!("{size} is more than maxSize {max}");
            return reader.wrong("desiredCapacity", problem, format!("write at most {max}"));
        }
        Ok(size)
    }

    /// Whether its nodes are spot instances; `nodeGroups` say so in another way than eksctl reads
    /// it often enough that the plain meaning is taken.
    fn spot(&self, warnings: &mut Vec<Warning>) -> Result<bool, ClusterConfigError> {
        let reader = &self.reader;
        let says_spot = match reader.field("spot") {
            None => false,
            Some(Value::Bool(spot)) => *spot,
            Some(other) => {
                let found = reader.described("spot", other);
                let problem = format!("must be true or false, not {found}");
                return reader.wrong("spot", problem, "write spot: true");
            }
        };
        if self.is_managed {
            return Ok(says_spot);
        }
        let pools = reader.field("spotInstancePools");
        let example = format!(
            "instancesDistribution: {{instanceTypes: [{}, ...], onDemandBaseCapacity: 0, \
             onDemandPercentageAboveBaseCapacity: 0{}}}",
            self.instance_type()?,
            pools.map(|pools| format!(", spotInstancePools: {pools}")).unwrap_or_default()
        );
        if reader.field("spot").is_some() {
            let problem = "eksctl refuses it in nodeGroups; spot instances are assumed as meant";
            let fix = format!(
                "move the group to managedNodeGroups, or write {example}, without instanceType"
            );
            warnings.push(reader.warning("spot", problem, fix));
        }
        if pools.is_some() {
            let problem = "eksctl refuses it here";
            let fix = format!("write {example}, without instanceType");
            warnings.push(reader.warning("spotInstancePools", problem, fix));
        }
        let share = "/instancesDistribution/onDemandPercentageAboveBaseCapacity";
        let share = reader.body.pointer(share).and_then(Value::as_u64);
        Ok(says_spot || share == Some(0))
    }

    fn instance_type(&self) -> Result<String, ClusterConfigError> {
        let reader = &self.reader;
        let first = |list: Option<&Value>| Some(list?.as_array()?.first()?.as_str()?.to_owned());
        let mixed = first(reader.body.pointer("/instancesDistribution/instanceTypes"))
            .or_else(|| first(reader.field("instanceTypes")));
        let named = reader.text("instanceType")?.filter(|name| name != "mixed");
        Ok(named.or(mixed).unwrap_or_else(|| TYPE_DEFAULT.to_owned()))
    }

    /// What a machine chosen by `instanceSelector` has. `None` without a selector.
    fn selected(
        &self,
        instance_type: &str,
        warnings: &mut Vec<Warning>,
    ) -> Result<Option<instances::Capacity>, ClusterConfigError> {
        let reader = &self.reader;
        let selector = match reader.field("instanceSelector") {
            None => return Ok(None),
            Some(selector) if selector.is_object() => selector,
            Some(other) => {
                let found = reader.described("instanceSelector", other);
                let fix = "write vCPUs and memory below it";
                return reader.wrong(
                    "instanceSelector",
                    format!("must be a mapping, not {found}"),
                    fix,
                );
            }
        };
        let known = instances::capacity(instance_type).unwrap_or_else(instances::assumed);
        let cpus = selector.get("vCPUs").and_then(Value::as_u64).filter(|n| *n > 0);
        let memory = selector.get("memory").and_then(gibibytes);
        let capacity = instances::Capacity {
            cpu_millis: cpus.map_or(known.cpu_millis, |n| n.saturating_mul(1_000)),
            memory_mib: memory.map_or(known.memory_mib, |gib| gib.saturating_mul(1_024)),
            ..known
        };
        let problem = format!(
            "EC2 cannot be asked for a type here: machines of {} processors and {} GiB are made, \
             which call themselves {instance_type}",
            capacity.cpu_millis / 1_000,
            capacity.memory_mib / 1_024
        );
        let fix = "write instanceType to say which machine you mean";
        warnings.push(reader.warning("instanceSelector", problem, fix));
        Ok(Some(capacity))
    }

    fn zones(
        &self,
        cluster: &Cluster,
        warnings: &mut Vec<Warning>,
    ) -> Result<Vec<String>, ClusterConfigError> {
        let reader = &self.reader;
        let own = reader.texts("availabilityZones")?;
        check_zones(reader, &own, &cluster.region, warnings);
        let local = reader.texts("localZones")?;
        let subnets = reader.texts("subnets")?;
        let by_subnet = subnets.iter().filter_map(|name| cluster.subnets.get(name)).cloned();
        let by_subnet: Vec<String> = by_subnet.collect();
        let zones = [own, local, by_subnet, cluster.zones.clone()];
        let by_default = || ["a", "b", "c"].map(|zone| format!("{}{zone}", cluster.region)).into();
        Ok(zones.into_iter().find(|zones| !zones.is_empty()).unwrap_or_else(by_default))
    }

    fn labels(
        &self,
        cluster: &Cluster,
        instance_type: &str,
        (spot, warnings): (bool, &mut Vec<Warning>),
    ) -> Result<Labels, ClusterConfigError> {
        let arch = if instances::is_arm(instance_type) { "arm64" } else { "amd64" };
        let mut labels: Labels = [
            ("alpha.eksctl.io/cluster-name", cluster.name.as_str()),
            ("alpha.eksctl.io/nodegroup-name", self.name.as_str()),
            ("kubernetes.io/arch", arch),
            ("kubernetes.io/os", "linux"),
            ("node.kubernetes.io/instance-type", instance_type),
            ("topology.kubernetes.io/region", cluster.region.as_str()),
        ]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
        let (key, value) = match (self.is_managed, spot) {
            (true, true) => ("eks.amazonaws.com/capacityType", "SPOT"),
            (true, false) => ("eks.amazonaws.com/capacityType", "ON_DEMAND"),
            (false, true) => ("node-lifecycle", "spot"),
            (false, false) => ("node-lifecycle", "on-demand"),
        };
        labels.insert(key.to_owned(), value.to_owned());
        if self.is_managed {
            labels.insert("eks.amazonaws.com/nodegroup".to_owned(), self.name.clone());
        }
        let reader = &self.reader;
        match reader.field("labels") {
            None => {}
            Some(Value::Object(own)) => {
                for (key, value) in own {
                    let field = format!("labels.{key}");
                    let text = match value {
                        Value::String(text) => text.clone(),
                        Value::Null => String::new(),
                        _ => reader.written(&field, value),
                    };
                    if !value.is_string() && !value.is_null() {
                        let found = reader.described(&field, value);
                        let problem = format!("eksctl refuses a label whose value is {found}");
                        let fix = format!("write {key}: {text:?}");
                        warnings.push(reader.warning(&field, problem, fix));
                    }
                    labels.insert(key.clone(), text);
                }
            }
            Some(other) => {
                let problem =
                    format!("must be a mapping, not {}", reader.described("labels", other));
                return reader.wrong(
                    "labels",
                    problem,
                    "write labels: followed by key: value lines",
                );
            }
        }
        Ok(labels)
    }

    /// Both forms: a list of key, value, effect; or a map from key to `value:effect`.
    fn taints(&self, warnings: &mut Vec<Warning>) -> Result<Vec<Taint>, ClusterConfigError> {
        let reader = &self.reader;
        match reader.field("taints") {
            None => Ok(Vec::new()),
            Some(Value::Array(list)) => list
                .iter()
                .enumerate()
                .map(|(position, taint)| {
                    let field = format!("taints[{position}]");
                    let text = |name: &str| match taint.get(name) {
                        None | Some(Value::Null) => Ok(None),
                        Some(Value::String(text)) => Ok(Some(text.clone())),
                        Some(other) => {
                            let field = format!("{field}.{name}");
                            let found = reader.described(&field, other);
                            let fix = format!("write {name}: {:?}", reader.written(&field, other));
                            reader.wrong(&field, format!("must be text, not {found}"), fix)
                        }
                    };
                    let Some(key) = text("key")?.filter(|key| !key.is_empty()) else {
                        return reader.wrong(&field, "has no key", "write key, value and effect");
                    };
                    self.taint(&field, key, (text("value")?, text("effect")?.unwrap_or_default()))
                })
                .collect(),
            Some(Value::Object(map)) => {
                if self.is_managed {
                    let fix = "write a list of key, value, effect";
                    let problem = "eksctl refuses the map form in managedNodeGroups";
                    warnings.push(reader.warning("taints", problem, fix));
                }
                map.iter()
                    .map(|(key, text)| {
                        let text = text.as_str().unwrap_or_default();
                        let (value, effect) = text.rsplit_once(':').unwrap_or(("", text));
                        let value = Some(value.to_owned());
                        let content = (value, effect.to_owned());
                        self.taint(&format!("taints.{key}"), key.clone(), content)
                    })
                    .collect()
            }
            Some(other) => {
                let found = reader.described("taints", other);
                let problem = format!("must be a list or a mapping, not {found}");
                reader.wrong("taints", problem, "write a list of key, value, effect")
            }
        }
    }

    fn taint(
        &self,
        field: &str,
        key: String,
        (value, effect): (Option<String>, String),
    ) -> Result<Taint, ClusterConfigError> {
        if !matches!(effect.as_str(), "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let problem = format!("{effect:?} is not an effect that a taint can have");
            let fix = "write NoSchedule, PreferNoSchedule or NoExecute";
            return self.reader.wrong(&format!("{field}.effect"), problem, fix);
        }
        let value = value.filter(|value| !value.is_empty());
        Ok(Taint { key, value, effect, time_added: None })
    }
}
