//! Whether the data that a check rests on are newer than the weight that it judges.
//!
//! Metrics are scraped every so often. Between two scrapes a query gives the same answer again and
//! again: with steps shorter than the scrape interval, several of them would rest on the same few
//! requests, all of them from before the step. So a check passes only with a sample that was taken
//! since. One that fails counts at once.

use evenkeel_promql::{
    ast::{Expr, ExprKind, Selector},
    parser::parse,
};
use jiff::Timestamp;

/// Older answers are no times of samples: queries look back five minutes at most by default.
const AGE_S_MAX: f64 = 3600.0;

/// The query for the time of the newest sample that `expr` reads; `None` when it reads none of now.
pub(crate) fn query(expr: &str) -> Option<String> {
    let query = parse(expr).ok()?;
    let mut times: Vec<String> = Vec::new();
    query.expr.walk(&mut |node: &Expr| {
        let (ExprKind::Selector(selector) | ExprKind::Range { selector, .. }) = &node.kind else {
            return;
        };
        if let Some(time) = time_of(selector).filter(|time| !times.contains(time)) {
            times.push(time);
        }
    });
    (!times.is_empty()).then(|| format!("max({})", times.join(" or ")))
}

fn time_of(selector: &Selector) -> Option<String> {
    if selector.offset.is_some() || selector.at.is_some() {
        return None;
    }
    let matchers: Vec<String> = selector.matchers.iter().map(ToString::to_string).collect();
    Some(format!("timestamp({{{}}})", matchers.join(",")))
}

/// The time of the newest sample (in seconds, as [`query`] is answered), if it is not after `since`.
/// What can be no time of a sample is none.
pub(crate) fn too_old(newest_s: f64, since: Timestamp, now: Timestamp) -> Option<Timestamp> {
    if newest_s.is_nan() || newest_s < seconds(now) - AGE_S_MAX || newest_s > seconds(since) {
        return None;
    }
    #[expect(clippy::cast_possible_truncation, reason = "it lies within the last hour")]
    Timestamp::from_millisecond((newest_s * 1000.0) as i64).ok()
}

#[expect(clippy::cast_precision_loss, reason = "milliseconds of this age stay far below 2^52")]
fn seconds(time: Timestamp) -> f64 {
    time.as_millisecond() as f64 / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_series_that_is_read_now_is_asked_for_once() {
        let asked = |expr| query(expr).unwrap_or_default();
        assert_eq!(
            asked(r#"sum(rate(hits{app="a",code=~"5.."}[1m])) / sum(rate(hits{app="a"}[1m]))"#),
            "max(timestamp({app=\"a\",code=~\"5..\",__name__=\"hits\"}) or \
             timestamp({app=\"a\",__name__=\"hits\"}))"
        );
        assert_eq!(asked("a + a offset 1h or vector(0)"), "max(timestamp({__name__=\"a\"}))");
        assert_eq!(asked("max_over_time(a[1m:5s])"), "max(timestamp({__name__=\"a\"}))");
        assert_eq!(asked("1 - vector(0)"), "");
        assert_eq!(asked("a @ 7"), "");
        assert_eq!(asked("not promql ("), "");
    }

    #[test]
    fn only_a_known_time_up_to_the_step_is_too_old() {
        let (now, since) = (Timestamp::from_second(10_000), Timestamp::from_second(9_990));
        let (now, since) = (now.unwrap(), since.unwrap());
        let judged = |newest_s| too_old(newest_s, since, now).map(|time| time.to_string());
        assert_eq!(judged(9_989.5).as_deref(), Some("1970-01-01T02:46:29.5Z"));
        assert_eq!((judged(9_990.001), judged(12_000.0)), (None, None));
        assert_eq!(judged(9_990.0).as_deref(), Some("1970-01-01T02:46:30Z"));
        assert_eq!((judged(f64::NAN), judged(99.5)), (None, None));
    }
}
