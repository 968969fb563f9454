use serde_json::json;

use super::*;

#[test]
fn fields_we_do_not_act_on_survive_a_round_trip() {
    let body = json!({"metadata": {"name": "api"}, "spec": {
        "targetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "api"},
        "ingressRef": {"name": "in"},
        "service": {"port": 80, "retries": {"attempts": 3}, "targetPort": "web"},
        "analysis": {"interval": "1m", "threshold": 5, "mirrorWeight": 10,
            "webhooks": [{"name": "gate", "url": "http://x/", "muteAlert": true}]}},
        "status": {"phase": "Progressing", "sessionAffinityCookie": "c=1"}});
    let canary: Canary = serde_json::from_value(body.clone()).unwrap();
    let back = serde_json::to_value(&canary).unwrap();
    for path in [
        "/spec/ingressRef/name",
        "/spec/service/retries/attempts",
        "/spec/service/targetPort",
        "/spec/analysis/mirrorWeight",
        "/spec/analysis/webhooks/0/muteAlert",
        "/status/sessionAffinityCookie",
        "/status/phase",
    ] {
        assert_eq!(back.pointer(path), body.pointer(path), "{path}");
    }
}

#[test]
fn istio_conditions_become_route_matches_or_name_what_cannot_be() {
    let fine = json!({"uri": {"prefix": "/v1"}, "headers": {"x-user": {"exact": "a"}}});
    let route = gateway_match(&fine).unwrap();
    assert_eq!(route.path.unwrap().kind.as_deref(), Some("PathPrefix"));
    assert_eq!(route.headers[0].name, "x-user");
    assert_eq!(gateway_match(&json!({"sourceLabels": {"a": "b"}})).unwrap_err(), "sourceLabels");
    let prefix = json!({"headers": {"x-user": {"prefix": "a"}}});
    assert_eq!(gateway_match(&prefix).unwrap_err(), "x-user");
}
