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
            slo: &slo,
            key,
            history,
            exclusions: &exclusions,
            state: *state,
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
    SERVICE | SLO | OBJECTIVE | WINDOW | STATE | LEFT | BURN 5m | BURN 1h | BURN 6h | GONE | BUDGET
    api | requests-availability[tenant=t2] | 99.9% | 30d | Stale | no data | - | - | - | ? | ████████▇▇▇▇▇▇▇▇▇···
    api | requests-availability[tenant=t3] | 99.9% | 30d | Frozen | -11.0% | 40.0 | 40.0 | 40.0 | now | ███████████████████!
    api | requests-availability[tenant=t0] | 99.9% | 30d | Caution | 40.4% | 0.2 | 0.2 | 0.2 | - | ████████▅▅▅▅▄▄▄▄▄▄▄▄
    api | requests-availability[tenant=t1] | 99.9% | 30d | Measured | 100.0% | 0.0 | 0.0 | 0.0 | - | ████████████████████
    SERVICE | SLO | OBJECTIVE | WINDOW | STATE | LEFT | BURN 5m | BURN 1h | BURN 6h | GONE | BUDGET
    api | requests-availability[tenant=t4] | 99.9% | 30d | Measured | 86.7% | 2.0 | 2.0 | 2.0 | in 13d0h | ··················█▇
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
        slo: &slo,
        key: &key,
        history: &history,
        exclusions: &exclusions,
        state: None,
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
          "budgetLeft": 0.9986111111111111,
          "budgetLeftOfSeen": 0.5,
          "bad": 36.0,
          "total": 72000.0,
          "failuresAllowed": 36,
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
          "spark": "···················█"
        }
      ]
    }
    "#);
}
