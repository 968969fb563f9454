//! Redirects and rewrites.

use super::{SAME, V1, V2, play};

#[test]
fn a_redirect_has_the_status_that_it_names() {
    play("httproute-303-redirect", SAME, &[("/see-other", "303 http://gateway.test/see-other")]);
    play("httproute-307-redirect", SAME, &[("/temporary", "307 http://gateway.test/temporary")]);
    play("httproute-308-redirect", SAME, &[("/permanent", "308 http://gateway.test/permanent")]);
    play(
        "httproute-redirect-host-and-status",
        SAME,
        &[
            ("/hostname-redirect", "302 http://example.org/hostname-redirect"),
            ("/host-and-status", "301 http://example.org/host-and-status"),
        ],
    );
}

#[test]
fn a_redirect_replaces_the_path_or_its_prefix() {
    play(
        "httproute-redirect-path",
        SAME,
        &[
            ("/original-prefix/lemon", "302 http://gateway.test/replacement-prefix/lemon"),
            ("/full/path/original", "302 http://gateway.test/full-path-replacement"),
            ("/path-and-host", "302 http://example.org/replacement-prefix"),
            ("/path-and-status", "301 http://gateway.test/replacement-prefix"),
            ("/full-path-and-host", "302 http://example.org/replacement-full"),
            ("/full-path-and-status", "301 http://gateway.test/replacement-full"),
        ],
    );
    play(
        "httproute-backend-request-redirect",
        SAME,
        &[
            ("/full/path/original", "302 http://gateway.test/redirected-full"),
            ("/prefix/lemon", "302 http://gateway.test/redirected-prefix/lemon"),
        ],
    );
}

#[test]
fn a_redirect_leaves_out_the_port_of_its_scheme() {
    play(
        "httproute-redirect-port",
        SAME,
        &[
            ("/port", "302 http://gateway.test:8083/port"),
            ("/port-and-host", "302 http://example.org:8083/port-and-host"),
            ("/port-and-status", "301 http://gateway.test:8083/port-and-status"),
            ("/port-and-host-and-status", "302 http://example.org:8083/port-and-host-and-status"),
        ],
    );
    play(
        "httproute-redirect-scheme",
        SAME,
        &[
            ("/scheme", "302 https://gateway.test/scheme"),
            ("/scheme-and-host", "302 https://example.org/scheme-and-host"),
            ("/scheme-and-status", "301 https://gateway.test/scheme-and-status"),
            ("/scheme-and-host-and-status", "302 https://example.org/scheme-and-host-and-status"),
        ],
    );
    // The listener with TLS on port 443 is not served.
    let nil = "/scheme-nil-and-port";
    let https = "/scheme-https-and-port";
    let row = |request: String, scheme: &str, port: &str| {
        let path = request.split_once('/').unwrap().1;
        let to = format!("302 {scheme}://example.org{port}/{path}");
        (request, to)
    };
    let on_80 = [
        row(format!("{nil}-nil"), "http", ""),
        row(format!("{nil}-80"), "http", ""),
        row(format!("{nil}-8080"), "http", ":8080"),
        row(format!("{https}-nil"), "https", ""),
        row(format!("{https}-443"), "https", ""),
        row(format!("{https}-8443"), "https", ":8443"),
    ];
    let on_8080 = [
        row(format!("gateway.test:8080{nil}-nil"), "http", ":8080"),
        row(format!("gateway.test:8080{nil}-80"), "http", ""),
        row(format!("gateway.test:8080{https}-nil"), "https", ""),
    ];
    for (gateway, rows) in
        [(SAME, &on_80[..]), ("same-namespace-with-http-listener-on-8080", &on_8080[..])]
    {
        let rows: Vec<(&str, &str)> = rows.iter().map(|(r, e)| (r.as_str(), e.as_str())).collect();
        play("httproute-redirect-port-and-scheme", gateway, &rows);
    }
}

#[test]
fn a_rewrite_replaces_host_and_path_for_the_backend() {
    let before = "x-header-remove:remove-val x-header-add-append:append-val-1";
    let after = "x-header-add:header-val-1 x-header-add-append:append-val-1,header-val-2 \
                 -x-header-remove x-header-set:set-overwrites-values";
    let to = |backend: &str, change: &str| format!("{backend} {change} {after}");
    let asked = |path: &str| format!("{path} {before} x-header-set:set-val");
    let (full, prefix) = (
        asked("/full/rewrite-path-and-modify-headers/test"),
        asked("/prefix/rewrite-path-and-modify-headers/one"),
    );
    play(
        "httproute-rewrite-path",
        SAME,
        &[
            ("/prefix/one/two", &format!("{V1} path=/one/two")),
            ("/strip-prefix/three", &format!("{V1} path=/three")),
            ("/strip-prefix", &format!("{V1} path=/")),
            ("/full/one/two", &format!("{V1} path=/one")),
            (&full, &to(V1, "path=/test")),
            (&prefix, &to(V1, "path=/prefix/one")),
        ],
    );
    let changed = format!("rewrite.example/rewrite-host-and-modify-headers {before}");
    play(
        "httproute-rewrite-host",
        SAME,
        &[
            ("rewrite.example/one", &format!("{V1} host=one.example.org")),
            ("rewrite.example/two", &format!("{V2} host=example.org")),
            (&changed, &to(V2, "host=test.example.org")),
        ],
    );
    play(
        "httproute-backend-url-rewrite",
        SAME,
        &[
            ("/full/path", &format!("{V1} path=/rewritten-full")),
            ("/prefix/one", &format!("{V1} path=/rewritten-prefix/one")),
        ],
    );
}
