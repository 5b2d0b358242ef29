//! How soon a failed instance is tried again: at once after it has proven itself, and ever more slowly otherwise.

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use tokio::time::Instant;

use crate::config::{PROVEN_AFTER, RETRY_AFTER};

/// The pace of one instance's attempts.
pub(crate) struct Pace {
    pauses: ExponentialBackoff,
    not_before: Instant,
    /// The last start or failure.
    trouble: Instant,
}

impl Pace {
    /// One that allows an attempt at once.
    pub(crate) fn new(now: Instant) -> Self {
        Self { pauses: pauses(), not_before: now, trouble: now }
    }

    /// When the next attempt may be made.
    pub(crate) fn not_before(&self) -> Instant {
        self.not_before
    }

    /// It is as it should be. Once it has been for long, what fails then is retried at once.
    pub(crate) fn well(&mut self, now: Instant) {
        if now.duration_since(self.trouble) >= PROVEN_AFTER {
            self.pauses = pauses();
        }
    }

    /// It was started. Its next start is due at once if it runs for long.
    pub(crate) fn started(&mut self, now: Instant) {
        self.well(now);
        self.wait(now);
    }

    /// An attempt failed; returns when the next one may be made.
    pub(crate) fn failed(&mut self, now: Instant) -> Instant {
        // The attempt that failed may have been counted when it started something.
        if self.not_before <= now {
            self.well(now);
            self.wait(now);
        }
        self.not_before
    }

    fn wait(&mut self, now: Instant) {
        self.trouble = now;
        self.not_before = now + self.pauses.next().unwrap_or(RETRY_AFTER[1]);
    }
}

fn pauses() -> ExponentialBackoff {
    let [first, longest] = RETRY_AFTER;
    ExponentialBuilder::default().with_min_delay(first).with_max_delay(longest).without_max_times().build()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn failures_slow_down_and_a_proven_run_starts_over() {
        let [first, longest] = RETRY_AFTER;
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        assert!(pace.not_before() <= now, "the first start is due at once");
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            pace.started(now);
            let pause = pace.not_before() - now;
            assert!(pause >= last && pause <= longest);
            last = pause;
            now = pace.not_before();
        }
        assert_eq!(last, longest);
        pace.started(now);
        now += PROVEN_AFTER;
        assert!(pace.not_before() <= now, "what ran for long is started at once");
        pace.started(now);
        assert_eq!(pace.not_before() - now, first);
    }

    #[tokio::test(start_paused = true)]
    async fn failing_after_a_start_counts_once() {
        let now = Instant::now();
        let mut pace = Pace::new(now);
        pace.started(now);
        assert_eq!(pace.failed(now), now + RETRY_AFTER[0]);
    }
}
