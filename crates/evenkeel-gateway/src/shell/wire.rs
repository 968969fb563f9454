//! HTTP/1.1 towards endpoints: the request head as bytes, the answer's head and framing from bytes.
//!
//! Own code instead of hyper's client, for three reasons. A request is repeated without copying its
//! head first; whether a byte of it was written is known exactly, which decides whether a POST may be
//! repeated; and a request needs no channel and no second task. Clients, who are not trusted, are
//! served by hyper.

use std::io::Write as _;
use std::net::IpAddr;

use bytes::{Buf as _, Bytes, BytesMut};
use http::header::{
    CONNECTION, CONTENT_LENGTH, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE,
};
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};

/// Bytes of an answer's head; one that is larger is refused.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Header fields of an answer.
const FIELDS_MAX: usize = 100;
/// Bytes of one chunk-size line or trailer line.
const CHUNK_LINE_BYTES_MAX: usize = 4 << 10;

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");
/// Carries the client's address to the endpoint.
pub(super) const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// How a body is delimited.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Framing {
    /// No body.
    Empty,
    /// This many bytes.
    Length(u64),
    /// Chunks.
    Chunked,
    /// Everything until the connection closes; answers only.
    UntilClose,
}

/// What goes into the head of a request besides the client's headers.
pub(super) struct Outgoing<'a> {
    pub(super) method: &'a Method,
    pub(super) path: &'a str,
    pub(super) host: Option<&'a [u8]>,
    pub(super) headers: &'a HeaderMap,
    pub(super) client: IpAddr,
    pub(super) body: Framing,
    /// The protocol to switch to, when the client asked for that.
    pub(super) upgrade: Option<&'a HeaderValue>,
    /// Which attempt this is; told to the endpoint from the second on.
    pub(super) attempt: u8,
}

/// Appends the head of a request to `out`.
pub(super) fn write_head(out: &mut Vec<u8>, request: &Outgoing<'_>) {
    out.extend_from_slice(request.method.as_str().as_bytes());
    out.push(b' ');
    out.extend_from_slice(request.path.as_bytes());
    out.extend_from_slice(b" HTTP/1.1\r\n");
    if let Some(host) = request.host {
        field(out, b"host", host);
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
        text(out, format_args!("evenkeel-attempt: {}\r\n", request.attempt));
    }
    match request.body {
        Framing::Empty | Framing::UntilClose => {}
        Framing::Length(length) => text(out, format_args!("content-length: {length}\r\n")),
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends one chunk; an empty one is the end of the body.
pub(super) fn write_chunk(out: &mut Vec<u8>, data: &[u8]) {
    text(out, format_args!("{:x}\r\n", data.len()));
    out.extend_from_slice(data);
    out.extend_from_slice(b"\r\n");
}

fn field(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    out.extend_from_slice(value);
    out.extend_from_slice(b"\r\n");
}

fn text(out: &mut Vec<u8>, arguments: std::fmt::Arguments<'_>) {
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

/// Headers of a request that are written anew.
fn left_out(name: &HeaderName) -> bool {
    *name == HOST || *name == CONTENT_LENGTH || *name == EXPECT
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

/// Why an answer's bytes make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the endpoint's answer is not HTTP/1.1: {0}")]
pub(super) struct Malformed(&'static str);

/// Takes the final head off `read`; `None` while it is incomplete. Interim answers are skipped.
pub(super) fn take_head(read: &mut BytesMut, asked: &Method) -> Result<Option<Head>, Malformed> {
    loop {
        let Some(head) = take_any_head(read, asked)? else { return Ok(None) };
        if !head.status.is_informational() || head.status == StatusCode::SWITCHING_PROTOCOLS {
            return Ok(Some(head));
        }
    }
}

fn take_any_head(read: &mut BytesMut, asked: &Method) -> Result<Option<Head>, Malformed> {
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
        Err(_) => return Err(Malformed("its head is malformed")),
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

/// What `Transfer-Encoding` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    None,
    Chunked,
    /// Ends with the connection.
    Other,
}

/// Collects the fields of an answer and what they say about its framing.
struct Fields {
    headers: HeaderMap,
    length: Option<u64>,
    encoding: Encoding,
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
            encoding: Encoding::None,
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
            let length = length.ok_or(Malformed("its Content-Length is no number"))?;
            if self.length.replace(length).is_some_and(|other| other != length) {
                return Err(Malformed("it has two different lengths"));
            }
            self.headers.insert(name, value);
            return Ok(());
        }
        if !per_hop(&name) {
            self.headers.append(name, value);
            return Ok(());
        }
        let text = value.to_str().unwrap_or_default();
        if name == TRANSFER_ENCODING {
            let last = text.rsplit(',').next().unwrap_or_default();
            let chunked = last.trim().eq_ignore_ascii_case("chunked");
            self.encoding = if chunked { Encoding::Chunked } else { Encoding::Other };
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
        // Both a length and an encoding: the encoding holds, and the connection is not trusted
        // further (RFC 9112, 6.3).
        let doubtful = self.encoding != Encoding::None && self.length.is_some();
        if doubtful {
            self.headers.remove(CONTENT_LENGTH);
        }
        let framing = match (self.encoding, self.length) {
            _ if bodiless => Framing::Empty,
            (Encoding::None, Some(0)) => Framing::Empty,
            (Encoding::None, Some(length)) => Framing::Length(length),
            (Encoding::Chunked, _) => Framing::Chunked,
            (Encoding::Other, _) | (Encoding::None, None) => Framing::UntilClose,
        };
        let persistent = self.keep_alive.unwrap_or(self.minor > 0);
        let keep_alive = persistent && !doubtful && framing != Framing::UntilClose;
        Head { status, headers: self.headers, framing, keep_alive, upgrade: self.upgrade }
    }
}

/// Takes a body's bytes off what was read.
#[derive(Debug)]
pub(super) struct Decoder {
    state: Decoding,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Decoding {
    Length(u64),
    ChunkSize,
    Chunk(u64),
    ChunkEnd,
    Trailers,
    UntilClose,
    Done,
}

/// What the bytes at hand give.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Decoded {
    /// A piece of the body.
    Data(Bytes),
    /// More must be read.
    More,
    /// The body is over.
    End,
}

impl Decoder {
    pub(super) fn new(framing: Framing) -> Self {
        let state = match framing {
            Framing::Empty | Framing::Length(0) => Decoding::Done,
            Framing::Length(length) => Decoding::Length(length),
            Framing::Chunked => Decoding::ChunkSize,
            Framing::UntilClose => Decoding::UntilClose,
        };
        Self { state }
    }

    pub(super) fn done(&self) -> bool {
        self.state == Decoding::Done
    }

    /// Bytes still to come, when that is known.
    pub(super) fn remaining(&self) -> Option<u64> {
        match self.state {
            Decoding::Length(length) => Some(length),
            Decoding::Done => Some(0),
            _ => None,
        }
    }

    /// Whether the end of the connection is the end of the body.
    pub(super) fn ends_with_connection(&self) -> bool {
        self.state == Decoding::UntilClose
    }

    pub(super) fn decode(&mut self, read: &mut BytesMut) -> Result<Decoded, Malformed> {
        loop {
            match self.state {
                Decoding::Done => return Ok(Decoded::End),
                _ if read.is_empty() => return Ok(Decoded::More),
                Decoding::UntilClose => return Ok(Decoded::Data(read.split().freeze())),
                Decoding::Length(left) => {
                    let (data, left) = cut(read, left);
                    self.state = if left == 0 { Decoding::Done } else { Decoding::Length(left) };
                    return Ok(Decoded::Data(data));
                }
                Decoding::Chunk(left) => {
                    let (data, left) = cut(read, left);
                    self.state = if left == 0 { Decoding::ChunkEnd } else { Decoding::Chunk(left) };
                    return Ok(Decoded::Data(data));
                }
                Decoding::ChunkSize => {
                    let Some(line) = take_line(read)? else { return Ok(Decoded::More) };
                    let size = chunk_size(&line)?;
                    self.state = if size == 0 { Decoding::Trailers } else { Decoding::Chunk(size) };
                }
                Decoding::ChunkEnd => {
                    let Some(line) = take_line(read)? else { return Ok(Decoded::More) };
                    if !line.is_empty() {
                        return Err(Malformed("a chunk is longer than its size"));
                    }
                    self.state = Decoding::ChunkSize;
                }
                // Trailers are dropped: nothing here needs them.
                Decoding::Trailers => {
                    let Some(line) = take_line(read)? else { return Ok(Decoded::More) };
                    if line.is_empty() {
                        self.state = Decoding::Done;
                    }
                }
            }
        }
    }
}

fn cut(read: &mut BytesMut, left: u64) -> (Bytes, u64) {
    let take = usize::try_from(left).unwrap_or(usize::MAX).min(read.len());
    let data = read.split_to(take).freeze();
    (data, left - u64::try_from(take).unwrap_or(left))
}

fn take_line(read: &mut BytesMut) -> Result<Option<Bytes>, Malformed> {
    let Some(end) = read.iter().position(|byte| *byte == b'\n') else {
        if read.len() > CHUNK_LINE_BYTES_MAX {
            return Err(Malformed("a line between chunks is too long"));
        }
        return Ok(None);
    };
    let mut line = read.split_to(end).freeze();
    read.advance(1);
    if line.last() != Some(&b'\r') {
        return Err(Malformed("a line between chunks ends without a return"));
    }
    line.truncate(line.len() - 1);
    Ok(Some(line))
}

fn chunk_size(line: &[u8]) -> Result<u64, Malformed> {
    let digits = line.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
    let bad = Malformed("a chunk's size is no number");
    if digits.is_empty() || digits.len() > 15 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return Err(bad);
    }
    let digits = std::str::from_utf8(digits).map_err(|_| bad)?;
    u64::from_str_radix(digits, 16).map_err(|_| bad)
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
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n"), @r#"200 Chunked keep [] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"), @r#"200 UntilClose close [] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\n\r\nx"), @r#"200 UntilClose close [] "x""#);
        assert_snapshot!(head("HTTP/1.1 204 No Content\r\n\r\n"), @r#"204 Empty keep [] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty close ["content-length"] """#);
        assert_snapshot!(head("HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty close ["content-length"] """#);
        assert_snapshot!(head("HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty keep ["content-length"] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nConnection: X-Hop\r\nX-Hop: 1\r\nContent-Length: 0\r\n\r\n"), @r#"200 Empty keep ["content-length"] """#);
        // An interim answer is not the answer.
        assert_snapshot!(head("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 204 No\r\n\r\n"), @r#"204 Empty keep [] """#);
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-"), @"more");
        assert_snapshot!(head("HTTP/1.1 100 Continue\r\n\r\n"), @"more");
    }

    #[test]
    fn what_could_smuggle_an_answer_is_refused_or_not_trusted() {
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nContent-Length: 4\r\n\r\n"), @"the endpoint's answer is not HTTP/1.1: it has two different lengths");
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-Length: +3\r\n\r\n"), @"the endpoint's answer is not HTTP/1.1: its Content-Length is no number");
        assert_snapshot!(head("HTTP/1.1 200 OK\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n"), @r#"200 Chunked close [] """#);
        assert_snapshot!(head("SMTP ready\r\n\r\n"), @"the endpoint's answer is not HTTP/1.1: its head is malformed");
        assert_snapshot!(head(&format!("HTTP/1.1 200 OK\r\nX: {}", "x".repeat(70_000))), @"the endpoint's answer is not HTTP/1.1: its head is too large");
    }

    /// Decodes what arrives in pieces of `step` bytes; ends with how it ended.
    fn body(framing: Framing, bytes: &[u8], step: usize) -> (Vec<u8>, String) {
        let (mut decoder, mut read, mut data) =
            (Decoder::new(framing), BytesMut::new(), Vec::new());
        for piece in bytes.chunks(step.max(1)) {
            read.extend_from_slice(piece);
            loop {
                match decoder.decode(&mut read) {
                    Ok(Decoded::Data(more)) => data.extend_from_slice(&more),
                    Ok(Decoded::More) => break,
                    Ok(Decoded::End) => return (data, format!("end, {} left", read.len())),
                    Err(error) => return (data, error.to_string()),
                }
            }
        }
        (data, "more".to_owned())
    }

    #[test]
    fn chunks_are_read_strictly() {
        let end = |text: &str| body(Framing::Chunked, text.as_bytes(), 1).1;
        assert_snapshot!(end("3\r\nabc\r\n0\r\n\r\n"), @"end, 0 left");
        assert_snapshot!(end("3;name=x\r\nabc\r\n0\r\nT: 1\r\n\r\n"), @"end, 0 left");
        assert_snapshot!(end("3\nabc"), @"the endpoint's answer is not HTTP/1.1: a line between chunks ends without a return");
        assert_snapshot!(end("3\r\nabcd\r\n"), @"the endpoint's answer is not HTTP/1.1: a chunk is longer than its size");
        assert_snapshot!(end("-3\r\n"), @"the endpoint's answer is not HTTP/1.1: a chunk's size is no number");
        assert_snapshot!(end("ffffffffffffffffff\r\n"), @"the endpoint's answer is not HTTP/1.1: a chunk's size is no number");
        assert_snapshot!(end(&"1".repeat(5_000)), @"the endpoint's answer is not HTTP/1.1: a line between chunks is too long");
    }

    proptest! {
        #[test]
        fn what_is_written_in_chunks_is_read_back(
            parts in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..300), 0..8),
            step in 1_usize..50,
        ) {
            let mut bytes = Vec::new();
            for part in &parts {
                write_chunk(&mut bytes, part);
            }
            write_chunk(&mut bytes, b"");
            let (data, end) = body(Framing::Chunked, &bytes, step);
            prop_assert_eq!(data, parts.concat());
            prop_assert_eq!(end, "end, 0 left");
        }

        #[test]
        fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), start in any::<bool>()) {
            let mut all = if start { b"HTTP/1.1 200 OK\r\n".to_vec() } else { Vec::new() };
            all.extend_from_slice(&bytes);
            let mut read = BytesMut::from(&all[..]);
            take_head(&mut read, &Method::GET).map_or_else(drop, drop);
            body(Framing::Chunked, &bytes, 7);
            body(Framing::Length(5), &bytes, 7);
        }
    }
}
