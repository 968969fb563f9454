//! The environment of a container: Services, `envFrom`, `env`, and its own names and addresses.

use std::{collections::BTreeMap, net::IpAddr};

use evenkeel_api::Key;
use k8s_openapi::api::core::v1::{
    ConfigMap, Container, EnvVarSource, ObjectFieldSelector, Pod, Secret, Service,
};

use crate::{expansion::expand, volumes::resource_value};

/// What the environment is made from, besides the manifest.
#[derive(Debug, Clone)]
pub(crate) struct Sources {
    pub(crate) ip: IpAddr,
    pub(crate) host_ip: IpAddr,
    /// Services of the pod's namespace, and `default/kubernetes`.
    pub(crate) services: Vec<Service>,
    /// Key/value pairs of the `ConfigMap`s and Secrets that [`references`] named.
    pub(crate) objects: BTreeMap<Key, BTreeMap<String, String>>,
    /// What the node has, for limits that are not set.
    pub(crate) allocatable: BTreeMap<String, String>,
}

/// `ConfigMap`s and Secrets that a container's environment refers to.
pub(crate) fn references(namespace: &str, container: &Container) -> Vec<Key> {
    let mut keys = Vec::new();
    for from in container.env_from.iter().flatten() {
        keys.extend(from.config_map_ref.iter().map(|r| Key::of::<ConfigMap>(namespace, &r.name)));
        keys.extend(from.secret_ref.iter().map(|r| Key::of::<Secret>(namespace, &r.name)));
    }
    for source in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        let map = source.config_map_key_ref.iter();
        keys.extend(map.map(|r| Key::of::<ConfigMap>(namespace, &r.name)));
        keys.extend(source.secret_key_ref.iter().map(|r| Key::of::<Secret>(namespace, &r.name)));
    }
    keys.sort();
    keys.dedup();
    keys
}

/// The environment of one container of a pod.
///
/// **Errors**: a `ConfigMap`, Secret or key that is not there and not optional; an unknown field.
pub(crate) fn compose(
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<BTreeMap<String, String>, String> {
    let spec = pod.spec.as_ref();
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    let namespace = text(&pod.metadata.namespace);
    let mut env = BTreeMap::new();
    if spec.and_then(|spec| spec.enable_service_links).unwrap_or(true) {
        sources.services.iter().for_each(|service| service_variables(service, &mut env));
    }
    let own = [
        ("POD_IP", sources.ip.to_string()),
        ("POD_NAME", text(&pod.metadata.name)),
        ("POD_NAMESPACE", namespace.clone()),
        ("NODE_NAME", spec.map(|spec| text(&spec.node_name)).unwrap_or_default()),
        ("HOSTNAME", text(&pod.metadata.name)),
    ];
    env.extend(own.map(|(name, value)| (name.to_owned(), value)));
    for from in container.env_from.iter().flatten() {
        let map = from
            .config_map_ref
            .as_ref()
            .map(|r| (Key::of::<ConfigMap>(&namespace, &r.name), r.optional.unwrap_or(false)));
        let secret = from
            .secret_ref
            .as_ref()
            .map(|r| (Key::of::<Secret>(&namespace, &r.name), r.optional.unwrap_or(false)));
        let Some((key, is_optional)) = map.or(secret) else { continue };
        let Some(values) = sources.objects.get(&key) else {
            if is_optional {
                continue;
            }
            return Err(format!("{key} not found"));
        };
        let prefix = from.prefix.as_deref().unwrap_or_default();
        env.extend(values.iter().map(|(name, value)| (format!("{prefix}{name}"), value.clone())));
    }
    for var in container.env.iter().flatten() {
        let value = match &var.value_from {
            Some(source) => from_source(source, pod, container, sources)?,
            None => Some(expand(var.value.as_deref().unwrap_or_default(), &env)),
        };
        if let Some(value) = value {
            env.insert(var.name.clone(), value);
        }
    }
    Ok(env)
}

fn from_source(
    source: &EnvVarSource,
    pod: &Pod,
    container: &Container,
    sources: &Sources,
) -> Result<Option<String>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    if let Some(field) = &source.field_ref {
        return field_value(field, pod, sources).map(Some);
    }
    if let Some(field) = &source.resource_field_ref {
        return resource_value(container, field, &sources.allocatable).map(Some);
    }
    let map = source
        .config_map_key_ref
        .as_ref()
        .map(|r| (Key::of::<ConfigMap>(namespace, &r.name), &r.key, r.optional.unwrap_or(false)));
    let secret = source
        .secret_key_ref
        .as_ref()
        .map(|r| (Key::of::<Secret>(namespace, &r.name), &r.key, r.optional.unwrap_or(false)));
    let Some((object, key, is_optional)) = map.or(secret) else { return Ok(None) };
    match sources.objects.get(&object).map(|values| values.get(key)) {
        Some(Some(value)) => Ok(Some(value.clone())),
        _ if is_optional => Ok(None),
        Some(None) => Err(format!("couldn't find key {key} in {object}")),
        None => Err(format!("{object} not found")),
    }
}

fn field_value(
    field: &ObjectFieldSelector,
    pod: &Pod,
    sources: &Sources,
) -> Result<String, String> {
    let path = field.field_path.as_str();
    let (meta, spec) = (&pod.metadata, pod.spec.as_ref());
    let subscript = |name: &str| {
        let inner = path.strip_prefix(name)?.strip_prefix("['")?;
        inner.strip_suffix("']")
    };
    if let Some(label) = subscript("metadata.labels") {
        return Ok(meta
            .labels
            .iter()
            .flatten()
            .find(|(k, _)| *k == label)
            .map(|(_, v)| v.clone())
            .unwrap_or_default());
    }
    if let Some(name) = subscript("metadata.annotations") {
        return Ok(meta
            .annotations
            .iter()
            .flatten()
            .find(|(k, _)| *k == name)
            .map(|(_, v)| v.clone())
            .unwrap_or_default());
    }
    let value = match path {
        "metadata.name" => meta.name.clone(),
        "metadata.namespace" => meta.namespace.clone(),
        "metadata.uid" => meta.uid.clone(),
        "spec.nodeName" => spec.and_then(|spec| spec.node_name.clone()),
        "spec.serviceAccountName" => spec.and_then(|spec| spec.service_account_name.clone()),
        "status.podIP" | "status.podIPs" => Some(sources.ip.to_string()),
        "status.hostIP" | "status.hostIPs" => Some(sources.host_ip.to_string()),
        _ => return Err(format!("fieldPath {path:?} is not supported")),
    };
    Ok(value.unwrap_or_default())
}

/// **Source**: `FromServices` in `pkg/kubelet/envvars/envvars.go`.
fn service_variables(service: &Service, env: &mut BTreeMap<String, String>) {
    let shout = |name: &str| name.to_uppercase().replace('-', "_");
    let name = shout(service.metadata.name.as_deref().unwrap_or_default());
    let Some(spec) = &service.spec else { return };
    let Some(ip) = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty() && *ip != "None") else {
        return;
    };
    env.insert(format!("{name}_SERVICE_HOST"), ip.to_owned());
    for (index, port) in spec.ports.iter().flatten().enumerate() {
        let number = port.port.to_string();
        let protocol = port.protocol.as_deref().unwrap_or("TCP");
        let url = format!("{}://{ip}:{number}", protocol.to_lowercase());
        if index == 0 {
            env.insert(format!("{name}_SERVICE_PORT"), number.clone());
            env.insert(format!("{name}_PORT"), url.clone());
        }
        if let Some(port_name) = port.name.as_deref().filter(|name| !name.is_empty()) {
            env.insert(format!("{name}_SERVICE_PORT_{}", shout(port_name)), number.clone());
        }
        let prefix = format!("{name}_PORT_{number}_{protocol}");
        env.insert(format!("{prefix}_PROTO"), protocol.to_lowercase());
        env.insert(format!("{prefix}_ADDR"), ip.to_owned());
        env.insert(format!("{prefix}_PORT"), number);
        env.insert(prefix, url);
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde::Deserialize as _;
    use serde_json::{Value, json};

    use super::*;

    fn composed(env: &str, objects: &[(Key, &str, &str)]) -> String {
        let container: Value = serde_saphyr::from_str(&format!("{{name: a, {env}}}")).unwrap();
        let container = Container::deserialize(&container).unwrap();
        let pod = Pod::deserialize(&json!({
            "metadata": {"name": "p", "namespace": "d", "labels": {"app": "web"}},
            "spec": {"nodeName": "n", "containers": []}}))
        .unwrap();
        let service = Service::deserialize(&json!({"metadata": {"name": "my-db"},
            "spec": {"clusterIP": "127.192.0.9", "ports": [{"name": "sql", "port": 5432}]}}))
        .unwrap();
        let pair = |(key, name, value): &(Key, &str, &str)| {
            (key.clone(), BTreeMap::from([((*name).to_owned(), (*value).to_owned())]))
        };
        let sources = Sources {
            ip: "127.64.0.2".parse().unwrap(),
            host_ip: "127.64.0.1".parse().unwrap(),
            services: vec![service],
            objects: objects.iter().map(pair).collect(),
            allocatable: BTreeMap::from([("cpu".to_owned(), "3920m".to_owned())]),
        };
        match compose(&pod, &container, &sources) {
            Ok(env) => {
                let lines: Vec<_> = env.iter().map(|(k, v)| format!("{k}={v}")).collect();
                lines.join("\n")
            }
            Err(problem) => problem,
        }
    }

    #[test]
    fn services_and_identity_come_first_and_may_be_referred_to() {
        assert_snapshot!(composed("env: [{name: URL, value: 'pg://$(MY_DB_SERVICE_HOST)/$$x$(NO)'}]", &[]), @r"
        HOSTNAME=p
        MY_DB_PORT=tcp://127.192.0.9:5432
        MY_DB_PORT_5432_TCP=tcp://127.192.0.9:5432
        MY_DB_PORT_5432_TCP_ADDR=127.192.0.9
        MY_DB_PORT_5432_TCP_PORT=5432
        MY_DB_PORT_5432_TCP_PROTO=tcp
        MY_DB_SERVICE_HOST=127.192.0.9
        MY_DB_SERVICE_PORT=5432
        MY_DB_SERVICE_PORT_SQL=5432
        NODE_NAME=n
        POD_IP=127.64.0.2
        POD_NAME=p
        POD_NAMESPACE=d
        URL=pg://127.192.0.9/$x$(NO)
        ");
    }

    #[test]
    fn references_are_resolved_or_the_missing_one_is_named() {
        let map = Key::of::<ConfigMap>("d", "conf");
        let last =
            |text: String| text.lines().find(|l| l.starts_with('X')).unwrap_or(&text).to_owned();
        let by_key = "env: [{name: X, valueFrom: {configMapKeyRef: {name: conf, key: k}}}]";
        assert_snapshot!(last(composed(by_key, &[(map.clone(), "k", "v")])), @"X=v");
        assert_snapshot!(last(composed(by_key, &[(map.clone(), "other", "v")])), @"couldn't find key k in ConfigMap/d/conf");
        assert_snapshot!(last(composed(by_key, &[])), @"ConfigMap/d/conf not found");
        let whole = "envFrom: [{prefix: X_, configMapRef: {name: conf}}]";
        assert_snapshot!(last(composed(whole, &[(map, "k", "v")])), @"X_k=v");
        let label =
            "env: [{name: X, valueFrom: {fieldRef: {fieldPath: \"metadata.labels['app']\"}}}]";
        assert_snapshot!(last(composed(label, &[])), @"X=web");
        let amount = |field: &str| {
            let from = format!("{{resourceFieldRef: {{{field}}}}}");
            let limits = "resources: {limits: {memory: 64Mi}}";
            last(composed(&format!("{limits}, env: [{{name: X, valueFrom: {from}}}]"), &[]))
        };
        assert_snapshot!(amount("resource: limits.memory, divisor: 1Mi"), @"X=64");
        assert_snapshot!(amount("resource: limits.cpu"), @"X=4");
        assert_snapshot!(amount("resource: requests.cpu, divisor: 1m"), @"X=0");
    }
}
