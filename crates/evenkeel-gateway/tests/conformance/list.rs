//! The whole suite by name, so that nothing is left out silently.

use std::collections::BTreeSet;

/// Every manifest of `conformance/tests` at the commit of the fixtures, but those for meshes.
const ALL: &str = include_str!("../fixtures/gateway-api/tests.txt");

/// Single tests that are not played here, and why.
const LEFT_OUT: [(&str, &str); 22] = [
    ("gateway-infrastructure", "nothing is deployed for a Gateway"),
    ("gateway-invalid-parameters-ref", "a Gateway has no parameters here"),
    ("gateway-modify-listeners", "needs the loop; tests/controller plays changes"),
    ("gateway-name-maximum-length", "nothing is named after a Gateway"),
    ("gateway-observed-generation-bump", "needs the loop; tests/controller plays generations"),
    ("gateway-static-addresses", "needs addresses of the machine"),
    (
        "gateway-with-attached-routes-with-port-8080",
        "needs the loop; tests/controller plays changes",
    ),
    (
        "gatewayclass-observed-generation-bump",
        "GatewayClasses are not looked at: every Gateway is served",
    ),
    ("httproute-backend-protocol-h2c", "HTTP/2 to backends is not spoken"),
    ("httproute-backend-protocol-websocket", "needs sockets; tests/shell plays upgrades"),
    ("httproute-cors", "the CORS filter is refused by name"),
    ("httproute-https-listener-detect-misdirected-requests", "TLS"),
    ("httproute-https-listener", "TLS"),
    ("httproute-observed-generation-bump", "needs the loop; tests/controller plays generations"),
    ("httproute-request-mirror", "mirroring is refused by name"),
    ("httproute-request-multiple-mirrors", "mirroring is refused by name"),
    ("httproute-request-percentage-mirror", "mirroring is refused by name"),
    ("httproute-retry-connection-error", "needs time; tests/engine plays retries"),
    ("httproute-retry-with-timeouts", "needs time; tests/engine plays retries"),
    ("httproute-retry", "needs time; tests/engine plays retries"),
    ("httproute-timeout-backend-request", "needs time; tests/shell plays limits"),
    ("httproute-timeout-request", "needs time; tests/shell plays limits"),
];

/// Groups of tests of what is not supported, by the beginning of their names.
const NOT_SUPPORTED: [(&str, &str); 12] = [
    ("backendtlspolicy", "TLS to backends"),
    ("gateway-secret-", "TLS"),
    ("gateway-tls-", "TLS"),
    ("gateway-invalid-tls", "TLS"),
    ("gateway-invalid-default-frontend", "TLS"),
    ("gateway-with-client", "TLS"),
    ("gateway-with-invalid-client", "TLS"),
    ("grpcroute-", "GRPCRoute is not served"),
    ("listenerset-", "ListenerSet is not served"),
    ("tcproute-", "TCPRoute is not served"),
    ("tlsroute-", "TLSRoute is not served"),
    ("udproute-", "UDPRoute is not served"),
];

fn played() -> BTreeSet<String> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fixtures/gateway-api");
    let names = std::fs::read_dir(folder).unwrap().map(|entry| {
        let name = entry.unwrap().file_name();
        name.to_str().unwrap().to_owned()
    });
    let names = names.filter_map(|name| name.strip_suffix(".yaml").map(str::to_owned));
    names.filter(|name| name != "base").collect()
}

#[test]
fn every_test_is_played_or_left_out_with_a_reason() {
    let played = played();
    let left_out = |name: &&str| LEFT_OUT.iter().any(|(one, _)| one == name);
    let unsupported = |name: &&str| NOT_SUPPORTED.iter().any(|(start, _)| name.starts_with(start));
    let rest: Vec<&str> = ALL.lines().filter(|name| !played.contains(*name)).collect();
    let silent: Vec<&&str> =
        rest.iter().filter(|name| !left_out(name) && !unsupported(name)).collect();
    assert!(silent.is_empty(), "neither played nor left out: {silent:?}");
    for (name, _) in LEFT_OUT {
        assert!(rest.contains(&name), "{name} is played, or does not exist");
    }
    for name in &played {
        assert!(ALL.lines().any(|one| one == name), "{name} is no test of the suite");
    }
}
