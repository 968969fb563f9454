//! JSON values as bytes: a fraction of what they take as a tree, exactly what they were, and
//! faster to read than text.
//!
//! ```text
//! value   tag, then what it holds
//! number  8 bytes, or as many as a small whole number needs
//! text    length, UTF-8
//! list    length, values
//! map     length, then text and value of each field, in their order
//! name    of a field: its place among the common ones, or a text
//! ```
//! Never written to a disk or a wire: the format is that of this process.

use serde_json::{Map, Number, Value};

const NULL: u8 = 0;
const FALSE: u8 = 1;
const TRUE: u8 = 2;
const WHOLE: u8 = 3;
const NEGATIVE: u8 = 4;
const FLOAT: u8 = 5;
const TEXT: u8 = 6;
const LIST: u8 = 7;
const MAP: u8 = 8;

/// Names of fields that most objects have: a byte each, instead of ten.
const COMMON: [&str; 96] = [
    "addresses",
    "annotations",
    "apiVersion",
    "app",
    "args",
    "availableReplicas",
    "backendRefs",
    "blockOwnerDeletion",
    "clusterIP",
    "clusterIPs",
    "command",
    "conditions",
    "containerID",
    "containerPort",
    "containerStatuses",
    "containers",
    "controller",
    "creationTimestamp",
    "dnsPolicy",
    "effect",
    "enableServiceLinks",
    "endpoints",
    "env",
    "finalizers",
    "fullyLabeledReplicas",
    "generateName",
    "generation",
    "group",
    "hostIP",
    "hostIPs",
    "image",
    "imageID",
    "imagePullPolicy",
    "internalTrafficPolicy",
    "ip",
    "ipFamilies",
    "ipFamilyPolicy",
    "key",
    "kind",
    "labels",
    "lastProbeTime",
    "lastTransitionTime",
    "lastUpdateTime",
    "matchLabels",
    "message",
    "metadata",
    "mountPath",
    "name",
    "namespace",
    "nodeName",
    "observedGeneration",
    "operator",
    "ownerReferences",
    "parentRefs",
    "path",
    "phase",
    "podIP",
    "podIPs",
    "pod-template-hash",
    "port",
    "ports",
    "preemptionPolicy",
    "priority",
    "progressDeadlineSeconds",
    "protocol",
    "qosClass",
    "readOnly",
    "ready",
    "readyReplicas",
    "reason",
    "replicas",
    "resources",
    "resourceVersion",
    "restartCount",
    "restartPolicy",
    "revisionHistoryLimit",
    "rules",
    "schedulerName",
    "securityContext",
    "selector",
    "service",
    "serviceAccount",
    "serviceAccountName",
    "spec",
    "started",
    "startTime",
    "status",
    "strategy",
    "targetPort",
    "targetRef",
    "template",
    "terminationGracePeriodSeconds",
    "terminationMessagePath",
    "tolerations",
    "type",
    "uid",
];

/// The bytes of a value.
pub(crate) fn pack(value: &Value) -> Box<[u8]> {
    let mut out = Vec::new();
    put(value, &mut out);
    out.into_boxed_slice()
}

/// The value of bytes that [`pack`] made; `None` of any others.
pub(crate) fn unpack(bytes: &[u8]) -> Option<Value> {
    let mut rest = bytes;
    let value = take(&mut rest)?;
    rest.is_empty().then_some(value)
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(NULL),
        Value::Bool(false) => out.push(FALSE),
        Value::Bool(true) => out.push(TRUE),
        Value::Number(number) => put_number(number, out),
        Value::String(text) => {
            out.push(TEXT);
            put_text(text, out);
        }
        Value::Array(items) => {
            out.push(LIST);
            put_whole(items.len() as u64, out);
            for item in items {
                put(item, out);
            }
        }
        Value::Object(fields) => {
            out.push(MAP);
            put_whole(fields.len() as u64, out);
            for (name, value) in fields {
                put_name(name, out);
                put(value, out);
            }
        }
    }
}

fn put_number(number: &Number, out: &mut Vec<u8>) {
    if let Some(whole) = number.as_u64() {
        out.push(WHOLE);
        put_whole(whole, out);
    } else if let Some(negative) = number.as_i64() {
        out.push(NEGATIVE);
        put_whole(negative.unsigned_abs(), out);
    } else {
        out.push(FLOAT);
        out.extend(number.as_f64().unwrap_or_default().to_bits().to_le_bytes());
    }
}

/// Seven bits a byte, the lowest first; all but the last have the highest bit set.
fn put_whole(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number.to_le_bytes()[0] | 0x80);
        number >>= 7;
    }
    out.push(number.to_le_bytes()[0]);
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    put_whole(text.len() as u64, out);
    out.extend_from_slice(text.as_bytes());
}

/// The place of a common name, or a length beyond all places.
fn put_name(name: &str, out: &mut Vec<u8>) {
    if let Some(place) = common(name) {
        put_whole(place as u64, out);
    } else {
        put_whole((COMMON.len() + name.len()) as u64, out);
        out.extend_from_slice(name.as_bytes());
    }
}

fn common(name: &str) -> Option<usize> {
    COMMON.iter().position(|common| *common == name)
}

fn take(rest: &mut &[u8]) -> Option<Value> {
    Some(match take_byte(rest)? {
        NULL => Value::Null,
        FALSE => Value::Bool(false),
        TRUE => Value::Bool(true),
        WHOLE => Value::from(take_whole(rest)?),
        NEGATIVE => Value::from(0_i64.checked_sub_unsigned(take_whole(rest)?)?),
        FLOAT => {
            let (bits, after) = rest.split_first_chunk()?;
            *rest = after;
            Number::from_f64(f64::from_bits(u64::from_le_bytes(*bits)))?.into()
        }
        TEXT => {
            let length = take_length(rest)?;
            take_text(rest, length)?.into()
        }
        LIST => {
            let length = take_length(rest)?;
            let mut items = Vec::with_capacity(length);
            for _ in 0..length {
                items.push(take(rest)?);
            }
            items.into()
        }
        MAP => {
            let length = take_length(rest)?;
            let mut fields = Map::with_capacity(length);
            for _ in 0..length {
                fields.insert(take_name(rest)?, take(rest)?);
            }
            fields.into()
        }
        _ => return None,
    })
}

fn take_byte(rest: &mut &[u8]) -> Option<u8> {
    let (first, after) = rest.split_first()?;
    *rest = after;
    Some(*first)
}

fn take_whole(rest: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..u64::BITS).step_by(7) {
        let byte = take_byte(rest)?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// A length that what is left can have: each item is a byte at least.
fn take_length(rest: &mut &[u8]) -> Option<usize> {
    let length = usize::try_from(take_whole(rest)?).ok()?;
    (length <= rest.len()).then_some(length)
}

fn take_text(rest: &mut &[u8], length: usize) -> Option<String> {
    let (text, after) = rest.split_at_checked(length)?;
    *rest = after;
    Some(std::str::from_utf8(text).ok()?.to_owned())
}

fn take_name(rest: &mut &[u8]) -> Option<String> {
    let place = usize::try_from(take_whole(rest)?).ok()?;
    match COMMON.get(place) {
        Some(name) => Some((*name).to_owned()),
        None => take_text(rest, place - COMMON.len()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn any_name() -> impl Strategy<Value = String> {
        prop_oneof![prop::sample::select(COMMON.to_vec()).prop_map(str::to_owned), any::<String>()]
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(5, 40, 8, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..8).prop_map(Value::from),
                prop::collection::vec((any_name(), inner), 0..8)
                    .prop_map(|fields| Value::Object(fields.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn what_was_packed_is_what_is_unpacked(value in any_value()) {
            let back = unpack(&pack(&value));
            prop_assert_eq!(back.as_ref(), Some(&value));
            // The order of fields too, which equality does not see.
            prop_assert_eq!(back.map(|back| back.to_string()), Some(value.to_string()));
        }

        #[test]
        fn other_bytes_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            if let Some(value) = unpack(&bytes) {
                prop_assert!(pack(&value).len() <= bytes.len());
            }
        }
    }

    #[test]
    fn the_edges_of_numbers_and_of_the_list_of_names_survive() {
        let names = |(at, name): (usize, &&str)| ((*name).to_owned(), at.into());
        let all: Map<String, Value> = COMMON.iter().enumerate().map(names).collect();
        assert_eq!(all.len(), COMMON.len(), "a name is there twice");
        let value = json!([u64::MAX, i64::MIN, -1, 0, 127, 128, -0.0, 0.1, 5e-324, {"": ""}, all]);
        assert_eq!(unpack(&pack(&value)).unwrap().to_string(), value.to_string());
    }
}
