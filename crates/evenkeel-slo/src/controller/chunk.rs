//! How much to ask for at once: a first look at 30 days is far more than one answer may hold.

use std::time::Duration;

use evenkeel_control::Span;
use jiff::Timestamp;

use crate::duration::PromDuration;

/// How far back a first look counts as finely as later ones.
const FINE: Duration = Duration::from_hours(1);
/// Distance of the looks at older times.
const COARSE: Duration = Duration::from_mins(5);
/// Moments one query may have; Prometheus refuses more than 11,000.
const MOMENTS_MAX: u32 = 10_000;
/// Moments of a first query: about five hours, 64,000 points of 1,000 series.
const MOMENTS_FIRST: u32 = 64;
/// Points an answer should have: 3 MB of JSON, which any Prometheus sends within a second.
const POINTS: u64 = 100_000;
/// Growth from one query to the next, and shrinking after a failure.
const FACTOR: u32 = 4;
/// Answers after which twice as much is tried again.
const PATIENCE: u32 = 50;

/// What is to be counted how finely.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted<'a> {
    /// Distance of the moments lately and at edges.
    pub(super) every: Duration,
    /// How far back.
    pub(super) window: PromDuration,
    /// Times that are looked at finely however old they are; in order.
    pub(super) edges: &'a [(Timestamp, Timestamp)],
}

/// The size of the next query, learnt from the answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    moments: u32,
    /// Half of the smallest that failed: a server may allow less than is sensible.
    most: u32,
    /// Answers since that was last changed.
    answers: u32,
    /// Whether the last question failed: one failure may have another cause.
    has_failed: bool,
}

impl Chunk {
    pub(super) fn new() -> Self {
        Self { moments: MOMENTS_FIRST, most: MOMENTS_MAX, answers: 0, has_failed: false }
    }

    /// After an answer to `moments` moments with so many points in its largest part.
    pub(super) fn answered(&mut self, moments: usize, points: usize) {
        self.has_failed = false;
        self.answers += 1;
        if self.answers >= PATIENCE {
            self.answers = 0;
            self.most = self.most.saturating_mul(2).min(MOMENTS_MAX);
        }
        let moments = u64::try_from(moments).unwrap_or(u64::MAX);
        let points = u64::try_from(points).unwrap_or(u64::MAX);
        let fits = moments.saturating_mul(POINTS) / points.max(1);
        let most = self.moments.saturating_mul(FACTOR).min(self.most);
        self.moments = u32::try_from(fits).unwrap_or(u32::MAX).clamp(1, most);
    }

    /// After no answer to `moments` moments: the second time it may have been too much.
    pub(super) fn failed(&mut self, moments: usize) {
        if !self.has_failed {
            self.has_failed = true;
        } else if moments > 1 {
            let moments = u32::try_from(moments).unwrap_or(MOMENTS_MAX);
            self.most = self.most.min(moments / 2);
            self.answers = 0;
            self.moments = (moments / FACTOR).max(1);
        }
    }

    /// The next moments to ask for; `None` when everything up to `now` is counted.
    ///
    /// The last hour and every edge are looked at every `every`, what is older every five minutes,
    /// as far back as the window reaches.
    pub(super) fn next(
        self,
        looked_at: Option<Timestamp>,
        now: Timestamp,
        wanted: &Wanted<'_>,
    ) -> Option<Span> {
        let (every, edges) = (wanted.every, wanted.edges);
        let window = Duration::from_millis(wanted.window.as_ms());
        let start = ago(now, window);
        let looked_at = looked_at.filter(|at| *at >= start);
        let next = |step: Duration| looked_at.map_or(start, |at| at + step);
        let coarse = COARSE.max(every).max(window / MOMENTS_MAX);
        let fine_from = ago(now, FINE.max(every));
        let step = every.max(FINE / MOMENTS_MAX).max(Duration::from_millis(1));
        let at = looked_at.unwrap_or(start);
        let edge = edges.iter().find(|(from, to)| *to > at && *from < fine_from);
        let (old, first) = (next(coarse), next(step));
        match edge {
            Some((from, to)) if *from <= at && first <= fine_from => {
                let last = (*to).max(first).min(fine_from);
                return Some(self.cut(Span { first, last, step }));
            }
            // The way to an edge ends where it begins.
            Some((from, _)) if old > *from && *from > at => {
                let step = from.duration_since(at).unsigned_abs();
                return Some(Span { first: *from, last: *from, step });
            }
            Some((from, _)) if old <= *from => {
                return Some(self.cut(Span { first: old, last: *from, step: coarse }));
            }
            _ if old <= fine_from => {
                return Some(self.cut(Span { first: old, last: fine_from, step: coarse }));
            }
            _ => {}
        }
        (first <= now).then(|| self.cut(Span { first, last: now, step }))
    }

    fn cut(self, span: Span) -> Span {
        let last = span.first + span.step * (self.moments - 1);
        Span { last: span.last.min(last), ..span }
    }
}

/// How much of the window has been counted. Unit: percent, in tens.
pub(super) fn counted_percent(
    looked_at: Option<Timestamp>,
    now: Timestamp,
    window: PromDuration,
) -> u32 {
    let length = i64::try_from(window.as_ms()).unwrap_or(i64::MAX).max(1);
    let left = looked_at.map_or(length, |at| now.as_millisecond() - at.as_millisecond());
    let tens = (length - left.clamp(0, length)).saturating_mul(10) / length;
    u32::try_from(tens).unwrap_or(0) * 10
}

fn ago(now: Timestamp, span: Duration) -> Timestamp {
    now.checked_sub(span).unwrap_or(Timestamp::UNIX_EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 86_400;

    /// The queries of a first look at 30 days of so many series, until all is counted.
    fn first_look(series: usize) -> Vec<(usize, i64)> {
        let now = Timestamp::from_second(100 * DAY).unwrap();
        let (every, window) = (Duration::from_secs(15), PromDuration::from_days(30));
        let (mut chunk, mut looked_at, mut asked) = (Chunk::new(), None, Vec::new());
        let wanted = Wanted { every, window, edges: &[] };
        while let Some(span) = chunk.next(looked_at, now, &wanted) {
            let moments = span.moments().count();
            chunk.answered(moments, moments * series);
            looked_at = span.moments().last();
            asked.push((moments * series, now.as_second() - looked_at.unwrap().as_second()));
        }
        asked
    }

    #[test]
    fn a_month_is_asked_for_in_answers_of_bounded_size() {
        let few = first_look(3);
        assert!(few.len() <= 7, "{few:?}");
        assert_eq!(few.last().unwrap().1, 0, "the last moment is now");
        let many = first_look(1_000);
        assert!(many.iter().all(|(points, _)| *points <= 100_000), "{many:?}");
        assert!(many.len() < 100, "{}", many.len());
        assert!(first_look(40_000).iter().skip(1).all(|(points, _)| *points <= 100_000));
        let moments: usize = many.iter().map(|(points, _)| points / 1_000).sum();
        // 29 days and 23 hours every five minutes, an hour every 15 seconds.
        assert!((8_860..=8_870).contains(&moments), "{moments}");
    }

    #[test]
    fn after_a_failure_less_is_asked_for_and_nothing_twice() {
        let (every, window) = (Duration::from_secs(15), PromDuration::from_days(30));
        let now = Timestamp::from_second(100 * DAY).unwrap();
        let wanted = Wanted { every, window, edges: &[] };
        let mut chunk = Chunk::new();
        let size = |chunk: Chunk, at| chunk.next(at, now, &wanted).unwrap().moments().count();
        assert_eq!(size(chunk, None), 64);
        chunk.failed(64);
        assert_eq!(size(chunk, None), 64);
        chunk.failed(64);
        assert_eq!(size(chunk, None), 16);
        // It does not grow back at once to what was too much.
        chunk.answered(16, 16);
        assert_eq!(size(chunk, None), 32);
        chunk.answered(32, 32);
        assert_eq!(size(chunk, None), 32);
        (0..PATIENCE).for_each(|_| chunk.answered(32, 32));
        assert_eq!(size(chunk, None), 64);
        (0..9).for_each(|_| chunk.failed(size(chunk, None)));
        assert_eq!(size(chunk, None), 1);
        let half = now - Duration::from_hours(15 * 24);
        assert_eq!(chunk.next(Some(half), now, &wanted).unwrap().first, half + COARSE);
        assert_eq!(counted_percent(Some(half), now, window), 50);
        assert_eq!(counted_percent(None, now, window), 0);
        assert_eq!(counted_percent(Some(now), now, window), 100);
        assert_eq!(chunk.next(Some(now), now, &wanted), None);
        // A clock that stepped back: wait until it is there again.
        assert_eq!(chunk.next(Some(now + every), now, &wanted), None);
    }

    #[test]
    fn the_edges_of_old_changes_are_looked_at_finely() {
        let now = Timestamp::from_second(100 * DAY).unwrap();
        let (every, window) = (Duration::from_secs(15), PromDuration::from_days(1));
        let ago = |seconds: i64| now - Duration::from_secs(seconds.unsigned_abs());
        // Two that overlap, one between two coarse moments, one across the last hour's start.
        let edges = [
            (ago(86_500), ago(86_370)),
            (ago(50_007), ago(49_932)),
            (ago(49_990), ago(49_900)),
            (ago(3_630), ago(3_555)),
        ];
        let wanted = Wanted { every, window, edges: &edges };
        let (mut chunk, mut looked_at, mut moments) = (Chunk::new(), None, Vec::new());
        while let Some(span) = chunk.next(looked_at, now, &wanted) {
            chunk.answered(span.moments().count(), 1);
            moments.extend(span.moments());
            looked_at = moments.last().copied();
        }
        assert!(moments.is_sorted_by(|a, b| a < b), "nothing is asked twice");
        assert!(moments.len() < 288 + 240 + 60, "{}", moments.len());
        for (before, at) in moments.iter().zip(moments.iter().skip(1)) {
            let met = edges.iter().any(|(from, to)| before < to && from < at);
            let length = at.duration_since(*before).unsigned_abs();
            assert!(length <= if met { every } else { COARSE }, "{before} {at}");
        }
        assert!(moments.last().copied().unwrap() + every > now);
    }
}
