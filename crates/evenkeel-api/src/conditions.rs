use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What a condition should say now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConditionUpdate<'a> {
    /// Condition type, such as `Ready`.
    pub kind: &'a str,
    /// `True`, `False` or `Unknown`.
    pub status: &'a str,
    /// Reason in CamelCase.
    pub reason: &'a str,
    /// For people.
    pub message: &'a str,
    /// The generation this was concluded from.
    pub observed_generation: i64,
}

/// Writes one condition into the list; the transition time moves only when the status does.
/// Returns whether anything changed.
pub fn set_condition(list: &mut Vec<Condition>, new: &ConditionUpdate<'_>, now: Timestamp) -> bool {
    let fresh = |since: Time| Condition {
        type_: new.kind.to_owned(),
        status: new.status.to_owned(),
        reason: new.reason.to_owned(),
        message: new.message.to_owned(),
        observed_generation: Some(new.observed_generation),
        last_transition_time: since,
    };
    let Some(old) = list.iter_mut().find(|condition| condition.type_ == new.kind) else {
        list.push(fresh(Time(now)));
        return true;
    };
    let since = if old.status == new.status { old.last_transition_time.clone() } else { Time(now) };
    let updated = fresh(since);
    let changed = *old != updated;
    *old = updated;
    changed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_transition_time_moves_with_the_status_only() {
        let at = |second| Timestamp::from_second(second).unwrap();
        let update = |status, reason| ConditionUpdate {
            kind: "Ready",
            status,
            reason,
            message: "",
            observed_generation: 1,
        };
        let mut list = Vec::new();
        assert!(set_condition(&mut list, &update("False", "Starting"), at(1)));
        assert!(!set_condition(&mut list, &update("False", "Starting"), at(2)));
        assert!(set_condition(&mut list, &update("False", "Waiting"), at(3)));
        assert_eq!(list[0].last_transition_time.0, at(1));
        assert!(set_condition(&mut list, &update("True", "Up"), at(4)));
        assert_eq!((list.len(), list[0].last_transition_time.0), (1, at(4)));
    }
}
