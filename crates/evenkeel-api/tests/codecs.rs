//! Decoding and encoding of built-in kinds.

use evenkeel_api::{CODECS, conform};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::json;

#[test]
fn what_a_kind_does_not_know_is_dropped_and_what_does_not_fit_is_refused() {
    let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
        "data": {"b": "c"}, "date": {}});
    let known = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"},
        "data": {"b": "c"}});
    assert_eq!(conform::<ConfigMap>(&body), Ok(known));
    assert!(conform::<ConfigMap>(&json!({"data": 1})).is_err());
}

#[test]
fn each_kind_decodes_its_own_objects_alone() {
    for codec in CODECS {
        let refused = codec(&json!({"apiVersion": "example.com/v1", "kind": "Other"}));
        assert!(refused.is_err(), "{refused:?}");
    }
}
