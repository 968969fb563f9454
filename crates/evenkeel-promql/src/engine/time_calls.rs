//! Functions that read a value as a time.

use super::QueryError;
use super::eval::{Data, Evaluator, Series};
use crate::ast::Expr;
use crate::labels::Labels;
use crate::sample::{Point, Value};

impl Evaluator<'_> {
    /// `year`, `hour`, ...: of a vector, or of the evaluation time.
    pub(super) fn calendar(&mut self, name: &str, args: &[Expr]) -> Result<Data, QueryError> {
        let Some(arg) = args.first() else {
            let points = self.steps.times().map(|t_ms| Point {
                t_ms,
                value: Value::Float(calendar_field(name, t_ms as f64 / 1000.0)),
            });
            let points = points.collect();
            let one = Series { labels: Labels::empty(), drop_name: false, points };
            return Ok(Data::Vector(vec![one]));
        };
        let series = self.vector(arg)?;
        let field = |value: Value| value.as_float().map(|v| calendar_field(name, v).into());
        self.checked(self.map(series, field))
    }
}

/// Seconds from the epoch back to where Go's calendar begins, year -292277022399.
const GO_BEGINS_S: u64 = 9_223_372_028_715_321_600;
const DAY_S: u64 = 86_400;

/// A part of a time in UTC, over all times that Go's calendar has. What does not fit 64 bits, and
/// NaN, is the smallest of them, as Go converts numbers on x86.
fn calendar_field(name: &str, seconds: f64) -> f64 {
    let fits = (-(2_f64.powi(63))..2_f64.powi(63)).contains(&seconds);
    let whole = if fits { seconds as i64 } else { i64::MIN };
    // As in Go, times before the beginning wrap around to the end.
    let since_begin = whole.cast_unsigned().wrapping_add(GO_BEGINS_S);
    let (of_day, days) = (since_begin % DAY_S, (since_begin / DAY_S) as i64);
    let days = days - (GO_BEGINS_S / DAY_S) as i64;
    let (year, month, day) = civil(days);
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let value = match name {
        "hour" => (of_day / 3_600) as i64,
        "minute" => (of_day / 60 % 60) as i64,
        "year" => year,
        "month" => month,
        "day_of_month" => day,
        // The epoch was a Thursday.
        "day_of_week" => (days + 4).rem_euclid(7),
        "day_of_year" => days - days_before(year) + 1,
        "days_in_month" => match month {
            2 => 28 + i64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        },
        _ => return f64::NAN,
    };
    value as f64
}

/// Days from the epoch to the first of January of a year.
fn days_before(year: i64) -> i64 {
    let years = year - 1;
    let leaps = years.div_euclid(4) - years.div_euclid(100) + years.div_euclid(400);
    years * 365 + leaps - 719_162
}

/// Year, month and day of a day, counted from the epoch, in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // An average year is never off by more than one.
    let mut year = 1970 + days.div_euclid(146_097) * 400 + days.rem_euclid(146_097) / 366;
    while days_before(year + 1) <= days {
        year += 1;
    }
    let mut left = days - days_before(year);
    let february = days_before(year + 1) - days_before(year) - 337;
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if left < length {
            break;
        }
        left -= length;
        month += 1;
    }
    (year, month, left + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_those_of_a_calendar() {
        let date = |days: i64| {
            let time = jiff::Timestamp::from_second(days * 86_400).unwrap();
            let date = time.to_zoned(jiff::tz::TimeZone::UTC).date();
            (i64::from(date.year()), i64::from(date.month()), i64::from(date.day()))
        };
        // Every day of 1600 to 2400.
        for days in -135_140..157_054 {
            assert_eq!(civil(days), date(days), "day {days}");
        }
    }

    #[test]
    fn all_of_64_bits_have_a_date() {
        let year = |seconds| calendar_field("year", seconds);
        assert_eq!(
            [year(1e12), year(-1e15), year(9e18)],
            [33658.0, -31_686_769.0, 285_198_648_531.0]
        );
        assert_eq!(year(f64::INFINITY), 292_277_026_596.0);
        assert_eq!(calendar_field("day_of_week", 1e14), 6.0);
    }
}
