//! Functions that read a value as a time.

use super::QueryError;
use super::eval::{Data, Evaluator, Series};
use crate::ast::Expr;
use crate::labels::Labels;
use crate::sample::{Point, Value};
use jiff::tz::TimeZone;

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

fn calendar_field(name: &str, seconds: f64) -> f64 {
    if seconds.is_nan() {
        return f64::NAN;
    }
    // Years outside of what the calendar knows are clamped.
    let whole = seconds.clamp(-377_705_000_000.0, 253_402_000_000.0) as i64;
    let Ok(time) = jiff::Timestamp::from_second(whole) else { return f64::NAN };
    let date = time.to_zoned(TimeZone::UTC);
    match name {
        "year" => f64::from(date.year()),
        "month" => f64::from(date.month()),
        "day_of_month" => f64::from(date.day()),
        "day_of_week" => f64::from(date.weekday().to_sunday_zero_offset()),
        "day_of_year" => f64::from(date.day_of_year()),
        "days_in_month" => f64::from(date.days_in_month()),
        "hour" => f64::from(date.hour()),
        "minute" => f64::from(date.minute()),
        _ => f64::NAN,
    }
}
