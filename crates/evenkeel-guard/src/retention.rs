use std::{fmt, str::FromStr, time::Duration};

use evenkeel_base::parse_duration;
use jiff::Timestamp;

use crate::{Dropped, Line};

/// A file is closed once it is larger: small enough to copy, and to be dropped whole.
pub(crate) const FILE_BYTES_MAX: u64 = 16 << 20;
/// A file is closed once it spans this share of the age that is kept, so that dropping whole files
/// keeps lines at most that much longer.
const AGE_SHARE: u32 = 8;
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

/// How large a file is, and when its first line was written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) bytes: u64,
    pub(crate) started: Option<Timestamp>,
}

/// Whether the next line begins a new file.
pub(crate) fn is_full(size: Size, bytes_max: u64, keep: Keep, now: Timestamp) -> bool {
    let age = size.started.map(|started| age(started, now));
    let age_max = keep.age.map(|age| age / AGE_SHARE);
    size.bytes > bytes_max || age.zip(age_max).is_some_and(|(age, max)| age > max)
}

/// Which of these files (number, bytes, first line; oldest first) the rule drops now, and the line
/// that says so.
pub(crate) fn overdue(
    files: &[(u32, u64, Line)],
    current: u32,
    keep: Keep,
    now: Timestamp,
) -> Option<(Dropped, Vec<u32>)> {
    let mut total: u64 = files.iter().map(|(_, bytes, _)| bytes).sum();
    let mut gone = Vec::new();
    let mut last = None;
    for ((number, bytes, _), (_, _, next)) in files.iter().zip(files.iter().skip(1)) {
        // All lines of a file are at most as old as the first one of the next.
        let too_old = keep.age.is_some_and(|max| age(next.time, now) > max);
        if *number >= current || (total <= keep.bytes && !too_old) {
            break;
        }
        total -= bytes;
        gone.push(*number);
        last = Some(next);
    }
    let (first, next) = files.first().map(|(_, _, line)| line).zip(last)?;
    let dropped = Dropped {
        first: first.seq,
        last: next.seq - 1,
        lines: next.seq - first.seq,
        files: u32::try_from(gone.len()).unwrap_or(u32::MAX),
        last_hash: next.prev.clone(),
    };
    Some((dropped, gone))
}

fn age(of: Timestamp, now: Timestamp) -> Duration {
    Duration::try_from(now.duration_since(of)).unwrap_or_default()
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
