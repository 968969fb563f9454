//! When a failed attempt may be repeated elsewhere.

use std::time::Duration;

use http::{HeaderMap, HeaderName, Method};

/// Says that repeating a request is safe whatever its method (IETF httpapi draft).
pub const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Retries per request, as long as there are endpoints that were not tried.
pub(super) const RETRIES_MAX: u8 = 4;
/// Server errors worth another attempt: those that another replica may not have.
const CODES: [u16; 4] = [500, 502, 503, 504];

/// Whether a request may be processed twice without harm.
pub fn idempotent(method: &Method, headers: &HeaderMap) -> bool {
    method.is_idempotent() || headers.contains_key(IDEMPOTENCY_KEY)
}

/// Whether an answer's status is worth another attempt; `codes` is the route's own list.
pub(super) fn worth_it(status: u16, codes: &[u16]) -> bool {
    if codes.is_empty() { CODES.contains(&status) } else { codes.contains(&status) }
}

/// Retries as a share of requests, so that retries never become the overload.
#[derive(Debug, Clone)]
pub(super) struct Budget {
    tokens: f32,
    refilled: Duration,
}

impl Budget {
    /// Each request allows this much of a retry.
    const SHARE: f32 = 0.2;
    /// A quiet service may still retry this often.
    const PER_SECOND_MIN: f32 = 10.0;
    /// Saved up over about ten seconds of 100 requests/s.
    const TOKENS_MAX: f32 = 200.0;

    pub(super) fn new(now: Duration) -> Self {
        Self { tokens: Self::PER_SECOND_MIN, refilled: now }
    }

    pub(super) fn deposit(&mut self) {
        self.tokens = (self.tokens + Self::SHARE).min(Self::TOKENS_MAX);
    }

    pub(super) fn withdraw(&mut self, now: Duration) -> bool {
        let since = now.saturating_sub(self.refilled).as_secs_f32().min(1.0);
        self.refilled = now;
        self.tokens = (self.tokens + since * Self::PER_SECOND_MIN).min(Self::TOKENS_MAX);
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}
