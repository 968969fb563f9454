//! Aggregations that pick series: topk, bottomk, limitk, `limit_ratio`.

use super::QueryError;
use super::aggregate::Groups;
use super::eval::{Cursors, Evaluator, Series};
use crate::ast::{Aggregate, AggregateOp};
use crate::labels::Labels;
use crate::number::format_general;
use crate::sample::{Point, Value};
use std::cmp::Ordering;

impl Evaluator<'_> {
    pub(super) fn pick(
        &mut self,
        agg: &Aggregate,
        params: &[f64],
        series: Vec<Series>,
        groups: &Groups,
    ) -> Result<Vec<Series>, QueryError> {
        let mut cursors = Cursors::new(series.len());
        let mut kept: Vec<Vec<Point>> = vec![Vec::new(); series.len()];
        let mut order: Vec<usize> = (0..series.len()).collect();
        for (step, t_ms) in self.steps.times().enumerate() {
            self.charge(series.len())?;
            let param = params.get(step).copied().unwrap_or_default();
            let mut present: Vec<Vec<(usize, Value)>> = vec![Vec::new(); groups.labels.len()];
            for i in 0..series.len() {
                if let Some(value) = cursors.value(&series, i, t_ms) {
                    present[groups.of[i]].push((i, value.clone()));
                }
            }
            let mut picked = Vec::new();
            for group in present {
                if !group.is_empty() || step == 0 {
                    picked.extend(self.pick_in_group(agg, param, group, &series)?);
                }
            }
            if groups.labels.is_empty() {
                self.pick_in_group(agg, param, Vec::new(), &series)?;
            }
            if self.steps.count() == 1 {
                order = picked.iter().map(|(i, _)| *i).collect();
            }
            for (i, value) in picked {
                kept[i].push(Point { t_ms, value });
            }
        }
        let mut slots: Vec<Option<Series>> = series.into_iter().map(Some).collect();
        let mut out = Vec::new();
        for i in order {
            let points = std::mem::take(&mut kept[i]);
            if points.is_empty() {
                continue;
            }
            if let Some(one) = slots[i].take() {
                out.push(Series { points, ..one });
            }
        }
        Ok(out)
    }

    fn pick_in_group(
        &mut self,
        agg: &Aggregate,
        param: f64,
        group: Vec<(usize, Value)>,
        series: &[Series],
    ) -> Result<Vec<(usize, Value)>, QueryError> {
        match agg.op {
            AggregateOp::LimitRatio => {
                let ratio = self.ratio(agg, param)?;
                let takes = |i: usize| takes_ratio(ratio, &series[i].labels);
                Ok(group.into_iter().filter(|(i, _)| takes(*i)).collect())
            }
            AggregateOp::Limitk => {
                let k = whole(param)?;
                Ok(group.into_iter().take(k).collect())
            }
            op => {
                let k = whole(param)?;
                let floats = group.len();
                let mut group: Vec<(usize, Value)> =
                    group.into_iter().filter(|(_, v)| v.as_float().is_some()).collect();
                if group.len() < floats && k > 0 {
                    let text = format!("ignored histogram in {} aggregation", op.as_str());
                    self.annotations.info(agg.expr.span, &text);
                }
                let number = |v: &Value| v.as_float().unwrap_or(f64::NAN);
                group.sort_by(|(_, a), (_, b)| rank(op, number(a), number(b)));
                group.truncate(k);
                Ok(group)
            }
        }
    }

    fn ratio(&mut self, agg: &Aggregate, ratio: f64) -> Result<f64, QueryError> {
        if ratio.is_nan() {
            return Err(QueryError::Execution("Ratio value is NaN".to_owned()));
        }
        let capped = ratio.clamp(-1.0, 1.0);
        if capped != ratio {
            let span = agg.param.as_ref().map_or(agg.expr.span, |p| p.span);
            let text = format!(
                "ratio value should be between -1 and 1, got {}, capping to {}",
                format_general(ratio),
                format_general(capped)
            );
            self.annotations.warn(span, &text);
        }
        Ok(capped)
    }
}

fn whole(k: f64) -> Result<usize, QueryError> {
    if k.is_nan() {
        return Err(QueryError::Execution("Parameter value is NaN".to_owned()));
    }
    if !(-9.223_372_036_854_775e18..=9.223_372_036_854_775e18).contains(&k) {
        let reason = format!("Scalar value {} overflows int64", format_general(k));
        return Err(QueryError::Execution(reason));
    }
    Ok(if k < 1.0 { 0 } else { k as usize })
}

/// Best first; NaN last in both directions.
fn rank(op: AggregateOp, a: f64, b: f64) -> Ordering {
    match (a.is_nan(), b.is_nan()) {
        (true, true) => Ordering::Equal,
        (true, false) => Ordering::Greater,
        (false, true) => Ordering::Less,
        (false, false) => {
            let ascending = a.partial_cmp(&b).unwrap_or(Ordering::Equal);
            if op == AggregateOp::Topk { ascending.reverse() } else { ascending }
        }
    }
}

/// Whether a series belongs to the sampled share; complementary ratios (0.3 and -0.7) split all series.
fn takes_ratio(ratio: f64, labels: &Labels) -> bool {
    let offset = label_hash(labels) as f64 / u64::MAX as f64;
    if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio }
}

/// xxHash64 (seed 0) over `name 0xff value 0xff` of all labels, as upstream hashes label sets.
fn label_hash(labels: &Labels) -> u64 {
    let mut bytes = Vec::new();
    for label in labels {
        bytes.extend_from_slice(label.name.as_bytes());
        bytes.push(0xff);
        bytes.extend_from_slice(label.value.as_bytes());
        bytes.push(0xff);
    }
    xxhash64(&bytes)
}

const P1: u64 = 0x9E37_79B1_85EB_CA87;
const P2: u64 = 0xC2B2_AE3D_27D4_EB4F;
const P3: u64 = 0x1656_67B1_9E37_79F9;
const P4: u64 = 0x85EB_CA77_C2B2_AE63;
const P5: u64 = 0x27D4_EB2F_1656_67C5;

fn xxhash64(bytes: &[u8]) -> u64 {
    let word = |chunk: &[u8]| chunk.iter().rev().fold(0_u64, |acc, b| acc << 8 | u64::from(*b));
    let round = |acc: u64, input: u64| {
        acc.wrapping_add(input.wrapping_mul(P2)).rotate_left(31).wrapping_mul(P1)
    };
    let blocks = bytes.chunks_exact(32);
    let mut rest = blocks.remainder();
    let mut hash = if bytes.len() >= 32 {
        let mut lanes = [P1.wrapping_add(P2), P2, 0, 0_u64.wrapping_sub(P1)];
        for block in blocks {
            for (lane, chunk) in lanes.iter_mut().zip(block.chunks_exact(8)) {
                *lane = round(*lane, word(chunk));
            }
        }
        let [a, b, c, d] = lanes;
        let mixed = a
            .rotate_left(1)
            .wrapping_add(b.rotate_left(7))
            .wrapping_add(c.rotate_left(12))
            .wrapping_add(d.rotate_left(18));
        lanes.iter().fold(mixed, |h, lane| (h ^ round(0, *lane)).wrapping_mul(P1).wrapping_add(P4))
    } else {
        P5
    };
    hash = hash.wrapping_add(bytes.len() as u64);
    while let Some((chunk, tail)) = rest.split_at_checked(8) {
        hash = (hash ^ round(0, word(chunk))).rotate_left(27).wrapping_mul(P1).wrapping_add(P4);
        rest = tail;
    }
    if let Some((chunk, tail)) = rest.split_at_checked(4) {
        hash ^= word(chunk).wrapping_mul(P1);
        hash = hash.rotate_left(23).wrapping_mul(P2).wrapping_add(P3);
        rest = tail;
    }
    for byte in rest {
        hash ^= u64::from(*byte).wrapping_mul(P5);
        hash = hash.rotate_left(11).wrapping_mul(P1);
    }
    hash ^= hash >> 33;
    hash = hash.wrapping_mul(P2);
    hash ^= hash >> 29;
    hash = hash.wrapping_mul(P3);
    hash ^ (hash >> 32)
}

#[cfg(test)]
mod tests {
    use super::xxhash64;

    #[test]
    fn the_hash_is_xxhash64() {
        assert_eq!(xxhash64(b""), 0xef46_db37_51d8_e999);
        assert_eq!(xxhash64(b"a"), 0xd24e_c4f1_a98c_6e5b);
        assert_eq!(xxhash64(b"abc"), 0x44bc_2cf5_ad77_0999);
        let long = b"Call me Ishmael. Some years ago--never mind how long precisely-";
        assert_eq!(xxhash64(long), 0x02a2_e854_70d6_fd96);
    }
}
