//! Whether the data that a check rests on are newer than the weight that it judges.
//!
//! Metrics are scraped every so often. Between two scrapes a query gives the same answer again and
//! again: with steps shorter than the scrape interval, several of them would rest on the same few
//! requests, all of them from before the step. So a check passes only with a sample that was taken
//! since. One that fails counts at once.

use evenkeel_promql::{
    ast::{Expr, ExprKind, Selector},
    matcher::{MatchOp, Matcher},
    parser::parse,
};
use jiff::Timestamp;

/// Older answers are not times of samples: queries look back five minutes at most by default.
const AGE_S_MAX: f64 = 3600.0;

/// The query for the time since when all that `expr` reads is newer: of each selector the newest
/// sample, of these the oldest. A selector without series counts for nothing. `None` when nothing
/// of now is read.
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
    if let [time] = times.as_slice() {
        return Some(time.clone());
    }
    // A label of its own keeps the times of two selectors apart.
    let apart =
        |(at, time): (usize, &String)| format!("label_replace({time},\"n\",\"{at}\",\"\",\"\")");
    let apart: Vec<String> = times.iter().enumerate().map(apart).collect();
    (!apart.is_empty()).then(|| format!("min({})", apart.join(" or ")))
}

/// `None` for a query that is not about now, and for several names, whose times would be mixed up.
fn time_of(selector: &Selector) -> Option<String> {
    let named = |matcher: &Matcher| &*matcher.name == "__name__" && matcher.op == MatchOp::Equal;
    if selector.offset.is_some() || selector.at.is_some() || !selector.matchers.iter().any(named) {
        return None;
    }
    let matchers: Vec<String> = selector.matchers.iter().map(ToString::to_string).collect();
    Some(format!("max(timestamp({{{}}}))", matchers.join(",")))
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
    use evenkeel_promql::{
        engine::{Options, instant_text},
        labels::Labels,
        result::QueryValue,
        series::SeriesStore,
    };

    use super::*;

    #[test]
    fn every_series_that_is_read_now_is_asked_for_once() {
        let asked = |expr| query(expr).unwrap_or_default();
        assert_eq!(
            asked(r#"sum(rate(hits{app="a",code=~"5.."}[1m])) / sum(rate(hits{app="a"}[1m]))"#),
            r#"min(label_replace(max(timestamp({app="a",code=~"5..",__name__="hits"})),"n","0","","") or label_replace(max(timestamp({app="a",__name__="hits"})),"n","1","",""))"#
        );
        assert_eq!(asked("a + a offset 1h or vector(0)"), r#"max(timestamp({__name__="a"}))"#);
        assert_eq!(asked("max_over_time(a[1m:5s])"), r#"max(timestamp({__name__="a"}))"#);
        assert_eq!(asked(r#"{__name__=~"a|b"}"#), "");
        assert_eq!(asked("1 - vector(0)"), "");
        assert_eq!(asked("a @ 7"), "");
        assert_eq!(asked("not promql ("), "");
    }

    /// Seconds of the oldest of the newest samples, as the engine answers.
    fn oldest(expr: &str, series: &[(&str, &str, i64)]) -> String {
        let mut store = SeriesStore::new();
        for (name, pod, at_s) in series {
            let labels = Labels::from_pairs([("__name__", *name), ("pod", *pod)]);
            store.append(&labels, at_s * 1000, 1.0).unwrap();
        }
        let options = Options::default();
        let answer = instant_text(&store, &query(expr).unwrap(), 100_000, &options).unwrap();
        let QueryValue::Vector(samples) = answer.value else { return "no vector".to_owned() };
        let values = samples.iter().map(|sample| format!("{:?}", sample.value));
        values.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn the_selector_with_the_oldest_data_decides() {
        let series = [("a", "1", 90), ("a", "2", 80), ("b", "1", 70), ("c", "1", 60)];
        assert_eq!(oldest("a", &series), "Float(90.0)");
        assert_eq!(oldest("rate(a[1m]) / rate(b[1m])", &series), "Float(70.0)");
        assert_eq!(
            oldest(r#"a{pod="2"} / ignoring(pod) group_left a{pod="1"}"#, &series),
            "Float(80.0)"
        );
        // What has no series says nothing about time.
        assert_eq!(oldest("a / gone", &series), "Float(90.0)");
        assert_eq!(oldest("gone", &series), "");
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
