//! `evenkeel slo status`: how every SLO stands, as rows for a table and as data.
//!
//! One definition for every figure: see [`Standing`]. BAD of TOTAL events failed in what was seen
//! of the window; the whole window allows ALLOWED; LEFT is what that leaves. SLOTH is the figure
//! that Sloth's rules record, which is computed in another way.

use jiff::Timestamp;
use serde::Serialize;

use crate::budget::{Coverage, Events, Exclusions, Forecast, History, Slice, SloKey, Standing};
use crate::duration::PromDuration;
use crate::model::{Labels, Slo};
use crate::policy::State;

/// What is known about one SLO, or one group of it.
#[derive(Clone, Copy, Debug)]
pub struct StatusInput<'a> {
    /// Namespace of its object; empty where that has none.
    pub namespace: &'a str,
    /// The SLO.
    pub slo: &'a Slo,
    /// Which of its budgets.
    pub key: &'a SloKey,
    /// Its slices.
    pub history: &'a History,
    /// Its maintenance.
    pub exclusions: &'a Exclusions,
    /// Its state, when a policy watches it.
    pub state: Option<State>,
    /// What Sloth's rule `slo:period_error_budget_remaining:ratio` says of it, where that is
    /// recorded.
    pub sloth_left: Option<f64>,
}

/// Settings of the view.
#[derive(Clone, Debug)]
pub struct StatusOptions {
    /// The moment.
    pub now: Timestamp,
    /// Data older than this is not fresh.
    pub stale_after: PromDuration,
    /// Windows whose burn rates are shown.
    pub burn_windows: Vec<PromDuration>,
    /// The window whose burn the forecast continues.
    pub forecast_window: PromDuration,
    /// Characters of the spark line.
    pub spark_width: usize,
}

/// The whole view.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// The moment.
    pub at: Timestamp,
    /// Worst first.
    pub slos: Vec<SloStatus>,
}

/// One SLO.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SloStatus {
    /// Namespace of its object.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Service.
    pub service: String,
    /// Name within the service.
    pub name: String,
    /// Group, when the SLO is grouped.
    #[serde(skip_serializing_if = "Labels::is_empty")]
    pub group: Labels,
    /// Objective. Unit: percent.
    pub objective: f64,
    /// The window of the budget.
    pub window: PromDuration,
    /// State by the policy, if there is one.
    pub state: Option<State>,
    /// How well the window is known.
    pub coverage: Coverage,
    /// Failures seen in the window, maintenance taken out.
    pub bad: f64,
    /// Events seen in the window, maintenance taken out.
    pub total: f64,
    /// Share of the window that has data. Unit: percent.
    pub covered_percent: f64,
    /// Failures that the whole window allows, its unseen part taken to be like the seen one.
    pub allowed: f64,
    /// `allowed - bad`: failures that are left, below 0 when overspent. `None`: not known.
    pub left: Option<f64>,
    /// `left / allowed`; 0 when nothing is allowed and something failed. `None`: not known.
    pub budget_left: Option<f64>,
    /// Sloth's own figure, from its recorded rule: the error ratio averaged over the time that
    /// has data, not over requests. `None` where the rule is not recorded.
    pub sloth_left: Option<f64>,
    /// Events taken out by maintenance.
    pub excluded: f64,
    /// Burn rate per window.
    pub burn: Vec<BurnStatus>,
    /// When the budget will be gone.
    pub forecast: Forecast,
    /// The budget from the first data in the window to now.
    pub spark: String,
}

/// Burn rate over one window.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct BurnStatus {
    /// The window.
    pub window: PromDuration,
    /// 1 uses up the budget exactly in one SLO window; at most a million. `None`: no events.
    pub rate: Option<f64>,
}

impl Default for StatusOptions {
    fn default() -> Self {
        let minutes = |count: u64| PromDuration::from_ms(count * 60_000);
        Self {
            now: Timestamp::UNIX_EPOCH,
            stale_after: minutes(5),
            burn_windows: vec![minutes(5), minutes(60), minutes(360)],
            forecast_window: minutes(60),
            spark_width: 20,
        }
    }
}

/// Builds the view.
pub fn status(inputs: &[StatusInput<'_>], options: &StatusOptions) -> StatusReport {
    let mut slos: Vec<_> = inputs.iter().map(|input| one(input, options)).collect();
    // Unknown is worse than any number: it may hide an outage.
    let rank = |s: &SloStatus| s.budget_left.unwrap_or(f64::NEG_INFINITY);
    slos.sort_by(|a, b| rank(a).total_cmp(&rank(b)).then_with(|| a.place().cmp(&b.place())));
    StatusReport { at: options.now, slos }
}

fn one(input: &StatusInput<'_>, options: &StatusOptions) -> SloStatus {
    let history = input.history;
    let standing = history.standing(options.now, input.exclusions, options.stale_after);
    let (bad, allowed) = (standing.counted.bad().as_f64(), standing.allowed().as_f64());
    let burn = |window: &PromDuration| BurnStatus {
        window: *window,
        rate: history.burn_rate(options.now, *window),
    };
    SloStatus {
        namespace: input.namespace.to_owned(),
        service: input.slo.service.clone(),
        name: input.slo.name.clone(),
        group: input.key.group.clone(),
        objective: input.slo.objective,
        window: standing.window,
        state: input.state,
        coverage: standing.coverage,
        bad,
        total: standing.counted.total().as_f64(),
        covered_percent: percent(standing.covered()),
        allowed,
        left: standing.remaining().map(|_| allowed - bad),
        // Nothing of nothing is nothing, not minus infinity.
        budget_left: standing
            .remaining()
            .map(|left| if allowed > 0.0 { left } else { left.max(0.0) }),
        sloth_left: input.sloth_left,
        excluded: standing.excluded.total().as_f64(),
        burn: options.burn_windows.iter().map(burn).collect(),
        forecast: history.forecast(&standing, options.forecast_window),
        spark: spark_line(history, &standing, input.exclusions, options.spark_width),
    }
}

const BLOCKS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
/// Widest spark line; no terminal is wider.
const SPARK_MAX: usize = 500;

/// A share as a percentage with two decimals.
fn percent(share: f64) -> f64 {
    (share * 1e4).round() / 1e2
}

/// The budget left over time, from the first data in the window to now: `█` untouched, `▁` nearly
/// gone, `!` gone, `·` no data. A budget that nothing was taken from is full all along.
fn spark_line(
    history: &History,
    standing: &Standing,
    exclusions: &Exclusions,
    width: usize,
) -> String {
    let width = width.clamp(1, SPARK_MAX);
    let with_data = |s: &Slice| s.tally.is_some();
    let Some(first) = history.in_window(standing.now).find(with_data) else {
        return "·".repeat(width);
    };
    let now = standing.now.as_millisecond();
    let window = i64::try_from(standing.window.as_ms()).unwrap_or(i64::MAX);
    let start = first.from.as_millisecond().max(now.saturating_sub(window));
    let parts = i64::try_from(width).unwrap_or(1);
    let edge = |part: i64| start + (now - start) * part / parts;
    let mut slices = history.in_window(standing.now).peekable();
    let mut bad = Events::ZERO;
    // End of the newest data so far: a long slice shows in every part that it covers.
    let mut known_to = start;
    let mut out = String::new();
    for part in 1..=parts {
        while let Some(slice) = slices.next_if(|s| s.from.as_millisecond() < edge(part)) {
            let counts = exclusions.covering(slice.from, slice.to).is_none();
            if let Some(tally) = slice.tally {
                known_to = slice.to.as_millisecond();
                bad = if counts { bad.plus(tally.bad()) } else { bad };
            }
        }
        let left = 1.0 - standing.share_of_budget(bad);
        out.push(match left {
            _ if known_to <= edge(part - 1) => '·',
            left if left <= 0.0 => '!',
            left => {
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "0 < left <= 1"
                )]
                let height = (left * 8.0).ceil() as usize;
                BLOCKS.get(height.clamp(1, 8) - 1).copied().unwrap_or('█')
            }
        });
    }
    out
}

impl StatusReport {
    /// Column titles and rows of text, for a table. Namespaces are shown where there are several.
    pub fn table(&self) -> (Vec<String>, Vec<Vec<String>>) {
        let windows = self.slos.first().map_or(&[][..], |s| &s.burn);
        let mut titles: Vec<String> =
            ["SERVICE", "SLO", "OBJECTIVE", "WINDOW", "STATE", "BAD", "TOTAL", "ALLOWED", "LEFT"]
                .map(str::to_owned)
                .into();
        titles.push("SLOTH".to_owned());
        titles.extend(windows.iter().map(|b| format!("BURN {}", b.window)));
        titles.extend(["GONE", "BUDGET"].map(str::to_owned));
        let mut rows: Vec<_> = self.slos.iter().map(|s| s.row(self.at)).collect();
        let first = self.slos.first().map(|slo| &slo.namespace);
        if self.slos.iter().any(|slo| Some(&slo.namespace) != first) {
            titles.insert(0, "NAMESPACE".to_owned());
            for (row, slo) in rows.iter_mut().zip(&self.slos) {
                row.insert(0, slo.namespace.clone());
            }
        }
        (titles, rows)
    }

    /// True when some SLO is out of budget or not known: the exit code is 1.
    pub fn failed(&self) -> bool {
        self.slos.iter().any(|s| s.budget_left.is_none_or(|left| left <= 0.0))
    }
}

impl SloStatus {
    /// What tells it from the others.
    fn place(&self) -> (&str, &str, &str, &Labels) {
        (&self.namespace, &self.service, &self.name, &self.group)
    }

    fn row(&self, now: Timestamp) -> Vec<String> {
        let group: Vec<_> = self.group.iter().map(|(k, v)| format!("{k}={v}")).collect();
        let name = if group.is_empty() {
            self.name.clone()
        } else {
            format!("{}[{}]", self.name, group.join(","))
        };
        let state = match (self.state, self.coverage) {
            (Some(state), _) => state.to_string(),
            (None, coverage) => format!("{coverage:?}"),
        };
        let mut row = vec![
            self.service.clone(),
            name,
            format!("{}%", crate::number::go_f(self.objective)),
            self.window.to_string(),
            state,
            count(self.bad),
            count(self.total),
            count(self.allowed),
            self.budget_left.map_or("unknown".to_owned(), share),
            self.sloth_left.map_or("-".to_owned(), share),
        ];
        let rate = |b: &BurnStatus| match b.rate {
            None => "-".to_owned(),
            Some(rate) if rate >= 1000.0 => ">999".to_owned(),
            Some(rate) => format!("{rate:.1}"),
        };
        row.extend(self.burn.iter().map(rate));
        row.push(match self.forecast {
            Forecast::Unknown => "?".to_owned(),
            Forecast::NotBurning => "-".to_owned(),
            Forecast::Exhausted => "now".to_owned(),
            Forecast::At(at) => format!("in {}", rough(now, at)),
        });
        row.push(self.spark.clone());
        row
    }
}

/// A share as a percentage that is 100 and 0 only when it is exactly that.
fn share(share: f64) -> String {
    let shown = format!("{:.2}", share * 100.0);
    match shown.as_str() {
        "100.00" if share < 1.0 => "99.99%".to_owned(),
        "0.00" | "-0.00" if share > 0.0 => "0.01%".to_owned(),
        "-0.00" if share < 0.0 => "-0.01%".to_owned(),
        _ => format!("{shown}%"),
    }
}

/// Events, whole.
fn count(events: f64) -> String {
    format!("{events:.0}")
}

/// A time span to its two largest units.
fn rough(from: Timestamp, to: Timestamp) -> String {
    let seconds = (to.as_second() - from.as_second()).max(0);
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3600 % 24, seconds / 60 % 60);
    match (days, hours) {
        (0, 0) => format!("{minutes}m"),
        (0, hours) => format!("{hours}h{minutes}m"),
        (days, hours) => format!("{days}d{hours}h"),
    }
}
