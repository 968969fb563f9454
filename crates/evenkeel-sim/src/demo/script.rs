//! What the demo does, in which order, and what must come of it.

use std::time::Duration;

/// GET requests per second, the whole time.
pub const GETS_PER_S: u32 = 200;
/// POST requests per second, the whole time.
pub const POSTS_PER_S: u32 = 20;
/// Bytes of a POST's body: more than the gateway keeps for a second attempt, so that only an
/// orderly drain protects an upload.
pub const POST_BYTES: usize = 96 << 10;
/// How long the workload works on a POST.
pub const POST_MS: u64 = 250;
/// Replicas of the demo's service: each has this share of the requests.
pub const REPLICAS: u32 = 3;
/// Weight at which the controllers are killed: in the middle of the ramp.
pub const KILL_AT_WEIGHT: i32 = 20;
/// How long the controllers stay dead.
pub const DEAD: Duration = Duration::from_secs(5);
/// Longest wait for a killed pod to serve again.
pub const BACK_PATIENCE: Duration = Duration::from_mins(1);
/// Availability that the demo's budget is counted in: 99.9 % over 30 days.
pub const OBJECTIVE: f64 = 0.999;
/// Days of the budget's window.
pub const WINDOW_DAYS: f64 = 30.0;

/// What happens in a phase.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Event {
    /// Nothing: the base line.
    Nothing,
    /// A new version is applied.
    Release(Release),
    /// One pod of the primary is killed with SIGKILL.
    PodKilled,
    /// A good release, and the controllers are killed with SIGKILL in the middle of it.
    ControllersKilled(Release),
}

/// A version and how it behaves.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Release {
    /// Tag of the demo image.
    pub version: &'static str,
    /// Share of answers that are 500.
    pub error_rate: f64,
    /// Share of answers that are slow.
    pub slow_rate: f64,
    /// How slow, in milliseconds.
    pub slow_ms: u64,
}

/// What must become of a phase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing was released.
    Undisturbed,
    /// The new version serves everybody.
    Promoted,
    /// The old version serves everybody, the new one was taken back.
    RolledBack,
    /// Neither within the time allowed.
    Undecided,
}

impl Verdict {
    /// As the table and the JSON have it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undisturbed => "undisturbed",
            Self::Promoted => "promoted",
            Self::RolledBack => "rolled back",
            Self::Undecided => "undecided",
        }
    }
}

/// One phase of the demo.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Phase {
    /// Its name in the table and the JSON.
    pub name: &'static str,
    /// What happens.
    pub event: Event,
    /// What must come of it.
    pub expect: Verdict,
}

const GOOD: Release = Release { version: "v2", error_rate: 0.0, slow_rate: 0.0, slow_ms: 0 };

/// The demo, in order. Every release starts from what the one before it left.
pub const PHASES: [Phase; 6] = [
    Phase { name: "steady", event: Event::Nothing, expect: Verdict::Undisturbed },
    Phase { name: "good release", event: Event::Release(GOOD), expect: Verdict::Promoted },
    Phase {
        name: "bad release",
        event: Event::Release(Release { version: "v3", error_rate: 0.05, ..GOOD }),
        expect: Verdict::RolledBack,
    },
    Phase {
        name: "slow release",
        event: Event::Release(Release { version: "v4", slow_rate: 0.03, slow_ms: 800, ..GOOD }),
        expect: Verdict::RolledBack,
    },
    Phase { name: "pod killed", event: Event::PodKilled, expect: Verdict::Undisturbed },
    Phase {
        name: "controllers killed",
        event: Event::ControllersKilled(Release { version: "v5", ..GOOD }),
        expect: Verdict::Promoted,
    },
];

/// How fast the demo goes: the real one is shorter than the article's minute-long steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    /// The Canary's interval.
    pub interval: Duration,
    /// The Canary's step weight: how much of the traffic each step adds.
    pub step_pct: i32,
    /// Failed checks that end a release.
    pub threshold: u32,
    /// How long the phases without a release last.
    pub quiet: Duration,
    /// Longest wait for a release to end.
    pub patience: Duration,
    /// How late the gateway is with every configuration: a check window must not begin before.
    pub gateway_lag: Duration,
    /// Time between two scrapes.
    pub scrape: Duration,
    /// How long before a kill nothing else happens: longer than a scrape, a recording rule and
    /// four looks take together, so that the SLO's ledger can tell the kill from the release
    /// before it.
    pub apart: Duration,
}

impl Pace {
    /// For people who watch.
    pub const REAL: Self = Self {
        interval: Duration::from_secs(10),
        step_pct: 10,
        threshold: 3,
        quiet: Duration::from_secs(15),
        patience: Duration::from_mins(5),
        gateway_lag: Duration::from_secs(8),
        scrape: Duration::from_secs(2),
        apart: Duration::from_secs(12),
    };
    /// For machines that watch: every phase of the real one, but two steps to a release instead
    /// of five, one failed check less, and shorter quiet times. Intervals, the gateway's delay and
    /// the time apart stay, because what a blind step looks like depends on them.
    pub const SHORT: Self =
        Self { step_pct: 25, threshold: 2, quiet: Duration::from_secs(10), ..Self::REAL };
    /// The article's Canary as written.
    pub const ARTICLE: Self = Self {
        interval: Duration::from_mins(1),
        step_pct: 10,
        threshold: 10,
        quiet: Duration::from_mins(2),
        patience: Duration::from_hours(1),
        gateway_lag: Duration::from_secs(45),
        scrape: Duration::from_secs(15),
        apart: Duration::from_secs(90),
    };
}
