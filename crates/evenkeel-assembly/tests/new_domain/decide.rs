//! What the greeter decides.

use evenkeel_api::Obj;
use evenkeel_control::{Action, Plan};
use serde_json::json;

use crate::view::{View, greeting_of};

pub(crate) fn decide(view: &View) -> Plan {
    let Some(name) = view.asks.json().pointer("/data/name").and_then(|name| name.as_str()) else {
        return Plan::idle("NothingAsked");
    };
    if view.greeting.is_some() {
        return Plan::idle("Greeted");
    }
    let key = greeting_of(view.asks.key());
    let greeting = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": &*key.name, "namespace": &*key.namespace},
        "data": {"text": format!("Hello {name}")}});
    match Obj::from_json(greeting) {
        Ok(obj) => Plan::act("Greeting", vec![Action::Create(Box::new(obj))]),
        Err(_) => Plan::idle("NameInvalid"),
    }
}
