//! Times one pass of 100 Sloth SLOs (1,700 rules) over 3,000 counters with 3 days of samples, and
//! single queries over up to 30 days: `cargo run --release -p evenkeel-promql --example
//! rules_pass`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a benchmark prints and looks at the clock"
)]
#![expect(
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a benchmark on made-up numbers"
)]

use evenkeel_promql::engine::{Options, instant_text};
use evenkeel_promql::labels::Labels;
use evenkeel_promql::rules::{Context, Group, GroupSpec, RuleSpec};
use evenkeel_promql::series::SeriesStore;
use std::collections::BTreeMap;
use std::time::Instant;

const STEP_MS: i64 = 60_000;
const DAY_MS: i64 = 86_400_000;
const END_MS: i64 = 40 * DAY_MS;

fn main() {
    // Pods per service; 10 gives 3,000 counters.
    let pods: i32 = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(10);
    let started = Instant::now();
    let mut store = fill(pods);
    println!(
        "{} series, {} samples, filled in {:?}",
        store.len(),
        store.samples_len(),
        started.elapsed()
    );
    let mut groups: Vec<Group> = (0..100).flat_map(slo).collect();
    let rules: usize = groups.iter().map(|g| g.rules.len()).sum();
    let options = Options::default();
    let external = Labels::empty();
    let context = Context {
        options: &options,
        external_labels: &external,
        external_url: "",
        resend_ms: 60_000,
    };
    for pass in 0..4 {
        let now = END_MS + pass * 30_000;
        let (started, cpu) = (Instant::now(), cpu_ms());
        let mut errors = 0;
        for group in &mut groups {
            let outcome = group.evaluate(&mut store, now, &context);
            errors += outcome.rules.iter().filter(|r| r.error.is_some()).count();
        }
        let cpu = cpu_ms() - cpu;
        println!(
            "pass {pass}: {rules} rules, {errors} errors, {cpu:.1} ms CPU, {:?}",
            started.elapsed()
        );
    }
    for window in ["5m", "1h", "6h", "1d", "3d"] {
        let text = format!(
            "sum(rate(http_requests_total{{service=\"svc7\",code=~\"5..\"}}[{window}])) / sum(rate(http_requests_total{{service=\"svc7\"}}[{window}]))"
        );
        time(&store, &text);
    }
    time(
        &store,
        "sum_over_time(slo:sli_error:ratio_rate5m{sloth_id=\"svc7-a\"}[30d]) / count_over_time(slo:sli_error:ratio_rate5m{sloth_id=\"svc7-a\"}[30d])",
    );
    time(&store, "sum by (service) (rate(http_requests_total[5m]))");
    time(&store, "sum by (service) (rate(http_requests_total[3d]))");
}

/// Time on the processor so far, in milliseconds (Linux only, else 0): wall time says little on a
/// shared machine.
fn cpu_ms() -> f64 {
    let text = std::fs::read_to_string("/proc/self/schedstat").unwrap_or_default();
    let ns: f64 = text.split_whitespace().next().and_then(|n| n.parse().ok()).unwrap_or_default();
    ns / 1e6
}

fn time(store: &SeriesStore, text: &str) {
    let cpu = cpu_ms();
    let rounds = 10;
    let mut read = 0;
    for _ in 0..rounds {
        read = instant_text(store, text, END_MS, &Options::default()).unwrap().samples_read;
    }
    println!("{:>9.3} ms CPU {read:>9} samples  {text}", (cpu_ms() - cpu) / f64::from(rounds));
}

fn fill(pods: i32) -> SeriesStore {
    let mut store = SeriesStore::new();
    for service in 0..100 {
        for pod in 0..pods {
            for (code, rate) in [("200", 60), ("404", 3), ("500", 1)] {
                let labels = Labels::from_pairs([
                    ("__name__", "http_requests_total".to_owned()),
                    ("service", format!("svc{service}")),
                    ("pod", format!("pod-{service}-{pod}")),
                    ("code", code.to_owned()),
                ]);
                let mut value = f64::from(pod);
                for i in 0..(3 * DAY_MS + 2 * 3_600_000) / STEP_MS {
                    value += f64::from(rate) + (i % 7) as f64;
                    if (i + i64::from(pod) * 100) % 3000 == 0 {
                        value = 0.0;
                    }
                    let t_ms = END_MS - 3 * DAY_MS - 2 * 3_600_000 + i * STEP_MS;
                    store.append(&labels, t_ms, value).unwrap();
                }
            }
        }
        let id = format!("svc{service}-a");
        let labels = Labels::from_pairs([
            ("__name__", "slo:sli_error:ratio_rate5m".to_owned()),
            ("sloth_id", id),
            ("sloth_service", format!("svc{service}")),
            ("sloth_slo", "a".to_owned()),
            ("sloth_window", "5m".to_owned()),
        ]);
        for i in 0..30 * DAY_MS / STEP_MS {
            let value = 0.001 + (i % 11) as f64 * 1e-5;
            store.append(&labels, END_MS - 30 * DAY_MS + i * STEP_MS, value).unwrap();
        }
    }
    store
}

/// The 17 rules of one SLO in their three groups.
fn slo(n: i32) -> Vec<Group> {
    let f = format!("{{sloth_id=\"svc{n}-a\", sloth_service=\"svc{n}\", sloth_slo=\"a\"}}");
    let labels: BTreeMap<String, String> = [
        ("sloth_id", format!("svc{n}-a")),
        ("sloth_service", format!("svc{n}")),
        ("sloth_slo", "a".to_owned()),
    ]
    .map(|(k, v)| (k.to_owned(), v))
    .into();
    let record = |name: String, expr: String, extra: Option<&str>| {
        let mut labels = labels.clone();
        if let Some(window) = extra {
            labels.insert("sloth_window".to_owned(), window.to_owned());
        }
        RuleSpec { record: Some(name), expr, labels, ..RuleSpec::default() }
    };
    let mut sli = Vec::new();
    for w in ["5m", "30m", "1h", "2h", "6h", "1d", "3d"] {
        let expr = format!(
            "(sum(rate(http_requests_total{{service=\"svc{n}\",code=~\"5..\"}}[{w}])))\n/\n(sum(rate(http_requests_total{{service=\"svc{n}\"}}[{w}])))\n"
        );
        sli.push(record(format!("slo:sli_error:ratio_rate{w}"), expr, Some(w)));
    }
    let period = format!(
        "sum_over_time(slo:sli_error:ratio_rate5m{f}[30d])\n/ ignoring (sloth_window)\ncount_over_time(slo:sli_error:ratio_rate5m{f}[30d])\n"
    );
    sli.push(record("slo:sli_error:ratio_rate30d".to_owned(), period, Some("30d")));
    let burn = |w: &str| {
        format!(
            "slo:sli_error:ratio_rate{w}{f}\n/ on(sloth_id, sloth_slo, sloth_service) group_left\nslo:error_budget:ratio{f}\n"
        )
    };
    let meta = vec![
        record("slo:objective:ratio".into(), "vector(0.999)".into(), None),
        record("slo:error_budget:ratio".into(), "vector(1-0.999)".into(), None),
        record("slo:time_period:days".into(), "vector(30)".into(), None),
        record("slo:current_burn_rate:ratio".into(), burn("5m"), None),
        record("slo:period_burn_rate:ratio".into(), burn("30d"), None),
        record(
            "slo:period_error_budget_remaining:ratio".into(),
            format!("1 - slo:period_burn_rate:ratio{f}"),
            None,
        ),
        record("sloth_slo_info".into(), "vector(1)".into(), None),
    ];
    let alert = |rows: [(&str, &str, f64); 2]| {
        let part = |(short, long, factor): (&str, &str, f64)| {
            format!(
                "(\n    max(slo:sli_error:ratio_rate{short}{f} > ({factor} * 0.001)) without (sloth_window)\n    and\n    max(slo:sli_error:ratio_rate{long}{f} > ({factor} * 0.001)) without (sloth_window)\n)"
            )
        };
        RuleSpec {
            alert: Some("HighErrorRate".to_owned()),
            expr: format!("{}\nor\n{}\n", part(rows[0]), part(rows[1])),
            ..RuleSpec::default()
        }
    };
    let alerts = vec![
        alert([("5m", "1h", 14.4), ("30m", "6h", 6.0)]),
        alert([("2h", "1d", 3.0), ("6h", "3d", 1.0)]),
    ];
    [("sli", sli), ("meta", meta), ("alerts", alerts)]
        .into_iter()
        .map(|(name, rules)| {
            let spec = GroupSpec { name: format!("{name}-{n}"), rules, ..GroupSpec::default() };
            Group::new(&spec, "bench").unwrap()
        })
        .collect()
}
