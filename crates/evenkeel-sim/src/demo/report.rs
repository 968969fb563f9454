//! What came of the demo: the table, the JSON, and what counts as fine.

use std::fmt::Write as _;

use serde::Serialize;

use super::script::{OBJECTIVE, Verdict, WINDOW_DAYS};

/// What was seen in one phase.
#[derive(Debug, Clone, PartialEq)]
pub struct PhaseResult {
    /// Its name.
    pub name: &'static str,
    /// Requests that clients sent; answered and failed ones add up to it.
    pub requests: u64,
    /// Failed GETs.
    pub failed: u64,
    /// Failed POSTs.
    pub failed_post: u64,
    /// Failed POSTs that are not our fault: answered 5xx by the bad release itself, or in
    /// flight on the killed process.
    pub excused_post: u64,
    /// Most POSTs that can be excused, by weight and time.
    pub excused_post_max: u64,
    /// What excuses them, in words.
    pub excuse: &'static str,
    /// POSTs that were executed more than once.
    pub executed_twice: u64,
    /// Median latency in milliseconds; `None` when nothing was answered.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// Highest weight that the release reached, in percent.
    pub weight_pct_max: i32,
    /// Steps that were decided on too little traffic at their weight, in words.
    pub blind_steps: Vec<String>,
    /// Failures that the SLO's ledger charges to the release; `None` without release, or when the
    /// run ended early.
    pub ledger_failed: Option<u64>,
    /// What became of it.
    pub verdict: Verdict,
    /// What should have.
    pub expect: Verdict,
    /// How long the phase took.
    pub seconds: f64,
    /// From the first failed check to all traffic on the old version.
    pub rollback_seconds: Option<f64>,
    /// Longest time that the machine let a thread wait; `None` under virtual time.
    pub host_stall_ms: Option<f64>,
}

impl PhaseResult {
    /// Failures that nothing excuses.
    pub fn unexcused(&self) -> u64 {
        let excused = self.excused_post.min(self.excused_post_max);
        self.failed + self.failed_post.saturating_sub(excused)
    }

    /// What is wrong with the phase, in words; empty when it is fine.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        if self.failed > 0 {
            faults.push(format!("{} GETs failed", self.failed));
        }
        let posts = self.unexcused() - self.failed;
        if posts > 0 {
            faults.push(format!("{posts} POSTs failed without excuse"));
        }
        let counted = self.failed + self.failed_post;
        if let Some(ledger) = self.ledger_failed.filter(|ledger| *ledger != counted) {
            faults.push(format!(
                "the SLO's ledger charges {ledger} failures to the release, clients counted \
                 {counted}"
            ));
        }
        if self.executed_twice > 0 {
            faults.push(format!("{} POSTs were executed twice", self.executed_twice));
        }
        if self.verdict != self.expect {
            let (is, should) = (self.verdict.as_str(), self.expect.as_str());
            faults.push(format!("{is}, should be {should}"));
        }
        faults.extend(self.blind_steps.iter().cloned());
        faults
    }

    /// Share of the 30-day error budget that the phase cost, in percent, at the demo's traffic.
    #[expect(clippy::cast_precision_loss, reason = "counts of a demo fit a f64 exactly")]
    pub fn budget_pct(&self) -> f64 {
        if self.requests == 0 || self.seconds <= 0.0 {
            return 0.0;
        }
        let in_window = self.requests as f64 / self.seconds * WINDOW_DAYS * 86_400.0;
        let allowed = in_window * (1.0 - OBJECTIVE);
        100.0 * (self.failed + self.failed_post) as f64 / allowed
    }
}

/// The whole demo.
#[derive(Debug, Clone, PartialEq)]
pub struct Report {
    /// The phases that ran, in order.
    pub phases: Vec<PhaseResult>,
    /// Failures that the SLO's ledger charges to no release.
    pub unexplained: Option<u64>,
    /// What could not even be tried, in words; makes the demo fail.
    pub broken: Option<String>,
}

#[derive(Serialize)]
struct Json<'a> {
    phases: Vec<JsonPhase<'a>>,
    failed_total: u64,
    ledger_unexplained: Option<u64>,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
}

#[derive(Serialize)]
struct JsonPhase<'a> {
    name: &'a str,
    requests: u64,
    failed: u64,
    failed_post: u64,
    failed_post_excused: u64,
    failed_post_excused_max: u64,
    executed_twice: u64,
    p50_ms: Option<f64>,
    p99_ms: Option<f64>,
    weight_pct_max: i32,
    verdict: &'a str,
    expected: &'a str,
    seconds: f64,
    rollback_seconds: Option<f64>,
    budget_pct: f64,
    ledger_failed: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    host_stall_ms: Option<f64>,
    faults: Vec<String>,
}

impl Report {
    /// Whether nothing failed that should not have, and every verdict is as scripted.
    pub fn ok(&self) -> bool {
        self.broken.is_none()
            && !self.phases.is_empty()
            && self.phases.iter().all(|phase| phase.requests > 0 && phase.faults().is_empty())
    }

    /// Failures that nothing excuses, over all phases.
    pub fn failed_total(&self) -> u64 {
        self.phases.iter().map(PhaseResult::unexcused).sum()
    }

    /// One JSON object. The names are relied on by scripts.
    pub fn json(&self) -> String {
        let phases = self.phases.iter().map(|phase| JsonPhase {
            name: phase.name,
            requests: phase.requests,
            failed: phase.failed,
            failed_post: phase.failed_post,
            failed_post_excused: phase.excused_post,
            failed_post_excused_max: phase.excused_post_max,
            executed_twice: phase.executed_twice,
            p50_ms: phase.p50_ms,
            p99_ms: phase.p99_ms,
            weight_pct_max: phase.weight_pct_max,
            verdict: phase.verdict.as_str(),
            expected: phase.expect.as_str(),
            seconds: rounded(phase.seconds, 1),
            rollback_seconds: phase.rollback_seconds.map(|seconds| rounded(seconds, 1)),
            budget_pct: rounded(phase.budget_pct(), 6),
            ledger_failed: phase.ledger_failed,
            host_stall_ms: phase.host_stall_ms.map(|ms| rounded(ms, 0)),
            faults: phase.faults(),
        });
        let json = Json {
            phases: phases.collect(),
            failed_total: self.failed_total(),
            ledger_unexplained: self.unexplained,
            ok: self.ok(),
            error: self.broken.as_deref(),
        };
        serde_json::to_string(&json).expect("plain data serialises")
    }

    /// The table for people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let head = [
            "PHASE", "REQUESTS", "FAILED", "POSTS", "TWICE", "P50", "P99", "WEIGHT", "VERDICT",
            "TOOK", "ROLLBACK", "BUDGET",
        ];
        let mut rows = vec![head.map(str::to_owned)];
        rows.extend(self.phases.iter().map(row));
        let widths: Vec<usize> = (0..head.len())
            .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or_default())
            .collect();
        for row in &rows {
            let cells = row.iter().zip(&widths).enumerate().map(|(column, (cell, width))| {
                // Words to the left, numbers to the right.
                if column == 0 || column == 8 {
                    format!("{cell:<width$}")
                } else {
                    format!("{cell:>width$}")
                }
            });
            let line = cells.collect::<Vec<_>>().join("  ");
            out.push_str(line.trim_end());
            out.push('\n');
        }
        self.foot(&mut out);
        out
    }

    fn foot(&self, out: &mut String) {
        out.push('\n');
        for phase in &self.phases {
            let PhaseResult { name, excuse, excused_post, excused_post_max: max, .. } = phase;
            if *max > 0 {
                // Writing to a String cannot fail.
                writeln!(
                    out,
                    "{name}: {excused_post} failed POSTs {excuse} (at most {max} can be)"
                )
                .unwrap_or_default();
            }
            for fault in phase.faults() {
                writeln!(out, "FAULT {}: {fault}", phase.name).unwrap_or_default();
            }
        }
        if let Some(problem) = &self.broken {
            writeln!(out, "FAULT {problem}").unwrap_or_default();
        }
        self.foot_ledger(out);
        let stalls =
            self.phases.iter().filter_map(|phase| Some((phase.host_stall_ms?, phase.name)));
        if let Some((ms, name)) = stalls.max_by(|one, two| one.0.total_cmp(&two.0)) {
            writeln!(out, "this machine let a thread wait {ms:.0} ms at most ({name})")
                .unwrap_or_default();
        }
        out.push_str(
            "FAILED counts GETs, POSTS failed POSTs, TWICE POSTs executed twice; P50 and P99 are ms\n\
            BUDGET is the share of a 30-day budget at 99.9 % that the phase cost\n",
        );
        writeln!(out, "failed_total: {}", self.failed_total()).unwrap_or_default();
        writeln!(out, "ok: {}", self.ok()).unwrap_or_default();
    }
}

impl Report {
    /// The ledger beside what clients counted.
    fn foot_ledger(&self, out: &mut String) {
        let Some(unexplained) = self.unexplained else { return };
        let charged: Vec<_> = self
            .phases
            .iter()
            .filter_map(|phase| {
                let (ledger, clients) = (phase.ledger_failed?, phase.failed + phase.failed_post);
                (ledger + clients > 0)
                    .then(|| format!("{} {ledger} (clients counted {clients})", phase.name))
            })
            .collect();
        let charged = if charged.is_empty() { "no release".to_owned() } else { charged.join(", ") };
        // Writing to a String cannot fail.
        writeln!(
            out,
            "the SLO's ledger charges failures to: {charged}; to no release {unexplained}"
        )
        .unwrap_or_default();
    }
}

fn row(phase: &PhaseResult) -> [String; 12] {
    let millis = |value: Option<f64>| value.map_or("-".to_owned(), |ms| format!("{ms:.1}"));
    [
        phase.name.to_owned(),
        phase.requests.to_string(),
        phase.failed.to_string(),
        phase.failed_post.to_string(),
        phase.executed_twice.to_string(),
        millis(phase.p50_ms),
        millis(phase.p99_ms),
        if phase.weight_pct_max > 0 { format!("{} %", phase.weight_pct_max) } else { "-".into() },
        phase.verdict.as_str().to_owned(),
        format!("{:.0} s", phase.seconds),
        phase.rollback_seconds.map_or("-".to_owned(), |seconds| format!("{seconds:.1} s")),
        format!("{:.4} %", phase.budget_pct()),
    ]
}

fn rounded(value: f64, digits: i32) -> f64 {
    let scale = 10_f64.powi(digits);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase() -> PhaseResult {
        PhaseResult {
            name: "bad release",
            requests: 22_000,
            failed: 0,
            failed_post: 3,
            excused_post: 3,
            excused_post_max: 9,
            excuse: "are the release's own 5xx answers",
            executed_twice: 0,
            p50_ms: Some(1.2),
            p99_ms: Some(251.0),
            weight_pct_max: 20,
            ledger_failed: Some(3),
            blind_steps: Vec::new(),
            verdict: Verdict::RolledBack,
            expect: Verdict::RolledBack,
            seconds: 100.0,
            rollback_seconds: Some(12.0),
            host_stall_ms: Some(14.0),
        }
    }

    fn ok(change: impl FnOnce(&mut PhaseResult)) -> bool {
        let mut changed = phase();
        change(&mut changed);
        Report { phases: vec![changed], unexplained: None, broken: None }.ok()
    }

    #[test]
    fn only_what_was_promised_is_fine() {
        assert!(ok(|_| {}));
        assert!(!ok(|phase| phase.failed = 1));
        assert!(!ok(|phase| phase.failed_post = 4));
        assert!(!ok(|phase| (phase.failed_post, phase.excused_post) = (10, 10)));
        assert!(!ok(|phase| phase.executed_twice = 1));
        assert!(!ok(|phase| phase.verdict = Verdict::Promoted));
        assert!(!ok(|phase| phase.blind_steps.push("step".to_owned())));
        assert!(!ok(|phase| phase.ledger_failed = Some(2)), "the ledger must be exact");
        assert!(!ok(|phase| phase.requests = 0), "no traffic proves nothing");
        assert!(!Report { phases: Vec::new(), unexplained: None, broken: None }.ok());
        assert!(
            !Report { phases: vec![phase()], unexplained: None, broken: Some("no cluster".into()) }
                .ok()
        );
    }

    #[test]
    fn every_line_fits_in_120_columns() {
        let mut wide = phase();
        wide.name = "controllers killed";
        (wide.requests, wide.failed, wide.failed_post) = (999_999, 99_999, 9_999);
        (wide.p50_ms, wide.p99_ms, wide.seconds) = (Some(999.9), Some(9_999.9), 9_999.0);
        wide.rollback_seconds = Some(1_000.0);
        wide.blind_steps =
            vec!["the step after 50 % was decided on 42.1 % of the traffic".to_owned()];
        let table = Report { phases: vec![wide], unexplained: None, broken: None }.table();
        let longest = table.lines().max_by_key(|line| line.len()).unwrap();
        assert!(longest.len() <= 120, "{longest}");
    }

    #[test]
    fn the_table_reads_without_explanation() {
        let report = Report { phases: vec![phase()], unexplained: Some(2), broken: None };
        insta::assert_snapshot!(report.table(), @r"
        PHASE        REQUESTS  FAILED  POSTS  TWICE  P50    P99  WEIGHT  VERDICT       TOOK  ROLLBACK    BUDGET
        bad release     22000       0      3      0  1.2  251.0    20 %  rolled back  100 s    12.0 s  0.0005 %

        bad release: 3 failed POSTs are the release's own 5xx answers (at most 9 can be)
        the SLO's ledger charges failures to: bad release 3 (clients counted 3); to no release 2
        this machine let a thread wait 14 ms at most (bad release)
        FAILED counts GETs, POSTS failed POSTs, TWICE POSTs executed twice; P50 and P99 are ms
        BUDGET is the share of a 30-day budget at 99.9 % that the phase cost
        failed_total: 0
        ok: true
        ");
        assert!(report.json().starts_with(r#"{"phases":[{"name":"bad release","requests":22000,"#));
    }
}
