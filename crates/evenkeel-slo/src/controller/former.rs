//! What was charged stays charged when the object is edited.
//!
//! An edit that leaves an SLO's queries, groups and window as they are changes nothing that was
//! counted: also under another name, its ledger and account go on. With another query or other
//! groups the window is counted again, and the ledger says what is found in the time of each
//! change; what stood in the ledger before is kept as [`Former`], with the query that it was
//! counted by. So is the ledger of an SLO that was removed, and of an object that cannot be read
//! for a while. What some SLO of the object counts is never kept as former beside it.

use super::{
    status::{Former, SloQuery, SloState},
    view::SloView,
};
use crate::{budget::SloKey, model::Slo, policy::Account};

/// Ledgers of earlier SLOs that are kept, the newest.
const FORMER_MAX: usize = 20;

/// What each SLO counts now.
pub(super) fn queries<'a>(slos: impl IntoIterator<Item = &'a Slo>) -> Vec<SloQuery> {
    let of = |slo: &Slo| SloQuery { id: slo.id.clone(), query: slo.counted() };
    slos.into_iter().map(of).collect()
}

/// The ledgers of what no SLO of the object counts any more.
pub(super) fn former(view: &SloView, queries: &[SloQuery]) -> Vec<Former> {
    let status = &view.status;
    let is_now = |query: &str| queries.iter().any(|of| of.query == query);
    let mut list = status.former.clone();
    for old in &status.slos {
        let Some(query) = status.query(&old.id) else { continue };
        let charged = !old.ledger.is_empty() || old.account != Account::default();
        if is_now(query) || !charged {
            continue;
        }
        list.retain(|kept| !is_of(kept, old, query));
        list.push(Former {
            id: old.id.clone(),
            group: old.group.clone(),
            query: query.to_owned(),
            ledger: old.ledger.clone(),
            account: old.account.clone(),
            observed_at: old.observed_at,
        });
    }
    // What is back is no longer former.
    list.retain(|kept| !is_now(&kept.query));
    let surplus = list.len().saturating_sub(FORMER_MAX);
    list.drain(..surplus);
    list
}

/// The account of a budget that was away for a while: of the same count, or else of that name.
pub(super) fn account(view: &SloView, key: &SloKey, slo: &Slo) -> Option<Account> {
    let counted = slo.counted();
    let newest = |fits: &dyn Fn(&Former) -> bool| {
        let mut kept = view.status.former.iter().rev();
        kept.find(|kept| kept.group == key.group && fits(kept)).map(|kept| kept.account.clone())
    };
    newest(&|kept| kept.query == counted).or_else(|| newest(&|kept| kept.id == key.id))
}

fn is_of(kept: &Former, state: &SloState, query: &str) -> bool {
    kept.id == state.id && kept.group == state.group && kept.query == query
}
