//! Whether the metrics server answers; logged when it changes.

use std::{sync::Arc, time::Duration};

use evenkeel_base::Clock;
use evenkeel_control::{Metrics, Timer, redact};

/// A query that every server can answer.
const QUESTION: &str = "vector(1)";
/// Between two questions while it answers.
const EVERY: Duration = Duration::from_mins(1);
/// Between two questions while it does not.
const EVERY_MISSING: Duration = Duration::from_secs(10);

/// Asks forever. Controllers report on each object what a missing answer means for it, but only
/// when they need one: a wrong address would show in the first release.
pub(crate) async fn run(
    url: String,
    metrics: Arc<dyn Metrics>,
    clock: Arc<dyn Clock>,
    timer: Arc<dyn Timer>,
) {
    let url = redact::url(&url);
    let mut answers = None;
    loop {
        let (now, before) = (metrics.query(QUESTION, clock.now()).await, answers);
        answers = Some(now.is_ok());
        match now {
            Err(error) if before != Some(false) => tracing::warn!(
                url, %error,
                "Prometheus does not answer (--prometheus): releases do not advance and error \
                 budgets are not known until it does"
            ),
            Ok(_) if before == Some(false) => tracing::warn!(url, "Prometheus answers again"),
            _ => {}
        }
        timer.sleep(if answers == Some(true) { EVERY } else { EVERY_MISSING }).await;
    }
}
