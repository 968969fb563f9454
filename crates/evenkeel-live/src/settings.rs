use std::time::Duration;

/// What we call ourselves, to API servers, webhooks and metrics servers alike.
pub(crate) const AGENT: &str = concat!("evenkeel/", env!("CARGO_PKG_VERSION"));

/// How patient the client of a cluster is, and what it keeps.
///
/// The defaults notice a connection that a firewall dropped, or a server that stopped answering,
/// within a minute, and cost one request per watch and minute at rest.
#[derive(Debug, Clone)]
pub struct LiveSettings {
    /// Groups of controllers that use it, as the user agent names them. None.
    pub groups: Vec<String>,
    /// Longest time to open a connection, TLS included. 10 s.
    pub connect: Duration,
    /// Longest time from a request to the last byte of its answer; for a watch, to the head of the
    /// answer. 30 s.
    pub request: Duration,
    /// When a caller gives up on a request after this long or more, all unused connections are
    /// dropped: they may be as dead as the one it waited for. 1 s.
    pub doubt: Duration,
    /// A connection without traffic is probed by the kernel after this long, and three times more
    /// at a third of it. 15 s, so that a dead one is closed after 30 s.
    pub keepalive: Duration,
    /// The server is asked to end each watch after this long. Bookmarks alone would not do: they
    /// come about once a minute, so silence until then proves nothing. 50 s, whole seconds.
    pub watch: Duration,
    /// A watch that is silent for longer than [`Self::watch`] plus this is given up. 5 s.
    pub watch_grace: Duration,
    /// A watch that lived this long proves that the server is well: the next one is opened at
    /// once, and pauses start again from the shortest. 10 s.
    pub settled: Duration,
    /// First pause after a watch that failed or ended early; it doubles each time. 200 ms.
    pub pause_min: Duration,
    /// Longest pause between attempts to list or watch. 15 s.
    pub pause_max: Duration,
    /// Shortest time between the attempts of all informers whose watches end at once and tell
    /// nothing, each of which is a list and a watch. 2 s.
    pub relist_interval: Duration,
    /// Longest pause after a refusal (no permission, no such kind), which only a person ends. 30 s.
    pub pause_refused_max: Duration,
    /// Shortest time between two looks at the list of kinds, for all unknown kinds together. 10 s.
    pub discovery_min: Duration,
    /// Longest time between two looks while a kind stays unknown. 30 s.
    pub discovery_max: Duration,
    /// Objects per page of a list. 500, what kubectl asks for.
    pub page: usize,
    /// A cache answers no reads when its watch has not been alive for this long. 75 s: longer than
    /// a watch that is well may be silent.
    pub stale_after: Duration,
    /// A cache that nobody watches is closed when it has not been read for this long. 5 min.
    pub cache_idle: Duration,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            groups: Vec::new(),
            connect: Duration::from_secs(10),
            request: Duration::from_secs(30),
            doubt: Duration::from_secs(1),
            keepalive: Duration::from_secs(15),
            watch: Duration::from_secs(50),
            watch_grace: Duration::from_secs(5),
            settled: Duration::from_secs(10),
            pause_min: Duration::from_millis(200),
            pause_max: Duration::from_secs(15),
            relist_interval: Duration::from_secs(2),
            pause_refused_max: Duration::from_secs(30),
            discovery_min: Duration::from_secs(10),
            discovery_max: Duration::from_secs(30),
            page: 500,
            stale_after: Duration::from_secs(75),
            cache_idle: Duration::from_mins(5),
        }
    }
}

impl LiveSettings {
    /// What the API server's audit log calls us: `evenkeel/VERSION GROUP`.
    pub(crate) fn agent(&self) -> String {
        if self.groups.is_empty() {
            return AGENT.to_owned();
        }
        format!("{AGENT} {}", self.groups.join(","))
    }
}
