//! The ledger: which change, incident or fault spent the budget, and what nobody explains.
//!
//! Failures of a slice go, in this order, to
//! 1. causes that were measured on their own (a canary's own failures), as much as they measured;
//! 2. changes and faults that were active, in proportion to how long they were;
//! 3. incidents, when no change or fault was active: they are consequences more often than causes;
//! 4. nobody: the background rate is never blamed on anyone, nor is what is left.
//!
//! Everything is whole numbers, so the entries of a slice sum to its failures exactly.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::Serialize;

use super::count::{Events, Slice, Tally};
use super::exclusion::Exclusions;
use super::history::{History, Standing, length_ms};

/// What kind of thing can spend a budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum CauseKind {
    /// A deployment, a canary, a configuration change.
    Change,
    /// A fault injected on purpose.
    Fault,
    /// An incident.
    Incident,
}

/// Something that was going on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Cause {
    /// Its kind.
    pub kind: CauseKind,
    /// Name of the object or record.
    pub id: String,
    /// Start.
    pub from: Timestamp,
    /// End; `None`: still going on.
    pub to: Option<Timestamp>,
    /// Failures known to be its own, when it was measured apart; empty otherwise.
    pub measured: Vec<Slice>,
}

/// Failures of one slice that have one cause.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LedgerEntry {
    /// Start of the slice.
    pub from: Timestamp,
    /// End of the slice.
    pub to: Timestamp,
    /// Who did it; `None`: unexplained.
    pub cause: Option<(CauseKind, String)>,
    /// How many failures. Unit: millionths of an event.
    pub bad: Events,
    /// Taken out of the budget by a maintenance, with its reason and author.
    pub excluded: Option<(String, String)>,
}

/// All entries of a window.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Ledger {
    /// In order of time, then of cause.
    pub entries: Vec<LedgerEntry>,
}

/// The sum of one cause.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct LedgerLine {
    /// Who; `None`: unexplained.
    pub cause: Option<(CauseKind, String)>,
    /// How many failures. Unit: millionths of an event.
    pub bad: Events,
    /// Share of the window's budget.
    pub budget_share: f64,
}

impl Ledger {
    /// Accounts for every failure in the window.
    ///
    /// `background_ppm`: failures per million events that happen without any cause.
    pub fn build(
        history: &History,
        now: Timestamp,
        causes: &[Cause],
        exclusions: &Exclusions,
        background_ppm: u32,
    ) -> Self {
        let mut entries = Vec::new();
        for slice in history.in_window(now) {
            let excluded = exclusions
                .covering(slice.from, slice.to)
                .map(|e| (e.reason.clone(), e.author.clone()));
            let shares = attribute(slice, causes, background_ppm);
            entries.extend(shares.into_iter().map(|(cause, bad)| LedgerEntry {
                from: slice.from,
                to: slice.to,
                cause,
                bad,
                excluded: excluded.clone(),
            }));
        }
        Self { entries }
    }

    /// Sum of everything that counts, or of everything that was excluded.
    pub fn sum(&self, excluded: bool) -> Events {
        let wanted = self.entries.iter().filter(|e| e.excluded.is_some() == excluded);
        wanted.fold(Events::ZERO, |sum, e| sum.plus(e.bad))
    }

    /// One line per cause, the dearest first; the unexplained rest is last.
    pub fn lines(&self, standing: &Standing) -> Vec<LedgerLine> {
        let mut sums: BTreeMap<&Option<(CauseKind, String)>, Events> = BTreeMap::new();
        for entry in self.entries.iter().filter(|e| e.excluded.is_none()) {
            let sum = sums.entry(&entry.cause).or_default();
            *sum = sum.plus(entry.bad);
        }
        let mut lines: Vec<_> = sums
            .into_iter()
            .map(|(cause, bad)| LedgerLine {
                cause: cause.clone(),
                bad,
                budget_share: standing.share_of_budget(bad),
            })
            .collect();
        lines.sort_by(|a, b| (a.cause.is_none(), b.bad).cmp(&(b.cause.is_none(), a.bad)));
        lines
    }
}

type Shares = BTreeMap<Option<(CauseKind, String)>, Events>;

/// Splits the failures of one slice; the shares sum to them exactly.
fn attribute(slice: &Slice, causes: &[Cause], background_ppm: u32) -> Shares {
    let mut shares = Shares::new();
    let tally = slice.tally.unwrap_or_default();
    let mut rest = tally.bad();
    if rest == Events::ZERO {
        return shares;
    }
    let mut give = |cause: &Cause, bad: Events| {
        if bad > Events::ZERO {
            let sum = shares.entry(Some((cause.kind, cause.id.clone()))).or_default();
            *sum = sum.plus(bad);
        }
    };
    for cause in causes {
        let inside = |s: &&Slice| slice.from <= s.from && s.to <= slice.to;
        let own = cause
            .measured
            .iter()
            .filter(inside)
            .fold(Tally::default(), |sum, s| sum.plus(s.tally.unwrap_or_default()));
        let bad = own.bad().min(rest);
        give(cause, bad);
        rest = rest.minus(bad);
    }
    let background = tally.total().share(u64::from(background_ppm), 1_000_000);
    let blame = rest.minus(background);
    let active = |incident: bool| -> Vec<(&Cause, u64)> {
        let unmeasured = causes.iter().filter(|c| c.measured.is_empty());
        unmeasured
            .filter(|c| (c.kind == CauseKind::Incident) == incident)
            .map(|c| (c, overlap_ms(c, slice)))
            .filter(|(_, ms)| *ms > 0)
            .collect()
    };
    let mut blamed = active(false);
    if blamed.is_empty() {
        blamed = active(true);
    }
    let length = length_ms(slice.from, slice.to);
    let whole = blamed.iter().map(|(_, ms)| ms).sum::<u64>().max(length);
    for (cause, ms) in blamed {
        let bad = blame.share(ms, whole);
        give(cause, bad);
        rest = rest.minus(bad);
    }
    if rest > Events::ZERO {
        shares.insert(None, rest);
    }
    shares
}

fn overlap_ms(cause: &Cause, slice: &Slice) -> u64 {
    let from = cause.from.max(slice.from);
    let to = cause.to.unwrap_or(slice.to).min(slice.to);
    length_ms(from, to)
}
