use serde_json::{Value, json};

use crate::{
    error::{ApiError, Cause},
    resource::Resource,
    state::State,
    value::{list_at, number_at, object_in, text, text_at},
};

/// What a write has taken, to be given back when it does not happen.
#[derive(Default)]
pub(crate) struct Allocated {
    address: Option<String>,
    ports: Vec<u16>,
}

fn node_port(port: &Value) -> Option<u16> {
    number_at(port, "/nodePort")
        .and_then(|number| u16::try_from(number).ok())
        .filter(|number| *number > 0)
}

impl State {
    /// Gives a Service its address and node ports; keeps those of `old`.
    pub(crate) fn allocate(
        &mut self,
        resource: &Resource,
        body: &mut Value,
        old: Option<&Value>,
    ) -> Result<Allocated, ApiError> {
        let mut taken = Allocated::default();
        if !resource.is("", "Service") {
            return Ok(taken);
        }
        let done = self
            .allocate_address(body, old, &mut taken)
            .and_then(|()| self.allocate_ports(body, old, &mut taken));
        if let Err(cause) = done {
            self.release(&taken);
            let name = text_at(body, "/metadata/name");
            return Err(ApiError::invalid("", "Service", name, vec![cause]));
        }
        Ok(taken)
    }

    fn allocate_address(
        &mut self,
        body: &mut Value,
        old: Option<&Value>,
        taken: &mut Allocated,
    ) -> Result<(), Cause> {
        if text_at(body, "/spec/type") == "ExternalName" {
            return Ok(());
        }
        let had = old.map_or("", |old| text_at(old, "/spec/clusterIP"));
        let wanted = text_at(body, "/spec/clusterIP").to_owned();
        let address = match wanted.as_str() {
            "None" => wanted,
            "" if !had.is_empty() => had.to_owned(),
            "" => {
                let address = self.addresses.allocate().ok_or_else(|| Cause {
                    reason: "FieldValueInvalid",
                    field: "spec.clusterIP".to_owned(),
                    message: format!(
                        "Invalid value: \"\": the range {} is full",
                        self.addresses.range()
                    ),
                })?;
                taken.address = Some(address.to_string());
                address.to_string()
            }
            same if same == had => wanted,
            _ => {
                self.addresses.claim(&wanted).map_err(|problem| Cause {
                    reason: "FieldValueInvalid",
                    field: "spec.clusterIPs".to_owned(),
                    message: format!(
                        "Invalid value: [{wanted:?}]: failed to allocate IP \
                        {wanted}: {problem}"
                    ),
                })?;
                taken.address = Some(wanted.clone());
                wanted
            }
        };
        let spec = object_in(body, "spec");
        spec.insert("clusterIPs".to_owned(), json!([address]));
        spec.insert("clusterIP".to_owned(), json!(address));
        spec.entry("ipFamilies").or_insert_with(|| json!(["IPv4"]));
        spec.entry("ipFamilyPolicy").or_insert_with(|| json!("SingleStack"));
        Ok(())
    }

    fn allocate_ports(
        &mut self,
        body: &mut Value,
        old: Option<&Value>,
        taken: &mut Allocated,
    ) -> Result<(), Cause> {
        if !matches!(text_at(body, "/spec/type"), "NodePort" | "LoadBalancer") {
            return Ok(());
        }
        let had = old.map_or(&[][..], |old| list_at(old, "/spec/ports"));
        let Some(ports) = body.pointer_mut("/spec/ports").and_then(Value::as_array_mut) else {
            return Ok(());
        };
        for (index, port) in ports.iter_mut().enumerate() {
            let same = |old: &&Value| {
                number_at(old, "/port") == number_at(port, "/port")
                    && text(old, "protocol") == text(port, "protocol")
            };
            let kept = had.iter().find(same).and_then(node_port);
            let number = match node_port(port).or(kept) {
                Some(number) if had.iter().any(|old| node_port(old) == Some(number)) => number,
                Some(number) if self.addresses.claim_port(number) => {
                    taken.ports.push(number);
                    number
                }
                Some(number) => {
                    return Err(Cause {
                        reason: "FieldValueInvalid",
                        field: format!("spec.ports[{index}].nodePort"),
                        message: format!(
                            "Invalid value: {number}: provided port is already allocated"
                        ),
                    });
                }
                None => {
                    let number = self.addresses.allocate_port().ok_or_else(|| Cause {
                        reason: "FieldValueInvalid",
                        field: format!("spec.ports[{index}].nodePort"),
                        message: "Invalid value: 0: the range 30000-32767 is full".to_owned(),
                    })?;
                    taken.ports.push(number);
                    number
                }
            };
            port["nodePort"] = json!(number);
        }
        Ok(())
    }

    /// Gives back what a write that does not happen had taken.
    pub(crate) fn release(&mut self, taken: &Allocated) {
        if let Some(address) = &taken.address {
            self.addresses.release(address);
        }
        for port in &taken.ports {
            self.addresses.release_port(*port);
        }
    }

    /// Gives back what `old` had and `new` no longer has.
    pub(crate) fn release_dropped(&mut self, resource: &Resource, old: &Value, new: &Value) {
        if !resource.is("", "Service") {
            return;
        }
        let address = text_at(old, "/spec/clusterIP");
        if address != text_at(new, "/spec/clusterIP") {
            self.addresses.release(address);
        }
        let kept: Vec<u16> = list_at(new, "/spec/ports").iter().filter_map(node_port).collect();
        for port in list_at(old, "/spec/ports").iter().filter_map(node_port) {
            if !kept.contains(&port) {
                self.addresses.release_port(port);
            }
        }
    }
}
