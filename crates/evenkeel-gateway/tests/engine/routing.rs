//! Which rule a request takes, and what the rule changes of it.

use super::*;

/// A rule to the pool of its position; `matching` as `KIND VALUE` words, `H name=value`, `M method`.
fn rule(pool: usize, hostnames: &[&str], matching: &[&str]) -> Rule {
    let mut one = Match::default();
    for word in matching {
        let (kind, value) = word.split_once(' ').unwrap();
        match kind {
            "=" => one.path = Some(PathMatch::Exact(value.to_owned())),
            "^" => one.path = Some(PathMatch::Prefix(value.to_owned())),
            "~" => one.path = Some(PathMatch::Pattern(Pattern::new(value).unwrap())),
            "M" => one.method = Some(Method::from_bytes(value.as_bytes()).unwrap()),
            "H" => {
                let (name, value) = value.split_once('=').unwrap();
                let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
                one.headers.push((name, TextMatch::Exact(value.to_owned())));
            }
            "Q" => {
                let (name, value) = value.split_once('=').unwrap();
                one.query.push((name.to_owned(), TextMatch::Exact(value.to_owned())));
            }
            other => panic!("{other}"),
        }
    }
    Rule {
        index: pool,
        hostnames: hostnames.iter().map(|name| (*name).to_owned()).collect(),
        matches: vec![one],
        backends: vec![Backend::new(pool, 1)],
        ..Rule::default()
    }
}

fn route(
    engine: &mut Engine,
    method: &str,
    host: &str,
    target: &str,
    headers: &[(&str, &str)],
) -> String {
    let method = Method::from_bytes(method.as_bytes()).unwrap();
    let headers: HeaderMap = headers
        .iter()
        .map(|(name, value)| {
            (
                HeaderName::from_bytes(name.as_bytes()).unwrap(),
                HeaderValue::from_str(value).unwrap(),
            )
        })
        .collect();
    let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
    let meta = Meta { method: &method, path, query, host: Some(host), headers: &headers };
    let (mut request, step) = engine.start(Duration::ZERO, LISTEN, &meta);
    let shown = match step {
        Step::Attempt(attempt) => format!("{}", attempt.endpoint.port() / 100 - 1),
        Step::Answer(Answer::Redirect { status, location }) => format!("{status} {location}"),
        other => format!("{other:?}"),
    };
    engine.finish(Duration::ZERO, &mut request, End::ClientGone);
    shown
}

#[test]
fn the_most_specific_match_wins() {
    let mut engine = with_rules(vec![
        rule(0, &[], &["^ /"]),
        rule(1, &[], &["^ /match/"]),
        rule(2, &[], &["= /match"]),
        rule(3, &[], &["^ /match", "M POST"]),
        rule(4, &[], &["^ /", "H version=two"]),
        rule(5, &[], &["^ /", "H version=two", "H color=blue"]),
    ]);
    let mut to = |method, target, headers: &[_]| route(&mut engine, method, "a", target, headers);
    let two = ("version", "two");
    assert_eq!(to("GET", "/match", &[]), "2", "exact beats prefix");
    assert_eq!(to("GET", "/match/x", &[]), "1", "the longer prefix wins");
    assert_eq!(to("POST", "/match/x", &[]), "3", "a method beats none");
    assert_eq!(to("GET", "/matching", &[]), "0", "a prefix ends at a slash");
    assert_eq!(to("GET", "/", &[two]), "4", "a header beats none");
    assert_eq!(to("GET", "/", &[two, ("color", "blue")]), "5", "two headers beat one");
    assert_eq!(to("GET", "/match/x", &[two]), "1", "the path beats headers");
}

#[test]
fn host_names_queries_and_patterns_choose() {
    let mut engine = with_rules(vec![
        rule(0, &["*.example.com"], &["^ /"]),
        rule(1, &["a.example.com"], &["^ /"]),
        rule(2, &["*.sub.example.com"], &["^ /"]),
        rule(3, &["q.org"], &["^ /", "Q animal=whale"]),
        rule(4, &["q.org"], &["~ /v[0-9]+/.*"]),
    ]);
    let mut to = |host, target| route(&mut engine, "GET", host, target, &[]);
    assert_eq!(to("b.example.com", "/"), "0");
    assert_eq!(to("A.example.com:8080", "/"), "1");
    assert_eq!(to("x.sub.example.com", "/"), "2");
    assert_eq!(to("example.com", "/"), "Answer(NotFound)");
    assert_eq!(to("q.org", "/?x=1&animal=whale"), "3");
    assert_eq!(to("q.org", "/?animal=dolphin&animal=whale"), "Answer(NotFound)");
    assert_eq!(to("q.org", "/v12/items"), "4");
    assert_eq!(to("q.org", "/v/items"), "Answer(NotFound)");
}

#[test]
fn a_rule_ranks_by_the_name_that_the_request_bears() {
    let mut engine = with_rules(vec![
        rule(0, &["exact.shop.test", "*.test"], &["^ /"]),
        rule(1, &["*.api.test"], &["^ /"]),
        rule(2, &[], &["= /any"]),
    ]);
    let mut to = |host, target| route(&mut engine, "GET", host, target, &[]);
    assert_eq!(to("exact.shop.test", "/"), "0");
    assert_eq!(
        to("foo.api.test", "/"),
        "1",
        "the longer wildcard, whatever else its rival is called"
    );
    assert_eq!(to("api.test", "/"), "0");
    assert_eq!(to("a.b.api.test", "/"), "1");
    assert_eq!(to("foo.org", "/any"), "2");
    assert_eq!(to("foo.org", "/"), "Answer(NotFound)");
    // Within a host, rules that do not match leave room for less specific names.
    assert_eq!(to("foo.api.test", "/any"), "1");
}

/// The Gateway API's conformance test of listener isolation: four listeners on one port, each with a
/// route for a path of its own.
#[test]
fn a_request_belongs_to_the_most_specific_listener_alone() {
    let names =
        [None, Some("*.example.com"), Some("*.foo.example.com"), Some("abc.foo.example.com")];
    let paths = ["= /empty", "= /wild", "= /foo", "= /abc"];
    let pools = (0..4).zip(paths).map(|(pool, path)| rule(pool, &[], &[path]));
    let sections = names
        .iter()
        .zip(pools)
        .map(|(name, rule)| Section { hostname: name.map(str::to_owned), rules: vec![rule] });
    let mut configuration = ready(&[(1, 1); 4]);
    let listener = Listener::of_sections("shop", "edge", sections.collect());
    configuration.listeners.insert(LISTEN, listener);
    let mut engine = engine(configuration);
    let mut hits = |host: &str| {
        let paths = ["/empty", "/wild", "/foo", "/abc"];
        paths.map(|path| route(&mut engine, "GET", host, path, &[])).join(" ")
    };
    let no = "Answer(NotFound)";
    assert_eq!(hits("bar.com"), format!("0 {no} {no} {no}"));
    assert_eq!(hits("bar.example.com"), format!("{no} 1 {no} {no}"));
    assert_eq!(hits("bar.foo.example.com:80"), format!("{no} {no} 2 {no}"));
    assert_eq!(hits("ABC.foo.example.com"), format!("{no} {no} {no} 3"));
}

#[test]
fn redirects_and_rewrites_change_what_they_say() {
    let redirect = |redirect| Rule {
        filters: Filters { redirect: Some(redirect), ..Filters::default() },
        ..rule(0, &[], &["^ /old"])
    };
    let plain = Redirect { status: 302, ..Redirect::default() };
    let to = |one: Redirect| {
        route(&mut with_rules(vec![redirect(one)]), "GET", "a.org", "/old/x?q=1", &[])
    };
    let host = Some("b.org".to_owned());
    assert_eq!(to(Redirect { hostname: host, ..plain.clone() }), "302 http://b.org/old/x?q=1");
    let https = Some("https".to_owned());
    assert_eq!(
        to(Redirect { scheme: https, status: 301, ..plain.clone() }),
        "301 https://a.org/old/x?q=1"
    );
    assert_eq!(
        to(Redirect { port: Some(8443), ..plain.clone() }),
        "302 http://a.org:8443/old/x?q=1"
    );
    let prefix = Some(PathChange::Prefix("/new".to_owned()));
    assert_eq!(to(Redirect { path: prefix, ..plain.clone() }), "302 http://a.org/new/x?q=1");
    let full = Some(PathChange::Full("/all".to_owned()));
    assert_eq!(to(Redirect { path: full, ..plain }), "302 http://a.org/all?q=1");
    let rewrite = Rewrite { path: Some(PathChange::Prefix("/".to_owned())), hostname: None };
    let filters = Filters { rewrite: Some(rewrite), ..Filters::default() };
    let mut engine = with_rules(vec![Rule { filters, ..rule(0, &[], &["^ /old"]) }]);
    let headers = HeaderMap::new();
    let meta =
        Meta { method: &Method::GET, path: "/old/x", query: None, host: None, headers: &headers };
    let (request, _) = engine.start(Duration::ZERO, LISTEN, &meta);
    assert_eq!(request.rewritten_path("/old/x").unwrap(), "/x");
    assert_eq!(request.rewritten_path("/old").unwrap(), "/");
}

#[test]
fn filters_of_a_backend_count_for_its_share_alone() {
    let gone = Redirect {
        path: Some(PathChange::Full("/gone".to_owned())),
        status: 302,
        ..Redirect::default()
    };
    let path = Some(PathChange::Prefix("/new".to_owned()));
    let of_rule = Rewrite { hostname: Some("rule.org".to_owned()), path: None };
    let of_backend = Rewrite { hostname: None, path };
    let filtered = |pool, filters| Backend { filters, ..Backend::new(pool, 1) };
    let rewrite = |one| Filters { rewrite: Some(one), ..Filters::default() };
    let redirect = Filters { redirect: Some(gone), ..Filters::default() };
    let backends = vec![filtered(0, rewrite(of_backend)), filtered(1, redirect)];
    let rule = Rule { backends, filters: rewrite(of_rule), ..rule(0, &[], &["^ /old"]) };
    let mut engine = with_rules(vec![rule]);
    let shares: Vec<String> = (0..4).map(|_| route(&mut engine, "GET", "a", "/old", &[])).collect();
    assert_eq!(shares.join(" "), "0 302 http://a/gone 0 302 http://a/gone");
    let headers = HeaderMap::new();
    let meta =
        Meta { method: &Method::GET, path: "/old/x", query: None, host: None, headers: &headers };
    let (mut request, _) = engine.start(Duration::ZERO, LISTEN, &meta);
    assert_eq!(request.rewritten_path("/old/x").unwrap(), "/new/x");
    assert_eq!(request.rewritten_host(), Some("rule.org"));
    // A retry is no way to the backend that redirects: its endpoints do not know this path.
    let refused = Attempted { outcome: Outcome::Refused, replayable: true };
    let step = engine.on_result(Duration::ZERO, &mut request, refused);
    assert_eq!(step, Step::Answer(Answer::NoEndpoint));
}
