//! Probes over sockets.

use std::{fmt::Write as _, time::Duration};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    time::timeout,
};

use crate::probe::Outcome;

/// Longest head of an answer. **Source**: as long as Go's `http.Transport` takes.
const HEAD_BYTES_MAX: usize = 1024 * 1024;
/// How much of a body is read. **Source**: `maxRespBodyLength` of the kubelet's prober.
const BODY_BYTES_MAX: usize = 10 * 1024;
/// How long is waited for the body. The head alone decides; the rest is read only because a server
/// may count an answer that is cut off as an error.
const BODY_TIMEOUT: Duration = Duration::from_millis(500);
/// Redirects followed on the same host.
const REDIRECTS_MAX: usize = 10;

/// A GET of a probe.
pub(super) struct Get<'a> {
    pub(super) host: &'a str,
    pub(super) port: u16,
    pub(super) path: &'a str,
    pub(super) headers: &'a [(String, String)],
}

/// GET; 200 to 399 is success, a redirect to another host too.
pub(super) async fn http(get: &Get<'_>) -> Outcome {
    let mut path = get.path.to_owned();
    for _ in 0..=REDIRECTS_MAX {
        let head = match exchange(get, &path).await {
            Ok(head) => head,
            Err(error) => {
                let Get { host, port, .. } = get;
                let problem = format!("Get \"http://{host}:{port}{path}\": {error}");
                return Outcome::Failure(problem);
            }
        };
        let Some(status) = status_of(&head) else {
            return Outcome::Failure("the answer is not HTTP".to_owned());
        };
        if !(200..400).contains(&status) {
            return Outcome::Failure(format!("HTTP probe failed with statuscode: {status}"));
        }
        match field(&head, "location").filter(|_| status >= 300 && status != 304) {
            None => return Outcome::Success,
            Some(target) => match same_host(target, get) {
                Some(next) => next.clone_into(&mut path),
                None => return Outcome::Success,
            },
        }
    }
    Outcome::Failure(format!("stopped after {REDIRECTS_MAX} redirects"))
}

/// A connection that can be made.
pub(super) async fn tcp(host: &str, port: u16) -> Outcome {
    match TcpStream::connect((host, port)).await {
        Ok(_) => Outcome::Success,
        Err(error) => Outcome::Failure(format!("dial tcp {host}:{port}: connect: {error}")),
    }
}

async fn exchange(get: &Get<'_>, path: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((get.host, get.port)).await?;
    let named = |name: &str| get.headers.iter().any(|(have, _)| have.eq_ignore_ascii_case(name));
    let mut request = format!("GET {path} HTTP/1.1\r\nConnection: close\r\n");
    let mut header = |name: &str, value: &str| {
        write!(request, "{name}: {value}\r\n").expect("writing to a String cannot fail");
    };
    if !named("host") {
        header("Host", &format!("{}:{}", get.host, get.port));
    }
    if !named("user-agent") {
        header("User-Agent", "kube-probe/1.33");
    }
    if !named("accept") {
        header("Accept", "*/*");
    }
    for (name, value) in get.headers {
        header(name, value);
    }
    request.push_str("\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    let head = loop {
        let head = read_head(&mut stream, &mut answer).await?;
        // Interim answers come before the one that counts.
        if !status_of(&head).is_some_and(|status| (100..200).contains(&status) && status != 101) {
            break head;
        }
    };
    // The rest of the body does not matter.
    drop(timeout(BODY_TIMEOUT, read_body(&mut stream, &head, answer)).await);
    Ok(head)
}

/// Reads one head; what has come of the body stays in `answer`.
async fn read_head(stream: &mut TcpStream, answer: &mut Vec<u8>) -> std::io::Result<String> {
    loop {
        if let Some(end) = find(answer, b"\r\n\r\n") {
            let head = String::from_utf8_lossy(answer.get(..end).unwrap_or_default()).into_owned();
            answer.drain(..end + 4);
            return Ok(head);
        }
        if answer.len() > HEAD_BYTES_MAX {
            return Err(std::io::Error::other("the head of the answer is too long"));
        }
        let count = stream.read_buf(answer).await?;
        if count == 0 && answer.is_empty() {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        if count == 0 {
            // Cut off within the head; the reader sees what is missing.
            return Ok(String::from_utf8_lossy(&std::mem::take(answer)).into_owned());
        }
    }
}

/// Where the body ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// After this many bytes.
    After(usize),
    /// With an empty chunk.
    Chunked,
    /// With the connection.
    AtClose,
}

impl Ends {
    /// **Source**: RFC 9112, section 6.3.
    fn of(head: &str) -> Self {
        if matches!(status_of(head), Some(204 | 304)) {
            return Self::After(0);
        }
        if field(head, "transfer-encoding").is_some_and(|coding| coding.ends_with("chunked")) {
            return Self::Chunked;
        }
        let length = field(head, "content-length").and_then(|length| length.parse().ok());
        length.map_or(Self::AtClose, Self::After)
    }

    fn are_reached(self, body: &[u8]) -> bool {
        body.len() >= BODY_BYTES_MAX
            || match self {
                Self::After(length) => body.len() >= length,
                Self::Chunked => body.starts_with(b"0\r\n") || find(body, b"\r\n0\r\n").is_some(),
                Self::AtClose => false,
            }
    }
}

async fn read_body(stream: &mut TcpStream, head: &str, mut body: Vec<u8>) -> std::io::Result<()> {
    let ends = Ends::of(head);
    while !ends.are_reached(&body) && stream.read_buf(&mut body).await? > 0 {}
    Ok(())
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

fn status_of(head: &str) -> Option<u16> {
    let rest = head.strip_prefix("HTTP/1.")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

/// The value of a header.
fn field<'a>(head: &'a str, wanted: &str) -> Option<&'a str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case(wanted).then(|| value.trim()))
}

/// The path of a redirect that stays on the probed host.
fn same_host<'a>(target: &'a str, get: &Get<'_>) -> Option<&'a str> {
    if target.starts_with('/') && !target.starts_with("//") {
        return Some(target);
    }
    let rest = target.strip_prefix("http://")?;
    let (host, _) = rest.split_once('/').unwrap_or((rest, ""));
    let path = rest.strip_prefix(host)?;
    let own = format!("{}:{}", get.host, get.port);
    (host == own || host == get.host && get.port == 80).then_some(if path.is_empty() {
        "/"
    } else {
        path
    })
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// What a probe says of a server that answers with this and then keeps the connection open.
    async fn probed(answer: &'static str) -> Outcome {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
            // Until the prober closes the connection.
            let mut request = Vec::new();
            while stream.read_buf(&mut request).await.is_ok_and(|count| count > 0) {}
        });
        let get = Get { host: "127.0.0.1", port, path: "/", headers: &[] };
        let outcome = http(&get).await;
        server.await.unwrap();
        outcome
    }

    #[tokio::test]
    async fn the_head_decides_and_the_connection_may_stay_open() {
        for answer in [
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
            "HTTP/1.1 204 No Content\r\n\r\n",
            "HTTP/1.1 304 Not Modified\r\n\r\n",
            "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
            "HTTP/1.1 200 OK\r\n\r\nsomething without an end",
            "HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nnot all of it",
            "HTTP/1.1 302 Found\r\nLocation: http://elsewhere.test/\r\nContent-Length: 0\r\n\r\n",
        ] {
            assert_eq!(probed(answer).await, Outcome::Success, "{answer:?}");
        }
        let failed = probed("HTTP/1.1 503 Busy\r\nContent-Length: 4\r\n\r\nbusy").await;
        assert_eq!(failed, Outcome::Failure("HTTP probe failed with statuscode: 503".to_owned()));
        let odd = probed("SSH-2.0-x\r\n\r\n").await;
        assert_eq!(odd, Outcome::Failure("the answer is not HTTP".to_owned()));
    }

    #[test]
    fn bodies_end_as_their_heads_say() {
        let ends = |head: &str| Ends::of(&format!("HTTP/1.1 200 OK\r\n{head}"));
        assert_eq!(ends("Content-Length: 7"), Ends::After(7));
        assert_eq!(ends("content-length: 7\r\ntransfer-encoding: gzip, chunked"), Ends::Chunked);
        assert_eq!(ends("Server: x"), Ends::AtClose);
        assert_eq!(ends("Content-Length: many"), Ends::AtClose);
        assert!(Ends::After(2).are_reached(b"ok") && !Ends::After(3).are_reached(b"ok"));
        assert!(Ends::Chunked.are_reached(b"0\r\n\r\n"));
        assert!(!Ends::Chunked.are_reached(b"2\r\nok\r\n"));
        assert!(Ends::AtClose.are_reached(&vec![0; BODY_BYTES_MAX]));
    }
}
