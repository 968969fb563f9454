//! From the handlers of a manifest to what is looked at, ports resolved.

use std::time::Duration;

use k8s_openapi::{
    api::core::v1::{Container, HTTPGetAction, LifecycleHandler, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};

use super::Hook;
use crate::runtime::Check;

/// What a probe looks at.
///
/// **Errors**: a named port that the container does not have, or a probe without handler.
pub(super) fn of_probe(probe: &Probe, container: &Container, ip: &str) -> Result<Check, String> {
    if let Some(http) = &probe.http_get {
        return http_check(http, container, ip);
    }
    if let Some(tcp) = &probe.tcp_socket {
        let host = tcp.host.clone().unwrap_or_else(|| ip.to_owned());
        return Ok(Check::Tcp { host, port: port(&tcp.port, container)? });
    }
    if let Some(exec) = &probe.exec {
        return Ok(Check::Exec { command: exec.command.clone().unwrap_or_default() });
    }
    if let Some(grpc) = &probe.grpc {
        let port = port(&IntOrString::Int(grpc.port), container)?;
        return Ok(Check::Grpc { port, service: grpc.service.clone().unwrap_or_default() });
    }
    Err("missing probe handler".to_owned())
}

/// What a hook does; `None` when it does nothing that can be done.
pub(super) fn hook(handler: &LifecycleHandler, container: &Container, ip: &str) -> Option<Hook> {
    if let Some(sleep) = &handler.sleep {
        return Some(Hook::Sleep(Duration::from_secs(sleep.seconds.max(0).unsigned_abs())));
    }
    if let Some(exec) = &handler.exec {
        let command = exec.command.clone().unwrap_or_default();
        return Some(Hook::Check(Check::Exec { command }));
    }
    let http = handler.http_get.as_ref()?;
    http_check(http, container, ip).ok().map(Hook::Check)
}

fn http_check(http: &HTTPGetAction, container: &Container, ip: &str) -> Result<Check, String> {
    let headers = http.http_headers.iter().flatten();
    let path = http.path.clone().unwrap_or_default();
    Ok(Check::Http {
        scheme: http.scheme.clone().unwrap_or_else(|| "HTTP".to_owned()),
        host: http.host.clone().unwrap_or_else(|| ip.to_owned()),
        port: port(&http.port, container)?,
        path: if path.starts_with('/') { path } else { format!("/{path}") },
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    })
}

fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let mut ports = container.ports.iter().flatten();
            let named = ports.find(|port| port.name.as_ref() == Some(name));
            named.map(|port| port.container_port).or_else(|| name.parse().ok())
        }
    };
    let fail = || match port {
        IntOrString::Int(number) => format!("{number} is not a port"),
        IntOrString::String(name) => format!("couldn't find port: {name:?}"),
    };
    number.and_then(|number| u16::try_from(number).ok()).filter(|n| *n > 0).ok_or_else(fail)
}
