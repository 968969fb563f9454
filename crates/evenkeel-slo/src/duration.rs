//! Durations in Prometheus' notation: `5m`, `1h30m`, `30d`.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time as Prometheus writes it. Unit: milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromDuration(u64);

/// Why a text is not a duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a valid duration string: {text:?}, expected something like 5m, 1h30m or 30d")]
pub struct DurationError {
    /// The text as it was written.
    pub text: String,
}

/// Longest duration Go can hold, about 292 years. Unit: milliseconds.
const MS_MAX: u64 = 9_223_372_036_854;
const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 86_400_000),
    ("w", 7 * 86_400_000),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

impl PromDuration {
    /// From milliseconds.
    pub const fn from_ms(ms: u64) -> Self {
        Self(ms)
    }

    /// From whole days.
    pub const fn from_days(days: u64) -> Self {
        Self(days.saturating_mul(86_400_000))
    }

    /// In milliseconds.
    pub const fn as_ms(self) -> u64 {
        self.0
    }

    /// Whether it is 0.
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// In hours, rounded the way Go's `Duration.Hours` rounds.
    pub fn hours(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "both parts are far below 2^52")]
        let (whole, rest) = ((self.0 / 3_600_000) as f64, (self.0 % 3_600_000) as f64);
        whole + rest / 3_600_000.0
    }

    /// Reads Prometheus' notation: units from large to small, each at most once. `0` is allowed.
    pub fn parse(text: &str) -> Result<Self, DurationError> {
        let bad = || DurationError { text: text.to_owned() };
        if text == "0" {
            return Ok(Self(0));
        }
        let mut rest = text;
        let mut total: u64 = 0;
        let mut units = UNITS.iter();
        while !rest.is_empty() {
            let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(bad)?;
            let (number, tail) = rest.split_at(digits);
            let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
            let (unit, tail) = tail.split_at(letters);
            let (_, ms) = units.find(|(name, _)| *name == unit).ok_or_else(bad)?;
            let number: u64 = number.parse().map_err(|_| bad())?;
            total = number
                .checked_mul(*ms)
                .and_then(|part| total.checked_add(part))
                .filter(|sum| *sum <= MS_MAX)
                .ok_or_else(bad)?;
            rest = tail;
        }
        if text.is_empty() { Err(bad()) } else { Ok(Self(total)) }
    }
}

impl fmt::Display for PromDuration {
    /// Source: Prometheus `model.Duration.String`: years and weeks only when they divide evenly.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return f.write_str("0s");
        }
        let mut left = self.0;
        for (unit, ms) in UNITS {
            let exact = unit == "y" || unit == "w";
            if left < ms || (exact && !left.is_multiple_of(ms)) {
                continue;
            }
            write!(f, "{}{unit}", left / ms)?;
            left %= ms;
        }
        Ok(())
    }
}

impl Serialize for PromDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PromDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::parse(&text).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_normalised_as_prometheus_does() {
        for (text, want) in [
            ("7d", "1w"),
            ("28d", "4w"),
            ("30d", "30d"),
            ("365d", "1y"),
            ("24h", "1d"),
            ("72h", "3d"),
            ("36h", "1d12h"),
            ("90m", "1h30m"),
            ("1500ms", "1s500ms"),
            ("0", "0s"),
        ] {
            assert_eq!(PromDuration::parse(text).unwrap().to_string(), want);
        }
    }

    #[test]
    fn what_prometheus_refuses_is_refused() {
        for text in ["", "5", "m", "5m5m", "5m1h", "-5m", "5 m", "1e3s", "99999999999y", "é"] {
            assert!(PromDuration::parse(text).is_err(), "{text}");
        }
    }
}
