//! From what clients saw and what the Canary said to a row of the table.
//!
//! ```text
//! Happened (the host) + ClientRecord (its clients) + LedgerRecord (the SLO) --row--> PhaseResult
//! ```

use super::{
    happened::Happened,
    ledger::{LedgerRecord, change_of},
    record::{ClientRecord, Failure},
    report::PhaseResult,
    script::{Event, POST_MS, POSTS_PER_S, Pace, REPLICAS},
    timeline::Moment,
};

/// Share of a check window that its ends may take away: 2 x `SLACK_MS` of 10 s.
const EDGE: f64 = 0.06;
/// A step is blind when its new version gave fewer answers than its weight promises, less `EDGE`,
/// less this many standard deviations of drawing each answer's version by lot.
///
/// **False alarm:** at most 2.9e-7 per step (one side of five sigma), 3e-6 per run of ten steps;
/// less in truth, because the gateway takes turns instead of drawing lots. A host that stalls
/// needs more than 3 s of the first step's 10 s to look like it.
/// **Missed:** without confirmation the gateway still runs the weight before for 8 of a step's
/// 10 s (45 of 60 in the article's pace). The first step's check finds no data in what is left
/// and is repeated; of what their weight promises, the step to 20 % then has 60 % (limit 73 %;
/// article's pace: 63 of 85 %), to 30 % 73 % (limit 78 %).
const SIGMAS: f64 = 5.0;
/// A window with less than this share of what its weight promises is blind however few answers
/// it has.
const SHARE_MIN: f64 = 0.5;
/// The Canary's moments and the ends of seconds do not agree better than this.
const SLACK_MS: i64 = 300;
/// How long after a kill a request on the killed process can still fail.
const KILL_WINDOW_MS: i64 = 2_000;

/// The row of one phase.
///
/// `ledger`: what the SLO's ledger says; `None` when the run ended before it could.
pub fn row(
    happened: &Happened,
    clients: &ClientRecord,
    ledger: Option<&LedgerRecord>,
    pace: &Pace,
) -> PhaseResult {
    let phase = &happened.phase;
    let seen = clients.phase(phase.name);
    let Excused { count: excused_post, max: excused_post_max, why: excuse } =
        excused(happened, clients, pace);
    let (from, to) = happened.span_ms;
    PhaseResult {
        name: phase.name,
        requests: seen.sent,
        failed: seen.failed_get,
        failed_post: seen.failed_post,
        excused_post,
        excused_post_max,
        excuse,
        executed_twice: seen.executed_twice,
        p50_ms: seen.p50_ms,
        p99_ms: seen.p99_ms,
        weight_pct_max: happened.moments.iter().map(|m| m.weight).max().unwrap_or_default(),
        blind_steps: blind_steps(happened, clients, pace),
        ledger_failed: ledger.and_then(|ledger| Some(ledger.of(&change_of(happened)?))),
        verdict: happened.verdict,
        expect: phase.expect,
        seconds: millis(to - from) / 1e3,
        rollback_seconds: rollback_seconds(&happened.moments),
        host_stall_ms: happened.host_stall_ms,
    }
}

/// Whether a phase shows what a missing safeguard does, so that the rest need not be played. Told
/// at its end, when its last requests may not be settled yet.
pub fn shows_damage(happened: &Happened, clients: &ClientRecord, pace: &Pace) -> bool {
    let phase = &happened.phase;
    let bad = |failure: &Failure| !failure.post || failure.status != Some(500);
    // An upload on a killed process is lost whatever is switched on.
    let lost = phase.event != Event::PodKilled && clients.failures_in(phase.name).any(bad);
    let get_failed = clients.failures_in(phase.name).any(|failure| !failure.post);
    let blind = !blind_steps(happened, clients, pace).is_empty();
    lost || get_failed || blind || happened.verdict != phase.expect
}

#[expect(clippy::cast_precision_loss, reason = "spans of minutes fit a f64 exactly")]
fn millis(span: i64) -> f64 {
    span as f64
}

#[expect(clippy::cast_precision_loss, reason = "counts of a demo fit a f64 exactly")]
fn number(count: u64) -> f64 {
    count as f64
}

/// Failed POSTs that are not our fault.
#[derive(Default)]
struct Excused {
    count: u64,
    /// How many there can be at most.
    max: u64,
    why: &'static str,
}

fn excused(happened: &Happened, clients: &ClientRecord, pace: &Pace) -> Excused {
    let count = |excuses: &dyn Fn(&Failure) -> bool| {
        let posts = clients.failures_in(happened.phase.name).filter(|failure| failure.post);
        u64::try_from(posts.filter(|failure| excuses(failure)).count()).unwrap_or(u64::MAX)
    };
    match (happened.phase.event, happened.killed_at) {
        (Event::Release(release), _) if release.error_rate > 0.0 => {
            let own = |failure: &Failure| {
                failure.status.is_some_and(|status| status >= 500)
                    && failure.version.as_deref() == Some(release.version)
            };
            let exposure = weighted_seconds(happened, pace);
            let expected = exposure * f64::from(POSTS_PER_S) * release.error_rate;
            let why = "are the release's own 5xx answers";
            Excused { count: count(&own), max: at_most(expected), why }
        }
        (Event::PodKilled, Some(killed_at)) => {
            let window = killed_at - KILL_WINDOW_MS..killed_at + KILL_WINDOW_MS;
            let seconds = number(POST_MS) / 1e3;
            let in_flight = f64::from(POSTS_PER_S) / f64::from(REPLICAS) * seconds;
            let why = "were in flight on the killed process";
            let count = count(&|failure| window.contains(&failure.at));
            Excused { count, max: at_most(in_flight), why }
        }
        _ => Excused::default(),
    }
}

/// `SIGMAS` standard deviations above an expected count, and two for small ones: of 5 expected
/// failures it allows 19, more of which a Poisson process has in 1 of 3 million runs.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "expected counts of a demo are small and not negative"
)]
fn at_most(expected: f64) -> u64 {
    (expected + SIGMAS * expected.sqrt() + 2.0).ceil() as u64
}

/// Seconds times share of traffic, over the whole phase.
fn weighted_seconds(happened: &Happened, pace: &Pace) -> f64 {
    let (moments, (_, end)) = (&happened.moments, happened.span_ms);
    let nexts = moments.iter().skip(1).map(|next| (next.at, next.weight));
    let spans = moments.iter().zip(nexts.chain(std::iter::once((end, 0))));
    let exposure = spans.map(|(moment, (to, weight))| {
        // A gateway that is late with a configuration still sends the old share for that long.
        let late = if weight < moment.weight { pace.gateway_lag.as_secs_f64() } else { 0.0 };
        let seconds = millis(to - moment.at).max(0.0) / 1e3;
        f64::from(moment.weight) / 100.0 * (seconds + late)
    });
    exposure.sum()
}

/// Steps up (and the promotion) that were decided on less traffic than their weight promises.
fn blind_steps(happened: &Happened, clients: &ClientRecord, pace: &Pace) -> Vec<String> {
    let (Event::Release(release) | Event::ControllersKilled(release)) = happened.phase.event else {
        return Vec::new();
    };
    let interval = i64::try_from(pace.interval.as_millis()).unwrap_or(i64::MAX);
    let steps = happened.moments.windows(2).filter_map(|pair| {
        let [before, after] = pair else { return None };
        let up = after.weight > before.weight || after.phase == "Promoting";
        (before.phase == "Progressing" && before.weight > 0 && up).then_some((before, after))
    });
    let blind = steps.filter_map(|(before, after)| {
        let (from, to) = (after.at - interval - SLACK_MS, after.at + SLACK_MS);
        let answers = clients.answers(release.version, from, to);
        let (of_version, all) = (number(answers.of_version), number(answers.all));
        let enough = all > 0.0 && of_version >= least(f64::from(before.weight) / 100.0, all);
        (!enough).then(|| {
            let share = 100.0 * of_version / all.max(1.0);
            format!("the step after {} % was decided on {share:.1} % of the traffic", before.weight)
        })
    });
    blind.collect()
}

/// Fewest of `all` answers that a version with this share of the traffic gives.
fn least(share: f64, all: f64) -> f64 {
    let promised = all * share;
    let deviation = (promised * (1.0 - share)).sqrt();
    (promised * (1.0 - EDGE) - SIGMAS * deviation).max(promised * SHARE_MIN)
}

/// From the first failed check to the end of the rollback.
fn rollback_seconds(moments: &[Moment]) -> Option<f64> {
    let failing = moments.iter().skip(1).find(|moment| moment.failed_checks > 0)?;
    let failed =
        moments.iter().find(|moment| moment.phase == "Failed" && moment.at >= failing.at)?;
    Some(millis(failed.at - failing.at) / 1e3)
}

#[cfg(test)]
mod tests {
    use super::{
        super::{
            record::Second,
            script::{PHASES, Verdict},
        },
        *,
    };

    fn moment(at: i64, phase: &str, weight: i32, failed_checks: i64) -> Moment {
        let revision = "evenkeel-0123456789abcdef".to_owned();
        Moment { at, phase: phase.to_owned(), weight, failed_checks, revision }
    }

    fn happened(moments: &[Moment], end: i64) -> Happened {
        Happened {
            phase: PHASES[1],
            moments: moments.to_vec(),
            killed_at: None,
            verdict: Verdict::Promoted,
            span_ms: (0, end),
            host_stall_ms: None,
        }
    }

    #[test]
    fn a_rollback_is_timed_from_its_first_failed_check() {
        let moments = [
            moment(0, "Succeeded", 0, 0),
            moment(1_000, "Progressing", 10, 0),
            moment(21_000, "Progressing", 10, 1),
            moment(51_500, "Failed", 0, 0),
        ];
        assert_eq!(rollback_seconds(&moments), Some(30.5));
        assert_eq!(rollback_seconds(&moments[..2]), None);
        let exposure = weighted_seconds(&happened(&moments, 60_000), &Pace::REAL);
        // 10 % for 20 s and for 30.5 s, and then for the late gateway's 8 s.
        assert!((exposure - 0.1 * (20.0 + 30.5 + 8.0)).abs() < 1e-9, "{exposure}");
    }

    /// The blind steps of a step from 10 % whose last 10 s of 220 answers each were like this.
    fn blind(new_per_s: impl Fn(i64) -> u64) -> Vec<String> {
        let phase = [moment(0, "Progressing", 10, 0), moment(30_000, "Progressing", 20, 0)];
        let second = |number: i64| {
            let new = new_per_s(number);
            let versions = [("v2".to_owned(), new), ("v1".to_owned(), 220 - new)].into();
            Second { from: (number - 1) * 1_000, to: number * 1_000, versions }
        };
        let seconds = (1..=30).map(second).collect();
        let clients = ClientRecord { seconds, ..ClientRecord::default() };
        blind_steps(&happened(&phase, 40_000), &clients, &Pace::REAL)
    }

    #[test]
    fn a_step_without_its_traffic_is_blind() {
        assert_eq!(blind(|_| 22), Vec::<String>::new());
        let late = |seconds: i64| move |number| if number <= 20 + seconds { 0 } else { 22 };
        assert_eq!(blind(late(3)), Vec::<String>::new(), "a stalled host is no early check");
        let found = blind(late(8));
        assert_eq!(found, ["the step after 10 % was decided on 2.0 % of the traffic"]);
        assert_eq!(blind(|_| 0).len(), 1);
        let nothing = ClientRecord::default();
        let phase = [moment(0, "Progressing", 10, 0), moment(30_000, "Promoting", 10, 0)];
        let happened = happened(&phase, 40_000);
        assert_eq!(blind_steps(&happened, &nothing, &Pace::REAL).len(), 1, "no answers at all");
    }

    #[test]
    fn limits_are_as_the_constants_say() {
        let limit = |pct: f64, answers: f64| {
            let pct_of_promise = 100.0 * least(pct / 100.0, answers) / (answers * pct / 100.0);
            format!("{pct_of_promise:.0}")
        };
        let real = [10.0, 20.0, 30.0, 50.0].map(|pct| limit(pct, 2_200.0));
        assert_eq!(real, ["62", "73", "78", "83"]);
        assert_eq!([at_most(0.0), at_most(5.0)], [2, 19]);
        let article = [10.0, 20.0].map(|pct| limit(pct, 13_200.0));
        assert_eq!(article, ["81", "85"]);
    }
}
