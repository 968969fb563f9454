//! References to backends and parents that do not exist or are not permitted.

use super::scene::{INFRA, Scene};
use super::{SAME, V1, play};

#[test]
fn a_backend_that_cannot_be_used_answers_500_and_is_said() {
    for (test, route, shown) in [
        (
            "httproute-invalid-backendref-unknown-kind",
            "invalid-backend-ref-unknown-kind",
            "InvalidKind",
        ),
        (
            "httproute-invalid-cross-namespace-backend-ref",
            "invalid-cross-namespace-backend-ref",
            "RefNotPermitted",
        ),
        (
            "httproute-invalid-nonexistent-backendref",
            "invalid-nonexistent-backend-ref",
            "BackendNotFound",
        ),
        ("httproute-invalid-reference-grant", "reference-grant", "RefNotPermitted"),
    ] {
        play(test, SAME, &[("/", "500")]);
        let scene = Scene::of(test);
        assert_eq!(scene.route(INFRA, route), format!("Accepted not {shown}"), "{test}");
    }
    play(
        "httproute-omitted-backendrefs",
        SAME,
        &[("/forward", V1), ("/omitted-no-forward", "500"), ("/empty-no-forward", "500")],
    );
    let scene = Scene::of("httproute-omitted-backendrefs");
    assert_eq!(scene.route(INFRA, "omitted-backendrefs"), "Accepted ResolvedRefs");
}

#[test]
fn a_grant_lets_a_route_use_what_it_names_and_nothing_else() {
    const PARTLY: &str = "httproute-partially-invalid-via-invalid-reference-grant";
    play("httproute-reference-grant", SAME, &[("/", "web-backend")]);
    let scene = Scene::of("httproute-reference-grant");
    assert_eq!(scene.route(INFRA, "reference-grant"), "Accepted ResolvedRefs");
    play(PARTLY, SAME, &[("/v2", "500"), ("/", "app-backend-v1")]);
    let scene = Scene::of(PARTLY);
    assert_eq!(scene.route(INFRA, "invalid-reference-grant"), "Accepted not RefNotPermitted");
}

#[test]
fn a_parent_that_does_not_take_a_route_says_why() {
    for (test, namespace, route, shown) in [
        (
            "httproute-invalid-cross-namespace-parent-ref",
            "gateway-conformance-web-backend",
            "invalid-cross-namespace-parent-ref",
            "NotAllowedByListeners",
        ),
        (
            "httproute-invalid-parentref-not-matching-listener-port",
            INFRA,
            "httproute-listener-not-matching-route-port",
            "NoMatchingParent",
        ),
        (
            "httproute-invalid-parentref-not-matching-section-name",
            INFRA,
            "httproute-listener-not-matching-section-name",
            "NoMatchingParent",
        ),
        (
            "httproute-invalid-parentref-section-name-not-matching-port",
            INFRA,
            "httproute-listener-section-name-not-matching-port",
            "NoMatchingParent",
        ),
        ("httproute-disallowed-kind", INFRA, "disallowed-kind", "NotAllowedByListeners"),
    ] {
        let shown = format!("not {shown} ResolvedRefs");
        assert_eq!(Scene::of(test).route(namespace, route), shown, "{test}");
    }
    play("httproute-invalid-cross-namespace-parent-ref", SAME, &[("/", "404")]);
}
