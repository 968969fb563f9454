//! Durations on the command line: each flag has its bounds.

use std::time::Duration;

use evenkeel_base::{format_duration, parse_duration};

/// Between two looks at something: less is a busy loop, more looks like a mistake.
pub(crate) fn interval(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_millis(100), Duration::from_hours(24))
}

/// How long a leader may fail to renew its Lease. Shorter Leases change hands whenever a machine is
/// slow.
pub(crate) fn lease(text: &str) -> Result<Duration, String> {
    between(text, Duration::from_secs(2), Duration::from_hours(1))
}

/// A delay that is set on purpose.
pub(crate) fn delay(text: &str) -> Result<Duration, String> {
    between(text, Duration::ZERO, Duration::from_hours(24))
}

fn between(text: &str, least: Duration, most: Duration) -> Result<Duration, String> {
    let duration = parse_duration(text).map_err(|error| error.to_string())?;
    if (least..=most).contains(&duration) {
        return Ok(duration);
    }
    Err(format!("use {} to {}", format_duration(least), format_duration(most)))
}

#[cfg(test)]
mod tests {
    use clap::{Parser as _, error::ErrorKind};

    use super::*;
    use crate::cli::Cli;

    #[test]
    fn every_duration_flag_has_its_least_value() {
        for words in [
            ["up", ".", "--scrape-interval=0s"].as_slice(),
            &["up", ".", "--gateway-lag=-1s"],
            &["run", "--slo-interval=0s"],
            &["run", "--lease-duration=1s"],
        ] {
            let words = ["evenkeel"].iter().chain(words);
            let refused = Cli::try_parse_from(words.clone()).unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::ValueValidation, "{refused}");
        }
    }

    #[test]
    fn values_out_of_bounds_are_refused_with_the_bounds() {
        assert_eq!(interval("15s"), Ok(Duration::from_secs(15)));
        assert_eq!(interval("100ms"), Ok(Duration::from_millis(100)));
        for text in ["0", "0s", "99ms", "0.0001s", "25h", "100000w"] {
            assert_eq!(interval(text).unwrap_err(), "use 100ms to 24h", "{text}");
        }
        assert!(interval("-1s").unwrap_err().contains("is not a duration"));
        assert_eq!(lease("1s").unwrap_err(), "use 2s to 1h");
        assert_eq!(delay("0s"), Ok(Duration::ZERO));
    }
}
