//! What the containers of a pod share besides its address: its name, and the files by which names
//! are resolved. Only for clusters with a network of their own.

use std::{fmt::Write as _, net::IpAddr};

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec};

/// Longest host name. **Source**: `hostnameMaxLen` in `pkg/kubelet/util/util.go`.
const HOSTNAME_MAX: usize = 63;
/// The group and user of a container that must not be root and names no user: that of images
/// without one (`nonroot` of the distroless images).
const NOBODY: u32 = 65_532;

/// Where pods ask for names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NameServer {
    /// Its address.
    pub address: IpAddr,
    /// The cluster's domain.
    pub domain: String,
}

/// What a pod's containers share.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sandbox {
    /// What `hostname` prints.
    pub hostname: String,
    /// `hostNetwork`: the pod has the network of its node.
    pub is_on_host: bool,
    /// `/etc/hosts`.
    pub hosts: String,
    /// `/etc/resolv.conf`.
    pub resolver: String,
}

/// Who a container runs as.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    /// `runAsUser`.
    pub uid: u32,
    /// `runAsGroup`, else 0 as in images.
    pub gid: u32,
    /// `fsGroup` and `supplementalGroups`, which only root of the machine can give.
    pub groups: Vec<u32>,
}

impl Sandbox {
    /// That of a pod with this address.
    pub(crate) fn of(pod: &Pod, ip: IpAddr, names: &NameServer) -> Self {
        let spec = pod.spec.clone().unwrap_or_default();
        let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
        let short = spec.hostname.clone().or_else(|| pod.metadata.name.clone()).unwrap_or_default();
        let short: String = short.chars().take(HOSTNAME_MAX).collect();
        let short = short.trim_end_matches(['-', '.']).to_owned();
        let subdomain = spec.subdomain.as_deref().filter(|name| !name.is_empty());
        let full = subdomain.map(|sub| format!("{short}.{sub}.{namespace}.svc.{}", names.domain));
        let by_full_name = spec.set_hostname_as_fqdn.unwrap_or(false);
        let hostname = full.clone().filter(|_| by_full_name).unwrap_or_else(|| short.clone());
        Self {
            hostname,
            is_on_host: spec.host_network.unwrap_or(false),
            hosts: hosts(&spec, ip, &short, full.as_deref()),
            resolver: resolver(&spec, namespace, names),
        }
    }
}

impl User {
    /// The one that a manifest asks for; `None` leaves the agent's own.
    ///
    /// **Errors**: no number of a user or group, or root where that is excluded.
    /// **Source**: `verifyRunAsNonRoot` in `pkg/kubelet/kuberuntime/security_context.go`.
    pub(crate) fn of(pod: &Pod, container: &Container) -> Result<Option<Self>, String> {
        let of_pod = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref());
        let own = container.security_context.as_ref();
        let uid = own.and_then(|c| c.run_as_user).or(of_pod.and_then(|c| c.run_as_user));
        let gid = own.and_then(|c| c.run_as_group).or(of_pod.and_then(|c| c.run_as_group));
        let non_root =
            own.and_then(|c| c.run_as_non_root).or(of_pod.and_then(|c| c.run_as_non_root));
        let number = |field: &str, number: i64| {
            u32::try_from(number)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| format!("securityContext.{field}: {number} is not a user or group"))
        };
        let uid = uid.map(|uid| number("runAsUser", uid)).transpose()?;
        let gid = gid.map(|gid| number("runAsGroup", gid)).transpose()?;
        let mut groups = Vec::new();
        let extra = of_pod.and_then(|c| c.supplemental_groups.clone()).unwrap_or_default();
        for group in extra.into_iter().chain(of_pod.and_then(|c| c.fs_group)) {
            groups.push(number("fsGroup, supplementalGroups", group)?);
        }
        let must_not_be_root = non_root.unwrap_or(false);
        if must_not_be_root && uid == Some(0) {
            return Err("container's runAsUser breaks non-root policy".to_owned());
        }
        let uid = uid.or(must_not_be_root.then_some(NOBODY));
        if uid.is_none() && gid.is_none() && groups.is_empty() {
            return Ok(None);
        }
        Ok(Some(Self { uid: uid.unwrap_or(0), gid: gid.unwrap_or(0), groups }))
    }
}

/// **Source**: `managedHostsFileContent` in `pkg/kubelet/kubelet_pods.go`.
fn hosts(spec: &PodSpec, ip: IpAddr, short: &str, full: Option<&str>) -> String {
    let mut text = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost \
                    ip6-localhost ip6-loopback\nfe00::\tip6-localnet\nfe00::\tip6-mcastprefix\n\
                    fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n"
        .to_owned();
    let mut line = |address: &str, names: &[&str]| {
        // Writing to a String does not fail.
        writeln!(text, "{address}\t{}", names.join("\t")).unwrap_or_default();
    };
    let own: Vec<&str> = full.into_iter().chain([short]).collect();
    line(&ip.to_string(), &own);
    for alias in spec.host_aliases.iter().flatten() {
        let names: Vec<&str> = alias.hostnames.iter().flatten().map(String::as_str).collect();
        line(&alias.ip, &names);
    }
    text
}

/// **Source**: `GetPodDNS` in `pkg/kubelet/network/dns/dns.go`. A pod that asks for the host's
/// servers gets the cluster's without its search path: that passes other names on to them, and
/// they may be at addresses that only the host reaches.
fn resolver(spec: &PodSpec, namespace: &str, names: &NameServer) -> String {
    let on_host = spec.host_network.unwrap_or(false);
    let policy = spec.dns_policy.as_deref().unwrap_or("ClusterFirst");
    let by_cluster = match policy {
        "ClusterFirst" => !on_host,
        other => other == "ClusterFirstWithHostNet",
    };
    let (mut servers, mut searches, mut options) = (Vec::new(), Vec::new(), Vec::new());
    if policy != "None" {
        servers.push(names.address.to_string());
    }
    if by_cluster {
        let domain = &names.domain;
        searches.extend([
            format!("{namespace}.svc.{domain}"),
            format!("svc.{domain}"),
            domain.clone(),
        ]);
        options.push(("ndots".to_owned(), Some("5".to_owned())));
    }
    if let Some(config) = &spec.dns_config {
        let add = |all: &mut Vec<String>, more: &Option<Vec<String>>| {
            for one in more.iter().flatten() {
                if !all.contains(one) {
                    all.push(one.clone());
                }
            }
        };
        add(&mut servers, &config.nameservers);
        add(&mut searches, &config.searches);
        for option in config.options.iter().flatten() {
            let Some(name) = option.name.clone() else { continue };
            options.retain(|(known, _)| *known != name);
            options.push((name, option.value.clone()));
        }
    }
    let mut text = String::new();
    if !searches.is_empty() {
        writeln!(text, "search {}", searches.join(" ")).unwrap_or_default();
    }
    for server in servers {
        writeln!(text, "nameserver {server}").unwrap_or_default();
    }
    if !options.is_empty() {
        let option = |(name, value): &(String, Option<String>)| match value {
            Some(value) => format!("{name}:{value}"),
            None => name.clone(),
        };
        let options: Vec<_> = options.iter().map(option).collect();
        writeln!(text, "options {}", options.join(" ")).unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use serde::Deserialize as _;
    use serde_json::Value;

    use super::*;

    fn pod(spec: &str) -> Pod {
        let yaml = format!(
            "{{metadata: {{name: web-0, namespace: shop}}, spec: {{containers: [], {spec}}}}}"
        );
        let body: Value = serde_saphyr::from_str(&yaml).unwrap();
        Pod::deserialize(&body).unwrap()
    }

    fn sandbox(spec: &str) -> Sandbox {
        let address = "10.96.0.10".parse().unwrap();
        let names = NameServer { address, domain: "cluster.local".to_owned() };
        Sandbox::of(&pod(spec), "10.244.0.9".parse().unwrap(), &names)
    }

    #[test]
    fn a_pod_resolves_names_of_its_namespace_first() {
        assert_snapshot!(sandbox("").resolver, @r"
        search shop.svc.cluster.local svc.cluster.local cluster.local
        nameserver 10.96.0.10
        options ndots:5
        ");
        assert_snapshot!(sandbox("dnsPolicy: Default").resolver, @"nameserver 10.96.0.10");
        assert_snapshot!(sandbox("hostNetwork: true").resolver, @"nameserver 10.96.0.10");
        assert_snapshot!(
            sandbox("hostNetwork: true, dnsPolicy: ClusterFirstWithHostNet").resolver, @r"
        search shop.svc.cluster.local svc.cluster.local cluster.local
        nameserver 10.96.0.10
        options ndots:5
        ");
        let config = "dnsConfig: {nameservers: [1.1.1.1, 10.96.0.10], searches: [a.test], \
                      options: [{name: ndots, value: '2'}, {name: edns0}]}";
        assert_snapshot!(sandbox(config).resolver, @r"
        search shop.svc.cluster.local svc.cluster.local cluster.local a.test
        nameserver 10.96.0.10
        nameserver 1.1.1.1
        options ndots:2 edns0
        ");
        assert_snapshot!(sandbox(&format!("dnsPolicy: None, {config}")).resolver, @r"
        search a.test
        nameserver 1.1.1.1
        nameserver 10.96.0.10
        options ndots:2 edns0
        ");
    }

    #[test]
    fn a_pod_knows_its_own_names_and_its_aliases() {
        let own = |spec| sandbox(spec).hosts.lines().skip(7).collect::<Vec<_>>().join("\n");
        assert_snapshot!(own(""), @"10.244.0.9	web-0");
        let spec = "hostname: a, subdomain: db, hostAliases: [{ip: 10.0.0.1, hostnames: [x, y.z]}]";
        assert_snapshot!(own(spec), @r"
        10.244.0.9	a.db.shop.svc.cluster.local	a
        10.0.0.1	x	y.z
        ");
        assert_eq!(sandbox(spec).hostname, "a");
        let spec = "hostname: a, subdomain: db, setHostnameAsFQDN: true";
        assert_eq!(sandbox(spec).hostname, "a.db.shop.svc.cluster.local");
        assert_eq!(
            sandbox(&format!("hostname: {}-{}", "a".repeat(62), "b")).hostname,
            "a".repeat(62)
        );
    }

    #[test]
    fn the_user_of_a_container() {
        let user = |pod_context: &str, own: &str| {
            let pod = pod(&format!("securityContext: {{{pod_context}}}"));
            let yaml = format!("{{name: c, securityContext: {{{own}}}}}");
            let body: Value = serde_saphyr::from_str(&yaml).unwrap();
            let user = User::of(&pod, &Container::deserialize(&body).unwrap());
            user.map(|user| user.map(|user| (user.uid, user.gid, user.groups)))
        };
        let is = |uid, gid, groups: &[u32]| Ok(Some((uid, gid, groups.to_vec())));
        assert_eq!(user("", ""), Ok(None));
        assert_eq!(user("runAsUser: 999", ""), is(999, 0, &[]));
        assert_eq!(user("runAsUser: 999, runAsGroup: 7", "runAsUser: 5"), is(5, 7, &[]));
        assert_eq!(user("fsGroup: 9, supplementalGroups: [8]", ""), is(0, 0, &[8, 9]));
        assert_eq!(user("runAsNonRoot: true", ""), is(65_532, 0, &[]));
        assert_eq!(user("runAsNonRoot: true", "runAsNonRoot: false"), Ok(None));
        assert!(user("runAsNonRoot: true, runAsUser: 0", "").is_err());
        assert!(user("runAsUser: 4294967296", "").is_err());
        assert!(user("runAsUser: -1", "").is_err());
    }
}
