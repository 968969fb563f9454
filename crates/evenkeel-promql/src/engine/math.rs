//! Functions of one number, quantiles of lists, regression.

use crate::number::kahan_add;

/// A function of one number by name.
pub(super) fn unary(name: &str) -> Option<fn(f64) -> f64> {
    Some(match name {
        "abs" => f64::abs,
        "ceil" => f64::ceil,
        "floor" => f64::floor,
        "exp" => f64::exp,
        "sqrt" => f64::sqrt,
        "ln" => f64::ln,
        "log2" => f64::log2,
        "log10" => f64::log10,
        "sin" => f64::sin,
        "cos" => f64::cos,
        "tan" => f64::tan,
        "asin" => f64::asin,
        "acos" => f64::acos,
        "atan" => f64::atan,
        "sinh" => f64::sinh,
        "cosh" => f64::cosh,
        "tanh" => f64::tanh,
        "asinh" => f64::asinh,
        "acosh" => f64::acosh,
        "atanh" => f64::atanh,
        "rad" => |v| v * std::f64::consts::PI / 180.0,
        "deg" => |v| v * 180.0 / std::f64::consts::PI,
        "sgn" => |v| {
            if v < 0.0 {
                -1.0
            } else if v > 0.0 {
                1.0
            } else {
                v
            }
        },
        _ => return None,
    })
}

/// Rounds to a multiple, halves up.
pub(super) fn round_to(v: f64, multiple: f64) -> f64 {
    // Dividing by the inverse is what upstream does for precision.
    let inverse = 1.0 / multiple;
    (v * inverse + 0.5).floor() / inverse
}

/// The q-quantile of values by linear interpolation.
pub(super) fn quantile(q: f64, mut values: Vec<f64>) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    // NaN counts as smallest.
    values.sort_by(|a, b| match (a.is_nan(), b.is_nan()) {
        (true, true) => std::cmp::Ordering::Equal,
        (true, false) => std::cmp::Ordering::Less,
        (false, true) => std::cmp::Ordering::Greater,
        (false, false) => a.total_cmp(b),
    });
    let n = values.len() as f64;
    let rank = q * (n - 1.0);
    let lower = rank.floor().max(0.0);
    let upper = (lower + 1.0).min(n - 1.0);
    let weight = rank - rank.floor();
    values[lower as usize] * (1.0 - weight) + values[upper as usize] * weight
}

/// Slope and value at `intercept_ms` of the line through points (milliseconds, value).
pub(super) fn regression(
    points: impl Iterator<Item = (i64, f64)>,
    intercept_ms: i64,
) -> (f64, f64) {
    let mut n = 0.0;
    let (mut x, mut y, mut xy, mut x2) = ((0.0, 0.0), (0.0, 0.0), (0.0, 0.0), (0.0, 0.0));
    let mut first = None;
    let mut constant = true;
    for (t_ms, v) in points {
        let first = *first.get_or_insert(v);
        constant &= v == first;
        n += 1.0;
        let t = t_ms.saturating_sub(intercept_ms) as f64 / 1e3;
        x = kahan_add(t, x.0, x.1);
        y = kahan_add(v, y.0, y.1);
        xy = kahan_add(t * v, xy.0, xy.1);
        x2 = kahan_add(t * t, x2.0, x2.1);
    }
    if let (true, Some(v)) = (constant, first) {
        return if v.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, v) };
    }
    let [x, y, xy, x2] = [x, y, xy, x2].map(|(sum, lost)| sum + lost);
    let slope = (xy - x * y / n) / (x2 - x * x / n);
    (slope, y / n - slope * x / n)
}
