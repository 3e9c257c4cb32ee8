//! A histogram of durations for the hot path: two relaxed additions per observation.
//!
//! `prometheus_client`'s own `Histogram` holds a mutex, which all connections would share in a fan-out.

use std::array;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;

use super::per_thread::PerThread;

/// Upper bounds of the buckets, in microseconds: a fan-out on one machine begins below a millisecond, and what takes
/// more than 10 s is a slow consumer.
const BOUNDS_US: [u64; 16] = [
    100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000,
    2_500_000, 5_000_000, 10_000_000,
];

/// How long something took, counted in buckets. Clones share their counts.
#[derive(Clone, Debug, Default)]
pub(super) struct Latency(Arc<PerThread<Counts>>);

#[derive(Debug, Default)]
struct Counts {
    /// One more than there are bounds: the last is for what is above them all.
    buckets: [AtomicU64; BOUNDS_US.len() + 1],
    sum_ns: AtomicU64,
}

impl Latency {
    /// Counts one duration.
    pub(super) fn observe(&self, latency: Duration) {
        let ns = u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|&bound| bound * 1000 < ns);
        let counts = self.0.own();
        counts.buckets[bucket].fetch_add(1, Relaxed);
        counts.sum_ns.fetch_add(ns, Relaxed);
    }

    fn sum_ns(&self) -> u64 {
        self.0.all().fold(0, |sum, counts| sum.wrapping_add(counts.sum_ns.load(Relaxed)))
    }

    fn bucket(&self, index: usize) -> u64 {
        self.0.all().map(|counts| counts.buckets[index].load(Relaxed)).sum()
    }
}

impl EncodeMetric for Latency {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let buckets: [(f64, u64); BOUNDS_US.len() + 1] = array::from_fn(|i| {
            let bound = BOUNDS_US.get(i).map_or(f64::INFINITY, |&us| Duration::from_micros(us).as_secs_f64());
            (bound, self.bucket(i))
        });
        // From the buckets as they were read, so that it equals the last of them whatever is counted meanwhile.
        let count = buckets.iter().map(|&(_, count)| count).sum();
        let sum = Duration::from_nanos(self.sum_ns()).as_secs_f64();
        encoder.encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_belongs_to_its_bucket() {
        let latency = Latency::default();
        for micros in [0, 99, 100, 101, 10_000_000, 10_000_001, u64::MAX] {
            latency.observe(Duration::from_micros(micros));
        }
        let counts: [u64; BOUNDS_US.len() + 1] = array::from_fn(|i| latency.bucket(i));
        assert_eq!(counts[..3], [3, 1, 0]);
        assert_eq!(counts[14..], [0, 1, 2]);
        assert_eq!(counts.iter().sum::<u64>(), 7);
    }

    #[test]
    fn counts_of_all_threads_add_up() {
        let latency = Latency::default();
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..10_000 {
                        latency.observe(Duration::from_millis(1));
                    }
                });
            }
        });
        assert_eq!(latency.bucket(3), 40_000);
        assert_eq!(Duration::from_nanos(latency.sum_ns()), Duration::from_secs(40));
    }
}
