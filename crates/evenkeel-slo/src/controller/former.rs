//! What was charged stays charged when the object is edited.
//!
//! An edit that leaves an SLO's queries, groups and window as they are changes nothing that was
//! counted. With another query the window is counted again under that query, and the ledger says
//! what it finds in the time of each change; what stood in the ledger before is kept as
//! [`Former`], with the query that it was counted by. So is the ledger of an SLO that was renamed or
//! removed, and of an object that cannot be read for a while.

use super::{
    status::{Former, SloQuery, SloState},
    view::SloView,
};
use crate::{budget::SloKey, model::Slo, policy::Account};

/// Ledgers of earlier SLOs that are kept, the newest.
const FORMER_MAX: usize = 20;

/// What each SLO counts now.
pub(super) fn queries(view: &SloView) -> Vec<SloQuery> {
    let of = |slo: &Slo| SloQuery { id: slo.id.clone(), query: slo.sli.to_string() };
    view.slos.iter().map(|seen| of(&seen.slo)).collect()
}

/// The ledgers of SLOs that the object no longer has, or that count by another query now.
pub(super) fn former(view: &SloView, queries: &[SloQuery]) -> Vec<Former> {
    let status = &view.status;
    let is_now = |id: &str, query: &str| queries.iter().any(|of| of.id == id && of.query == query);
    let mut list = status.former.clone();
    for old in &status.slos {
        let Some(query) = status.query(&old.id) else { continue };
        let charged = !old.ledger.is_empty() || old.account != Account::default();
        if is_now(&old.id, query) || !charged {
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
    list.retain(|kept| !is_now(&kept.id, &kept.query));
    let surplus = list.len().saturating_sub(FORMER_MAX);
    list.drain(..surplus);
    list
}

/// The account of a budget that was away for a while.
pub(super) fn account(view: &SloView, key: &SloKey) -> Option<Account> {
    let former = view.status.former.iter();
    let mut mine = former.filter(|kept| kept.id == key.id && kept.group == key.group);
    mine.next_back().map(|kept| kept.account.clone())
}

fn is_of(kept: &Former, state: &SloState, query: &str) -> bool {
    kept.id == state.id && kept.group == state.group && kept.query == query
}
