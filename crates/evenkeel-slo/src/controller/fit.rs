//! A status that fits into an object.
//!
//! Where a foreign definition drops fields of the status, they are kept in an annotation, and all
//! annotations of an object may have 256 KiB. What explains a number goes first, then numbers of
//! the budgets that stand best; what is kept is what deciding needs most.

use super::status::SloStatusObject;

/// Longest status, as JSON. Room is left for annotations of others, and for the quotes in it,
/// which are escaped in an annotation.
const STATUS_MAX: usize = 160 * 1024;
/// Lines of each ledger and settlements of each account, tried one after the other.
const STEPS: [(usize, usize); 3] = [(10, 20), (4, 8), (1, 2)];

/// Shortens a status that is too long; says what is missing then. `status.slos` begins with the
/// worst budget.
pub(super) fn fit(status: &mut SloStatusObject) -> Option<String> {
    let budgets = status.slos.len();
    let mut kept = None;
    for (lines, settled) in STEPS {
        if length(status) <= STATUS_MAX {
            break;
        }
        status.former.iter_mut().for_each(|former| {
            former.ledger.truncate(lines);
            former.account.keep_settled(settled);
        });
        for budget in &mut status.slos {
            budget.ledger.truncate(lines);
            budget.account.keep_settled(settled);
        }
        kept = Some(format!("ledgers have their first {lines} lines only"));
    }
    while length(status) > STATUS_MAX && !status.slos.is_empty() {
        status.former.clear();
        status.slos.truncate(status.slos.len() / 2);
        kept = Some(format!("the {} worst of {budgets} budgets are kept", status.slos.len()));
    }
    let kept = kept?;
    Some(format!("the status would be too large for one object: {kept}; group by fewer labels"))
}

fn length(status: &SloStatusObject) -> usize {
    serde_json::to_string(status).map_or(usize::MAX, |text| {
        text.len() + text.bytes().filter(|byte| matches!(byte, b'"' | b'\\')).count()
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(budgets: usize, lines: usize) -> SloStatusObject {
        let change = |at: usize| format!("Canary/shop/{}@ek1-{at}", "x".repeat(60));
        let ledger: Vec<_> = (0..lines)
            .map(|at| json!({"cause": change(at), "failures": 1, "budgetPercent": 0.1}))
            .collect();
        let settled: Vec<_> = (0..50)
            .map(|at| {
                json!([change(at), {"expected": 0.1, "measured": 0.1,
                    "at": "2026-01-01T00:00:00Z"}])
            })
            .collect();
        let slo = |at: usize| {
            json!({"id": format!("shop-{at}"), "objective": 99.9, "state": "healthy",
                "since": "2026-01-01T00:00:00Z", "coverage": "measured", "bad": 0, "total": 1,
                "burn": {}, "ledger": ledger,
                "account": {"reservations": {}, "settled": settled}})
        };
        let slos: Vec<_> = (0..budgets).map(slo).collect();
        serde_json::from_value(json!({"slos": slos})).unwrap()
    }

    #[test]
    fn a_status_that_is_small_enough_stays_as_it_is() {
        let mut small = status(3, 20);
        assert_eq!(fit(&mut small), None);
        assert_eq!(small, status(3, 20));
    }

    #[test]
    fn explanations_go_before_budgets_and_the_best_budgets_first() {
        let mut many = status(100, 20);
        let said = fit(&mut many).unwrap();
        assert!(length(&many) <= STATUS_MAX);
        assert_eq!(many.slos.len(), 100, "{said}");
        let (lines, settled) = (many.slos[0].ledger.len(), many.slos[0].account.settled().len());
        assert!(lines >= 1 && settled >= 2, "{lines} {settled}");
        assert!(said.contains("ledgers have their first"), "{said}");

        let mut far_too_many = status(1_000, 20);
        let said = fit(&mut far_too_many).unwrap();
        assert!(length(&far_too_many) <= STATUS_MAX);
        assert_eq!(far_too_many.slos[0].id, "shop-0");
        assert!(said.contains(&format!("the {} worst of 1000", far_too_many.slos.len())), "{said}");
    }
}
