//! The checks of a pod.
//!
//! **Source**: `k8s.io/pod-security-admission/policy`, check by check.

use std::collections::BTreeSet;

use serde_json::Value;

use super::Level;
use crate::value::{list_at, text, text_at};

/// A pod as the checks see it.
struct Pod<'a> {
    meta: &'a Value,
    spec: &'a Value,
}

/// A reason, and what is wrong.
type Fault = Option<(String, String)>;

fn quoted<'t>(items: impl IntoIterator<Item = &'t str>) -> String {
    let items: Vec<String> = items.into_iter().map(|item| format!("\"{item}\"")).collect();
    items.join(", ")
}

fn plural<'w>(one: &'w str, many: &'w str, count: usize) -> &'w str {
    if count == 1 { one } else { many }
}

fn containers_named(names: &[&str]) -> String {
    let word = plural("container", "containers", names.len());
    format!("{word} {}", quoted(names.iter().copied()))
}

/// What breaks a level, in Kubernetes' order: the baseline first.
pub(super) fn violations(level: Level, meta: &Value, spec: &Value) -> Vec<(String, String)> {
    let pod = Pod { meta, spec };
    let is_restricted = level == Level::Restricted;
    if level == Level::Privileged {
        return Vec::new();
    }
    let is_windows = text_at(spec, "/os/name") == "windows";
    let mut found = vec![pod.app_armor()];
    if !is_restricted {
        found.push(pod.capabilities());
    }
    found.push(pod.host_namespaces());
    if !is_restricted {
        found.push(pod.host_paths());
    }
    found.extend([pod.host_ports(), pod.privileged(), pod.proc_mount(), pod.selinux()]);
    if !is_restricted {
        found.push(pod.seccomp(false));
    }
    found.extend([pod.sysctls(), pod.host_process()]);
    if is_restricted {
        if !is_windows {
            found.extend([pod.escalation(), pod.all_capabilities()]);
        }
        found.extend([pod.volumes(), pod.non_root(), pod.root_user()]);
        if !is_windows {
            found.push(pod.seccomp(true));
        }
    }
    found.into_iter().flatten().collect()
}

impl<'a> Pod<'a> {
    fn containers(&self) -> impl Iterator<Item = &'a Value> {
        let spec = self.spec;
        ["/initContainers", "/containers", "/ephemeralContainers"]
            .into_iter()
            .flat_map(move |path| list_at(spec, path))
    }

    /// Names of the containers of which this holds.
    fn named(&self, is: impl Fn(&'a Value) -> bool) -> Vec<&'a str> {
        self.containers().filter(|one| is(one)).map(|one| text(one, "name")).collect()
    }

    /// Who sets a part of a security context to a value that `bad` is: the pod, containers.
    fn setters(&self, path: &str, bad: impl Fn(&'a Value) -> bool) -> Vec<String> {
        let path = format!("/securityContext{path}");
        let is_bad = |one: &'a Value| one.pointer(&path).is_some_and(&bad);
        let mut setters = Vec::new();
        if is_bad(self.spec) {
            setters.push("pod".to_owned());
        }
        let names = self.named(is_bad);
        if !names.is_empty() {
            setters.push(containers_named(&names));
        }
        setters
    }

    /// The bad values that are set there.
    fn values(&self, path: &str, bad: impl Fn(&str) -> bool) -> BTreeSet<&'a str> {
        let path = format!("/securityContext{path}");
        std::iter::once(self.spec)
            .chain(self.containers())
            .filter_map(|one| one.pointer(&path)?.as_str())
            .filter(|value| bad(value))
            .collect()
    }

    fn app_armor(&self) -> Fault {
        let bad = |value: &str| !matches!(value, "RuntimeDefault" | "Localhost");
        let is_bad = |value: &Value| value.as_str().is_some_and(bad);
        let mut setters = self.setters("/appArmorProfile/type", is_bad);
        let mut values: Vec<String> =
            self.values("/appArmorProfile/type", bad).into_iter().map(str::to_owned).collect();
        let prefix = "container.apparmor.security.beta.kubernetes.io/";
        let annotations = self.meta.get("annotations").and_then(Value::as_object);
        let mut annotations: Vec<String> = annotations
            .into_iter()
            .flatten()
            .filter(|(name, value)| {
                let value = value.as_str().unwrap_or_default();
                let fine = value.is_empty()
                    || value == "runtime/default"
                    || value.starts_with("localhost/");
                name.starts_with(prefix) && !fine
            })
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        if !annotations.is_empty() {
            annotations.sort();
            setters.push(plural("annotation", "annotations", annotations.len()).to_owned());
            values.append(&mut annotations);
        }
        if setters.is_empty() {
            return None;
        }
        let reason =
            plural("forbidden AppArmor profile", "forbidden AppArmor profiles", values.len());
        let detail = format!(
            "{} must not set AppArmor profile type to {}",
            setters.join(" and "),
            quoted(values.iter().map(String::as_str))
        );
        Some((reason.to_owned(), detail))
    }

    fn capabilities(&self) -> Fault {
        const ALLOWED: [&str; 13] = [
            "AUDIT_WRITE",
            "CHOWN",
            "DAC_OVERRIDE",
            "FOWNER",
            "FSETID",
            "KILL",
            "MKNOD",
            "NET_BIND_SERVICE",
            "SETFCAP",
            "SETGID",
            "SETPCAP",
            "SETUID",
            "SYS_CHROOT",
        ];
        let (names, added) = self.adding(&ALLOWED);
        (!names.is_empty()).then(|| {
            let detail = format!(
                "{} must not include {} in securityContext.capabilities.add",
                containers_named(&names),
                quoted(added)
            );
            ("non-default capabilities".to_owned(), detail)
        })
    }

    /// Containers that add other capabilities than these, and which.
    fn adding(&self, allowed: &[&str]) -> (Vec<&'a str>, BTreeSet<&'a str>) {
        let other = |one: &'a Value| {
            let added = list_at(one, "/securityContext/capabilities/add").iter();
            added.filter_map(Value::as_str).filter(|added| !allowed.contains(added))
        };
        let names = self.named(|one| other(one).next().is_some());
        (names, self.containers().flat_map(other).collect())
    }

    fn host_namespaces(&self) -> Fault {
        let shared: Vec<String> = ["hostNetwork", "hostPID", "hostIPC"]
            .into_iter()
            .filter(|name| self.spec.get(*name) == Some(&Value::Bool(true)))
            .map(|name| format!("{name}=true"))
            .collect();
        (!shared.is_empty()).then(|| ("host namespaces".to_owned(), shared.join(", ")))
    }

    fn host_paths(&self) -> Fault {
        let volumes = list_at(self.spec, "/volumes").iter();
        let names: Vec<&str> = volumes
            .filter(|volume| volume.get("hostPath").is_some())
            .map(|volume| text(volume, "name"))
            .collect();
        (!names.is_empty()).then(|| {
            let word = plural("volume", "volumes", names.len());
            ("hostPath volumes".to_owned(), format!("{word} {}", quoted(names)))
        })
    }

    fn host_ports(&self) -> Fault {
        let ports = |one: &'a Value| {
            let ports = list_at(one, "/ports").iter();
            ports.filter_map(|port| port.get("hostPort")?.as_i64()).filter(|port| *port != 0)
        };
        let names = self.named(|one| ports(one).next().is_some());
        let numbers: BTreeSet<String> =
            self.containers().flat_map(ports).map(|port| port.to_string()).collect();
        (!names.is_empty()).then(|| {
            let all: Vec<String> = numbers.iter().cloned().collect();
            let detail = format!(
                "{} {} {} {}",
                containers_named(&names),
                plural("uses", "use", names.len()),
                plural("hostPort", "hostPorts", numbers.len()),
                all.join(", ")
            );
            ("hostPort".to_owned(), detail)
        })
    }

    fn privileged(&self) -> Fault {
        let path = "/securityContext/privileged";
        let names = self.named(|one| one.pointer(path) == Some(&Value::Bool(true)));
        (!names.is_empty()).then(|| {
            let names = containers_named(&names);
            let detail = format!("{names} must not set securityContext.privileged=true");
            ("privileged".to_owned(), detail)
        })
    }

    fn proc_mount(&self) -> Fault {
        let mounted = |one: &'a Value| {
            let mount = text_at(one, "/securityContext/procMount");
            (!mount.is_empty() && mount != "Default").then_some(mount)
        };
        let names = self.named(|one| mounted(one).is_some());
        let kinds: BTreeSet<&str> = self.containers().filter_map(mounted).collect();
        (!names.is_empty()).then(|| {
            let detail = format!(
                "{} must not set securityContext.procMount to {}",
                containers_named(&names),
                quoted(kinds)
            );
            ("procMount".to_owned(), detail)
        })
    }

    fn selinux(&self) -> Fault {
        const TYPES: [&str; 5] =
            ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
        let bad = |options: &Value| {
            !TYPES.contains(&text(options, "type"))
                || !text(options, "user").is_empty()
                || !text(options, "role").is_empty()
        };
        let setters = self.setters("/seLinuxOptions", bad);
        if setters.is_empty() {
            return None;
        }
        let mut data = Vec::new();
        let types = self.values("/seLinuxOptions/type", |kind| !TYPES.contains(&kind));
        if !types.is_empty() {
            data.push(format!("{} {}", plural("type", "types", types.len()), quoted(types)));
        }
        for part in ["user", "role"] {
            let path = format!("/seLinuxOptions/{part}");
            if !self.values(&path, |value| !value.is_empty()).is_empty() {
                data.push(format!("{part} may not be set"));
            }
        }
        let detail = format!(
            "{} set forbidden securityContext.seLinuxOptions: {}",
            setters.join(" and "),
            data.join("; ")
        );
        Some(("seLinuxOptions".to_owned(), detail))
    }

    fn seccomp(&self, is_needed: bool) -> Fault {
        let path = "/seccompProfile/type";
        let bad = |value: &str| !matches!(value, "RuntimeDefault" | "Localhost");
        let setters = self.setters(path, |value| value.as_str().is_some_and(bad));
        let reason = "seccompProfile".to_owned();
        if !setters.is_empty() {
            let detail = format!(
                "{} must not set securityContext.seccompProfile.type to {}",
                setters.join(" and "),
                quoted(self.values(path, bad))
            );
            return Some((reason, detail));
        }
        let is_set = |one: &Value| one.pointer(&format!("/securityContext{path}")).is_some();
        if !is_needed || is_set(self.spec) {
            return None;
        }
        let names = self.named(|one| !is_set(one));
        (!names.is_empty()).then(|| {
            let detail = format!(
                "pod or {} must set securityContext.seccompProfile.type to \"RuntimeDefault\" or \
                 \"Localhost\"",
                containers_named(&names)
            );
            (reason, detail)
        })
    }

    fn sysctls(&self) -> Fault {
        const ALLOWED: [&str; 12] = [
            "kernel.shm_rmid_forced",
            "net.ipv4.ip_local_port_range",
            "net.ipv4.tcp_syncookies",
            "net.ipv4.ping_group_range",
            "net.ipv4.ip_unprivileged_port_start",
            "net.ipv4.ip_local_reserved_ports",
            "net.ipv4.tcp_keepalive_time",
            "net.ipv4.tcp_fin_timeout",
            "net.ipv4.tcp_keepalive_intvl",
            "net.ipv4.tcp_keepalive_probes",
            "net.ipv4.tcp_rmem",
            "net.ipv4.tcp_wmem",
        ];
        let names: Vec<&str> = list_at(self.spec, "/securityContext/sysctls")
            .iter()
            .map(|sysctl| text(sysctl, "name"))
            .filter(|name| !ALLOWED.contains(name))
            .collect();
        (!names.is_empty()).then(|| ("forbidden sysctls".to_owned(), names.join(", ")))
    }

    fn host_process(&self) -> Fault {
        let setters = self.setters("/windowsOptions/hostProcess", |v| *v == Value::Bool(true));
        (!setters.is_empty()).then(|| {
            let setters = setters.join(" and ");
            let detail =
                format!("{setters} must not set securityContext.windowsOptions.hostProcess=true");
            ("hostProcess".to_owned(), detail)
        })
    }

    fn escalation(&self) -> Fault {
        let path = "/securityContext/allowPrivilegeEscalation";
        let names = self.named(|one| one.pointer(path) != Some(&Value::Bool(false)));
        (!names.is_empty()).then(|| {
            let names = containers_named(&names);
            let detail = format!("{names} must set securityContext.allowPrivilegeEscalation=false");
            ("allowPrivilegeEscalation != false".to_owned(), detail)
        })
    }

    fn all_capabilities(&self) -> Fault {
        let keeping = self.named(|one| {
            let dropped = list_at(one, "/securityContext/capabilities/drop");
            !dropped.iter().any(|name| name == "ALL")
        });
        let (adding, added) = self.adding(&["NET_BIND_SERVICE"]);
        let mut words = Vec::new();
        if !keeping.is_empty() {
            let names = containers_named(&keeping);
            words.push(format!("{names} must set securityContext.capabilities.drop=[\"ALL\"]"));
        }
        if !adding.is_empty() {
            words.push(format!(
                "{} must not include {} in securityContext.capabilities.add",
                containers_named(&adding),
                quoted(added)
            ));
        }
        (!words.is_empty()).then(|| ("unrestricted capabilities".to_owned(), words.join("; ")))
    }

    fn volumes(&self) -> Fault {
        const ALLOWED: [&str; 9] = [
            "configMap",
            "csi",
            "downwardAPI",
            "emptyDir",
            "ephemeral",
            "image",
            "persistentVolumeClaim",
            "projected",
            "secret",
        ];
        let mut names = Vec::new();
        let mut kinds = BTreeSet::new();
        for volume in list_at(self.spec, "/volumes") {
            let fields = || volume.as_object().into_iter().flatten().map(|(name, _)| name.as_str());
            if fields().any(|name| ALLOWED.contains(&name)) {
                continue;
            }
            names.push(text(volume, "name"));
            kinds.insert(fields().find(|name| *name != "name").unwrap_or("unknown"));
        }
        (!names.is_empty()).then(|| {
            let detail = format!(
                "{} {} {} {} {}",
                plural("volume", "volumes", names.len()),
                quoted(names.iter().copied()),
                plural("uses", "use", names.len()),
                plural("restricted volume type", "restricted volume types", kinds.len()),
                quoted(kinds)
            );
            ("restricted volume types".to_owned(), detail)
        })
    }

    fn non_root(&self) -> Fault {
        let reason = "runAsNonRoot != true".to_owned();
        let setters = self.setters("/runAsNonRoot", |value| *value == Value::Bool(false));
        if !setters.is_empty() {
            let setters = setters.join(" and ");
            let detail = format!("{setters} must not set securityContext.runAsNonRoot=false");
            return Some((reason, detail));
        }
        let path = "/securityContext/runAsNonRoot";
        if self.spec.pointer(path) == Some(&Value::Bool(true)) {
            return None;
        }
        let names = self.named(|one| one.pointer(path).is_none());
        (!names.is_empty()).then(|| {
            let names = containers_named(&names);
            (reason, format!("pod or {names} must set securityContext.runAsNonRoot=true"))
        })
    }

    fn root_user(&self) -> Fault {
        let setters = self.setters("/runAsUser", |value| value.as_i64() == Some(0));
        (!setters.is_empty()).then(|| {
            let detail = format!("{} must not set runAsUser=0", setters.join(" and "));
            ("runAsUser=0".to_owned(), detail)
        })
    }
}
