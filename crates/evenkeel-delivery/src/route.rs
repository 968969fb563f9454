//! The HTTPRoute that splits traffic, as it stands: read leniently, because a
//! malformed route must still show where traffic goes and must still be reset.

use evenkeel_api::{Key, Obj, httproute::ParentRef};
use evenkeel_control::{Action, RouteWeight};
use serde_json::Value;

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

/// Gives the canary this share and the primary the rest.
pub(crate) fn set_weight(route: Key, primary: &str, canary: &str, canary_pct: i32) -> Action {
    let share = |backend: &str, weight| RouteWeight { backend: backend.to_owned(), weight };
    let weights = vec![share(primary, 100 - canary_pct), share(canary, canary_pct)];
    Action::SetWeights { route, weights }
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

fn list<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = &'a Value> {
    value.pointer(pointer).and_then(Value::as_array).into_iter().flatten()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value.get(field).and_then(Value::as_str).unwrap_or_default()
}
