use std::{fmt, str::FromStr, time::Duration};

use evenkeel_base::parse_duration;

/// How much is kept by default: some two million actions.
const BYTES_DEFAULT: u64 = 1 << 30;
/// A record that keeps less would consist of one file, of which nothing can be dropped.
const BYTES_MIN: u64 = 64 << 20;
/// Nor can a part of a day.
const AGE_MIN: Duration = Duration::from_hours(1);

/// How long lines are kept. Whole old files are dropped, and a signed line says so.
///
/// **Text**: an age (`90d`), a size (`2Gi`), or both with a comma: what is beyond either goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Keep {
    /// Files all of whose lines are older go; `None` when age does not matter.
    pub age: Option<Duration>,
    /// The oldest files go while all together are larger.
    pub bytes: u64,
}

/// What is wrong with a text that should say how long to keep.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeepError {
    /// Neither an age nor a size.
    #[error("`{0}` is neither an age such as 90d nor a size such as 2Gi")]
    Neither(String),
    /// Would leave next to nothing.
    #[error("`{0}` keeps too little: give at least 1h and 64Mi")]
    TooLittle(String),
}

impl Default for Keep {
    fn default() -> Self {
        Self { age: None, bytes: BYTES_DEFAULT }
    }
}

impl FromStr for Keep {
    type Err = KeepError;

    fn from_str(text: &str) -> Result<Self, KeepError> {
        let mut keep = Self::default();
        for part in text.split(',').map(str::trim) {
            if let Some(bytes) = size(part) {
                keep.bytes = bytes;
            } else if let Ok(age) = parse_duration(part) {
                keep.age = Some(age);
            } else {
                return Err(KeepError::Neither(part.to_owned()));
            }
        }
        if keep.bytes < BYTES_MIN || keep.age.is_some_and(|age| age < AGE_MIN) {
            return Err(KeepError::TooLittle(text.to_owned()));
        }
        Ok(keep)
    }
}

impl fmt::Display for Keep {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.age {
            Some(age) => write!(f, "{}s,{}Mi", age.as_secs(), self.bytes >> 20),
            None => write!(f, "{}Mi", self.bytes >> 20),
        }
    }
}

fn size(text: &str) -> Option<u64> {
    let units = [("Ki", 10), ("Mi", 20), ("Gi", 30), ("Ti", 40)];
    let (number, shift) =
        units.iter().find_map(|(unit, shift)| Some((text.strip_suffix(unit)?, *shift)))?;
    number.parse::<u64>().ok()?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_a_size_or_both() {
        let keep = |text: &str| text.parse::<Keep>().map(|keep| keep.to_string());
        assert_eq!(keep("90d").unwrap(), "7776000s,1024Mi");
        assert_eq!(keep("2Gi").unwrap(), "2048Mi");
        assert_eq!(keep("64Mi, 12h").unwrap(), "43200s,64Mi");
        assert_eq!(keep("much"), Err(KeepError::Neither("much".to_owned())));
        assert_eq!(keep(""), Err(KeepError::Neither(String::new())));
        assert_eq!(keep("1Ki"), Err(KeepError::TooLittle("1Ki".to_owned())));
        assert_eq!(keep("1m"), Err(KeepError::TooLittle("1m".to_owned())));
    }
}
