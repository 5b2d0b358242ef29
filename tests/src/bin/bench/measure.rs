//! Samples, taken in turns with their floor: what else the machine does meets both alike.

use std::time::{Duration, Instant};

/// What was measured of one thing.
#[derive(Default)]
pub(crate) struct Samples(Vec<Duration>);

impl Samples {
    pub(crate) fn push(&mut self, sample: Duration) {
        self.0.push(sample);
    }

    /// The sample below which so many of a hundred lie.
    pub(crate) fn percentile(&self, percent: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * percent / 100).min(sorted.len() - 1)]
    }
}

/// Ours and the floor, in turns.
#[derive(Default)]
pub(crate) struct Pair {
    pub(crate) ours: Samples,
    pub(crate) floor: Samples,
}

impl Pair {
    /// The same percentile of both, in milliseconds.
    pub(crate) fn ms(&self, percent: usize) -> (f64, f64) {
        (ms(self.ours.percentile(percent)), ms(self.floor.percentile(percent)))
    }

    /// Times both, so many rounds; who comes first changes with each round.
    pub(crate) fn in_turns(rounds: usize, mut ours: impl FnMut(), mut floor: impl FnMut()) -> Self {
        let mut pair = Self::default();
        for round in 0..rounds {
            for is_ours in turn(round) {
                let started = Instant::now();
                if is_ours {
                    ours()
                } else {
                    floor()
                }
                if is_ours { &mut pair.ours } else { &mut pair.floor }.push(started.elapsed());
            }
        }
        pair
    }
}

/// Whether ours comes now, for each of the two of a round.
pub(crate) fn turn(round: usize) -> [bool; 2] {
    let first = round.is_multiple_of(2);
    [first, !first]
}

pub(crate) fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The one in the middle.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
