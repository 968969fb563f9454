//! What a connection to a Service's port is: HTTP, whose requests are balanced one by one, or
//! bytes.
//!
//! Source: Istio's protocol selection (`pkg/config/kube/conversion.go`, `ConvertProtocol`) for
//! names and ports; KEP-3726 for the names that Kubernetes defines.

/// What the connections to a Service's port are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1.
    Http,
    /// Anything else: carried as it is.
    Bytes,
    /// Not declared: the first bytes of each connection tell.
    Detect,
}

/// What the first bytes of a connection tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The beginning of an HTTP/1 request.
    Http,
    /// Something else.
    Bytes,
    /// Too few to tell.
    Unclear,
}

/// Declared protocols that are carried as bytes: no HTTP, HTTP/2, or HTTP within TLS.
const BYTES: [&str; 28] = [
    "amqp",
    "amqps",
    "dns",
    "ftp",
    "grpc",
    "h2c",
    "http2",
    "https",
    "imap",
    "kafka",
    "ldap",
    "mariadb",
    "mongo",
    "mongodb",
    "mqtt",
    "mysql",
    "nats",
    "pop3",
    "postgres",
    "postgresql",
    "redis",
    "smtp",
    "ssh",
    "tcp",
    "tls",
    "udp",
    "wss",
    "xmpp",
];

/// Ports that are not HTTP when nothing else is said. Istio has 25, 53, 3306 and 27017; the others
/// are as well known, and where the server speaks first it spares each connection the wait.
const BYTES_PORTS: [u16; 13] = [21, 22, 25, 53, 110, 143, 587, 3306, 4222, 5432, 6379, 9092, 27017];

/// How requests begin. Other targets than a path are for proxies (`CONNECT`, `GET http://...`), or
/// of protocols that look like HTTP (RTSP, SIP, inline commands of Redis): bytes.
const BEGINNINGS: [&[u8]; 8] =
    [b"GET /", b"HEAD /", b"POST /", b"PUT /", b"PATCH /", b"DELETE /", b"OPTIONS /", b"TRACE /"];

/// Bytes of a connection that are enough to tell.
pub const OPENING_BYTES: usize = 9;

impl Protocol {
    /// What is declared of a port: by `appProtocol`, else by the first word of its name, else by
    /// its number.
    pub fn declared(app_protocol: Option<&str>, name: Option<&str>, port: u16) -> Self {
        match (app_protocol.unwrap_or_default(), name.unwrap_or_default()) {
            ("", name) => match known(name) {
                Some(protocol) => protocol,
                None if BYTES_PORTS.contains(&port) => Self::Bytes,
                None => Self::Detect,
            },
            ("kubernetes.io/ws" | "ws", _) => Self::Http,
            // `kubernetes.io/h2c`, `kubernetes.io/wss` and all that is not known are among these.
            (protocol, _) => known(protocol).unwrap_or(Self::Bytes),
        }
    }
}

/// What a name means, by its first word.
fn known(name: &str) -> Option<Protocol> {
    let name = name.to_ascii_lowercase();
    // Over HTTP/1.1 or HTTP/2.
    if name.starts_with("grpc-web") {
        return Some(Protocol::Detect);
    }
    match name.split('-').next()? {
        "http" => Some(Protocol::Http),
        word => BYTES.contains(&word).then_some(Protocol::Bytes),
    }
}

/// What the first bytes of a connection tell.
pub fn opening(bytes: &[u8]) -> Opening {
    if BEGINNINGS.iter().any(|beginning| bytes.starts_with(beginning)) {
        Opening::Http
    } else if BEGINNINGS.iter().any(|beginning| beginning.starts_with(bytes)) {
        Opening::Unclear
    } else {
        Opening::Bytes
    }
}
