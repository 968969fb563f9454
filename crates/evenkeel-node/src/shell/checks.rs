//! Probes over sockets.

use std::fmt::Write as _;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::probe::Outcome;

/// How much of an answer is read. **Source**: `maxRespBodyLength` of the kubelet's prober.
const ANSWER_BYTES_MAX: usize = 10 * 1024;
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
        match location(&head).filter(|_| status >= 300 && status != 304) {
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
    // Read on to the end: a server whose answer is cut off may count it as an error.
    let mut answer = Vec::new();
    let mut chunk = [0; 2048];
    while answer.len() < ANSWER_BYTES_MAX {
        let count = stream.read(&mut chunk).await?;
        if count == 0 {
            break;
        }
        answer.extend_from_slice(chunk.get(..count).unwrap_or_default());
    }
    if answer.is_empty() {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let text = String::from_utf8_lossy(&answer);
    Ok(text.split_once("\r\n\r\n").map_or(&*text, |(head, _)| head).to_owned())
}

fn status_of(head: &str) -> Option<u16> {
    let rest = head.strip_prefix("HTTP/1.")?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

fn location(head: &str) -> Option<&str> {
    head.lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .find_map(|(name, value)| name.eq_ignore_ascii_case("location").then(|| value.trim()))
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
