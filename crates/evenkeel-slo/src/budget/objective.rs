//! The objective as an exact decimal.

/// Parts of one: the unit in which ratios are exact. 10^12, so 99.9999999999 % still counts.
pub const PARTS: u128 = 1_000_000_000_000;

/// Share of events that may fail, exact to 10^-12.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Objective {
    /// 0 ..= [`PARTS`].
    allowed_parts: u64,
}

impl Objective {
    /// From a percentage, taken as the decimal its shortest text shows: 99.9 leaves exactly
    /// 0.001. `None` unless above 0 and at most 100.
    pub fn new(percent: f64) -> Option<Self> {
        if !(percent > 0.0 && percent <= 100.0) {
            return None;
        }
        // One percent is 10^10 parts; more than 10 decimals are rounded away by the format.
        let text = format!("{percent:.10}");
        let (whole, fraction) = text.split_once('.')?;
        let good: u64 = format!("{whole}{fraction}").parse().ok()?;
        Some(Self { allowed_parts: 1_000_000_000_000_u64.checked_sub(good)? })
    }

    /// Failing events allowed, in [`PARTS`] of all events.
    pub fn allowed_parts(self) -> u64 {
        self.allowed_parts
    }

    /// The budget as a decimal text, `0.001`. `None` when there is none.
    pub fn budget_text(self) -> Option<String> {
        if self.allowed_parts == 0 {
            return None;
        }
        let whole = u128::from(self.allowed_parts) / PARTS;
        let fraction = u128::from(self.allowed_parts) % PARTS;
        let digits = format!("{fraction:012}");
        let digits = digits.trim_end_matches('0');
        let digits = if digits.is_empty() { "0" } else { digits };
        Some(format!("{whole}.{digits}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_budget_is_the_decimal_that_people_mean() {
        let text = |percent| Objective::new(percent).and_then(Objective::budget_text);
        assert_eq!(text(99.9).as_deref(), Some("0.001"));
        assert_eq!(text(99.999).as_deref(), Some("0.00001"));
        assert_eq!(text(95.0).as_deref(), Some("0.05"));
        assert_eq!(text(0.999 * 100.0).as_deref(), Some("0.001"));
        assert_eq!(text(100.0), None);
        assert_eq!(Objective::new(0.0), None);
        assert_eq!(Objective::new(f64::NAN), None);
    }
}
