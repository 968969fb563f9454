use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// What a request is for: the words of Kubernetes' authorisation, and `discovery`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verb {
    Get,
    List,
    Watch,
    Create,
    Update,
    Patch,
    Delete,
    Discovery,
}

impl Verb {
    const ALL: [(Self, &'static str); 8] = [
        (Self::Get, "get"),
        (Self::List, "list"),
        (Self::Watch, "watch"),
        (Self::Create, "create"),
        (Self::Update, "update"),
        (Self::Patch, "patch"),
        (Self::Delete, "delete"),
        (Self::Discovery, "discovery"),
    ];
}

/// Counters of one client. Cheap to clone; clones count together.
#[derive(Debug, Clone, Default)]
pub(crate) struct Counts {
    inner: Arc<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    requests: [AtomicU64; Verb::ALL.len()],
    failed: AtomicU64,
    silent: AtomicU64,
    pools: AtomicU64,
    watches_opened: AtomicU64,
    watches_relisted: AtomicU64,
    cache_hits: AtomicU64,
    cache_misses: AtomicU64,
}

/// What a client has done since it was made, for `/metrics`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiCounts {
    /// Requests to the API server by verb: `get`, `list`, `watch`, `create`, `update`, `patch`,
    /// `delete`, and `discovery` for the list of kinds.
    pub requests: Vec<(&'static str, u64)>,
    /// Requests that got no answer, or one that says that something is wrong.
    pub failed: u64,
    /// Requests and watches given up because the server was silent for too long.
    pub silent: u64,
    /// Times all pooled connections were dropped because one of them was silent.
    pub pools: u64,
    /// Watches opened, the first time or again where they had ended.
    pub watches_opened: u64,
    /// Watches that had to list everything again: the server had forgotten their place.
    pub watches_relisted: u64,
    /// Reads answered from the shared cache.
    pub cache_hits: u64,
    /// Reads that the shared cache passed on to the server.
    pub cache_misses: u64,
}

/// Something to count besides requests.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Tally {
    Failed,
    Silent,
    Pool,
    WatchOpened,
    WatchRelisted,
    CacheHit,
    CacheMiss,
}

impl Counts {
    pub(crate) fn request(&self, verb: Verb) {
        if let Some(place) = Verb::ALL.iter().position(|(known, _)| *known == verb) {
            self.inner.requests[place].fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(crate) fn tally(&self, what: Tally) {
        let inner = &self.inner;
        let counter = match what {
            Tally::Failed => &inner.failed,
            Tally::Silent => &inner.silent,
            Tally::Pool => &inner.pools,
            Tally::WatchOpened => &inner.watches_opened,
            Tally::WatchRelisted => &inner.watches_relisted,
            Tally::CacheHit => &inner.cache_hits,
            Tally::CacheMiss => &inner.cache_misses,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn snapshot(&self) -> ApiCounts {
        let inner = &self.inner;
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let verbs = Verb::ALL.iter().zip(&inner.requests);
        ApiCounts {
            requests: verbs.map(|((_, name), counter)| (*name, read(counter))).collect(),
            failed: read(&inner.failed),
            silent: read(&inner.silent),
            pools: read(&inner.pools),
            watches_opened: read(&inner.watches_opened),
            watches_relisted: read(&inner.watches_relisted),
            cache_hits: read(&inner.cache_hits),
            cache_misses: read(&inner.cache_misses),
        }
    }
}

impl ApiCounts {
    /// Requests of one verb.
    pub fn of(&self, verb: &str) -> u64 {
        self.requests.iter().find(|(name, _)| *name == verb).map_or(0, |(_, count)| *count)
    }

    /// Requests of all verbs.
    pub fn total(&self) -> u64 {
        self.requests.iter().map(|(_, count)| count).sum()
    }
}
