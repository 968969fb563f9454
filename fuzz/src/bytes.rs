//! Values from raw bytes.

use jiff::Timestamp;

/// A cursor over the input; past its end everything is zero.
pub(crate) struct Bytes<'a> {
    rest: &'a [u8],
}

impl<'a> Bytes<'a> {
    pub(crate) fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.rest.split_first() else { return 0 };
        self.rest = rest;
        *first
    }

    pub(crate) fn below(&mut self, bound: u8) -> u8 {
        self.byte() % bound.max(1)
    }

    pub(crate) fn word(&mut self) -> u64 {
        (0..8).fold(0, |word, _| word << 8 | u64::from(self.byte()))
    }

    /// A number as counters have it, or any float at all.
    pub(crate) fn float(&mut self) -> f64 {
        match self.below(12) {
            0 => f64::from_bits(self.word()),
            1 => f64::NAN,
            2 => f64::INFINITY,
            3 => -f64::from(self.byte()),
            4 => 1e15,
            5 => f64::MIN_POSITIVE,
            6 => f64::from(self.byte()) / 7.0,
            _ => f64::from(u16::from_be_bytes([self.byte(), self.byte()])),
        }
    }

    /// A share, mostly around 0 to 1.
    pub(crate) fn share(&mut self) -> f64 {
        match self.below(4) {
            0 => self.float(),
            _ => f64::from(self.byte()) / 64.0 - 2.0,
        }
    }

    /// A time near `now`, before or after it; seldom far away.
    pub(crate) fn time(&mut self, now: Timestamp) -> Timestamp {
        let minutes = i64::from(self.byte()) - 64;
        let ms = match self.below(10) {
            0 => i64::from_be_bytes(self.word().to_be_bytes()),
            1 => now.as_millisecond().saturating_add(minutes * 86_400_000),
            _ => now.as_millisecond().saturating_add(minutes * 60_000),
        };
        let bounds = Timestamp::MIN.as_millisecond()..=Timestamp::MAX.as_millisecond();
        Timestamp::from_millisecond(ms.clamp(*bounds.start(), *bounds.end())).unwrap_or(now)
    }
}
