//! The ledger: which change, incident or fault spent the budget, and what nobody explains.
//!
//! Failures of a slice go, in this order, to
//! 1. causes that were measured on their own (a canary's own failures), as much as they measured;
//! 2. the changes and faults that were at work in the slice: all of it, also when one began or
//!    ended within the slice, because nothing shows when in the slice its failures happened;
//! 3. when none was, the change or fault that ended last, while what it did may still show up;
//! 4. incidents that were at work: they are consequences more often than causes;
//! 5. nobody: the background rate is never blamed on anyone, nor is what is left.
//!
//! Several that were at work share in proportion to how long each was, in whole failures; one that
//! is left over goes to who comes closest to another one, and then to who began last. So a change
//! that is over never takes a share of what fails under the next one.
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
    /// Until when failures from before its end may still be counted; `None`: until its end.
    pub shows_until: Option<Timestamp>,
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
        for slice in history.failed_in_window(now) {
            let excluded = exclusions
                .covering(slice.from, slice.to)
                .map(|e| (e.reason.clone(), e.author.clone()));
            let shares = attribute(&slice, causes, background_ppm);
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
    let unmeasured = |incident: bool| {
        let all = causes.iter().filter(|cause| cause.measured.is_empty());
        all.filter(move |cause| (cause.kind == CauseKind::Incident) == incident)
    };
    let at_work = |incident: bool| -> Vec<(&Cause, u64)> {
        unmeasured(incident).filter_map(|cause| Some((cause, work_ms(cause, slice)?))).collect()
    };
    let mut blamed = at_work(false);
    if blamed.is_empty() {
        let shows = unmeasured(false).filter(|cause| still_shows(cause, slice));
        let last = shows.max_by(|a, b| (a.to, a.from, &a.id).cmp(&(b.to, b.from, &b.id)));
        blamed.extend(last.map(|cause| (cause, 1)));
    }
    if blamed.is_empty() {
        blamed = at_work(true);
    }
    for (cause, bad) in split(blame, &blamed) {
        give(cause, bad);
        rest = rest.minus(bad);
    }
    if rest > Events::ZERO {
        shares.insert(None, rest);
    }
    shares
}

/// How long a cause was at work in a slice, at least a millisecond; `None`: not at all.
fn work_ms(cause: &Cause, slice: &Slice) -> Option<u64> {
    let from = cause.from.max(slice.from);
    let to = cause.to.unwrap_or(slice.to).min(slice.to);
    let touches = cause.from < slice.to && cause.to.is_none_or(|to| to > slice.from);
    touches.then(|| length_ms(from, to).max(1))
}

/// Whether a cause that was over before a slice may still show in it.
fn still_shows(cause: &Cause, slice: &Slice) -> bool {
    cause.to.is_some_and(|to| to <= slice.from)
        && cause.shows_until.is_some_and(|until| until > slice.from)
}

/// Shares events out in proportion, in whole events; what is no whole event goes with the first
/// that is left over.
fn split<'a>(events: Events, among: &[(&'a Cause, u64)]) -> Vec<(&'a Cause, Events)> {
    let one = Events::whole(1).micros();
    let (whole, fraction) = (events.micros() / one, events.micros() % one);
    let sum: u128 = among.iter().map(|(_, ms)| u128::from(*ms)).sum::<u128>().max(1);
    let mut parts: Vec<_> = among
        .iter()
        .map(|(cause, ms)| {
            let product = whole.saturating_mul(u128::from(*ms));
            (*cause, product / sum, product % sum)
        })
        .collect();
    parts.sort_by(|(a, _, x), (b, _, y)| (y, b.from, &a.id).cmp(&(x, a.from, &b.id)));
    let mut left = whole.saturating_sub(parts.iter().map(|(_, part, _)| part).sum());
    let mut fraction = Some(fraction);
    let mut shares = Vec::with_capacity(parts.len());
    for (cause, part, _) in parts {
        let extra = left.min(1);
        left -= extra;
        let micros = (part + extra) * one + fraction.take().unwrap_or_default();
        shares.push((cause, Events::from_micros(micros)));
    }
    shares
}
