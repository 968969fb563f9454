//! Host names of listeners and routes, and listeners of one Gateway.

use super::scene::{INFRA, Scene};
use super::{V1, V2, V3, play};

#[test]
fn a_route_is_served_where_its_hosts_and_the_listeners_meet() {
    const TEST: &str = "httproute-hostname-intersection";
    play(
        TEST,
        TEST,
        &[
            ("very.specific.com/s1", V1),
            ("very.specific.com:1234/s1", V1),
            ("non.matching.com/s1", "404"),
            ("foo.nonmatchingwildcard.io/s1", "404"),
            ("foo.wildcard.io/s1", "404"),
            ("very.specific.com/non-matching-prefix", "404"),
            ("foo.wildcard.io/s2", V2),
            ("bar.wildcard.io/s2", V2),
            ("foo.bar.wildcard.io/s2", V2),
            ("non.matching.com/s2", "404"),
            ("wildcard.io/s2", "404"),
            ("very.specific.com/s2", "404"),
            ("foo.wildcard.io/non-matching-prefix", "404"),
            ("very.specific.com/s3", V3),
            ("non.matching.com/s3", "404"),
            ("foo.specific.com/s3", "404"),
            ("foo.wildcard.io/s3", "404"),
            ("very.specific.com/non-matching-prefix", "404"),
            ("foo.anotherwildcard.io/s4", V1),
            ("bar.anotherwildcard.io/s4", V1),
            ("foo.bar.anotherwildcard.io/s4", V1),
            ("anotherwildcard.io/s4", "404"),
            ("foo.wildcard.io/s4", "404"),
            ("very.specific.com/s4", "404"),
            ("foo.anotherwildcard.io/non-matching-prefix", "404"),
            ("specific.but.wrong.com/s5", "404"),
            ("wildcard.io/s5", "404"),
        ],
    );
    play(
        TEST,
        "httproute-hostname-intersection-all",
        &[
            ("first.com/", V2),
            ("sub.first.com/", V2),
            ("second.com/", V2),
            ("sub.second.com/", V2),
            ("third.com/", "404"),
            ("sub.third.com/", "404"),
        ],
    );
    let scene = Scene::of(TEST);
    let shown = scene.route(INFRA, "no-intersecting-hosts");
    assert_eq!(shown, "not NoMatchingListenerHostname ResolvedRefs");
    // A route counts only where it is accepted.
    assert_eq!(scene.listeners(TEST), "listener-1=2, listener-2=1, listener-3=1");
}

#[test]
fn the_listener_with_the_most_specific_host_takes_the_request() {
    play(
        "httproute-listener-hostname-matching",
        "httproute-listener-hostname-matching",
        &[
            ("bar.com/", V1),
            ("foo.bar.com/", V2),
            ("baz.bar.com/", V3),
            ("boo.bar.com/", V3),
            ("multiple.prefixes.bar.com/", V3),
            ("multiple.prefixes.foo.com/", V3),
            ("foo.com/", "404"),
            ("no.matching.host/", "404"),
        ],
    );
}

#[test]
fn a_route_is_served_on_the_ports_that_it_names() {
    play(
        "httproute-listener-port-matching",
        "httproute-listener-port-matching",
        &[
            ("foo.com/", V1),
            ("foo.com:8080/", V2),
            ("bar.com:8080/", V2),
            ("foo.com:8090/", V3),
            ("bar.com:8090/", "404"),
        ],
    );
}

#[test]
fn a_request_meets_the_routes_of_one_listener_only() {
    for test in ["http-listener-isolation", "http-listener-isolation-with-hostname-intersection"] {
        let hosts = ["bar.com", "bar.example.com", "bar.foo.example.com", "abc.foo.example.com"];
        let paths = [
            "/empty-hostname",
            "/wildcard-example-com",
            "/wildcard-foo-example-com",
            "/abc-foo-example-com",
        ];
        let mut scene = Scene::of(&format!("gateway-{test}"));
        for (n, host) in hosts.iter().enumerate() {
            for (m, path) in paths.iter().enumerate() {
                let expected = if n == m { V1 } else { "404" };
                assert_eq!(scene.ask(test, &format!("{host}{path}")), expected, "{host}{path}");
            }
        }
    }
}

#[test]
fn attached_routes_are_counted() {
    let scene = Scene::of("gateway-with-attached-routes");
    assert_eq!(scene.listeners("gateway-with-one-attached-route"), "http=1");
    assert_eq!(scene.listeners("gateway-with-two-attached-routes"), "http=2");
    let shown = scene.route(INFRA, "http-route-not-accepted");
    assert_eq!(shown, "not NoMatchingListenerHostname ResolvedRefs");
}

#[test]
fn what_a_listener_asks_for_that_is_not_served_is_said() {
    let scene = Scene::of("gateway-invalid-route-kind");
    let shown = scene.listeners("gateway-only-invalid-route-kind");
    assert_eq!(shown, "http=0 InvalidRouteKinds");
    let shown = scene.listeners("gateway-supported-and-invalid-route-kind");
    assert_eq!(shown, "http=0 InvalidRouteKinds");
    let scene = Scene::of("gateway-invalid-listeners-unsupported-protocol");
    let shown = scene.listeners("gateway-only-unsupported-protocols");
    assert_eq!(shown, "invalid=0 UnsupportedProtocol");
    let shown = scene.listeners("gateway-supported-and-unsupported-protocols");
    assert_eq!(shown, "http=0, invalid=0 UnsupportedProtocol");
    // An address without value leaves the choice to the gateway.
    let mut scene = Scene::of("gateway-optional-address-value");
    assert_eq!(scene.ask("gateway-without-address-value", "any.test:8080/"), "404");
}
