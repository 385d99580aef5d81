//! What one run of one contender gave, and what several of them give together.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// One run.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct Sample {
    /// Values (or pages) a second.
    pub rate: f64,
    /// The time of a call: half of all took at most this.
    pub p50: Duration,
    /// 99 of 100 took at most this.
    pub p99: Duration,
}

impl Sample {
    /// From the times of all calls.
    pub fn new(done: u64, elapsed: Duration, mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        let at = |share: usize| times.get(times.len() * share / 100).copied().unwrap_or_default();
        Self { rate: done as f64 / elapsed.as_secs_f64(), p50: at(50), p99: at(99) }
    }
}

/// The middle of some figures.
pub fn median(figures: impl IntoIterator<Item = f64>) -> f64 {
    let mut figures: Vec<f64> = figures.into_iter().collect();
    figures.sort_by(f64::total_cmp);
    match figures.len() {
        0 => f64::NAN,
        len if len % 2 == 1 => figures[len / 2],
        len => f64::midpoint(figures[len / 2 - 1], figures[len / 2]),
    }
}

/// Half of the distance between the least and the greatest, as a share of the median.
pub fn spread(figures: impl IntoIterator<Item = f64> + Clone) -> f64 {
    let (least, greatest) = figures
        .clone()
        .into_iter()
        .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), figure| (low.min(figure), high.max(figure)));
    (greatest - least) / 2.0 / median(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn middles_and_spreads() {
        assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
        assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
        assert_eq!(spread([90.0, 100.0, 110.0]), 0.1);
        let times = (1..=200).map(Duration::from_micros).collect();
        let sample = Sample::new(200, Duration::from_secs(2), times);
        assert_eq!((sample.rate, sample.p50, sample.p99), (100.0, micros(101), micros(199)));
    }

    fn micros(micros: u64) -> Duration {
        Duration::from_micros(micros)
    }
}
