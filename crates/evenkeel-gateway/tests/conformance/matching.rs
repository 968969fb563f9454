//! Which rule a request takes: path, method, headers, query.

use super::{SAME, V1, V2, V3, play};

#[test]
fn paths_and_headers_choose_the_rule() {
    play(
        "httproute-matching",
        SAME,
        &[
            ("/", V1),
            ("/example", V1),
            ("/ version:one", V1),
            ("/v2", V2),
            ("/v2/example", V2),
            ("/ version:two", V2),
            ("/v2/", V2),
            // A prefix ends where a part of the path does.
            ("/v2example", V1),
            ("/foo/v2/example", V1),
        ],
    );
}

#[test]
fn the_best_match_of_several_routes_wins() {
    play(
        "httproute-matching-across-routes",
        SAME,
        &[
            ("example.com/", V1),
            ("example.com/example", V1),
            ("example.net/example", V1),
            ("example.com/example version:one", V1),
            ("example.com/v2", V2),
            // The second route is for example.com only.
            ("example.net/v2", V1),
            ("example.com/v2/example", V2),
            ("example.com/ version:two", V2),
        ],
    );
}

#[test]
fn an_exact_path_is_that_path_only() {
    play(
        "httproute-exact-path-matching",
        SAME,
        &[
            ("/one", V1),
            ("/two", V2),
            ("/", "404"),
            ("/one/example", "404"),
            ("/two/", "404"),
            ("/Two", "404"),
        ],
    );
}

#[test]
fn exact_paths_and_longer_prefixes_come_first() {
    play(
        "httproute-path-match-order",
        SAME,
        &[
            ("/match/exact/one", V3),
            ("/match/exact", V2),
            ("/match", V1),
            ("/match/prefix/one/any", V2),
            ("/match/prefix/any", V1),
            ("/match/any", V3),
        ],
    );
}

#[test]
fn all_headers_of_a_match_must_fit() {
    play(
        "httproute-header-matching",
        SAME,
        &[
            ("/ version:one", V1),
            ("/ version:two", V2),
            ("/ version:two color:orange", V1),
            ("/ version:two color:blue", V2),
            ("/ color:orange", "404"),
            ("/ some-other-header:one", "404"),
            ("/ color:blue", V1),
            ("/ color:green", V1),
            ("/ color:red", V2),
            ("/ color:yellow", V2),
            ("/ color:purple", "404"),
        ],
    );
}

#[test]
fn all_query_parameters_of_a_match_must_fit() {
    play(
        "httproute-query-param-matching",
        SAME,
        &[
            ("/?animal=whale", V1),
            ("/?animal=dolphin", V2),
            ("/?animal=dolphin&color=blue", V3),
            ("/?ANIMAL=Whale", V3),
            ("/?animal=whale&otherparam=irrelevant", V1),
            ("/?animal=dolphin&color=yellow", V2),
            ("/?color=blue", "404"),
            ("/?animal=dog", "404"),
            ("/?animal=whaledolphin", "404"),
            ("/", "404"),
            // With paths and headers.
            ("/path1?animal=whale", V1),
            ("/?animal=whale version:one", V2),
            ("/path2?animal=whale version:two", V3),
            ("/path3?animal=shark", V1),
            ("/path4?animal=kraken version:three", V1),
            ("/?animal=shark", "404"),
            ("/path4?animal=kraken", "404"),
            // The path counts before headers, headers before the query.
            ("/path5?animal=hydra", V1),
            ("/?animal=hydra version:four", V3),
        ],
    );
}

#[test]
fn the_method_of_a_match_must_fit() {
    play(
        "httproute-method-matching",
        SAME,
        &[
            ("POST /", V1),
            ("GET /", V2),
            ("HEAD /", "404"),
            // With paths and headers.
            ("GET /path1", V1),
            ("PUT / version:one", V2),
            ("POST /path2 version:two", V3),
            ("PATCH /path3", V1),
            ("DELETE /path4 version:three", V1),
            ("PUT /", "404"),
            ("DELETE /path4", "404"),
            // The path counts before the method, the method before headers.
            ("PATCH /path5", V1),
            ("PATCH / version:four", V2),
        ],
    );
}
