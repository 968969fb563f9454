//! The HTTPRoute that splits traffic, as it stands: read leniently, because a
//! malformed route must still show where traffic goes and must still be reset.

use evenkeel_api::{Obj, httproute::ParentRef};
use serde_json::Value;

use crate::reasons;

/// Our own gateway, as it signs in a route's status.
const GATEWAY: &str = "evenkeel.dev/gateway";

/// The canary's share in percent as the route has it: the truth, whatever a status says.
pub(crate) fn canary_pct(route: &Obj, primary: &str, canary: &str) -> i32 {
    let share = |rule: &Value| {
        let weight = |name: &str| {
            let of = list(rule, "/backendRefs").filter(|backend| text(backend, "name") == name);
            of.map(|backend| backend.get("weight").map_or(Some(1), Value::as_i64).unwrap_or(0))
                .fold(0_i64, i64::saturating_add)
        };
        let (primary, canary) = (weight(primary).max(0), weight(canary).max(0));
        let all = primary.saturating_add(canary);
        let pct = canary.saturating_mul(100).checked_div(all).unwrap_or_default();
        i32::try_from(pct).unwrap_or(100)
    };
    list(route.json(), "/spec/rules").map(share).max().unwrap_or_default()
}

/// Whether a route names this Gateway as a parent. The API server may have filled in defaults.
pub(crate) fn names(route: &Obj, gateway: &ParentRef) -> bool {
    let given =
        |value: Option<&str>, or: &str| value.filter(|v| !v.is_empty()).unwrap_or(or).to_owned();
    list(route.json(), "/spec/parentRefs").any(|parent| {
        let field = |name: &str| parent.get(name).and_then(Value::as_str);
        let namespace = |of: Option<&str>| given(of, route.namespace());
        given(field("kind"), "Gateway") == "Gateway"
            && field("name") == Some(gateway.name.as_str())
            && namespace(field("namespace")) == namespace(gateway.namespace.as_deref())
            && field("sectionName") == gateway.section_name.as_deref()
            && parent.get("port").and_then(Value::as_i64) == gateway.port.map(i64::from)
    })
}

/// Whether the gateway routes by the present generation of the route.
///
/// Ours says so in `Programmed`, which means every worker. Other gateways know only `Accepted`,
/// and all of them must have said it. One that serves no mesh refuses the Service among the
/// parents, which we add for our own: that says nothing where there are Gateways.
pub(crate) fn is_confirmed(route: &Obj) -> bool {
    let parents: Vec<&Value> = list(route.json(), "/status/parents").collect();
    let says = |parent: &Value, kind: &str| {
        list(parent, "/conditions").any(|condition| {
            let seen = condition.get("observedGeneration").and_then(Value::as_i64);
            text(condition, "type") == kind
                && text(condition, "status") == "True"
                && seen.unwrap_or_default() >= route.generation()
        })
    };
    let ours: Vec<_> =
        parents.iter().filter(|parent| text(parent, "controllerName") == GATEWAY).collect();
    if !ours.is_empty() {
        return ours.iter().any(|parent| says(parent, "Programmed"));
    }
    let is_service =
        |parent: &&&Value| parent.pointer("/parentRef/kind") == Some(&"Service".into());
    let gateways: Vec<_> = parents.iter().filter(|parent| !is_service(parent)).collect();
    let asked = if gateways.is_empty() { parents.iter().collect() } else { gateways };
    !asked.is_empty() && asked.iter().all(|parent| says(parent, "Accepted"))
}

/// Whether anybody routes by it, as far as its status says.
pub(crate) fn is_accepted(route: &Obj) -> bool {
    list(route.json(), "/status/parents")
        .any(|parent| condition(parent, "Accepted", "True").is_some())
}

/// Who accepts a route and says nothing more of it; `None` when evenkeel's gateway serves it, or
/// nobody has accepted it.
pub(crate) fn accepts_only(route: &Obj) -> Option<&str> {
    let mut parents = list(route.json(), "/status/parents");
    if parents.any(|parent| text(parent, "controllerName") == GATEWAY) {
        return None;
    }
    let mut parents = list(route.json(), "/status/parents");
    let accepted = parents.find(|parent| condition(parent, "Accepted", "True").is_some())?;
    // As evenkeel's gateway does, some say it.
    let says_more = condition(accepted, "Programmed", "True").is_some();
    Some(text(accepted, "controllerName")).filter(|_| !says_more)
}

/// Why a Gateway that exists does not serve the route: a reason, and the words of who says so.
pub(crate) fn trouble(
    route: &Obj,
    parent: &ParentRef,
    gateway: &Obj,
) -> Option<(&'static str, String)> {
    let (key, said) = (gateway.key(), |of: &Value| {
        let (reason, message) = (text(of, "reason"), text(of, "message"));
        if message.is_empty() { reason.to_owned() } else { format!("{reason}: {message}") }
    });
    let about = |status: &&Value| {
        let of = status.get("parentRef").unwrap_or(&Value::Null);
        let namespace = of.get("namespace").and_then(Value::as_str);
        text(of, "name") == parent.name
            && !matches!(text(of, "kind"), "Service")
            && namespace.unwrap_or(route.namespace()) == gateway.namespace()
    };
    let answers: Vec<&Value> = list(route.json(), "/status/parents").filter(about).collect();
    let ours = |status: &Value| text(status, "controllerName") == GATEWAY;
    let status = gateway.json().get("status").unwrap_or(&Value::Null);
    if !answers.is_empty() {
        let refused = answers.iter().find_map(|answer| {
            let of = |kind: &str| condition(answer, kind, "False");
            of("Accepted").or_else(|| of("ResolvedRefs"))
        });
        if let Some(refused) = refused {
            let message = format!("{key} refuses HTTPRoute {}: {}", route.name(), said(refused));
            return Some((reasons::ROUTE_REFUSED, message));
        }
        // Of other implementations it may mean only that an address from outside is missing.
        let unusable = condition(status, "Programmed", "False");
        let unusable = unusable.filter(|_| answers.iter().any(|answer| ours(answer)))?;
        let message = format!("{key} does not serve its listeners: {}", said(unusable));
        return Some((reasons::GATEWAY_UNSERVED, message));
    }
    let accepted = condition(status, "Accepted", "True").is_some();
    if accepted || list(route.json(), "/status/parents").any(ours) {
        return None;
    }
    Some(unserved(gateway, said))
}

fn unserved(gateway: &Obj, said: impl Fn(&Value) -> String) -> (&'static str, String) {
    let (key, status) = (gateway.key(), gateway.json().get("status").unwrap_or(&Value::Null));
    if let Some(refused) = condition(status, "Accepted", "False") {
        return (reasons::GATEWAY_UNSERVED, format!("{key} is not accepted: {}", said(refused)));
    }
    let class = gateway.json().pointer("/spec/gatewayClassName").and_then(Value::as_str);
    let class = class.unwrap_or_default();
    let message = format!(
        "nobody serves {key}: no implementation of the Gateway API has accepted it; see that \
         GatewayClass {class} exists and its controller runs"
    );
    (reasons::GATEWAY_UNSERVED, message)
}

/// A condition of this kind and status.
fn condition<'a>(of: &'a Value, kind: &str, status: &str) -> Option<&'a Value> {
    list(of, "/conditions").find(|it| text(it, "type") == kind && text(it, "status") == status)
}

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
