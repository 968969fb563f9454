//! From what clients saw and what the Canary said to a row of the table.

use super::{
    clients::{Clients, Failure, PhaseSeen},
    report::PhaseResult,
    script::{Event, POST_MS, POSTS_PER_S, Pace, Phase, Verdict},
    time::millis as whole_millis,
    timeline::Moment,
};

/// The article's Canary as written.
pub(super) const PACE: Pace = Pace::ARTICLE;

/// A step was judged on enough traffic when it had this share of what its weight promises.
const SHARE_MIN: f64 = 0.85;
/// The Canary's moments and the ends of seconds do not agree better than this.
const SLACK_MS: i64 = 300;
/// How long after a kill a request on the killed process can still fail.
const KILL_WINDOW_MS: i64 = 2_000;
/// Replicas of the demo's service: the share of requests that one process has.
const REPLICAS: f64 = 3.0;

/// What happened in one phase.
pub(super) struct Happened {
    /// The phase.
    pub(super) phase: Phase,
    /// The Canary's moments in it, the one before first.
    pub(super) moments: Vec<Moment>,
    /// When a pod was killed.
    pub(super) killed_at: Option<i64>,
    /// What became of it.
    pub(super) verdict: Verdict,
    /// When it began and ended, in milliseconds since the beginning.
    pub(super) span_ms: (i64, i64),
}

/// The row of one phase.
pub(super) fn row(happened: &Happened, clients: &Clients) -> PhaseResult {
    let phase = &happened.phase;
    let seen = clients.phases.iter().find(|seen| seen.name == phase.name);
    let failures: Vec<_> = clients.failures.iter().filter(|f| f.phase == phase.name).collect();
    let failed_post = seen.map_or(0, |seen| seen.failed_post);
    let (excused_post, excused_post_max) = excused(happened, &failures);
    let (from, to) = happened.span_ms;
    let (p50_ms, p99_ms) = seen.map_or((None, None), PhaseSeen::percentiles);
    PhaseResult {
        name: phase.name,
        requests: seen.map_or(0, |seen| seen.sent),
        failed: seen.map_or(0, |seen| seen.failed_get),
        failed_post,
        excused_post,
        excused_post_max,
        executed_twice: seen.map_or(0, |seen| seen.executed_twice),
        p50_ms,
        p99_ms,
        weight_pct_max: happened.moments.iter().map(|m| m.weight).max().unwrap_or_default(),
        blind_steps: blind_steps(happened, clients),
        verdict: happened.verdict,
        expect: phase.expect,
        seconds: millis(to - from) / 1e3,
        rollback_seconds: rollback_seconds(&happened.moments),
    }
}

#[expect(clippy::cast_precision_loss, reason = "spans of minutes fit a f64 exactly")]
fn millis(span: i64) -> f64 {
    span as f64
}

/// Failed POSTs that are no fault of ours, and how many there can be at most.
fn excused(happened: &Happened, failures: &[&Failure]) -> (u64, u64) {
    let posts = || failures.iter().filter(|failure| failure.post);
    let count = |all: usize| u64::try_from(all).unwrap_or(u64::MAX);
    match (happened.phase.event, happened.killed_at) {
        (Event::Release(release), _) if release.error_rate > 0.0 => {
            let own = |failure: &&&Failure| {
                failure.status >= 500 && failure.version.as_deref() == Some(release.version)
            };
            let (_, end) = happened.span_ms;
            let exposure: f64 = weighted_seconds(&happened.moments, end);
            let expected = exposure * f64::from(POSTS_PER_S) * release.error_rate;
            (count(posts().filter(own).count()), at_most(expected))
        }
        (Event::PodKilled, Some(killed_at)) => {
            let on_it = |failure: &&&Failure| {
                (killed_at - KILL_WINDOW_MS..killed_at + KILL_WINDOW_MS).contains(&failure.at)
            };
            let seconds = f64::from(u32::try_from(POST_MS).unwrap_or(u32::MAX)) / 1e3;
            let in_flight = f64::from(POSTS_PER_S) / REPLICAS * seconds;
            (count(posts().filter(on_it).count()), at_most(in_flight))
        }
        _ => (0, 0),
    }
}

/// Four standard deviations above an expected count.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "expected counts of a demo are small and not negative"
)]
fn at_most(expected: f64) -> u64 {
    (expected + 4.0 * expected.sqrt() + 2.0).ceil() as u64
}

/// Seconds times share of traffic, over the whole phase.
fn weighted_seconds(moments: &[Moment], end: i64) -> f64 {
    let ends = moments.iter().skip(1).map(|moment| moment.at).chain(std::iter::once(end));
    let spans = moments.iter().zip(ends);
    // A worker that is late with a configuration still sends the old share for that long.
    let lag = PACE.gateway_lag.as_secs_f64();
    let seconds = |from: i64, to: i64| millis(to - from).max(0.0) / 1e3;
    spans
        .filter(|(moment, _)| moment.weight > 0)
        .map(|(moment, to)| f64::from(moment.weight) / 100.0 * (seconds(moment.at, to) + lag))
        .sum()
}

/// Steps up (and the promotion) that were decided on less traffic than their weight promises.
fn blind_steps(happened: &Happened, clients: &Clients) -> Vec<String> {
    let (Event::Release(release) | Event::ControllersKilled(release)) = happened.phase.event else {
        return Vec::new();
    };
    let interval = whole_millis(PACE.interval);
    let steps = happened.moments.windows(2).filter_map(|pair| {
        let [before, after] = pair else { return None };
        let up = after.weight > before.weight || after.phase == "Promoting";
        (before.phase == "Progressing" && before.weight > 0 && up).then_some((before, after))
    });
    steps
        .filter_map(|(before, after)| {
            let want = f64::from(before.weight) / 100.0;
            let from = after.at - interval - SLACK_MS;
            let share = clients.share(release.version, from, after.at + SLACK_MS)?;
            (share < want * SHARE_MIN).then(|| {
                format!(
                    "the step after {} % was decided on {:.1} % of the traffic",
                    before.weight,
                    share * 100.0
                )
            })
        })
        .collect()
}

/// From the first failed check to the end of the rollback.
fn rollback_seconds(moments: &[Moment]) -> Option<f64> {
    let failing = moments.iter().skip(1).find(|moment| moment.failed_checks > 0)?;
    let failed =
        moments.iter().find(|moment| moment.phase == "Failed" && moment.at >= failing.at)?;
    Some(millis(failed.at - failing.at) / 1e3)
}
