//! What `kubectl logs` shows: a line when the service starts and ends, and at most one per second of
//! traffic.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

/// The requests since the last line.
#[derive(Debug, Default)]
pub(crate) struct Access {
    statuses: BTreeMap<u16, u64>,
    slowest: Duration,
    first_failed: Option<String>,
}

impl Access {
    /// Counts a request; `true` when it is the first one since the last line.
    pub(crate) fn observe(
        &mut self,
        method: &str,
        path: &str,
        status: u16,
        took: Duration,
    ) -> bool {
        let is_first = self.statuses.is_empty();
        *self.statuses.entry(status).or_default() += 1;
        self.slowest = self.slowest.max(took);
        if status >= 500 && self.first_failed.is_none() {
            self.first_failed = Some(format!("{method} {path}"));
        }
        is_first
    }

    /// The line, and none of it stays; `None` when nothing was asked.
    pub(crate) fn take(&mut self) -> Option<String> {
        let Self { statuses, slowest, first_failed } = std::mem::take(self);
        if statuses.is_empty() {
            return None;
        }
        let total: u64 = statuses.values().sum();
        let mut line = format!("{total} requests:");
        let mut before = "";
        for (status, count) in statuses {
            write!(line, "{before} {status} x {count}").expect("writing to a String cannot fail");
            before = ",";
        }
        let millis = slowest.as_secs_f64() * 1_000.0;
        write!(line, "; slowest {millis:.1} ms").expect("writing to a String cannot fail");
        if let Some(failed) = first_failed {
            write!(line, "; first failed: {failed}").expect("writing to a String cannot fail");
        }
        Some(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_sums_up_what_was_asked_since_the_last_one() {
        let mut access = Access::default();
        assert_eq!(access.take(), None);
        assert!(access.observe("GET", "/orders", 200, Duration::from_micros(1_500)));
        assert!(!access.observe("POST", "/orders", 500, Duration::from_millis(80)));
        assert!(!access.observe("GET", "/cart", 500, Duration::from_millis(2)));
        insta::assert_snapshot!(access.take().unwrap(), @"3 requests: 200 x 1, 500 x 2; slowest 80.0 ms; first failed: POST /orders");
        assert_eq!(access.take(), None);
    }
}
