use std::{fmt::Write as _, time::Duration};

/// Why a duration text was not understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a duration: {problem} (write it like 30s, 5m or 1h30m)")]
pub struct DurationError {
    /// The text as given.
    pub text: String,
    /// What is wrong with it.
    pub problem: &'static str,
}

/// Seconds of each unit, in the order in which longer unit names must be tried.
const UNITS: [(&str, f64); 9] = [
    ("ms", 1e-3),
    ("us", 1e-6),
    ("µs", 1e-6),
    ("ns", 1e-9),
    ("s", 1.0),
    ("m", 60.0),
    ("h", 3600.0),
    ("d", 86_400.0),
    ("w", 604_800.0),
];

/// Parses Go's duration text (`1h30m`, `1.5s`, `250ms`), extended by `d` and `w`.
///
/// **Errors**: empty text, a number without unit, an unknown unit, a negative or absurd value.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let fail = |problem| DurationError { text: text.to_owned(), problem };
    let mut rest = text.trim();
    if rest.is_empty() {
        return Err(fail("it is empty"));
    }
    if rest == "0" {
        return Ok(Duration::ZERO);
    }
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, after) = rest.split_at(digits);
        if number.is_empty() {
            return Err(fail("a number is missing"));
        }
        let number: f64 = number.parse().map_err(|_| fail("a number is malformed"))?;
        let (unit, scale) = UNITS
            .iter()
            .find(|(unit, _)| after.starts_with(unit))
            .ok_or_else(|| fail("a unit is missing or unknown"))?;
        seconds += number * scale;
        rest = after.get(unit.len()..).unwrap_or_default();
    }
    Duration::try_from_secs_f64(seconds).map_err(|_| fail("it is out of range"))
}

/// Writes a duration to the millisecond, without the parts that are 0 which Go writes (`1h30m0s`):
/// `1h30m`, `1.5s`, `250ms`, `0s`.
pub fn format_duration(duration: Duration) -> String {
    if duration.is_zero() {
        return "0s".to_owned();
    }
    if duration < Duration::from_secs(1) {
        return format!("{}ms", duration.as_millis());
    }
    let (mut whole, millis) = (duration.as_secs(), duration.subsec_millis());
    let mut text = String::new();
    for (unit, size) in [("h", 3600), ("m", 60)] {
        if whole >= size {
            // Writing to a String cannot fail.
            write!(text, "{}{unit}", whole / size).unwrap_or_default();
            whole %= size;
        }
    }
    if millis > 0 {
        let fraction = format!("{millis:03}");
        write!(text, "{whole}.{}s", fraction.trim_end_matches('0')).unwrap_or_default();
    } else if whole > 0 {
        write!(text, "{whole}s").unwrap_or_default();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations_are_read_and_written() {
        for (text, millis) in
            [("1m", 60_000), ("1h30m", 5_400_000), ("250ms", 250), ("1.5s", 1500), ("0", 0)]
        {
            assert_eq!(parse_duration(text).unwrap(), Duration::from_millis(millis), "{text}");
        }
        assert_eq!(format_duration(Duration::from_millis(90_500)), "1m30.5s");
        assert_eq!(format_duration(Duration::from_hours(1)), "1h");
        assert_eq!(format_duration(Duration::from_millis(250)), "250ms");
    }

    #[test]
    fn what_is_not_a_duration_says_why() {
        let error = parse_duration("10").unwrap_err().to_string();
        assert!(error.contains("\"10\"") && error.contains("unit"), "{error}");
        for text in ["", "m", "5 parsecs", "-5m", "1e400s", "1..5s"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
