//! The view of `slo status`.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use evenkeel_slo::budget::{
    Events, Exclusion, Exclusions, History, Objective, Slice, SloKey, Tally,
};
use evenkeel_slo::policy::State;
use evenkeel_slo::status::{StatusInput, StatusOptions, status};
use evenkeel_slo::{Input, Options, PromDuration, Slo, load};
use jiff::Timestamp;

const HOUR: i64 = 3600;
const ARTICLE: &str = include_str!("fixtures/seed/article.yaml");

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn article() -> Slo {
    let inputs = [Input { name: "slo.yaml".to_owned(), text: ARTICLE.to_owned() }];
    let loaded = load(&inputs, &Options::default(), &mut Vec::new());
    loaded.groups[0].slos[0].clone()
}

/// One slice an hour of 36,000 requests; `bad(hour)` of them fail, `None` is no data.
fn history(hours: i64, bad: impl Fn(i64) -> Option<u64>) -> History {
    let mut history = History::new(Objective::new(99.9).unwrap(), PromDuration::from_days(30));
    for hour in 0..hours {
        let tally = bad(hour).map(|bad| Tally::new(Events::whole(bad), Events::whole(36_000)));
        let (from, to) = (at(hour * HOUR), at((hour + 1) * HOUR));
        history.push(Slice { from, to, tally }).unwrap();
    }
    history
}

#[test]
fn the_table_is_worst_first_and_says_what_is_not_known() {
    let slo = article();
    let month = 30 * 24;
    let incident = |hour| Some(if (300..303).contains(&hour) { 3000 } else { 9 });
    let histories = [
        (history(month, incident), Some(State::Caution)),
        (history(month, |_| Some(0)), None),
        (history(month, |hour| (hour < 600).then_some(10)), None),
        (history(month, |hour| Some(if hour > 700 { 1440 } else { 2 })), Some(State::Frozen)),
        (history(48, |_| Some(72)), None),
    ];
    let keys: Vec<_> = (0..histories.len())
        .map(|n| {
            let group = [("tenant".to_owned(), format!("t{n}"))].into_iter().collect();
            SloKey { id: slo.id.clone(), group }
        })
        .collect();
    let exclusions = Exclusions::default();
    let inputs: Vec<_> = histories
        .iter()
        .zip(&keys)
        .map(|((history, state), key)| StatusInput {
            namespace: "",
            slo: &slo,
            key,
            history,
            exclusions: &exclusions,
            state: *state,
            sloth_left: None,
        })
        .collect();
    let mut out = String::new();
    for (hours, wanted) in [(month, 0..4), (48, 4..5)] {
        let options = StatusOptions { now: at(hours * HOUR), ..StatusOptions::default() };
        let report = status(&inputs[wanted], &options);
        assert_eq!(report.failed(), hours == month);
        let (titles, rows) = report.table();
        for row in [titles].into_iter().chain(rows) {
            out.push_str(&row.join(" | "));
            out.push('\n');
        }
    }
    insta::assert_snapshot!(out, @"
    SERVICE | SLO | OBJECTIVE | WINDOW | STATE | BAD | TOTAL | ALLOWED | LEFT | SLOTH | BURN 5m | BURN 1h | BURN 6h | GONE | BUDGET
    api | requests-availability[tenant=t2] | 99.9% | 30d | Stale | 6000 | 21600000 | 25920 | unknown | - | - | - | - | ? | ████████▇▇▇▇▇▇▇▇▇···
    api | requests-availability[tenant=t3] | 99.9% | 30d | Frozen | 28762 | 25920000 | 25920 | -10.96% | - | 40.0 | 40.0 | 40.0 | now | ███████████████████!
    api | requests-availability[tenant=t0] | 99.9% | 30d | Caution | 15453 | 25920000 | 25920 | 40.38% | - | 0.2 | 0.2 | 0.2 | - | ████████▅▅▅▅▄▄▄▄▄▄▄▄
    api | requests-availability[tenant=t1] | 99.9% | 30d | Measured | 0 | 25920000 | 25920 | 100.00% | - | 0.0 | 0.0 | 0.0 | - | ████████████████████
    SERVICE | SLO | OBJECTIVE | WINDOW | STATE | BAD | TOTAL | ALLOWED | LEFT | SLOTH | BURN 5m | BURN 1h | BURN 6h | GONE | BUDGET
    api | requests-availability[tenant=t4] | 99.9% | 30d | Measured | 3456 | 1728000 | 25920 | 86.67% | - | 2.0 | 2.0 | 2.0 | in 13d0h | ██████████████████▇▇
    ");
}

#[test]
fn the_data_has_every_number() {
    let slo = article();
    let history = history(3, |hour| Some(if hour == 1 { 36 } else { 0 }));
    let exclusions = Exclusions::new(vec![Exclusion {
        from: at(0),
        to: at(HOUR),
        reason: "upgrade".to_owned(),
        author: "kim".to_owned(),
    }]);
    let key = SloKey { id: slo.id.clone(), ..SloKey::default() };
    let input = StatusInput {
        namespace: "",
        slo: &slo,
        key: &key,
        history: &history,
        exclusions: &exclusions,
        state: None,
        sloth_left: Some(-9.0),
    };
    let options = StatusOptions { now: at(3 * HOUR), ..StatusOptions::default() };
    let report = status(&[input], &options);
    insta::assert_snapshot!(serde_json::to_string_pretty(&report).unwrap(), @r#"
    {
      "at": "1970-01-01T03:00:00Z",
      "slos": [
        {
          "service": "api",
          "name": "requests-availability",
          "objective": 99.9,
          "window": "30d",
          "state": null,
          "coverage": "measured",
          "bad": 36.0,
          "total": 72000.0,
          "coveredPercent": 0.28,
          "allowed": 25920.0,
          "left": 25884.0,
          "budgetLeft": 0.9986111111111111,
          "slothLeft": -9.0,
          "excluded": 36000.0,
          "burn": [
            {
              "window": "5m",
              "rate": 0.0
            },
            {
              "window": "1h",
              "rate": 0.0
            },
            {
              "window": "6h",
              "rate": 0.3333333333333333
            }
          ],
          "forecast": {
            "forecast": "notBurning"
          },
          "spark": "████████████████████"
        }
      ]
    }
    "#);
}

#[test]
fn the_same_slo_of_two_namespaces_has_two_rows_that_say_which() {
    let (slo, exclusions) = (article(), Exclusions::default());
    let history = history(3, |_| Some(0));
    let key = SloKey { id: slo.id.clone(), ..SloKey::default() };
    let of = |namespace| StatusInput {
        namespace,
        slo: &slo,
        key: &key,
        history: &history,
        exclusions: &exclusions,
        state: None,
        sloth_left: None,
    };
    let options = StatusOptions { now: at(3 * HOUR), ..StatusOptions::default() };
    let (titles, rows) = status(&[of("shop"), of("billing")], &options).table();
    assert_eq!(titles[..2], ["NAMESPACE", "SERVICE"]);
    assert_eq!([&*rows[0][0], &rows[1][0]], ["billing", "shop"]);
    let (titles, _) = status(&[of("shop")], &options).table();
    assert_eq!(titles[0], "SERVICE");
}

/// The row of one service: `seconds` of traffic at 100 requests a second, `failing` of them.
fn row(objective: f64, seconds: i64, failing: u64) -> String {
    let slo = Slo { objective, ..article() };
    let mut history = History::new(Objective::new(objective).unwrap(), slo.window);
    for n in 0..seconds / 15 {
        let tally = Tally::new(Events::whole(failing * 15), Events::whole(1500));
        let (from, to) = (at(n * 15), at((n + 1) * 15));
        history.push(Slice { from, to, tally: Some(tally) }).unwrap();
    }
    let key = SloKey { id: slo.id.clone(), ..SloKey::default() };
    let exclusions = Exclusions::default();
    let input = StatusInput {
        namespace: "",
        slo: &slo,
        key: &key,
        history: &history,
        exclusions: &exclusions,
        state: None,
        sloth_left: None,
    };
    let options = StatusOptions { now: at(seconds), ..StatusOptions::default() };
    let (titles, rows) = status(&[input], &options).table();
    let cells = titles.iter().zip(&rows[0]).skip(4);
    cells.map(|(title, cell)| format!("{title}={cell}")).collect::<Vec<_>>().join(" ")
}

#[test]
fn the_figures_agree_and_a_full_budget_looks_full() {
    // A minute of a new service: the whole window allows 43,200 times as much as the minute.
    insta::assert_snapshot!(row(99.0, 60, 10), @"STATE=Measured BAD=600 TOTAL=6000 ALLOWED=2592000 LEFT=99.98% SLOTH=- BURN 5m=10.0 BURN 1h=10.0 BURN 6h=10.0 GONE=in 2d23h BUDGET=████████████████████");
    insta::assert_snapshot!(row(99.9, 60, 0), @"STATE=Measured BAD=0 TOTAL=6000 ALLOWED=259200 LEFT=100.00% SLOTH=- BURN 5m=0.0 BURN 1h=0.0 BURN 6h=0.0 GONE=- BUDGET=████████████████████");
    // No failure is allowed: nothing is left, and no number runs away.
    insta::assert_snapshot!(row(100.0, 60, 1), @"STATE=Measured BAD=60 TOTAL=6000 ALLOWED=0 LEFT=0.00% SLOTH=- BURN 5m=>999 BURN 1h=>999 BURN 6h=>999 GONE=now BUDGET=!!!!!!!!!!!!!!!!!!!!");
    insta::assert_snapshot!(row(100.0, 60, 0), @"STATE=Measured BAD=0 TOTAL=6000 ALLOWED=0 LEFT=100.00% SLOTH=- BURN 5m=0.0 BURN 1h=0.0 BURN 6h=0.0 GONE=- BUDGET=████████████████████");
    insta::assert_snapshot!(row(99.0, 0, 0), @"STATE=Missing BAD=0 TOTAL=0 ALLOWED=0 LEFT=unknown SLOTH=- BURN 5m=- BURN 1h=- BURN 6h=- GONE=? BUDGET=····················");
}
