//! Requests that are refused before they are routed, because two readers could understand them
//! differently.
//!
//! Source: RFC 9112, sections 3.2 (target and Host) and 6.1 (codings); RFC 9110, section 4.2.4 (user
//! information) and 7.4 (scheme). What the parser already refuses (framing, obsolete folding, control
//! characters) is not repeated here.

use http::header::{HOST, TRANSFER_ENCODING};
use http::request::Parts;
use http::uri::Scheme;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Version};

/// A status and one line for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Refusal(pub(super) StatusCode, pub(super) &'static str);

/// Checks the head of a request, and makes `Host` say what the target says. Allocates only for a
/// target in absolute form.
pub(super) fn check(parts: &mut Parts) -> Result<(), Refusal> {
    let bad = |text| Err(Refusal(StatusCode::BAD_REQUEST, text));
    if parts.method == Method::CONNECT {
        return Err(Refusal(StatusCode::METHOD_NOT_ALLOWED, "no tunnels are made here\n"));
    }
    check_host(&parts.headers, parts.version)?;
    check_codings(&parts.headers)?;
    match (parts.uri.scheme(), parts.uri.authority()) {
        (None, None) if parts.uri.path() == "*" && parts.method != Method::OPTIONS => {
            bad("only OPTIONS has the target *\n")
        }
        (None, None) => Ok(()),
        (None, Some(_)) => bad("the target does not begin with a slash\n"),
        (Some(scheme), _) if *scheme == Scheme::HTTPS => {
            let text = "this connection is not secured, so nothing of https is served on it\n";
            Err(Refusal(StatusCode::MISDIRECTED_REQUEST, text))
        }
        (Some(scheme), Some(authority)) if *scheme == Scheme::HTTP => {
            let host = HeaderValue::from_str(authority.as_str());
            let Some(host) = host.ok().filter(|host| is_host(host.as_bytes())) else {
                return bad("the target's host is malformed\n");
            };
            // The target's host counts, whatever `Host` says.
            parts.headers.insert(HOST, host);
            Ok(())
        }
        _ => bad("the target's scheme is not http\n"),
    }
}

fn check_host(headers: &HeaderMap, version: Version) -> Result<(), Refusal> {
    let bad = |text| Err(Refusal(StatusCode::BAD_REQUEST, text));
    let mut hosts = headers.get_all(HOST).iter();
    match (hosts.next(), hosts.next()) {
        (None, _) if version == Version::HTTP_11 => bad("the request has no Host\n"),
        (None, _) => Ok(()),
        (Some(_), Some(_)) => bad("the request has two Hosts\n"),
        (Some(host), None) if is_host(host.as_bytes()) => Ok(()),
        (Some(_), None) => bad("the request's Host is malformed\n"),
    }
}

/// Only `chunked` is decoded here, and what cannot be decoded cannot be passed on: the endpoint
/// would get the bytes without knowing their coding.
fn check_codings(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut chunked = 0;
    for value in headers.get_all(TRANSFER_ENCODING) {
        for coding in value.as_bytes().split(|byte| *byte == b',').map(<[u8]>::trim_ascii) {
            if coding.eq_ignore_ascii_case(b"chunked") {
                chunked += 1;
            } else if !coding.is_empty() {
                let text = "no transfer coding but chunked is known here\n";
                return Err(Refusal(StatusCode::NOT_IMPLEMENTED, text));
            }
        }
    }
    if chunked > 1 {
        return Err(Refusal(StatusCode::BAD_REQUEST, "the body is chunked twice\n"));
    }
    Ok(())
}

/// `uri-host [":" port]`. An empty host is allowed (the target has no authority then). A comma is
/// not, though RFC 3986 allows it: it comes from two Hosts that were joined on the way.
fn is_host(text: &[u8]) -> bool {
    let after_literal = text.iter().position(|byte| *byte == b']').map_or(0, |at| at + 1);
    let (literal, rest) = text.split_at(after_literal);
    let (name, port) = match rest.iter().position(|byte| *byte == b':') {
        Some(at) => (rest.get(..at).unwrap_or_default(), rest.get(at + 1..).unwrap_or_default()),
        None => (rest, &[][..]),
    };
    let in_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~%!$&'()*+;=".contains(byte);
    let in_literal = |byte: &u8| byte.is_ascii_hexdigit() || b":.".contains(byte);
    let host = match literal {
        [] => name.iter().all(in_name),
        [b'[', inner @ .., b']'] => {
            !inner.is_empty() && inner.iter().all(in_literal) && name.is_empty()
        }
        _ => false,
    };
    host && port.len() <= 5 && port.iter().all(u8::is_ascii_digit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_names_or_addresses_with_an_optional_port() {
        for host in ["", "a.test", "A_b.test:80", "a.test:", "10.0.0.1:8080", "[::1]", "[::1]:80"] {
            assert!(is_host(host.as_bytes()), "{host}");
        }
        for host in [
            "a b",
            "a/x",
            "a.test, b.test",
            "a,b",
            "a:b",
            "a:80:81",
            "a:123456",
            "[::1",
            "::1]",
            "[]",
            "[::1]x",
            "u@a.test",
            "a?b",
            "a#b",
            "a\\b",
            "a<b>",
            "ä.test",
            "a\t",
        ] {
            assert!(!is_host(host.as_bytes()), "{host}");
        }
    }
}
