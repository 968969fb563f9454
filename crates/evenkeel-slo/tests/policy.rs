//! What the policy allows: tables for people, properties for the laws.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::format_push_string, reason = "tests build their text piece by piece")]

use std::collections::{BTreeMap, BTreeSet};

use evenkeel_slo::PromDuration;
use evenkeel_slo::budget::{
    Events, Exclusion, Exclusions, Forecast, History, Objective, Slice, Tally,
};
use evenkeel_slo::policy::{
    Account, ActionClass, Ask, BreakGlass, CanaryPlan, Decision, ErrorBudgetPolicy, Memory,
    Permission, PolicySpec, Signal, Situation, State, Traffic, combine, decide, step,
};
use jiff::Timestamp;
use proptest::prelude::*;
use serde_json::{Value, json};

const MINUTES: u64 = 60_000;

fn at(minute: i64) -> Timestamp {
    Timestamp::from_second(minute * 60).unwrap()
}

fn minutes(count: u64) -> PromDuration {
    PromDuration::from_ms(count * MINUTES)
}

fn policy(spec: Value) -> ErrorBudgetPolicy {
    let mut spec = spec;
    spec["selector"] = json!({ "all": true });
    let document = json!({ "metadata": { "name": "p" }, "spec": spec });
    ErrorBudgetPolicy::from_value(&document).unwrap()
}

fn default_policy() -> ErrorBudgetPolicy {
    policy(json!({}))
}

fn signal(remaining: Option<f64>, burn: f64) -> Signal {
    let windows = [5, 30, 60, 360].map(minutes);
    Signal { remaining, burns: windows.into_iter().map(|w| (w, burn)).collect() }
}

/// Short rows: `minute remaining% burn`, `-` for no data; the state of each row.
fn walk(policy: &ErrorBudgetPolicy, rows: &[&str]) -> String {
    let mut memory = None;
    let mut out = String::new();
    for row in rows {
        let mut words = row.split_whitespace();
        let minute: i64 = words.next().unwrap().parse().unwrap();
        let remaining = words.next().unwrap().parse::<f64>().ok().map(|p| p / 100.0);
        let burn = words.next().map_or(0.0, |b| b.parse().unwrap());
        let next = step(policy, memory, &signal(remaining, burn), at(minute));
        out.push_str(&format!("{row:>12} -> {}\n", next.state));
        memory = Some(next);
    }
    out
}

#[test]
fn states_get_worse_at_once_and_better_with_margin_and_time() {
    let rows = [
        "0 80",
        "1 49",
        "2 51",
        "40 51",
        "41 56",
        "42 24",
        "43 0",
        "50 4",
        "80 4",
        "81 6",
        "82 6 20",
        "90 6 14",
        "120 6 13.5",
        "150 60 1",
        "151 -",
        "152 -",
        "153 52",
    ];
    insta::assert_snapshot!(walk(&default_policy(), &rows), @"
          0 80 -> Healthy
          1 49 -> Caution
          2 51 -> Caution
         40 51 -> Caution
         41 56 -> Healthy
         42 24 -> Slow
          43 0 -> Frozen
          50 4 -> Frozen
          80 4 -> Frozen
          81 6 -> Slow
       82 6 20 -> Burning
       90 6 14 -> Burning
    120 6 13.5 -> Slow
      150 60 1 -> Healthy
         151 - -> Unknown
         152 - -> Unknown
        153 52 -> Caution
    ");
}

#[test]
fn the_table_of_a_policy_that_says_nothing() {
    let policy = default_policy();
    let mut out = String::from("            ");
    let states = [State::KNOWN.to_vec(), vec![State::Unknown]].concat();
    for state in &states {
        out.push_str(&format!("{state:<8}", state = state.to_string()));
    }
    for class in ActionClass::ALL {
        out.push_str(&format!("\n{:<12}", format!("{class:?}")));
        for state in &states {
            out.push_str(&format!("{:<8}", format!("{:?}", policy.permission(class, *state))));
        }
    }
    insta::assert_snapshot!(out, @"
                Healthy Caution Slow    Frozen  Burning Unknown 
    Deploy      Allow   Allow   Slower  Deny    Deny    Approve 
    Config      Allow   Allow   Approve Deny    Deny    Approve 
    Chaos       Allow   Approve Deny    Deny    Deny    Deny    
    Scaling     Allow   Allow   Approve Approve Deny    Approve 
    Failover    Allow   Approve Approve Deny    Deny    Approve 
    Backup      Allow   Allow   Allow   Slower  Slower  Allow   
    Remediation Allow   Allow   Allow   Allow   Allow   Approve 
    Security    Allow   Allow   Slower  Slower  Approve Approve 
    Restore     Allow   Allow   Allow   Allow   Allow   Allow
    ");
}

struct Case {
    state: State,
    remaining: Option<f64>,
    class: ActionClass,
    cost: Option<f64>,
    forecast: Forecast,
    burn: f64,
    traffic: Traffic,
}

impl Case {
    fn new(state: State, remaining: f64, class: ActionClass) -> Self {
        let (remaining, cost, forecast) = (Some(remaining), None, Forecast::NotBurning);
        Self { state, remaining, class, cost, forecast, burn: 0.0, traffic: Traffic::Seen }
    }

    fn decide(&self, account: &Account, glass: &[BreakGlass]) -> Decision {
        let situation = Situation {
            now: at(100),
            memory: Memory { state: self.state, since: at(90) },
            remaining: self.remaining,
            burns: &signal(None, self.burn).burns,
            traffic: self.traffic,
            unknown: None,
            forecast: self.forecast,
            account,
            chaos_spent: 0.03,
            break_glass: glass,
        };
        let ask = Ask {
            id: "canary/api".to_owned(),
            class: self.class,
            cost: self.cost,
            duration: minutes(10),
        };
        decide(&default_policy(), &situation, &ask)
    }
}

fn shown(decision: &Decision) -> String {
    format!("{:?} {}: {}", decision.permission, decision.reason, decision.messages.join("; "))
}

#[test]
fn decisions_name_the_strictest_rule_and_all_the_others() {
    use ActionClass::{Chaos, Deploy, Restore};
    let account = Account::default();
    let mut busy = Account::default();
    busy.reserve("other", (Deploy, 0.5), at(90), minutes(60)).unwrap();
    let mut out = String::new();
    let mut add = |name: &str, case: Case, account: &Account| {
        out.push_str(&format!("{name}: {}\n", shown(&case.decide(account, &[]))));
    };
    let healthy = || Case::new(State::Healthy, 0.8, Deploy);
    add("healthy", healthy(), &account);
    add("frozen", Case::new(State::Frozen, -0.2, Deploy), &account);
    add("rollback", Case::new(State::Burning, -3.0, Restore), &account);
    add("cheap", Case { cost: Some(0.05), ..healthy() }, &account);
    add("dear", Case { cost: Some(0.3), ..healthy() }, &account);
    add("too dear", Case { cost: Some(0.4), ..healthy() }, &busy);
    add("nonsense", Case { cost: Some(f64::NAN), ..healthy() }, &account);
    let soon = Forecast::At(at(105));
    add("ends first", Case { forecast: soon, ..healthy() }, &account);
    let chaos = || Case { cost: Some(0.01), ..Case::new(State::Healthy, 0.8, Chaos) };
    add("chaos", chaos(), &account);
    add("chaos account", Case { cost: Some(0.03), ..chaos() }, &account);
    let unknown = Case { remaining: None, ..Case::new(State::Unknown, 0.0, Deploy) };
    add("no data", unknown, &account);
    let never = || Case { traffic: Traffic::NeverYet, ..Case::new(State::Healthy, 1.0, Deploy) };
    add("no traffic", never(), &account);
    add("no traffic, but held", Case { state: State::Slow, ..never() }, &account);
    add("burning", Case { burn: 20.1, ..Case::new(State::Burning, 0.62, Deploy) }, &account);
    add("burned", Case { burn: 1.0, ..Case::new(State::Burning, 0.62, Deploy) }, &account);
    add("slow", Case::new(State::Slow, 0.12, Deploy), &account);
    insta::assert_snapshot!(out, @"
    healthy: Allow BudgetHealthy: Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left
    frozen: Deny BudgetFrozen: Frozen since 1970-01-01T01:30:00Z: -20.0 % of the budget is left, at or below 0 %
    rollback: Allow RiskGoesDown: it lowers the risk, which no budget holds up
    cheap: Allow BudgetHealthy: Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left; 5.00 % may be needed of 80.0 % that is free (0.0 % is reserved); above 20.0 %, 25 % of what is free, somebody must approve
    dear: Approve CostIsHigh: 30.00 % may be needed of 80.0 % that is free (0.0 % is reserved); above 20.0 %, 25 % of what is free, somebody must approve; Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left
    too dear: Deny CostExceedsBudget: 40.00 % may be needed of 30.0 % that is free (50.0 % is reserved); above 7.5 %, 25 % of what is free, somebody must approve; Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left
    nonsense: Deny CostExceedsBudget: more than the whole budget may be needed of 80.0 % that is free (0.0 % is reserved); above 20.0 %, 25 % of what is free, somebody must approve; Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left
    ends first: Deny BudgetEndsFirst: at this burn the budget is gone at 1970-01-01T01:45:00Z, before it would be done at 1970-01-01T01:50:00Z; Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left
    chaos: Allow BudgetHealthy: Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left; 1.00 % may be needed of 80.0 % that is free (0.0 % is reserved); above 20.0 %, 25 % of what is free, somebody must approve; with it, faults on purpose use 4.0 % of the budget, 5.0 % is theirs
    chaos account: Deny ChaosAccountSpent: with it, faults on purpose use 6.0 % of the budget, 5.0 % is theirs; Healthy since 1970-01-01T01:30:00Z: 80.0 % of the budget is left; 3.00 % may be needed of 80.0 % that is free (0.0 % is reserved); above 20.0 %, 25 % of what is free, somebody must approve
    no data: Approve BudgetUnknown: Unknown since 1970-01-01T01:30:00Z: there is no data about the budget; a BreakGlass lets it go ahead
    no traffic: Allow NoTrafficYet: Healthy since 1970-01-01T01:30:00Z: 100.0 % of the budget is left, the service has had no events yet
    no traffic, but held: Slower BudgetLow: Slow since 1970-01-01T01:30:00Z: 100.0 % of the budget is left; Slow lasts 30m at least, and until more than 30 % is left and it burns below 5.70 (it burns 0.0 times as fast as it may over 6h and 0.0 over 30m now)
    burning: Deny BudgetBurning: Burning since 1970-01-01T01:30:00Z: it burns 20.1 times as fast as it may over 1h and 20.1 over 5m, at or above 14.4; 62.0 % of the budget is left
    burned: Deny BudgetBurning: Burning since 1970-01-01T01:30:00Z: 62.0 % of the budget is left; Burning lasts 30m at least, and until it burns below 13.68 (it burns 1.0 times as fast as it may over 1h and 1.0 over 5m now)
    slow: Slower BudgetLow: Slow since 1970-01-01T01:30:00Z: 12.0 % of the budget is left, below 25 %
    ");
}

#[test]
fn break_glass_opens_for_its_classes_until_it_expires() {
    let account = Account::default();
    let policy = default_policy();
    let spec = |expires: &str, author: &str| {
        json!({ "reason": "payment fix", "author": author, "granted": "1970-01-01T01:00:00Z",
            "expires": expires, "classes": ["deploy"] })
    };
    let glass = BreakGlass::from_spec(&spec("1970-01-01T02:00:00Z", "kim"), &policy).unwrap();
    let frozen = Case::new(State::Frozen, -0.2, ActionClass::Deploy);
    let open = frozen.decide(&account, std::slice::from_ref(&glass));
    assert_eq!(open.break_glass, Some(glass.clone()));
    insta::assert_snapshot!(shown(&open), @"Allow BreakGlass: break-glass by kim until 1970-01-01T02:00:00Z: payment fix (the policy says Deny); Frozen since 1970-01-01T01:30:00Z: -20.0 % of the budget is left, at or below 0 %");
    let config = Case::new(State::Frozen, -0.2, ActionClass::Config);
    assert_eq!(config.decide(&account, std::slice::from_ref(&glass)).permission, Permission::Deny);
    let late = BreakGlass { expires: at(100), ..glass };
    assert_eq!(frozen.decide(&account, &[late]).permission, Permission::Deny);
    let mut out = String::new();
    for wrong in [
        spec("1970-01-01T02:00:00Z", ""),
        spec("1970-01-01T09:00:00Z", "kim"),
        spec("1970-01-01T00:59:00Z", "kim"),
        json!({ "reason": "x" }),
    ] {
        out.push_str(&format!("{}\n", BreakGlass::from_spec(&wrong, &policy).unwrap_err()));
    }
    insta::assert_snapshot!(out, @"
    spec.author is missing: give it
    spec.expires must be after spec.granted, and by 4h at most, which is the policy's spec.breakGlass.maxDuration
    spec.expires must be after spec.granted, and by 4h at most, which is the policy's spec.breakGlass.maxDuration
    spec.author is missing: give it
    ");
}

#[test]
fn reservations_are_made_drawn_on_settled_and_expire() {
    use ActionClass::Deploy;
    let mut account = Account::default();
    account.reserve("a", (Deploy, 0.2), at(0), minutes(60)).unwrap();
    account.reserve("b", (Deploy, 0.1), at(0), minutes(10)).unwrap();
    assert!((account.open(at(5), None) - 0.3).abs() < 1e-12);
    account.progress("a", 0.15).unwrap();
    assert!((account.open(at(5), None) - 0.15).abs() < 1e-12);
    assert!((account.open(at(5), Some("a")) - 0.1).abs() < 1e-12);
    assert!((account.open(at(10), None) - 0.05).abs() < 1e-12);
    assert_eq!(account.expire(at(10)).len(), 1);
    let settled = account.settle("a", 0.16, at(20)).unwrap();
    assert!((settled.measured - 0.16).abs() < 1e-12);
    assert!(account.open(at(20), None).abs() < 1e-12);
    let errors = [
        account.settle("a", 0.1, at(20)).unwrap_err(),
        account.reserve("c", (Deploy, f64::NAN), at(20), minutes(1)).unwrap_err(),
    ];
    account.reserve("d", (Deploy, 0.1), at(20), minutes(1)).unwrap();
    let twice = account.reserve("d", (Deploy, 0.1), at(20), minutes(1)).unwrap_err();
    let text: Vec<_> = errors.iter().chain([&twice]).map(ToString::to_string).collect();
    insta::assert_snapshot!(text.join("\n"), @"
    a has no reservation
    a cost must be a number of at least 0
    d has a reservation already
    ");
    let json = serde_json::to_string(&account).unwrap();
    assert_eq!(serde_json::from_str::<Account>(&json).unwrap(), account);
}

#[test]
fn the_articles_canary_costs_at_worst_what_its_steps_say() {
    let plan = CanaryPlan {
        weights_pct: CanaryPlan::linear_weights(10, 50),
        interval: minutes(1),
        threshold: 10,
        requests_per_second: 200.0,
    };
    let worst = plan.worst_case().unwrap();
    // (10+20+30+40+50) % of 12,000 requests a minute, and 10 checks at 50 %.
    assert_eq!(worst.unnoticed, Events::whole(18_000));
    assert_eq!(worst.noticed, Events::whole(60_000));
    assert_eq!(worst.bound, Events::whole(78_000));
    assert_eq!(plan.duration(), minutes(5));
    let mut history = History::new(Objective::new(99.9).unwrap(), PromDuration::from_days(30));
    let tally = Tally::new(Events::ZERO, Events::whole(12_000 * 60));
    history.push(Slice { from: at(0), to: at(60), tally: Some(tally) }).unwrap();
    let standing = history.standing(at(60), &Exclusions::default(), minutes(5));
    // Of a month at this traffic: 518,400 failures allowed.
    let share = plan.budget_share(&standing).unwrap();
    assert!((share - 78_000.0 / 518_400.0).abs() < 1e-9, "{share}");
    assert_eq!(CanaryPlan::linear_weights(30, 50), [30, 50]);
    assert_eq!(CanaryPlan::linear_weights(0, 2), [1, 2]);
    let unknown = CanaryPlan { requests_per_second: f64::NAN, ..plan };
    assert_eq!(unknown.worst_case(), None);
}

#[test]
fn a_policy_that_breaks_a_law_is_refused() {
    let mut out = String::new();
    for spec in [
        json!({}),
        json!({ "selector": { "all": true }, "actions": { "deploy": { "frozen": "allow" } } }),
        json!({ "selector": { "all": true }, "actions": { "deploy": { "unknown": "slower" } } }),
        json!({ "selector": { "all": true }, "actions": { "restore": { "frozen": "deny" } } }),
        json!({ "selector": { "all": true }, "actions": { "deploy": { "frozzen": "deny" } } }),
        json!({ "selector": { "all": true }, "remainingPercent": { "caution": 10 } }),
        json!({ "selector": { "all": true }, "hysteresis": { "dwell": "soon" } }),
        json!({ "selector": { "all": true }, "burn": { "slow": [{ "rate": 0, "long": "1h", "short": "5m" }] } }),
        json!({ "selector": { "all": true }, "breakGlass": { "maxDuration": "2d" } }),
        json!({ "selector": { "all": true }, "costs": { "chaosPercent": -1 } }),
    ] {
        let document = json!({ "metadata": { "name": "p" }, "spec": spec });
        out.push_str(&format!("{}\n", ErrorBudgetPolicy::from_value(&document).unwrap_err()));
    }
    insta::assert_snapshot!(out, @r#"
    ErrorBudgetPolicy/p spec.selector: selects nothing; name slos, services or matchLabels, or say all: true
    ErrorBudgetPolicy/p spec.actions.deploy: Frozen allows more (Allow) than Slow (Slower); less budget must never allow more
    ErrorBudgetPolicy/p spec.actions.deploy: Unknown may be approve or deny: no data is no go-ahead
    ErrorBudgetPolicy/p spec.actions.restore: what lowers the risk is always allowed; remove it
    ErrorBudgetPolicy/p spec.actions.deploy.frozzen: unknown variant `frozzen`, expected one of `healthy`, `caution`, `slow`, `frozen`, `burning`, `unknown`
    ErrorBudgetPolicy/p spec.remainingPercent: must fall: 100 >= caution >= slow >= frozen >= -100
    ErrorBudgetPolicy/p spec.hysteresis.dwell: not a valid duration string: "soon", expected something like 5m, 1h30m or 30d
    ErrorBudgetPolicy/p spec.burn: needs rate above 0 and 0 < short <= long
    ErrorBudgetPolicy/p spec.breakGlass.maxDuration: is at most 1d
    ErrorBudgetPolicy/p spec.costs.chaosPercent: must lie in 0 ..= 100
    "#);
}

fn arb_row() -> impl Strategy<Value = BTreeMap<State, Permission>> {
    let permission = prop_oneof![
        Just(Permission::Deny),
        Just(Permission::Approve),
        Just(Permission::Slower),
        Just(Permission::Allow)
    ];
    prop::collection::vec(permission, 6)
        .prop_map(|row| State::KNOWN.into_iter().chain([State::Unknown]).zip(row).collect())
}

prop_compose! {
    fn arb_policy()(
        thresholds in (0.0_f64..100.0, 0.0_f64..100.0, -50.0_f64..100.0),
        rows in prop::collection::btree_map(prop::sample::select(&ActionClass::ALL[..8]), arb_row(), 0..4),
        recover in 0.0_f64..50.0, dwell in 0_u64..100, approve in 0.0_f64..100.0,
        rate in 0.1_f64..50.0,
    ) -> PolicySpec {
        let mut t = [thresholds.0, thresholds.1, thresholds.2];
        t.sort_by(|a, b| b.total_cmp(a));
        let document = json!({
            "selector": { "all": true },
            "remainingPercent": { "caution": t[0], "slow": t[1], "frozen": t[2] },
            "hysteresis": { "recoverPercent": recover, "dwell": format!("{dwell}m") },
            "costs": { "approveAbovePercent": approve },
            "burn": { "burning": [{ "rate": rate, "long": "1h", "short": "5m" }] },
        });
        let spec: PolicySpec = serde_json::from_value(document).unwrap();
        PolicySpec { actions: rows, ..spec }
    }
}

fn arb_memory() -> impl Strategy<Value = Option<Memory>> {
    let states = [&State::KNOWN[..], &[State::Unknown]].concat();
    let memory = (prop::sample::select(states), 0_i64..200);
    prop::option::of(memory.prop_map(|(state, since)| Memory { state, since: at(since) }))
}

/// Percentages that often hit the same values as thresholds.
fn arb_remaining() -> impl Strategy<Value = f64> {
    prop_oneof![-2.0_f64..1.0, prop::sample::select(vec![0.0, 0.25, 0.5, 1.0, -1.0])]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn less_budget_never_allows_more(
        spec in arb_policy(), memory in arb_memory(),
        (a, b) in (arb_remaining(), arb_remaining()), (burn_a, burn_b) in (0.0_f64..60.0, 0.0_f64..60.0),
        class in prop::sample::select(&ActionClass::ALL[..]),
        cost in prop::option::of(0.0_f64..1.5), reserved in 0.0_f64..0.8,
    ) {
        // Most random tables break a law and are refused; those that are accepted keep it.
        let checked = ErrorBudgetPolicy::new("p", spec.clone())
            .or_else(|_| ErrorBudgetPolicy::new("p", PolicySpec { actions: BTreeMap::new(), ..spec }));
        let policy = checked.unwrap();
        let (less, more) = (a.min(b), a.max(b));
        let (hot, cool) = (burn_a.max(burn_b), burn_a.min(burn_b));
        let now = at(100);
        let worse = step(&policy, memory, &signal(Some(less), hot), now);
        let better = step(&policy, memory, &signal(Some(more), cool), now);
        prop_assert!(worse.state >= better.state, "{worse:?} {better:?}");
        let mut account = Account::default();
        account.reserve("other", (ActionClass::Deploy, reserved), at(0), minutes(500)).unwrap();
        let verdict = |memory, remaining| {
            let situation = Situation {
                now, memory, remaining: Some(remaining), forecast: Forecast::NotBurning,
                account: &account, chaos_spent: 0.0, break_glass: &[],
                burns: &BTreeMap::new(), traffic: Traffic::Seen, unknown: None,
            };
            let ask = Ask { id: "x".to_owned(), class, cost, duration: minutes(5) };
            decide(&policy, &situation, &ask).permission
        };
        prop_assert!(verdict(worse, less) <= verdict(better, more));
        if class == ActionClass::Restore {
            prop_assert_eq!(verdict(worse, less), Permission::Allow);
        }
    }

    #[test]
    fn without_data_nothing_risky_goes_ahead(spec in arb_policy(), memory in arb_memory()) {
        let checked = ErrorBudgetPolicy::new("p", spec.clone())
            .or_else(|_| ErrorBudgetPolicy::new("p", PolicySpec { actions: BTreeMap::new(), ..spec }));
        let policy = checked.unwrap();
        let memory = step(&policy, memory, &signal(None, 0.0), at(100));
        prop_assert_eq!(memory.state, State::Unknown);
        for class in [ActionClass::Deploy, ActionClass::Chaos, ActionClass::Failover] {
            prop_assert!(policy.permission(class, memory.state) <= Permission::Approve);
        }
    }
}

#[test]
fn the_strictest_of_several_slos_decides() {
    let account = Account::default();
    let good = Case::new(State::Healthy, 0.8, ActionClass::Deploy).decide(&account, &[]);
    let bad = Case::new(State::Frozen, -0.2, ActionClass::Deploy).decide(&account, &[]);
    let both = combine([good, bad]).unwrap();
    assert_eq!((both.permission, both.messages.len()), (Permission::Deny, 2));
    assert_eq!(combine([]), None);
}

/// The schema of a kind's spec in its definition.
fn schema_of(kind: &str) -> Value {
    let crds = evenkeel_api::crds();
    let crd = crds.iter().find(|crd| crd["spec"]["names"]["kind"] == kind).unwrap();
    crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"].clone()
}

/// Fields that only one of a schema and a value with all fields has.
fn differences(path: &str, schema: &Value, value: &Value, found: &mut Vec<String>) {
    if let (Some(fields), Some(values)) = (schema["properties"].as_object(), value.as_object()) {
        let names: BTreeSet<_> = fields.keys().chain(values.keys()).collect();
        for name in names {
            let path = format!("{path}.{name}");
            match (fields.get(name), values.get(name)) {
                (Some(schema), Some(value)) => differences(&path, schema, value, found),
                _ => found.push(path),
            }
        }
    } else if let (Some(first), Some(_)) = (value.get(0), schema.get("items")) {
        differences(&format!("{path}[]"), &schema["items"], first, found);
    } else if value.is_object() != (schema["type"] == "object")
        || value.is_array() != (schema["type"] == "array")
        || value.is_number() != (schema["type"] == "number")
    {
        found.push(format!("{path} has another type"));
    }
}

#[test]
fn the_definitions_have_the_fields_that_are_read_and_no_others() {
    let mut spec = PolicySpec::default();
    spec.selector.match_labels.insert("team".to_owned(), "a".to_owned());
    for class in ActionClass::ALL.into_iter().filter(|class| *class != ActionClass::Restore) {
        let states = State::KNOWN.into_iter().chain([State::Unknown]);
        spec.actions.insert(class, states.map(|state| (state, Permission::Deny)).collect());
    }
    let mut found = Vec::new();
    let value = serde_json::to_value(&spec).unwrap();
    differences("ErrorBudgetPolicy", &schema_of("ErrorBudgetPolicy"), &value, &mut found);
    let glass = json!({"reason": "r", "author": "a", "granted": "2026-01-01T00:00:00Z",
        "expires": "2026-01-01T01:00:00Z", "classes": ["deploy"]});
    assert!(BreakGlass::from_spec(&glass, &ErrorBudgetPolicy::built_in()).is_ok());
    differences("BreakGlass", &schema_of("BreakGlass"), &glass, &mut found);
    let maintenance = json!({"reason": "r", "author": "a", "from": "2026-01-01T00:00:00Z",
        "to": "2026-01-01T01:00:00Z", "services": ["api"]});
    assert!(Exclusion::from_spec(&maintenance).is_ok());
    differences("SloMaintenance", &schema_of("SloMaintenance"), &maintenance, &mut found);
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn a_field_that_is_none_is_refused_and_not_read_as_nothing() {
    let mut glass = json!({"reason": "r", "author": "a", "granted": "2026-01-01T00:00:00Z",
        "expires": "2026-01-01T01:00:00Z", "classes": ["deploy"], "canary": "api"});
    let error = BreakGlass::from_spec(&glass, &ErrorBudgetPolicy::built_in()).unwrap_err();
    assert!(error.to_string().contains("unknown field `canary`"), "{error}");
    glass.as_object_mut().unwrap().remove("expires");
    glass.as_object_mut().unwrap().remove("canary");
    let error = BreakGlass::from_spec(&glass, &ErrorBudgetPolicy::built_in()).unwrap_err();
    assert!(error.to_string().contains("spec.expires"), "{error}");
    // Not "all services".
    for wrong in [json!({"service": ["api"]}), json!({"services": "api"})] {
        let mut spec = json!({"reason": "r", "author": "a", "from": "2026-01-01T00:00:00Z",
            "to": "2026-01-01T01:00:00Z"});
        spec.as_object_mut().unwrap().extend(wrong.as_object().unwrap().clone());
        let error = Exclusion::from_spec(&spec).unwrap_err().to_string();
        assert!(error.contains("spec.service"), "{error}");
    }
}
