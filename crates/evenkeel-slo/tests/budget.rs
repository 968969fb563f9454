//! The budget is exact, honest about missing data, and its ledger sums to it.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::format_push_string, reason = "tests build their text piece by piece")]

use evenkeel_slo::PromDuration;
use evenkeel_slo::budget::{
    Cause, CauseKind, Coverage, Events, Exclusion, Exclusions, Forecast, History, Ledger,
    Objective, Slice, Standing, Tally,
};
use jiff::Timestamp;
use proptest::prelude::*;

const MINUTE: i64 = 60;
const HOUR: i64 = 3600;
const DAY: i64 = 86_400;

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn slice(from: i64, to: i64, bad: u64, total: u64) -> Slice {
    let tally = Tally::new(Events::whole(bad), Events::whole(total));
    Slice { from: at(from), to: at(to), tally: Some(tally) }
}

fn gap(from: i64, to: i64) -> Slice {
    Slice { from: at(from), to: at(to), tally: None }
}

fn history(percent: f64, window_days: u64, slices: &[Slice]) -> History {
    let objective = Objective::new(percent).unwrap();
    let mut history = History::new(objective, PromDuration::from_days(window_days));
    for slice in slices {
        history.push(*slice).unwrap();
    }
    history
}

fn standing(history: &History, now: i64) -> Standing {
    history.standing(at(now), &Exclusions::default(), PromDuration::from_ms(300_000))
}

fn shown(history: &History, now: i64) -> String {
    let s = standing(history, now);
    let left = s.remaining().map_or("unknown".to_owned(), |left| format!("{left:.4}"));
    let counted = format!("{}/{}", s.counted.bad().as_f64(), s.counted.total().as_f64());
    let forecast = match history.forecast(&s, PromDuration::from_ms(3_600_000)) {
        Forecast::At(t) => format!("gone at {}s", t.as_second()),
        other => format!("{other:?}"),
    };
    let allowed = s.allowed().as_f64();
    format!("{:?} {counted} of {allowed:.0} allowed, left {left}, {forecast}", s.coverage)
}

#[test]
fn the_budget_is_weighted_by_requests_not_by_time() {
    // A busy hour without errors and a quiet one that failed whole: Sloth's average would say
    // half of everything failed.
    let h = history(99.0, 30, &[slice(0, HOUR, 0, 990_000), slice(HOUR, 2 * HOUR, 1000, 10_000)]);
    insta::assert_snapshot!(shown(&h, 2 * HOUR), @"Measured 1000/1000000 of 3600000 allowed, left 0.9997, gone at 266327s");
}

#[test]
fn no_data_quiet_and_exhausted_are_three_different_things() {
    let empty = history(99.9, 30, &[]);
    insta::assert_snapshot!(shown(&empty, HOUR), @"Missing 0/0 of 0 allowed, left unknown, Unknown");
    let never = history(99.9, 30, &[gap(0, HOUR)]);
    insta::assert_snapshot!(shown(&never, HOUR), @"Missing 0/0 of 0 allowed, left unknown, Unknown");
    let quiet = history(99.9, 30, &[slice(0, HOUR, 0, 0)]);
    insta::assert_snapshot!(shown(&quiet, HOUR), @"Quiet 0/0 of 0 allowed, left 1.0000, NotBurning");
    let stale = history(99.9, 30, &[slice(0, HOUR, 0, 1000)]);
    insta::assert_snapshot!(shown(&stale, 2 * HOUR), @"Stale 0/1000 of 720 allowed, left unknown, Unknown");
    let gone = history(99.9, 30, &[slice(0, HOUR, 1, 1000)]);
    insta::assert_snapshot!(shown(&gone, HOUR), @"Measured 1/1000 of 720 allowed, left 0.9986, NotBurning");
    let nearly = history(99.9, 30, &[slice(0, HOUR, 999, 1_000_000)]);
    insta::assert_snapshot!(shown(&nearly, HOUR), @"Measured 999/1000000 of 720000 allowed, left 0.9986, NotBurning");
}

#[test]
fn an_objective_of_100_has_no_budget_and_divides_by_nothing() {
    insta::assert_snapshot!(shown(&history(100.0, 30, &[slice(0, HOUR, 0, 10)]), HOUR), @"Measured 0/10 of 0 allowed, left 1.0000, NotBurning");
    insta::assert_snapshot!(shown(&history(100.0, 30, &[slice(0, HOUR, 1, 10)]), HOUR), @"Measured 1/10 of 0 allowed, left -999999.0000, Exhausted");
}

#[test]
fn old_errors_leave_the_window_and_a_gap_costs_nothing() {
    let h = history(
        99.0,
        7,
        &[slice(0, DAY, 50, 10_000), gap(DAY, 2 * DAY), slice(2 * DAY, 8 * DAY, 10, 60_000)],
    );
    insta::assert_snapshot!(shown(&h, 7 * DAY + 12 * HOUR), @"Measured 60/70000 of 700 allowed, left 0.9143, NotBurning");
    insta::assert_snapshot!(shown(&h, 8 * DAY), @"Measured 10/60000 of 700 allowed, left 0.9857, NotBurning");
}

#[test]
fn slices_out_of_order_are_refused() {
    let mut h = history(99.0, 7, &[slice(0, HOUR, 0, 1)]);
    for bad in [slice(HOUR - 1, 2 * HOUR, 0, 1), slice(HOUR, HOUR, 0, 1), slice(HOUR, 9, 0, 1)] {
        assert!(h.push(bad).is_err());
    }
}

#[test]
fn years_of_seconds_stay_small_and_exact() {
    let mut h = history(99.0, 30, &[]);
    for second in 0..200_000 {
        h.push(slice(second, second + 1, u64::from(second % 100 == 0), 10)).unwrap();
    }
    assert!(h.slices().count() <= History::SLICES_MAX);
    let s = standing(&h, 200_000);
    assert_eq!(s.counted, Tally::new(Events::whole(2000), Events::whole(2_000_000)));
}

#[test]
fn old_slices_become_coarse_and_failures_keep_their_time() {
    let mut h = history(99.9, 30, &[]);
    let (look, month) = (15, 30 * DAY / 15);
    for n in 0..month {
        let bad = u64::from(n % 500 == 499);
        h.push(slice(n * look, (n + 1) * look, bad, 300)).unwrap();
    }
    let count = h.slices().count();
    assert!((8_000..14_000).contains(&count), "{count}");
    let failed: Vec<_> = h.failed_in_window(at(month * look)).collect();
    assert_eq!(failed.len(), usize::try_from(month / 500).unwrap());
    assert!(failed.iter().all(|slice| slice.to.duration_since(slice.from).as_secs() == look));
    let sum = |seconds: u64| h.sum(at(month * look), PromDuration::from_ms(seconds * 1000));
    assert_eq!(sum(3600).total(), Events::whole(240 * 300));
    let days = Events::whole(3 * 5760 * 300);
    assert!(sum(3 * 86_400).total() >= days);
    assert!(sum(3 * 86_400).total() <= days.plus(Events::whole(20 * 300)));
    assert_eq!(
        standing(&h, month * look).counted.total(),
        Events::whole(month.cast_unsigned() * 300)
    );
}

#[test]
fn a_service_that_fails_a_little_in_each_look_keeps_its_window_and_its_times() {
    let mut h = history(99.9, 30, &[]);
    let (look, looks) = (15, 60 * DAY / 15);
    for n in 0..looks {
        h.push(slice(n * look, (n + 1) * look, 1, 1_000)).unwrap();
        if n % 5_000 == 0 {
            assert!(h.slices().count() <= History::SLICES_MAX);
        }
    }
    let longest = h.slices().map(|slice| slice.to.duration_since(slice.from).as_secs()).max();
    assert_eq!(longest, Some(300));
    let month = Events::whole(30 * 5760);
    let counted = standing(&h, looks * look).counted.bad();
    assert!(counted >= month && counted <= month.plus(Events::whole(20)), "{counted:?}");
    // What is recent is as it was counted.
    let recent = h.slices().rev().take(10_000);
    assert!(recent.map(|slice| slice.to.duration_since(slice.from).as_secs()).all(|s| s == look));
}

#[test]
fn maintenance_takes_whole_slices_out_and_keeps_them_in_sight() {
    let h = history(
        99.0,
        30,
        &[
            slice(0, HOUR, 5, 1000),
            slice(HOUR, 2 * HOUR, 100, 1000),
            slice(2 * HOUR, 3 * HOUR, 7, 1000),
        ],
    );
    let planned = Exclusion {
        from: at(HOUR),
        to: at(2 * HOUR + MINUTE),
        reason: "database upgrade".to_owned(),
        author: "kim".to_owned(),
    };
    let exclusions = Exclusions::new(vec![planned.clone().checked().unwrap()]);
    let s = h.standing(at(3 * HOUR), &exclusions, PromDuration::from_ms(300_000));
    assert_eq!(s.counted, Tally::new(Events::whole(12), Events::whole(2000)));
    assert_eq!(s.excluded, Tally::new(Events::whole(100), Events::whole(1000)));
    let ledger = Ledger::build(&h, at(3 * HOUR), &[], &exclusions, 0);
    assert_eq!((ledger.sum(false), ledger.sum(true)), (s.counted.bad(), s.excluded.bad()));
    let mut out = String::new();
    for wrong in [
        Exclusion { author: " ".to_owned(), ..planned.clone() },
        Exclusion { to: at(HOUR), ..planned.clone() },
        Exclusion { to: at(30 * DAY), ..planned },
    ] {
        out.push_str(&format!("{}\n", wrong.checked().unwrap_err()));
    }
    insta::assert_snapshot!(out, @"
    spec.author is required: an exclusion needs a reason and an author
    spec.to 1970-01-01T01:00:00Z is not after spec.from 1970-01-01T01:00:00Z
    an exclusion lasts at most 168 hours, this one 719
    ");
}

fn cause(kind: CauseKind, id: &str, from: i64, to: i64) -> Cause {
    let measured = Vec::new();
    let to = Some(at(to));
    Cause { kind, id: id.to_owned(), from: at(from), to, shows_until: None, measured }
}

fn ledger_text(h: &History, now: i64, causes: &[Cause], background_ppm: u32) -> String {
    let ledger = Ledger::build(h, at(now), causes, &Exclusions::default(), background_ppm);
    let s = standing(h, now);
    assert_eq!(ledger.sum(false), s.counted.bad());
    let line = |l: &evenkeel_slo::budget::LedgerLine| {
        let who =
            l.cause.as_ref().map_or("unexplained".to_owned(), |(k, id)| format!("{k:?} {id}"));
        format!("{who}: {} = {:.1} %\n", l.bad.as_f64(), l.budget_share * 100.0)
    };
    ledger.lines(&s).iter().map(line).collect()
}

#[test]
fn burn_goes_to_the_change_before_the_incident_it_caused() {
    let h = history(
        99.0,
        30,
        &[slice(0, 600, 6, 6000), slice(600, 1200, 306, 6000), slice(1200, 1800, 60, 6000)],
    );
    let release = cause(CauseKind::Change, "api-v2", 600, 1200);
    let incident = cause(CauseKind::Incident, "INC-1", 700, 1500);
    let causes = [release.clone(), incident];
    insta::assert_snapshot!(ledger_text(&h, 1800, &causes, 1000), @"
    Change api-v2: 300 = 0.1 %
    Incident INC-1: 54 = 0.0 %
    unexplained: 18 = 0.0 %
    ");
    // Measured on its own, the release gets what it did and the incident the rest of the time.
    let measured = Cause { measured: vec![slice(600, 1200, 300, 600)], ..release };
    let causes = [measured, cause(CauseKind::Fault, "kill-pod", 1200, 1500)];
    insta::assert_snapshot!(ledger_text(&h, 1800, &causes, 0), @"
    Change api-v2: 300 = 0.1 %
    Fault kill-pod: 60 = 0.0 %
    unexplained: 12 = 0.0 %
    ");
}

prop_compose! {
    fn arb_slices()(parts in prop::collection::vec((1_i64..5000, 0_u64..1000, 0_u64..100_000, 0_u8..10), 1..60))
        -> Vec<Slice> {
        let mut now = 0;
        parts.into_iter().map(|(length, bad, total, kind)| {
            let from = now + i64::from(kind == 1) * 100;
            now = from + length;
            if kind == 0 { gap(from, now) } else { slice(from, now, bad, total) }
        }).collect()
    }
}

prop_compose! {
    fn arb_cause()(kind in 0_u8..3, id in 0_u8..4, from in 0_i64..100_000, length in 0_i64..50_000,
        open in any::<bool>(), measured in prop::option::of(arb_slices())) -> Cause {
        Cause {
            kind: [CauseKind::Change, CauseKind::Fault, CauseKind::Incident][usize::from(kind)],
            id: format!("c{id}"),
            from: at(from),
            to: (!open).then(|| at(from + length)),
            shows_until: (!open).then(|| at(from + length + 60)),
            measured: measured.unwrap_or_default(),
        }
    }
}

/// Releases of one Canary after each other, as seen through scrapes and looks.
#[derive(Debug, Clone)]
struct Releases {
    /// Seconds without one before it, its length, and its failures per second of it.
    each: Vec<(i64, i64, u64)>,
    /// Seconds by which scrapes are behind looks.
    phase: i64,
}

const LOOK: i64 = 15;

impl Releases {
    /// The releases as causes, and for each second how many failed.
    fn happened(&self) -> (Vec<Cause>, Vec<u64>) {
        let (mut causes, mut failed) = (Vec::new(), Vec::new());
        for (number, (gap, length, failing)) in self.each.iter().enumerate() {
            failed.extend((0..*gap).map(|_| 0));
            let from = i64::try_from(failed.len()).unwrap();
            failed.extend((0..*length).map(|_| *failing));
            let release = cause(CauseKind::Change, &format!("v{number}"), from, from + length);
            causes.push(Cause { shows_until: Some(at(from + length + 4 * LOOK)), ..release });
        }
        failed.extend((0..6 * LOOK).map(|_| 0));
        (causes, failed)
    }

    /// What looks find, given that a scrape is as far apart as looks are.
    fn looked_at(&self, failed: &[u64]) -> Vec<Slice> {
        let end = i64::try_from(failed.len()).unwrap();
        let counted = |look: i64| -> u64 {
            let scraped = (look - self.phase).div_euclid(LOOK) * LOOK + self.phase;
            failed.iter().take(usize::try_from(scraped.min(look)).unwrap_or(0)).sum()
        };
        let looks = (1..=end / LOOK).map(|n| n * LOOK);
        looks.map(|to| slice(to - LOOK, to, counted(to) - counted(to - LOOK), 10_000)).collect()
    }
}

prop_compose! {
    fn arb_releases(gap: std::ops::Range<i64>)(
        each in prop::collection::vec((gap, 1_i64..120, 0_u64..9), 1..6), phase in 0..LOOK,
    ) -> Releases {
        Releases { each, phase }
    }
}

proptest! {
    #[test]
    fn a_release_is_charged_its_own_failures_and_in_whole_numbers(
        far in arb_releases(2 * LOOK..300), near in arb_releases(0..60),
    ) {
        for (releases, exact) in [(&far, true), (&near, false)] {
            let (causes, failed) = releases.happened();
            let h = history(99.0, 1, &releases.looked_at(&failed));
            let now = i64::try_from(failed.len()).unwrap();
            let ledger = Ledger::build(&h, at(now), &causes, &Exclusions::default(), 0);
            for entry in &ledger.entries {
                prop_assert_eq!(entry.bad.micros() % 1_000_000, 0, "{:?}", entry);
            }
            let lines = ledger.lines(&standing(&h, now));
            let charged = |id: &str| {
                let mine = lines.iter().find(|l| l.cause.as_ref().is_some_and(|c| c.1 == id));
                mine.map_or(0, |line| line.bad.micros() / 1_000_000)
            };
            prop_assert!(lines.iter().all(|line| line.cause.is_some()), "{:?}", lines);
            for (cause, (_, length, failing)) in causes.iter().zip(&releases.each) {
                let own = u128::try_from(*length).unwrap() * u128::from(*failing);
                // What failed within two looks of its start or end may be a neighbour's.
                let at = |time: Option<Timestamp>| time.map_or(0, Timestamp::as_second);
                let near = |second: i64| {
                    let edges = [cause.from.as_second(), at(cause.to)];
                    edges.iter().any(|edge| (second - edge).abs() <= 2 * LOOK)
                };
                let doubtful: u64 = (0_i64..).zip(&failed).filter(|(s, _)| near(*s)).map(|x| x.1).sum();
                let off = charged(&cause.id).abs_diff(own);
                prop_assert!(off <= if exact { 0 } else { u128::from(doubtful) }, "{cause:?} {off}");
            }
        }
    }

    #[test]
    fn the_ledger_sums_to_the_budget_exactly(
        slices in arb_slices(),
        causes in prop::collection::vec(arb_cause(), 0..6),
        excluded in prop::collection::vec((0_i64..100_000, 1_i64..20_000), 0..4),
        ppm in 0_u32..100_000,
        late in 0_i64..10_000,
    ) {
        let h = history(99.5, 1, &slices);
        let now = at(slices.last().unwrap().to.as_second() + late);
        let exclusions = Exclusions::new(excluded.into_iter().map(|(from, length)| Exclusion {
            from: at(from), to: at(from + length), reason: "r".to_owned(), author: "a".to_owned(),
        }).collect());
        let s = h.standing(now, &exclusions, PromDuration::from_ms(1000));
        let ledger = Ledger::build(&h, now, &causes, &exclusions, ppm);
        prop_assert_eq!(ledger.sum(false), s.counted.bad());
        prop_assert_eq!(ledger.sum(true), s.excluded.bad());
        // Against adding up one by one.
        let edge = now.as_second() - DAY;
        let naive = slices.iter().filter(|x| x.to.as_second() > edge)
            .fold(Tally::default(), |sum, x| sum.plus(x.tally.unwrap_or_default()));
        prop_assert_eq!(s.counted.plus(s.excluded), naive);
        prop_assert_eq!(h.sum(now, PromDuration::from_days(1)), naive);
        if s.coverage == Coverage::Measured {
            prop_assert_eq!(s.exhausted(), s.remaining().unwrap() <= 0.0, "{:?}", s);
        }
    }
}
