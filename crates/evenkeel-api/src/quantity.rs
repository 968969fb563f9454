use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

/// An amount of a resource in thousandths of its unit: cores, bytes or pieces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Hash)]
pub struct Quantity {
    /// Thousandths: `250m` of cpu is 250, `1Ki` of memory is 1,024,000.
    pub millis: i128,
}

/// Why a quantity text was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a quantity (write it like 250m, 2, 1.5Gi or 500M)")]
pub struct QuantityError {
    /// The text as given.
    pub text: String,
}

/// Suffixes and how many thousandths one of them is.
const SUFFIXES: [(&str, i128); 14] = [
    ("Ki", 1_000 << 10),
    ("Mi", 1_000 << 20),
    ("Gi", 1_000 << 30),
    ("Ti", 1_000 << 40),
    ("Pi", 1_000 << 50),
    ("Ei", 1_000 << 60),
    ("m", 1),
    ("k", 1_000_000),
    ("M", 1_000_000_000),
    ("G", 1_000_000_000_000),
    ("T", 1_000_000_000_000_000),
    ("P", 1_000_000_000_000_000_000),
    ("E", 1_000_000_000_000_000_000_000),
    ("", 1_000),
];

impl Quantity {
    /// Whole units.
    pub fn whole(units: i64) -> Self {
        Self { millis: i128::from(units) * 1_000 }
    }

    /// Parses Kubernetes' text form; fractions of a thousandth are rounded up.
    pub fn parse(text: &str) -> Result<Self, QuantityError> {
        let fail = || QuantityError { text: text.to_owned() };
        let trimmed = text.trim();
        // An exponent (1e3) ends in a digit; the suffix E never does.
        let is_plain = trimmed.ends_with(|c: char| c.is_ascii_digit() || c == '.');
        let (number, scale) = if is_plain {
            (trimmed, 1_000)
        } else {
            let suffix = SUFFIXES
                .iter()
                .find(|(suffix, _)| !suffix.is_empty() && trimmed.ends_with(suffix))
                .ok_or_else(fail)?;
            (trimmed.strip_suffix(suffix.0).ok_or_else(fail)?, suffix.1)
        };
        if let Ok(units) = number.parse::<i64>() {
            return i128::from(units)
                .checked_mul(scale)
                .map(|m| Self { millis: m })
                .ok_or_else(fail);
        }
        let units: f64 = number.parse().map_err(|_| fail())?;
        #[expect(
            clippy::cast_precision_loss,
            reason = "scales are exact or far beyond any machine"
        )]
        let millis = (units * scale as f64).ceil();
        if !millis.is_finite() || millis.abs() > 1e30 {
            return Err(fail());
        }
        #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
        let millis = millis as i128;
        Ok(Self { millis })
    }

    /// Whole units, rounded up.
    pub fn ceil(self) -> i64 {
        let units = self.millis.div_euclid(1_000) + i128::from(self.millis.rem_euclid(1_000) > 0);
        i64::try_from(units).unwrap_or(i64::MAX)
    }
}

impl std::ops::Add for Quantity {
    type Output = Self;
    fn add(self, other: Self) -> Self {
        Self { millis: self.millis.saturating_add(other.millis) }
    }
}

impl std::iter::Sum for Quantity {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), std::ops::Add::add)
    }
}

/// Which way a share of a whole is rounded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rounding {
    /// Away from zero (`maxSurge`).
    Up,
    /// Towards zero (`maxUnavailable` of a Deployment).
    Down,
}

/// Resolves `25%` or `3` against `total`. `None` when the text is not a percentage.
pub fn scaled_int_or_percent(value: &IntOrString, total: i32, rounding: Rounding) -> Option<i32> {
    match value {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(text) => {
            let percent: i64 = text.trim().strip_suffix('%')?.parse().ok()?;
            let parts = percent.checked_mul(i64::from(total))?;
            let share = match rounding {
                Rounding::Up => parts.div_euclid(100) + i64::from(parts.rem_euclid(100) > 0),
                Rounding::Down => parts.div_euclid(100),
            };
            i32::try_from(share).ok()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantities_read_as_kubernetes_reads_them() {
        for (text, millis) in [
            ("250m", 250),
            ("2", 2_000),
            ("0.5", 500),
            ("1Ki", 1_024_000),
            ("1.5Gi", 1_610_612_736_000),
            ("1e3", 1_000_000),
            ("100k", 100_000_000),
            ("1E", 1_000_000_000_000_000_000_000),
        ] {
            assert_eq!(Quantity::parse(text).unwrap().millis, millis, "{text}");
        }
        for text in ["", "abc", "1 Gi x", "--1", "1e999"] {
            assert!(Quantity::parse(text).is_err(), "{text}");
        }
        assert_eq!(Quantity { millis: 1 }.ceil(), 1);
    }

    #[test]
    fn surge_rounds_up_and_unavailable_down() {
        let quarter = IntOrString::String("25%".to_owned());
        assert_eq!(scaled_int_or_percent(&quarter, 3, Rounding::Up), Some(1));
        assert_eq!(scaled_int_or_percent(&quarter, 3, Rounding::Down), Some(0));
        assert_eq!(scaled_int_or_percent(&IntOrString::Int(2), 3, Rounding::Up), Some(2));
        let words = IntOrString::String("many".to_owned());
        assert_eq!(scaled_int_or_percent(&words, 3, Rounding::Up), None);
    }
}
