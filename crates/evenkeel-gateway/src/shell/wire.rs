//! HTTP/1.1 towards endpoints: the request head as bytes, the answer's head and framing from bytes.
//!
//! Own code instead of hyper's client, for three reasons. A request is repeated without copying its
//! head first; whether a byte of it was written is known exactly, which decides whether a POST may be
//! repeated; and a request needs no channel and no second task. Clients, who are not trusted, are
//! served by hyper.

use std::io::Write as _;
use std::net::{IpAddr, SocketAddr};

use bytes::{Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

use super::body::Framing;

/// Bytes of an answer's head; one that is larger is refused.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Header fields of an answer.
const FIELDS_MAX: usize = 100;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Header with the number of the attempt; never passed on from clients.
const ATTEMPT: HeaderName = HeaderName::from_static("evenkeel-attempt");
/// Carries the client's address to the endpoint.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// What goes into the head of a request besides the client's headers.
pub(super) struct Outgoing<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) host: Option<&'a [u8]>,
    /// Where the client connected to; `Host` for those that did not say one (HTTP/1.0).
    pub(super) listener: SocketAddr,
    pub(super) headers: &'a HeaderMap,
    pub(super) client: IpAddr,
    pub(super) body: Framing,
    /// The protocol to switch to, when the client asked for that.
    pub(super) upgrade: Option<&'a HeaderValue>,
    /// Which attempt this is; sent to the endpoint from the second on.
    pub(super) attempt: u8,
}

/// Appends the head of a request to `out`.
pub(super) fn write_head(out: &mut Vec<u8>, request: &Outgoing<'_>) {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    match request.host {
        Some(host) => field(out, b"host", host),
        None => text(out, format_args!("host: {}\r\n", request.listener)),
    }
    let named = Named::in_connection(request.headers);
    let mut forwarded = false;
    for (name, value) in request.headers {
        if *name == X_FORWARDED_FOR && !forwarded {
            forwarded = true;
            out.extend_from_slice(b"x-forwarded-for: ");
            for earlier in request.headers.get_all(X_FORWARDED_FOR) {
                out.extend_from_slice(earlier.as_bytes());
                out.extend_from_slice(b", ");
            }
            text(out, format_args!("{}\r\n", request.client));
        }
        if !per_hop(name) && *name != X_FORWARDED_FOR && !left_out(name) && !named.contains(name) {
            field(out, name.as_str().as_bytes(), value.as_bytes());
        }
    }
    if !forwarded {
        text(out, format_args!("x-forwarded-for: {}\r\n", request.client));
    }
    if let Some(protocol) = request.upgrade {
        field(out, b"connection", b"upgrade");
        field(out, b"upgrade", protocol.as_bytes());
    }
    if request.attempt > 1 {
        text(out, format_args!("{ATTEMPT}: {}\r\n", request.attempt));
    }
    match request.body {
        Framing::Empty | Framing::UntilClose => {}
        Framing::Length(length) => text(out, format_args!("content-length: {length}\r\n")),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

pub(super) fn text(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
    out.write_fmt(arguments).expect("writing to a Vec cannot fail");
}

/// Headers that concern one connection only (RFC 9110, 7.6.1).
fn per_hop(name: &HeaderName) -> bool {
    *name == CONNECTION
        || *name == KEEP_ALIVE
        || *name == TRANSFER_ENCODING
        || *name == UPGRADE
        || *name == PROXY_CONNECTION
        || *name == TE
        || *name == TRAILER
}

/// Headers of a request that are written by us.
fn left_out(name: &HeaderName) -> bool {
    *name == HOST || *name == CONTENT_LENGTH || *name == EXPECT || *name == ATTEMPT
}

/// Further per-hop headers that `Connection` names.
struct Named<'a>(Option<&'a HeaderMap>);

impl<'a> Named<'a> {
    fn in_connection(headers: &'a HeaderMap) -> Self {
        Self(headers.contains_key(CONNECTION).then_some(headers))
    }

    fn contains(&self, name: &HeaderName) -> bool {
        let Some(headers) = self.0 else { return false };
        let mut values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
        values.any(|value| has_token(value, name.as_str()))
    }
}

/// Whether a comma-separated list has `token`, in any case.
pub(super) fn has_token(list: &str, token: &str) -> bool {
    list.split(',').any(|one| one.trim().eq_ignore_ascii_case(token))
}

/// The head of an answer.
#[derive(Debug)]
pub(super) struct Head {
    pub(super) status: StatusCode,
    /// Without per-hop headers.
    pub(super) headers: HeaderMap,
    pub(super) framing: Framing,
    /// Whether the connection may serve another request afterwards.
    pub(super) keep_alive: bool,
    /// The protocol of a 101.
    pub(super) upgrade: Option<HeaderValue>,
}

impl Head {
    /// Whether a 101 switches to protocols that were `asked` for, and to nothing else.
    pub(super) fn switches_to(&self, asked: Option<&HeaderValue>) -> bool {
        let text = |value: &HeaderValue| value.to_str().map(str::to_owned).unwrap_or_default();
        let (Some(asked), Some(chosen)) = (asked.map(text), self.upgrade.as_ref().map(text)) else {
            return false;
        };
        chosen.split(',').all(|one| has_token(&asked, one.trim()))
    }
}

/// Why an answer's bytes make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint's answer is not HTTP/1.1: {0}")]
pub(super) struct Malformed(pub(super) &'static str);

/// Takes the next head off `read`, which may be an interim one; `None` while it is incomplete.
pub(super) fn take_head(read: &mut BytesMut, asked: &Method) -> Result<Option<Head>, Malformed> {
    if read.is_empty() {
        return Ok(None);
    }
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut fields);
    let length = match parsed.parse(read) {
        Ok(httparse::Status::Complete(length)) => length,
        Ok(httparse::Status::Partial) if read.len() > HEAD_BYTES_MAX => {
            return Err(Malformed("its head is too large"));
        }
        Ok(httparse::Status::Partial) => return Ok(None),
        Err(error) => return Err(Malformed(why_not(error, read))),
    };
    let status = parsed.code.and_then(|code| StatusCode::from_u16(code).ok());
    let status = status.ok_or(Malformed("it has no status"))?;
    let minor = parsed.version.unwrap_or(0);
    // Positions first: names and values are cut out of the received bytes without copying.
    let base = read.as_ptr() as usize;
    let at = |part: &[u8]| {
        let start = part.as_ptr() as usize - base;
        start..start + part.len()
    };
    let mut spans = Vec::with_capacity(parsed.headers.len());
    for header in parsed.headers.iter() {
        spans.push((at(header.name.as_bytes()), at(header.value)));
    }
    let bytes = read.split_to(length).freeze();
    let mut builder = Fields::new(minor, spans.len());
    for (name, value) in spans {
        builder.take(&bytes, name, value)?;
    }
    Ok(Some(builder.head(status, asked)))
}

/// Appends an interim answer to `out`.
pub(super) fn write_interim(out: &mut Vec<u8>, head: &Head) {
    let reason = head.status.canonical_reason().unwrap_or_default();
    text(out, format_args!("HTTP/1.1 {} {reason}\r\n", head.status.as_u16()));
    for (name, value) in &head.headers {
        field(out, name.as_str().as_bytes(), value.as_bytes());
    }
    out.extend_from_slice(b"\r\n");
}

fn why_not(error: httparse::Error, read: &[u8]) -> &'static str {
    // RFC 9112, 5.2: folding is either repaired or refused with this reason.
    let folded = |pair: &[u8]| matches!(pair, [b'\n', b' ' | b'\t']);
    match error {
        httparse::Error::TooManyHeaders => "it has more than 100 header fields",
        httparse::Error::HeaderName | httparse::Error::HeaderValue
            if read.windows(2).any(folded) =>
        {
            "it has a folded header line"
        }
        _ => "its head is malformed",
    }
}

/// Collects the fields of an answer and what they say about its framing.
struct Fields {
    headers: HeaderMap,
    length: Option<u64>,
    chunked: bool,
    /// What `Connection` says: `Some(false)` is close, and wins.
    keep_alive: Option<bool>,
    minor: u8,
    upgrade: Option<HeaderValue>,
    named: Vec<HeaderName>,
}

impl Fields {
    fn new(minor: u8, count: usize) -> Self {
        Self {
            headers: HeaderMap::with_capacity(count),
            length: None,
            chunked: false,
            keep_alive: None,
            minor,
            upgrade: None,
            named: Vec::new(),
        }
    }

    fn take(
        &mut self,
        bytes: &Bytes,
        name: std::ops::Range<usize>,
        value: std::ops::Range<usize>,
    ) -> Result<(), Malformed> {
        let name = bytes.get(name).and_then(|name| HeaderName::from_bytes(name).ok());
        let name = name.ok_or(Malformed("a header's name is malformed"))?;
        let value = HeaderValue::from_maybe_shared(bytes.slice(value));
        let value = value.map_err(|_| Malformed("a header's value is malformed"))?;
        if name == CONTENT_LENGTH {
            let length =
                value.to_str().ok().filter(|text| text.bytes().all(|b| b.is_ascii_digit()));
            let length = length.and_then(|text| text.parse().ok());
            let length = length.ok_or(Malformed("its Content-Length is not a number"))?;
            if self.length.replace(length).is_some_and(|other| other != length) {
                return Err(Malformed("it has two different Content-Lengths"));
            }
            self.headers.insert(name, value);
            return Ok(());
        }
        if !per_hop(&name) {
            self.headers.append(name, value);
            return Ok(());
        }
        // What is not text is neither a coding nor a known token.
        let text = value.to_str().unwrap_or("?");
        if name == TRANSFER_ENCODING {
            for coding in text.split(',').map(str::trim) {
                if coding.eq_ignore_ascii_case("chunked") {
                    if std::mem::replace(&mut self.chunked, true) {
                        return Err(Malformed("its body is chunked twice"));
                    }
                } else if !coding.is_empty() && !coding.eq_ignore_ascii_case("identity") {
                    // It would reach the client without being named: this header ends here.
                    return Err(Malformed("it has a transfer coding other than chunked"));
                }
            }
        } else if name == CONNECTION {
            for token in text.split(',').map(str::trim) {
                if token.eq_ignore_ascii_case("close") {
                    self.keep_alive = Some(false);
                } else if token.eq_ignore_ascii_case("keep-alive") {
                    self.keep_alive = self.keep_alive.or(Some(true));
                } else if let Ok(named) = HeaderName::from_bytes(token.as_bytes()) {
                    self.named.push(named);
                }
            }
        } else if name == UPGRADE {
            self.upgrade = Some(value);
        }
        Ok(())
    }

    fn head(mut self, status: StatusCode, asked: &Method) -> Head {
        for name in &self.named {
            if *name != CONTENT_LENGTH {
                self.headers.remove(name);
            }
        }
        let bodiless = *asked == Method::HEAD
            || status.is_informational()
            || status == StatusCode::NO_CONTENT
            || status == StatusCode::NOT_MODIFIED;
        // A length or HTTP/1.0 beside chunks: the chunks hold, and the connection is not trusted
        // further (RFC 9112, 6.1 and 6.3).
        let doubtful = self.chunked && (self.length.is_some() || self.minor == 0);
        if self.chunked {
            self.headers.remove(CONTENT_LENGTH);
        }
        let framing = match (self.chunked, self.length) {
            _ if bodiless => Framing::Empty,
            (true, _) => Framing::Chunked,
            (false, Some(0)) => Framing::Empty,
            (false, Some(length)) => Framing::Length(length),
            (false, None) => Framing::UntilClose,
        };
        let persistent = self.keep_alive.unwrap_or(self.minor > 0);
        let keep_alive = persistent && !doubtful && framing != Framing::UntilClose;
        Head { status, headers: self.headers, framing, keep_alive, upgrade: self.upgrade }
    }
}

#[cfg(test)]
mod tests {
    use insta::assert_snapshot;
    use proptest::prelude::*;

    use super::*;

    fn head(text: &str) -> String {
        let mut read = BytesMut::from(text);
        match take_head(&mut read, &Method::GET) {
            Err(error) => error.to_string(),
            Ok(None) => "more".to_owned(),
            Ok(Some(head)) => {
                let keep = if head.keep_alive { "keep" } else { "close" };
                let names: Vec<&str> = head.headers.keys().map(HeaderName::as_str).collect();
                let rest = String::from_utf8_lossy(&read).into_owned();
                format!("{} {:?} {keep} {names:?} {rest:?}", head.status.as_u16(), head.framing)
            }
        }
    }

    #[test]
    fn heads_say_how_bodies_end_and_whether_the_connection_lives() {
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nX-A: 1\r\n\r\nabc"), @r#"200 Length(3) keep ["content-length", "x-a"] "abc""#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: Chunked\r\n\r\n"), @r#"200 Chunked keep [] """#);
        assert_snapshot!(head("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n"), @r#"200 Chunked close [] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\n\r\nx"), @r#"200 UntilClose close [] "x""#);
        assert_snapshot!(head("HTTP/1.1 204 No Content\r\n\r\n"), @r#"204 Empty keep [] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty close ["content-length"] """#);
        assert_snapshot!(head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty close ["content-length"] """#);
        assert_snapshot!(head("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty keep ["content-length"] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty keep ["content-length"] """#);
        // An interim answer comes by itself.
        assert_snapshot!(head("HTTP/1.1 103 Early\r\nLink: a\r\n\r\nHTTP/1.1 204 No\r\n\r\n"), @r#"103 Empty keep ["link"] "HTTP/1.1 204 No\r\n\r\n""#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-"), @"more");
    }

    #[test]
    fn what_could_smuggle_an_answer_is_refused_or_not_trusted() {
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"), @"the endpoint's answer is not HTTP/1.1: it has two different Content-Lengths");
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n"), @"the endpoint's answer is not HTTP/1.1: its Content-Length is not a number");
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), @r#"200 Chunked close [] """#);
        let coded =
            |coding: &str| head(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: {coding}\r\n\r\n"));
        for coding in ["gzip, chunked", "gzip", "chunked\r\nTransfer-Encoding: gzip"] {
            assert!(coded(coding).ends_with(": it has a transfer coding other than chunked"));
        }
        assert_snapshot!(coded("chunked, chunked"), @"the endpoint's answer is not HTTP/1.1: its body is chunked twice");
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nX-A: 1\r\n and more\r\n\r\n"), @"the endpoint's answer is not HTTP/1.1: it has a folded header line");
        assert_snapshot!(head(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "x: 1\r\n".repeat(101))), @"the endpoint's answer is not HTTP/1.1: it has more than 100 header fields");
        assert_snapshot!(head("SMTP ready\r\n\r\n"), @"the endpoint's answer is not HTTP/1.1: its head is malformed");
        assert_snapshot!(head(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000))), @"the endpoint's answer is not HTTP/1.1: its head is too large");
    }

    proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), start in any::<bool>()) {
            let mut all = if start { b"HTTP/1.1 200 OK\r\n".to_vec() } else { Vec::new() };
            all.extend_from_slice(&bytes);
            let mut read = BytesMut::from(&all[..]);
            take_head(&mut read, &Method::GET).map_or_else(drop, drop);
        }
    }
}
