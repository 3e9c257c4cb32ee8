//! Latencies in buckets that grow with them: at most 1.6 % wrong, a few kilobytes however many there are.

use std::time::Duration;

/// How many fell into which bucket, in microseconds.
#[derive(Clone, Debug, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
}

/// Buckets per power of two: 2^6.
const FINE: u32 = 6;

impl Histogram {
    /// Takes note of one.
    pub fn record(&mut self, latency: Duration) {
        let bucket = bucket(u64::try_from(latency.as_micros()).unwrap_or(u64::MAX));
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
    }

    /// Takes over another's.
    pub fn merge(&mut self, other: &Self) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (own, other) in self.counts.iter_mut().zip(&other.counts) {
            *own += other;
        }
        self.total += other.total;
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// What `share` of them (0 to 1) did not exceed; nothing for an empty one.
    pub fn quantile(&self, share: f64) -> Duration {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank, rounded up, of fewer than 2^52"
        )]
        let rank = ((self.total as f64 * share).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_micros(upper(bucket));
            }
        }
        Duration::ZERO
    }
}

/// Exact below 2^7; above, the first seven bits of the number decide.
fn bucket(us: u64) -> usize {
    let shift = (us | 1).ilog2().saturating_sub(FINE);
    usize::try_from((u64::from(shift) << FINE) + (us >> shift)).expect("at most 3800 buckets")
}

/// The largest number that falls into a bucket.
fn upper(bucket: usize) -> u64 {
    let shift = (bucket >> FINE).saturating_sub(1);
    let first = (bucket - (shift << FINE)) as u64;
    (first << shift) + ((1 << shift) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_hold_what_they_say() {
        for us in (0..100_000).chain([1 << 40, (1 << 40) + 12_345]) {
            let upper = upper(bucket(us));
            assert!(upper >= us && upper - us <= us / 64, "{us} {upper}");
            assert!(us == 0 || bucket(us) - bucket(us - 1) <= 1);
        }
    }

    #[test]
    fn quantiles_are_of_all_that_were_merged() {
        let (mut low, mut high) = (Histogram::default(), Histogram::default());
        assert_eq!(low.quantile(0.5), Duration::ZERO);
        for us in 1..=50 {
            low.record(Duration::from_micros(us));
            high.record(Duration::from_micros(us + 50));
        }
        low.merge(&high);
        assert_eq!(low.count(), 100);
        assert_eq!(low.quantile(0.5), Duration::from_micros(50));
        assert_eq!(low.quantile(0.99), Duration::from_micros(99));
        assert_eq!(low.quantile(1.0), Duration::from_micros(100));
    }
}
