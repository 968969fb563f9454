//! The budget's arithmetic under any sequence of events: counters that jump, clocks that step, any
//! float. The ledger must sum to the budget exactly, and less budget must never allow more.
//!
//! Input: raw bytes; see `Bytes`.

use std::{collections::BTreeMap, sync::Arc};

use crate::bytes::Bytes;
use evenkeel_slo::PromDuration;
use evenkeel_slo::budget::{
    Cause, CauseKind, Counters, Events, Exclusion, Exclusions, Forecast, History, Ledger,
    Objective, Reading, SeriesId, Slice, Standing, Tally,
};
use evenkeel_slo::policy::{
    Account, ActionClass, Ask, CanaryPlan, ErrorBudgetPolicy, Memory, PolicySpec, Signal,
    Situation, Traffic, decide, step,
};
use jiff::Timestamp;
use serde_json::json;

/// Events taken from one input.
const EVENTS_MAX: usize = 300;

/// Feeds one input.
pub fn run(data: &[u8]) {
    let mut bytes = Bytes::new(data);
    let percent = match bytes.below(4) {
        0 => bytes.float(),
        n => [99.9, 99.0, 100.0][usize::from(n - 1)],
    };
    let Some(objective) = Objective::new(percent) else { return };
    let window = duration(&mut bytes);
    let mut world = World {
        now: Timestamp::from_second(1_700_000_000).unwrap_or_default(),
        history: History::new(objective, window),
        counters: Counters::default(),
        causes: Vec::new(),
        exclusions: Vec::new(),
        account: Account::default(),
        memory: None,
    };
    let policy = policy(&mut bytes);
    for _ in 0..EVENTS_MAX {
        if bytes.is_empty() {
            break;
        }
        world.event(&mut bytes);
        if bytes.below(8) == 0 {
            world.check(&mut bytes, &policy);
        }
    }
    world.check(&mut bytes, &policy);
}

fn duration(bytes: &mut Bytes<'_>) -> PromDuration {
    match bytes.below(6) {
        0 => PromDuration::from_ms(bytes.word()),
        1 => PromDuration::from_days(30),
        2 => PromDuration::from_ms(u64::from(bytes.byte())),
        _ => PromDuration::from_ms(u64::from(bytes.byte()) * 60_000),
    }
}

fn policy(bytes: &mut Bytes<'_>) -> ErrorBudgetPolicy {
    let spec = json!({
        "selector": { "all": true },
        "remainingPercent": { "caution": bytes.share(), "slow": bytes.share(), "frozen": bytes.share() },
        "hysteresis": { "recoverPercent": bytes.share() * 10.0, "dwell": format!("{}m", bytes.byte()) },
        "costs": { "approveAbovePercent": bytes.share() * 10.0, "chaosPercent": bytes.share() },
        "burn": { "burning": [{ "rate": bytes.share(), "long": "1h", "short": "5m" }] },
    });
    let own = serde_json::from_value::<PolicySpec>(spec).ok();
    let own = own.and_then(|spec| ErrorBudgetPolicy::new("p", spec).ok());
    own.unwrap_or_else(ErrorBudgetPolicy::built_in)
}

struct World {
    now: Timestamp,
    history: History,
    counters: Counters,
    causes: Vec<Cause>,
    exclusions: Vec<Exclusion>,
    account: Account,
    memory: Option<Memory>,
}

impl World {
    fn event(&mut self, bytes: &mut Bytes<'_>) {
        self.now = bytes.time(self.now);
        match bytes.below(8) {
            0..4 => self.look(bytes),
            4 => {
                // A slice that another process counted.
                let slice = slice(bytes, self.now);
                let _refused = self.history.push(slice).is_err();
            }
            5 => {
                let kinds = [CauseKind::Change, CauseKind::Fault, CauseKind::Incident];
                let (from, to) = (bytes.time(self.now), bytes.time(self.now));
                let measured = (0..bytes.below(3)).map(|_| slice(bytes, self.now)).collect();
                self.causes.push(Cause {
                    kind: kinds[usize::from(bytes.below(3))],
                    id: bytes.below(3).to_string(),
                    from,
                    to: (bytes.below(2) == 0).then_some(to),
                    measured,
                    shows_until: (bytes.below(2) == 0).then(|| bytes.time(to)),
                });
            }
            6 => {
                let (from, to) = (bytes.time(self.now), bytes.time(self.now));
                let (reason, author) = ("r".to_owned(), "a".to_owned());
                self.exclusions.extend(Exclusion { from, to, reason, author }.checked());
            }
            _ => self.book(bytes),
        }
    }

    fn look(&mut self, bytes: &mut Bytes<'_>) {
        const NAMES: [&str; 3] = ["a", "b", "c"];
        let series = |bytes: &mut Bytes<'_>| -> Vec<Reading> {
            let names = NAMES.iter().take(usize::from(bytes.below(4)));
            let id = |name: &str| {
                let labels = BTreeMap::from([("__name__".to_owned(), name.to_owned())]);
                Arc::new(SeriesId { selector: 0, labels })
            };
            names.map(|name| (id(name), bytes.float())).collect()
        };
        let (bad, total) = (series(bytes), series(bytes));
        if let Ok(Some(slice)) = self.counters.look(self.now, &bad, &total) {
            let _refused = self.history.push(slice).is_err();
        }
    }

    fn book(&mut self, bytes: &mut Bytes<'_>) {
        let id = bytes.below(3).to_string();
        let share = bytes.share();
        let lasts = duration(bytes);
        let _refused = match bytes.below(4) {
            0 => self.account.reserve(&id, (ActionClass::Deploy, share), self.now, lasts).is_err(),
            1 => self.account.progress(&id, share).is_err(),
            2 => self.account.settle(&id, share, self.now).is_err(),
            _ => self.account.expire(self.now).is_empty(),
        };
    }

    fn check(&mut self, bytes: &mut Bytes<'_>, policy: &ErrorBudgetPolicy) {
        let exclusions = Exclusions::new(self.exclusions.clone());
        let at = bytes.time(self.now);
        let standing = self.history.standing(at, &exclusions, duration(bytes));
        let ppm = u32::from(bytes.byte()) * 1_000;
        let ledger = Ledger::build(&self.history, at, &self.causes, &exclusions, ppm);
        assert_eq!(ledger.sum(false), standing.counted.bad(), "the ledger sums to the budget");
        assert_eq!(ledger.sum(true), standing.excluded.bad(), "and so does what is excluded");
        let mut by_one = Tally::default();
        for slice in self.history.in_window(at) {
            by_one = by_one.plus(slice.tally.unwrap_or_default());
        }
        assert_eq!(standing.counted.plus(standing.excluded), by_one, "running sums are exact");
        if let Some(remaining) = standing.remaining() {
            assert!(remaining <= 1.0, "nothing has more than the whole budget: {remaining}");
        }
        let lines = ledger.lines(&standing);
        let lines = lines.iter().fold(Events::ZERO, |sum, line| sum.plus(line.bad));
        assert_eq!(lines, ledger.sum(false), "lines sum up too");
        let forecast = self.history.forecast(&standing, duration(bytes));
        let signal = Signal::observe(policy, &self.history, &standing);
        self.memory = Some(step(policy, self.memory, &signal, at));
        canary(bytes, &standing);
        self.monotone(bytes, policy, forecast);
    }

    /// Two worlds that differ only in what is left and how fast it burns.
    fn monotone(&self, bytes: &mut Bytes<'_>, policy: &ErrorBudgetPolicy, forecast: Forecast) {
        let shares = [bytes.share(), bytes.share()];
        let burns = [bytes.share(), bytes.share()];
        let (less, more) = (shares[0].min(shares[1]), shares[0].max(shares[1]));
        let (hot, cool) = (burns[0].max(burns[1]), burns[0].min(burns[1]));
        if [less, more, hot, cool].iter().any(|v| v.is_nan()) {
            return;
        }
        let signal = |remaining: f64, burn: f64| {
            let windows = [5, 30, 60, 360].map(|m| PromDuration::from_ms(m * 60_000));
            Signal { remaining: Some(remaining), burns: windows.map(|w| (w, burn)).into() }
        };
        let worse = step(policy, self.memory, &signal(less, hot), self.now);
        let better = step(policy, self.memory, &signal(more, cool), self.now);
        assert!(worse.state >= better.state, "{worse:?} {better:?}");
        let class = ActionClass::ALL[usize::from(bytes.below(9))];
        let cost = (bytes.below(3) > 0).then(|| bytes.share());
        let ask = Ask { id: "1".to_owned(), class, cost, duration: duration(bytes) };
        let chaos_spent = bytes.share();
        let verdict = |memory, remaining| {
            let situation = Situation {
                now: self.now,
                memory,
                remaining: Some(remaining),
                burns: &BTreeMap::new(),
                traffic: Traffic::Seen,
                unknown: None,
                forecast,
                account: &self.account,
                chaos_spent,
                break_glass: &[],
            };
            decide(policy, &situation, &ask).permission
        };
        let (worse, better) = (verdict(worse, less), verdict(better, more));
        assert!(
            worse <= better,
            "{class:?} costs {cost:?}: {worse:?} at {less}, {better:?} at {more}"
        );
    }
}

fn slice(bytes: &mut Bytes<'_>, now: Timestamp) -> Slice {
    let (from, to) = (bytes.time(now), bytes.time(now));
    let mut events = || Events::from_f64(bytes.float());
    let tally = events().zip(events()).map(|(bad, total)| Tally::new(bad, total));
    Slice { from, to, tally }
}

fn canary(bytes: &mut Bytes<'_>, standing: &Standing) {
    let plan = CanaryPlan {
        weights_pct: CanaryPlan::linear_weights(u32::from(bytes.byte()), u32::from(bytes.byte())),
        interval: duration(bytes),
        threshold: u32::from(bytes.byte()),
        requests_per_second: bytes.float(),
    };
    assert!(plan.weights_pct.is_empty() || plan.duration() >= plan.interval, "checks take time");
    if let Some(worst) = plan.worst_case() {
        assert!(worst.bound >= worst.unnoticed && worst.bound >= worst.noticed);
    }
    if let Some(share) = plan.budget_share(standing) {
        assert!(share >= 0.0, "a cost is not a gain: {share}");
    }
}
