//! What is logged at the start, and when.

use evenkeel_api::Key;
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

use crate::{
    bed::Bed,
    process::{Evenkeel, Start},
    releases::SLOW_S,
    soon, until,
};

#[test]
fn a_prometheus_that_does_not_answer_is_reported_and_leases_have_the_right_time() {
    let Some(bed) = Bed::take_later() else { return };
    let run = Evenkeel::start(&bed, &Start { lease: "3s", ..Start::with("http://127.0.0.1:1") });
    until("it is reported", || {
        let log = run.log();
        log.lines().any(|line| line.contains("127.0.0.1:1") && line.contains("WARN"))
    });
    let lease = Key::of::<Lease>("default", "evenkeel-delivery");
    let renewed = || {
        let text = bed.field(&lease, "/spec/renewTime");
        text.as_str().and_then(|text| text.parse::<Timestamp>().ok())
    };
    let (first, _) = soon("a Lease is taken", renewed);
    let (second, _) = soon("and renewed", || renewed().filter(|now| *now != first));
    let apart = Timestamp::now().duration_since(second);
    assert!(apart.abs().as_secs() <= SLOW_S, "renewed {apart:?} ago");
    let holder = bed.field(&lease, "/spec/holderIdentity");
    assert!(holder.as_str().is_some_and(|name| !name.is_empty()), "{holder}");
    assert_ne!(bed.field(&lease, "/metadata/annotations"), Value::Null);
}
