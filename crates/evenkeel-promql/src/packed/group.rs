//! A few neighbouring samples in few bytes, bit for bit.
//!
//! ```text
//! group  = [value of the block's first sample, 8 bytes] header times values
//! header = bit 0: every distance in time is the one before; bits 1-2: how values are written
//! times  = smallest distance (varint), width, distances above it (width bits each)
//! values = nothing: all as the one before
//!        | whole numbers: smallest step (zigzag varint), width, steps above it
//!        | bits changed: shift, width, changed bits of each value
//!        | some bits changed: which values (2 bytes), shift, width, changed bits of those
//! ```

use super::bits::{Reader, read, size, unzigzag, width, write, write_varint, zigzag};

/// Samples in a group.
pub(super) const GROUP: usize = 16;
/// Whole floats up to here are exact, and so are their differences as integers.
const WHOLE_MAX: f64 = 9_007_199_254_740_992.0;

const EVEN: u8 = 1;
const SAME: u8 = 0;
const WHOLE: u8 = 1 << 1;
const CHANGED: u8 = 2 << 1;
const SOME_CHANGED: u8 = 3 << 1;

/// Where the samples before a group ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct State {
    pub(super) t_ms: i64,
    step_ms: u64,
    value: u64,
}

impl State {
    /// In front of a block that starts at a time.
    pub(super) fn at(t_ms: i64) -> Self {
        Self { t_ms, ..Self::default() }
    }

    pub(super) fn value(self) -> f64 {
        f64::from_bits(self.value)
    }
}

/// Writes a group of a block and returns the state behind it.
///
/// `before` is `None` for the first group of a block: its first time is kept elsewhere.
pub(super) fn encode(
    out: &mut Vec<u8>,
    before: Option<State>,
    times: &[i64],
    floats: &[f64],
) -> State {
    let (mut state, times, floats) = if let Some(state) = before {
        (state, times, floats)
    } else {
        let value = floats[0].to_bits();
        out.extend_from_slice(&value.to_le_bytes());
        (State { t_ms: times[0], step_ms: 0, value }, &times[1..], &floats[1..])
    };
    let count = times.len();
    let mut buffer = [0_u64; GROUP];
    let steps = &mut buffer[..count];
    let mut t_ms = state.t_ms;
    for (step, t) in steps.iter_mut().zip(times) {
        *step = t.wrapping_sub(t_ms) as u64;
        t_ms = *t;
    }
    let header = out.len();
    out.push(0);
    if steps.iter().all(|step| *step == state.step_ms) {
        out[header] |= EVEN;
    } else {
        state.step_ms = steps.last().copied().unwrap_or_default();
        let least = steps.iter().copied().min().unwrap_or_default();
        write_varint(out, least);
        write_above(out, steps, least);
    }
    state.t_ms = t_ms;
    let (kind, value) = encode_values(out, state.value, floats);
    out[header] |= kind;
    State { value, ..state }
}

fn write_above(out: &mut Vec<u8>, numbers: &mut [u64], least: u64) {
    for n in numbers.iter_mut() {
        *n = n.wrapping_sub(least);
    }
    let bits = width(numbers);
    out.push(bits);
    write(out, numbers, bits);
}

fn encode_values(out: &mut Vec<u8>, before: u64, floats: &[f64]) -> (u8, u64) {
    let last = floats.last().map_or(before, |v| v.to_bits());
    if floats.iter().all(|v| v.to_bits() == before) {
        return (SAME, last);
    }
    let mut buffer = [0_u64; GROUP];
    let numbers = &mut buffer[..floats.len()];
    if let Some(mut previous) = whole(f64::from_bits(before)).filter(|_| all_whole(floats)) {
        let mut least = i64::MAX;
        for (n, v) in numbers.iter_mut().zip(floats) {
            let step = *v as i64 - previous;
            (least, previous) = (least.min(step), *v as i64);
            *n = step as u64;
        }
        write_varint(out, zigzag(least));
        write_above(out, numbers, least as u64);
        return (WHOLE, last);
    }
    let mut previous = before;
    for (n, v) in numbers.iter_mut().zip(floats) {
        *n = v.to_bits() ^ previous;
        previous = v.to_bits();
    }
    let mut which = 0_u16;
    let mut changed = 0;
    for i in 0..numbers.len() {
        if numbers[i] != 0 {
            which |= 1 << i;
            numbers[changed] = numbers[i];
            changed += 1;
        }
    }
    let shift = numbers[..changed].iter().fold(0, |all, n| all | n).trailing_zeros() as u8;
    for n in &mut numbers[..changed] {
        *n >>= shift;
    }
    let bits = width(&numbers[..changed]);
    // Naming the changed ones must pay.
    let kind =
        if (floats.len() - changed) * usize::from(bits) > 16 { SOME_CHANGED } else { CHANGED };
    if kind == SOME_CHANGED {
        out.extend_from_slice(&which.to_le_bytes());
    } else {
        let mut next = changed;
        for i in (0..floats.len()).rev() {
            let was = which & (1 << i) != 0;
            next -= usize::from(was);
            numbers[i] = if was { numbers[next] } else { 0 };
        }
        changed = floats.len();
    }
    out.extend_from_slice(&[shift, bits]);
    write(out, &numbers[..changed], bits);
    (kind, last)
}

/// As an integer, if the float is nothing more (not -0).
fn whole(v: f64) -> Option<i64> {
    let fits = v.abs() <= WHOLE_MAX && (v as i64 as f64).to_bits() == v.to_bits();
    fits.then_some(v as i64)
}

fn all_whole(floats: &[f64]) -> bool {
    floats.iter().all(|v| whole(*v).is_some())
}

/// Reads one group of `count` samples; `before` as in [`encode`], with the first time filled in.
pub(super) fn decode(
    reader: &mut Reader<'_>,
    (state, is_first): (&mut State, bool),
    count: usize,
    times: &mut Vec<i64>,
    floats: &mut Vec<f64>,
) {
    let mut count = count;
    if is_first {
        let mut value = [0; 8];
        let bytes = reader.take(8);
        value[..bytes.len()].copy_from_slice(bytes);
        state.value = u64::from_le_bytes(value);
        times.push(state.t_ms);
        floats.push(state.value());
        count -= 1;
    }
    let mut buffer = [0_u64; GROUP];
    let numbers = &mut buffer[..count];
    let header = reader.byte();
    if header & EVEN != 0 {
        let (t_ms, step_ms) = (state.t_ms, state.step_ms as i64);
        times.extend((1..=count as i64).map(|i| t_ms.wrapping_add(i.wrapping_mul(step_ms))));
        state.t_ms = t_ms.wrapping_add((count as i64).wrapping_mul(step_ms));
    } else {
        let least = reader.varint();
        read_numbers(reader, numbers);
        for n in numbers.iter() {
            state.step_ms = n.wrapping_add(least);
            state.t_ms = state.t_ms.wrapping_add(state.step_ms as i64);
            times.push(state.t_ms);
        }
    }
    match header & SOME_CHANGED {
        SAME => floats.extend(std::iter::repeat_n(state.value(), count)),
        WHOLE => {
            let least = unzigzag(reader.varint());
            read_numbers(reader, numbers);
            let mut value = state.value() as i64;
            for n in numbers.iter() {
                value = value.wrapping_add(least).wrapping_add(*n as i64);
                floats.push(value as f64);
            }
            state.value = (value as f64).to_bits();
        }
        kind => {
            let which = if kind == SOME_CHANGED {
                u16::from_le_bytes([reader.byte(), reader.byte()])
            } else {
                u16::MAX
            };
            let shift = reader.byte();
            let changed = if kind == SOME_CHANGED { which.count_ones() as usize } else { count };
            let numbers = &mut buffer[..changed.min(count)];
            read_numbers(reader, numbers);
            let mut next = numbers.iter();
            for i in 0..count {
                if which & (1 << i) != 0 {
                    state.value ^= next.next().copied().unwrap_or_default() << shift;
                }
                floats.push(state.value());
            }
        }
    }
}

fn read_numbers(reader: &mut Reader<'_>, numbers: &mut [u64]) {
    let bits = reader.byte().min(64);
    read(reader.take(size(numbers.len(), bits)), numbers, bits);
}
